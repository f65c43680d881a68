"""The ledger's steps, on SQLite and on PostgreSQL."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import insert, inspect, select, text

from imagepipeline_dagster.ledger.opening import LedgerTooNew
from imagepipeline_dagster.ledger.records import (
    Claim,
    Entry,
    Failure,
    Hold,
    JobRecord,
    Owner,
    State,
    StoredSample,
)
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import SCHEMA_VERSION, attempts
from imagepipeline_dagster.ledger.steps import (
    NewJob,
    record_claim,
    record_claims,
    record_confirmation,
    record_failed,
    record_jobs,
    record_release,
    record_renewal,
    record_resumed,
    record_stored,
    record_submitted,
    record_successes,
    record_trouble,
    record_unknown,
)
from imagepipeline_dagster.ledger.uses import Use, record_uses

T = TypeVar("T")
ME, OTHER = Owner("a-host/1/me"), Owner("a-host/2/other")
NOW = dt.datetime(2030, 5, 17, 12, 30, 15, 250_000, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(minutes=1)

VERSIONS = text("SELECT version_num FROM ledger_version")


def claim_named(key: str, *, samples: int = 1) -> Claim:
    """Return a claim of a request with this key."""
    return Claim(
        request_key=key,
        task="text2image",
        request='{"prompt":"Übermorgen 日本"}',
        samples=samples,
        embedding_version="v2",
        endpoint="http://127.0.0.1/sdxl/text2image/v1",
        emulated=True,
        run_id="run-1",
    )


def claim(ledger: Ledger, key: str = "k", *, owner: Owner = ME, seen: int = 0) -> bool:
    """Claim a request in a transaction of its own."""
    how = {"owner": owner, "lease_until": LATER, "seen": seen}
    return commit(ledger, record_claim, claim_named(key), **how)


def commit(ledger: Ledger, record: Callable[..., T], *what: object, **how: object) -> T:
    """Record a step in a transaction of its own."""
    with ledger.engine.begin() as connection:
        return record(connection, *what, **how)


def hold_on(key: str = "k", *, owner: Owner = ME, attempt: int = 1) -> Hold:
    """Return an owner's hold on a request."""
    return Hold(request_key=key, owner=owner, attempt=attempt)


def submit(
    ledger: Ledger, key: str = "k", *, owner: Owner = ME, job_id: str = "job", attempt: int = 1
) -> JobRecord:
    """Record a request's job in a transaction of its own."""
    hold = hold_on(key, owner=owner, attempt=attempt)
    return commit(ledger, record_submitted, hold, job_id=job_id, links=())


def fail(
    ledger: Ledger,
    failure: Failure = Failure.MODEL_ERROR,
    *,
    owner: Owner = ME,
    error: str = "went wrong",
) -> None:
    """Record that a request failed in a transaction of its own."""
    commit(ledger, record_failed, "k", failure, error, owner=owner)


def the_entry(ledger: Ledger) -> Entry:
    """Return the entry of the one request."""
    return ledger.entries(["k"])["k"]


def sample_at(slot: int, **values: object) -> StoredSample:
    """Return a stored sample."""
    usual = {"sample_index": slot, "outcome": "generated", "stored_at": NOW, **values}
    return StoredSample(slot=slot, **usual)  # type: ignore[arg-type] # any of its fields


def test_a_request_goes_from_claimed_to_succeeded(ledger: Ledger) -> None:
    """Each step leaves what a later process must know, times and texts as they were."""
    assert ledger.entries(["k"]) == {}
    assert claim(ledger)
    claimed = the_entry(ledger)
    assert (claimed.state, claimed.attempt, claimed.owner) == (State.CLAIMED, 1, ME)
    assert claimed.lease_until == LATER
    assert claimed.request == '{"prompt":"Übermorgen 日本"}'
    assert claimed.job_id is None

    submit(ledger)
    submitted = the_entry(ledger)
    assert (submitted.state, submitted.job_id) == (State.SUBMITTED, "job")
    assert submitted.submitted_at is not None
    assert submitted.submitted_at.tzinfo is dt.UTC

    with ledger.engine.begin() as connection:
        record_stored(connection, hold_on(), sample_at(0, image_sha256="ab" * 32, bytes=7))
        record_successes(connection, [(hold_on(), ())])
    done = the_entry(ledger)
    assert done.state is State.SUCCEEDED
    assert done.settled
    assert done.stored == (sample_at(0, image_sha256="ab" * 32, bytes=7),)


