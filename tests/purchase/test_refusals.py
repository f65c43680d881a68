"""A purchase at a vendor that refuses a key, an input or all, or cannot be reached."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from typing import Any

import pytest

from imagepipeline_dagster.api import client as api_client
from imagepipeline_dagster.api.contract import GenerationRequest
from imagepipeline_dagster.api.errors import (
    AccessRefused,
    CreditsExhausted,
    Unreachable,
    WrongAddress,
)
from imagepipeline_dagster.api.jobs import Job
from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind
from imagepipeline_dagster.ledger.records import Failure, Outcome
from tests.buying import (
    QUICK,
    Buyer,
    ListeningClient,
    assert_nothing_bought_twice,
    numbered_rows,
    prompts_of,
    times_accepted,
)
from tests.conftest import StartEmulator


def test_a_refused_key_stops_the_purchase_soon(buyer: Buyer, emulator: EmulatorServer) -> None:
    """It is tried by no more than what is in flight, the report says so, and nothing is lost."""
    prompts = prompts_of(numbered_rows(30))

    refused = dataclasses.replace(buyer, api_key="a-wrong-key").buy(prompts)
    sent = emulator.stats.posts_received
    bought = buyer.buy(prompts)

    assert isinstance(refused.report.stopper, AccessRefused)
    assert refused.report.posts == 0
    assert sent <= 2 * QUICK.max_in_flight
    assert refused.outcomes == {"pending": 30}
    assert bought.outcomes == {"generated": 30}
    assert set(times_accepted(bought.plan, emulator.stats).values()) == {1}


def test_a_key_refused_midway_lets_paid_jobs_come_home(
    buyer: Buyer, start_emulator: StartEmulator
) -> None:
    """A job that is under way when the key is refused for a further one is still brought home."""
    vendor = start_emulator(latency_seconds=0.6, latency_spread=0)
    prompts = prompts_of(numbered_rows(4))

    class Refusing(ListeningClient):
        async def submit(self, request: GenerationRequest, **options: Any) -> Job:  # noqa: ANN401
            if request.prompt != "boat number 0":
                await is_bought.wait()
                raise AccessRefused("the key was withdrawn")
            job = await super().submit(request, **options)
            is_bought.set()
            return job

    is_bought = asyncio.Event()

    bought = buyer.buy(prompts, open_client=lambda: Refusing(vendor.url, []))

    assert isinstance(bought.report.stopper, AccessRefused)
    assert bought.outcomes == {"generated": 1, "pending": 3}


def test_jobs_that_cannot_be_asked_for_stop_the_purchase(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """Where POSTs are taken and each question is refused, few are bought that nobody can have."""

    class Deaf(ListeningClient):
        async def status(self, task: str, job_id: str) -> Job:
            raise AccessRefused(f"no right to ask for {task} {job_id}")

    bought = buyer.buy(
        prompts_of(numbered_rows(30)),
        open_client=lambda: Deaf(emulator.url, []),
        max_failure_ratio=1.0,
        max_in_flight=1,
    )

    assert isinstance(bought.report.stopper, AccessRefused)
    assert emulator.stats.posts_accepted == 3


@pytest.mark.parametrize("place", [0, 5])
@pytest.mark.parametrize("max_in_flight", [1, 16])
@pytest.mark.parametrize("where", ["submit", "status"])
@pytest.mark.parametrize("refusal", [AccessRefused, WrongAddress])
def test_a_row_refused_as_a_key_is_keeps_no_other_back(
    where: str,
    refusal: type[Exception],
    max_in_flight: int,
    place: int,
    buyer: Buyer,
    emulator: EmulatorServer,
) -> None:
    """A filter before the API refuses one prompt: the others are bought, and alone it is told."""
    prompts = prompts_of(numbered_rows(6))
    refused = f"boat number {place}"

    class Filtered(ListeningClient):
        refused_job: str | None = None

        async def submit(self, request: GenerationRequest, **options: Any) -> Job:  # noqa: ANN401
            if where == "submit" and request.prompt == refused:
                raise refusal("a page for people")
            job = await super().submit(request, **options)
            if request.prompt == refused:
                self.refused_job = job.id
            return job

        async def status(self, task: str, job_id: str) -> Job:
            if where == "status" and job_id == self.refused_job:
                raise refusal("a page for people")
            return await super().status(task, job_id)

    def filtered() -> Filtered:
        return Filtered(emulator.url, [])

    bought = buyer.buy(prompts, open_client=filtered, max_in_flight=max_in_flight)
    alone = buyer.buy(prompts[place : place + 1], open_client=filtered)
    mended = buyer.buy(prompts)

    assert bought.report.stopper is None
    assert bought.outcomes == {"generated": 5, "pending": 1}
    assert "a page for people" in str(bought.images[place].error)
    assert where == "status" or isinstance(alone.report.stopper, refusal)
    assert mended.outcomes == {"generated": 6}
    assert_nothing_bought_twice(buyer, mended, emulator.stats)


def test_an_unreachable_api_stops_the_purchase(buyer: Buyer, emulator: EmulatorServer) -> None:
    """Where nobody answers, the run stops and every call can still be bought."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    prompts = prompts_of(numbered_rows(12))

    away = dataclasses.replace(buyer, base_url=f"http://127.0.0.1:{port}").buy(prompts)
    bought = buyer.buy(prompts)

    assert isinstance(away.report.stopper, Unreachable)
    assert away.outcomes == {"pending": 12}
    assert {entry.attempt for entry in away.entries.values()} == {0}
    assert bought.outcomes == {"generated": 12}
    assert emulator.stats.posts_received == 12


