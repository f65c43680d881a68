"""Alerts are told once until they change, and a webhook's address stays secret."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import dagster as dg
import pytest

from imagepipeline_dagster import Alert, slack_webhook
from imagepipeline_dagster.alerts.alert import News, tell
from imagepipeline_dagster.alerts.runs import news_of_run
from imagepipeline_dagster.alerts.slack import AlertUndelivered
from tests.alerts.receivers import receiving

_ALERT: dict[str, Any] = {"title": "t", "text": "x", "about": "budget"}


def _run(what: str, error: str | None, *checks: str) -> News:
    return news_of_run(run_id="r", job="j", what=what, error=error, failed_checks=checks, link=None)


def test_an_alert_is_told_again_once_it_changed() -> None:
    """The same state is told once; another state is told, and another subject too."""
    heard: list[str] = []
    said: dict[str, str] = {}
    for about, state in (("a", "1"), ("a", "1"), ("b", "1"), ("a", "2"), ("a", "1")):
        alert = Alert(title=f"{about}{state}", text="", about=about, state=state)
        said = dict(tell([alert], said, lambda alert: heard.append(alert.title)).said)
    assert heard == ["a1", "b1", "a2", "a1"]


def test_a_hook_that_fails_is_asked_again() -> None:
    """What was told before the failure is remembered, and what comes after it is not."""

    def notify(alert: Alert) -> None:
        if alert.title == "2":
            raise OSError("no network")

    alerts = [Alert(title=name, text="", about=name, state="") for name in "123"]
    telling = tell(alerts, {}, notify)
    assert (telling.told, str(telling.error)) == (1, "no network")
    assert tell(alerts, telling.said, lambda _: None).told == 2


def test_a_run_without_trouble_ends_what_was_said() -> None:
    """The same failure of a set is told once, until a run of it went well; the cursor is small."""
    heard: list[str] = []
    runs = [
        _run("spring", "no disk"),
        _run("spring", "no disk"),
        _run("summer", None, "check: bad"),
        _run("spring", None),
        _run("spring", "no disk"),
        *(_run(f"set {number}", "no disk") for number in range(100)),
    ]
    telling = tell(runs, {}, lambda alert: heard.append(alert.title))
    assert heard[:3] == [
        "j: a run of spring failed",
        "j: 1 checks failed for summer",
        "j: a run of spring failed",
    ]
    assert (len(heard), telling.done) == (103, len(runs))
    assert len(str(telling.said)) < 1000


def test_slack_gets_text_and_nobody_gets_the_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Names cannot mention a channel or forge a link; no log and no error has the address."""
    caplog.set_level(logging.DEBUG)
    notify = slack_webhook(dg.EnvVar("OPS_SLACK_URL"))
    alert = Alert(
        **_ALERT, state="", facts={"set": "<!channel> & <http://x|y>"}, link="http://ui/1"
    )
    with pytest.raises(AlertUndelivered, match="not set"):
        notify(alert)
    with receiving() as receiver:
        monkeypatch.setenv("OPS_SLACK_URL", receiver.url)
        notify(alert)
        receiver.status = 404
        with pytest.raises(AlertUndelivered, match="status 404") as refused:
            notify(alert)
    with pytest.raises(AlertUndelivered, match="cannot be reached") as unreached:
        notify(alert)

    (text,) = receiver.texts
    assert "&lt;!channel&gt; &amp; &lt;http://x|y&gt;" in text
    assert "<http://ui/1|Open in Dagster>" in text
    shown = "".join([*traceback.format_exception(refused.value), str(unreached.value)])
    assert "s3cr3t" not in shown + caplog.text
