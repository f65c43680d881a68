"""A hook that tells alerts to a channel of Slack, by an incoming webhook."""

from __future__ import annotations

import html
from typing import Protocol, runtime_checkable
from urllib.request import getproxies, proxy_bypass

import httpx

from imagepipeline_dagster.alerts.alert import Alert, Notify
from imagepipeline_dagster.errors import CorrectableError

_SECONDS = 10.0


class AlertUndelivered(CorrectableError):
    """An alert did not reach its receiver; the webhook's address, a secret, is not named."""


@runtime_checkable
class Variable(Protocol):
    """A variable of the environment, as `dagster.EnvVar`."""

    def get_value(self) -> str | None:
        """Return its value now."""


def slack_webhook(url: str | Variable) -> Notify:
    """Return a hook that posts alerts to an incoming webhook of Slack.

    `url` is a secret: give `dagster.EnvVar("SLACK_WEBHOOK_URL")`, which is read when an alert is
    told, and stands in no definition.
    """

    def notify(alert: Alert) -> None:
        address = url.get_value() if isinstance(url, Variable) else url
        if not address:
            raise AlertUndelivered("The variable of the Slack webhook is not set.")
        _post(address, {"text": _message(alert)})

    return notify


def _message(alert: Alert) -> str:
    lines = [f"*{_plain(alert.title)}*", _plain(alert.text)]
    lines += [f"• {_plain(name)}: {_plain(value)}" for name, value in alert.facts.items()]
    lines += [f"<{alert.link}|Open in Dagster>"] if alert.link else []
    return "\n".join(lines)


def _plain(text: str) -> str:
    # Texts come from tables: a name must not call a channel together, or show a link as another.
    return html.escape(text, quote=False)


def _post(address: str, message: dict[str, str]) -> None:
    try:
        request = httpx.Request("POST", address, json=message)
        request.extensions["timeout"] = httpx.Timeout(_SECONDS).as_dict()
        host, scheme = request.url.host, request.url.scheme
        proxy = None if proxy_bypass(host) else getproxies().get(scheme)
        # A client would log the address of each request.
        with httpx.HTTPTransport(proxy=proxy) as transport:
            response = transport.handle_request(request)
            response.read()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = f"Slack's webhook cannot be reached: {type(error).__name__}."
    else:
        if response.is_success:
            return
        problem = f"Slack's webhook answered with status {response.status_code}."
    raise AlertUndelivered(problem)
