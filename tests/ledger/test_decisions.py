"""What people decide about requests: one more job, or none, and nothing else."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import subprocess
import sys
from contextlib import closing

import pytest
from sqlalchemy import insert, select, update

from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind
from imagepipeline_dagster.ledger.decisions import (
    STUCK_AFTER,
    DecisionRefused,
    LedgerDecision,
    concerned,
    decide,
    decisions_about,
    unknown_requests,
)
from imagepipeline_dagster.ledger.records import Entry, Failure, Hold, State
from imagepipeline_dagster.ledger.requests import Ledger, entries_seen_by
from imagepipeline_dagster.ledger.schema import prompt_sets, requests
from imagepipeline_dagster.ledger.steps import record_submitted
from imagepipeline_dagster.ledger.uses import uses_of
from tests.buying import Buyer, numbered_rows, prompts_of

RESUBMIT, FORGET = LedgerDecision.RESUBMIT, LedgerDecision.FORGET
DROPPED = Fault(kind=FaultKind.DROPPED_ANSWER, times=1)
ONE = prompts_of(numbered_rows(1))


def only_entry(buyer: Buyer) -> Entry:
    """Return the ledger's single request."""
    with buyer.open_ledger() as ledger, ledger.reading() as connection:
        keys = connection.scalars(select(requests.c.request_key)).all()
        (entry,) = entries_seen_by(connection, keys).values()
    return entry


def told(buyer: Buyer, key: str, *decisions: LedgerDecision, why: str = "because") -> None:
    """Let a person decide about a request."""
    with buyer.open_ledger() as ledger:
        for decision in decisions:
            decide(ledger, [key], decision, who="mira", why=why)


@pytest.fixture
def lost(buyer: Buyer, emulator: EmulatorServer) -> str:
    """The key of the ledger's single request, whose answer was dropped."""
    emulator.set_faults(DROPPED)
    buyer.buy(ONE)
    return only_entry(buyer).request_key


def test_a_dropped_answer_is_listed_with_its_prompt(buyer: Buyer, emulator: EmulatorServer) -> None:
    """What was lost is listed with the prompt that wanted it, when, where, and why it is lost."""
    emulator.set_faults(DROPPED)
    buyer.buy(prompts_of(numbered_rows(1, samples=2)))
    buyer.buy(prompts_of(numbered_rows(1, samples=2)))

    with buyer.open_ledger() as ledger, ledger.reading() as connection:
        (unknown,) = unknown_requests(ledger)
        (use,) = uses_of(connection, [unknown.request_key])[unknown.request_key]

    assert (use.dataset, use.prompt_set, use.prompt_id) == ("images", "spring", "p0000")
    assert unknown.samples == 1
    assert unknown.endpoint.startswith(emulator.url)
    assert "may have been bought" in str(unknown.error)


def test_resubmitting_buys_exactly_once_more(any_buyer: Buyer, emulator: EmulatorServer) -> None:
    """Runs leave an unknown request alone; a person's word buys it with a single POST."""
    prompts = prompts_of(numbered_rows(2))
    emulator.set_faults(DROPPED)
    any_buyer.buy(prompts)
    any_buyer.buy(prompts)
    assert emulator.stats.posts_accepted == 2

    with any_buyer.open_ledger() as ledger:
        (lost,) = unknown_requests(ledger)
        decide(ledger, [lost.request_key[:8]], RESUBMIT, who="mira", why="not in the vendor's list")
        assert unknown_requests(ledger) == []
        with ledger.reading() as connection:
            (taken,) = decisions_about(connection, lost.request_key)
    plan = {call.request_key: call.state for call in any_buyer.plan(prompts)}
    bought = any_buyer.buy(prompts)
    any_buyer.buy(prompts)

    assert plan[lost.request_key] == "to_buy"
    assert emulator.stats.posts_accepted == 3
    assert bought.outcomes == {"generated": 2}
    assert (taken.decision, taken.who) == (RESUBMIT, "mira")
    assert taken.why == "not in the vendor's list"


