"""What the ledger keeps of a request: its state, its owner, its attempts and its samples."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import NamedTuple

# Ten times a process's own: a living one renews its lease long before.
_LONGEST_LEASE = dt.timedelta(minutes=10)


class State(StrEnum):
    """Where a request stands."""

    CLAIMED = "claimed"
    SUBMITTED = "submitted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Failure(StrEnum):
    """Why an attempt gave no picture."""

    NOT_SENT = "not_sent"
    INPUT_REFUSED = "input_refused"
    FILTERED = "filtered"
    MODEL_ERROR = "model_error"
    UNPAID = "unpaid"
    # What a person decided: one more job, or none ever.
    RESUBMITTED = "resubmitted"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that works on a request. A dead process of this machine holds no lease."""

    name: str

    @classmethod
    def this_process(cls) -> Owner:
        """Return a new owner for this process."""
        return cls(f"{_this_place()}/{os.getpid()}/{uuid.uuid4().hex[:12]}")

    @property
    def is_gone(self) -> bool:
        """Whether this owner's process is known to have ended."""
        place, _, pid = self.name.rpartition("/")[0].rpartition("/")
        if place != _this_place() or not pid.isdigit():
            return False
        try:
            os.kill(int(pid), 0)
        except OSError as error:
            return isinstance(error, ProcessLookupError)
        return False


