"""Which alerts were told already: each is told once until it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from imagepipeline_dagster.alerts.alert import Alert, Notify


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What a tick told: `said` has the state that was told last, by subject.

    `error` is what the hook raised; it was not called again after that.
    """

    said: Mapping[str, str]
    told: int
    error: Exception | None = None


def tell(alerts: Iterable[Alert], said: Mapping[str, str], notify: Notify) -> Telling:
    """Give those alerts to the hook that were not told in their present state."""
    remembered, told = dict(said), 0
    for alert in alerts:
        if remembered.get(alert.subject) == alert.digest:
            continue
        try:
            notify(alert)
        except Exception as error:  # noqa: BLE001 - the hook is the user's
            return Telling(said=remembered, told=told, error=error)
        # At the end: what was told last is forgotten last.
        remembered.pop(alert.subject, None)
        remembered[alert.subject] = alert.digest
        told += 1
    return Telling(said=remembered, told=told)
