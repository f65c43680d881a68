"""People's decisions as they are given: a row at a time, or a file of them, each one checked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

from imagepipeline_dagster.moderation.override_targets import KnownTargets, TargetUnknown
from imagepipeline_dagster.tables.overrides import Override, OverrideDecision, OverrideInvalid
from imagepipeline_dagster.tables.transfer.file_rows import FileRow, FileUnreadable, RowUnreadable
from imagepipeline_dagster.tables.transfer.incoming import ImportRefused
from imagepipeline_dagster.tables.transfer.reading_files import open_file
from imagepipeline_dagster.tables.values import read_text

OVERRIDE_COLUMNS = ("image_sha256", "prompt_set", "prompt_id", "decision", "reviewer", "reason")
"""The columns of a file of decisions."""

_REQUIRED = ("decision", "reviewer", "reason")
_PROBLEMS = 20  # shown of a file


class DecisionReader:
    """Reads rows as decisions.

    Args:
        known: the pictures and prompts that a decision can be about; None where nobody can tell.
        force: whether a decision may be about what is not there yet.
    """

    def __init__(self, known: KnownTargets | None, *, force: bool) -> None:
        self._known = known
        self._force = force

    def of_file(self, file: Path) -> list[Override]:
        """Return a file's decisions, all or none.

        Raises:
            ImportRefused: names what is wrong, by line and column.
        """
        try:
            opened = open_file(file)
            headers = opened.headers()
        except FileUnreadable as error:
            raise ImportRefused(file, (str(error),)) from error
        there = ", ".join(map(repr, headers))
        missing = [name for name in _REQUIRED if name not in headers]
        if missing:
            lacks = (f"the file has no column {name!r}; it has {there}" for name in missing)
            raise ImportRefused(file, tuple(lacks))
        decisions: list[Override] = []
        problems: list[str] = []
        for row in opened.rows():
            match self._decision_or_problem(row):
                case Override() as decision:
                    decisions.append(decision)
                case problem:
                    problems.append(problem)
        if problems:
            raise ImportRefused(file, tuple(problems[:_PROBLEMS]), count=len(problems))
        return decisions

    def _decision_or_problem(self, row: FileRow | RowUnreadable) -> Override | str:
        if isinstance(row, RowUnreadable):
            return f"{row.place} {row.problem}"
        try:
            return self.of_row({name: read_text(value) for name, value in row.values.items()})
        except OverrideInvalid as error:
            column = f", column {error.column!r}" if error.column else ""
            return f"{row.place}{column}: {error}"

    def of_row(self, row: Mapping[str, str | None]) -> Override:
        """Return a row as a decision.

        Raises:
            OverrideInvalid: says what is wrong with it, and where.
        """
        word = (row.get("decision") or "").strip().lower()
        if word not in set(OverrideDecision):
            raise OverrideInvalid(
                f"{word!r} is none of {', '.join(OverrideDecision)}.", column="decision"
            )
        image = row.get("image_sha256")
        override = Override(
            image_sha256=self._in_full(image) if image else None,
            prompt_set=row.get("prompt_set") or None,
            prompt_id=row.get("prompt_id") or None,
            decision=OverrideDecision(word),
            reviewer=row.get("reviewer") or "",
            reason=row.get("reason") or "",
            decided_at=dt.datetime.now(dt.UTC),
        )
        if self._known and override.prompt_set is not None and override.prompt_id is not None:
            try:
                self._known.check_prompt(override.prompt_set, override.prompt_id)
            except TargetUnknown as error:
                self._refuse_unless_forced(error)
        return override

    def _in_full(self, image: str) -> str:
        image = image.strip().lower()
        try:
            return self._known.image(image) if self._known else image
        except TargetUnknown as error:
            self._refuse_unless_forced(error)
            return image

    def _refuse_unless_forced(self, error: TargetUnknown) -> None:
        if not self._force:
            hint = "--force decides about what is not there yet."
            raise TargetUnknown(f"{error} {hint}", column=error.column) from None
