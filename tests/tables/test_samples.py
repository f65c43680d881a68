from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from imagepipeline_dagster.api.contract import TASKS, request_for
from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.database import writing
from imagepipeline_dagster.tables.errors import TableMissing
from imagepipeline_dagster.tables.fingerprints import fingerprint_sets
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.samples import (
    SampleMissing,
    create_sample_tables,
    edit_sample_embedding,
    edit_sample_prompt,
)
from tests.tables.conftest import Execute


@pytest.fixture
def sample_url(tmp_path: Path) -> str:
    """The URL of a SQLite file, in a folder that is yet to be made, with the sample tables."""
    url = f"sqlite:///{tmp_path}/data/tables.db"
    assert create_sample_tables(url)
    return url


def test_samples_show_every_outcome(tables_url: str, tables: SourceTables) -> None:
    """A newcomer meets every task, a derived and a given seed, and each way an image can end."""
    assert create_sample_tables(tables_url)
    rows = list(tables.iter_prompts())
    assert len(rows) == 28
    assert sum(row.samples for row in rows if isinstance(row.samples, int)) == 40
    assert len({row.prompt_set for row in rows}) == 3
    assert {row.task for row in rows} == set(TASKS)
    assert {1, 2, 3, 4} == {row.samples for row in rows}
    assert [row.prompt_id for row in rows if row.seed is not None] == ["wildflowers"]
    assert [row.prompt_id for row in rows if row.safety_checker is False] == ["potter"]
    assert [row.prompt_id for row in rows if "nsfw" in row.prompt] == ["colour_bars"]
    assert [row.prompt_id for row in rows if len(row.prompt.split()) > 75] == ["everything"]
    assert all(row.updated_at is not None for row in rows)
    assert set(tables.embeddings()) == {row.embeddings for row in rows} - {None}


def test_samples_make_valid_requests(sample_url: str) -> None:
    """Every sample row keeps the API's contract, and links to hosts that cannot exist."""
    with SourceTables(sample_url) as tables:
        rows = list(tables.iter_prompts())
    for row in rows:
        names = ("model_id", "prompt", "negative_prompt", "init_image", "mask_image", "strength")
        request_for(str(row.task), {name: getattr(row, name) for name in names})
        for link in (row.init_image, row.mask_image):
            assert link is None or link.startswith("https://pictures.example/")


@pytest.mark.parametrize("table", ["prompts", "embeddings"])
def test_existing_tables_are_never_touched(tables_url: str, execute: Execute, table: str) -> None:
    """Where either table is there, nothing is created or filled."""
    execute(f"CREATE TABLE {table} (mine TEXT)")
    assert not create_sample_tables(tables_url)
    with (
        SourceTables(tables_url) as tables,
        pytest.raises(Exception, match=r"no prompts|no column"),
    ):
        tables.prompt_sets()


def test_edited_prompt_changes_one_set(sample_url: str) -> None:
    """Each edit gives one prompt a text it never had, and so changes one set's content."""
    with SourceTables(sample_url) as tables:
        before = fingerprint_sets(tables.iter_prompts(), tables.embeddings())
        texts, sentences = set(), set()
        for _ in range(20):
            sentences.add(edit_sample_prompt(sample_url))
            (teapot,) = [
                row for row in tables.prompts("spring_catalogue") if row.prompt_id == "teapot"
            ]
            texts.add(teapot.prompt)
        after = fingerprint_sets(tables.iter_prompts(), tables.embeddings())
    assert len(texts) == len(sentences) == 20
    assert [name for name in before if before[name].content != after[name].content] == [
        "spring_catalogue"
    ]


def test_edited_embedding_changes_the_few_sets_that_use_it(sample_url: str) -> None:
    """Each edit raises the version of an embedding that two or three prompts use."""
    with SourceTables(sample_url) as tables:
        old, before = (
            tables.embeddings(),
            fingerprint_sets(tables.iter_prompts(), tables.embeddings()),
        )
        assert "from version 1 to 2" in edit_sample_embedding(sample_url)
        assert "from version 2 to 3" in edit_sample_embedding(sample_url)
        new, after = (
            tables.embeddings(),
            fingerprint_sets(tables.iter_prompts(), tables.embeddings()),
        )
        rows = list(tables.iter_prompts())
    (edited,) = [name for name in old if old[name].version != new[name].version]
    users = [row for row in rows if row.embeddings == edited]
    assert 2 <= len(users) <= 3
    changed = {name for name in before if before[name].content != after[name].content}
    assert changed == {row.prompt_set for row in users}


@pytest.mark.parametrize("edit", [edit_sample_prompt, edit_sample_embedding])
def test_edits_need_the_samples(tmp_path: Path, edit: object) -> None:
    """Where the sample rows or tables are gone, an edit says so."""
    assert callable(edit)
    url = f"sqlite:///{tmp_path}/tables.db"
    create_tables(url)
    with pytest.raises(SampleMissing, match="to edit"):
        edit(url)
    with writing(url) as connection:
        connection.execute(text("DROP TABLE prompts"))
        connection.execute(text("DROP TABLE embeddings"))
    with pytest.raises(TableMissing):
        edit(url)
