from __future__ import annotations

import datetime as dt
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest

from imagepipeline_dagster.tables.errors import TablesUnavailable
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow
from imagepipeline_dagster.tables.transfer.changes import ChangeKind, RowCounts
from imagepipeline_dagster.tables.transfer.incoming import ImportRefused, IncomingRows
from imagepipeline_dagster.tables.transfer.merge import Merge
from tests.tables.conftest import Execute
from tests.tables.filling import EMBEDDINGS, PROMPTS, csv_file, import_prompts, rows_in, run_sql


@pytest.fixture
def filled_url(created_url: str, execute: Execute) -> str:
    """The URL of a database with three sets: spring of three prompts, autumn and kept of one."""
    execute(
        "INSERT INTO prompts (prompt_set, prompt_id, prompt, seed) VALUES ('spring', 'a', 'p', 7),"
        " ('spring', 'b', 'p', 7), ('spring', 'c', 'p', 7), ('autumn', 'a', 'p', 7),"
        " ('kept', 'a', 'p', 7)"
    )
    return created_url


def merge_of(url: str, file: Path, *, replace_sets: bool = False) -> Merge:
    """Return a file's rows, about to be merged into the prompts."""
    return Merge(url, PROMPTS, IncomingRows(file, PromptRow), replace_sets=replace_sets)


def content(url: str) -> list[tuple[str, str, str, object]]:
    """Return the prompts of a database."""
    return [(row.prompt_set, row.prompt_id, row.prompt, row.seed) for row in rows_in(url)]


SPRING = [("spring", "a", "p"), ("spring", "b", "new text"), ("spring", "d", "p")]


def test_replaced_sets_hold_what_the_file_has(filled_url: str, tmp_path: Path) -> None:
    """Rows of the file's sets which it lacks go; other sets, and columns it lacks, stay."""
    report = import_prompts(filled_url, csv_file(tmp_path, SPRING), replace_sets=True)
    assert (report.inserted, report.updated, report.unchanged, report.deleted) == (1, 1, 1, 1)
    assert content(filled_url) == [
        ("autumn", "a", "p", 7),
        ("kept", "a", "p", 7),
        ("spring", "a", "p", 7),
        ("spring", "b", "new text", 7),
        ("spring", "d", "p", None),
    ]


def test_a_bad_file_deletes_nothing(filled_url: str, tmp_path: Path) -> None:
    """A replacement is refused whole, its deletions too."""
    before = content(filled_url)
    file = csv_file(tmp_path, [*SPRING, ("autumn", "x", "")])
    with pytest.raises(ImportRefused, match="line 5"):
        import_prompts(filled_url, file, replace_sets=True)
    assert content(filled_url) == before


def test_changes_are_told_and_nothing_is_written(filled_url: str, tmp_path: Path) -> None:
    """What would change is counted by set, with examples of each kind, in a read-only database."""
    before = content(filled_url)
    file = csv_file(tmp_path, [*SPRING, ("new", "a", "p"), ("kept", "a", "p")])
    with closing(merge_of(filled_url, file, replace_sets=True)) as merge:
        changes = merge.changes()
    assert changes.total == RowCounts(inserted=2, updated=1, unchanged=2, deleted=1)
    assert changes.by_set == {
        "spring": RowCounts(inserted=1, updated=1, unchanged=1, deleted=1),
        "new": RowCounts(inserted=1),
    }
    counts = {
        (change.kind, change.values["prompt_set"], change.values["prompt_id"])
        for change in changes.sample
    }
    assert counts == {
        (ChangeKind.INSERTED, "new", "a"),
        (ChangeKind.INSERTED, "spring", "d"),
        (ChangeKind.UPDATED, "spring", "b"),
        (ChangeKind.DELETED, "spring", "c"),
    }
    (updated,) = (change for change in changes.sample if change.kind is ChangeKind.UPDATED)
    assert updated.changed == ("prompt",)
    assert content(filled_url) == before


