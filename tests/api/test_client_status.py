from __future__ import annotations

import logging
from urllib.parse import unquote

import pytest

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.errors import (
    AccessRefused,
    CreditsExhausted,
    ImagePipelineError,
    JobNotFound,
    OtherJobAnswered,
    StatusUnavailable,
    Throttled,
    Unreachable,
    WrongAddress,
)
from imagepipeline_dagster.api.jobs import Job, JobStatus
from imagepipeline_dagster.emulator import EmulatorServer
from tests.api.servers import KEY, PENDING, Reply, client_of, closing, serving

PAGE = Reply(body=b"<!doctype html>", headers={"Content-Type": "text/html"})


def status(client: ImagePipelineClient, job_id: str = "job-1", task: str = "text2image") -> Job:
    """Ask for a status with a client, and close it."""
    return closing(client, lambda opened: opened.status(task, job_id))


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(status=429, headers={"Retry-After": "0"}),
        Reply(status=500),
        Reply(status=502),
        Reply(status=503),
        Reply(status=504),
        Reply(drop=True),
        Reply(body=b'{"status": "PENDING"', declared=9_999),
        Reply(endless=True),
        Reply(body=b"[" * 200_000),
        PAGE,
    ],
    ids=["429", "500", "502", "503", "504", "dropped", "truncated", "endless", "deep", "HTML"],
)
def test_trouble_is_asked_again(trouble: Reply) -> None:
    """A status is safe to ask for again, and is, after any trouble that may pass."""
    with serving(trouble, trouble, Reply(value=PENDING)) as server:
        assert status(client_of(server.url)).status is JobStatus.PENDING
        assert server.count("GET") == 3


@pytest.mark.parametrize(
    ("reply", "expected", "gets"),
    [
        (Reply(status=429), Throttled, 3),
        (Reply(status=503), Throttled, 3),
        (Reply(status=502), StatusUnavailable, 3),
        (Reply(value=[]), StatusUnavailable, 3),
        (PAGE, StatusUnavailable, 3),
        (Reply(drop=True), Unreachable, 3),
        (Reply(value=PENDING, pause=1.0), Unreachable, 3),
        (Reply(status=401), AccessRefused, 1),
        (Reply(status=403), AccessRefused, 1),
        (Reply(status=402), CreditsExhausted, 1),
        (Reply(status=405), WrongAddress, 1),
        (Reply(status=404), JobNotFound, 1),
        (Reply(status=410), JobNotFound, 1),
        (Reply(status=404, body=PAGE.body, headers=PAGE.headers), StatusUnavailable, 3),
        (Reply(status=403, body=PAGE.body, headers=PAGE.headers), WrongAddress, 1),
        (Reply(status=400, value={"error": "API key not valid"}), AccessRefused, 1),
        (Reply(status=500, value={"error": "NSFW content detected"}), StatusUnavailable, 3),
        (Reply(value={"status": "SUCCESS", "id": "job-2"}), OtherJobAnswered, 3),
    ],
)
def test_trouble_to_the_end(reply: Reply, expected: type[ImagePipelineError], gets: int) -> None:
    """Trouble that may pass is raised after `max_attempts`, trouble that will not pass at once."""
    with serving(reply) as server:
        with pytest.raises(expected) as raised:
            status(client_of(server.url, request_timeout=0.2))

        assert type(raised.value) is expected
        assert server.count("GET") == gets


def test_unknown_job_carries_it() -> None:
    """An id that the API does not know is told, and the error carries the job."""
    with EmulatorServer() as emulator, pytest.raises(JobNotFound, match="job nonsense") as raised:
        status(client_of(emulator.url, api_key="emulator"), "nonsense")

    assert (raised.value.job.id, raised.value.job.task) == ("nonsense", "text2image")


def test_redirect_is_not_followed() -> None:
    """A redirect of the status endpoint is a wrong address, and the key does not go there."""
    with serving(Reply(value=PENDING)) as elsewhere:
        with serving(Reply(status=302, headers={"Location": elsewhere.url})) as server:
            with pytest.raises(WrongAddress):
                status(client_of(server.url))

            assert server.count("GET") == 1
        assert elsewhere.received == []


@pytest.mark.parametrize(
    "job_id",
    ["../../text2image/v1", "..", ".", "a b", "a?b=c", "a#b", "a/b", "%2e%2e", "é🙂", "a\r\nX: y"],
)
def test_hostile_ids(job_id: str) -> None:
    """Whatever an id holds, it arrives as one path part of the status endpoint."""
    with serving(Reply(value={"status": "PENDING"})) as server:
        job = status(client_of(server.url), job_id)
        (received,) = server.received

    head, _, last = received.path.rpartition("/")
    assert (head, unquote(last)) == ("/sdxl/text2image/v1/status", job_id)
    assert received.headers["api-key"] == KEY
    assert job.id == job_id


def test_unknown_words_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each unknown status word is logged once, however many jobs say it."""
    caplog.set_level(logging.WARNING, "imagepipeline_dagster")

    async def go(client: ImagePipelineClient) -> list[Job]:
        return [await client.status("text2image", f"job-{k}") for k in range(6)]

    warming, cooling = Reply(value={"status": "WARMING_UP"}), Reply(value={"status": "COOLING"})
    with serving(warming, cooling, warming, cooling, warming) as server:
        jobs = closing(client_of(server.url), go)

    assert {job.status for job in jobs} == {JobStatus.PENDING}
    assert [record.getMessage() for record in caplog.records] == [
        "unknown job status 'WARMING_UP' is taken as pending",
        "unknown job status 'COOLING' is taken as pending",
    ]
