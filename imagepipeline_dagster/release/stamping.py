"""A picture's file with marks of its origin; its pixels are not touched.

The container is edited: a PNG gets chunks, a JPEG segments, a WebP file chunks at its end. What the
file says already stays. A file that carries content credentials (C2PA) stays as it is: whoever
signed it signed all of its bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.purchase.pieces import PNG, TEXTS_OF_PNG, Piece, pieces_of
from imagepipeline_dagster.release.marks import LINEAGE_NAMESPACE, Marks

_XMP_IN_PNG = b"XML:com.adobe.xmp\0"
_PARAMETERS = b"parameters\0"
_XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_EXIF_IN_JPEG = b"Exif\0\0"
_LONGEST_SEGMENT = 0xFFFF - 2  # bytes of a JPEG's segment, without its length

_ALPHA, _EXIF, _XMP = 0x10, 0x08, 0x04  # flags of WebP's VP8X chunk


class Mark(StrEnum):
    """What a picture's file says of its origin."""

    STAMPED = "stamped"
    SIGNED = "signed"
    CREDENTIALS = "credentials"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Stamped:
    """A picture's file, and what it says of its origin.

    Attributes:
        pieces: its bytes. They are joined where they are written: a copy of each file takes as long
            as its SHA-256.
        mark: what it says.
    """

    pieces: tuple[bytes | memoryview, ...]
    mark: Mark

    @property
    def data(self) -> bytes:
        """The file in one piece."""
        return b"".join(self.pieces)


class _CannotBeStamped(ValueError):
    """The container is broken or unusual; the file stays as it is."""


class _HasCredentials(ValueError):
    """The file is signed; it stays as it is."""


@dataclass(frozen=True, slots=True)
class _Edit:
    """Bytes that come into the place of others."""

    start: int
    end: int
    data: bytes


def stamp(row: ModeratedImage, data: bytes, *, content_producer: str | None = None) -> Stamped:
    """Return the picture's file with the marks of its row, or as it is where that cannot be.

    A file that has our marks stays as it is.
    """
    edits_of = _EDITS.get(row.format or "")
    if edits_of is None:
        return Stamped((data,), Mark.NONE)
    try:
        edits = edits_of(data, Marks.of(row, content_producer=content_producer))
        return Stamped(tuple(_edited(memoryview(data), edits)), Mark.STAMPED)
    except _HasCredentials:
        return Stamped((data,), Mark.CREDENTIALS)
    except _CannotBeStamped:
        return Stamped((data,), Mark.NONE)


def _edited(data: memoryview, edits: Iterator[_Edit]) -> Iterator[bytes | memoryview]:
    at = 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        yield data[at : edit.start]
        yield edit.data
        at = edit.end
    yield data[at:]


def _packet(marks: Marks, former: bytes | None, *, longest: int | None = None) -> bytes | None:
    """Return the file's new XMP packet, None where it has our marks already.

    Where the prompts are too long for the container, the packet says all but them.
    """
    if former is not None and LINEAGE_NAMESPACE.encode() in former:
        return None
    if former is not None and b"dcterms:provenance" in former:
        raise _HasCredentials  # they are elsewhere, and the packet names the place
    for with_prompts in (True, False):
        if former is None:
            packet: bytes | None = marks.packet(with_prompts=with_prompts)
        else:
            packet = marks.added_to(former, with_prompts=with_prompts)
        if packet is not None and (longest is None or len(packet) <= longest):
            return packet
    raise _CannotBeStamped


# PNG


def _edits_of_png(data: bytes, marks: Marks) -> Iterator[_Edit]:
    pieces = list(pieces_of(data, "PNG"))
    kinds = {piece.kind for piece in pieces}
    is_whole = b"IEND" in kinds and pieces[-1].end <= len(data)
    if data[:16] != PNG + b"\0\0\0\x0dIHDR" or not is_whole:
        raise _CannotBeStamped
    if b"caBX" in kinds:
        raise _HasCredentials
    texts = [piece for piece in pieces if piece.kind in TEXTS_OF_PNG]
    xmp = next((text for text in texts if data.startswith(_XMP_IN_PNG, text.content.start)), None)
    packet = _packet(marks, _xmp_of_png(data[xmp.content]) if xmp else None)
    if packet is None:
        return
    after_header = pieces[0].end
    start, end = (xmp.start, xmp.end) if xmp else (after_header, after_header)
    yield _Edit(start, end, _png_chunk(b"iTXt", _XMP_IN_PNG + b"\0\0\0\0" + packet))
    if not any(data.startswith(_PARAMETERS, text.content.start) for text in texts):
        yield _Edit(after_header, after_header, _png_text(_PARAMETERS, marks.parameters))


def _xmp_of_png(content: bytes) -> bytes:
    flags = content[len(_XMP_IN_PNG) : len(_XMP_IN_PNG) + 2]
    if flags != b"\0\0":
        raise _CannotBeStamped  # it is packed, which XMP's own rules forbid
    return content[len(_XMP_IN_PNG) + 2 :].split(b"\0", 2)[-1]


