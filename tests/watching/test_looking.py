"""The three tiers, each with the change that it is there to see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from imagepipeline_dagster.tables.errors import TablesError
from imagepipeline_dagster.tables.fingerprints import (
    SetFingerprint,
    fingerprint_sets,
    fingerprint_used,
)
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.summaries import newest_time
from imagepipeline_dagster.watching import contents
from imagepipeline_dagster.watching.contents import SetContents
from imagepipeline_dagster.watching.looking import EmbeddingsWatch, Observation, Watch, observe
from imagepipeline_dagster.watching.options import Watching
from imagepipeline_dagster.watching.states import PromptSetStates
from tests.tables.asking import asked
from tests.tables.filling import run_sql
from tests.watching.watched import NOON, Watched

INTERVALS = {"audit_seconds": 100, "verify_seconds": 1000, "small_table_rows": 0}
OPTIONS = Watching(**INTERVALS)


class OneByOne(Watching):
    """Compares a set at a time."""

    slice_rows: ClassVar[int] = 1


class Hasty(OneByOne):
    """Has time for one set a tick."""

    tick_seconds: ClassVar[float] = 0


class Suspicious(Hasty):
    """Takes two sets for many."""

    few_sets: ClassVar[int] = 1


class Looker(Watched):
    """Somebody who looks at the tables, and remembers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.contents = SetContents(self.ledger, dataset="images")
        self.states = PromptSetStates(self.ledger, dataset="images")
        self.watch = Watch()

    def rests(self, after: float, options: Watching = OPTIONS) -> bool:
        """Tell whether there is nothing to look at after some seconds."""
        self.now += after
        newest = asked(newest_time, self.tables)
        return self.watch.is_quiet(newest, now=self.now, options=options)

    def look(self, after: float = 0, options: Watching = OPTIONS) -> Observation:
        """Look as closely as is due after some seconds; something is."""
        assert not self.rests(after, options)
        seen = asked(
            observe,
            self.tables,
            self.contents,
            self.watch,
            newest=asked(newest_time, self.tables),
            now=self.now,
            options=options,
        )
        self.watch = Watch.read(seen.watch.text())
        return seen

    def changed(self) -> list[str]:
        """Return the sets that say something new, and let it be built."""
        wanting = self.states.wanting_for_prompts()
        for each in wanting:
            self.states.record_built(each.prompt_set, content=each.content, pending=0)
        self.states.settle()
        return [each.prompt_set for each in wanting]


@pytest.fixture
def looker(tmp_path: Path) -> Iterator[Looker]:
    """Somebody who has just looked at three sets, until there was nothing left to see."""
    opened = Looker(tmp_path)
    opened.add("a", "b", "c")
    opened.look()
    assert opened.changed() == ["a", "b", "c"]
    opened.look(after=3)
    assert opened.rests(after=1)
    yield opened
    opened.close()


def test_a_newer_time_is_seen_at_once(looker: Looker) -> None:
    """An edit with a newer time makes its set alone suspect, and a new set is named as such."""
    looker.sql(
        "UPDATE prompts SET prompt = 'x', updated_at = '2026-05-01 12:01:00' WHERE prompt_set = 'b'"
    )
    looker.add("d", at="12:01:00")

    seen = looker.look(after=1)

    assert (seen.sets, seen.all_sets) == (("d",), False)
    assert looker.changed() == ["b", "d"]


def test_a_second_change_within_the_clock_s_second_is_seen(looker: Looker) -> None:
    """Whoever edits again at the very time that is the newest already is seen a tick later."""
    edit = "UPDATE prompts SET prompt = :text, updated_at = '2026-05-01 12:01:00'"
    looker.sql(f"{edit} WHERE prompt_set = 'b'", text="x")
    looker.look(after=1)
    looker.sql(f"{edit} WHERE prompt_set IN ('b', 'c')", text="y")

    looker.look(after=2.5)

    assert looker.changed() == ["b", "c"]
    assert looker.rests(after=1)


