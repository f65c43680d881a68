"""The lines of a text file, in whatever encoding it is and however its lines end."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from imagepipeline_dagster.tables.transfer.file_rows import RowUnreadable
from imagepipeline_dagster.tables.transfer.unpacking import UNPACKING_ERRORS, first_bytes, unpacked

SAMPLE_BYTES = 1 << 16
"""How much of a file is looked at to find out how it is written."""

_MARK = "\ufeff"
# That of UTF-32 begins with that of UTF-16.
_WIDE = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_LIKELY = ("cp1252", "cp1251", "shift_jis", "gb18030")
# Python keeps bytes that are no text as these halves of characters.
_NO_TEXT = re.compile("[\udc80-\udcff]")


def text_lines(path: Path, encoding: str | None = None) -> Iterator[str]:
    """Yield the lines with their ends, without the marks that a file may begin with.

    Raises:
        RowUnreadable: at the line that is not text in this encoding, or cannot be unpacked.
    """
    number = 0
    try:
        sample = first_bytes(path, SAMPLE_BYTES)
        name = encoding or _encoding_of(sample)
        with closing(unpacked(path)) as raw:
            # Surrogates are kept, to know the line and the byte at fault.
            text = io.TextIOWrapper(
                raw, name, errors="surrogateescape", newline=_line_end(sample, name)
            )
            for number, read in enumerate(text, start=1):
                line = read.lstrip(_MARK) if number == 1 else read
                if not line.isascii() and (broken := _NO_TEXT.search(line)):
                    raise RowUnreadable(f"line {number}", _undecodable(line, broken, name))
                yield line
    except (UnicodeError, LookupError) as error:
        name = encoding or "UTF-8"
        reason = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
        raise RowUnreadable(f"line {number + 1}", f"is not {name} text: {reason}") from None
    except UNPACKING_ERRORS as error:
        raise RowUnreadable(f"line {number + 1}", f"cannot be unpacked: {error}") from error


def _encoding_of(sample: bytes) -> str:
    for mark, name in _WIDE.items():
        if sample.startswith(mark):
            return name
    if sample.count(0) > len(sample) // 4:
        order = "be" if sample.startswith(b"\0") else "le"
        width = 32 if sample.count(0) > len(sample) // 2 else 16
        likely = f"it looks like UTF-{width}: --encoding utf-{width}-{order}"
        raise RowUnreadable("line 1", f"is full of NUL characters; {likely}")
    return "utf-8"


def _line_end(sample: bytes, encoding: str) -> str:
    """Return what ends a line: old Macs wrote a carriage return alone."""
    start = sample.decode(encoding, "replace")
    return "\r" if "\r" in start and "\n" not in start else "\n"


def _undecodable(line: str, broken: re.Match[str], encoding: str) -> str:
    raw = line.encode(encoding, "surrogateescape")
    place = len(line[: broken.start()].encode(encoding)) + 1
    problem = f"is not {encoding.upper()} text (byte 0x{raw[place - 1]:02x} at position {place})"
    likely = [name for name in _LIKELY if _reads(raw, name)]
    if not likely:
        return f"{problem}; save the file as UTF-8"
    around = raw[max(0, place - 12) : place + 12].decode(likely[0], "replace").strip()
    others = f" (or {', '.join(likely[1:])})" if likely[1:] else ""
    return (
        f"{problem}; save the file as UTF-8, or say its encoding: --encoding {likely[0]}{others} "
        f"would read …{around}…"
    )


def _reads(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
