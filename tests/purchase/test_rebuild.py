"""A lost ledger restored from the stored tables, on SQLite and on PostgreSQL."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import MetaData, Table

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.jobs import Job
from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind
from imagepipeline_dagster.ledger.budget import Allowance, Budget
from imagepipeline_dagster.ledger.decisions import (
    DecisionRefused,
    LedgerDecision,
    decide,
    decisions_about,
    withdraw_images,
)
from imagepipeline_dagster.ledger.identity import LedgerMismatch, adopt
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import metadata, requests
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.purchase.rebuild import Rebuilding, Restored
from imagepipeline_dagster.rows import StoredTable
from tests.buying import API_KEY, Bought, Buyer, numbered_rows, prompts_of

ALLOWANCE = Allowance(scope="images@emulator", budget=Budget(images=100))


@pytest.fixture
def pair(any_buyer: Buyer) -> Buyer:
    """A buyer of two samples a call."""
    return dataclasses.replace(any_buyer, samples_per_call=2)


def store(buyer: Buyer, prompts: Sequence[Prompt], bought: Bought, *, died: bool = False) -> None:
    """Store a set's tables as a run does; one that died in its purchase has no images."""
    tables = {
        "prompt_sets": StoredTable.of(prompts, Prompt),
        "generation_requests": StoredTable.of(bought.plan, PlannedRequest),
    }
    if not died:
        tables["generated_images"] = StoredTable.of(bought.images, GeneratedImage)
    for folder, table in tables.items():
        buyer.storage.write(f"{folder}/spring.parquet", table.encoded)


LedgerCopy = dict[Table, list[dict[str, Any]]]


def copy_of_ledger(buyer: Buyer) -> LedgerCopy:
    """Return all rows of the ledger, as a backup keeps them."""
    with buyer.open_ledger() as ledger, ledger.reading() as connection:
        return {
            table: [dict(row) for row in connection.execute(table.select()).mappings()]
            for table in metadata.sorted_tables
        }


def put_back(buyer: Buyer, copy: LedgerCopy) -> None:
    """Put a copy in place of the ledger; whoever was buying then has ended."""
    with buyer.open_ledger() as ledger, ledger.engine.begin() as connection:
        for table, rows in copy.items():
            connection.execute(table.delete())
            if rows:
                connection.execute(table.insert(), rows)
        long_ago = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
        connection.execute(requests.update().values(owner="gone", lease_until=long_ago))


def images_spent(buyer: Buyer) -> int:
    """Return how many images the ledger counts as spent."""
    with buyer.open_ledger() as ledger:
        return ALLOWANCE.spent(ledger, today=dt.datetime.now(dt.UTC).date())["total"].images


def lose_the_ledger(ledger_url: str) -> None:
    """Drop all tables, as a database that was made anew."""
    with closing(Ledger(ledger_url)) as ledger, ledger.engine.begin() as connection:
        there = MetaData()
        there.reflect(connection)
        there.drop_all(connection)


def adopted(buyer: Buyer) -> None:
    """Take the ledger as it is."""
    with buyer.open_ledger() as ledger:
        adopt(ledger, buyer.storage)


def resubmit(buyer: Buyer, bought: Bought) -> None:
    """Let a person allow one more job for all requests."""
    with buyer.open_ledger() as ledger:
        decide(ledger, list(bought.entries), LedgerDecision.RESUBMIT, who="mira", why="needed")


def rebuild(buyer: Buyer, *, unbought: bool = False, adopts: bool = True) -> list[Restored]:
    """Restore what the ledger lacks."""
    with buyer.open_ledger() as ledger:
        means = dataclasses.replace(buyer.means(ledger, allowance=ALLOWANCE), origin=buyer.base_url)
        rebuilding = Rebuilding(means=means, dataset="images", unbought=unbought)
        restored = list(rebuilding.restore())
        if adopts and rebuilding.adopt().strangers:
            adopt(ledger, buyer.storage)
        return restored


def facts(bought: Bought) -> list[tuple[object, ...]]:
    """Return what must be known again of each sample."""
    return [
        (
            *(image.request_key, image.sample_index, image.outcome, image.image_sha256),
            *(image.uri, image.bytes, image.job_id, image.run_id, image.submitted_at),
            *(image.completed_at, image.endpoint, image.emulated),
        )
        for image in bought.images
    ]


