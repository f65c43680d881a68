"""What a release says of itself: the manifest to programs, the card to people.

The card is Markdown with the YAML that Hugging Face's hub and loader read. Whatever comes from the
tables is text in it and nothing else: it cannot end a table cell, link, load a picture or run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import islice

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from imagepipeline_dagster.moderation.verdicts import Counts, ModeratedImage, ModerationReason
from imagepipeline_dagster.previews import Tile, contact_sheet
from imagepipeline_dagster.release.shards import FORMAT_VERSION, shard_schema
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage, thumbnail_path

__all__ = ["CONTACT_SHEET", "Release", "Shard", "card", "examples_sheet", "pick_examples"]

CONTACT_SHEET = "contact_sheet.webp"
"""Name of the contact sheet, beside the card."""

_SHEET_TILES = 48
_SHEET_BYTES = 500_000
_EXAMPLE_ROWS = 8
_LISTED_SETS = 100  # a card of ten thousand lines is read by nobody; the manifest has them all
_LONGEST_TEXT = 200  # characters


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True)


class Shard(_Manifest):
    """One Parquet file of a release."""

    path: str = Field(description="Where it is, below the release's folder")
    sha256: str = Field(description="SHA-256 of the file")
    size: int = Field(description="Size in bytes")
    rows: int = Field(description="Images in it")


class Release(_Manifest):
    """One version of a dataset; what its `manifest.json` says."""

    name: str = Field(description="The dataset's name")
    version: str = Field(description="v0001, v0002, …; a number may be missing, none comes twice")
    path: str = Field(description="The release's folder, below the storage that it was made in")
    fingerprint: str = Field(description="SHA-256 of the content: images, prompts, verdicts")
    created_at: AwareDatetime = Field(description="When it was made")
    run_id: str = Field(description="Dagster run that made it")
    previous: str | None = Field(
        default=None, description="The newest version when this one was made"
    )
    emulated: int = Field(description="How many of the images the emulator drew")
    counts: Counts = Field(description="What became of the samples; those kept are in here")
    prompt_sets: Mapping[str, Counts] = Field(description="The same, by prompt set")
    shards: tuple[Shard, ...] = Field(description="The Parquet files")
    format_version: int = Field(default=FORMAT_VERSION, description="Version of their columns")
    tool: str = Field(
        default_factory=lambda: f"imagepipeline-dagster {version('imagepipeline-dagster')}",
        description="What made it",
    )
    created: bool = Field(
        default=False,
        exclude=True,
        description="Made by this very call; not in the manifest",
    )


def pick_examples(kept: Sequence[ModeratedImage]) -> list[ModeratedImage]:
    """Return at most 48 rows, from all over the dataset."""
    step = -(-len(kept) // _SHEET_TILES) or 1
    return list(kept[::step])


def examples_sheet(storage: Storage, examples: Sequence[ModeratedImage]) -> bytes:
    """Return a contact sheet (WebP) of the rows, from their stored thumbnails."""
    return contact_sheet(
        [Tile(thumbnail=_thumbnail(storage, row), caption=row.prompt_id) for row in examples],
        byte_budget=_SHEET_BYTES,
    )


def _thumbnail(storage: Storage, row: ModeratedImage) -> bytes | None:
    try:
        return storage.read(thumbnail_path(row.image_sha256 or ""))
    except ObjectMissing:
        return None  # thumbnails may be deleted at any time: the sheet shows the caption alone


def card(release: Release, examples: Sequence[ModeratedImage]) -> str:
    """Return the release's `README.md`; the first few examples are shown as rows."""
    return "\n".join(
        [
            *_front_matter(release),
            *_introduction(release),
            *_contents(release),
            *_example_rows(examples),
            *_HOW_TO_LOAD.splitlines(),
            *_columns(),
        ]
    )


def _front_matter(release: Release) -> Iterator[str]:
    yield "---"
    yield f"pretty_name: {_yaml(release.name)}"
    yield "task_categories:"
    yield "- text-to-image"
    yield "tags:"
    yield "- synthetic"
    if release.emulated:
        yield "- emulated"
    yield "configs:"
    yield "- config_name: default"
    yield "  data_files:"
    yield "  - split: train"
    yield "    path: data/*.parquet"
    yield "---"


