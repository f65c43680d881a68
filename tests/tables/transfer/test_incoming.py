from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.errors import (
    ColumnMissing,
    RowRefused,
    TableMissing,
    TablesUnavailable,
)
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.schema import PromptRow, TableMapping
from imagepipeline_dagster.tables.transfer.incoming import ImportRefused
from imagepipeline_dagster.tables.transfer.merge import ImportReport
from tests.tables.conftest import Execute
from tests.tables.filling import HEADERS, csv_file, import_embeddings, import_prompts, run_sql


def report(inserted: int = 0, updated: int = 0, unchanged: int = 0) -> ImportReport:
    """Return what an import reports that found nothing odd."""
    return ImportReport(
        inserted=inserted, updated=updated, unchanged=unchanged, duplicates=0, ignored_columns=()
    )


def test_tables_are_created_once(created_url: str, execute: Execute, tables: SourceTables) -> None:
    """Creating the tables again leaves what is in them alone."""
    execute("INSERT INTO prompts (prompt_set, prompt_id, prompt) VALUES ('s', '1', 'p')")
    create_tables(created_url)
    assert len(list(tables.iter_prompts())) == 1


def test_tables_keep_prompts_apart(tables_url: str, execute: Execute) -> None:
    """A prompt id is unique within its set, and the database itself sees to it."""
    create_tables(tables_url)
    insert = "INSERT INTO prompts (prompt_set, prompt_id, prompt) VALUES (:name, '1', 'p')"
    execute(insert, name="s")
    execute(insert, name="t")
    with pytest.raises(sa.exc.IntegrityError):
        execute(insert, name="s")


def test_index_by_set_and_time(created_url: str) -> None:
    """What changed in a set since some time is found by an index."""
    engine = sa.create_engine(created_url)
    indexes = sa.inspect(engine).get_indexes("prompts")
    engine.dispose()
    assert ["prompt_set", "updated_at"] in [index["column_names"] for index in indexes]


def test_import_inserts_updates_and_leaves_alone(
    created_url: str, tmp_path: Path, tables: SourceTables
) -> None:
    """Rows are told apart by set and id, and only those that are new or different are written."""
    first = csv_file(tmp_path, [("s", "1", "a"), ("s", "2", "b"), ("t", "1", "c")])
    assert import_prompts(created_url, first) == report(inserted=3)
    before = {row.prompt_id: row for row in tables.prompts("s")}
    second = csv_file(tmp_path, [("s", "1", "a"), ("s", "2", "new"), ("s", "3", "d")])
    assert import_prompts(created_url, second) == report(1, 1, 1)
    after = {row.prompt_id: row for row in tables.prompts("s")}
    assert {key: row.prompt for key, row in after.items()} == {"1": "a", "2": "new", "3": "d"}
    assert after["1"].updated_at == before["1"].updated_at
    for key in "23":
        assert isinstance(after[key].updated_at, dt.datetime)
        assert after[key].updated_at != before["2"].updated_at
    assert len(list(tables.iter_prompts())) == 4


def test_every_column_comes_through(created_url: str, tmp_path: Path, tables: SourceTables) -> None:
    """Each column of a CSV file is stored as its type, and read back as what the file meant."""
    row = {
        "prompt_set": "s/é",
        "prompt_id": "007",
        "prompt": 'say "hi",\nplease',
        "task": "Inpainting",
        "samples": "12",
        "seed": str(2**63 - 1),
        "guidance_scale": "7.5",
        "strength": ".5",
        "width": "768.0",
        "refiner": "yes",
        "safety_checker": "0",
        "negative_prompt": "",
        "init_image": "https://a.example/x.png",
        "updated_at": "2026-05-01T14:00:00+02:00",
    }
    file = csv_file(tmp_path, [list(row.values())], list(row))
    assert import_prompts(created_url, file) == report(inserted=1)
    assert tables.prompts("s/é") == [
        PromptRow(
            prompt_set="s/é",
            prompt_id="007",
            prompt='say "hi",\nplease',
            task="inpainting",
            samples=12,
            seed=2**63 - 1,
            guidance_scale=7.5,
            strength=0.5,
            width=768,
            refiner=True,
            safety_checker=False,
            init_image="https://a.example/x.png",
            updated_at=dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC),
        )
    ]
    assert import_prompts(created_url, file) == report(unchanged=1)


