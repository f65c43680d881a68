from __future__ import annotations

import datetime as dt
import gc
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from imagepipeline_dagster.tables.checksums import checksums_among
from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.errors import ColumnMissing, TableMissing, TablesUnavailable
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, TableMapping
from imagepipeline_dagster.tables.summaries import count_unassigned, sets_since, summarise_sets
from tests.tables.asking import asked, newest_in
from tests.tables.conftest import Execute
from tests.tables.filling import FULL_PROMPT, insert, run_sql

THREE = (
    "CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt TEXT)",
    """INSERT INTO prompts
    VALUES ('b', '10', 'x'), ('b', '9', 'y'), ('a/ü', '1', 'z'), (NULL, '1', 'lost')""",
)


NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)


def test_sets_and_rows(tables: SourceTables, execute: Execute) -> None:
    """Sets and their rows come sorted, as they are now; rows without a set are counted."""
    execute(*THREE)
    assert tables.prompt_sets() == ["a/ü", "b"]
    assert [row.prompt_id for row in tables.prompts("b")] == ["10", "9"]
    assert tables.prompts("a/ü") == [PromptRow(prompt_set="a/ü", prompt_id="1", prompt="z")]
    assert tables.prompts("unknown") == []
    # A name is a value, whatever it looks like.
    assert tables.prompts("b' OR '1'='1") == []
    assert asked(count_unassigned, tables) == 1
    assert sorted(row.prompt for row in tables.iter_prompts()) == ["x", "y", "z"]
    execute("UPDATE prompts SET prompt_set = 'c' WHERE prompt_set = 'b'")
    assert tables.prompt_sets() == ["a/ü", "c"]
    assert tables.prompts("b") == []


def test_prompts_that_name_no_embedding_need_no_table_of_them(
    tables: SourceTables, tables_url: str, execute: Execute
) -> None:
    """A missing embeddings table is an error where it is named, or where a prompt may need it."""
    execute(*THREE)
    assert tables.embeddings() == {}
    with (
        SourceTables(tables_url, embeddings=TableMapping("styles")) as named,
        pytest.raises(TableMissing, match="'styles'"),
    ):
        named.embeddings()
    execute("ALTER TABLE prompts ADD COLUMN embeddings TEXT")
    tables.look_up_again()
    with pytest.raises(TableMissing, match="'embeddings'"):
        tables.embeddings()


def test_tables_of_this_package_are_read_in_full(
    created_url: str, tables: SourceTables, execute: Execute
) -> None:
    """Every column of the created tables is read as its own type."""
    insert(created_url, "prompts", FULL_PROMPT)
    execute(
        "INSERT INTO embeddings VALUES ('e', 'name', 'sdxl', 'a, b', 'either', '2', :time)",
        time="2026-05-01 12:00:00+00:00",
    )
    time = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
    assert tables.prompts("s") == [PromptRow(**FULL_PROMPT)]
    assert tables.embeddings() == {
        "e": EmbeddingRow(
            embedding_id="e",
            name="name",
            base_model="sdxl",
            trigger_words=("a", "b"),
            placement="either",
            version="2",
            updated_at=time,
        )
    }


def test_rows_inserted_by_hand_get_a_time(
    tables_url: str, tables: SourceTables, execute: Execute
) -> None:
    """Whoever inserts a row without thinking of `updated_at` still has it noticed."""
    create_tables(tables_url)
    execute("INSERT INTO prompts (prompt_set, prompt_id, prompt) VALUES ('s', '1', 'p')")
    (row,) = tables.prompts("s")
    assert isinstance(row.updated_at, dt.datetime)
    assert abs(row.updated_at - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)


def test_types_as_people_have_them(tables: SourceTables, execute: Execute) -> None:
    """Numbers as text, flags as numbers and ids as numbers are read as what they mean."""
    execute(
        "CREATE TABLE prompts (prompt_set INTEGER, prompt_id INTEGER, prompt TEXT, samples TEXT,"
        " guidance_scale NUMERIC(4, 2), refiner INTEGER, safety_checker TEXT, updated_at TEXT)",
        "INSERT INTO prompts VALUES (2026, 7, 'p', '3.0', 7.25, 0, 'yes', '2026-05-01T12:00:00Z'),"
        " (2026, 8, 'p', 'many', NULL, 5, '', 'soon'),"
        " (2027, 9, 'p', NULL, NULL, NULL, NULL, NULL)",
    )
    assert tables.prompt_sets() == ["2026", "2027"]
    good, bad = tables.prompts("2026")
    assert (good.prompt_set, good.prompt_id, good.samples) == ("2026", "7", 3)
    assert (good.guidance_scale, good.refiner, good.safety_checker) == (7.25, False, True)
    assert good.updated_at == dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
    assert (bad.samples, bad.refiner, bad.safety_checker) == ("many", "5", None)
    assert bad.updated_at == "soon"


