"""What each prompt set of the tables says, as far as it was looked at; kept in the ledger.

`SetContents` is the desired side of reconciling. A set's rows are read when their checksum is not
the one that is kept; until then what they say is known without reading them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, or_, select, update

from imagepipeline_dagster.databases import batches
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import set_contents
from imagepipeline_dagster.ledger.upserts import insert
from imagepipeline_dagster.tables.checksums import checksums_among, checksums_between
from imagepipeline_dagster.tables.fingerprints import (
    SetFingerprint,
    fingerprint_embeddings,
    fingerprint_sets,
    fingerprint_used,
)
from imagepipeline_dagster.tables.reading import PromptsTable
from imagepipeline_dagster.tables.schema import EmbeddingRow
from imagepipeline_dagster.tables.summaries import SetSummary, refuse_merged_sets, summarise_sets

_READ_ANEW = (
    *("rows", "newest", "checksum", "prompts", "embeddings", "content"),
    *("embedding_ids", "changed_at"),
)


class SetContents:
    """The contents of one dataset's prompt sets, in the ledger's database."""

    def __init__(self, ledger: Ledger, *, dataset: str) -> None:
        self._ledger = ledger
        self._dataset = dataset
        self._is_ours = set_contents.c.dataset == dataset

    def differing(self, summaries: Iterable[SetSummary]) -> list[SetSummary]:
        """Return those of all sets whose number of rows or newest time is not the one kept."""
        known = self._kept("rows", "newest")
        return [
            summary
            for summary in summaries
            if known.get(summary.prompt_set) != (summary.rows, summary.newest)
        ]

    def unknown(self, prompt_sets: Sequence[str]) -> list[str]:
        """Return those of the sets that nothing is kept of."""
        known = self._kept("rows", of=prompt_sets)
        return [name for name in prompt_sets if name not in known]

    def keep_only(self, prompt_sets: Collection[str]) -> None:
        """Drop what is kept of sets that left the tables, given all that are there."""
        self._drop(self._kept("rows").keys() - set(prompt_sets))

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
        kept = self._kept("rows", "newest", "checksum", of=names)
        changed, seen = [], []
        for summary in sets:
            checksum = checksums.get(summary.prompt_set)
            rows, newest, known = kept.get(summary.prompt_set, (0, None, None))
            if checksum is not None and checksum != known:
                changed.append(summary)
            elif known is not None and (rows, newest) != (summary.rows, summary.newest):
                seen.append(summary)
        self._update(
            {"set_name": summary.prompt_set, "rows": summary.rows, "newest": summary.newest}
            for summary in seen
        )
        if changed:
            self._read(prompts, changed, checksums)

    def use_embeddings(self, embeddings: Mapping[str, EmbeddingRow]) -> None:
        """Note what the embeddings say now, for all sets whose rows name them."""
        c = set_contents.c
        columns = (c.prompt_set, c.rows, c.prompts, c.embeddings, c.embedding_ids)
        query = select(*columns).where(self._is_ours)
        used = cache(lambda ids: fingerprint_used(ids, embeddings))
        now = dt.datetime.now(dt.UTC)
        with self._ledger.reading() as connection:
            changed = [
                {
                    "set_name": name,
                    "read_prompts": prompts,
                    "embeddings": version,
                    "content": SetFingerprint(name, rows, prompts, version).content,
                    "changed_at": now,
                }
                for name, rows, prompts, before, ids in connection.execute(query)
                if (version := used(tuple(ids))) != before
            ]
        # Rows that were read anew meanwhile were read with their embeddings.
        self._update(changed, c.prompts == bindparam("read_prompts"))

    def _read(
        self, prompts: PromptsTable, sets: Sequence[SetSummary], checksums: Mapping[str, str]
    ) -> None:
        embeddings = prompts.source.embeddings()
        for batch in batches(sets):
            names = [summary.prompt_set for summary in batch]
            fingerprints = fingerprint_sets(prompts.source.iter_prompts(names), embeddings)
            earlier = self._kept("content", "changed_at", of=names)
            now = dt.datetime.now(dt.UTC)
            rows = []
            for summary in batch:
                says = fingerprints.get(summary.prompt_set)
                if says is None:
                    continue  # it is gone meanwhile, which the next look sees
                content, changed_at = earlier.get(summary.prompt_set, (None, now))
                rows.append(
                    {
                        "dataset": self._dataset,
                        "prompt_set": summary.prompt_set,
                        "rows": summary.rows,
                        "newest": summary.newest,
                        "checksum": checksums[summary.prompt_set],
                        "prompts": says.prompts,
                        "embeddings": says.embeddings,
                        "content": says.content,
                        "embedding_ids": sorted(says.embedding_ids),
                        "changed_at": changed_at if content == says.content else now,
                    }
                )
            save = insert(self._ledger.engine.dialect.name, set_contents, _READ_ANEW)
            self._ledger.execute_many(save, sorted(rows, key=itemgetter("prompt_set")))
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
            .where(self._is_ours, is_news)
            .order_by(c.changed_at, c.prompt_set)
        )
        with self._ledger.reading() as connection:
            return [SetFingerprint(*row) for row in connection.execute(query)]

    def record_reported(self, reported: Collection[SetFingerprint], *, tick: str) -> None:
        """Record that a tick tells Dagster what these sets' rows say."""
        self._update(
            {"set_name": says.prompt_set, "reported": says.prompts, "reported_in": tick}
            for says in reported
        )

    def _kept(self, *columns: str, of: Sequence[str] | None = None) -> dict[str, tuple[Any, ...]]:
        """Return what these columns hold of these sets, or of all."""
        c = set_contents.c
        query = select(c.prompt_set, *(c[name] for name in columns)).where(self._is_ours)
        queries = [query] if of is None else [query.where(c.prompt_set.in_(s)) for s in batches(of)]
        with self._ledger.reading() as connection:
            rows = chain.from_iterable(map(connection.execute, queries))
            return {name: tuple(values) for name, *values in rows}

    def _update(self, rows: Iterable[Mapping[str, Any]], *conditions: ColumnElement[bool]) -> None:
        """Give sets other values by the names of their columns; `set_name` is the set's."""
        is_set = set_contents.c.prompt_set == bindparam("set_name")
        self._ledger.execute_many(
            update(set_contents).where(self._is_ours, is_set, *conditions),
            # Sorted, so that two who save the same sets at once wait for each other and never both.
            sorted(rows, key=itemgetter("set_name")),
        )

    def _drop(self, prompt_sets: Collection[str]) -> None:
        is_set = set_contents.c.prompt_set == bindparam("set_name")
        self._ledger.execute_many(
            delete(set_contents).where(self._is_ours, is_set),
            [{"set_name": name} for name in sorted(prompt_sets)],
        )
