"""What a release says of itself: the manifest to programs, the card to people.

The card is Markdown with the YAML that Hugging Face's hub and loader read. The tables' values are
text in it and nothing else: they cannot end a table cell, link, load a picture or run.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from typing import Annotated, Self

from pydantic import AfterValidator, AliasChoices, AwareDatetime, BaseModel, Field

from imagepipeline_dagster.markup import template
from imagepipeline_dagster.moderation.verdicts import Counts, ModeratedImage
from imagepipeline_dagster.previews import Tile, contact_sheet
from imagepipeline_dagster.purchase.canaries import Drift
from imagepipeline_dagster.purchase.thumbnails import stored_thumbnails
from imagepipeline_dagster.release.columns import FORMAT_VERSION, shard_schema
from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.storage.contract import Storage, checked_path

ROWS = "rows"
"""Folder of the rows, where no Parquet files hold the pictures with them."""

CONTACT_SHEET = "contact_sheet.webp"
"""Name of the contact sheet, beside the card."""

_SHEET_TILES = 48
_SHEET_BYTES = 500_000
_EXAMPLE_ROWS = 8
_LISTED_SETS = 100  # a card of ten thousand lines is read by nobody; the manifest has them all


_DEFAULT_POLICY = ReleasePolicy()
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


class ReleaseFile(BaseModel, frozen=True):
    """One file of a release."""

    path: Annotated[str, AfterValidator(checked_path)] = Field(
        description="Where it is, below the release's folder"
    )
    sha256: str = Field(description="SHA-256 of the file")
    size: int = Field(description="Size in bytes")
    rows: int | None = Field(default=None, description="Images in it, for a Parquet file")
    part: str | None = Field(
        default=None, description="The rows that it was made of; files of the same are the same"
    )
    marks: Mapping[str, int] = Field(
        default_factory=dict,
        description="Pictures in it by what their files say of their origin; empty for no stamp",
    )

    @classmethod
    def of(cls, path: str, data: bytes, *, part: str | None = None) -> Self:
        """Return what the manifest says of a file with these bytes."""
        return cls(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data), part=part)


class Release(BaseModel, frozen=True):
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
    semantic_version: str = Field(
        default="1.0.0",
        description="Major: samples were removed or changed; minor: only added; patch: packed anew",
    )
    changes: Mapping[str, int] = Field(
        default_factory=dict, description="Samples that differ from the former version, by cause"
    )
    drift: Drift | None = Field(
        default=None, description="Since when the hosted model gives other pictures, by canaries"
    )
    left_out: tuple[str, ...] = Field(
        default=(), description="Sets and pictures that are not in it though they exist, and why"
    )
    splits: Mapping[str, int] = Field(
        default_factory=dict, description="Images by split; the first manifests name none"
    )
    split_policy: str = Field(default="", description="What the splits were made by, as JSON")
    policy: str = Field(default="", description="How it was released, as JSON")
    files: tuple[ReleaseFile, ...] = Field(
        # The first manifests listed the Parquet files alone.
        validation_alias=AliasChoices("files", "shards"),
        description="Every file but this manifest",
    )
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

    @property
    def identity(self) -> str:
        """What tells its content and its making from any other's.

        `datasets` keeps what it read of a folder by the folder's name and its card: without this in
        both, it would take `v0001/parquet` for `v0002/parquet`.
        """
        return f"{self.version}, content {self.fingerprint[:16]}, run {self.run_id}"

    @property
    def kept_sets(self) -> set[str]:
        """The prompt sets that it has pictures of."""
        return {name for name, counts in self.prompt_sets.items() if counts.kept}

    @property
    def shards(self) -> tuple[ReleaseFile, ...]:
        """The Parquet files, with the pictures or beside an image folder."""
        return tuple(file for file in self.files if file.rows is not None)

    @property
    def marks(self) -> dict[str, int]:
        """How many pictures say their origin in their files, by mark; empty for no stamp."""
        marks: Counter[str] = Counter()
        for file in self.shards:
            marks.update(file.marks)
        return dict(sorted(marks.items()))

    @property
    def holds_parquet(self) -> bool:
        """Whether Parquet files hold the pictures; otherwise an image folder alone does."""
        return not any(file.path.startswith(f"{ROWS}/") for file in self.shards)

    @property
    def data_files(self) -> dict[str, str]:
        """Where the pictures of each split are, below the release's folder."""
        pattern = "parquet/data/{}-*.parquet" if self.holds_parquet else "imagefolder/{}/**"
        return {split: pattern.format(split) for split in self.splits}

    @property
    def split_sizes(self) -> dict[str, int]:
        """Bytes of these files."""
        return {
            split: sum(f.size for f in self.files if f.path.startswith(pattern.partition("*")[0]))
            for split, pattern in self.data_files.items()
        }


def pick_examples(kept: HeldRows) -> list[ModeratedImage]:
    """Return at most 48 rows, from all over the dataset."""
    return list(kept.every(-(-len(kept) // _SHEET_TILES) or 1))


def examples_sheet(storage: Storage, examples: Sequence[ModeratedImage]) -> bytes:
    """Return a contact sheet (WebP) of the rows, from their stored thumbnails."""
    thumbnails = stored_thumbnails(storage, (row.image_sha256 for row in examples))
    return contact_sheet(
        [
            Tile(thumbnail=thumbnail, caption=row.prompt_id)
            for row, thumbnail in zip(examples, thumbnails, strict=True)
        ],
        byte_budget=_SHEET_BYTES,
    )


def card(
    release: Release,
    examples: Sequence[ModeratedImage],
    *,
    policy: ReleasePolicy = _DEFAULT_POLICY,
) -> str:
    """Return the release's `README.md`; the first few examples are shown as rows."""
    return template("release/card.md.jinja").render(
        release=release,
        policy=policy,
        size_category=_size_category(release.counts.kept),
        contact_sheet=CONTACT_SHEET,
        listed_sets=list(islice(release.prompt_sets.items(), _LISTED_SETS)),
        further_sets=max(0, len(release.prompt_sets) - _LISTED_SETS),
        left_out=release.left_out[:_LISTED_SETS],
        further_left_out=max(0, len(release.left_out) - _LISTED_SETS),
        examples=examples[:: len(examples) // _EXAMPLE_ROWS or 1][:_EXAMPLE_ROWS],
        columns=list(_columns()),
        features=list(features()),
    )


def _size_category(images: int) -> str:
    """Return the range of sizes that the Hub sorts the dataset into."""
    place = len(str(images)) - 3
    if place <= 0:
        return f"n<{_SIZES[0]}"
    if place >= len(_SIZES):
        return f"n>{_SIZES[-1]}"
    return f"{_SIZES[place - 1]}<n<{_SIZES[place]}"


def features() -> Iterator[tuple[str, str]]:
    """Yield the columns with their types, as `dataset_info` of a card spells them."""
    described = json.loads((shard_schema().metadata or {})[b"huggingface"])
    for name, feature in described["info"]["features"].items():
        yield name, feature.get("dtype", "image")


def _columns() -> Iterator[tuple[str, str, str]]:
    for field in shard_schema():
        meaning = (field.metadata or {})[b"description"].decode()
        yield field.name, "picture" if field.name == "image" else str(field.type), meaning