def _png_text(keyword: bytes, text: str) -> bytes:
    try:
        return _png_chunk(b"tEXt", keyword + text.encode("latin-1"))
    except UnicodeEncodeError:
        return _png_chunk(b"iTXt", keyword + b"\0\0\0\0" + text.encode())


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


# JPEG


def _edits_of_jpeg(data: bytes, marks: Marks) -> Iterator[_Edit]:
    xmp = exif = None
    first = 2  # where the segments of the file's own format end, which have to come first
    for piece in list(_before_pixels(data)):
        if piece.kind == b"APP11" and data.startswith(b"JP", piece.content.start):
            raise _HasCredentials
        if piece.kind == b"APP0" and piece.start == first:
            first = piece.end
        if piece.kind == b"APP1" and data.startswith(_EXIF_IN_JPEG, piece.content.start):
            exif = piece
            first = piece.end if piece.start == first else first
        if piece.kind == b"APP1" and data.startswith(_XMP_IN_JPEG, piece.content.start):
            xmp = piece
    former = data[xmp.content][len(_XMP_IN_JPEG) :] if xmp else None
    packet = _packet(marks, former, longest=_LONGEST_SEGMENT - len(_XMP_IN_JPEG))
    if packet is None:
        return
    comment = _EXIF_IN_JPEG + _exif_of(marks.parameters)
    if exif is None and len(comment) <= _LONGEST_SEGMENT:
        yield _Edit(first, first, _jpeg_segment(comment))
    start, end = (xmp.start, xmp.end) if xmp else (first, first)
    yield _Edit(start, end, _jpeg_segment(_XMP_IN_JPEG + packet))


def _before_pixels(data: bytes) -> Iterator[Piece]:
    """Yield a JPEG's segments before its pixels."""
    if data[:2] != b"\xff\xd8":
        raise _CannotBeStamped
    end = 2
    for piece in pieces_of(data, "JPEG"):
        if data[end : piece.start].strip(b"\xff"):  # fillers alone may stand between two
            raise _CannotBeStamped
        if piece.kind == b"\xda":
            return
        end = piece.end
        if not piece.content.start <= end <= len(data):
            raise _CannotBeStamped
        yield piece
    raise _CannotBeStamped


def _jpeg_segment(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def _exif_of(comment: str) -> bytes:
    """Return EXIF with this user comment alone, as viewers of generated pictures expect it."""
    content = b"UNICODE\0" + comment.encode("utf-16-be")
    header = b"MM\0*" + struct.pack(">I", 8)
    # Each directory: the number of its entries, the entries of 12 bytes, and that none follows.
    of_the_file = struct.pack(">HHHIII", 1, 0x8769, 4, 1, 8 + 18, 0)
    of_exif = struct.pack(">HHHIII", 1, 0x9286, 7, len(content), 8 + 2 * 18, 0)
    return header + of_the_file + of_exif + content


# WebP


def _edits_of_webp(data: bytes, marks: Marks) -> Iterator[_Edit]:
    *pieces, end = pieces_of(data, "WEBP")
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or end.start > len(data):
        raise _CannotBeStamped
    if not pieces or pieces[-1].end != end.start:
        raise _CannotBeStamped
    by_kind = {piece.kind: piece for piece in reversed(pieces)}
    if b"C2PA" in by_kind:
        raise _HasCredentials
    xmp = by_kind.get(b"XMP ")
    packet = _packet(marks, data[xmp.content] if xmp else None)
    if packet is None:
        return
    place = xmp or end
    edits = [_Edit(place.start, place.end, _webp_chunk(b"XMP ", packet))]
    flags = _XMP
    if b"EXIF" not in by_kind:
        edits.insert(0, _Edit(end.start, end.end, _webp_chunk(b"EXIF", _exif_of(marks.parameters))))
        flags |= _EXIF
    edits.append(_webp_header(data, pieces[0], flags))
    grown = sum(len(edit.data) - (edit.end - edit.start) for edit in edits)
    yield _Edit(4, 8, struct.pack("<I", end.start - 8 + grown))
    yield from edits


def _webp_header(data: bytes, first: Piece, flags: int) -> _Edit:
    """Return the edit that lets the file's header say what more there is."""
    content = data[first.content]
    match first.kind:
        case b"VP8X" if len(content) == 10:
            at = first.content.start
            return _Edit(at, at + 1, bytes([content[0] | flags]))
        case b"VP8 " if content[3:6] == b"\x9d\x01\x2a" and len(content) > 10:
            width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", content, 6))
        case b"VP8L" if content[:1] == b"\x2f" and len(content) > 5:
            bits = int.from_bytes(content[1:5], "little")
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
            flags |= _ALPHA if bits >> 28 & 1 else 0
        case _:
            raise _CannotBeStamped
    if not width or not height:
        raise _CannotBeStamped
    sizes = b"".join((size - 1).to_bytes(3, "little") for size in (width, height))
    header = _webp_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + sizes)
    return _Edit(first.start, first.start, header)


def _webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


_EDITS: Mapping[str, Callable[[bytes, Marks], Iterator[_Edit]]] = {
    "PNG": _edits_of_png,
    "JPEG": _edits_of_jpeg,
    "WEBP": _edits_of_webp,
}