def test_a_refused_input_is_parked_until_its_row_changes(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """What the API refuses costs one POST, holds nobody up, and is sent again once it changed."""
    rows = numbered_rows(3)
    rows[1] = dataclasses.replace(rows[1], width=4096)

    bought = buyer.buy(prompts_of(rows))
    sent = emulator.stats.posts_received
    again = buyer.buy(prompts_of(rows))
    sent_again = emulator.stats.posts_received
    rows[1] = dataclasses.replace(rows[1], width=128)
    mended = buyer.buy(prompts_of(rows))

    assert bought.report.stopper is None
    assert bought.outcomes == again.outcomes == {"generated": 2, "failed": 1}
    [refused] = [image for image in bought.images if image.outcome == Outcome.FAILED]
    assert "width" in (refused.error or "")
    assert refused.request_key is not None
    assert bought.entries[refused.request_key].failure is Failure.INPUT_REFUSED
    assert sent == sent_again == 3
    assert mended.outcomes == {"generated": 3}
    assert emulator.stats.posts_received == 4


def test_throttling_slows_the_purchase_and_all_is_bought_in_the_end(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """A 429 with Retry-After makes the run wait that long, and costs no picture."""
    emulator.set_faults(Fault(kind=FaultKind.RATE_LIMITED, times=3, retry_after_seconds=1))
    started = time.monotonic()

    bought = buyer.buy(prompts_of(numbered_rows(6)))

    assert time.monotonic() - started >= 1
    assert bought.outcomes == {"generated": 6}
    assert emulator.stats.posts_accepted == 6
    assert {entry.attempt for entry in bought.entries.values()} == {1}


def test_an_api_that_takes_nothing_for_long_is_left_to_the_next_run(
    buyer: Buyer, emulator: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run does not try all its plan where each request is refused for now; nothing is lost."""
    monkeypatch.setattr(api_client, "_REFUSALS_BELIEVED_SECONDS", 0.5)
    emulator.set_faults(Fault(kind=FaultKind.RATE_LIMITED, retry_after_seconds=0))
    prompts = prompts_of(numbered_rows(60))
    refused = buyer.buy(prompts)
    tried = emulator.stats.posts_received
    emulator.set_faults()
    bought = buyer.buy(prompts)

    assert f"{emulator.url} has taken no request for" in str(refused.report.stopper)
    assert refused.outcomes == {"pending": 60}
    assert tried < 60
    assert bought.outcomes == {"generated": 60}
    assert set(times_accepted(bought.plan, emulator.stats).values()) == {1}


@pytest.mark.parametrize("at_once", [True, False])
def test_an_account_that_cannot_pay_stops_the_purchase(
    buyer: Buyer, start_emulator: StartEmulator, *, at_once: bool
) -> None:
    """A FAILURE for want of credits, of the POST or of its job, parks no request.

    The run stops, and a later one buys all.
    """
    no_credits = Fault(kind=FaultKind.JOB_FAILURE, message="insufficient credits")
    vendor = start_emulator(answer_at_once=at_once, faults=(no_credits,))
    buyer = dataclasses.replace(buyer, base_url=vendor.url)
    prompts = prompts_of(numbered_rows(30))

    refused = buyer.buy(prompts)
    sent = vendor.stats.posts_received
    vendor.set_faults()
    bought = buyer.buy(prompts)

    assert isinstance(refused.report.stopper, CreditsExhausted)
    assert sent <= QUICK.max_in_flight
    assert refused.outcomes == {"pending": 30}
    assert bought.outcomes == {"generated": 30}
