"""What the tasks of one purchase share: how far it has come, and why it stops."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.budget import BudgetReached
from imagepipeline_dagster.markup import visible

# Refusals of a key or an address that follow each other.
_REFUSALS_BELIEVED = 3
# Samples that have to come to an end before their failures say anything about the rest.
_SAMPLES_JUDGED = 20

_LONGEST_REASON = 300  # characters


class TooManyFailures(CorrectableError):
    """So much failed that buying on would waste money."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseProgress:
    """How far a purchase has come, in images; `rate` is images a second, `eta` seconds.

    `waits_for` says what another run works on, where this one has nothing else to do.
    """

    done: int
    total: int
    failed: int
    in_flight: int
    rate: float
    eta: float | None
    waits_for: str | None = None

    def __str__(self) -> str:
        eta = f", about {self.eta:.0f} s left" if self.eta is not None else ""
        waits = f"; waits for {self.waits_for}" if self.waits_for else ""
        return (
            f"{self.done}/{self.total} images, {self.rate:.1f} images/s{eta}, "
            f"{self.in_flight} jobs in flight, {self.failed} failed{waits}"
        )


@dataclass(slots=True, kw_only=True)
class RunState:
    """How far a run's purchase has come, in samples, and what keeps it from going on.

    Attributes:
        max_failure_ratio: once more of the samples that came to an end failed, the run stops.
        stopper: why it stops submitting before the plan is carried out.
        refusal: the last one of the key or the address.
        refused_posts: such refusals since the API last took a request.
        refused_jobs: such refusals of jobs that were asked for, since one last came home.
        interrupted: whether it was told to end.
        given_up: keys of the requests that this run leaves to the next.
        sending: keys of the POSTs whose answer has not come: each may name a job that is paid.
        reserved: the day whose budget each request's cost was taken from, by key.
        sent: POSTs that left, whatever came of them.
        posts: API calls that created a job.
        resumed: jobs taken over from a process that is gone.
        in_flight: jobs that are being sent or waited for.
        done: samples that have come, those of earlier runs included.
        landed: samples that came in this run, and are pictures.
        failed: samples of requests that gave nothing.
        waits_for: what other runs work on, while this one has nothing else to do.
    """

    max_failure_ratio: float
    stopper: Exception | None = None
    refusal: Exception | None = None
    refused_posts: int = 0
    refused_jobs: int = 0
    interrupted: bool = False
    given_up: set[str] = field(default_factory=set)
    sending: set[str] = field(default_factory=set)
    reserved: dict[str, dt.date] = field(default_factory=dict)
    sent: int = 0
    posts: int = 0
    resumed: int = 0
    in_flight: int = 0
    done: int = 0
    landed: int = 0
    failed: int = 0
    waits_for: str | None = None

    @property
    def stops(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.interrupted or self.stopper is not None

    @property
    def budget_reached(self) -> bool:
        """Whether nothing but the budget stops this run: what is reserved is still to be sent."""
        return isinstance(self.stopper, BudgetReached) and not self.interrupted

    def stop(self, reason: Exception) -> None:
        """Stop submitting; the first reason counts."""
        self.stopper = self.stopper or reason

    def doubt(self, refusal: Exception, *, has_job: bool) -> None:
        """Count a refusal that may be one call's own, and stop where several follow each other."""
        self.refusal = refusal
        self.refused_jobs += has_job
        self.refused_posts += not has_job
        if max(self.refused_posts, self.refused_jobs) >= _REFUSALS_BELIEVED:
            self.stop(refusal)

    def stop_where_all_was_refused(self) -> None:
        """Take a refusal for one of the key or the address where this run got nothing else."""
        if self.refusal and not self.posts and not self.landed:
            self.stop(self.refusal)

    def take(self) -> None:
        """Count a job that the API created."""
        self.posts += 1
        self.refused_posts = 0

    def land(self, samples: int, *, useful: int) -> None:
        """Count samples that came; a blank one, or what is no picture, is as good as failed."""
        self.refused_jobs = 0
        self.done += samples
        self.landed += useful
        if useful < samples:
            self.judge_failure(samples - useful, why="what came is no picture, or of one colour")

    def judge_failure(self, samples: int, *, why: str) -> None:
        """Count samples of a failed request, and stop where too many failed; tell the last reason.

        A few failures among the first samples are not judged yet.
        """
        self.failed += samples
        ended = self.failed + self.landed
        if ended >= _SAMPLES_JUDGED and self.failed > self.max_failure_ratio * ended:
            self.stop(
                TooManyFailures(
                    f"{self.failed} of the first {ended} samples failed, the last since "
                    f"{visible(' '.join(why.split())[:_LONGEST_REASON])}"
                )
            )