@pytest.mark.parametrize("replace_sets", [False, True])
def test_what_is_told_is_what_comes(filled_url: str, tmp_path: Path, replace_sets: bool) -> None:  # noqa: FBT001
    """The counts and the content that were foretold are those after the import."""
    file = csv_file(tmp_path, SPRING)
    with closing(merge_of(filled_url, file, replace_sets=replace_sets)) as merge:
        changes = merge.changes()
        with SourceTables(filled_url) as tables:
            ((name, foretold),) = merge.sets_after(tables, changes)
        report = merge.carry_out(at_most_deleted=changes.total.deleted)
    assert name == "spring"
    with SourceTables(filled_url) as tables:
        found = tables.prompts("spring")
    assert [(row.prompt_id, row.prompt, row.seed) for row in found] == [
        (row.prompt_id, row.prompt, row.seed) for row in foretold
    ]
    assert asdict(report).items() >= asdict(changes.total).items()


def test_more_deletions_than_were_agreed_on_are_refused(
    filled_url: str, tmp_path: Path, execute: Execute
) -> None:
    """A row that came after the changes were shown is not deleted without being seen."""
    with closing(merge_of(filled_url, csv_file(tmp_path, SPRING), replace_sets=True)) as merge:
        agreed = merge.changes().total.deleted
        execute("INSERT INTO prompts (prompt_set, prompt_id, prompt) VALUES ('spring', 'z', 'p')")
        before = content(filled_url)
        with pytest.raises(ImportRefused, match="changed meanwhile"):
            merge.carry_out(at_most_deleted=agreed)
    assert content(filled_url) == before


def test_replacing_in_a_table_of_ones_own(
    tables_url: str, tmp_path: Path, execute: Execute
) -> None:
    """Ids that are numbers or null, and a key that the database does not keep, are no obstacle."""
    execute(
        "CREATE TABLE prompts (prompt_set TEXT, prompt_id INTEGER, prompt TEXT)",
        "INSERT INTO prompts VALUES ('s', 1, 'a'), ('s', 2, 'b'), ('s', NULL, 'c'), ('t', 1, 'd')",
    )
    file = csv_file(tmp_path, [("s", "2", "b")])
    report = import_prompts(tables_url, file, replace_sets=True)
    assert (report.unchanged, report.deleted) == (1, 2)
    assert [row[:2] for row in content(tables_url)] == [("s", "2"), ("t", "1")]


def test_a_value_that_does_not_fit_is_told_before_writing(
    tables_url: str, tmp_path: Path, execute: Execute
) -> None:
    """What an import would be refused for is found out by looking, too."""
    execute("CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt INTEGER)")
    file = csv_file(tmp_path, [("s", "1", "words")])
    with (
        closing(merge_of(tables_url, file)) as merge,
        pytest.raises(ImportRefused, match="does not fit the column 'prompt'"),
    ):
        merge.changes()


def test_the_database_is_not_asked_about_a_bad_file(tmp_path: Path) -> None:
    """A file is checked whole before the database is touched, which need not even be there."""
    nowhere = f"sqlite:///{tmp_path}/nowhere.db"
    with pytest.raises(ImportRefused):
        merge_of(nowhere, csv_file(tmp_path, [("s", "1", "")]))
    with (
        closing(merge_of(nowhere, csv_file(tmp_path, SPRING))) as merge,
        pytest.raises(TablesUnavailable),
    ):
        merge.changes()


def test_embeddings_as_they_are_to_be(created_url: str, tmp_path: Path, execute: Execute) -> None:
    """Embeddings have no sets: their changes are told in all, and the rest of them stays."""
    execute(
        "INSERT INTO embeddings (embedding_id, name, version)"
        " VALUES ('e', 'E', '1'), ('f', 'F', '1')",
        "INSERT INTO prompts (prompt_set, prompt_id, prompt, embeddings)"
        " VALUES ('s', '1', 'p', 'e'), ('s', '2', 'p', NULL), ('t', '1', 'p', 'f')",
    )
    file = tmp_path / "e.csv"
    file.write_text("embedding_id,version\ne,2\ng,1\n")
    with (
        closing(Merge(created_url, EMBEDDINGS, IncomingRows(file, EmbeddingRow))) as merge,
        SourceTables(created_url) as tables,
    ):
        changes = merge.changes()
        after = merge.embeddings_after(tables)
        concerned = dict(merge.sets_after(tables, changes))
    assert {name: len(rows) for name, rows in concerned.items()} == {"s": 2}
    assert (changes.total, changes.by_set) == (RowCounts(inserted=1, updated=1), {})
    assert {(row.embedding_id, row.name, row.version) for row in after.values()} == {
        ("e", "E", "2"),
        ("f", "F", "1"),
        ("g", None, "1"),
    }


