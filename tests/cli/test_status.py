"""`status`, `costs`, `retry`, and lineage forward, beside a pipeline in the same folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import do, facts
from tests.cli.shop import row_of
from tests.pipeline import Pipeline, open_pipeline, partition_keys

DATASET = """
from imagepipeline_dagster import ImageDataset
from imagepipeline_dagster.planning.approval import Approval
dataset = ImageDataset(approval=Approval(required="always"), price_per_image=0.25, currency="EUR")
"""


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """A pipeline whose storage, tables and ledger are those of the command line."""
    # Whole: this process keeps what it opened under a shorter name, in another test's folder.
    monkeypatch.setenv("IMAGEPIPELINE_STORAGE", str(tmp_path / "data"))
    with open_pipeline(tmp_path) as opened:
        yield opened


def test_status_says_how_each_set_stands(pipeline: Pipeline) -> None:
    """New, built and changed sets, reasons, spending, the release and the next runs are told."""
    for name in ("spring", "summer"):
        pipeline.add(name, "one")
    pipeline.sync()
    pipeline.release()
    pipeline.add("autumn", "one", samples=2)
    pipeline.sql("UPDATE prompts SET prompt = 'a ship' WHERE prompt_set = 'summer'")

    standing = facts("status")

    sets = {of["prompt_set"]: (of["state"], of["images_to_buy"]) for of in standing["sets"]}
    assert sets == {"spring": ("built", 0), "summer": ("changed", 1), "autumn": ("new", 2)}
    assert (standing["api"], standing["images_to_buy"]) == ("emulator", 3)
    assert standing["spent"]["total"]["images"] == 2
    assert (standing["last_release"]["version"], standing["last_release"]["images"]) == ("v0001", 2)
    assert standing["next_runs"].keys() == {"reconcile_schedule", "image_dataset_schedule"}
    assert row_of(do("plan").output.split("by reason")[1], "total") == ["2", "1"]
    assert facts("releases", "verify")["problems"] == []
    assert facts("review", "spring")["pictures"] == 1
    shown = do("status").output
    assert all(word in shown for word in ("changed", "v0001", "2 in all", "no budget"))


def test_status_says_what_waits_for_a_person(pipeline: Pipeline, tmp_path: Path) -> None:
    """A set whose purchase waits for approval says so, until it is approved."""
    (tmp_path / "waiting_dataset.py").write_text(DATASET)
    pipeline.add("spring", "one")
    dataset = ("--dataset", "waiting_dataset:dataset")

    before = facts("status", *dataset)
    do("approve", "spring", "--up-to", "0.25", *dataset)
    after = facts("status", *dataset)

    assert [of["sets"][0]["waits_for_approval"] for of in (before, after)] == [True, False]
    assert before["price"] == "0.25 EUR"


@pytest.mark.slow
def test_costs_say_what_was_bought_and_what_was_saved(pipeline: Pipeline) -> None:
    """A request that two sets use is bought by the first, and saved by the second."""
    pipeline.add("spring", "one", seed=5)
    pipeline.sync()
    pipeline.add("summer", "other", prompt="a boat called one", seed=5)
    pipeline.add("summer", "more", model_id="second-model")
    pipeline.sync()

    spent = facts("costs", "--price-per-image", "0.5")

    assert spent["by_set"] == {
        "spring": {"bought": 1, "reused": 0},
        "summer": {"bought": 1, "reused": 1},
    }
    assert spent["by_model"]["second-model"] == {"bought": 1, "reused": 0}
    assert (spent["total"], spent["saved"]) == ({"bought": 2, "reused": 1}, 0.5)
    assert [day["images"] for day in spent["by_day"].values()] == [2]
    assert (
        "1 image reused instead of bought: 0.50 saved."
        in do("costs", "--price-per-image", "0.5").output
    )


def test_a_retry_ends_the_pauses(pipeline: Pipeline) -> None:
    """An open set is asked for at the next look; one that is built whole is left alone."""
    pipeline.add("spring", "one")
    pipeline.add("summer", "one")
    pipeline.tick()
    pipeline.run("summer")
    assert pipeline.tick() == []

    assert do("retry", "--all").output.startswith("'spring'\n1 set will")
    assert partition_keys(pipeline.tick()) == ["spring"]
    pipeline.run("spring")
    assert "Nothing is open" in do("retry", "spring", "summer").output
    assert do("retry").exit_code == 2
    pipeline.add("autumn", "one")
    pipeline.instance.add_dynamic_partitions("prompt_set", ["autumn"])
    pipeline.run("autumn")
    assert "Nothing is open" in do("retry", "autumn").output


def test_a_retry_of_open_samples_is_asked_for_by_the_schedule(pipeline: Pipeline) -> None:
    """A set that was built with samples still to come needs no pause any more."""
    pipeline.add("spring", "one")
    pipeline.tick()
    pipeline.run("spring")
    pipeline.ledger_sql("UPDATE ledger_prompt_sets SET pending = 1")
    assert pipeline.reconcile() == []

    do("retry", "spring")

    assert partition_keys(pipeline.reconcile()) == ["spring"]


@pytest.mark.slow
def test_lineage_goes_forward(pipeline: Pipeline) -> None:
    """From a row in all its wordings, and an embedding, to pictures, verdicts and releases."""
    pipeline.add_embedding("boat-style", trigger_words="boatish")
    pipeline.add("spring/early", "a/b", embeddings="boat-style")
    pipeline.add("summer", "one")
    pipeline.sync()
    pipeline.release()
    pipeline.sql("UPDATE prompts SET prompt = 'a ship' WHERE prompt_set = 'spring/early'")
    pipeline.sync()

    of_row = facts("lineage", "--prompt", "spring/early/a/b")
    of_embedding = facts("lineage", "--embedding", "boat-style")

    assert [of["prompt_row"]["prompt"] for of in of_row] == ["a boat called a/b", "a ship"]
    assert [of["request_key"] for of in of_embedding] == [of["request_key"] for of in of_row]
    (first,), (second,) = (of["images"] for of in of_row)
    assert first["releases"] == ["v0001"]
    assert (second["verdicts"], second["releases"]) == (["'spring/early' / 'a/b': kept (ok)"], [])
    assert facts("lineage", second["image_sha256"])["verdicts"] == second["verdicts"]
    shown = do("lineage", "--prompt", "spring/early/a/b").output
    assert f"{second['image_sha256']} 'spring/early' / 'a/b': kept (ok)" in shown
    assert "nothing was asked for yet" in do("lineage", "--prompt", "spring/nobody").output
    assert do("lineage").exit_code == 2


def test_lineage_tells_who_decided_about_a_picture(pipeline: Pipeline) -> None:
    """A verdict that a person gave names that person, and why."""
    pipeline.add("spring", "one")
    pipeline.sync()
    prompt = ("--prompt-set", "spring", "--prompt-id", "one")
    do("override", "reject", *prompt, "--reviewer", "ana", "--reason", "blurry")
    pipeline.run("spring")

    [request] = facts("lineage", "--prompt", "spring/one")

    told = "'spring' / 'one': rejected (override:ok), decided by ana: blurry"
    assert request["images"][0]["verdicts"] == [told]


def test_lineage_tells_why_a_request_failed(pipeline: Pipeline) -> None:
    """A row without a picture leads to what the API said of it."""
    pipeline.add("spring", "one")
    pipeline.sync()
    pipeline.ledger_sql("UPDATE ledger_requests SET state = 'failed', error = 'no such model'")

    assert "no such model" in do("lineage", "--prompt", "spring/one").output
    assert facts("lineage", "--prompt", "spring/one")[0]["error"] == "no such model"


def test_a_plan_is_told_as_json(pipeline: Pipeline) -> None:
    """Sets, the total, prices and the fingerprint that an approval names are in one object."""
    pipeline.add("spring", "one", samples=2)

    planned = facts("plan", "--price-per-image", "0.25")

    (of,) = planned["sets"]
    assert (of["prompt_set"], of["images_to_buy"], of["cost"]) == ("spring", 2, 0.5)
    assert len(of["fingerprint"]) == 32
    assert planned["total"]["to_buy_by_reason"] == {"new": 2}
