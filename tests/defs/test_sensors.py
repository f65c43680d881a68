from __future__ import annotations

import dataclasses
import time
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from imagepipeline_dagster import ImageDataset
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.tables.fingerprints import fingerprint_sets
from imagepipeline_dagster.watching.looking import Watch
from imagepipeline_dagster.watching.options import Watching
from imagepipeline_dagster.watching.states import PromptSetStates
from tests.pipeline import Pipeline, open_pipeline, partition_keys
from tests.states import states_in

PASSWORD = "correct-horse-battery"


def _build(pipeline: Pipeline, *names: str) -> None:
    """Note that these sets were built from what the tables say now, as their runs would."""
    source = pipeline.resources["tables"]
    with source.open(pipeline.dataset.prompts, pipeline.dataset.embeddings) as tables:
        fingerprints = fingerprint_sets(tables.iter_prompts(), tables.embeddings())
    ledger = Ledger(pipeline.ledger_url)
    states = PromptSetStates(ledger, dataset=pipeline.dataset.name)
    for name in names:
        states.record_built(name, content=fingerprints[name].content, pending=0)
    ledger.close()


def _run_keys(requests: list[dg.RunRequest]) -> set[str]:
    return {str(request.run_key) for request in requests}


def test_partitions_follow_the_table(pipeline: Pipeline) -> None:
    """Sets that appear, change and go are added, asked for and removed; the others are left."""
    assert pipeline.tick() == []
    for name in ("autumn", "spring", "winter"):
        pipeline.add(name, "one")
    assert partition_keys(pipeline.tick()) == ["autumn", "spring", "winter"]
    assert pipeline.partitions == ["autumn", "spring", "winter"]
    assert pipeline.tick() == []

    pipeline.add("summer", "one")
    pipeline.sql("UPDATE prompts SET prompt = 'a raft' WHERE prompt_set = 'spring'")
    pipeline.sql("DELETE FROM prompts WHERE prompt_set = 'winter'")

    assert partition_keys(pipeline.tick()) == ["spring", "summer"]
    assert pipeline.partitions == ["autumn", "spring", "summer"]
    assert pipeline.tick() == []


def test_a_quiet_tick_says_so(pipeline: Pipeline) -> None:
    """Without a change both sensors skip with a reason, and report no event twice."""
    pipeline.add("spring", "one")
    pipeline.tick()

    for sensor in ("prompts_sensor", "embeddings_sensor"):
        found = pipeline.evaluate(sensor)
        assert found.skip_message
        assert (found.run_requests, found.asset_events) in [([], []), (None, [])]


def test_changed_sets_are_reported_as_events(pipeline: Pipeline) -> None:
    """A tick reports the prompts of changed sets alone, with rows and a version of the content."""
    pipeline.add("spring", "one")
    pipeline.add("summer", "one")
    pipeline.tick()
    pipeline.add("summer", "two")

    (event,) = pipeline.evaluate("prompts_sensor").asset_events

    assert isinstance(event, dg.AssetMaterialization)
    assert (event.asset_key, event.partition) == (dg.AssetKey("prompts"), "summer")
    assert event.metadata["dagster/partition_row_count"].value == 2
    assert event.tags is not None
    assert event.tags["dagster/data_version"]


@pytest.mark.parametrize(
    "order", [("prompts_sensor", "embeddings_sensor"), ("embeddings_sensor", "prompts_sensor")]
)
def test_a_change_that_both_sensors_see_is_one_run(
    pipeline: Pipeline, order: tuple[str, str]
) -> None:
    """Rows and their embedding edited together lead to one run, whichever sensor ticks first."""
    pipeline.add_embedding("look")
    pipeline.add("spring", "one", embeddings="look")
    pipeline.add("plain", "one")
    pipeline.tick()
    pipeline.sql("UPDATE prompts SET prompt = 'a raft' WHERE prompt_set = 'spring'")
    pipeline.sql("UPDATE embeddings SET version = '2'")

    assert partition_keys(pipeline.tick(*order)) == ["spring"]
    assert pipeline.tick(*order) == []