def test_forgetting_buys_never(any_buyer: Buyer, emulator: EmulatorServer) -> None:
    """A request that is given up ends as failed, with who and why, and is never sent again."""
    prompts = prompts_of(numbered_rows(2))
    emulator.set_faults(DROPPED)
    any_buyer.buy(prompts)

    with any_buyer.open_ledger() as ledger:
        (lost,) = unknown_requests(ledger)
        decide(ledger, [lost.request_key], FORGET, who="mira", why="one less is fine")
    bought = any_buyer.buy(prompts)

    assert emulator.stats.posts_accepted == 2
    assert bought.outcomes == {"generated": 1, "failed": 1}
    (failed,) = [image for image in bought.images if image.outcome == "failed"]
    assert failed.error == "given up by mira: one less is fine"


def test_what_was_given_up_can_still_be_resubmitted(
    buyer: Buyer, emulator: EmulatorServer, lost: str
) -> None:
    """Giving up is no last word: a later decision buys the request once, and both are kept."""
    told(buyer, lost, FORGET, RESUBMIT)
    with buyer.open_ledger() as ledger, ledger.reading() as connection:
        taken = decisions_about(connection, lost)
    bought = buyer.buy(ONE)

    assert [each.decision for each in taken] == [FORGET, RESUBMIT]
    assert bought.outcomes == {"generated": 1}
    assert emulator.stats.posts_accepted == 2


def test_a_resubmission_can_be_taken_back(
    buyer: Buyer, emulator: EmulatorServer, lost: str
) -> None:
    """Forgetting a resubmitted request before a run bought it leaves nothing to buy."""
    told(buyer, lost, RESUBMIT, FORGET)

    assert buyer.buy(ONE).outcomes == {"failed": 1}
    assert emulator.stats.posts_accepted == 1


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault(kind=FaultKind.JOB_FAILURE), "failed"),
        (Fault(kind=FaultKind.EXPIRED_LINK), "expired"),
        (Fault(kind=FaultKind.TRUNCATED_BYTES), "undecodable"),
    ],
)
def test_what_is_failed_for_good_gets_one_more_job(
    fault: Fault, outcome: str, buyer: Buyer, emulator: EmulatorServer
) -> None:
    """A resubmission of what no run would buy again is worth one job, also if that fails too."""
    emulator.set_faults(fault)
    assert buyer.buy(ONE, link_lifetime_hours=0).outcomes == {outcome: 1}
    before = only_entry(buyer)
    posts = emulator.stats.posts_accepted

    told(buyer, before.request_key, RESUBMIT)
    still = buyer.buy(ONE, link_lifetime_hours=0)
    buyer.buy(ONE)
    assert emulator.stats.posts_accepted == posts + 1
    assert still.outcomes == {outcome: 1}

    emulator.set_faults()
    told(buyer, before.request_key, RESUBMIT)
    assert buyer.buy(ONE).outcomes == {"generated": 1}
    assert emulator.stats.posts_accepted == posts + 2
    jobs = [attempt.job_id for attempt in only_entry(buyer).earlier]
    assert before.job_id in jobs
    assert len(set(jobs)) == posts + 1