@pytest.mark.parametrize("jobs_before", [0, 1])
def test_only_one_of_many_threads_gets_a_claim(ledger: Ledger, jobs_before: int) -> None:
    """Of sixteen that claim a request at once one may send it, after a failure too."""
    if jobs_before:
        claim(ledger)
        submit(ledger)
        fail(ledger)
    together = threading.Barrier(16)
    owners = [Owner(f"a-host/{number}/x") for number in range(16)]

    def compete(owner: Owner) -> bool:
        together.wait()
        return claim(ledger, owner=owner, seen=jobs_before)

    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(compete, owners))

    assert won.count(True) == 1
    assert the_entry(ledger).owner == owners[won.index(True)]
    assert the_entry(ledger).attempt == jobs_before + 1


def test_a_claim_can_be_repeated_by_its_owner_alone(ledger: Ledger) -> None:
    """A commit whose confirmation was lost is written again without giving the claim away."""
    assert claim(ledger)
    assert not claim(ledger, owner=OTHER)
    submit(ledger)
    assert not claim(ledger)
    assert the_entry(ledger).state is State.SUBMITTED


def test_steps_of_many_requests_are_told_apart(ledger: Ledger) -> None:
    """Steps that are recorded together do and say of each request what they would alone."""
    how = {"owner": ME, "lease_until": LATER}
    assert claim(ledger, "theirs", owner=OTHER)
    assert not commit(ledger, record_claims, [claim_named(key) for key in ("a", "theirs")], **how)
    assert commit(ledger, record_claims, [claim_named(key) for key in "bcde"], **how)

    def jobs(**ids: str | None) -> list[JobRecord]:
        new = [NewJob(hold_on(key), job_id, ["link"]) for key, job_id in ids.items()]
        return commit(ledger, record_jobs, new)

    kept = JobRecord(kept=True)
    assert jobs(a="job-a", b="job-b") == [kept, kept]
    assert jobs(a="job-a", c="job-b") == [kept, JobRecord(kept=False, request_with_job="b")]
    assert jobs(c="job-c", d="job-c") == [kept, JobRecord(kept=False, request_with_job="c")]
    assert jobs(d=None, theirs="job-f") == [kept, JobRecord(kept=False)]

    ended = [(hold_on(key), [sample_at(0)]) for key in ("a", "e", "theirs", "b")]
    assert commit(ledger, record_successes, ended) == [True, False, False, True]
    entries = ledger.entries([*"abcde", "theirs"]).values()
    assert {it.request_key: (it.state, it.job_id, len(it.stored)) for it in entries} == {
        "a": (State.SUCCEEDED, "job-a", 1),
        "b": (State.SUCCEEDED, "job-b", 1),
        "c": (State.SUBMITTED, "job-c", 0),
        "d": (State.SUBMITTED, None, 0),
        "e": (State.CLAIMED, None, 0),
        "theirs": (State.CLAIMED, None, 0),
    }


def test_a_claim_with_an_outdated_view_is_refused(ledger: Ledger) -> None:
    """Who still sees the first failure cannot buy what another bought and failed meanwhile."""
    for seen in (0, 1):
        assert claim(ledger, seen=seen)
        submit(ledger, job_id=f"job-{seen}", attempt=seen + 1)
        fail(ledger)

    assert not claim(ledger, owner=OTHER, seen=1)
    assert the_entry(ledger).attempt == 2
    with ledger.reading() as connection:
        jobs = connection.execute(select(attempts.c.job_id).order_by(attempts.c.attempt))
        assert list(jobs.scalars()) == ["job-0", "job-1"]


def test_what_was_never_sent_is_no_attempt(ledger: Ledger) -> None:
    """A POST that provably created no job does not use up one of the permitted ones."""
    for _ in range(3):
        assert claim(ledger)
        fail(ledger, Failure.NOT_SENT)
        fail(ledger, Failure.NOT_SENT)
        assert the_entry(ledger).attempt == 0


def test_a_late_failure_does_not_touch_another_owners_new_job(ledger: Ledger) -> None:
    """A process that lost its request to another cannot end the other's job, or count it."""
    claim(ledger)
    submit(ledger)
    with ledger.engine.begin() as connection:
        assert record_resumed(connection, "k", owner=OTHER, lease_until=LATER, former=ME)
        assert not record_resumed(connection, "k", owner=OTHER, lease_until=LATER, former=ME)
    fail(ledger, owner=OTHER)
    assert claim(ledger, owner=OTHER, seen=1)

    fail(ledger, owner=ME)
    submit(ledger, owner=OTHER, job_id="second", attempt=2)

    now = the_entry(ledger)
    assert (now.state, now.job_id, now.attempt) == (State.SUBMITTED, "second", 2)


