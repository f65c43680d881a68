"""An S3 service in a process of its own that takes as long for each request as a distant one."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

from benchmarks.processes import forking

_START_SECONDS = 60.0


@contextmanager
def bucket(*, delay_seconds: float) -> Iterator[str]:
    """Serve an empty bucket, lead boto3 of this process and its children to it, give its URI."""
    import boto3

    context = forking()
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(delay_seconds, there), daemon=True)
    process.start()
    if not here.poll(_START_SECONDS):
        raise TimeoutError("the S3 service did not start")
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{here.recv()}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with patch.dict(os.environ, environment):
        name = f"bench-{uuid.uuid4().hex}"
        boto3.session.Session().client("s3").create_bucket(Bucket=name)
        yield f"s3://{name}"
    process.terminate()
    process.join()


def _serve(delay_seconds: float, ready: Connection) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections are kept
    answer: Callable[..., Any] = DomainDispatcherApplication(create_backend_app)

    def answer_later(*request: Any) -> Any:  # noqa: ANN401 - WSGI's own
        time.sleep(delay_seconds)
        return answer(*request)

    server = make_server("127.0.0.1", 0, answer_later, threaded=True)
    ready.send(server.port)
    server.serve_forever()