def test_a_second_change_on_the_newest_day_is_seen(looker: Looker) -> None:
    """Where times are dates, sets of the newest one are looked at until that day is over."""
    rare = OPTIONS.changed(audit_seconds=10**6, verify_seconds=10**6)
    edit = "UPDATE prompts SET prompt = :text, updated_at = '2026-05-02' WHERE prompt_set = 'b'"
    looker.sql(edit, text="x")
    looker.look(after=1, options=rare)
    assert looker.changed() == ["b"]
    for text, hours in (("y", 9), ("z", 14)):
        looker.look(after=60, options=rare)
        looker.sql(edit, text=text)
        looker.look(after=hours * 3600, options=rare)
        assert looker.changed() == ["b"]
    looker.look(after=3600, options=rare)
    assert looker.rests(after=60, options=rare)


def test_what_is_committed_late_is_seen_by_the_audit(looker: Looker) -> None:
    """Rows with an older time than the newest are counted at the audit's interval."""
    looker.add("d", at="11:00:00")
    assert looker.rests(after=90)

    seen = looker.look(after=10)

    assert set(seen.sets) == {"a", "b", "c", "d"}
    assert looker.changed() == ["d"]


def test_what_was_deleted_is_seen_by_the_audit(looker: Looker) -> None:
    """A set without rows is missing among all that there are."""
    looker.sql("DELETE FROM prompts WHERE prompt_set = 'a'")
    assert looker.rests(after=90)
    seen = looker.look(after=10)
    assert (seen.sets, seen.all_sets) == (("b", "c"), True)


def test_a_newest_time_that_goes_back_is_audited_at_once(looker: Looker) -> None:
    """Where the newest rows are gone, or all of them, no interval is waited for."""
    looker.add("d", at="12:01:00")
    looker.look(after=1)
    looker.sql("DELETE FROM prompts WHERE prompt_set = 'd'")
    seen = looker.look(after=1)
    assert seen.sets == ("a", "b", "c")
    looker.sql("DELETE FROM prompts")
    seen = looker.look(after=1)
    assert (seen.sets, seen.all_sets) == ((), True)


def test_what_changed_without_a_time_is_seen_by_the_verification(looker: Looker) -> None:
    """Content that changed behind `updated_at` is found when every row is compared."""
    looker.sql("UPDATE prompts SET prompt = 'x' WHERE prompt_set = 'c'")
    looker.look(after=500)
    assert looker.changed() == []
    looker.look(after=500)
    assert looker.changed() == ["c"]


def test_names_that_a_collation_takes_for_one_are_two_sets(looker: Looker) -> None:
    """In a column that ignores case, sets that differ in nothing else are each seen and read."""
    looker.sql("ALTER TABLE prompts RENAME TO old_prompts")
    looker.sql(
        "CREATE TABLE prompts (prompt_set TEXT COLLATE NOCASE, prompt_id TEXT, prompt TEXT,"
        " embeddings TEXT, updated_at TIMESTAMP)"
    )
    for name in ("spring", "Spring", "SPRING"):
        looker.add(name, prompt=name)
    looker.tables.look_up_again()
    looker.watch = Watch()

    seen = looker.look(after=1, options=OneByOne(**INTERVALS))

    assert sorted(seen.sets) == ["SPRING", "Spring", "spring"]
    looker.contents.keep_only(seen.sets)
    assert sorted(looker.changed()) == ["SPRING", "Spring", "spring"]
    looker.sql(
        "UPDATE prompts SET prompt = 'x', updated_at = '2026-05-01 12:01:00'"
        " WHERE prompt_set = 'Spring' COLLATE BINARY"
    )
    looker.look(after=1)
    assert looker.changed() == ["Spring"]


def test_sets_that_the_database_lists_as_one_are_refused(looker: Looker, tmp_path: Path) -> None:
    """Where names cannot be told apart, a comparison of all rows says so: no set is left out."""
    url = f"duckdb:///{tmp_path / 'tables.duckdb'}"
    run_sql(
        url,
        "CREATE TABLE prompts (prompt_set TEXT COLLATE NOCASE, prompt_id TEXT, prompt TEXT)",
        "INSERT INTO prompts VALUES ('spring', '1', 'x'), ('Spring', '1', 'x')",
    )
    with (
        SourceTables(url) as tables,
        pytest.raises(TablesError, match="collation of the column prompt_set"),
    ):
        asked(observe, tables, looker.contents, Watch(), newest=None, now=NOON, options=OPTIONS)