def test_a_set_that_vanishes_and_returns(pipeline: Pipeline) -> None:
    """The same rows back again get their partition and a run that Dagster has not seen before."""
    pipeline.add("spring", "one")
    pipeline.add("other", "one")
    first = pipeline.tick()
    _build(pipeline, "spring")
    pipeline.sql("DELETE FROM prompts WHERE prompt_set = 'spring'")
    assert pipeline.tick() == []
    assert pipeline.partitions == ["other"]
    pipeline.add("spring", "one")

    returned = pipeline.tick()

    assert partition_keys(returned) == ["spring"]
    assert not _run_keys(first) & _run_keys(returned)
    assert pipeline.partitions == ["other", "spring"]


def test_a_new_ledger_asks_again(pipeline: Pipeline) -> None:
    """Where the ledger was deleted, each set is asked for under a key that Dagster never saw."""
    pipeline.add("spring", "one")
    first = pipeline.tick()
    for file in (pipeline.folder / "data").glob("ledger.db*"):
        file.unlink()

    again = pipeline.tick()

    assert partition_keys(again) == ["spring"]
    assert not _run_keys(first) & _run_keys(again)


def test_a_reset_cursor_changes_nothing(pipeline: Pipeline) -> None:
    """The sensors' state is in the ledger: a reset cursor reports, and asks for no run."""
    pipeline.add_embedding("look")
    pipeline.add("spring", "one", embeddings="look")
    pipeline.tick()
    assert pipeline.tick() == []
    pipeline.cursors.clear()

    assert pipeline.tick() == []
    cursor = pipeline.cursors["embeddings_sensor"]
    assert cursor is not None
    assert len(cursor) < 1000


def test_a_new_instance_makes_what_an_old_one_made(pipeline: Pipeline, tmp_path: Path) -> None:
    """With a new DAGSTER_HOME beside the old ledger, the sets get partitions and runs again."""
    pipeline.add_embedding("look")
    pipeline.add("spring", "one", embeddings="look")
    pipeline.tick()
    _build(pipeline, "spring")
    home = tmp_path / "another"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        pipeline.instance = instance
        pipeline.sql("UPDATE embeddings SET version = '2'")
        assert pipeline.tick("embeddings_sensor") == []
        assert pipeline.reconcile() == []
        assert partition_keys(pipeline.tick()) == ["spring"]


def test_a_lost_tick_of_new_sets_is_made_up_for(pipeline: Pipeline) -> None:
    """A tick whose answer the daemon never got adds and asks again at the next one."""
    pipeline.add("spring", "one")
    pipeline.evaluate("prompts_sensor")

    assert partition_keys(pipeline.tick()) == ["spring"]


def test_a_first_tick_whose_runs_got_lost_is_repeated(pipeline: Pipeline) -> None:
    """A daemon that ends between a first tick's partitions and its runs asks for them again."""
    pipeline.add("spring", "one")
    first = pipeline.tick("prompts_sensor")
    pipeline.cursors.clear()

    assert pipeline.evaluate("prompts_sensor").run_requests == first


def test_a_reset_sensor_begins_anew(tmp_path: Path) -> None:
    """What a first tick asked for is not repeated after a later reset, and takes no room then."""
    with open_pipeline(
        tmp_path, dataset=ImageDataset(watching=Watching(max_runs_per_tick=1))
    ) as pipeline:
        pipeline.add("spring", "one")
        pipeline.tick()
        assert pipeline.tick() == []
        pipeline.cursors.clear()
        pipeline.add("summer", "one")

        found = pipeline.evaluate("prompts_sensor")

        assert partition_keys(list(found.run_requests or ())) == ["summer"]
        assert [event.partition for event in found.asset_events or ()] == ["summer"]


def test_a_set_that_goes_after_a_lost_tick_leaves_nothing_behind(pipeline: Pipeline) -> None:
    """What a lost tick asked for of a set that never came to a partition goes with the set."""
    pipeline.add("boats", "one")
    pipeline.evaluate("prompts_sensor")
    pipeline.cursors.clear()
    pipeline.sql("DELETE FROM prompts WHERE prompt_set = 'boats'")
    pipeline.add("rafts", "one")

    asked = pipeline.tick()

    with closing(Ledger(pipeline.ledger_url)) as ledger:
        states = states_in(ledger, dataset=pipeline.dataset.name)
    assert [request.partition_key for request in asked] == ["rafts"]
    assert states.keys() == {"rafts"}


