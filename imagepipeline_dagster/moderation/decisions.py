"""People's decisions as they are given: a row or a file of them, each checked by what is there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from operator import attrgetter
from pathlib import Path

from sqlalchemy import Connection, and_, select

from imagepipeline_dagster.ledger.decisions import FIRST_DIGITS, MIN_PREFIX
from imagepipeline_dagster.ledger.lineage import images_beginning_with
from imagepipeline_dagster.ledger.schema import uses
from imagepipeline_dagster.ledger.uses import datasets_in, sets_of_pictures
from imagepipeline_dagster.tables.overrides import (
    EVERY_SET,
    Override,
    OverrideDecision,
    OverrideInvalid,
)
from imagepipeline_dagster.tables.spelling import did_you_mean
from imagepipeline_dagster.tables.transfer.file_rows import FileUnreadable, RowUnreadable
from imagepipeline_dagster.tables.transfer.incoming import ImportRefused
from imagepipeline_dagster.tables.transfer.reading_files import open_file
from imagepipeline_dagster.tables.values import read_text

OVERRIDE_COLUMNS = ("image_sha256", "prompt_set", "prompt_id", "decision", "reviewer", "reason")
"""The columns of a file of decisions."""

_REQUIRED = ("decision", "reviewer", "reason")
_PROBLEMS = 20  # shown of a file


class KnownTargets:
    """The pictures that the ledger knows, and the prompts that it knows pictures of.

    Args:
        connection: to the ledger.
        where: what messages call it.
        force: whether a decision may be about what is not there yet.
        advice: how to decide about such a thing all the same.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        where: str,
        force: bool = False,
        advice: str = " --force decides about what is not there yet.",
    ) -> None:
        self._connection = connection
        self._where = where
        self._force = force
        self._advice = advice
        self._ids: dict[str, frozenset[str]] = {}

    @cached_property
    def _datasets(self) -> list[str]:
        """The datasets: the index of uses begins with them, so each set is then looked up in it."""
        return datasets_in(self._connection)

    @cached_property
    def _sets(self) -> list[str]:
        return list(self._connection.scalars(select(uses.c.prompt_set).distinct()))

    def image(self, written: str) -> str:
        """Return the SHA-256 of the picture that it, or its first eight or more digits, names.

        Raises:
            OverrideInvalid: it is no such digits, several pictures begin so, or none; then it asks
                whether one that is alike was meant.
        """
        digits = written.strip().lower()
        if not FIRST_DIGITS.fullmatch(digits):
            raise OverrideInvalid(
                f"{written!r} is not a SHA-256, nor the first {MIN_PREFIX} or more of its digits.",
                column="image_sha256",
            )
        matching = images_beginning_with(self._connection, digits, at_most=2)
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise OverrideInvalid(
                f"Several pictures begin with {digits}: give more digits.", column="image_sha256"
            )
        alike = images_beginning_with(self._connection, digits[:MIN_PREFIX], at_most=1)
        asked = f" Did you mean {alike[0]}?" if alike else ""
        self._refuse(f"picture {digits}.{asked}", column="image_sha256")
        return digits

    def check_prompt(self, prompt_set: str, prompt_id: str) -> None:
        """Refuse a prompt of which there was never a picture.

        Raises:
            OverrideInvalid: asks whether one that is spelled alike was meant.
        """
        if prompt_set not in self._ids:
            is_of_set = and_(uses.c.dataset.in_(self._datasets), uses.c.prompt_set == prompt_set)
            query = select(uses.c.prompt_id).where(is_of_set).distinct()
            self._ids[prompt_set] = frozenset(self._connection.scalars(query))
        ids = self._ids[prompt_set]
        if not ids:
            asked = did_you_mean(prompt_set, self._sets)
            self._refuse(f"pictures of a prompt set {prompt_set!r}.{asked}", column="prompt_set")
        elif prompt_id not in ids:
            asked = did_you_mean(prompt_id, sorted(ids))
            self._refuse(
                f"pictures of a prompt {prompt_id!r} in set {prompt_set!r}.{asked}",
                column="prompt_id",
            )

    def check_set(self, decided: Override, sets: Collection[str]) -> None:
        """Refuse a picture in a set that it is not in.

        Raises:
            OverrideInvalid: asks whether one that is spelled alike was meant.
        """
        named = decided.prompt_set
        if named is not None and named not in (EVERY_SET, *sets):
            asked = did_you_mean(named, sets)
            picture = f"picture {decided.image_sha256} in set {named!r}"
            self._refuse(f"{picture}.{asked}", column="prompt_set")

    def _refuse(self, what: str, *, column: str) -> None:
        if not self._force:
            raise OverrideInvalid(f"{self._where} knows no {what}{self._advice}", column=column)


def decisions_about_nothing(
    connection: Connection, overrides: Iterable[Override]
) -> Iterator[tuple[Override, str]]:
    """Yield decisions that stand and are about no picture, each with why, the newest first.

    A row of SQL may have a slip, which nobody would notice. The connection is to the ledger that
    knows the pictures.
    """
    by_target = {
        (each.image_sha256, each.prompt_set, each.prompt_id): each
        for each in sorted(overrides, key=attrgetter("rank"))
    }
    latest = sorted(by_target.values(), key=attrgetter("rank"), reverse=True)
    standing = [each for each in latest if each.decision is not OverrideDecision.CLEAR]
    pictures = {each.image_sha256 for each in standing if each.image_sha256}
    sets_of = sets_of_pictures(connection, pictures)
    known = KnownTargets(connection, where="this ledger", advice="")
    for each in standing:
        try:
            if each.image_sha256 is None:
                known.check_prompt(each.prompt_set or "", each.prompt_id or "")
            elif each.image_sha256 not in sets_of:
                known.image(each.image_sha256)
            else:
                known.check_set(each, sets_of[each.image_sha256])
        except OverrideInvalid as error:
            yield each, str(error)


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
        further = {"": len(problems) - _PROBLEMS} if len(problems) > _PROBLEMS else {}
        raise ImportRefused(file, tuple(problems[:_PROBLEMS]), further=further)
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