def test_mapped_names(tables_url: str, execute: Execute) -> None:
    """Tables and columns of other names, spaces and keywords among them, are read by mapping."""
    execute(
        'CREATE TABLE "my order" ("Group" TEXT, "select" TEXT, "the ""text""" TEXT, steps INTEGER)',
        "INSERT INTO \"my order\" VALUES ('s', '1', 'p', 30)",
    )
    mapping = TableMapping(
        "my order",
        {
            "prompt_set": "Group",
            "prompt_id": "select",
            "prompt": 'the "text"',
            "num_inference_steps": "steps",
        },
    )
    with SourceTables(tables_url, prompts=mapping) as tables:
        assert tables.prompts("s") == [
            PromptRow(prompt_set="s", prompt_id="1", prompt="p", num_inference_steps=30)
        ]


def test_views_are_tables(tables: SourceTables, execute: Execute) -> None:
    """A view is read like a table."""
    execute(
        "CREATE TABLE source (kind TEXT, id TEXT, words TEXT)",
        "INSERT INTO source VALUES ('s', '1', 'p')",
        "CREATE VIEW prompts AS SELECT kind AS prompt_set, id AS prompt_id, words AS prompt"
        " FROM source",
    )
    assert tables.prompts("s") == [PromptRow(prompt_set="s", prompt_id="1", prompt="p")]


def test_types_of_postgresql(postgres_url: str) -> None:
    """Schemas, enums, uuids, arrays, JSON and types unknown to SQLAlchemy are read."""
    with SourceTables(
        postgres_url,
        prompts=TableMapping("studio.prompts"),
        embeddings=TableMapping("studio.embeddings"),
    ) as tables:
        run_sql(
            postgres_url,
            """
                CREATE SCHEMA studio;
                CREATE TYPE studio.season AS ENUM ('spring', 'autumn');
                CREATE TABLE studio.prompts
                    (prompt_set studio.season, prompt_id uuid, prompt text, place xid8);
                INSERT INTO studio.prompts
                    VALUES ('spring', '15f002de-bf0c-4b99-857b-a7a4bd7030dc', 'p', NULL);
                CREATE TABLE studio.embeddings (embedding_id text, trigger_words text[]);
                INSERT INTO studio.embeddings VALUES ('e', '{one,two words}');
                """,
        )
        assert tables.prompt_sets() == ["spring"]
        (row,) = tables.prompts("spring")
        assert row.prompt_id == "15f002de-bf0c-4b99-857b-a7a4bd7030dc"
        assert tables.prompts("winter") == []
        assert tables.embeddings()["e"].trigger_words == ("one", "two words")


def test_newest_row_of_a_repeated_embedding_counts(tables: SourceTables, execute: Execute) -> None:
    """Where an embedding's id stands twice, the same row counts in every reading: the newest."""
    execute(
        "CREATE TABLE embeddings (embedding_id TEXT, version TEXT, updated_at TIMESTAMP)",
        "INSERT INTO embeddings VALUES ('e', '2', '2026-05-02 00:00:00'),"
        " ('e', '1', '2026-05-01 00:00:00'), (NULL, '3', NULL)",
    )
    assert {key: row.version for key, row in tables.embeddings().items()} == {"e": "2"}


def test_streaming_may_stop_early(tables: SourceTables, execute: Execute) -> None:
    """A reader that takes one row of many leaves no connection behind."""
    execute(
        "CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt TEXT)",
        "INSERT INTO prompts WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
        " WHERE i < 5000) SELECT 's', CAST(i AS TEXT), 'p' FROM n",
    )
    rows = tables.iter_prompts()
    assert next(rows).prompt_set == "s"
    del rows
    gc.collect()
    assert sum(1 for _ in tables.iter_prompts()) == 5000