def test_touching_reads_no_row(looker: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets whose rows only have a new time are compared, and not read."""
    looker.sql("UPDATE prompts SET updated_at = '2026-05-01 12:01:00'")
    monkeypatch.setattr(SourceTables, "iter_prompts", None)
    looker.look(after=1)
    looker.look(after=1000)
    assert looker.changed() == []


def test_a_table_without_times_is_verified_at_each_tick(looker: Looker) -> None:
    """Without `updated_at`, and in a small table, each tick sees every change."""
    looker.sql("UPDATE prompts SET updated_at = NULL")
    looker.look(after=1)
    looker.sql("UPDATE prompts SET prompt = 'x' WHERE prompt_set = 'a'")
    looker.look(after=1)
    assert looker.changed() == ["a"]
    looker.sql("UPDATE prompts SET updated_at = '2026-05-01 12:01:00'")
    looker.look(after=1)
    looker.sql("UPDATE prompts SET prompt = 'x' WHERE prompt_set = 'b'")
    looker.look(after=1, options=OPTIONS.changed(small_table_rows=3))
    assert looker.changed() == ["b"]


def test_a_verification_goes_on_where_it_stopped(looker: Looker) -> None:
    """A tick without time compares one slice; sets that changed behind it are seen all the same."""
    hasty = Hasty(**INTERVALS)
    looker.sql("UPDATE prompts SET prompt = 'x' WHERE prompt_set IN ('b', 'c')")
    compared: list[list[str]] = []
    for _ in range(3):
        looker.look(after=1000 if not compared else 1, options=hasty)
        compared.append(looker.changed())
        assert (looker.watch.position is None) is (len(compared) == 3)
    assert compared == [[], ["b"], ["c"]]
    assert looker.rests(after=1, options=hasty)


def test_many_suspects_are_compared_in_slices(looker: Looker) -> None:
    """A load of more sets than a tick looks at one by one is worked off, tick after tick."""
    suspicious = Suspicious(**INTERVALS)
    looker.sql("UPDATE prompts SET prompt = 'x', updated_at = '2026-05-01 12:01:00'")
    compared: list[str] = []
    while not looker.rests(after=1, options=suspicious):
        looker.look(options=suspicious)
        compared += looker.changed()
        assert len(looker.watch.text()) < 1000
    assert compared == ["a", "b", "c"]


def test_an_embedding_that_changes_while_rows_are_read(
    looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of a set is of the embeddings as they are, whoever came first."""

    def read_slowly(*args: Any, **kwargs: Any) -> dict[str, SetFingerprint]:  # noqa: ANN401
        fingerprints = fingerprint_sets(*args, **kwargs)
        looker.sql("UPDATE embeddings SET version = '2'")
        looker.contents.use_embeddings(looker.tables.embeddings())
        return fingerprints

    looker.sql("INSERT INTO embeddings (embedding_id, version) VALUES ('look', '1')")
    looker.add("d", at="12:01:00")
    looker.sql("UPDATE prompts SET embeddings = 'look' WHERE prompt_set = 'd'")
    monkeypatch.setattr(contents, "fingerprint_sets", read_slowly)

    looker.look(after=1)

    (content,) = looker.states.wanting_for_prompts()
    assert content.embeddings == fingerprint_used(["look"], looker.tables.embeddings())


def test_an_unreadable_cursor_is_a_new_one() -> None:
    """A cursor of another version, or none at all, makes the next tick look at everything."""
    for text in (None, "", "0ac3fba75f25c0cb", '{"unheard": 1}', "[]", "7"):
        assert not Watch.read(text).audited_at
        assert EmbeddingsWatch.read(text).version is None