SAME_KEYS = [
    pytest.param("sqlite", "INTEGER", "7", "007", id="integer"),
    pytest.param("postgresql", "INTEGER", "7", "007", id="integer on PostgreSQL"),
    pytest.param("sqlite", "TEXT COLLATE NOCASE", "abc", "ABC", id="collation"),
    pytest.param("postgresql", "CHAR(5)", "abc", "abc", id="padded"),
    pytest.param(
        "postgresql",
        "UUID",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        id="uuid",
    ),
]


@pytest.mark.parametrize("key", [", PRIMARY KEY (prompt_set, prompt_id)", ""])
@pytest.mark.parametrize(
    ("tables_url", "of", "there", "brought"), SAME_KEYS, indirect=["tables_url"]
)
def test_an_id_that_the_table_takes_for_another_is_refused(
    tables_url: str,
    tmp_path: Path,
    execute: Execute,
    of: str,
    there: str,
    brought: str,
    key: str,
) -> None:
    """A row is never inserted beside, nor deleted as, the one that its own table takes it for."""
    execute(
        f"CREATE TABLE prompts (prompt_set TEXT, prompt_id {of}, prompt TEXT{key})",
    )
    execute("INSERT INTO prompts VALUES ('s', :there, 'p')", there=there)
    before = content(tables_url)
    file = csv_file(tmp_path, [("s", brought, "p")])
    for replace_sets in (False, True):
        with closing(merge_of(tables_url, file, replace_sets=replace_sets)) as merge:
            for step in (merge.changes, merge.carry_out):
                with pytest.raises(ImportRefused, match="for the same"):
                    step()
    assert content(tables_url) == before


def test_a_row_brought_under_an_id_that_the_table_changes_stays(
    postgres_url: str, tmp_path: Path
) -> None:
    """What an import wrote itself is not among what it deletes, however the table spells it."""
    run_sql(
        postgres_url,
        "CREATE TABLE prompts (prompt_set TEXT, prompt_id CHAR(5), prompt TEXT)",
    )
    file = csv_file(tmp_path, [("s", "abc", "p")])
    report = import_prompts(postgres_url, file, replace_sets=True)
    assert (report.inserted, report.deleted) == (1, 0)
    assert [row[:3] for row in content(postgres_url)] == [("s", "abc  ", "p")]


def test_an_id_that_the_table_would_change_is_refused(
    tables_url: str, tmp_path: Path, execute: Execute
) -> None:
    """Two rows of a file do not become one id, in a table that has neither yet."""
    execute("CREATE TABLE prompts (prompt_set TEXT, prompt_id INTEGER, prompt TEXT)")
    file = csv_file(tmp_path, [("s", "007", "p"), ("s", "7", "p")])
    with pytest.raises(ImportRefused, match="'007' and '7' for the same"):
        import_prompts(tables_url, file, replace_sets=True)
    assert content(tables_url) == []


