"""How a dataset is released."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Literal, Self

from pydantic import Field, model_validator

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.options import Options, bounded

NOT_RELEASED = frozenset(
    {
        "uri",  # the maker's own folders are nobody else's business
        "bytes",  # the image tells its size
        "value_range",
        "has_alpha",
        "carries_more",
        "moderation_basis",
        # The same for every kept image:
        "outcome",
        "error",
    }
)
"""Columns of moderated images that no release has."""

_SHAPING = ("order", "stamp", "content_producer", "content_credentials")
PACKING = ("formats", "splits", "group_by", "split_of", *_SHAPING)
"""The options that tell how the same samples are packed."""


class ReleasePolicy(Options):
    """How a dataset is released."""

    formats: Sequence[Literal["parquet", "webdataset", "imagefolder", "lance"]] = Field(
        ("parquet",),
        description="Each is a folder of its own; lance needs the extra [lance]. parquet is always "
        "there, unless imagefolder is the only one: so scattered changes cost little.",
    )
    splits: Mapping[str, float] = Field(
        {"train": 1.0}, description="The splits and their shares, as {train: 0.9, test: 0.1}."
    )
    group_by: str = Field(
        "prompt",
        description="The column whose equal values stay in one split, as do equal pictures, near-"
        "duplicates, and those of one init image.",
    )
    split_of: Mapping[str, str] = Field(
        default_factory=dict,
        description="Values of group_by whose split is given, as {holdout: test}; others go by a "
        "hash. With group_by: prompt_set they are names of sets.",
    )
    order: Literal["sorted", "shuffled"] = Field(
        "sorted",
        description="sorted: by set, prompt and sample, so that a change reaches few files. "
        "shuffled: by a hash of these, so that who reads in order meets all sets; a sample keeps "
        "its place among the others from release to release.",
    )
    stamp: bool = Field(
        True,  # noqa: FBT003 - pydantic's default
        description="Write into each picture's file that it was generated, by what, and from which "
        "row; its pixels stay as they are, and a file with content credentials does.",
    )
    content_producer: str | None = Field(
        None,
        description="Add China's label TC260:AIGC to the stamp, with this name of the producer.",
    )
    content_credentials: bool = Field(
        False,  # noqa: FBT003 - pydantic's default
        description="Sign each stamped file's content credentials (C2PA) with the certificate and "
        "key that IMAGEPIPELINE_C2PA_CERTIFICATE and IMAGEPIPELINE_C2PA_KEY name the files of.",
    )
    license: str | None = Field(
        None, description="The licence's name, as the Hub spells it: cc-by-4.0."
    )
    homepage: str | None = Field(None, description="Where more stands about the dataset.")
    citation: str | None = Field(None, description="How to cite it, as BibTeX or plain text.")
    max_lost_share: float = bounded(
        0.2,
        "A release is refused that loses a larger share of the former one's pictures without a "
        "person's decision or another moderation policy; 1 allows every loss.",
        low=0,
        high=1,
    )
    on_change: bool = Field(
        default=False,
        description="Release also when sets changed, besides `release_cron`: once after a burst.",
    )
    quiet_minutes: float = bounded(
        10,
        "With on_change: how long no set may have changed, and no run of one be under way.",
        low=0,
    )

    publish_to: str | None = Field(
        None,
        description="ORG/NAME, a dataset of the Hugging Face Hub that each release is published "
        "to by the asset `hub_dataset`; the token is HF_TOKEN of the environment.",
    )

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        if not self.has_parquet and list(self.formats) != ["imagefolder"]:
            raise ValueError("formats: parquet is missing; imagefolder alone can do without it")
        if "lance" in self.formats and not find_spec("lance"):
            raise ValueError('formats: lance needs pip install "imagepipeline-dagster[lance]"')
        if not self.splits or not all(share > 0 for share in self.splits.values()):
            raise ValueError(f"splits: {dict(self.splits)} needs shares above 0")
        for name in self.splits:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
                raise ValueError(f"splits: {name!r} is no name of letters, digits and underscores")
        if unknown := set(self.split_of.values()) - set(self.splits):
            raise ValueError(f"split_of: {min(unknown)!r} is none of the splits")
        if self.content_credentials and not self.stamp:
            raise ValueError("content_credentials: they vouch for the stamp, which is off")
        if self.group_by not in ModeratedImage.__dataclass_fields__.keys() - NOT_RELEASED:
            raise ValueError(f"group_by: {self.group_by!r} is no column of a release")
        return self

    @property
    def has_parquet(self) -> bool:
        """Whether Parquet files hold the pictures; otherwise an image folder alone does."""
        return "parquet" in self.formats

    @property
    def packing(self) -> str:
        """What tells how the same samples are packed."""
        return self.model_dump_json(include={*PACKING})

    @property
    def splitting(self) -> str:
        """What the splits are made by."""
        return self.model_dump_json(include={"splits", "group_by", "split_of"})

    @property
    def shaping(self) -> str:
        """What makes a part's files other bytes, beside its rows."""
        return self.model_dump_json(include={*_SHAPING})