def test_a_repeated_tick_gives_the_same_answer(pipeline: Pipeline) -> None:
    """A tick whose cursor was not kept, or whose answer was lost, asks under the same keys."""
    pipeline.add("spring", "one")
    pipeline.tick()
    pipeline.sql("UPDATE prompts SET prompt = 'a raft'")
    cursor = pipeline.cursors["prompts_sensor"]
    first = pipeline.evaluate("prompts_sensor")
    pipeline.cursors["prompts_sensor"] = cursor

    again = pipeline.evaluate("prompts_sensor")

    assert len(first.run_requests or ()) == 1
    assert again.run_requests == first.run_requests
    assert again.asset_events == first.asset_events
    assert pipeline.tick() == []


def test_a_quiet_tick_over_a_large_table_needs_no_ledger(tmp_path: Path) -> None:
    """Where nothing changed and nothing is due, only the tables are asked."""
    with open_pipeline(
        tmp_path, dataset=ImageDataset(watching=Watching(small_table_rows=0))
    ) as pipeline:
        pipeline.add("spring", "one")
        pipeline.sql("UPDATE prompts SET updated_at = '2026-05-01 12:00:00'")
        pipeline.tick()
        watch = Watch.read(pipeline.cursors["prompts_sensor"])
        settled = dataclasses.replace(watch, newest_since=None)
        pipeline.cursors["prompts_sensor"] = settled.text()
        pipeline.resources["ledger"] = type(pipeline.resources["ledger"])(url="nonsense://")

        assert pipeline.evaluate("prompts_sensor").skip_message == "no row changed"
        assert pipeline.evaluate("embeddings_sensor").skip_message == "no embedding changed"
        pipeline.sql("UPDATE prompts SET updated_at = '2026-05-01 12:00:01'")
        with pytest.raises(Exception, match="nonsense"):
            pipeline.evaluate("prompts_sensor")


