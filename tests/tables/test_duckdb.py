"""A database that is neither SQLite nor PostgreSQL, by its URL alone."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from imagepipeline_dagster.tables.checksums import checksums_among, checksums_between
from imagepipeline_dagster.tables.errors import TableMissing, TablesError, TablesUnavailable
from imagepipeline_dagster.tables.fingerprints import fingerprint_sets
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.schema import TableMapping
from imagepipeline_dagster.tables.summaries import refuse_merged_sets, sets_since, summarise_sets
from tests.tables.asking import asked, newest_in
from tests.tables.filling import run_sql

TABLES = (
    "CREATE SCHEMA studio",
    (
        "CREATE TABLE studio.briefs (campaign TEXT, prompt_id UUID, prompt TEXT, samples TEXT,"
        " guidance_scale DECIMAL(4, 2), refiner BOOLEAN, updated_at TIMESTAMPTZ)"
    ),
    (
        "INSERT INTO studio.briefs VALUES"
        " ('spring', '15f002de-bf0c-4b99-857b-a7a4bd7030dc', 'a boat', '3', 7.25, true,"
        " '2026-05-01 12:00:00+02')"
    ),
    "CREATE TABLE embeddings (embedding_id TEXT, trigger_words TEXT[], version INTEGER)",
    "INSERT INTO embeddings VALUES ('look', ['lk', 'two words'], 2)",
    "CREATE VIEW prompts AS SELECT campaign AS prompt_set, prompt_id, prompt FROM studio.briefs",
)
BRIEFS = TableMapping("studio.briefs", {"prompt_set": "campaign"})


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a DuckDB file with tables in it."""
    found = f"duckdb:///{tmp_path / 'warehouse.duckdb'}"
    run_sql(found, *TABLES)
    return found


def test_rows_are_read(url: str) -> None:
    """A mapped table in a schema, uuids, decimals, arrays and a view are read as elsewhere."""
    with SourceTables(url, prompts=BRIEFS) as tables:
        (row,) = tables.prompts("spring")
        embedding = tables.embeddings()["look"]
    assert (row.prompt_id, row.samples) == ("15f002de-bf0c-4b99-857b-a7a4bd7030dc", 3)
    assert (row.guidance_scale, row.refiner) == (7.25, True)
    assert row.updated_at == dt.datetime(2026, 5, 1, 10, tzinfo=dt.UTC)
    assert (embedding.trigger_words, embedding.version) == (("lk", "two words"), "2")
    with SourceTables(url) as tables:
        assert [row.prompt for row in tables.iter_prompts()] == ["a boat"]


def test_changes_are_seen(url: str) -> None:
    """Newest times, summaries and checksums follow what another program writes."""
    with SourceTables(url, prompts=BRIEFS) as tables:
        newest, before = newest_in(tables), asked(checksums_among, tables, ["spring"])
        fingerprints = fingerprint_sets(tables.iter_prompts(), tables.embeddings())
        run_sql(
            url,
            "UPDATE studio.briefs SET updated_at = now()",
            "INSERT INTO studio.briefs (campaign, prompt_id, prompt, updated_at)"
            " VALUES ('autumn', uuid(), 'a raft', now())",
        )
        assert asked(sets_since, tables, newest, at_most=9) == ["autumn", "spring"]
        first, last = asked(summarise_sets, tables)
        assert asked(checksums_between, tables, last, last) == before
        assert set(asked(checksums_between, tables, first, last)) == {"autumn", "spring"}
        assert (
            fingerprint_sets(tables.iter_prompts(["spring"]), tables.embeddings()) == fingerprints
        )


def test_nothing_is_written(url: str, tmp_path: Path) -> None:
    """The file is opened for reading alone, and one that is missing is an error."""
    with (
        SourceTables(url) as tables,
        pytest.raises(TablesUnavailable, match="read-only"),
        tables.open_prompts() as prompts,
        prompts.reporting() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM embeddings")
    missing = f"duckdb:///{tmp_path / 'nowhere.duckdb'}"
    with SourceTables(missing) as tables, pytest.raises(TablesUnavailable, match="nowhere"):
        tables.prompt_sets()
    with (
        SourceTables(url, prompts=TableMapping("ideas")) as tables,
        pytest.raises(TableMissing, match="'prompts'"),
    ):
        tables.prompt_sets()


def test_sets_that_a_collation_takes_for_one_are_refused(url: str) -> None:
    """A set that the database lists under another's name is named; others are let by."""
    run_sql(
        url,
        "DROP VIEW prompts",
        "CREATE TABLE prompts (prompt_set TEXT COLLATE NOCASE, prompt_id TEXT, prompt TEXT)",
        "INSERT INTO prompts VALUES ('spring', '1', 'x'), ('Spring', '1', 'x')",
    )
    with SourceTables(url) as tables:
        (found,) = asked(summarise_sets, tables)
        asked(refuse_merged_sets, tables, [found.prompt_set, "nowhere"])
        checksums = asked(checksums_between, tables, found, found)
        assert checksums.keys() == {"spring", "Spring"}
        with pytest.raises(TablesError, match=r"the prompt sets '.pring' and '.pring' for one"):
            asked(refuse_merged_sets, tables, checksums)