def test_an_answer_that_comes_after_all_is_kept(ledger: Ledger) -> None:
    """A claim that another process judged lost is found again when its answer arrives."""
    claim(ledger)
    commit(ledger, record_unknown, "k", "lost", owner=ME, was=State.CLAIMED)
    assert the_entry(ledger).state is State.UNKNOWN

    submit(ledger)

    found = the_entry(ledger)
    assert (found.state, found.job_id, found.error) == (State.SUBMITTED, "job", None)


def test_a_claim_judged_lost_too_late_keeps_its_job(ledger: Ledger) -> None:
    """Whoever saw a claim without an answer cannot bury the job that was named meanwhile."""
    claim(ledger)
    submit(ledger)

    commit(ledger, record_unknown, "k", "lost", owner=ME, was=State.CLAIMED)

    assert the_entry(ledger).state is State.SUBMITTED


def test_samples_are_kept_one_by_one_and_replaced_in_place(ledger: Ledger) -> None:
    """A sample that is stored again has its latest form, and a request knows what it lacks."""
    commit(ledger, record_claim, claim_named("k", samples=2), owner=ME, lease_until=LATER, seen=0)
    submit(ledger)
    commit(ledger, record_stored, hold_on(), sample_at(1, outcome="expired", error="gone"))
    assert not the_entry(ledger).settled
    with ledger.engine.begin() as connection:
        record_stored(connection, hold_on(), sample_at(1))
        record_successes(connection, [(hold_on(), [sample_at(0, outcome="vendor_filtered")])])

    done = the_entry(ledger)
    assert done.settled
    assert [(s.slot, s.outcome, s.error) for s in done.stored] == [
        (0, "vendor_filtered", None),
        (1, "generated", None),
    ]


def test_links_are_kept_only_where_no_id_can_ask_for_them(ledger: Ledger) -> None:
    """Links go out of date; they are stored for jobs without an id alone."""
    links = ["http://a/1.png", "http://a/2.png"]
    for key, job_id in (("k", None), ("named", "job")):
        claim(ledger, key)
        commit(ledger, record_submitted, hold_on(key), job_id=job_id, links=links)

    assert the_entry(ledger).links == tuple(links)
    assert ledger.entries(["named"])["named"].links == ()


def test_any_error_text_can_be_stored(ledger: Ledger) -> None:
    """An API's message may hold what a database refuses: NUL and halves of characters."""
    claim(ledger)
    submit(ledger)
    commit(ledger, record_trouble, "k", "a\0b \ud800 c")
    assert the_entry(ledger).error == "a?b ? c"

    fail(ledger, error="x" * 5000 + "\0\udfff")

    assert the_entry(ledger).error == "x" * 5000 + "??"


def test_leases_are_renewed_and_released_for_one_owner(ledger: Ledger) -> None:
    """An owner's word holds for all that it works on, and ends for all of it at once."""
    claim(ledger, "k")
    claim(ledger, "theirs", owner=OTHER)
    much_later = LATER + dt.timedelta(hours=1)
    commit(ledger, record_renewal, ME, lease_until=much_later)
    renewed = ledger.entries(["k", "theirs"])
    commit(ledger, record_release, ME)
    released = ledger.entries(["k", "theirs"])

    assert renewed["k"].lease_until == much_later
    assert released["k"].lease_until <= dt.datetime.now(dt.UTC)
    assert renewed["theirs"].lease_until == released["theirs"].lease_until == LATER


def test_the_latest_use_of_a_call_is_the_one_noted_last(ledger: Ledger) -> None:
    """A call that goes back to an earlier request uses that one again, with its row as it is."""

    def use(key: str, row: str, dataset: str = "images") -> Use:
        return Use(
            dataset=dataset,
            prompt_set="spring",
            prompt_id="p",
            call_index=0,
            request_key=key,
            prompt_row=row,
            embedding_row=None,
            run_id="run",
        )

    for key, row in (("a", "1"), ("b", "2"), ("a", "3")):
        commit(ledger, record_uses, [use(key, row), use("z", "9", "other")])

    assert ledger.latest_uses("images", "spring") == {("p", 0): use("a", "3")}
    assert ledger.latest_uses("images", "winter") == {}


