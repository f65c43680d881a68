"""An S3 service on loopback, for the tests that need a bucket.

A test module asks for it by `pytest_plugins = ["tests.s3"]`.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Serve S3 over HTTP, and yield the URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@dataclass(frozen=True)
class OneClient:
    """Hands one client to all: making one takes longer than most of what it is asked."""

    client: S3Client

    def get_client(self) -> S3Client:
        """Return the client."""
        return self.client


@pytest.fixture(scope="session")
def s3(s3_endpoint: str) -> OneClient:
    """The client of all tests that are not about the making of one."""
    client: S3Client = boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing-secret",
    )
    return OneClient(client)


@pytest.fixture
def s3_environment(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lead boto3 to the service on loopback, away from whatever account the machine has."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


_REQUEST = re.compile(r"((?:GET|PUT|POST|HEAD|DELETE) \S+) HTTP/")


class Requests(logging.Handler):
    """What the service was asked since the last `clear`: method and path of each request."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.made: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of the service's own log of accesses."""
        if request := re.search(
            r'"\S*?((?:GET|PUT|POST|HEAD|DELETE) \S+) HTTP/', record.getMessage()
        ):
            self.made.append(request[1])

    def clear(self) -> None:
        """Begin to count anew."""
        self.made.clear()

    def about(self, folder: str) -> Counter[str]:
        """Return how often each method was used on objects below a folder, listings left out."""
        paths = (made for made in self.made if "?" not in made and f"/{folder}/" in made)
        return Counter(path.split()[0] for path in paths)


@pytest.fixture
def s3_requests(s3_endpoint: str) -> Iterator[Requests]:  # noqa: ARG001 - the service is up
    """Count what the service is asked."""
    requests, log = Requests(), logging.getLogger("werkzeug")
    before = log.level
    log.addHandler(requests)
    log.setLevel(logging.INFO)
    yield requests
    log.setLevel(before)
    log.removeHandler(requests)


@pytest.fixture
def s3_bucket(s3_environment: None, s3: OneClient) -> str:  # noqa: ARG001 - asked for by its effect
    """Make an empty bucket, and return its name."""
    name = f"bucket-{uuid.uuid4().hex}"
    s3.client.create_bucket(Bucket=name)
    return name
