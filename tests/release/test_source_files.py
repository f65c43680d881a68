"""The pictures that requests start from, beside the results in an image folder."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.release.reading import latest_manifest
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.release.withdrawal import withdraw
from imagepipeline_dagster.rows import parquet_table
from imagepipeline_dagster.storage.contract import Storage, image_path
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import EVERYTHING, NOON, kept_row, picture, publish_rows

pytest_plugins = ["tests.s3"]

SPLIT = EVERYTHING.changed(
    splits={"train": 0.5, "test": 0.5},
    group_by="prompt_set",
    split_of={"pairs": "train", "words": "test"},
)
ALONE = SPLIT.changed(formats=("imagefolder",))
POLICIES = {"beside Parquet": SPLIT, "alone": ALONE}
INIT = picture(90)
MASK = picture(91, format="JPEG")


def starting_from(storage: Storage, data: bytes, picture_format: str, kind: str) -> dict[str, Any]:
    """Store a picture, and return the columns of a row that starts from it."""
    sha256 = hashlib.sha256(data).hexdigest()
    storage.write(image_path(sha256, picture_format), data)
    return {f"{kind}_image_sha256": sha256, f"{kind}_image_format": picture_format}


def pairs(storage: Storage, count: int = 4) -> list[ModeratedImage]:
    """Return rows of two sets: of one, two start from one picture, one from it and a mask.

    The last of it starts from the result of the first; that one and the other set from none.
    """
    init = starting_from(storage, INIT, "PNG", "init")
    mask = starting_from(storage, MASK, "JPEG", "mask")
    chained = starting_from(storage, picture(0), "PNG", "init")
    starts = [{}, init, init | mask, chained, *[init] * (count - 4)]
    return [
        *(kept_row(storage, n, prompt_set="pairs", **start) for n, start in enumerate(starts)),
        *(kept_row(storage, n, prompt_set="words") for n in (20, 21)),
    ]


def sources_in(release: Release) -> list[str]:
    """Return the paths of the source pictures, below their split."""
    return [file.path for file in release.files if "-source." in file.path]


def metadata_of(storage: Storage, release: Release, split: str) -> pa.Table:
    """Return what an image folder says of a split's pictures."""
    return parquet_table(storage.read(f"{release.path}/imagefolder/{split}/metadata.parquet"))


def pixels(shown: Any) -> bytes | None:  # noqa: ANN401 - a picture of Pillow, or None
    """Return a loaded picture's pixels."""
    return None if shown is None else bytes(shown.convert("RGB").tobytes())


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_datasets_loads_pairs(
    storage: LocalFolder,
    datasets: Any,  # noqa: ANN401 - it has no types
    name: str,
    streaming: bool,  # noqa: FBT001 - a parameter of the test
    tmp_path: Path,
) -> None:
    """Each split has the columns, as pictures: what was kept, as it came, and null elsewhere."""
    release = publish_rows(storage, pairs(storage), policy=POLICIES[name])
    folder = Path(storage.uri_of(release.path).removeprefix("file://"))
    loaded = datasets.load_dataset(
        str(folder / "imagefolder"), streaming=streaming, cache_dir=str(tmp_path / "cache")
    )

    init, mask, first = (pixels(Image.open(io.BytesIO(it))) for it in (INIT, MASK, picture(0)))
    shown = {
        split: {row["prompt_id"]: (pixels(row["init"]), pixels(row["mask"])) for row in rows}
        for split, rows in loaded.items()
    }
    assert shown == {
        "train": {
            "p000": (None, None),
            "p001": (init, None),
            "p002": (init, mask),
            "p003": (first, None),
        },
        "test": {"p020": (None, None), "p021": (None, None)},
    }
    assert len(sources_in(release)) == 3
    assert problems_of(storage, release) == []
    for path in sources_in(release):
        assert hashlib.sha256(storage.read(f"{release.path}/{path}")).hexdigest() in path
    [lineage] = [file for file in release.shards if file.path.split("/")[-1].startswith("train")]
    rows = parquet_table(folder / lineage.path).to_pylist()
    assert {row["prompt_id"]: row["init_image_sha256"] for row in rows} == {
        "p000": None,
        "p001": hashlib.sha256(INIT).hexdigest(),
        "p002": hashlib.sha256(INIT).hexdigest(),
        "p003": hashlib.sha256(picture(0)).hexdigest(),
    }


def test_a_dataset_of_words_has_no_such_columns(storage: LocalFolder) -> None:
    """Where no row of a release starts from a kept picture, its image folder is as before."""
    release = publish_rows(storage, pairs(storage)[-2:], policy=ALONE)
    columns = metadata_of(storage, release, "test").column_names
    assert [name for name in columns if name.endswith("file_name")] == ["file_name"]


def test_one_that_is_kept_later_changes_no_sample(storage: LocalFolder) -> None:
    """A release that names what the same pictures started from is a patch: they are packed anew."""
    rows = pairs(storage)
    nothing: dict[str, Any] = dict.fromkeys(
        f"{kind}_image_{what}" for kind in ("init", "mask") for what in ("sha256", "format")
    )
    publish_rows(storage, [dataclasses.replace(row, **nothing) for row in rows])
    later = publish_rows(storage, rows)
    assert (later.created, later.semantic_version, later.changes) == (True, "1.0.1", {})


def test_they_are_taken_over(storage: LocalFolder) -> None:
    """The next release takes the files over, without a look at the store."""
    first = publish_rows(storage, pairs(storage), policy=ALONE)
    rows = pairs(storage, count=6)
    storage.delete(image_path(hashlib.sha256(INIT).hexdigest(), "PNG"))
    second = publish_rows(storage, rows, policy=ALONE)
    assert (second.version, second.left_out) == ("v0002", ())
    assert sources_in(second) == sources_in(first)
    assert problems_of(storage, second) == []


def test_one_that_is_gone_costs_no_picture(storage: LocalFolder) -> None:
    """A source picture that the storage lacks is null and named; the results are released."""
    rows = pairs(storage)
    path = image_path(hashlib.sha256(INIT).hexdigest(), "PNG")
    storage.delete(path)
    release = publish_rows(storage, rows, policy=SPLIT)
    assert release.counts.kept == 6
    [sentence] = release.left_out
    assert storage.uri_of(path) in sentence
    names = metadata_of(storage, release, "train")["init_file_name"].to_pylist()
    assert [name is None for name in names] == [True, True, True, False]


@pytest.mark.parametrize("name", POLICIES)
def test_one_that_is_withdrawn_leaves_every_release(
    either_home: Storage, ledger: Ledger, name: str
) -> None:
    """The store and the releases lack it, the results stay, and no release has it again."""
    rows = pairs(either_home)
    publish_rows(either_home, rows, policy=POLICIES[name])
    image = hashlib.sha256(INIT).hexdigest()
    withdrawn = withdraw(either_home, ledger, [image], who="ana", why="a person asked", at=NOON)

    assert withdrawn.rewritten == {"releases": ["v0001"]}
    release = latest_manifest(either_home)
    assert release is not None
    assert problems_of(either_home, release) == []
    assert release.counts.kept == 6
    assert "was withdrawn by ana on 2026-03-01: a person asked" in release.left_out[-1]
    assert len(sources_in(release)) == 2
    assert [path for path in either_home.list("") if either_home.read(path) == INIT] == []
    again = publish_rows(either_home, rows, policy=POLICIES[name])
    assert (again.version, again.created) == ("v0001", False)