@pytest.mark.parametrize("scheme", ["postgres://", "postgresql://", "postgresql+psycopg://"])
def test_postgresql_urls(postgres_url: str, scheme: str) -> None:
    """The usual spellings of a PostgreSQL URL mean psycopg 3."""
    create_tables(postgres_url)
    url = postgres_url.replace("postgresql://", scheme)
    with SourceTables(url) as tables:
        assert tables.prompt_sets() == []


def test_reading_never_writes(tables_url: str, execute: Execute) -> None:
    """Even a statement that writes is refused on a reader's connection."""
    execute(*THREE)
    with SourceTables(tables_url) as tables:
        delete = sa.text("DELETE FROM prompts")
        with pytest.raises(sa.exc.DBAPIError), tables._engine.connect() as connection:
            connection.execute(delete)
        assert len(list(tables.iter_prompts())) == 3


def test_missing_sqlite_file_is_not_made(tmp_path: Path) -> None:
    """A wrong path is an error that says how to make the tables, and makes no file."""
    with pytest.raises(TablesUnavailable, match="imagepipeline-dagster init"):
        SourceTables(f"sqlite:///{tmp_path}/nowhere.db")
    assert list(tmp_path.iterdir()) == []


def test_relative_and_hostile_sqlite_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite path may be relative, and have signs in it that mean something in URLs."""
    monkeypatch.chdir(tmp_path)
    url = "sqlite:///50% off #1/ta bles.db"
    create_tables(url)
    with SourceTables(url) as tables:
        assert tables.prompt_sets() == []
    assert [str(file) for file in Path().rglob("*.db")] == ["50% off #1/ta bles.db"]


def test_no_database_in_a_file(tmp_path: Path) -> None:
    """A file that is no database is named in the error."""
    file = tmp_path / "notes.db"
    file.write_text("not a database " * 100)
    told = r"notes\.db cannot be used: file is not a database\. .* has room"
    with (
        SourceTables(f"sqlite:///{file}") as tables,
        pytest.raises(TablesUnavailable, match=told),
    ):
        tables.prompt_sets()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:9/db",
        "postgresql://me@127.0.0.1:9/db?password=s3cret",
        "unknowndb://me:s3cret@host/db",
        "postgresql//me:s3cret@host/db",
    ],
)
def test_unreachable_database_is_named_without_its_password(url: str) -> None:
    """A database that cannot be reached gives an error without the password, saying what to do."""
    with pytest.raises(TablesUnavailable) as caught, SourceTables(url) as tables:
        tables.prompt_sets()
    assert "s3cret" not in str(caught.value)


def test_missing_table_names_those_there(tables: SourceTables, execute: Execute) -> None:
    """A table that is not there is named, with those that are and how to map one."""
    execute("CREATE TABLE ideas (x TEXT)", "CREATE VIEW plans AS SELECT x FROM ideas")
    with pytest.raises(TableMissing) as caught:
        tables.prompt_sets()
    for part in ("'prompts'", "'ideas', 'plans'", "TableMapping", "init"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "asked_back"),
    [("nowhere", ""), ("Public", " Did you mean 'public'"), ("MAIN", " Did you mean 'main'")],
)
def test_missing_schema(tables_url: str, schema: str, asked_back: str) -> None:
    """A schema that is not there, or is spelled otherwise, is told as a table that is not there."""
    is_other = schema == ("MAIN" if tables_url.startswith("postgresql") else "Public")
    with (
        SourceTables(tables_url, prompts=TableMapping(f"{schema}.prompts")) as tables,
        pytest.raises(TableMissing) as caught,
    ):
        tables.prompt_sets()
    assert f"There is no schema {schema!r} with tables in it." in str(caught.value)
    assert is_other or str(caught.value).endswith(f"in it.{asked_back}{'?' * bool(asked_back)}")


def test_missing_column_names_those_there(tables: SourceTables, execute: Execute) -> None:
    """A required column that is not there is named, with those that are and how to map one."""
    execute('CREATE TABLE prompts (prompt_set TEXT, "Text" TEXT)')
    with pytest.raises(ColumnMissing) as caught:
        tables.prompt_sets()
    for part in ("'prompt_id', 'prompt'", "'prompt_set', 'Text'", "columns={"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"seed": "Seed"}, "no column 'Seed'"), ({"sead": "s"}, "names 'sead', which")],
)
def test_mapping_mistakes(
    tables_url: str, execute: Execute, columns: dict[str, str], message: str
) -> None:
    """A mapping to a column that is not there, or from one that is not ours, is an error."""
    execute(*THREE)
    mapping = TableMapping("prompts", columns)
    with (
        SourceTables(tables_url, prompts=mapping) as tables,
        pytest.raises(ColumnMissing, match=message),
    ):
        tables.prompt_sets()


def test_reader_sees_past_a_writer(tmp_path: Path) -> None:
    """Somebody's open transaction on the same file does not stop a reader."""
    file = tmp_path / "tables.db"
    create_tables(f"sqlite:///{file}")
    writer = sqlite3.connect(file)
    writer.execute("INSERT INTO prompts (prompt_set, prompt_id, prompt) VALUES ('s', '1', 'p')")
    with SourceTables(f"sqlite:///{file}") as tables:
        assert tables.prompt_sets() == []
        writer.commit()
        assert tables.prompt_sets() == ["s"]
    writer.close()