def test_columns_that_a_file_lacks_stay(
    created_url: str, tmp_path: Path, tables: SourceTables
) -> None:
    """An import changes the columns of its file and no others."""
    full = csv_file(tmp_path, [("s", "1", "a", "30")], (*HEADERS, "num_inference_steps"))
    import_prompts(created_url, full)
    import_prompts(created_url, csv_file(tmp_path, [("s", "1", "b")]))
    (row,) = tables.prompts("s")
    assert (row.prompt, row.num_inference_steps) == ("b", 30)


def test_ids_follow_from_content(created_url: str, tmp_path: Path, tables: SourceTables) -> None:
    """Without ids in the file, the same row gets the same id wherever and whenever it stands."""
    columns = {"prompt": "Prompt", "prompt_set": "Category"}
    rows = [("bond", "Abstract"), ("life", "Abstract"), ("bond", "Other")]
    file = csv_file(tmp_path, rows, ("Prompt", "Category"))
    assert import_prompts(created_url, file, column_map=columns) == report(inserted=3)
    ids = {row.prompt_id for row in tables.iter_prompts()}
    assert len(ids) == 3
    assert {len(found) for found in ids} == {16}
    file = csv_file(tmp_path, [("new", "Abstract"), *reversed(rows)], ("Prompt", "Category"))
    assert import_prompts(created_url, file, column_map=columns) == report(1, 0, 3)


def test_repeated_rows_without_ids(created_url: str, tmp_path: Path, tables: SourceTables) -> None:
    """A repeated row counts as a duplicate, but not one that differs in a column we ignore."""
    rows = [("a", "s", "x"), ("a", "s", "y"), ("a", "s", "x"), ("b", "s", "x"), ("a", "s", "y")]
    file = csv_file(tmp_path, rows, ("prompt", "prompt_set", "Challenge"))
    for expected in ((3, 0), (0, 3)):
        found = import_prompts(created_url, file)
        assert (found.inserted, found.unchanged) == expected
        assert found.duplicates == 2
        assert found.ignored_columns == ("Challenge",)
    stored = sorted(row.prompt for row in tables.prompts("s"))
    assert stored == ["a", "a", "b"]
    first, second = sorted(row.prompt_id for row in tables.prompts("s") if row.prompt == "a")
    assert second == f"{first}-2"


def test_defaults_fill_what_the_file_lacks(
    created_url: str, tmp_path: Path, tables: SourceTables
) -> None:
    """A constant can stand for a column that the file lacks, and for its empty cells."""
    file = csv_file(tmp_path, [("1", "a", "30"), ("2", "b", "")], ("prompt_id", "prompt", "seed"))
    import_prompts(created_url, file, defaults={"prompt_set": "new set", "seed": "7"})
    assert [row.seed for row in tables.prompts("new set")] == [30, 7]


def test_all_problems_are_shown(created_url: str, tmp_path: Path, tables: SourceTables) -> None:
    """A refused file names each problem's line, column and value, what is expected, and its own."""
    headers = (*HEADERS, "samples", "Scale", "task", "refiner", "updated_at")
    good = ("s", "1", "a", "", "", "", "", "")
    file = csv_file(
        tmp_path,
        [
            good,
            ("s", "2", " ", "abc", "x", "text2video", "maybe", "soon"),
            ("", "3", "b", "10001", "0.5", "", "", ""),
            ("s", "4", "c", "1.5", "nan", "", "", ""),
            ("s", "1", "again", "", "", "", "", ""),
            ("s", "5", "nul\x00", "", "", "", "", ""),
        ],
        headers,
    )
    with pytest.raises(ImportRefused) as caught:
        import_prompts(created_url, file, column_map={"guidance_scale": "Scale"})
    assert str(file) in str(caught.value)
    assert caught.value.problems == (
        "line 3, column 'prompt': is empty",
        "line 3, column 'task': 'text2video' is not one of text2image, image2image, inpainting",
        "line 3, column 'samples': 'abc' is not a whole number from 1 to 10000",
        "line 3, column 'Scale' (guidance_scale): 'x' is not a number from 1 to 20",
        "line 3, column 'refiner': 'maybe' is not true or false",
        "line 3, column 'updated_at': 'soon' is not a time like 2026-05-01T12:00:00Z",
        "line 4, column 'prompt_set': is empty",
        "line 4, column 'samples': '10001' is outside 1 to 10000",
        "line 4, column 'Scale' (guidance_scale): '0.5' is outside 1 to 20",
        "line 5, column 'samples': '1.5' is not a whole number from 1 to 10000",
        "line 6 repeats the prompt_set and prompt_id of line 2: 's' and '1'",
        "line 7, column 'prompt': 'nul\\x00' has a NUL character, which databases do not take",
    )
    assert len(list(tables.iter_prompts())) == 0