def test_pictures_that_came_stay_when_the_rest_is_bought_again(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """Of a call that was half lost only the lost sample is replaced; each names its own job."""
    buyer = dataclasses.replace(buyer, samples_per_call=2)
    prompts = prompts_of(numbered_rows(1, samples=2))
    emulator.set_faults(Fault(kind=FaultKind.TRUNCATED_BYTES, times=2))
    half = buyer.buy(prompts, link_lifetime_hours=0)
    assert half.outcomes == {"undecodable": 1, "generated": 1}
    (kept,) = [image for image in half.images if image.outcome == "generated"]

    told(buyer, only_entry(buyer).request_key, RESUBMIT)
    whole = buyer.buy(prompts)

    assert whole.outcomes == {"generated": 2}
    (same,) = [image for image in whole.images if image.image_sha256 == kept.image_sha256]
    (new,) = [image for image in whole.images if image.image_sha256 != kept.image_sha256]
    assert (same.job_id, same.completed_at) == (kept.job_id, kept.completed_at)
    assert new.job_id not in (None, kept.job_id)


def test_a_dead_process_claim_counts_as_unknown(buyer: Buyer, emulator: EmulatorServer) -> None:
    """A claim whose process died is listed and can be decided about without waiting for a run."""
    buyer.buy(ONE)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    key = only_entry(buyer).request_key
    with buyer.open_ledger() as ledger:
        host = only_entry(buyer).owner.name.rsplit("/", 2)[0]
        with ledger.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM ledger_samples")
            died = {"state": State.CLAIMED, "job_id": None, "owner": f"{host}/{gone.pid}/0"}
            connection.execute(update(requests).values(died))
        assert [each.request_key for each in unknown_requests(ledger)] == [key]
        decide(ledger, [key], FORGET, who="mira", why="it died")

        with ledger.engine.begin() as connection:
            until = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
            mine = {"owner": f"{host}/{os.getpid()}/0", "lease_until": until}
            connection.execute(update(requests).values(state=State.CLAIMED, **mine))
        assert unknown_requests(ledger) == []
        with pytest.raises(DecisionRefused, match="a run is buying it"):
            decide(ledger, [key], RESUBMIT, who="mira", why="impatient")
    assert emulator.stats.posts_accepted == 1


def test_an_answer_that_comes_after_the_decision_is_not_bought_again(
    buyer: Buyer, lost: str
) -> None:
    """A job id that arrives although a person resubmitted keeps the job that it names."""
    entry = only_entry(buyer)
    hold = Hold(request_key=lost, owner=entry.owner, attempt=entry.attempt)
    told(buyer, lost, RESUBMIT)
    with buyer.open_ledger() as ledger, ledger.engine.begin() as connection:
        record_submitted(connection, hold, job_id="late", links=())
    found = only_entry(buyer)
    assert (found.state, found.failure, found.job_id) == (State.SUBMITTED, None, "late")


def test_decisions_that_make_no_sense_are_refused(buyer: Buyer, emulator: EmulatorServer) -> None:
    """A request that is whole can be neither bought again nor given up; nothing changes."""
    prompts = prompts_of(numbered_rows(2))
    emulator.set_faults(DROPPED)
    bought = buyer.buy(prompts)
    whole = next(key for key, entry in bought.entries.items() if entry.settled)
    with buyer.open_ledger() as ledger:
        (lost,) = unknown_requests(ledger)
        keys = [lost.request_key, whole]
        for decision in (RESUBMIT, FORGET):
            with pytest.raises(DecisionRefused, match=f"{whole[:12]} cannot be .* succeeded"):
                decide(ledger, keys, decision, who="mira", why="all of them")
        assert [each.request_key for each in unknown_requests(ledger)] == [lost.request_key]
        with ledger.reading() as connection:
            assert decisions_about(connection, lost.request_key) == []

        decide(ledger, [lost.request_key], RESUBMIT, who="mira", why="yes")
        with pytest.raises(DecisionRefused, match="the next run buys it anyway"):
            decide(ledger, [lost.request_key], RESUBMIT, who="mira", why="yes, yes")


def test_what_the_checker_held_back_is_bought_again_on_a_persons_word_alone(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """No run buys a filtered sample again; a person may doubt the filter, and overrule it."""
    emulator.set_faults(Fault(kind=FaultKind.JOB_FAILURE, message="NSFW content detected", times=1))
    buyer.buy(ONE)
    left_alone = buyer.buy(ONE)
    told(buyer, only_entry(buyer).request_key, RESUBMIT)
    bought = buyer.buy(ONE)

    assert left_alone.outcomes == {"vendor_filtered": 1}
    assert bought.outcomes == {"generated": 1}
    assert emulator.stats.posts_accepted == 2


@pytest.mark.parametrize("decision", [RESUBMIT, FORGET])
def test_a_job_without_an_end_can_be_decided_about_once_it_is_old(
    decision: LedgerDecision, buyer: Buyer, emulator: EmulatorServer
) -> None:
    """A job that stays pending is nobody's to decide at first, and a person's after an hour."""
    emulator.set_faults(Fault(kind=FaultKind.UNKNOWN_STATUS))
    buyer.buy(ONE, job_timeout_seconds=0.1)
    key = only_entry(buyer).request_key
    with pytest.raises(DecisionRefused, match="1 h after it was submitted"):
        told(buyer, key, decision)
    long_ago = dt.datetime.now(dt.UTC) - STUCK_AFTER
    with buyer.open_ledger() as ledger, ledger.engine.begin() as connection:
        connection.execute(update(requests).values(submitted_at=long_ago))
    told(buyer, key, decision)
    emulator.set_faults()
    bought = buyer.buy(ONE)

    buys = decision is RESUBMIT
    assert bought.outcomes == {"generated" if buys else "failed": 1}
    assert emulator.stats.posts_accepted == 1 + buys


def test_keys_must_name_one_request(buyer: Buyer, lost: str) -> None:
    """Too short, unknown and ambiguous keys are refused, and so is a decision without a why."""
    twin = lost[:10] + "0" * 54
    with buyer.open_ledger() as ledger:
        with ledger.engine.begin() as connection:
            row = dict(connection.execute(select(requests)).mappings().one())
            connection.execute(insert(requests).values({**row, "request_key": twin}))
        cases = {
            lost[:7]: "is no request key",
            "%%%%%%%%": "is no request key",
            "f" * 64: "has no request",
            lost[:9]: "several requests",
        }
        with ledger.reading() as connection:
            for key, message in cases.items():
                with pytest.raises(DecisionRefused, match=message):
                    concerned(connection, [key], RESUBMIT)
            (found,) = concerned(connection, [lost.upper(), lost], FORGET)
        assert found.request_key == lost
        with pytest.raises(ValueError, match="who takes it, and why"):
            decide(ledger, [lost], FORGET, who="mira", why=" ")


def test_a_resubmission_makes_its_set_incomplete(buyer: Buyer, lost: str) -> None:
    """The schedule that asks again for incomplete sets finds the set of a resubmitted request."""
    row = {"dataset": "images", "prompt_set": "spring", "attempt": 1, "retries": 0, "pending": 0}
    with buyer.open_ledger() as ledger:
        with ledger.engine.begin() as connection:
            connection.execute(insert(prompt_sets).values(row))
        told(buyer, lost, RESUBMIT)
        with ledger.reading() as connection:
            assert connection.scalars(select(prompt_sets.c.pending)).one() == 1


def test_a_resubmitted_request_that_cannot_be_sent_waits_on(
    buyer: Buyer, emulator: EmulatorServer, lost: str
) -> None:
    """A resubmission that the API would not take yet is still worth its one job."""
    told(buyer, lost, RESUBMIT)
    emulator.set_faults(Fault(kind=FaultKind.RATE_LIMITED, retry_after_seconds=0))
    assert dataclasses.replace(buyer, max_attempts=1).buy(ONE).outcomes == {"pending": 1}
    entry = only_entry(buyer)
    assert (entry.failure, len(entry.earlier)) == (Failure.NOT_SENT, 1)
    emulator.set_faults()
    assert buyer.buy(ONE).outcomes == {"generated": 1}
    assert emulator.stats.posts_accepted == 2


def test_reading_creates_no_ledger(buyer: Buyer) -> None:
    """A ledger that is only read makes neither a file nor a folder, and reads as empty."""
    url = buyer.ledger_url.replace("ledger.db", "new/ledger.db")
    with closing(Ledger(url, create=False)) as ledger:
        assert unknown_requests(ledger) == []
        assert ledger.entries(["0" * 64]) == {}
        assert ledger.latest_uses("images", "spring") == {}
    assert not (buyer.folder.parent / "new").exists()


def test_reading_creates_no_tables(postgres_url: str) -> None:
    """A database without a ledger's tables keeps none, and reads as an empty ledger."""
    with closing(Ledger(postgres_url, create=False)) as ledger:
        assert unknown_requests(ledger) == []
    with closing(Ledger(postgres_url, create=False)) as again:
        assert again.engine.dialect.name == "sqlite"


def test_reading_sees_what_was_bought_and_cannot_write(any_buyer: Buyer) -> None:
    """A ledger opened for reading shows what there is, and refuses every change."""
    bought = any_buyer.buy(prompts_of(numbered_rows(1)))
    with closing(Ledger(any_buyer.ledger_url, create=False)) as ledger:
        assert ledger.entries(bought.entries) == bought.entries
        with (
            pytest.raises(Exception, match=r"(?i)read.?only"),
            ledger.engine.begin() as connection,
        ):
            connection.execute(update(requests).values(error="changed"))