def test_each_row_that_goes_is_counted(tables_url: str, tmp_path: Path, execute: Execute) -> None:
    """In a table without a key, rows of the same id, and those without any, are counted singly."""
    execute(
        "CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt TEXT)",
        "INSERT INTO prompts VALUES ('s', NULL, 'p'), ('s', NULL, 'p'), ('s', '', 'p'),"
        " ('s', 'd', 'p'), ('s', 'd', 'p'), ('s', 'a', 'p'), ('t', NULL, 'p')",
    )
    file = csv_file(tmp_path, [("s", "a", "p")])
    with closing(merge_of(tables_url, file, replace_sets=True)) as merge:
        shown = merge.changes().total.deleted
        execute("INSERT INTO prompts VALUES ('s', 'd', 'p')")
        with pytest.raises(ImportRefused, match="changed meanwhile"):
            merge.carry_out(at_most_deleted=shown)
        report = merge.carry_out()
    assert (shown, report.deleted) == (5, 6)
    assert [row[:2] for row in content(tables_url)] == [("s", "a"), ("t", "")]


def test_no_row_of_another_set_goes(sqlite_url: str, tmp_path: Path) -> None:
    """A set whose name the table takes for that of the file's loses nothing unseen."""
    run_sql(
        sqlite_url,
        "DROP TABLE prompts",
        "CREATE TABLE prompts (prompt_set TEXT COLLATE NOCASE, prompt_id TEXT, prompt TEXT)",
        "INSERT INTO prompts VALUES ('spring', 'd', 'p'), ('Spring', 'd', 'p')",
    )
    before = content(sqlite_url)
    file = csv_file(tmp_path, [("spring", "a", "p")])
    with pytest.raises(ImportRefused, match="2 rows would be deleted, and not the 1"):
        import_prompts(sqlite_url, file, replace_sets=True)
    assert content(sqlite_url) == before


@pytest.mark.parametrize("of", ["STRING", "DATE", "DATETIME", "NUMERIC", "BOOLEAN", ""])
def test_sqlite_keys_of_any_declared_type(tmp_path: Path, of: str) -> None:
    """SQLite keeps texts in a column of any type, and what it would make a number is refused."""
    url = f"sqlite:///{tmp_path}/own.db"
    (tmp_path / "own.db").touch()
    run_sql(
        url,
        f"CREATE TABLE prompts (prompt_set {of}, prompt_id {of}, prompt TEXT, updated_at {of})",
    )
    rows = [("2026-05-01", "x7", "p"), ("spring", "7", "p"), ("spring", "1.5", "p")]
    file = csv_file(tmp_path, rows)
    assert import_prompts(url, file).inserted == 3
    assert import_prompts(url, file, replace_sets=True).unchanged == 3
    assert {row[:3] for row in content(url)} == set(rows)
    if of:
        for text in ("007", "1e5"):
            with pytest.raises(ImportRefused, match=f"takes '{text}' and .* for the same"):
                import_prompts(url, csv_file(tmp_path, [("spring", text, "p")]))


def test_a_text_that_is_too_long_is_told_before_writing(postgres_url: str, tmp_path: Path) -> None:
    """A `varchar` that is too short is found out by looking, and named."""
    run_sql(
        postgres_url,
        "CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt VARCHAR(10))",
    )
    file = csv_file(tmp_path, [("s", "1", "ten signs."), ("s", "2", "eleven sign")])
    with closing(merge_of(postgres_url, file)) as merge:
        for step in (merge.changes, merge.carry_out):
            with pytest.raises(ImportRefused, match=r"'eleven sign' does not fit .*length=10"):
                step()
    assert content(postgres_url) == []


def test_a_column_of_dates_takes_times(tables_url: str, tmp_path: Path, execute: Execute) -> None:
    """Where `updated_at` is a date, it gets the day."""
    execute("CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt TEXT, updated_at DATE)")
    assert import_prompts(tables_url, csv_file(tmp_path, [("s", "1", "p")])).inserted == 1
    with SourceTables(tables_url) as tables:
        (row,) = tables.prompts("s")
    assert isinstance(row.updated_at, dt.datetime)
    assert row.updated_at.time() == dt.time()


def test_without_replacing_nothing_is_deleted(filled_url: str, tmp_path: Path) -> None:
    """Rows which the file lacks stay, unless its sets are to be replaced."""
    import_prompts(filled_url, csv_file(tmp_path, SPRING))
    assert ("spring", "c", "p", 7) in content(filled_url)
