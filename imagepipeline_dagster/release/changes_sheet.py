"""Before and after of what changed between two releases, as one picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from imagepipeline_dagster.previews import Tile, contact_sheet
from imagepipeline_dagster.purchase.thumbnails import stored_thumbnails
from imagepipeline_dagster.release.changes import Change
from imagepipeline_dagster.storage.contract import Storage

_SHOWN = 32  # changes, two tiles each
_LOOKED_AT = 1_000  # of all changes: many differ in their texts alone
_SHEET_BYTES = 200_000


def changes_sheet(
    changes: Iterable[Change], storage: Storage, *, byte_budget: int = _SHEET_BYTES
) -> bytes | None:
    """Return the former and the new picture of the first changes side by side, as WebP.

    A lost picture is blurred: nobody should have to look at what was filtered out. None where
    no picture differs.
    """
    first = islice(changes, _LOOKED_AT)
    differing = (change for change in first if change.image_before != change.image_after)
    shown = list(islice(differing, _SHOWN))
    pictures = chain.from_iterable((c.image_before, c.image_after) for c in shown)
    thumbnails = iter(stored_thumbnails(storage, pictures))
    tiles = [tile for change in shown for tile in _before_and_after(change, thumbnails)]
    return contact_sheet(tiles, byte_budget=byte_budget) if tiles else None


def _before_and_after(change: Change, thumbnails: Iterator[bytes | None]) -> Iterator[Tile]:
    kind_and_cause = f"{change.change}: {change.cause}".replace("_", " ")
    for sha256, mark in ((change.image_before, "before"), (change.image_after, kind_and_cause)):
        yield Tile(
            thumbnail=next(thumbnails),
            caption=change.prompt_id,
            mark=mark if sha256 or mark != "before" else "not there before",
            blurred=change.change == "removed",
        )
