"""Names as people write them: what they may have meant, and what of them cannot be seen."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from itertools import islice

_COMPARED = 10_000  # names: comparing them takes about half a second
_SHOWN = 3


def did_you_mean(written: str, there: Iterable[str]) -> str:
    """Return a question, after a space, that names what is spelled alike; nothing if nothing is."""
    names: dict[str, str] = {}
    for name in islice(there, _COMPARED):
        names.setdefault(look_alike(name), name)
    close = difflib.get_close_matches(look_alike(written), names, n=_SHOWN)
    return f" Did you mean {' or '.join(quoted(names[name]) for name in close)}?" if close else ""


def listed(names: Iterable[str]) -> str:
    """Return names as a message lists them: in quotes, with commas."""
    return ", ".join(map(quoted, names))


def visible_name(name: str) -> str:
    """Return a name composed (NFC), its blanks plain, without what a person cannot see."""
    if name.isascii() and name.isprintable():
        return name.strip()
    seen = (c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    return "".join(" " if c.isspace() else c for c in seen).strip()


def quoted(*names: str) -> str:
    """Return a name in quotes, with what a person cannot see in it spelled out; or a path of them.

    A row is named so: 'spring' / 'a1'.
    """
    return " / ".join(
        repr(name) if unicodedata.is_normalized("NFC", name) else ascii(name) for name in names
    )


def is_blank(text: str) -> bool:
    """Tell whether a text has nothing that a person can see."""
    return not (text.strip() if text.isascii() else visible_name(text))


def look_alike(name: str) -> str:
    """Return what is the same in names that a person would take for one."""
    plain = visible_name(name).casefold().replace("_", " ").replace("-", " ")
    return " ".join(plain.split())