def _introduction(release: Release) -> Iterator[str]:
    counts = release.counts
    yield f"# {_text(release.name)} {release.version}"
    yield ""
    if release.emulated:
        share = "All" if release.emulated == counts.kept else f"{release.emulated} of the"
        yield (
            f"> **EMULATED.** {share} {counts.kept} pictures were drawn by the emulator of "
            "imagepipeline-dagster. No model made them: do not train or judge a model on them. The "
            "column `emulated` tells which they are."
        )
        yield ""
    yield (
        f"{counts.kept} generated images with the prompt and the exact request that each was made "
        f"from. Of {counts.requested} samples asked for, {counts.kept} were kept, "
        f"{counts.rejected} rejected and {counts.quarantined} quarantined; only the kept ones are "
        "here. No licence is stated: ask the publisher."
    )
    yield ""
    yield (
        f"Made by {release.tool} on {release.created_at:%Y-%m-%d at %H:%M %Z}, in the "
        f"Dagster run {_text(release.run_id)}. `manifest.json` lists every file with its SHA-256."
    )
    yield ""
    yield f"![Contact sheet]({CONTACT_SHEET})"
    yield ""


def _contents(release: Release) -> Iterator[str]:
    yield "## What became of the samples"
    yield ""
    yield "| Prompt set | Requested | Kept | Rejected | Quarantined | Why not kept |"
    yield "|---|---:|---:|---:|---:|---|"
    for name, counts in islice(release.prompt_sets.items(), _LISTED_SETS):
        yield f"| {_text(name)} | {_counted(counts)} |"
    further = len(release.prompt_sets) - _LISTED_SETS
    if further > 0:
        yield f"| {further} further prompt sets: see `manifest.json` | | | | | |"
    yield f"| **All** | {_counted(release.counts)} |"
    yield ""


def _counted(counts: Counts) -> str:
    why = ", ".join(
        f"{number} {_text(reason)}"
        for reason, number in counts.by_reason.items()
        if reason != ModerationReason.OK
    )
    return f"{counts.requested} | {counts.kept} | {counts.rejected} | {counts.quarantined} | {why}"


def _example_rows(examples: Sequence[ModeratedImage]) -> Iterator[str]:
    yield "## Some of the prompts"
    yield ""
    yield "| Prompt set | Prompt id | Prompt | Seed | Sample |"
    yield "|---|---|---|---:|---:|"
    for row in examples[:: len(examples) // _EXAMPLE_ROWS or 1][:_EXAMPLE_ROWS]:
        cells = (row.prompt_set, row.prompt_id, row.prompt, row.seed, row.sample_index)
        yield f"| {' | '.join('' if cell is None else _text(str(cell)) for cell in cells)} |"
    yield ""


_HOW_TO_LOAD = """\
## How to load it

With Hugging Face `datasets` the column `image` gives Pillow images. In this folder:

```python
from datasets import load_dataset

images = load_dataset("parquet", data_files="data/*.parquet", split="train")
picture = images[0]["image"]
```

From elsewhere, `load_dataset("path/to/this/folder", split="train")` gives the same.

With pandas:

```python
from io import BytesIO

import pandas as pd
from PIL import Image

frame = pd.read_parquet("data")
picture = Image.open(BytesIO(frame["image"][0]["bytes"]))
```

With pyarrow, the lineage without the pictures:

```python
import pyarrow.parquet as pq

lineage = pq.read_table("data", columns=["prompt_set", "prompt_id", "seed", "request"])
```
"""


def _columns() -> Iterator[str]:
    yield ""
    yield "## Columns"
    yield ""
    yield "| Column | Type | Meaning |"
    yield "|---|---|---|"
    for field in shard_schema():
        meaning = (field.metadata or {})[b"description"].decode()
        kind = "picture" if field.name == "image" else str(field.type)
        yield f"| `{field.name}` | {kind} | {meaning} |"
    yield ""


_MARKUP = re.compile(r"""[!"#$&'()*+./:<>?@[\\\]^`{|}~]|(?<![^\W_])_|_(?![^\W_])""")
# Every sign that means something inside a line of Markdown; not the underscore inside a word.


def _text(text: str) -> str:
    """Return one line that Markdown and HTML show as this text, shortened where it is long."""
    line = " ".join(text.split())
    if len(line) > _LONGEST_TEXT:
        line = line[: _LONGEST_TEXT - 1] + "…"
    # What is not printable could turn the reading direction round, or be an order to a terminal.
    shown = "".join(sign if sign.isprintable() else "�" for sign in line)
    # An entity is shown as its sign and does nothing: it ends no cell, and begins no tag or link.
    return _MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", shown)


def _yaml(text: str) -> str:
    """Return the text as a quoted YAML scalar on one line."""
    plain = "".join(
        sign if sign.isprintable() and sign not in '"\\' else f"\\U{ord(sign):08X}" for sign in text
    )
    return f'"{plain}"'
