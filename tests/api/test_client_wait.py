from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import islice

import pytest

from imagepipeline_dagster.api.client import ImagePipelineClient, poll_delays
from imagepipeline_dagster.api.contract import Task
from imagepipeline_dagster.api.errors import (
    AccessRefused,
    CreditsExhausted,
    JobFailed,
    JobNotFound,
    JobTimedOut,
    Throttled,
)
from imagepipeline_dagster.api.jobs import Job, JobStatus
from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings, Fault, FaultKind
from tests.api.servers import NEVER, PENDING, Reply, a_request, client_of, closing, serving

JOB = Job(task=Task.TEXT2IMAGE, id="job-1", status=JobStatus.PENDING, word="PENDING")
DONE = Reply(value={"status": "SUCCESS", "download_urls": ["https://a/1.png"]})


def wait(
    client: ImagePipelineClient,
    job: Job = JOB,
    *,
    timeout: float = 20.0,
    delays: Iterable[float] | None = (0.01,),
) -> Job:
    """Wait for a job with a client, and close it."""
    return closing(client, lambda opened: opened.wait(job, timeout=timeout, delays=delays))


def test_until_success() -> None:
    """A job is polled while it is pending, by whatever word, and returned with id and links."""
    warming = Reply(value={"status": "WARMING_UP"})
    with serving(Reply(value=PENDING), Reply(value={"status": "QUEUED"}), warming, DONE) as server:
        job = wait(client_of(server.url))

        assert server.count("GET") == 4
    assert (job.status, job.id, job.download_urls) == (
        JobStatus.SUCCESS,
        "job-1",
        ("https://a/1.png",),
    )


def test_done_already() -> None:
    """A job that has succeeded already is returned without a request."""
    done = JOB.model_copy(update={"status": JobStatus.SUCCESS})
    with serving(DONE) as server:
        assert wait(client_of(server.url), done) == done
        assert server.received == []


def test_failed_already() -> None:
    """A job that failed at once is raised without a request, and its message never is empty."""
    failed = JOB.model_copy(update={"status": JobStatus.FAILURE})
    with serving(DONE) as server:
        with pytest.raises(JobFailed, match="gave no message"):
            wait(client_of(server.url), failed)

        assert server.received == []


def test_deadline_carries_the_job() -> None:
    """A job that is still pending at the deadline is raised, carried by the error."""
    with serving(Reply(value={"status": "PROCESSING", "id": "job-1"})) as server:
        started = time.monotonic()
        with pytest.raises(
            JobTimedOut, match=r"job job-1 was still PROCESSING after 0\.3 s$"
        ) as it:
            wait(client_of(server.url), timeout=0.3)

        assert time.monotonic() - started >= 0.3
    assert (it.value.job.id, it.value.job.word) == ("job-1", "PROCESSING")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(value=PENDING, pause=NEVER),
        Reply(status=429, headers={"Retry-After": "3600"}),
        Reply(value=PENDING | {"padding": "-" * 10_000}, trickle=0.2),
    ],
    ids=["silent", "throttling", "trickling"],
)
def test_deadline_cuts_a_poll_short(reply: Reply) -> None:
    """The deadline holds while a poll is unanswered or waits for its next attempt."""
    with serving(reply) as server, pytest.raises(JobTimedOut):
        wait(client_of(server.url), timeout=0.3)


def test_deadline_cuts_a_pause_short() -> None:
    """The deadline holds during a long pause between two polls, too."""
    with serving(DONE) as server:
        with pytest.raises(JobTimedOut):
            wait(client_of(server.url), timeout=0.1, delays=(NEVER,))

        assert server.received == []


def test_outage_does_not_end_it() -> None:
    """A status that cannot be had for a while is asked for again until the job is done."""
    trouble = [Reply(status=502), Reply(drop=True), Reply(status=503), Reply(body=b"<html>")] * 3
    with serving(*trouble, DONE) as server:
        assert wait(client_of(server.url)).status is JobStatus.SUCCESS
        assert server.count("GET") == 13


def test_outage_at_the_deadline_is_told() -> None:
    """Where the last poll failed, the deadline's error says how."""
    told = r"the last status request failed: .* HTTP 502"
    with serving(Reply(status=502)) as server, pytest.raises(JobTimedOut, match=told):
        wait(client_of(server.url, max_attempts=1), timeout=0.3)


