"""What a person is told, by which hook, and what was told already: each once until it changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

_REMEMBERED = 30  # a cursor is stored with every tick


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What a tick told: `said` has the state that was told last, by what it is about.

    `done` news were told, or needed not be. `error` is what the hook raised; it was not called
    again after that.
    """

    said: Mapping[str, str]
    told: int
    done: int
    error: Exception | None


def tell(news: Iterable[News], said: Mapping[str, str], notify: Notify) -> Telling:
    """Give those alerts to the hook that were not told in their present state."""
    remembered, told, done = dict(said), 0, 0
    error: Exception | None = None
    for item in news:
        if isinstance(item, str):
            remembered.pop(_short(item), None)
        elif remembered.get(_short(item.about)) != _short(item.state):
            try:
                notify(item)
            except Exception as raised:  # noqa: BLE001 - the hook is the user's
                error = raised
                break
            # At the end: what was told last is forgotten last.
            remembered.pop(_short(item.about), None)
            remembered[_short(item.about)] = _short(item.state)
            told += 1
        done += 1
    latest = dict(list(remembered.items())[-_REMEMBERED:])
    return Telling(said=latest, told=told, done=done, error=error)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
