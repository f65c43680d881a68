"""What a person is told, and the hook that tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that a person should know.

    Attributes:
        title: one line.
        text: what it means, and what to do about it.
        facts: values by their names, in the order to show them.
        link: the page of Dagster's UI, where its address is known.
        about: what it is about; there is at most one alert about it at a time.
        state: how that stands. The alert is told again once this changes, and not before.
    """

    title: str
    text: str
    facts: Mapping[str, str] = field(default_factory=dict)
    link: str | None = None
    about: str
    state: str


Notify = Callable[[Alert], None]
"""Tells an alert to people; what it raises is shown on the tick, and the alert is told again."""

News = Alert | str
"""An alert, or what all is well with: the next alert about that is told again."""
