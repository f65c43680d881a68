"""What an emulator was asked and what it did."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from heapq import heappop, heappush

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, computed_field

from imagepipeline_dagster.api.contract import GenerationRequest, canonical_json


class EmulatorStats(BaseModel):
    """Counts since the emulator started; the body of `GET /_emulator/stats`."""

    model_config = ConfigDict(frozen=True)

    posts_received: int = 0
    """POSTs of the three tasks: the accepted and the refused ones, and any still being read."""
    posts_refused: int = 0
    """POSTs that created no job: a wrong key, a broken request, an injected fault."""
    status_requests: int = 0
    downloads: int = 0
    """Image links followed, whatever came of it."""
    downloads_with_key: int = 0
    """Downloads that carried an `API-Key`, which has no business there."""
    faults: dict[str, int] = Field(default_factory=Counter)
    """Injected faults by kind."""
    accepted_requests: dict[str, int] = Field(default_factory=Counter)
    """Jobs created by `request_hash`."""
    peak_in_flight: int = 0
    """The most jobs that were accepted and not yet done at one moment."""

    @computed_field  # type: ignore[prop-decorator] # mypy knows no decorated property
    @property
    def posts_accepted(self) -> int:
        """Jobs created, which is what a vendor would bill, whether or not the answer arrived."""
        return sum(self.accepted_requests.values())

    @property
    def bought_twice(self) -> tuple[str, ...]:
        """The hashes of requests that were accepted more than once."""
        return tuple(key for key, count in self.accepted_requests.items() if count > 1)


def request_hash(request: GenerationRequest) -> str:
    """Return what tells a request from every other one: 32 hex digits of its task and payload."""
    content = f"{request.task}\n{canonical_json(request.payload())}"
    return sha256(content.encode()).hexdigest()[:32]


class Tally(EmulatorStats):
    """The counts while they grow; the event loop alone writes them."""

    model_config = ConfigDict(frozen=False)

    _in_flight: list[float] = PrivateAttr(default_factory=list)
    """When each job that is being worked on will be done."""

    def accepted(self, request: GenerationRequest, now: float, ready_at: float) -> None:
        """Count a job that is done at `ready_at`; both are seconds since the epoch."""
        self.accepted_requests[request_hash(request)] += 1
        while self._in_flight and self._in_flight[0] <= now:
            heappop(self._in_flight)
        heappush(self._in_flight, ready_at)
        self.peak_in_flight = max(self.peak_in_flight, len(self._in_flight))

    def snapshot(self) -> EmulatorStats:
        """Return the counts as they stand; safe from any thread, as `dict()` copies in one step."""
        copies = {"faults": dict(self.faults), "accepted_requests": dict(self.accepted_requests)}
        return EmulatorStats(**{**vars(self), **copies})