def test_many_entries_are_read_in_parts(ledger: Ledger) -> None:
    """More keys than one query takes are all found, unknown ones left out."""
    with ledger.engine.begin() as connection:
        for number in range(612):
            record_claim(connection, claim_named(f"k{number}"), owner=ME, lease_until=LATER, seen=0)

    found = ledger.entries([f"k{number}" for number in range(1100)])

    assert found.keys() == {f"k{number}" for number in range(612)}


def test_a_new_ledger_is_made_once_by_whoever_comes_first(ledger_url: str) -> None:
    """Several processes that meet an empty database all find the same tables and one version."""
    together = threading.Barrier(6)

    def first_use(_number: int) -> int:
        opened = Ledger(ledger_url)
        together.wait()
        with opened.reading() as connection:
            versions = list(connection.execute(VERSIONS).scalars())
        opened.close()
        assert versions == [str(SCHEMA_VERSION)]
        return len(versions)

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(first_use, range(6))) == [1] * 6


def test_a_ledger_is_opened_again_as_it_was(ledger: Ledger, ledger_url: str) -> None:
    """Opening an existing ledger changes nothing in it."""
    claim(ledger)
    again = Ledger(ledger_url)
    assert again.entries(["k"]) == ledger.entries(["k"])
    assert "ledger_requests" in inspect(again.engine).get_table_names()
    again.close()


def test_a_ledger_of_a_later_version_is_refused(ledger: Ledger, ledger_url: str) -> None:
    """An old package does not write into a ledger that it does not understand."""
    with ledger.engine.begin() as connection:
        later = {"later": str(SCHEMA_VERSION + 1)}
        connection.execute(text("UPDATE ledger_version SET version_num = :later"), later)

    with pytest.raises(LedgerTooNew, match=f"has schema version {SCHEMA_VERSION + 1}"):
        Ledger(ledger_url).entries(["k"])


def test_a_ledgers_folder_is_made(tmp_path: Path) -> None:
    """The default ledger stands in a folder that need not exist yet, in WAL mode."""
    opened = Ledger(f"sqlite:///{tmp_path / 'a' / 'b' / 'ledger.db'}")
    with opened.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
    opened.close()


def test_readers_do_not_wait_for_a_writer(ledger: Ledger) -> None:
    """A plan can be read while a purchase is committing; it sees what is committed."""
    claim(ledger, "k")
    with ledger.engine.begin() as connection:
        connection.execute(
            insert(attempts).values(
                request_key="k", attempt=1, run_id="r", ended_at=NOW, failure="model_error"
            )
        )
        assert ledger.entries(["k"])["k"].state is State.CLAIMED
        assert ledger.latest_uses("images", "spring") == {}


def test_a_living_process_is_not_gone() -> None:
    """This process holds its leases, and so does one of another machine or of an odd name."""
    assert not Owner.this_process().is_gone
    assert not Owner("another-host/1/x").is_gone
    assert not Owner("no process at all").is_gone
    assert not Owner(f"{socket.gethostname()}/1/x").is_gone
    assert Owner.this_process() != Owner.this_process()


def test_an_ended_process_of_this_machine_is_gone() -> None:
    """A process that has ended holds no lease, however long that would last."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    place = Owner.this_process().name.rsplit("/", 2)[0]
    assert Owner(f"{place}/{process.pid}/x").is_gone
    assert os.getpid() != process.pid


def test_of_another_pid_namespace_nobody_says_that_a_process_ended() -> None:
    """A host of the same name whose process ids are others' is not this machine."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    for place in (socket.gethostname(), f"{socket.gethostname()}/00000000"):
        assert not Owner(f"{place}/{process.pid}/x").is_gone


def test_a_job_belongs_to_one_request(ledger: Ledger) -> None:
    """A job id that another request of the same API has, or had, is recorded for no second one."""
    for key in ("k", "other", "third"):
        claim(ledger, key)
    submit(ledger, "k", job_id="first")
    fail(ledger)
    claim(ledger, "k", seen=1)
    submit(ledger, "k", job_id="second", attempt=2)

    with ledger.engine.begin() as connection:
        answers = [
            record_submitted(connection, hold_on(key), job_id=job_id, links=())
            for key, job_id in (("other", "first"), ("other", "second"), ("third", "of its own"))
        ]

    assert [answer.request_with_job for answer in answers] == ["k", "k", None]
    assert [answer.kept for answer in answers] == [False, False, True]
    assert ledger.entries(["other"])["other"].state is State.CLAIMED
    assert ledger.entries(["third"])["third"].job_id == "of its own"


