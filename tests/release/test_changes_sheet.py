from __future__ import annotations

import io

from PIL import Image

from imagepipeline_dagster.previews import thumbnail
from imagepipeline_dagster.release.changes import Change
from imagepipeline_dagster.release.changes_sheet import changes_sheet
from imagepipeline_dagster.storage.contract import thumbnail_path
from imagepipeline_dagster.storage.folder import LocalFolder

OLD, NEW = ("a" * 64, "b" * 64)
_TILE = 118  # pixels from one tile to the next


def change(kind: str, cause: str, before: str | None, after: str | None) -> Change:
    """Return a change of a sample's picture."""
    return Change(
        change=kind,
        cause=cause,
        prompt_set="spring",
        prompt_id="fox",
        image_before=before,
        image_after=after,
    )


def test_before_and_after_stand_side_by_side(storage: LocalFolder) -> None:
    """A changed sample shows both pictures; one that came has no former; one that left is blurred.

    A picture whose thumbnail is gone, and one that is the same, take nothing away from the others.
    """
    stripes = Image.new("RGB", (8, 8), "red")
    stripes.paste("white", (0, 0, 4, 8))
    for sha256, picture in ((OLD, stripes), (NEW, Image.new("RGB", (8, 8), "blue"))):
        storage.write(thumbnail_path(sha256), thumbnail(picture.resize((112, 112), 0)))
    changes = [
        change("changed", "prompt_changed", OLD, NEW),
        change("added", "new_prompt", None, NEW),
        change("changed", "policy", OLD, OLD),
        change("removed", "override", OLD, None),
        change("changed", "bought_again", "c" * 64, NEW),
    ]
    webp = changes_sheet(changes, storage)
    assert webp is not None
    sheet = Image.open(io.BytesIO(webp)).convert("RGB")
    assert sheet.width > 8 * _TILE > sheet.width - 12

    def colour(tile: int, x: int) -> str:
        red, green, blue = sheet.getpixel((6 + tile * _TILE + x, 40))  # type: ignore[misc]
        if red > 200 and green > 200 and blue > 200:
            return "white"
        return max((red, "red"), (green, "green"), (blue, "blue"))[1]

    assert [colour(tile, 90) for tile in (0, 1, 3, 7)] == ["red", "blue", "blue", "blue"]
    edge = [sheet.getpixel((6 + tile * _TILE + 46, 40)) for tile in (0, 4)]
    assert colour(0, 46) == "white"
    assert edge[0] != edge[1]  # the picture that left has no edge any more


def test_where_no_picture_differs_nothing_is_drawn(storage: LocalFolder) -> None:
    """Changes of words alone have no sheet."""
    assert changes_sheet([change("changed", "policy", OLD, OLD)], storage) is None