def test_a_lost_ledger_costs_nothing(pair: Buyer, emulator: EmulatorServer) -> None:
    """Pictures, lost answers and refusals are known again, and nothing is sent once more."""
    prompts = prompts_of(numbered_rows(5, samples=2))
    emulator.set_faults(
        Fault(kind=FaultKind.DROPPED_ANSWER, times=1), Fault(kind=FaultKind.REFUSED, times=1)
    )
    bought = pair.buy(prompts, allowance=ALLOWANCE)
    assert set(bought.outcomes) == {"generated", "unknown", "failed"}
    store(pair, prompts, bought)
    lose_the_ledger(pair.ledger_url)

    assert rebuild(pair) == [Restored("spring", 5, 6, 1)]

    posts = emulator.stats.posts_accepted
    again = pair.buy(prompts, allowance=ALLOWANCE)
    assert emulator.stats.posts_accepted == posts
    assert facts(again) == facts(bought)
    assert {image.error for image in again.images} == {image.error for image in bought.images}
    assert images_spent(pair) == 6
    with pair.open_ledger() as ledger:
        assert len(ledger.latest_uses("images", "spring")) == 5
    assert rebuild(pair) == [Restored("spring", 0, 0, 0)]


def test_what_a_dead_run_may_have_bought_is_unknown(pair: Buyer, emulator: EmulatorServer) -> None:
    """A plan without its images is sent by no run until a person takes it for not bought."""
    prompts = prompts_of(numbered_rows(2, samples=2))
    bought = pair.buy(prompts)
    store(pair, prompts, bought, died=True)
    lose_the_ledger(pair.ledger_url)

    refused = pair.buy(prompts).report
    assert isinstance(refused.stopper, LedgerMismatch)
    assert rebuild(pair) == [Restored("spring", 2, 0, 2)]
    assert pair.buy(prompts).outcomes == {"unknown": 4}
    assert emulator.stats.posts_accepted == 2

    lose_the_ledger(pair.ledger_url)
    assert rebuild(pair, unbought=True) == [Restored("spring", 0, 0, 0)]
    assert pair.buy(prompts).outcomes == {"generated": 4}


def test_a_job_under_way_is_resumed_after_a_rebuild(pair: Buyer, emulator: EmulatorServer) -> None:
    """A job whose id stands in the tables is asked for again, and not bought once more."""
    emulator.set_faults(Fault(kind=FaultKind.STUCK))
    prompts = prompts_of(numbered_rows(1, samples=2))
    bought = pair.buy(prompts, job_timeout_seconds=0.3)
    assert bought.outcomes == {"pending": 2}
    store(pair, prompts, bought)
    lose_the_ledger(pair.ledger_url)
    emulator.set_faults()

    assert rebuild(pair) == [Restored("spring", 1, 0, 0)]
    again = pair.buy(prompts)
    assert again.outcomes == {"generated": 2}
    assert emulator.stats.posts_accepted == 1


