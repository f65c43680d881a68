"""People's decisions as they are given: a row at a time, or a file of them, each one checked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

from imagepipeline_dagster.moderation.override_targets import KnownTargets
from imagepipeline_dagster.tables.overrides import Override, OverrideDecision, OverrideInvalid
from imagepipeline_dagster.tables.transfer.file_rows import FileUnreadable, RowUnreadable
from imagepipeline_dagster.tables.transfer.incoming import ImportRefused
from imagepipeline_dagster.tables.transfer.reading_files import open_file
from imagepipeline_dagster.tables.values import read_text

OVERRIDE_COLUMNS = ("image_sha256", "prompt_set", "prompt_id", "decision", "reviewer", "reason")
"""The columns of a file of decisions."""

_REQUIRED = ("decision", "reviewer", "reason")
_PROBLEMS = 20  # shown of a file


def decisions_of_file(file: Path, known: KnownTargets | None) -> list[Override]:
    """Return a file's decisions, all or none; `known` is as for `decision_of`.

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
        if isinstance(row, RowUnreadable):
            problems.append(f"{row.place} {row.problem}")
            continue
        try:
            texts = {name: read_text(value) for name, value in row.values.items()}
            decisions.append(decision_of(texts, known))
        except OverrideInvalid as error:
            column = f", column {error.column!r}" if error.column else ""
            problems.append(f"{row.place}{column}: {error}")
    if problems:
        raise ImportRefused(file, tuple(problems[:_PROBLEMS]), count=len(problems))
    return decisions


def decision_of(row: Mapping[str, str | None], known: KnownTargets | None) -> Override:
    """Return a row as a decision.

    Args:
        row: texts by the names of their columns.
        known: the pictures and prompts that a decision can be about; None where nobody can tell.

    Raises:
        OverrideInvalid: says what is wrong with it, and where.
    """
    word = (row.get("decision") or "").strip().lower()
    if word not in set(OverrideDecision):
        raise OverrideInvalid(
            f"{word!r} is none of {', '.join(OverrideDecision)}.", column="decision"
        )
    image = (row.get("image_sha256") or "").strip().lower()
    override = Override(
        image_sha256=known.image(image) if known and image else image or None,
        prompt_set=row.get("prompt_set") or None,
        prompt_id=row.get("prompt_id") or None,
        decision=OverrideDecision(word),
        reviewer=row.get("reviewer") or "",
        reason=row.get("reason") or "",
        decided_at=dt.datetime.now(dt.UTC),
    )
    if known and override.prompt_set is not None and override.prompt_id is not None:
        known.check_prompt(override.prompt_set, override.prompt_id)
    return override
