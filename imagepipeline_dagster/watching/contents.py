"""What each prompt set of the tables says, as far as it was looked at; kept in the ledger.

`SetContents` is the desired side of reconciling. A set's rows are read when their checksum is not
the one that is kept; until then what they say is known without reading them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Update, bindparam, delete, or_, select, update

from imagepipeline_dagster.databases import batches
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import set_contents
from imagepipeline_dagster.ledger.upserts import upsert
from imagepipeline_dagster.tables.checksums import checksums_among, checksums_between
from imagepipeline_dagster.tables.fingerprints import (
    SetFingerprint,
    content_version,
    fingerprint_embeddings,
    fingerprint_sets,
    fingerprint_used,
)
from imagepipeline_dagster.tables.reading import PromptsTable
from imagepipeline_dagster.tables.schema import EmbeddingRow
from imagepipeline_dagster.tables.summaries import SetSummary, refuse_merged_sets, summarise_sets

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    prompt_set: str
    rows: int
    newest: str | None
    checksum: str
    prompts: str
    embeddings: str
    content: str
    embedding_ids: list[str]
    changed_at: dt.datetime


class SetContents:
    """The contents of one dataset's prompt sets, in the ledger's database."""

    def __init__(self, ledger: Ledger, *, dataset: str) -> None:
        self._ledger = ledger
        self._dataset = dataset

    def differing(self, summaries: Iterable[SetSummary]) -> list[SetSummary]:
        """Return those of all sets whose number of rows or newest time is not the one kept."""
        known = self._summaries()
        return [
            summary
            for summary in summaries
            if known.get(summary.prompt_set) != (summary.rows, summary.newest)
        ]

    def unknown(self, prompt_sets: Sequence[str]) -> list[str]:
        """Return those of the sets that nothing is kept of."""
        known = self._kept(prompt_sets)
        return [name for name in prompt_sets if name not in known]

    def keep_only(self, prompt_sets: Collection[str]) -> None:
        """Drop what is kept of sets that left the tables, given all that are there."""
        self._drop(set(self._summaries()).difference(prompt_sets))

    def look_at(self, prompts: PromptsTable, prompt_sets: Collection[str]) -> None:
        """See what these sets say now, in the same way as `examine`; drop those without rows."""
        names = list(prompt_sets)
        for some in batches(names):
            summaries = summarise_sets(prompts, some)
            self._drop(set(some) - {summary.prompt_set for summary in summaries})
            self.examine(prompts, summaries)

    def examine(
        self, prompts: PromptsTable, sets: Sequence[SetSummary], *, neighbours: bool = False
    ) -> None:
        """Compare the rows of these sets with what is kept, and read those that differ.

        `neighbours`: the sets follow each other in the database's order, and are compared as one
        range. Checksums and summaries are always older than the rows that they are kept with: a
        change in between shows at the next look.
        """
        if not sets:
            return
        names = [summary.prompt_set for summary in sets]
        if neighbours:
            checksums = checksums_between(prompts, sets[0], sets[-1])
            # New since the sets were listed, or listed under another's name.
            refuse_merged_sets(prompts, checksums.keys() - set(names))
        else:
            checksums = checksums_among(prompts, names)
        kept = self._kept(names)
        changed, seen = [], []
        for summary in sets:
            checksum = checksums.get(summary.prompt_set)
            rows, newest, known = kept.get(summary.prompt_set, (0, None, None))
            if checksum is not None and checksum != known:
                changed.append(summary)
            elif known is not None and (rows, newest) != (summary.rows, summary.newest):
                seen.append(summary)
        self._save_summaries(seen)
        if changed:
            self._read(prompts, changed, checksums)

    def use_embeddings(self, embeddings: Mapping[str, EmbeddingRow]) -> None:
        """Note what the embeddings say now, for all sets whose rows name them."""
        c = set_contents.c
        of_dataset = c.dataset == self._dataset
        query = select(c.prompt_set, c.prompts, c.embeddings, c.embedding_ids).where(of_dataset)
        versions: dict[tuple[str, ...], str] = {}
        changed = []
        with self._ledger.reading() as connection:
            for name, prompts, before, embedding_ids in connection.execute(query):
                ids = tuple(embedding_ids)
                if ids not in versions:
                    versions[ids] = fingerprint_used(ids, embeddings)
                if versions[ids] != before:
                    changed.append((name, prompts, versions[ids]))
        statement = (
            update(set_contents)
            # Rows that were read anew meanwhile were read with their embeddings.
            .where(
                of_dataset,
                c.prompt_set == bindparam("set_name"),
                c.prompts == bindparam("read_prompts"),
            )
            .values(
                embeddings=bindparam("new_embeddings"),
                content=bindparam("new_content"),
                changed_at=dt.datetime.now(dt.UTC),
            )
        )
        self._ledger.execute_many(
            statement,
            [
                {
                    "set_name": name,
                    "read_prompts": prompts,
                    "new_embeddings": version,
                    "new_content": content_version(prompts, version),
                }
                for name, prompts, version in sorted(changed)
            ],
        )

    def _read(
        self, prompts: PromptsTable, sets: Sequence[SetSummary], checksums: Mapping[str, str]
    ) -> None:
        embeddings = prompts.source.embeddings()
        for batch in batches(sets):
            names = [summary.prompt_set for summary in batch]
            fingerprints = fingerprint_sets(prompts.source, names, embeddings=embeddings)
            earlier = self._contents(names)
            now = dt.datetime.now(dt.UTC)
            # A set without rows now is gone meanwhile, which the next look sees.
            contents = [
                _Content(
                    prompt_set=summary.prompt_set,
                    rows=summary.rows,
                    newest=summary.newest,
                    checksum=checksums[summary.prompt_set],
                    prompts=says.prompts,
                    embeddings=says.embeddings,
                    content=says.content,
                    embedding_ids=sorted(says.embedding_ids),
                    changed_at=earlier.get((summary.prompt_set, says.content), now),
                )
                for summary in batch
                if (says := fingerprints.get(summary.prompt_set)) is not None
            ]
            with self._ledger.engine.begin() as connection:
                _save(connection, self._dataset, contents)
        now_there = prompts.source.embeddings()
        if fingerprint_embeddings(now_there) != fingerprint_embeddings(embeddings):
            # Changed meanwhile: whoever looks after them may have been here before us.
            self.use_embeddings(now_there)

    def unreported(self, tick: str) -> list[SetFingerprint]:
        """Return the sets whose rows say what Dagster was not told, before this tick at least."""
        c = set_contents.c
        is_news = or_(c.reported.is_distinct_from(c.prompts), c.reported_in == tick)
        query = (
            select(c.prompt_set, c.rows, c.prompts, c.embeddings)
            .where(c.dataset == self._dataset, is_news)
            .order_by(c.changed_at, c.prompt_set)
        )
        with self._ledger.reading() as connection:
            return [SetFingerprint(*row) for row in connection.execute(query)]

    def record_reported(self, reported: Collection[SetFingerprint], *, tick: str) -> None:
        """Record that a tick tells Dagster what these sets' rows say."""
        values = {"reported": bindparam("new_reported"), "reported_in": tick}
        self._ledger.execute_many(
            self._update().values(values),
            [
                {"set_name": content.prompt_set, "new_reported": content.prompts}
                for content in _by_name(reported)
            ],
        )

    def _summaries(self) -> dict[str, tuple[int, str | None]]:
        c = set_contents.c
        query = select(c.prompt_set, c.rows, c.newest).where(c.dataset == self._dataset)
        with self._ledger.reading() as connection:
            return {name: (rows, newest) for name, rows, newest in connection.execute(query).all()}

    def _kept(self, prompt_sets: Sequence[str]) -> dict[str, tuple[int, str | None, str]]:
        c = set_contents.c
        return {
            name: (rows, newest, checksum)
            for name, rows, newest, checksum in self._select(
                [c.prompt_set, c.rows, c.newest, c.checksum], prompt_sets
            )
        }

    def _contents(self, prompt_sets: Sequence[str]) -> dict[tuple[str, str], dt.datetime]:
        c = set_contents.c
        return {
            (name, content): changed_at
            for name, content, changed_at in self._select(
                [c.prompt_set, c.content, c.changed_at], prompt_sets
            )
        }

    def _select(
        self, columns: Sequence[ColumnElement[Any]], prompt_sets: Sequence[str]
    ) -> Iterator[Any]:
        with self._ledger.reading() as connection:
            for names in batches(prompt_sets):
                query = select(*columns).where(
                    set_contents.c.dataset == self._dataset, set_contents.c.prompt_set.in_(names)
                )
                yield from connection.execute(query)

    def _save_summaries(self, sets: Sequence[SetSummary]) -> None:
        statement = self._update().values(
            rows=bindparam("new_rows"), newest=bindparam("new_newest")
        )
        self._ledger.execute_many(
            statement,
            [
                {"set_name": one.prompt_set, "new_rows": one.rows, "new_newest": one.newest}
                for one in _by_name(sets)
            ],
        )

    def _update(self) -> Update:
        return update(set_contents).where(
            set_contents.c.dataset == self._dataset,
            set_contents.c.prompt_set == bindparam("set_name"),
        )

    def _drop(self, prompt_sets: Collection[str]) -> None:
        if not prompt_sets:
            return
        with self._ledger.engine.begin() as connection:
            for names in batches(sorted(prompt_sets)):
                connection.execute(
                    delete(set_contents).where(
                        set_contents.c.dataset == self._dataset,
                        set_contents.c.prompt_set.in_(names),
                    )
                )


def _save(connection: Connection, dataset: str, contents: Sequence[_Content]) -> None:
    if not contents:
        return
    names = _Content.__slots__
    places: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    connection.execute(
        upsert(
            connection,
            set_contents,
            {"dataset": dataset, **places},
            replace=[name for name in names if name != "prompt_set"],
        ),
        [
            {f"new_{name}": getattr(content, name) for name in names}
            for content in _by_name(contents)
        ],
    )


def _by_name(items: Iterable[T]) -> list[T]:
    # Sorted, so that two who save the same sets at once wait for each other and never both.
    return sorted(items, key=attrgetter("prompt_set"))
