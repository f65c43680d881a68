"""A caller who knows the API's page, and servers that end with the test."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from imagepipeline_dagster.api.contract import status_path, submit_path
from imagepipeline_dagster.api.jobs import Job, JobStatus, read_job
from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings

# Loading the system's certificates for each client would take longer than the tests themselves.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

Started = Callable[..., "Caller"]


class Caller:
    """A client of one emulator."""

    def __init__(self, server: EmulatorServer, http: httpx.Client) -> None:
        self.server = server
        self.http = http

    def post(self, task: str = "text2image", **parameters: object) -> httpx.Response:
        """POST a request; a small picture of a boat unless told otherwise."""
        links = (
            {"init_image": "https://pictures.example/rowboat.png"} if task != "text2image" else {}
        )
        usual = {"model_id": "sdxl", "prompt": "a boat", "width": 64, "height": 64, **links}
        return self.http.post(submit_path(task), json={**usual, **parameters})

    def submit(self, task: str = "text2image", **parameters: object) -> str:
        """POST a request and return its job's id."""
        job_id = read_job(self.post(task, **parameters).json(), task=task).id
        assert job_id is not None
        return job_id

    def status(self, job_id: str, task: str = "text2image") -> Job:
        """Ask once how a job stands."""
        answer = self.http.get(status_path(task, job_id))
        assert answer.status_code == 200, answer.text
        return read_job(answer.json(), task=task, job_id=job_id)

    def wait(self, job_id: str, task: str = "text2image") -> Job:
        """Ask until a job has ended, ten seconds at most."""
        deadline = time.monotonic() + 10
        while (job := self.status(job_id, task)).status is JobStatus.PENDING:
            assert time.monotonic() < deadline, "the job did not end"
            time.sleep(0.01)
        return job

    def make(self, task: str = "text2image", **parameters: object) -> Job:
        """POST a request and wait for its end."""
        return self.wait(self.submit(task, **parameters), task)

    def images(self, task: str = "text2image", **parameters: object) -> list[bytes]:
        """POST a request and return its images."""
        return [fetch(link) for link in self.make(task, **parameters).download_urls]


def follow(link: str) -> httpx.Response:
    """Follow an image link, as anybody can."""
    return httpx.get(link, verify=NO_TLS)


def fetch(link: str) -> bytes:
    """Return the bytes behind an image link that works."""
    answer = follow(link)
    assert answer.status_code == 200, answer.text
    return answer.content


@contextmanager
def calling(**settings: Any) -> Iterator[Caller]:  # noqa: ANN401 - the settings' own types
    """Serve with these settings; without latency unless told otherwise."""
    chosen = EmulatorSettings(**{"latency_seconds": 0, **settings})
    key = {"API-Key": chosen.api_key}
    with (
        EmulatorServer(chosen) as server,
        httpx.Client(base_url=server.url, headers=key, verify=NO_TLS) as http,
    ):
        yield Caller(server, http)


@pytest.fixture
def start() -> Iterator[Started]:
    """Return what starts a server with these settings, which ends with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(calling(**settings))


@pytest.fixture(scope="session")
def _shared() -> Iterator[Caller]:
    with calling() as caller:
        yield caller


@pytest.fixture
def caller(_shared: Caller) -> Caller:
    """A client of a healthy emulator without latency, whose counts other tests share."""
    return _shared
