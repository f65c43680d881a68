"""What a stage tells the UI: row count, columns, and pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa

from imagepipeline_dagster.defs.column_lineage import ROW_TYPES, column_lineage
from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.markup import markdown_text
from imagepipeline_dagster.previews import Tile, contact_sheet, markdown_picture
from imagepipeline_dagster.purchase.thumbnails import stored_thumbnails
from imagepipeline_dagster.rows import arrow_schema
from imagepipeline_dagster.storage.contract import Storage

if TYPE_CHECKING:
    from imagepipeline_dagster.purchase.images import GeneratedImage


_TILES = 64
_TILES_OF_A_SMALL_SHEET = 6
_SMALL_SHEET_BYTES = 5_000
_TABLE_BYTES = 20_000
# An event's metadata stays under 48 kB: as base64 this leaves room for the columns' descriptions.
_SHEET_BYTES = 25_000


def table_metadata(row_count: int, *, started: float) -> dict[str, Any]:
    """Return what every stage says of a set's table; `started` is of the monotonic clock."""
    # Not its `row_count`: Dagster shows that of the last set as the whole asset's.
    return {"dagster/partition_row_count": row_count, "seconds": seconds_since(started)}


def column_metadata(
    dataset: ImageDataset, stage: str, schema: pa.Schema | None = None
) -> dict[str, Any]:
    """Return the columns of a stage's table, and where each comes from.

    Its asset has them, and its events do too.
    """
    schema = schema or arrow_schema(ROW_TYPES[stage])
    return {
        "dagster/column_schema": _column_schema(schema),
        "dagster/column_lineage": column_lineage(dataset, stage, schema.names),
    }


def seconds_since(started: float) -> float:
    """Return the seconds since a moment of the monotonic clock, to the millisecond."""
    return round(time.monotonic() - started, 3)


def _column_schema(schema: pa.Schema) -> dg.TableSchema:
    """Return an Arrow schema as Dagster shows it, with the columns' descriptions."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=field.name,
                type=str(field.type),
                description=(field.metadata or {}).get(b"description", b"").decode(),
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in schema
        ]
    )


def contact_sheet_of(
    shown: Iterable[tuple[GeneratedImage, str | None]],
    storage: Storage,
    *,
    count: int,
    byte_budget: int = _SHEET_BYTES,
    small: bool = False,
) -> dg.MarkdownMetadataValue:
    """Return a contact sheet of a set's samples, the first of `count`, that shows in the UI.

    `shown` are samples with their marks. A `small` one has a row of small pictures: for an event
    among thousands.

    A mark that begins with "rejected" or "quarantined" blurs its picture: nobody should have to
    look at what was filtered out.
    """
    tiles_shown = _TILES_OF_A_SMALL_SHEET if small else _TILES
    first = list(islice(shown, tiles_shown))
    thumbnails = stored_thumbnails(storage, (image.image_sha256 for image, _ in first))
    tiles = [
        Tile(
            thumbnail=thumbnail,
            caption=image.prompt_id,
            mark=mark,
            blurred=bool(mark) and str(mark).startswith(("rejected", "quarantined")),
        )
        for (image, mark), thumbnail in zip(first, thumbnails, strict=True)
    ]
    if small:
        sheet = contact_sheet(tiles, byte_budget=_SMALL_SHEET_BYTES, tile_side=56, best_quality=70)
    else:
        sheet = contact_sheet(tiles, count=count, byte_budget=byte_budget)
    return dg.MetadataValue.md(markdown_picture(sheet, f"{count} samples"))


def shown_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, most_bytes: int = _TABLE_BYTES
) -> dg.MarkdownMetadataValue:
    """Return a Markdown table; cells are text, whatever characters stand in them.

    Rows that would take it beyond `most_bytes` as JSON are left out and counted in a last one.
    """
    lines = [_line(headers), _line(["---"] * len(headers))]
    size = 0
    for place, row in enumerate(rows):
        line = _line([markdown_text(value) for value in row])
        size += len(json.dumps(line))
        if size > most_bytes:
            more = f"… and {len(rows) - place:,} more"
            lines.append(_line([more, *[""] * (len(headers) - 1)]))
            break
        lines.append(line)
    return dg.MetadataValue.md("\n".join(lines))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def found_table(
    name: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    most_bytes: int = _TABLE_BYTES,
) -> dict[str, dg.MarkdownMetadataValue]:
    """Return a Markdown table as metadata, or none where it would have no row."""
    return {name: shown_table(headers, rows, most_bytes=most_bytes)} if rows else {}