@pytest.mark.parametrize("is_adopted", [False, True])
def test_an_older_copy_learns_what_was_bought_since(
    pair: Buyer,
    emulator: EmulatorServer,
    is_adopted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """What a copy would buy, and the tables show as bought, is known again, also once adopted."""
    prompts = prompts_of(numbered_rows(2, samples=2))
    emulator.set_faults(Fault(kind=FaultKind.OUT_OF_QUOTA))
    assert pair.buy(prompts, allowance=ALLOWANCE).outcomes == {"pending": 4}
    older = copy_of_ledger(pair)
    emulator.set_faults()
    bought = pair.buy(prompts, allowance=ALLOWANCE)
    store(pair, prompts, bought)
    put_back(pair, older)
    if is_adopted:
        adopted(pair)

    assert rebuild(pair) == [Restored("spring", 2, 4, 0)]
    assert facts(pair.buy(prompts)) == facts(bought)
    assert emulator.stats.posts_accepted == 2
    assert images_spent(pair) == 4


@pytest.mark.parametrize(
    ("fault", "outcome"), [(FaultKind.STUCK, "pending"), (FaultKind.DROPPED_ANSWER, "unknown")]
)
def test_an_adopted_copy_learns_what_was_sent_since(
    pair: Buyer, emulator: EmulatorServer, fault: FaultKind, outcome: str
) -> None:
    """What the tables show as sent, without its pictures, is bought by no adopted copy."""
    prompts = prompts_of(numbered_rows(1, samples=2))
    emulator.set_faults(Fault(kind=FaultKind.OUT_OF_QUOTA))
    pair.buy(prompts)
    older = copy_of_ledger(pair)
    emulator.set_faults(Fault(kind=fault))
    sent = pair.buy(prompts, run_id="later", job_timeout_seconds=0.3)
    assert sent.outcomes == {outcome: 2}
    store(pair, prompts, sent)
    put_back(pair, older)
    adopted(pair)

    assert rebuild(pair) == [Restored("spring", 1, 0, int(outcome == "unknown"))]
    emulator.set_faults()
    again = pair.buy(prompts)
    assert again.outcomes == {"generated" if outcome == "pending" else "unknown": 2}
    assert emulator.stats.posts_accepted == 1


@pytest.mark.parametrize("is_adopted", [False, True])
@pytest.mark.parametrize("ended", ["failed", "unknown", "vendor_filtered"])
def test_an_older_copy_learns_of_a_further_job(
    pair: Buyer,
    emulator: EmulatorServer,
    ended: str,
    is_adopted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """What a person let be bought once more after the copy has its pictures; both jobs count."""
    prompts = prompts_of(numbered_rows(1, samples=2))
    is_filtered = ended == "vendor_filtered"
    fault = FaultKind.FEWER_LINKS if is_filtered else FaultKind.DROPPED_ANSWER
    emulator.set_faults(Fault(kind=fault))
    first = pair.buy(prompts, allowance=ALLOWANCE)
    if ended == "failed":
        with pair.open_ledger() as ledger:
            decide(ledger, list(first.entries), LedgerDecision.FORGET, who="jo", why="not in")
    older = copy_of_ledger(pair)
    resubmit(pair, first)
    emulator.set_faults()
    bought = pair.buy(prompts, allowance=ALLOWANCE, run_id="later")
    assert bought.outcomes == {"generated": 2}
    store(pair, prompts, bought)
    put_back(pair, older)
    if is_adopted:
        adopted(pair)

    assert rebuild(pair) == [Restored("spring", 1, 2, 0)]
    again = pair.buy(prompts)
    assert facts(again) == facts(bought)
    assert [entry.attempt for entry in again.entries.values()] == [2]
    assert images_spent(pair) == 4
    assert rebuild(pair) == [Restored("spring", 0, 0, 0)]


def test_a_copy_from_the_middle_of_a_purchase_learns_its_end(
    pair: Buyer, emulator: EmulatorServer
) -> None:
    """A request that was being sent when the copy was made has its pictures, and is spent once."""
    prompts = prompts_of(numbered_rows(1, samples=2))
    copies = []

    class CopyingClient(ImagePipelineClient):
        async def submit(self, *arguments: Any, **options: Any) -> Job:  # noqa: ANN401
            copies.append(copy_of_ledger(pair))
            return await super().submit(*arguments, **options)

    bought = pair.buy(
        prompts,
        allowance=ALLOWANCE,
        open_client=lambda: CopyingClient(api_key=API_KEY, base_url=pair.base_url),
    )
    store(pair, prompts, bought)
    put_back(pair, copies[0])
    assert [row["state"] for row in copies[0][requests]] == ["claimed"]

    assert rebuild(pair) == [Restored("spring", 1, 2, 0)]
    assert facts(pair.buy(prompts)) == facts(bought)
    assert emulator.stats.posts_accepted == 1
    assert images_spent(pair) == 2


@pytest.mark.parametrize("unbought", [False, True])
def test_what_an_older_copy_would_buy_may_be_bought(
    pair: Buyer,
    emulator: EmulatorServer,
    unbought: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """What a run bought after the copy, without coming to its end, is sent on a person's word."""
    prompts = prompts_of(numbered_rows(2, samples=2))
    emulator.set_faults(Fault(kind=FaultKind.OUT_OF_QUOTA))
    store(pair, prompts, pair.buy(prompts))
    older = copy_of_ledger(pair)
    emulator.set_faults()
    assert pair.buy(prompts).outcomes == {"generated": 4}
    put_back(pair, older)

    restored = 0 if unbought else 2
    assert rebuild(pair, unbought=unbought) == [Restored("spring", restored, 0, restored)]
    assert pair.buy(prompts).outcomes == {"generated" if unbought else "unknown": 4}
    assert emulator.stats.posts_accepted == (4 if unbought else 2)


def test_what_people_decided_is_known_again(pair: Buyer, emulator: EmulatorServer) -> None:
    """A request that was given up, and a picture that was withdrawn, stay so, with who and why."""
    prompts = prompts_of(numbered_rows(2, samples=2))
    emulator.set_faults(Fault(kind=FaultKind.DROPPED_ANSWER, times=1))
    bought = pair.buy(prompts)
    [lost] = {i.request_key for i in bought.images if i.outcome == "unknown"}
    [picture, *_] = [str(i.image_sha256) for i in bought.images if i.outcome == "generated"]
    with pair.open_ledger() as ledger:
        decide(ledger, [str(lost)], LedgerDecision.FORGET, who="mira", why="not in: their list")
        withdraw_images(ledger, [picture], who="jo", why="a face", at=dt.datetime.now(dt.UTC))
    decided = pair.buy(prompts)
    store(pair, prompts, decided)
    lose_the_ledger(pair.ledger_url)
    rebuild(pair)

    assert facts(pair.buy(prompts)) == facts(decided)
    assert decided.outcomes == {"failed": 2, "withdrawn": 1, "generated": 1}
    with pair.open_ledger() as ledger, ledger.reading() as connection:
        taken = [it for key in decided.entries for it in decisions_about(connection, key)]
        with pytest.raises(DecisionRefused, match="given_up"):
            decide(ledger, [str(lost)], LedgerDecision.FORGET, who="mira", why="again")
    assert sorted((str(it.decision), it.who, it.why) for it in taken) == [
        ("forget", "mira", "not in: their list"),
        ("withdraw", "jo", "a face"),
    ]


def test_a_ledger_that_has_entries_keeps_them(pair: Buyer) -> None:
    """What the ledger knows is newer than any table: only what it lacks is restored."""
    few, all_of_them = prompts_of(numbered_rows(1)), prompts_of(numbered_rows(3))
    bought = pair.buy(all_of_them)
    store(pair, all_of_them, bought)
    lose_the_ledger(pair.ledger_url)
    adopted(pair)
    kept = pair.buy(few, run_id="later")

    assert rebuild(pair) == [Restored("spring", 2, 2, 0)]
    assert pair.entries(kept.plan) == kept.entries


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [(FaultKind.FEWER_LINKS, "vendor_filtered"), (FaultKind.DROPPED_ANSWER, "unknown")],
)
def test_a_rebuild_takes_back_no_decision(
    pair: Buyer, emulator: EmulatorServer, fault: FaultKind, outcome: str
) -> None:
    """A request that a person allows one more job for stays so, though the tables show its end."""
    prompts = prompts_of(numbered_rows(1, samples=2))
    emulator.set_faults(Fault(kind=fault))
    ended = pair.buy(prompts)
    assert ended.outcomes[outcome]
    store(pair, prompts, ended)
    resubmit(pair, ended)

    emulator.set_faults()
    assert rebuild(pair) == [Restored("spring", 0, 0, 0)]
    assert pair.buy(prompts).outcomes == {"generated": 2}


def test_a_second_rebuild_takes_back_no_decision(pair: Buyer, emulator: EmulatorServer) -> None:
    """What a person lets be bought after a rebuild is bought, though the copy stays unadopted."""
    prompts = prompts_of(numbered_rows(2, samples=2))
    emulator.set_faults(Fault(kind=FaultKind.OUT_OF_QUOTA))
    planned = pair.buy(prompts)
    store(pair, prompts, planned)
    older = copy_of_ledger(pair)
    emulator.set_faults()
    pair.buy(prompts)
    put_back(pair, older)

    assert rebuild(pair, adopts=False) == [Restored("spring", 2, 0, 2)]
    resubmit(pair, planned)
    assert rebuild(pair) == [Restored("spring", 0, 0, 0)]
    assert pair.buy(prompts).outcomes == {"generated": 4}
