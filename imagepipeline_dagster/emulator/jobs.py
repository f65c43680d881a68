"""Jobs that need no memory: an id or a link holds all that a later process must know to answer.

An emulator often lives and dies with a run. A run that resumes meets another emulator on another
port, which reads the job from its id and goes on as if nothing had happened. The checksums tell a
garbled id from a real one; they are no secret.
"""

from __future__ import annotations

import json
import secrets
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heapreplace
from random import Random
from typing import Any

from imagepipeline_dagster.api.contract import GenerationRequest, Task, canonical_json, request_for
from imagepipeline_dagster.emulator.settings import EmulatorSettings

_VERSION = 1
_CHECKSUM_BYTES = 6


class UnknownJob(LookupError):
    """An id that no emulator of this version gave out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome:
    """How a job ends, decided when it is accepted.

    `error` makes it a FAILURE; otherwise the samples of `delivered` (counted from 0) get links, and
    are black all over where `black` says so.
    """

    delivered: tuple[int, ...] = ()
    black: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTicket:
    """An accepted job. Times are seconds since the epoch, to the millisecond."""

    request: GenerationRequest
    seed: int
    accepted_at: float
    ready_at: float
    outcome: JobOutcome
    nonce: str
    """Tells apart two jobs of the same request in the same millisecond."""

    @classmethod
    def issue(
        cls, request: GenerationRequest, *, accepted_at: float, ready_at: float, outcome: JobOutcome
    ) -> JobTicket:
        """Return a new job, with a seed of its own where the request names none."""
        seed = request.seed if request.seed is not None else secrets.randbelow(2**31)
        return cls(
            request=request,
            seed=seed,
            accepted_at=round(accepted_at, 3),
            ready_at=round(ready_at, 3),
            outcome=outcome,
            nonce=secrets.token_hex(3),
        )

    def id(self) -> str:
        """Return the job's id: letters, digits, `-` and `_`; about as long as the prompts."""
        fields = {
            "v": _VERSION,
            "task": self.request.task,
            "request": self.request.payload(),
            "seed": self.seed,
            "times": [self.accepted_at, self.ready_at],
            "outcome": [self.outcome.delivered, self.outcome.black, self.outcome.error],
            "nonce": self.nonce,
        }
        packed = zlib.compress(canonical_json(fields).encode(), 9)
        return _spelled(_checksum(packed) + packed)

    @classmethod
    def read(cls, job_id: str, *, task: str | None = None) -> JobTicket:
        """Return the job that an id tells of.

        Raises:
            UnknownJob: when the id is garbled, of another version, or of another task than `task`.
        """
        try:
            raw = urlsafe_b64decode(job_id + "=" * (-len(job_id) % 4))
        except ValueError:
            raw = b""
        check, packed = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
        # base64 has several spellings of the same bytes, and its reader skips foreign letters.
        is_ours = check == _checksum(packed) and job_id == _spelled(raw)
        fields: dict[str, Any] = json.loads(zlib.decompress(packed)) if is_ours else {}
        if fields.get("v") != _VERSION or task not in {None, fields["task"]}:
            raise UnknownJob("no such job")
        delivered, black, error = fields["outcome"]
        accepted_at, ready_at = fields["times"]
        return cls(
            request=request_for(Task(fields["task"]), fields["request"]),
            seed=fields["seed"],
            accepted_at=accepted_at,
            ready_at=ready_at,
            outcome=JobOutcome(delivered=tuple(delivered), black=black, error=error),
            nonce=fields["nonce"],
        )


def signature(job_id: str, sample_index: int, expires_at: int) -> str:
    """Return the checksum of a link to a sample, good until so many ms since the epoch."""
    return _checksum(f"{job_id}/{sample_index}?{expires_at}".encode()).hex()


class Queue:
    """The vendor's workers: a job starts in the order of acceptance, when a worker is free."""

    def __init__(self, settings: EmulatorSettings, *, chance: Random) -> None:
        self._free_at = [0.0] * settings.concurrency
        self._mean = settings.latency_seconds
        self._spread = settings.latency_spread
        self._chance = chance

    def accept(self, now: float) -> float:
        """Take a job in at `now` and return when it will be done, both in seconds."""
        latency = self._mean * (1 + self._spread * self._chance.uniform(-1, 1))
        done_at = max(now, self._free_at[0]) + latency
        heapreplace(self._free_at, done_at)
        return done_at


def _spelled(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _checksum(content: bytes) -> bytes:
    return blake2b(content, digest_size=_CHECKSUM_BYTES, person=b"imagepipeline").digest()