def test_two_apis_may_number_their_jobs_alike(ledger: Ledger) -> None:
    """The same job id at another API is another job."""
    claim(ledger)
    submit(ledger, job_id="1")
    there = dataclasses.replace(
        claim_named("there"), endpoint="http://elsewhere/sdxl/text2image/v1"
    )
    with ledger.engine.begin() as connection:
        record_claim(connection, there, owner=ME, lease_until=LATER, seen=0)
        answer = record_submitted(connection, hold_on("there"), job_id="1", links=())
    assert answer.kept
    assert ledger.entries(["there"])["there"].state is State.SUBMITTED


def test_an_entry_is_live_while_its_lease_and_its_process_last(ledger: Ledger) -> None:
    """Only what is claimed or submitted, under a lease that holds, is worked on by somebody."""
    claim(ledger, owner=Owner("another-host/1/x"))
    claimed = the_entry(ledger)
    assert claimed.is_live(NOW)
    assert not claimed.is_live(LATER)
    fail(ledger, owner=Owner("another-host/1/x"))
    assert not the_entry(ledger).is_live(NOW)


_MAKE_LEDGERS = """
import sys, time
from contextlib import closing
from imagepipeline_dagster.ledger.requests import Ledger
folder, count = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
start = float(sys.stdin.readline())
for number in range(count):
    time.sleep(max(0.0, start + number * 0.05 - time.time()))
    with closing(Ledger(f"sqlite:///{folder}/ledger{number}.db")) as ledger:
        assert ledger.entries(["k"]) == {}
"""


@pytest.mark.slow
def test_processes_that_make_a_ledger_at_once_all_get_it(tmp_path: Path) -> None:
    """The first runs of a new folder may start together; none fails because another is first."""
    command = [sys.executable, "-c", _MAKE_LEDGERS, str(tmp_path), "40"]
    with ExitStack() as stack:
        makers = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this very interpreter
            )
            for _ in range(4)
        ]
        for maker in makers:
            assert maker.stdout is not None
            assert maker.stdout.readline() == "ready\n"
        start = time.time() + 0.2
        for maker in makers:
            assert maker.stdin is not None
            maker.stdin.write(f"{start}\n")
            maker.stdin.flush()
        codes = [maker.wait() for maker in makers]
    assert codes == [0, 0, 0, 0]


def test_nothing_is_stored_over_the_work_of_another_attempt(ledger: Ledger) -> None:
    """Samples and ends count under the owner and the attempt that have the request alone."""
    claim(ledger)
    submit(ledger)
    with ledger.engine.begin() as connection:
        for hold in (hold_on(owner=OTHER), hold_on(attempt=2)):
            assert not record_stored(connection, hold, sample_at(0))
            assert record_successes(connection, [(hold, [sample_at(0)])]) == [False]
    assert (the_entry(ledger).state, the_entry(ledger).stored) == (State.SUBMITTED, ())


def test_a_claim_is_confirmed_for_its_owner_and_attempt(ledger: Ledger) -> None:
    """Just before sending, a claim is renewed where it is still the sender's, and refused else."""
    claim(ledger)
    later = LATER + dt.timedelta(minutes=1)
    with ledger.engine.begin() as connection:
        assert record_confirmation(connection, hold_on(), lease_until=later)
        assert not record_confirmation(connection, hold_on(owner=OTHER), lease_until=later)
        assert not record_confirmation(connection, hold_on(attempt=2), lease_until=later)
        record_unknown(connection, "k", "its lease ended", owner=ME, was=State.CLAIMED)
        assert not record_confirmation(connection, hold_on(), lease_until=later)
    assert the_entry(ledger).lease_until == later


def test_a_job_id_that_comes_too_late_is_kept_with_its_attempt(ledger: Ledger) -> None:
    """Where a person bought the request again meanwhile, the late job stays known as an attempt."""
    claim(ledger)
    fail(ledger, Failure.RESUBMITTED)
    claim(ledger, owner=OTHER, seen=1)
    submit(ledger, owner=OTHER, job_id="second", attempt=2)

    late = submit(ledger, job_id="first")

    entry = the_entry(ledger)
    assert not late.kept
    assert (entry.job_id, entry.owner) == ("second", OTHER)
    assert [attempt.job_id for attempt in entry.earlier] == ["first"]
