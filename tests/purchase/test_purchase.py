"""A purchase at a vendor that behaves, dawdles or loses things."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imagepipeline_dagster.api.contract import GenerationRequest
from imagepipeline_dagster.api.jobs import Job
from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind, Operation
from imagepipeline_dagster.ledger.budget import Allowance, Budget, Period
from imagepipeline_dagster.ledger.records import Claim, Failure, Hold, Outcome, Owner, State
from imagepipeline_dagster.ledger.schema import requests
from imagepipeline_dagster.ledger.steps import record_claim, record_failed, record_submitted
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.purchase import landing, purchase, submission
from imagepipeline_dagster.purchase.state import PurchaseProgress
from imagepipeline_dagster.rows import fields_of
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.buying import (
    API_KEY,
    Buyer,
    ForgetfulBuyer,
    ListeningClient,
    assert_bytes_are_the_vendors,
    assert_each_sample_has_one_outcome,
    assert_nothing_bought_twice,
    numbered_rows,
    prompts_of,
    times_accepted,
)
from tests.conftest import StartEmulator


def leave_claimed(buyer: Buyer, call: PlannedRequest, *, owner: Owner, seconds: float) -> None:
    """Leave a call as a process does that claimed it, with a lease of so many seconds."""
    claim = Claim(
        **fields_of(call, "request_key", "task", "request", "samples", "embedding_version"),
        endpoint="http://elsewhere",
        emulated=True,
        run_id="another run",
    )
    until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    with buyer.open_ledger() as ledger, ledger.engine.begin() as connection:
        record_claim(connection, claim, owner=owner, lease_until=until, seen=0)


def leave_submitted(buyer: Buyer, call: PlannedRequest, *, job_id: str | None) -> None:
    """Leave a call as a process does that died once the API had taken it."""
    owner = Owner("a host that is gone/1/abc")
    leave_claimed(buyer, call, owner=owner, seconds=-1)
    hold = Hold(request_key=call.request_key, owner=owner, attempt=1)
    with buyer.open_ledger() as ledger, ledger.engine.begin() as connection:
        record_submitted(connection, hold, job_id=job_id, links=())


def test_everything_is_bought_once_and_never_again(buyer: Buyer, emulator: EmulatorServer) -> None:
    """A plan is bought with one POST a call, and a second run asks the API nothing at all."""
    buyer = dataclasses.replace(buyer, samples_per_call=2)
    prompts = prompts_of(numbered_rows(5, samples=3))

    bought = buyer.buy(prompts, run_id="first")
    after_first = emulator.stats
    again = buyer.buy(prompts, run_id="second")

    assert bought.outcomes == {"generated": 15}
    assert bought.report.posts == after_first.posts_received == after_first.posts_accepted == 10
    assert after_first.downloads == 15
    assert emulator.stats == after_first
    assert again.report.posts == 0
    assert {image.run_id for image in again.images} == {"first"}
    assert_each_sample_has_one_outcome(prompts, bought)
    assert_bytes_are_the_vendors(bought, buyer.storage)


def test_a_request_that_stands_twice_is_bought_once(buyer: Buyer, emulator: EmulatorServer) -> None:
    """Two rows that ask for the very same picture share one purchase, and each has its image.

    What is told of it is what a vendor bills.
    """
    [row] = numbered_rows(1, seed=7)
    prompts = prompts_of([row, dataclasses.replace(row, prompt_id="twin")])

    bought = buyer.buy(prompts)

    assert emulator.stats.posts_received == 1
    assert bought.outcomes == {"generated": 2}
    assert len({image.image_sha256 for image in bought.images}) == 1
    assert bought.report.bought_and_reused(bought.images, run_id="run") == (1, 1)


def test_a_job_past_its_deadline_is_asked_for_first_by_the_next_run(
    buyer: Buyer, start_emulator: StartEmulator
) -> None:
    """A slow job stays submitted; the next run polls it before it buys anything, and pays once."""
    vendor = start_emulator(latency_seconds=1, latency_spread=0)
    buyer = dataclasses.replace(buyer, base_url=vendor.url)
    rows = numbered_rows(5)
    slow = buyer.buy(prompts_of(rows[4:]), job_timeout_seconds=0.2)
    heard: list[str] = []
    bought = buyer.buy(prompts_of(rows), open_client=lambda: ListeningClient(vendor.url, heard))

    assert slow.outcomes == {"pending": 1}
    assert [entry.state for entry in slow.entries.values()] == [State.SUBMITTED]
    assert slow.report.stopper is None
    assert "JobTimedOut" in (slow.images[0].error or "")
    assert heard[0] == "wait unanswered"
    assert bought.report.resumed == 1
    assert bought.outcomes == {"generated": 5}
    assert set(times_accepted(bought.plan, vendor.stats).values()) == {1}


def test_a_job_that_a_wrong_clock_submitted_later_than_now_is_waited_for_no_longer(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """A job of a machine whose clock was an hour ahead has the time that any job has."""
    emulator.set_faults(Fault(kind=FaultKind.UNKNOWN_STATUS, times=1))
    prompts = prompts_of(numbered_rows(1))
    buyer.buy(prompts, job_timeout_seconds=0.01)
    with buyer.open_ledger() as ledger, ledger.engine.begin() as connection:
        later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        connection.execute(sa.update(requests).values(submitted_at=later))
    listening = ListeningClient(emulator.url, [])

    bought = buyer.buy(prompts, open_client=lambda: listening, job_timeout_seconds=20)

    assert bought.outcomes == {"generated": 1}
    assert listening.patience == [20]


def test_no_more_jobs_are_in_flight_than_allowed(buyer: Buyer, emulator: EmulatorServer) -> None:
    """However long the plan, `max_in_flight` jobs are under way at most."""
    client = ListeningClient(emulator.url, [])

    bought = buyer.buy(prompts_of(numbered_rows(20)), open_client=lambda: client, max_in_flight=3)

    assert bought.outcomes == {"generated": 20}
    assert client.most_jobs == 3


def occupied(tmp_path: Path) -> LocalFolder:
    """Return a storage that takes anything but pictures."""
    folder = tmp_path / "occupied"
    folder.mkdir()
    (folder / "thumbnails").write_text("a file where the folder should be")
    return LocalFolder(folder)


def test_nothing_is_bought_that_cannot_be_stored(
    buyer: Buyer, emulator: EmulatorServer, tmp_path: Path
) -> None:
    """A storage that cannot be written is noticed before the first request is sent."""
    (tmp_path / "file").write_text("a file where the folder should be")

    stopped = buyer.buy(prompts_of(numbered_rows(2)), storage=LocalFolder(tmp_path / "file"))

    assert isinstance(stopped.report.stopper, OSError)
    assert emulator.stats.posts_accepted == 0


def test_a_storage_that_cannot_be_written_loses_nothing(
    buyer: Buyer, emulator: EmulatorServer, tmp_path: Path
) -> None:
    """Where the bytes cannot be kept, buying stops, and the next run fetches what is paid for."""
    prompts = prompts_of(numbered_rows(40))

    stopped = buyer.buy(prompts, storage=occupied(tmp_path))
    paid = emulator.stats.posts_accepted
    bought = buyer.buy(prompts)

    assert isinstance(stopped.report.stopper, OSError)
    assert stopped.outcomes == {"pending": 40}
    assert 1 <= paid < 40
    assert bought.outcomes == {"generated": 40}
    assert bought.report.resumed == paid
    assert set(times_accepted(bought.plan, emulator.stats).values()) == {1}
    assert_bytes_are_the_vendors(bought, buyer.storage)


def test_a_job_without_an_id_is_resumed_by_its_links(
    buyer: Buyer, start_emulator: StartEmulator, tmp_path: Path
) -> None:
    """A vendor that answers at once names no job: its links are kept until the bytes are."""
    vendor = start_emulator(answer_at_once=True)
    buyer = dataclasses.replace(buyer, base_url=vendor.url)
    prompts = prompts_of(numbered_rows(2))

    buyer.buy(prompts, storage=occupied(tmp_path))
    bought = buyer.buy(prompts)

    assert bought.outcomes == {"generated": 2}
    assert vendor.stats.posts_accepted == 2
    assert vendor.stats.status_requests == 0


def test_a_job_without_id_and_links_is_resumed_as_filtered(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """Success without any link means that all was filtered, also for the process that resumes."""
    prompts = prompts_of(numbered_rows(1))
    [call] = buyer.plan(prompts)
    leave_submitted(buyer, call, job_id=None)

    bought = buyer.buy(prompts)

    assert bought.outcomes == {"vendor_filtered": 1}
    assert emulator.stats.posts_received == emulator.stats.status_requests == 0


@pytest.mark.parametrize("at_once", [False, True])
def test_a_failure_is_worth_one_more_job_and_not_more(
    at_once: bool,  # noqa: FBT001 - a test's parameter
    buyer: Buyer,
    start_emulator: StartEmulator,
) -> None:
    """A job that fails is bought once more, by this run or a later one, and then given up."""
    vendor = start_emulator(answer_at_once=at_once, faults=(Fault(kind=FaultKind.JOB_FAILURE),))
    buyer = dataclasses.replace(buyer, base_url=vendor.url)
    prompts = prompts_of(numbered_rows(3))

    bought = buyer.buy(prompts)
    buyer.buy(prompts)

    assert bought.outcomes == {"failed": 3}
    assert set(times_accepted(bought.plan, vendor.stats).values()) == {2}
    assert {entry.attempt for entry in bought.entries.values()} == {2}
    assert {image.error for image in bought.images} == {"the worker ran out of memory"}
    assert buyer.failures_counted() == 6


@pytest.mark.parametrize(
    ("signal", "outcomes"),
    [
        ("fewer_links", {"generated": 2, "vendor_filtered": 2}),
        ("black", {"generated": 4}),
        ("failure", {"generated": 2, "vendor_filtered": 2}),
    ],
)
def test_a_filtered_picture_is_recorded_and_not_bought_again(
    signal: str, outcomes: dict[str, int], buyer: Buyer, start_emulator: StartEmulator
) -> None:
    """However the safety checker shows itself, each sample has a row and no further job."""
    vendor = start_emulator(filter_signal=signal)
    buyer = dataclasses.replace(buyer, base_url=vendor.url, samples_per_call=2)
    rows = numbered_rows(2, samples=2)
    rows[0] = dataclasses.replace(rows[0], prompt="an nsfw boat")

    bought = buyer.buy(prompts_of(rows))
    again = buyer.buy(prompts_of(rows))

    assert bought.outcomes == again.outcomes == outcomes
    assert vendor.stats.posts_received == 2
    assert {image.value_range == 0 for image in bought.images if image.prompt_id == "p0000"} == {
        signal == "black"
    }


def test_a_job_that_the_api_lost_for_a_while_comes_home(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """Its request is unknown, a later run asks for the job once more, and nothing is paid again."""
    forgetful = ForgetfulBuyer(
        ledger_url=buyer.ledger_url, folder=buyer.folder, base_url=buyer.base_url
    )
    prompts = prompts_of(numbered_rows(2))
    lost = forgetful.buy(prompts)
    forgetful.asked.clear()
    still_lost = forgetful.buy(prompts)
    bought = buyer.buy(prompts)

    assert lost.outcomes == still_lost.outcomes == {"unknown": 2}
    assert all(image.is_open for image in still_lost.images)
    assert len(forgetful.asked) == 2
    assert {entry.state for entry in still_lost.entries.values()} == {State.UNKNOWN}
    assert bought.outcomes == {"generated": 2}
    assert emulator.stats.posts_received == 2
    assert_bytes_are_the_vendors(bought, buyer.storage)


def test_no_index_is_guessed_where_links_are_missing(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """Of a call with fewer links than samples nobody knows which sample a picture is."""
    emulator.set_faults(Fault(kind=FaultKind.FEWER_LINKS))
    buyer = dataclasses.replace(buyer, samples_per_call=4)

    bought = buyer.buy(prompts_of(numbered_rows(1, samples=4)))

    assert bought.outcomes == {"generated": 3, "vendor_filtered": 1}
    assert {image.sample_index for image in bought.images} == {None}
    assert len({image.image_sha256 for image in bought.images}) == 4
    assert_bytes_are_the_vendors(bought, buyer.storage)


def test_expired_links_are_renewed_by_the_status(
    buyer: Buyer, start_emulator: StartEmulator
) -> None:
    """Links that expired are asked for anew under the same job; nothing is paid again."""
    vendor = start_emulator(latency_seconds=0.3, latency_spread=0)
    buyer = dataclasses.replace(buyer, base_url=vendor.url)
    prompts = prompts_of(numbered_rows(2))
    buyer.buy(prompts, job_timeout_seconds=0.05)
    vendor.set_faults(Fault(kind=FaultKind.EXPIRED_LINK, times=2))

    bought = buyer.buy(prompts)

    assert vendor.stats.faults["expired_link"] == 2
    assert bought.outcomes == {"generated": 2}
    assert vendor.stats.posts_received == 2


def test_a_status_that_is_confused_for_a_while_does_not_make_a_picture_expire(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """Renewing a link meets a job that is pending again: the picture waits for the next run."""
    prompts = prompts_of(numbered_rows(1))

    class Confusing(ListeningClient):
        async def download(self, link: str) -> bytes:
            emulator.set_faults(
                Fault(kind=FaultKind.EXPIRED_LINK), Fault(kind=FaultKind.UNKNOWN_STATUS)
            )
            return await super().download(link)

    confused = buyer.buy(prompts, open_client=lambda: Confusing(emulator.url, []))
    emulator.set_faults()
    bought = buyer.buy(prompts)

    assert confused.outcomes == {"pending": 1}
    assert bought.outcomes == {"generated": 1}
    assert emulator.stats.posts_received == 1


def test_a_job_that_the_api_does_not_know_is_unknown(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """A submitted request whose job is not found is shown, and never sent again by itself."""
    prompts = prompts_of(numbered_rows(1))
    [call] = buyer.plan(prompts)
    leave_submitted(buyer, call, job_id="no-such-job")

    bought = buyer.buy(prompts)
    buyer.buy(prompts)

    assert bought.outcomes == {"unknown": 1}
    assert [entry.job_id for entry in bought.entries.values()] == ["no-such-job"]
    assert emulator.stats.posts_received == 0


def test_a_live_claim_of_another_process_is_waited_for(
    any_buyer: Buyer, emulator: EmulatorServer
) -> None:
    """What a living process has claimed is not bought by another, which waits for its job."""
    prompts = prompts_of(numbered_rows(2))
    call = any_buyer.plan(prompts)[0]
    other = Owner.this_process()

    def fail() -> None:
        with ledger.engine.begin() as connection:
            failure = Failure.INPUT_REFUSED
            record_failed(connection, call.request_key, failure, "too wide", owner=other)

    with any_buyer.open_ledger() as ledger:
        leave_claimed(any_buyer, call, owner=other, seconds=60)
        timer = threading.Timer(0.7, fail)
        timer.start()
        bought = any_buyer.buy(prompts)
        timer.join()

    assert bought.outcomes == {"generated": 1, "failed": 1}
    assert emulator.stats.posts_received == 1


def test_an_expired_claim_without_an_answer_is_unknown(
    any_buyer: Buyer, emulator: EmulatorServer
) -> None:
    """A claim whose lease ran out is not bought again: nobody knows what became of its POST."""
    prompts = prompts_of(numbered_rows(2))
    call = any_buyer.plan(prompts)[0]
    leave_claimed(any_buyer, call, owner=Owner("elsewhere/1/abc"), seconds=0.5)

    bought = any_buyer.buy(prompts)

    assert bought.outcomes == {"generated": 1, "unknown": 1}
    assert emulator.stats.posts_received == 1


def test_progress_is_told_while_a_purchase_goes_on(
    buyer: Buyer, start_emulator: StartEmulator
) -> None:
    """Every few seconds the caller hears how many images are done, of how many."""
    vendor = start_emulator(latency_seconds=0.15)
    buyer = dataclasses.replace(buyer, base_url=vendor.url)
    prompts = prompts_of(numbered_rows(8))
    reports: list[PurchaseProgress] = []
    buyer.buy(prompts, on_progress=reports.append)

    assert reports
    assert {progress.total for progress in reports} == {8}
    assert [progress.done for progress in reports] == sorted(progress.done for progress in reports)
    assert str(reports[-1]).startswith(f"{reports[-1].done}/8 images, ")


def test_an_empty_plan_is_carried_out_without_a_word(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """A set whose every row is refused costs nothing, and each of its samples has a row."""
    prompts = prompts_of(numbered_rows(2, guidance_scale=99.0))

    bought = buyer.buy(prompts)

    assert bought.outcomes == {"invalid": 2}
    assert bought.report.posts == emulator.stats.posts_received == 0


def test_a_run_counts_in_a_transaction_of_its_own(
    any_buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never holds the row in which all runs count beside a row that another's claim waits for.

    Two runs would hold one each and wait for the other's, until PostgreSQL stops one of them.
    """
    monkeypatch.setattr(purchase, "_COUNT_SECONDS", 0.001)
    touched: dict[sa.Connection, set[str]] = defaultdict(set)

    def note(connection: sa.Connection, _: object, statement: str, *_more: object) -> None:
        touched[connection].update(
            name
            for name in ("ledger_identity", "ledger_spending")
            if statement.startswith(f"UPDATE {name} ")
        )

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        any_buyer.buy(prompts_of(numbered_rows(40)))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)

    assert {"ledger_identity"} in touched.values()
    assert {"ledger_spending"} in touched.values()
    assert {"ledger_identity", "ledger_spending"} not in touched.values()