def test_a_late_problem_takes_everything_back(
    created_url: str, tmp_path: Path, tables: SourceTables
) -> None:
    """Nothing of a file stays when one of its last rows is refused."""
    rows = [("s", number, "p") for number in range(5000)]
    with pytest.raises(ImportRefused, match="line 5002"):
        import_prompts(created_url, csv_file(tmp_path, [*rows, ("s", "x", "")]))
    assert len(list(tables.iter_prompts())) == 0


def test_many_problems_are_counted(sqlite_url: str, tmp_path: Path) -> None:
    """Of many problems the first five of a column are shown, and the rest are counted by column."""
    file = csv_file(tmp_path, [("s", number, "") for number in range(1000)] + [("", "x", "a kite")])
    with pytest.raises(ImportRefused, match="… and 995 more in column 'prompt'") as caught:
        import_prompts(sqlite_url, file)
    assert (len(caught.value.problems), caught.value.count) == (6, 1001)
    assert caught.value.problems[-1] == "line 1002, column 'prompt_set': is empty"


def test_lines_that_are_no_rows_are_refused(sqlite_url: str, tmp_path: Path) -> None:
    """Malformed JSON and values that are no text are problems with their lines."""
    file = tmp_path / "x.jsonl"
    file.write_text(
        '{"prompt_set": "s", "prompt": ["a"]}\n{"prompt_set": "s"\n{"prompt": "\\ud800"}'
    )
    with pytest.raises(ImportRefused) as caught:
        import_prompts(sqlite_url, file)
    array, malformed, no_set, surrogate = caught.value.problems
    assert array == "line 1, column 'prompt': ['a'] is not text"
    assert malformed.startswith("line 2 is not JSON")
    assert no_set == "line 3, column 'prompt_set': is empty"
    assert "half of a surrogate pair" in surrogate


@pytest.mark.parametrize(
    ("headers", "column_map", "defaults", "problem"),
    [
        (HEADERS, {"seed": "Seed"}, {}, "has no column 'Seed', which seed is mapped to"),
        (HEADERS, {"sead": "prompt"}, {}, "'sead' is no column of ours"),
        (HEADERS, {}, {"samples": "0"}, "samples for all rows: '0' is outside 1 to 10000"),
        ((*HEADERS, "prompt"), {}, {}, "has the column 'prompt' 2 times"),
    ],
)
def test_mapping_mistakes_are_refused(
    sqlite_url: str,
    tmp_path: Path,
    headers: tuple[str, ...],
    column_map: dict[str, str],
    defaults: dict[str, str],
    problem: str,
) -> None:
    """A mapping that does not fit the file is refused before any row is read."""
    file = csv_file(tmp_path, [], headers)
    with pytest.raises(ImportRefused, match=problem):
        import_prompts(sqlite_url, file, column_map=column_map, defaults=defaults)


def test_import_needs_its_table(tmp_path: Path, tables_url: str) -> None:
    """Importing creates neither a table nor a database."""
    file = csv_file(tmp_path, [("s", "1", "a")])
    with pytest.raises(TableMissing):
        import_prompts(tables_url, file)
    with pytest.raises(TablesUnavailable):
        import_prompts(f"sqlite:///{tmp_path}/nowhere.db", file)
    assert not (tmp_path / "nowhere.db").exists()


def test_import_into_a_table_of_the_users_own(
    tables_url: str, tmp_path: Path, execute: Execute
) -> None:
    """Other names, other types and a key that the database does not keep are all respected."""
    execute(
        'CREATE TABLE "my ideas" ("Kind" TEXT, id INTEGER, "100% text" TEXT, seed TEXT,'
        " refiner INTEGER, extra TEXT DEFAULT 'kept', updated_at TIMESTAMP)"
    )
    mapping = TableMapping(
        "my ideas", {"prompt_set": "Kind", "prompt_id": "id", "prompt": "100% text"}
    )
    headers = (*HEADERS, "seed", "refiner")
    file = csv_file(tmp_path, [("s", "1", "a", "7", "yes"), ("s", "2", "b", "8", "no")], headers)
    assert import_prompts(tables_url, file, mapping) == report(inserted=2)
    file = csv_file(tmp_path, [("s", "1", "a", "7", "yes"), ("s", "2", "c", "8", "no")], headers)
    assert import_prompts(tables_url, file, mapping) == report(updated=1, unchanged=1)
    with SourceTables(tables_url, prompts=mapping) as tables:
        one, two = tables.prompts("s")
        assert (one.prompt, one.seed, one.refiner) == ("a", 7, True)
        assert two.prompt == "c"
        assert isinstance(two.updated_at, dt.datetime)
        assert abs(two.updated_at - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)