def test_two_instances_on_one_ledger_ask_once_for_a_change(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Of two Dagster instances that know a set, one asks for its change, and one is enough."""
    pipeline.add("spring", "one")
    pipeline.tick()
    home = tmp_path / "another"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        other = dataclasses.replace(pipeline, instance=instance)
        assert partition_keys(other.tick()) == ["spring"]
        pipeline.tick()
        pipeline.sql("UPDATE prompts SET prompt = 'a raft'")
        asked = [*pipeline.tick(), *other.tick(), *pipeline.tick(), *other.tick()]
        assert partition_keys(asked) == ["spring"]


def test_most_sets_gone_at_once_removes_nothing(pipeline: Pipeline) -> None:
    """A truncated catalogue fails the tick, says why and what to do, and removes no partition."""
    for number in range(10):
        pipeline.add(f"set_{number}", "one")
    pipeline.tick()
    pipeline.sql("DELETE FROM prompts WHERE prompt_set > 'set_3'")

    with pytest.raises(dg.Failure) as raised:
        pipeline.tick("prompts_sensor")
    message = str(raised.value.description)
    assert message.startswith("6 of 10 prompt sets are gone from the table 'prompts'.")
    assert "Nothing was removed" in message
    assert "max_removed_share=1.0" in message
    assert len(pipeline.partitions) == 10

    for number in range(4, 10):
        pipeline.add(f"set_{number}", "one")
    assert pipeline.tick() == []


def test_rows_without_a_set_are_reported(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rows whose prompt_set is null are counted in the tick's log, and make nothing."""
    pipeline.sql("DROP TABLE prompts")
    pipeline.sql("CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt TEXT)")
    pipeline.sql("INSERT INTO prompts VALUES (NULL, 'a', 'x'), (NULL, 'b', 'x'), ('s', 'c', 'x')")

    assert partition_keys(pipeline.tick()) == ["s"]
    assert "2 rows of the prompts table name no prompt_set" in capfd.readouterr().err


def test_a_dead_tables_database_loses_nothing(pipeline: Pipeline) -> None:
    """A tick without its tables fails, names the file, and the next good one goes on."""
    pipeline.add("spring", "one")
    pipeline.tick()
    pipeline.add("summer", "one")
    file = Path(pipeline.tables_url.removeprefix("sqlite:///"))
    file.rename(file.with_suffix(".away"))
    pipeline.resources["tables"] = type(pipeline.resources["tables"])(url=pipeline.tables_url)

    for sensor in ("prompts_sensor", "embeddings_sensor"):
        with pytest.raises(Exception, match=r"There is no SQLite file .*tables\.db"):
            pipeline.evaluate(sensor)
    assert pipeline.partitions == ["spring"]

    file.with_suffix(".away").rename(file)
    assert partition_keys(pipeline.tick()) == ["summer"]


@pytest.mark.parametrize("which", ["tables", "ledger"])
def test_a_dead_server_is_named_without_its_password(pipeline: Pipeline, which: str) -> None:
    """A server that does not answer fails the tick with its address, and not its password."""
    pipeline.add("spring", "one")
    url = f"postgresql://reader:{PASSWORD}@127.0.0.1:9/shop"
    alive = pipeline.resources[which]
    pipeline.resources[which] = type(alive)(url=url)

    with pytest.raises(Exception, match=r"127\.0\.0\.1:9/shop cannot be used") as raised:
        pipeline.evaluate("prompts_sensor")
    assert PASSWORD not in str(raised.getrepr(style="short"))
    assert f"IMAGEPIPELINE_{which.upper()}_URL" in str(raised.value)

    pipeline.resources[which] = alive
    assert partition_keys(pipeline.tick()) == ["spring"]


@pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`")  # Dagster's own call
def test_a_backfill_keeps_the_partition_of_a_set_that_left(pipeline: Pipeline) -> None:
    """Removing a partition would cancel a person's backfill of all sets, so it waits for it."""
    for name in ("spring", "summer"):
        pipeline.add(name, "one")
    pipeline.tick()
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="all",
        asset_graph=pipeline.repository.asset_graph,
        partition_names=["spring", "summer"],
        asset_selection=[pipeline.dataset.key("prompt_sets")],
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=pipeline.instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    pipeline.instance.add_backfill(backfill)
    pipeline.sql("DELETE FROM prompts WHERE prompt_set = 'spring'")

    pipeline.tick()
    assert pipeline.partitions == ["spring", "summer"]
    done = backfill._replace(status=BulkActionStatus.COMPLETED_SUCCESS)
    pipeline.instance.update_backfill(done)
    pipeline.tick()
    assert pipeline.partitions == ["summer"]


@pytest.mark.parametrize(
    "tags",
    [
        {"dagster/partition": "spring"},
        {
            "dagster/asset_partition_range_start": "spring",
            "dagster/asset_partition_range_end": "summer",
        },
    ],
)
def test_a_run_keeps_the_partition_of_a_set_that_left(
    pipeline: Pipeline, tags: dict[str, str]
) -> None:
    """A run of the set, or of a range, finds its partition where it was."""
    for name in ("spring", "summer"):
        pipeline.add(name, "one")
    pipeline.tick()
    job = pipeline.definitions.resolve_job_def("materialize_prompt_set")
    run = pipeline.instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    pipeline.sql("DELETE FROM prompts WHERE prompt_set = 'spring'")

    pipeline.tick()
    assert pipeline.partitions == ["spring", "summer"]
    pipeline.instance.report_run_failed(run)
    pipeline.tick()
    assert pipeline.partitions == ["summer"]


@pytest.mark.parametrize(
    "option", ["audit_seconds", "verify_seconds", "small_table_rows", "max_runs_per_tick"]
)
def test_options_that_cannot_be_meant(option: str) -> None:
    """A number below what makes sense is refused by the option's name."""
    with pytest.raises(ValueError, match=rf"{option}: -1(\.0)? is below"):
        Watching(**{option: -1})
