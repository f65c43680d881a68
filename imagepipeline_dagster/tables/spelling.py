"""What a person may have meant who wrote a name that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

__all__ = ["did_you_mean"]

_COMPARED = 10_000  # names: comparing them takes about half a second
_SHOWN = 3


def did_you_mean(written: str, there: Iterable[str]) -> str:
    """Return a question, after a space, that names what is spelled alike; nothing if nothing is."""
    names: dict[str, str] = {}
    for name in islice(there, _COMPARED):
        names.setdefault(_plain(name), name)
    close = difflib.get_close_matches(_plain(written), names, n=_SHOWN)
    return f" Did you mean {' or '.join(repr(names[each]) for each in close)}?" if close else ""


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