def test_a_column_that_only_the_table_needs(
    tables_url: str, tmp_path: Path, execute: Execute
) -> None:
    """Rows are updated without it, and a new row is refused for what it lacks, not for the URL."""
    execute(
        "CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt TEXT, team TEXT NOT NULL,"
        " PRIMARY KEY (prompt_set, prompt_id))",
        "INSERT INTO prompts VALUES ('s', '1', 'a', 'blue')",
    )
    file = csv_file(tmp_path, [("s", "1", "b")])
    assert import_prompts(tables_url, file) == report(updated=1)
    file = csv_file(tmp_path, [("s", "1", "c"), ("s", "2", "c")])
    with pytest.raises(RowRefused, match="team") as caught:
        import_prompts(tables_url, file)
    assert "URL" not in str(caught.value)
    with SourceTables(tables_url) as tables:
        assert [row.prompt for row in tables.prompts("s")] == ["b"]


@pytest.mark.parametrize(
    ("headers", "row", "error", "message"),
    [
        ((*HEADERS, "seed"), ("s", "1", "a", "7"), ColumnMissing, "no column for 'seed'"),
        (HEADERS, ("s", "x1", "a"), ImportRefused, "'x1' does not fit the column 'prompt_id'"),
        ((*HEADERS, "strength"), ("s", "1", "a", ".5"), ImportRefused, "0.5 does not fit"),
    ],
)
def test_what_a_table_cannot_hold_is_refused(
    tables_url: str,
    tmp_path: Path,
    execute: Execute,
    headers: tuple[str, ...],
    row: tuple[str, ...],
    error: type[Exception],
    message: str,
) -> None:
    """A value without a column, or which its column's type would change, is an error."""
    execute(
        "CREATE TABLE prompts (prompt_set TEXT, prompt_id INTEGER, prompt TEXT, strength INTEGER)"
    )
    with pytest.raises(error, match=message):
        import_prompts(tables_url, csv_file(tmp_path, [row], headers))


def test_embeddings(created_url: str, tmp_path: Path, tables: SourceTables) -> None:
    """Embeddings are imported by their id; words with commas in them stay whole."""
    file = tmp_path / "x.jsonl"
    first = {"id": "e", "trigger_words": ["a", "b, c"], "placement": "Negative", "version": 1}
    second = {"id": "f", "trigger_words": "d, e", "placement": None, "version": "2"}
    file.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    columns = {"embedding_id": "id"}
    for expected in (report(inserted=2), report(unchanged=2)):
        assert import_embeddings(created_url, file, column_map=columns) == expected
    found = tables.embeddings()
    assert found["e"].trigger_words == ("a", "b, c")
    assert (found["e"].placement, found["e"].version) == ("negative", "1")
    assert found["f"].trigger_words == ("d", "e")


def test_embeddings_of_wrong_placement_or_without_id(sqlite_url: str, tmp_path: Path) -> None:
    """An embedding needs its id and a known placement."""
    file = csv_file(tmp_path, [("e", "sideways"), ("", "either")], ("embedding_id", "placement"))
    with pytest.raises(ImportRefused) as caught:
        import_embeddings(sqlite_url, file)
    assert caught.value.problems == (
        "line 2, column 'placement': 'sideways' is not one of positive, negative, either",
        "line 3, column 'embedding_id': is empty",
    )
    with pytest.raises(ImportRefused, match="--map embedding_id=HEADER"):
        import_embeddings(sqlite_url, csv_file(tmp_path, [], ("name",)))


def test_trigger_words_go_into_an_array(postgres_url: str, tmp_path: Path) -> None:
    """An array column takes trigger words as an array, in a new row and in one that is there."""
    run_sql(
        postgres_url,
        "CREATE TABLE embeddings (embedding_id text PRIMARY KEY, trigger_words text[])",
    )
    for words in (("a", "b"), ("a", "c")):
        file = csv_file(tmp_path, [("e", ", ".join(words))], ("embedding_id", "trigger_words"))
        import_embeddings(postgres_url, file)
        with SourceTables(postgres_url) as tables:
            assert tables.embeddings()["e"].trigger_words == words
