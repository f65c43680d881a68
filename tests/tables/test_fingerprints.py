from __future__ import annotations

import dataclasses
import datetime as dt
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import imagepipeline_dagster
from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.fingerprints import (
    SetFingerprint,
    fingerprint_embeddings,
    fingerprint_set,
    fingerprint_sets,
)
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow
from tests.tables.conftest import Execute

TEXTS = st.text(max_size=8)
OPTIONAL = st.none() | st.text(min_size=1, max_size=8)
CONTENT: dict[str, st.SearchStrategy[Any]] = {
    "prompt_id": TEXTS,
    "prompt": TEXTS,
    "negative_prompt": OPTIONAL,
    "embeddings": st.sampled_from([None, "known", "unknown"]),
    "samples": st.none() | st.integers(1, 4) | TEXTS.filter(bool),
    "seed": st.none() | st.integers(0, 2**63 - 1),
    "guidance_scale": st.none() | st.floats(1, 20),
    "refiner": st.none() | st.booleans(),
    "init_image": OPTIONAL,
}
ROWS = st.lists(st.builds(PromptRow, prompt_set=st.just("s"), **CONTENT), min_size=1, max_size=6)
KNOWN = {"known": EmbeddingRow(embedding_id="known", trigger_words=("w",), version="1")}


def fingerprint(rows: list[PromptRow]) -> SetFingerprint:
    """Return the fingerprint of rows which may use the one embedding that is known."""
    return fingerprint_set(rows, KNOWN)


@given(st.data(), ROWS)
def test_order_does_not_count(data: st.DataObject, rows: list[PromptRow]) -> None:
    """The rows of a set in any order have one fingerprint."""
    assert fingerprint(data.draw(st.permutations(rows))) == fingerprint(rows)


@given(st.data(), ROWS)
def test_every_edit_counts(data: st.DataObject, rows: list[PromptRow]) -> None:
    """Another value in any one column of any one row gives another fingerprint."""
    place = data.draw(st.integers(0, len(rows) - 1))
    name = data.draw(st.sampled_from(sorted(CONTENT)))
    value = data.draw(CONTENT[name])
    before = getattr(rows[place], name)
    assume((value, type(value)) != (before, type(before)))
    edited = [*rows]
    edited[place] = dataclasses.replace(rows[place], **{name: value})
    assert fingerprint(edited).prompts != fingerprint(rows).prompts
    assert fingerprint(edited).content != fingerprint(rows).content


@given(ROWS, st.datetimes(timezones=st.just(dt.UTC)))
def test_touching_does_not_count(rows: list[PromptRow], time: dt.datetime) -> None:
    """A row that was saved again without a change leaves the fingerprint alone."""
    touched = [dataclasses.replace(row, updated_at=time) for row in rows]
    assert fingerprint(touched) == fingerprint(rows)


@given(ROWS)
def test_repetitions_count(rows: list[PromptRow]) -> None:
    """A row that stands twice, or four times, is not the row that stands once."""
    found = [fingerprint(rows + rows[:1] * times).prompts for times in (0, 1, 2, 3)]
    assert len(set(found)) == 4


def test_swapping_values_between_rows_counts() -> None:
    """Two rows that exchange their prompts are another set."""
    one = PromptRow(prompt_set="s", prompt_id="1", prompt="a")
    two = PromptRow(prompt_set="s", prompt_id="2", prompt="b")
    swapped = [dataclasses.replace(one, prompt="b"), dataclasses.replace(two, prompt="a")]
    assert fingerprint([one, two]) != fingerprint(swapped)


def test_embeddings_count_where_they_are_used() -> None:
    """A set changes with the embeddings that its rows use, also when one becomes known."""
    rows = [PromptRow(prompt_set="s", prompt_id="1", prompt="a", embeddings="known")]
    newer = {"known": dataclasses.replace(KNOWN["known"], version="2")}
    touched = {"known": dataclasses.replace(KNOWN["known"], updated_at="now")}
    other = {**KNOWN, "other": EmbeddingRow(embedding_id="other")}
    before = fingerprint_set(rows, KNOWN)
    assert before == fingerprint_set(rows, touched) == fingerprint_set(rows, other)
    for embeddings in (newer, {}):
        after = fingerprint_set(rows, embeddings)
        assert after.prompts == before.prompts
        assert after.embeddings != before.embeddings
        assert after.content != before.content


def test_fingerprint_of_all_embeddings() -> None:
    """The embeddings table changes with any version in it, and not with order or times."""
    one, two = EmbeddingRow(embedding_id="1", version="1"), EmbeddingRow(embedding_id="2")
    before = fingerprint_embeddings({"1": one, "2": two})
    touched = dataclasses.replace(two, updated_at="now")
    assert fingerprint_embeddings({"2": touched, "1": one}) == before
    newer = dataclasses.replace(one, version="2")
    assert fingerprint_embeddings({"1": newer, "2": two}) != before


def test_fingerprint_of_no_one_set_is_refused() -> None:
    """Rows of several sets, or none, have no set to be the fingerprint of."""
    rows = [PromptRow(prompt_set=name, prompt_id="1", prompt="a") for name in "st"]
    for wrong in ([], rows):
        with pytest.raises(ValueError, match="prompt sets, not of one"):
            fingerprint_set(wrong, {})


def test_all_sets_at_once_and_one_by_one_agree(
    tables_url: str, execute: Execute, tables: SourceTables
) -> None:
    """Streaming over the tables gives each set the fingerprint that its own rows give."""
    create_tables(tables_url)
    execute(
        "INSERT INTO embeddings (embedding_id, version) VALUES ('e', '1')",
        "INSERT INTO prompts (prompt_set, prompt_id, prompt, guidance_scale, refiner, embeddings)"
        " VALUES ('s', '1', 'a', 7, true, 'e'), ('s', '2', 'b', 7.5, null, null),"
        " ('t', '1', 'a', null, false, 'x')",
    )
    fingerprints = fingerprint_sets(tables.iter_prompts(), tables.embeddings())
    embeddings = tables.embeddings()
    assert {name: of.rows for name, of in fingerprints.items()} == {"s": 2, "t": 1}
    for name, of in fingerprints.items():
        assert of == fingerprint_set(tables.prompts(name), embeddings)
    # The same on every database, and in every version: what was built is compared with it.
    assert fingerprints["s"].content == "39370ed73f98de426d62df653563f24c"


def test_fingerprints_load_no_heavy_library() -> None:
    """A sensor that only compares fingerprints does not pay for pandas, Arrow or SQLAlchemy."""
    # The package's own __init__, which has all public names and so loads all, is left out.
    code = (
        "import sys, types\n"
        "package = types.ModuleType('imagepipeline_dagster')\n"
        "sys.modules[package.__name__] = package\n"
        f"package.__path__ = {imagepipeline_dagster.__path__!r}\n"
        "import imagepipeline_dagster.tables.fingerprints\n"
        "print({'pandas', 'pyarrow', 'sqlalchemy', 'dagster'} & set(sys.modules))"
    )
    result = subprocess.run(  # noqa: S603 - our own interpreter and text
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