def test_a_user_who_may_only_read_is_enough(postgres_url: str) -> None:
    """With SELECT on the two tables, and nothing else, everything that is asked is answered."""
    create_tables(postgres_url)
    run_sql(
        postgres_url,
        "CREATE ROLE reader LOGIN PASSWORD 'reader'",
        "GRANT SELECT ON prompts, embeddings TO reader",
        "INSERT INTO prompts (prompt_set, prompt_id, prompt) VALUES ('s', '1', 'p')",
    )
    try:
        read_only = sa.make_url(postgres_url).set(username="reader", password="reader")
        with SourceTables(read_only.render_as_string(hide_password=False)) as tables:
            newest = newest_in(tables)
            assert asked(sets_since, tables, newest, at_most=5) == ["s"]
            assert [each.rows for each in asked(summarise_sets, tables)] == [1]
            assert set(asked(checksums_among, tables, ["s"])) == {"s"}
            assert tables.prompts("s")
            assert tables.embeddings() == {}
    finally:
        run_sql(postgres_url, "DROP OWNED BY reader", "DROP ROLE reader")


def test_a_database_that_does_not_answer_in_time(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that waits longer than a tick can is given up with an error that says so."""
    monkeypatch.setattr("imagepipeline_dagster.tables.reading._QUERY_SECONDS", 0.2)
    create_tables(postgres_url)
    engine = sa.create_engine(postgres_url)
    with SourceTables(postgres_url) as tables, engine.begin() as connection:
        tables.prompt_sets()
        connection.exec_driver_sql("LOCK TABLE prompts IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(TablesUnavailable, match="statement timeout"):
            tables.prompt_sets()
    engine.dispose()


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    """Whoever moves another database to the same path has that one read, columns included."""
    for name, column in (("one", "seed"), ("two", "samples")):
        with sqlite3.connect(tmp_path / name) as connection:
            connection.execute(
                f"CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt TEXT, {column} INT)"
            )
            connection.execute("INSERT INTO prompts VALUES (?, '1', 'p', 3)", [name])
        connection.close()
    file = (tmp_path / "one").rename(tmp_path / "tables.db")
    with SourceTables(f"sqlite:///{file}") as tables:
        assert tables.prompts("one")[0].seed == 3
        (tmp_path / "two").rename(file)
        with pytest.raises(TablesUnavailable, match="no such column: seed"):
            tables.prompts("two")
        assert tables.prompts("two")[0].samples == 3
        file.unlink()
        with pytest.raises(TablesUnavailable, match="There is no SQLite file"):
            tables.prompt_sets()


def test_a_column_gets_another_type_while_it_is_watched(postgres_url: str) -> None:
    """A table that was read again and again on one connection is read after a change of its type.

    PostgreSQL keeps the plan of a statement that its driver prepared, and refuses it from then on.
    """
    create_tables(postgres_url)
    row = {"prompt_set": "s", "prompt_id": "a", "prompt": "p", "updated_at": NOON}
    insert(postgres_url, "prompts", row)
    with SourceTables(postgres_url) as tables:
        seen = [newest_in(tables) for _ in range(10)]
        assert set(seen) == {"time 2026-05-01 12:00:00+00:00"}
        run_sql(postgres_url, "ALTER TABLE prompts ALTER COLUMN updated_at TYPE text")
        assert newest_in(tables).startswith("text 2026-05-01")
