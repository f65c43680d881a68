"""Prompt-set names as Dagster partition keys, and partition keys as path parts.

Any text names a prompt set. Dagster refuses some texts as partition keys, and file systems more:
what they cannot take is percent-quoted, everything else stays as people wrote it.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

# Dagster refuses "..." (its ranges) and \a \b \f \n \r \t \v \0. Every control character is quoted,
# because none can be seen in the UI; so are lone surrogates, which no database takes. A "%" which
# looks like quoting is quoted itself: that is what makes it reversible.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]|(?<=\.\.)\.|%(?=[0-9A-Fa-f]{2})")
_QUOTING = re.compile(r"(?:%[0-9A-Fa-f]{2})+")

# Dagster takes a run with an empty key for one without a partition. No name's key is spelled like
# this: a bracket needs no quoting, and a "%28" that stands in a name becomes "%2528".
_EMPTY_KEY = "%28empty%29"

_LONGEST_PART = 200  # bytes, of the 255 that file systems give a name: room for endings
_DIGITS = 16  # of SHA-256 in hex, where a part needs telling apart
_ENDS_LIKE_A_DIGEST = re.compile(rf"-[0-9a-f]{{{_DIGITS}}}\Z")
_RESERVED_ON_WINDOWS = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z)")
_CUT_QUOTING = re.compile(r"%[0-9A-F]?\Z")


def partition_key(prompt_set: str) -> str:
    """Return the partition key of a prompt set: its name, with %XX for what Dagster cannot take.

    No two names share a key; `prompt_set_of` is the inverse.
    """
    return _UNFIT.sub(_quoted, prompt_set) or _EMPTY_KEY


def _quoted(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found.group().encode("utf-8", "surrogatepass"))


def prompt_set_of(partition_key: str) -> str:
    """Return the name of the prompt set which has this partition key.

    A key that a person typed and no name has is read in the same way, as far as it can be.
    """
    return "" if partition_key == _EMPTY_KEY else _QUOTING.sub(_unquoted, partition_key)


def _unquoted(found: re.Match[str]) -> str:
    try:
        return bytes.fromhex(found.group().replace("%", "")).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return found.group()


def path_part(partition_key: str) -> str:
    """Return one safe path part for a key: ASCII, at most 200 bytes, no leading dot.

    Letters, digits and "._-" stay, the rest is percent-quoted as UTF-8: `50% off` becomes
    `50%25%20off`. A digest of the key is appended where the quoted key alone would not do: it is
    too long and was cut, it ends as if it had a digest, or Windows keeps the name for a device.
    `Spring` and `spring` stay apart wherever the file system tells them apart.

    Raises:
        ValueError: for an empty key, which `partition_key` never returns.
    """
    if not partition_key:
        raise ValueError("a partition key is never empty")
    # Every character outside quote's own always-safe set is quoted; "~" is in that set.
    part = quote(partition_key, safe="", errors="surrogatepass").replace("~", "%7E")
    # A leading dot hides a file from people, a leading underscore from Arrow's and Spark's readers;
    # Windows drops a trailing dot.
    if part[0] in "._":
        part = f"%{ord(part[0]):02X}{part[1:]}"
    if part[-1] == ".":
        part = f"{part[:-1]}%2E"
    needs_digest = (
        len(part) > _LONGEST_PART
        or _ENDS_LIKE_A_DIGEST.search(part)
        or _RESERVED_ON_WINDOWS.match(part.lower())
    )
    if not needs_digest:
        return part
    digest = hashlib.sha256(partition_key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_CUT_QUOTING.sub('', part[: _LONGEST_PART - _DIGITS - 1])}-{digest[:_DIGITS]}"
