"""What an emulator was asked and what it did."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from heapq import heappop, heappush

from pydantic import BaseModel, ConfigDict

from imagepipeline_dagster.api.contract import GenerationRequest, canonical_json
from imagepipeline_dagster.emulator.faults import Fault


class EmulatorStats(BaseModel):
    """Counts since the emulator started; the body of `GET /_emulator/stats`."""

    model_config = ConfigDict(frozen=True)

    posts_received: int
    """POSTs of the three tasks: the accepted and the refused ones, and any still being read."""
    posts_accepted: int
    """Jobs created, which is what a vendor would bill, whether or not the answer arrived."""
    posts_refused: int
    """POSTs that created no job: a wrong key, a broken request, an injected fault."""
    status_requests: int
    downloads: int
    """Image links followed, whatever came of it."""
    downloads_with_key: int
    """Downloads that carried an `API-Key`, which has no business there."""
    faults: dict[str, int]
    """Injected faults by kind."""
    accepted_requests: dict[str, int]
    """Jobs created by `request_hash`."""
    peak_in_flight: int = 0
    """The most jobs that were accepted and not yet done at one moment."""

    @property
    def bought_twice(self) -> tuple[str, ...]:
        """The hashes of requests that were accepted more than once."""
        return tuple(key for key, count in self.accepted_requests.items() if count > 1)


def request_hash(request: GenerationRequest) -> str:
    """Return what tells a request from every other one: 32 hex digits of its task and payload."""
    content = f"{request.task}\n{canonical_json(request.payload())}"
    return sha256(content.encode()).hexdigest()[:32]


class Tally:
    """The counts while they grow; the event loop alone writes them."""

    def __init__(self) -> None:
        self.posts_received = 0
        self.posts_refused = 0
        self.status_requests = 0
        self.downloads = 0
        self.downloads_with_key = 0
        self._faults: Counter[str] = Counter()
        self._accepted: Counter[str] = Counter()
        # When each job that is being worked on will be done.
        self._in_flight: list[float] = []
        self._peak_in_flight = 0

    def accepted(self, request: GenerationRequest, now: float, ready_at: float) -> None:
        """Count a job that is done at `ready_at`; both are seconds since the epoch."""
        self._accepted[request_hash(request)] += 1
        while self._in_flight and self._in_flight[0] <= now:
            heappop(self._in_flight)
        heappush(self._in_flight, ready_at)
        self._peak_in_flight = max(self._peak_in_flight, len(self._in_flight))

    def injected(self, fault: Fault) -> None:
        """Count a fault."""
        self._faults[fault.kind.value] += 1

    def snapshot(self) -> EmulatorStats:
        """Return the counts as they stand; safe from any thread, as `dict()` copies in one step."""
        accepted = dict(self._accepted)
        return EmulatorStats(
            posts_received=self.posts_received,
            posts_accepted=sum(accepted.values()),
            posts_refused=self.posts_refused,
            status_requests=self.status_requests,
            downloads=self.downloads,
            downloads_with_key=self.downloads_with_key,
            faults=dict(self._faults),
            accepted_requests=accepted,
            peak_in_flight=self._peak_in_flight,
        )
