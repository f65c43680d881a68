"""A receiver of webhooks on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.api.servers import Received, Reply, answering


@dataclass
class Receiver:
    """What was posted, and the status that the next posts are answered with."""

    url: str = ""
    status: int = 200
    texts: list[str] = field(default_factory=list)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Serve a receiver, whose URL holds a secret as Slack's does."""
    receiver = Receiver()

    def script(request: Received) -> Reply:
        if receiver.status == 200:
            receiver.texts.append(json.loads(request.body)["text"])
        return Reply(status=receiver.status)

    with answering(script) as server:
        receiver.url = f"{server.url}/services/T0/s3cr3t-hook"
        yield receiver