def test_claims_of_one_commit_never_pass_the_budget(
    any_buyer: Buyer, emulator: EmulatorServer
) -> None:
    """Of calls that are claimed together, as many are sent as the budget allows, and no more."""
    allowance = Allowance(scope="images", budget=Budget(images=7, period=Period.TOTAL))
    bought = any_buyer.buy(prompts_of(numbered_rows(40)), allowance=allowance, max_in_flight=40)

    assert bought.report.posts == emulator.stats.posts_received == 7
    assert bought.outcomes == {"generated": 7, "pending": 33}
    with any_buyer.open_ledger() as ledger:
        spent = allowance.spent(ledger, today=dt.datetime.now(dt.UTC).date())
    assert spent[Period.TOTAL].images == 7


def test_a_ledger_that_fails_is_raised_and_does_not_hang(
    buyer: Buyer, emulator: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the ledger ends the run as the error that it is, once jobs under way ended."""

    def broken(*_arguments: object, **_options: object) -> None:
        raise ValueError("a step that cannot be written")

    prompts = prompts_of(numbered_rows(40))
    with monkeypatch.context() as patch:
        patch.setattr(landing, "record_successes", broken)
        with pytest.raises(ValueError, match="cannot be written"):
            buyer.buy(prompts)
    paid = emulator.stats.posts_accepted
    bought = buyer.buy(prompts)

    assert paid < 40
    assert bought.outcomes == {"generated": 40}
    assert_nothing_bought_twice(buyer, bought, emulator.stats)


def test_a_job_that_cannot_be_recorded_is_in_the_log(
    buyer: Buyer,
    emulator: EmulatorServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a full disk the log is all that knows the id of a paid job."""

    def full(*_arguments: object, **_options: object) -> None:
        raise ValueError("database or disk is full")

    prompts = prompts_of(numbered_rows(1))
    with monkeypatch.context() as patch:
        patch.setattr(submission, "record_jobs", full)
        with pytest.raises(ValueError, match="disk is full"):
            buyer.buy(prompts)
    [call] = buyer.plan(prompts)

    [record] = [it for it in caplog.records if "could not be recorded" in it.message]
    assert re.search(rf"job \S{{8,}} of request {call.request_key} is paid", record.message)
    assert buyer.buy(prompts).outcomes == {"unknown": 1}
    assert emulator.stats.posts_received == 1


def test_the_key_is_in_no_row_of_the_ledger(buyer: Buyer, tmp_path: Path) -> None:
    """Neither refusals nor successes leave the API key in the ledger or beside the images."""
    prompts: list[Prompt] = prompts_of(numbered_rows(2))
    dataclasses.replace(buyer, api_key="a-wrong-secret-key").buy(prompts)
    buyer.buy(prompts)

    for file in tmp_path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert API_KEY.encode() not in content
            assert b"a-wrong-secret-key" not in content


def test_no_download_carries_the_key(buyer: Buyer, emulator: EmulatorServer) -> None:
    """Image links are followed without the API key, retries included."""
    emulator.set_faults(
        Fault(kind=FaultKind.SERVER_ERROR, operation=Operation.DOWNLOAD, times=2),
        Fault(kind=FaultKind.EXPIRED_LINK, times=1),
    )

    buyer.buy(prompts_of(numbered_rows(2)))

    assert emulator.stats.downloads >= 5
    assert emulator.stats.downloads_with_key == 0


def test_requests_table_is_left_alone_by_a_run_with_nothing_to_do(buyer: Buyer) -> None:
    """A second run does not even touch the rows of what is bought."""
    prompts = prompts_of(numbered_rows(2))
    buyer.buy(prompts)

    def rows() -> list[tuple[object, ...]]:
        with buyer.open_ledger() as ledger, ledger.reading() as connection:
            return [tuple(row) for row in connection.execute(requests.select())]

    before = rows()
    buyer.buy(prompts, run_id="later")

    assert rows() == before


def test_an_answer_with_another_requests_job_is_no_answer(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """Where the API repeats a job's id for another request, nothing of it is stored."""
    jobs: list[Job] = []

    class Repeating(ListeningClient):
        async def submit(self, request: GenerationRequest, **options: Any) -> Job:  # noqa: ANN401
            jobs.append(await super().submit(request, **options))
            return jobs[0]

    client = Repeating(emulator.url, [])
    bought = buyer.buy(prompts_of(numbered_rows(2)), open_client=lambda: client, max_in_flight=1)

    assert bought.outcomes == {"generated": 1, "unknown": 1}
    [unknown] = [image for image in bought.images if image.outcome == Outcome.UNKNOWN]
    assert "which is that of request" in (unknown.error or "")
    assert unknown.job_id is None
