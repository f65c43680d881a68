from __future__ import annotations

import pytest

from imagepipeline_dagster.tables.checksums import checksums_among, checksums_between
from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.summaries import summarise_sets
from tests.tables.asking import asked
from tests.tables.conftest import Execute

SETS = ["a", "b", "c"]


@pytest.fixture
def before(tables_url: str, tables: SourceTables, execute: Execute) -> dict[str, str]:
    """The checksums of three sets."""
    create_tables(tables_url)
    execute(
        "INSERT INTO prompts (prompt_set, prompt_id, prompt, seed, guidance_scale) VALUES"
        " ('a', '1', 'x', 1, 7.5), ('a', '2', 'y', NULL, NULL), ('b', '1', 'x', NULL, NULL),"
        " ('c', '1', 'ü, \"(x)\"', NULL, NULL)"
    )
    return asked(checksums_among, tables, SETS)


def test_only_what_changed_has_another_checksum(
    tables: SourceTables, execute: Execute, before: dict[str, str]
) -> None:
    """An edit shows in its set alone, a touch nowhere, and a row that went shows too."""
    execute("UPDATE prompts SET updated_at = '2030-01-01 00:00:00'")
    assert asked(checksums_among, tables, SETS) == before
    execute("UPDATE prompts SET seed = 2 WHERE prompt_set = 'a' AND prompt_id = '1'")
    edited = asked(checksums_among, tables, SETS)
    assert [name for name in SETS if edited[name] != before[name]] == ["a"]
    execute("DELETE FROM prompts WHERE prompt_set = 'a' AND prompt_id = '1'")
    assert asked(checksums_among, tables, ["a"]) != {"a": edited["a"]}
    execute("DELETE FROM prompts WHERE prompt_set = 'a'")
    assert set(asked(checksums_among, tables, SETS)) == {"b", "c"}


def test_order_does_not_count_and_columns_do(
    tables: SourceTables, execute: Execute, before: dict[str, str]
) -> None:
    """Rows written anew in another order are as they were; a value in another column is not."""
    execute(
        "DELETE FROM prompts WHERE prompt_set = 'a'",
        "INSERT INTO prompts (prompt_set, prompt_id, prompt, seed, guidance_scale) VALUES"
        " ('a', '2', 'y', NULL, NULL), ('a', '1', 'x', 1, 7.5)",
    )
    assert asked(checksums_among, tables, SETS) == before
    execute("UPDATE prompts SET negative_prompt = prompt, prompt = '' WHERE prompt_set = 'b'")
    assert asked(checksums_among, tables, ["b"]) != {"b": before["b"]}


def test_a_range_of_sets_gives_the_same(tables: SourceTables, before: dict[str, str]) -> None:
    """Neighbours in the database's order have the checksums that each has by itself."""
    first, second, last = asked(summarise_sets, tables)
    assert asked(checksums_between, tables, first, last) == before
    assert set(asked(checksums_between, tables, second, last)) == {"b", "c"}


def test_names_and_values_that_are_no_text(tables: SourceTables, execute: Execute) -> None:
    """Sets that are numbers, and columns of any type, have checksums as well."""
    execute(
        "CREATE TABLE prompts (prompt_set INTEGER, prompt_id NUMERIC(6, 2), prompt TEXT,"
        " samples TEXT, refiner DATE)",
        "INSERT INTO prompts VALUES (7, 1.25, 'x', '3', '2026-05-01'), (12, 2, 'y', NULL, NULL)",
    )
    found = asked(summarise_sets, tables)
    assert [each.prompt_set for each in found] == ["7", "12"]
    assert asked(checksums_between, tables, found[0], found[-1]) == asked(
        checksums_among, tables, ["7", "12"]
    )
    assert len(set(asked(checksums_among, tables, ["7", "12"]).values())) == 2
