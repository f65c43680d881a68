"""Thumbnails and contact sheets: small enough to travel inside an event's metadata.

A sheet goes into Markdown as a `data:` picture, so its size is a budget in bytes and not a wish.
"""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from PIL import Image, ImageDraw, ImageFont, ImageOps

from imagepipeline_dagster.markup import markdown_text

_THUMBNAIL_SIDE = 128  # pixels, the longest


def thumbnail(image: Image.Image) -> bytes:
    """Return a picture's thumbnail as WebP; transparency becomes white.

    `image` is decoded, in any mode, and stays as it is. A smaller one keeps its size.
    """
    mode = "RGBA" if image.has_transparency_data else "RGB"
    scale = min(1.0, _THUMBNAIL_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Converting to the same mode would copy the whole picture.
    whole = image if image.mode == mode else image.convert(mode)
    small = whole.resize(size, Image.Resampling.LANCZOS, reducing_gap=2)
    if mode == "RGBA":
        white = Image.new("RGBA", size, "white")
        small = Image.alpha_composite(white, small).convert("RGB")
    return _webp(small, quality=80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One picture of a contact sheet.

    Attributes:
        thumbnail: an encoded picture; None draws a grey box that says `mark`.
        caption: one line below the picture, in any script and of any length.
        mark: a verdict or a reason, as 'rejected: blank'. Its first word gives the colour.
        blurred: whether the picture is shown as a blur that nothing can be read from.
    """

    thumbnail: bytes | None
    caption: str
    mark: str | None = None
    blurred: bool = False


_MOST_TILES = 64
_COLUMNS = 8
_LONGEST_TEXT = 200  # characters
_SIZES = {80: 1.0, 70: 0.85, 60: 0.78, 50: 0.7, 40: 0.61, 30: 0.5}
"""WebP's qualities, and the least that a sheet takes at each, of its bytes at the first."""
_SHEET_METHOD = 2  # a third of the time of WebP's usual 4, and 4 % more bytes

_GAP = 6
_BAR_HEIGHT = 15
_CAPTION_HEIGHT = 17
_FONT_SIZE = 12

_SHEET_COLOUR = "#ffffff"
_MAT_COLOUR = "#e3e6eb"
_TEXT_COLOUR = "#2b3440"
_MARK_COLOURS = {"kept": "#1f7a4d", "rejected": "#b3261e", "quarantined": "#9a5b00"}
_OTHER_MARK_COLOUR = "#4b5563"


def contact_sheet(
    tiles: Sequence[Tile],
    *,
    count: int | None = None,
    byte_budget: int = 33_000,
    tile_side: int = 112,
    best_quality: int = 80,
) -> bytes:
    """Return the tiles as one WebP picture of at most `byte_budget` bytes.

    The sheet first gives up quality and then tiles: the last one then says how many are left out.
    The same tiles give the same bytes.

    Args:
        tiles: in the order shown, row by row; more than 64 are never shown.
        count: the pictures that there are; the tiles' own number unless given.
        byte_budget: the largest size, in bytes. The default leaves room for text in an event's
            48 KB of metadata after base64.
        tile_side: side of a picture's square, in pixels.
        best_quality: WebP's, where the budget allows it.

    Raises:
        ValueError: when the budget is too small for a single tile.
    """
    listed = tiles or [Tile(thumbnail=None, caption="", mark="no pictures")]
    drawn = [_draw_tile(tile, tile_side) for tile in listed[:_MOST_TILES]]
    places, pictures = len(drawn), count or len(listed)
    while places:
        shown = drawn[:places]
        if places < pictures:
            more = f"+{pictures - places + 1:,} more"
            shown[-1] = _draw_tile(Tile(thumbnail=None, caption="", mark=more), tile_side)
        sheet = _lay_out(shown)
        encoded = _encoded(sheet, best_quality, byte_budget)
        if len(encoded) <= byte_budget:
            return encoded
        # A tile's bytes tell how many tiles would fit; whole rows of them, if there are rows.
        places = min(places - 1, places * byte_budget // len(encoded))
        if places > _COLUMNS:
            places -= places % _COLUMNS
    raise ValueError(f"a contact sheet does not fit into {byte_budget} bytes")


def _encoded(sheet: Image.Image, best_quality: int, byte_budget: int) -> bytes:
    """Return the sheet at the best quality that fits, or at the least."""
    encoded = _webp(sheet, quality=best_quality, method=_SHEET_METHOD)
    size = len(encoded) / _SIZES[best_quality]
    lower = [quality for quality in _SIZES if quality < best_quality]
    for quality in lower:
        if len(encoded) <= byte_budget:
            break
        # Encoding costs more than all else about a sheet: not where it cannot fit.
        if size * _SIZES[quality] <= byte_budget or quality == lower[-1]:
            encoded = _webp(sheet, quality=quality, method=_SHEET_METHOD)
    return encoded


def _lay_out(drawn: Sequence[Image.Image]) -> Image.Image:
    across = min(_COLUMNS, len(drawn))
    down = -(-len(drawn) // _COLUMNS)
    width, height = drawn[0].size
    sheet = Image.new(
        "RGB",
        (_GAP + across * (width + _GAP), _GAP + down * (height + _GAP)),
        _SHEET_COLOUR,
    )
    for place, tile in enumerate(drawn):
        row, column = divmod(place, _COLUMNS)
        sheet.paste(tile, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    return sheet


def _draw_tile(tile: Tile, side: int) -> Image.Image:
    """Return the tile as a picture `side` wide: a square, its mark over the foot, the caption."""
    drawn = Image.new("RGB", (side, side + _CAPTION_HEIGHT), _SHEET_COLOUR)
    pencil = ImageDraw.Draw(drawn)

    def write(lines: Sequence[str], middle: float, colour: str) -> None:
        at, text = (side / 2, middle), "\n".join(lines)
        pencil.multiline_text(at, text, colour, _font(), anchor="mm", align="center")

    picture = _picture(tile, side)
    pencil.rectangle((0, 0, side - 1, side - 1), fill=_MAT_COLOUR)
    if picture is None:
        reason = _wrapped(_drawable(tile.mark or "no picture"), side - 10, lines=6)
        write(reason, side / 2, _TEXT_COLOUR)
    else:
        drawn.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        if tile.mark:
            mark = _drawable(tile.mark)
            colour = _MARK_COLOURS.get(mark.split(":")[0], _OTHER_MARK_COLOUR)
            lines = _wrapped(mark, side - 4, lines=2)
            height = _BAR_HEIGHT * len(lines)
            pencil.rectangle((0, side - height, side - 1, side - 1), fill=colour)
            write(lines, side - height / 2, "white")
    write([_cut(_drawable(tile.caption), side)], side + _CAPTION_HEIGHT / 2, _TEXT_COLOUR)
    return drawn


def _picture(tile: Tile, side: int) -> Image.Image | None:
    if tile.thumbnail is None:
        return None
    picture = _decoded(tile.thumbnail, side)
    if tile.blurred:
        # A few dozen averages are all that is left, so no filter can bring the picture back.
        averages = picture.resize((6, 6), Image.Resampling.BOX)
        return averages.resize(picture.size, Image.Resampling.BICUBIC)
    return picture


# A set's pictures are shown when they are bought, and again when they have their verdicts.
@lru_cache(maxsize=_MOST_TILES)
def _decoded(thumbnail: bytes, side: int) -> Image.Image:
    with Image.open(io.BytesIO(thumbnail)) as opened:
        return ImageOps.contain(opened.convert("RGB"), (side, side), Image.Resampling.LANCZOS)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_SIZE)


def _drawable(text: str) -> str:
    """Return the beginning of the text as one line of the letters that Pillow's own font has.

    They are ASCII; '?' stands for all others. Other fonts differ between machines, and so would the
    sheets.
    """
    parted = unicodedata.normalize("NFKD", text[:_LONGEST_TEXT])
    letters = "".join(c for c in parted if not unicodedata.combining(c))
    visible = (" " if unicodedata.category(c)[0] in "CZ" else c for c in letters)
    return " ".join("".join(visible).split()).encode("ascii", "replace").decode()


def _cut(text: str, width: float) -> str:
    """Return the text, cut to `width` pixels with an ellipsis."""
    font = _font()
    if font.getlength(text) <= width:
        return text
    end = next(
        (n for n in range(len(text) - 1, 0, -1) if font.getlength(f"{text[:n]}…") <= width), 0
    )
    return f"{text[:end].rstrip()}…"


@lru_cache(maxsize=256)
def _wrapped(text: str, width: float, *, lines: int) -> tuple[str, ...]:
    """Return the text broken at blanks into at most `lines` lines of `width` pixels."""
    font = _font()
    wrapped = [""]
    for word in text.split():
        longer = f"{wrapped[-1]} {word}".strip()
        if font.getlength(longer) <= width or len(wrapped) == lines or not wrapped[-1]:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    return tuple(_cut(line, width) for line in wrapped)


def _webp(image: Image.Image, *, quality: int, method: int = 4) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=quality, method=method)
    return encoded.getvalue()


def markdown_picture(webp: bytes, alt: str) -> str:
    """Return Markdown that shows a WebP picture without a file; `alt` is taken as plain text."""
    encoded = base64.b64encode(webp).decode()
    return f"![{markdown_text(alt, longest=_LONGEST_TEXT)}](data:image/webp;base64,{encoded})"
