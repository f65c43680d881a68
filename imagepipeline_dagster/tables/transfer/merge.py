"""The rows of a file merged into a table: what would change, and then the change, all or none."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import chain, groupby

from imagepipeline_dagster.tables.database import reading, writing
from imagepipeline_dagster.tables.errors import TableMissing, TablesError
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.schema import (
    EmbeddingRow,
    PromptRow,
    TableMapping,
    content_json,
    key_columns,
)
from imagepipeline_dagster.tables.spelling import look_alike, quoted
from imagepipeline_dagster.tables.transfer.changes import ChangeKind, Changes, RowChange, RowCounts
from imagepipeline_dagster.tables.transfer.incoming import IncomingRows
from imagepipeline_dagster.tables.transfer.progress import RowProgress
from imagepipeline_dagster.tables.transfer.staging import StagedRows
from imagepipeline_dagster.tables.transfer.target import TargetTable

_CHUNK = 2_000  # rows compared and written at a time
_SETS = 500  # prompt sets asked for at a time
_SETS_COMPARED = 20_000  # names that are looked at for those that look alike
_SAMPLED = (ChangeKind.INSERTED, ChangeKind.UPDATED, ChangeKind.DELETED)
_SAMPLE = 5  # rows of each kind


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport(RowCounts):
    """The rows that an import changed, counted.

    `duplicates` are rows that stood in the file before, in every column, and so were not written
    twice. `ignored_columns` are headers of the file that nothing was read from. `notes` say what
    was read otherwise than it was written.
    """

    duplicates: int
    ignored_columns: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Merge:
    """A file's rows, read and checked, before they are brought into a table; close it when done.

    Prompts go by prompt set and prompt id, embeddings by embedding id. A file of prompts without
    ids gives each row one that follows from its content: the same row gets the same id in every
    import. Rows and columns which the file does not have stay as they are.

    The database is not touched before `changes`, which only reads, and not changed before
    `carry_out`. `incoming` says what of the file was guessed and ignored; `rows` are its rows.

    With `replace_sets` rows which the file lacks go, out of the sets that the file has. The
    `on_progress` of the file is told of the rows "compared" or "written", too.

    Raises:
        ImportRefused: with what to put right in the file.
    """

    def __init__(
        self,
        url: str,
        mapping: TableMapping,
        incoming: IncomingRows,
        *,
        replace_sets: bool = False,
    ) -> None:
        self._url = url
        self._mapping = mapping
        self._replaces_sets = replace_sets
        self.incoming = incoming
        self.rows = incoming.stage()

    def close(self) -> None:
        """Forget the rows."""
        self.rows.close()

    @property
    def is_of_prompts(self) -> bool:
        """Whether the rows are prompts, and not embeddings."""
        return self.incoming.row_type is PromptRow

    def notes(self) -> tuple[str, ...]:
        """Return what was read otherwise than it was written, and set names that look alike."""
        alike: dict[str, str] = {}
        notes = list(self.incoming.notes)
        if self.is_of_prompts:
            for name in chain(self._sets_there(), *self.rows.prompt_sets(_SETS)):
                other = alike.setdefault(look_alike(name), name)
                if other != name:
                    notes.append(f"the prompt sets {quoted(other)} and {quoted(name)} look alike")
                if len(alike) >= _SETS_COMPARED:
                    break
        return tuple(dict.fromkeys(notes))

    def _sets_there(self) -> list[str]:
        try:
            with SourceTables(self._url, prompts=self._mapping) as tables:
                return tables.prompt_sets()
        except TablesError:  # whoever changes the tables says what is wrong with them
            return []

    def changes(self) -> Changes:
        """Return what would change if it were carried out now.

        Raises:
            ImportRefused: when the table cannot hold a value.
            TablesUnavailable, TableMissing, ColumnMissing: about the database.
        """
        by_set: defaultdict[str, RowCounts] = defaultdict(RowCounts)
        sample: dict[ChangeKind, list[RowChange]] = {kind: [] for kind in _SAMPLED}
        with reading(self._url) as connection:
            target = TargetTable(connection, self._mapping, self.incoming)
            for changes in self._compared(target, done="compared"):
                target.check(changes)
                for name, of_set in groupby(changes, key=_prompt_set):
                    by_set[name] += RowCounts.of(of_set)
                for change in changes:
                    if change.kind in sample and len(sample[change.kind]) < _SAMPLE:
                        sample[change.kind].append(change)
        return Changes(
            total=sum(by_set.values(), start=RowCounts()),
            by_set={name: counts for name, counts in by_set.items() if name and counts.changed},
            sample=tuple(chain.from_iterable(sample.values())),
        )

    def sets_after(
        self, tables: SourceTables, changes: Changes
    ) -> Iterator[tuple[str, list[PromptRow]]]:
        """Yield the prompt sets that the changes concern, with all rows as they are to be.

        A change of an embedding concerns the sets whose prompts use it. `tables` are as they are.
        """
        if self.is_of_prompts:
            for name in changes.by_set:
                yield name, self.prompts_after(name, tables.prompts(name))
            return
        before = {key: content_json(row) for key, row in tables.embeddings().items()}
        after = self.embeddings_after(tables)
        changed = {key for key, row in after.items() if before.get(key) != content_json(row)}
        concerned = {row.prompt_set for row in tables.iter_prompts() if row.embeddings in changed}
        for name in sorted(concerned):
            yield name, tables.prompts(name)

    def prompts_after(self, prompt_set: str, rows: Iterable[PromptRow]) -> list[PromptRow]:
        """Return a prompt set's rows as they are to be; `rows` are as they are."""
        brought = {row["prompt_id"]: row for row in self.rows.of_set(prompt_set)}
        kept = [row for row in rows if not self._replaces_sets or row.prompt_id in brought]
        after = [replace(row, **brought.pop(row.prompt_id, {})) for row in kept]
        after += [PromptRow(**row) for row in brought.values()]
        return sorted(after, key=lambda row: row.prompt_id)

    def embeddings_after(self, tables: SourceTables) -> dict[str, EmbeddingRow]:
        """Return the embeddings by id as they are to be; `tables` are as they are.

        A database of prompts alone has none.
        """
        try:
            after = tables.embeddings()
        except TableMissing:
            after = {}
        if not self.is_of_prompts:
            for row in chain.from_iterable(self.rows.chunks(_CHUNK)):
                there = after.get(row["embedding_id"])
                after[row["embedding_id"]] = replace(there, **row) if there else EmbeddingRow(**row)
        return after

    def carry_out(self, *, at_most_deleted: int | None = None) -> ImportReport:
        """Write the rows, in one transaction.

        `at_most_deleted` is how many rows somebody agreed to lose.

        Raises:
            ImportRefused: when the table cannot hold a value, or when more rows would go than were
                agreed on. Nothing was changed.
            TablesUnavailable, TableMissing, ColumnMissing, RowRefused: about the database. Nothing
                was changed.
        """
        now = dt.datetime.now(dt.UTC)
        total, deleted = RowCounts(), 0
        with writing(self._url) as connection:
            target = TargetTable(connection, self._mapping, self.incoming)
            for changes in self._compared(target, done="written"):
                deleted += target.apply(changes, now=now)
                total += RowCounts.of(changes)
                if at_most_deleted is not None and total.deleted > at_most_deleted:
                    raise self.incoming.refused(
                        "the table changed meanwhile: more rows would be deleted than the "
                        f"{at_most_deleted:,} that were shown; look again"
                    )
            if deleted != total.deleted:
                raise self.incoming.refused(
                    f"{deleted:,} rows would be deleted, and not the {total.deleted:,} that the "
                    "file lacks: the table takes several of its keys for the same, or changed "
                    "meanwhile"
                )
        return ImportReport(
            **asdict(total),
            duplicates=self.incoming.duplicates,
            ignored_columns=self.incoming.ignored_columns,
            notes=self.notes(),
        )

    def _compared(self, target: TargetTable, *, done: str) -> Iterator[list[RowChange]]:
        """Yield what becomes of each row, those of a set one after the other; deletions last."""
        with closing(StagedRows(PromptRow)) as surplus:
            # Gathered before anything is written: whatever the file brings cannot be among them.
            repeats = self._gather_surplus(target, surplus) if self._replaces_sets else Counter()
            number, of = 0, len(self.rows)
            for chunk in self.rows.chunks(_CHUNK):
                yield target.compared(chunk)
                number += len(chunk)
                self.incoming.on_progress(RowProgress(done, number, of))
            for chunk in surplus.chunks(_CHUNK):
                yield [
                    RowChange(before=row, after=None)
                    for row in chunk
                    for _ in range(1 + repeats[tuple(row.values())])
                ]

    def _gather_surplus(self, target: TargetTable, surplus: StagedRows) -> Counter[tuple[str, ...]]:
        """Take the keys that the file lacks; return how many more rows of the table have each."""
        repeats: Counter[tuple[str, ...]] = Counter()
        for names in self.rows.prompt_sets(_SETS):
            for key in target.keys_of_sets(names):
                if key in self.rows:
                    continue
                row = dict(zip(key_columns(PromptRow), key, strict=True))
                # In a table of one's own, keys may repeat, and ids be null.
                if surplus.add(row) is not None:
                    repeats[key] += 1
        return repeats


def _prompt_set(change: RowChange) -> str:
    """Return the row's prompt set; all embeddings are one set without a name."""
    return str(change.values.get("prompt_set", ""))