def test_past_outage_is_not_told() -> None:
    """Trouble that was over long before the deadline is not blamed for it."""
    replies = Reply(status=502), Reply(value=PENDING)
    with serving(*replies) as server, pytest.raises(JobTimedOut) as raised:
        wait(client_of(server.url, max_attempts=1), timeout=0.4)

    assert "502" not in str(raised.value)


def test_a_refused_key_ends_the_waiting_at_once() -> None:
    """No further poll is sent with a key that the API refused."""
    with serving(Reply(status=401)) as server:
        with pytest.raises(AccessRefused):
            wait(client_of(server.url))

        assert server.count("GET") == 1


def test_an_api_that_lags_behind_its_answers_is_waited_for() -> None:
    """A job that the API does not know at first is asked for again."""
    with serving(Reply(status=404), Reply(status=404), DONE) as server:
        assert wait(client_of(server.url)).status is JobStatus.SUCCESS


def test_a_job_that_stays_unknown_is_given_up() -> None:
    """After the client's patience an unknown id ends the waiting, long before the deadline."""
    with serving(Reply(status=404)) as server, pytest.raises(JobNotFound):
        wait(client_of(server.url, not_found_patience=0.1))


CREDIT_CARD = "a nude credit card"


@pytest.mark.parametrize(
    ("message", "filtered", "trouble"),
    [
        ("the worker ran out of memory", False, None),
        ("NSFW content", True, None),
        ("CUDA error while running the safety checker: out of memory", False, None),
        ("no credits left", False, CreditsExhausted),
        (f"cannot draw {CREDIT_CARD}", False, None),
    ],
)
def test_failure(message: str, *, filtered: bool, trouble: type[Exception] | None) -> None:
    """FAILURE is raised with its message and job, and what it was for, whatever the prompt says."""
    settings = EmulatorSettings(latency_seconds=0)

    async def go(client: ImagePipelineClient) -> None:
        request = a_request(prompt=CREDIT_CARD, safety_checker=False)
        job = await client.submit(request)
        await client.wait(job, timeout=20, delays=(0.01,), request=request)

    with EmulatorServer(settings) as emulator:
        emulator.set_faults(Fault(kind=FaultKind.JOB_FAILURE, message=message))
        with pytest.raises(JobFailed) as raised:
            closing(client_of(emulator.url, api_key="emulator"), go)

    assert str(raised.value) == message
    assert raised.value.filtered is filtered
    assert type(raised.value.trouble) is (trouble or type(None))
    assert raised.value.job.status is JobStatus.FAILURE


def test_trouble_of_the_question_is_no_end_of_the_job() -> None:
    """A refused key or rate under status 200 is not the job's failure, unless its id says so."""
    busy = {"status": "FAILURE", "error": "rate limit exceeded"}
    with serving(Reply(value=busy), Reply(value=busy), DONE) as server:
        assert wait(client_of(server.url)).status is JobStatus.SUCCESS
    with (
        serving(Reply(value={"status": "error", "message": "Invalid API Key"})) as server,
        pytest.raises(AccessRefused),
    ):
        wait(client_of(server.url))
    with (
        serving(Reply(value={**busy, "id": "job-1"})) as server,
        pytest.raises(JobFailed) as raised,
    ):
        wait(client_of(server.url))
    assert isinstance(raised.value.trouble, Throttled)


def test_another_jobs_answer_is_none() -> None:
    """Nothing is taken from an answer about another job; the deadline's error says what came."""
    other = {"status": "SUCCESS", "id": "job-2", "download_urls": ["https://a/2.png"]}
    told = r"the answer about job job-1 is about another one, job-2"
    with serving(Reply(value=other)) as server, pytest.raises(JobTimedOut, match=told):
        wait(client_of(server.url, max_attempts=1), timeout=0.3)


def test_delays() -> None:
    """By default the pauses grow by a quarter from half a second to ten."""
    assert list(islice(poll_delays(), 3)) == [0.5, 0.625, 0.78125]
    assert list(islice(poll_delays(), 40))[-1] == 10.0