@cache
def _this_place() -> str:
    """Return where process ids mean what they mean here: the host, its start, its pid namespace.

    Two containers may have one host name, and a host that started again counts anew.
    """
    marks = []
    with suppress(OSError):  # no such files: a system without pid namespaces
        marks = [
            Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    digest = hashlib.blake2b("".join(marks).encode(), digest_size=4).hexdigest()
    return f"{socket.gethostname()}/{digest}"


@dataclass(frozen=True, slots=True)
class Lease:
    """How long an owner's word holds without being renewed, in seconds.

    Leases are told by the database's clock, which is `ahead` of this machine's: machines whose
    clocks differ agree on them.
    """

    owner: Owner
    seconds: float
    ahead: dt.timedelta = dt.timedelta(0)

    def now(self) -> dt.datetime:
        """Return the time by the database's clock."""
        return dt.datetime.now(dt.UTC) + self.ahead

    def until(self) -> dt.datetime:
        """Return until when it holds, were it renewed now."""
        return self.now() + dt.timedelta(seconds=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One process's hold on one attempt at a request."""

    request_key: str
    owner: Owner
    attempt: int


class JobRecord(NamedTuple):
    """Whether a job id stands in its request's row; if not, which other request has that job."""

    kept: bool
    request_with_job: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A request about to be POSTed."""

    request_key: str
    task: str
    request: str
    samples: int
    embedding_version: str | None
    endpoint: str
    emulated: bool
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSample:
    """What became of one sample of a request; sizes in pixels and bytes.

    `attempt` is the number of the job that gave it: the ledger knows it when the sample is stored.
    `sample_index` is None where fewer links than samples came back: nobody knows which survived.
    `carries_more` says what the file holds beside its picture. `has_alpha` is whether the picture
    is not fully opaque.
    """

    slot: int
    sample_index: int | None
    outcome: str
    stored_at: dt.datetime
    image_sha256: str | None = None
    uri: str | None = None
    format: str | None = None
    pixel_width: int | None = None
    pixel_height: int | None = None
    bytes: int | None = None
    value_range: int | None = None
    carries_more: str | None = None
    has_alpha: bool | None = None
    error: str | None = None
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A job, or what may have been one, that a later one took the place of."""

    attempt: int
    job_id: str | None
    run_id: str
    submitted_at: dt.datetime | None
    ended_at: dt.datetime
    failure: Failure
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Claim):
    """A request as the ledger knows it, with its samples stored so far."""

    state: State
    attempt: int
    owner: Owner
    lease_until: dt.datetime
    claimed_at: dt.datetime
    job_id: str | None
    links: tuple[str, ...]
    submitted_at: dt.datetime | None
    links_since: dt.datetime | None
    completed_at: dt.datetime | None
    failure: Failure | None
    error: str | None
    stored: tuple[StoredSample, ...]
    earlier: tuple[Attempt, ...] = ()

    def bought_by(self, sample: StoredSample) -> Entry | Attempt:
        """Return whose job gave a stored sample: this entry's own, or an earlier attempt's.

        A request that was bought again for the samples that it lacked keeps those that it had.
        """
        return next((job for job in self.earlier if job.attempt == sample.attempt), self)

    @property
    def lost_its_job(self) -> bool:
        """Whether the API did not know its job: asking for it once more costs nothing."""
        return self.state is State.UNKNOWN and self.job_id is not None

    @property
    def is_under_way(self) -> bool:
        """Whether it was sent, and can be brought to its end without buying anything."""
        return self.lost_its_job or plan_state(self) is PlanState.IN_FLIGHT

    @property
    def lapse(self) -> str:
        """What is known of a claim that outlived its lease without an answer."""
        ended = "process ended" if self.owner.is_gone else "lease ended"
        return f"its {ended} between the claim and the answer; it may have been bought"

    @property
    def jobs_charged(self) -> int:
        """The jobs sent for it so far, without those that failed because nothing could be paid."""
        unpaid = sum(attempt.failure is Failure.UNPAID for attempt in self.earlier)
        return self.attempt - unpaid

    @property
    def settled(self) -> bool:
        """Whether every sample has its final outcome: nothing is left to buy or to fetch."""
        return len(self.stored) >= self.samples

    def is_live(self, now: dt.datetime) -> bool:
        """Whether a living process works on it.

        A lease beyond the longest one comes from a clock that was wrong, and says nothing.
        """
        return (
            self.state in (State.CLAIMED, State.SUBMITTED)
            and now < self.lease_until <= now + _LONGEST_LEASE
            and not self.owner.is_gone
        )


class Outcome(StrEnum):
    """What became of a requested sample so far."""

    GENERATED = "generated"
    VENDOR_FILTERED = "vendor_filtered"
    FAILED = "failed"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    UNDECODABLE = "undecodable"
    PENDING = "pending"
    INVALID = "invalid"
    # It came, and a person took it back.
    WITHDRAWN = "withdrawn"


MAX_JOBS_PER_REQUEST = 2
"""Jobs that one request may cost: the first, and one more after a FAILURE of the model."""


MAX_UNPAID_JOBS = 10
"""Jobs of one request that may fail because the account cannot pay; each stops its run."""


class PlanState(StrEnum):
    """What a purchase would do about a request."""

    REUSED = "reused"
    TO_BUY = "to_buy"
    IN_FLIGHT = "in_flight"
    UNKNOWN = "unknown"
    FAILED = "failed"


def plan_state(entry: Entry | None) -> PlanState:
    """Return what a purchase would do about a request that the ledger knows like this."""
    if entry is None:
        return PlanState.TO_BUY
    if entry.settled:
        return PlanState.REUSED
    match entry.state:
        case State.SUCCEEDED:
            return PlanState.REUSED
        case State.CLAIMED | State.SUBMITTED:
            return PlanState.IN_FLIGHT
        case State.UNKNOWN:
            return PlanState.UNKNOWN
        case State.FAILED:
            return PlanState.TO_BUY if _may_be_sent_again(entry) else PlanState.FAILED


def _may_be_sent_again(entry: Entry) -> bool:
    match entry.failure:
        case Failure.MODEL_ERROR:
            return entry.jobs_charged < MAX_JOBS_PER_REQUEST
        case Failure.UNPAID:
            return entry.attempt < MAX_UNPAID_JOBS
        case Failure.NOT_SENT | Failure.RESUBMITTED:
            return True
        case _:
            return False
