"""What a person is told, and the hook that tells it."""

from __future__ import annotations

import hashlib
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

    @property
    def subject(self) -> str:
        """A short name of what it is about, to be remembered."""
        return subject_of(self.about)

    @property
    def digest(self) -> str:
        """A short name of its state."""
        return _short(self.state)


Notify = Callable[[Alert], None]
"""Tells an alert to people; what it raises is shown on the tick, and the alert is told again."""


def subject_of(about: str) -> str:
    """Return the short name of what alerts are about."""
    return _short(about)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
