"""What can go wrong at a vendor, switched on by tests.

A `Fault` is a rule; a `FaultPlan` holds the rules in force and how often each was applied. The
first rule that matches a request is applied to it, and no other.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from random import Random
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Fault", "FaultKind", "FaultPlan", "FaultRules", "Operation"]


class Operation(StrEnum):
    """What a client does."""

    SUBMIT = "submit"
    STATUS = "status"
    DOWNLOAD = "download"


class FaultKind(StrEnum):
    """What goes wrong."""

    RATE_LIMITED = "rate_limited"
    """429 with `Retry-After`."""
    SERVER_ERROR = "server_error"
    """A 5xx answer."""
    DROPPED_ANSWER = "dropped_answer"
    """The connection closes without an answer; a POST is accepted all the same."""
    HTML_PAGE = "html_page"
    """A page for people, with status 200."""
    JOB_FAILURE = "job_failure"
    """The job is accepted and ends in FAILURE."""
    FEWER_LINKS = "fewer_links"
    """The job succeeds with fewer links than samples."""
    BLACK_IMAGE = "black_image"
    """The job succeeds with pictures that are black all over."""
    UNKNOWN_STATUS = "unknown_status"
    """A status word that the API's page does not know."""
    EXPIRED_LINK = "expired_link"
    """403, as for a link that is past its time."""
    TRUNCATED_BYTES = "truncated_bytes"
    """The first half of an image, declared as if it were the whole."""
    CORRUPT_BYTES = "corrupt_bytes"
    """An image of the right length whose second half is noise."""


_OPERATIONS: dict[FaultKind, tuple[Operation, ...]] = {
    FaultKind.RATE_LIMITED: tuple(Operation),
    FaultKind.SERVER_ERROR: tuple(Operation),
    FaultKind.DROPPED_ANSWER: tuple(Operation),
    FaultKind.HTML_PAGE: tuple(Operation),
    FaultKind.JOB_FAILURE: (Operation.SUBMIT,),
    FaultKind.FEWER_LINKS: (Operation.SUBMIT,),
    FaultKind.BLACK_IMAGE: (Operation.SUBMIT,),
    FaultKind.UNKNOWN_STATUS: (Operation.STATUS,),
    FaultKind.EXPIRED_LINK: (Operation.DOWNLOAD,),
    FaultKind.TRUNCATED_BYTES: (Operation.DOWNLOAD,),
    FaultKind.CORRUPT_BYTES: (Operation.DOWNLOAD,),
}
"""Where each kind can happen; the first is where it happens unless told otherwise."""

_HIDES_ACCEPTANCE = (FaultKind.SERVER_ERROR, FaultKind.HTML_PAGE)


class Fault(BaseModel):
    """One rule: `kind` happens on `operation`, for matching requests, a limited number of times.

    The fields below `prompt_contains` each belong to one kind and are ignored by the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    operation: Operation | None = Field(
        None, description="Where it happens; unset: SUBMIT, or the only place that it can."
    )
    times: Annotated[int, Field(ge=1)] | None = Field(
        None, description="How often it happens at most; unset: every time."
    )
    probability: float = Field(1.0, ge=0, le=1, description="How likely a match is to be hit.")
    prompt_contains: str | None = Field(
        None, description="Only for prompts that hold this text, in any letter case."
    )
    status: int = Field(503, ge=500, le=599, description="SERVER_ERROR: the HTTP status.")
    after_accepting: bool = Field(
        default=False,
        description="SERVER_ERROR and HTML_PAGE on SUBMIT: the job is accepted all the same.",
    )
    retry_after_seconds: int = Field(1, ge=0, description="RATE_LIMITED: the Retry-After header.")
    message: str = Field("the worker ran out of memory", description="JOB_FAILURE: the error.")
    missing: int = Field(1, ge=1, le=4, description="FEWER_LINKS: how many links are missing.")
    word: str = Field("WARMING_UP", description="UNKNOWN_STATUS: the status word.")

    @model_validator(mode="after")
    def _can_happen(self) -> Self:
        possible = _OPERATIONS[self.kind]
        if self.operation is not None and self.operation not in possible:
            raise ValueError(f"{self.kind} happens on {' or '.join(possible)} only")
        if self.after_accepting and self.kind not in _HIDES_ACCEPTANCE:
            raise ValueError(f"after_accepting is for {' and '.join(_HIDES_ACCEPTANCE)} only")
        if self.after_accepting and self.kind is FaultKind.SERVER_ERROR and self.status == 503:
            raise ValueError("status 503 says that nothing was accepted: give another status")
        return self

    @property
    def place(self) -> Operation:
        """The operation that this fault happens on."""
        return self.operation or _OPERATIONS[self.kind][0]

    @property
    def accepts_job(self) -> bool:
        """Whether a POST that meets this fault is accepted, whatever its answer says."""
        return self.after_accepting or self.kind in {
            FaultKind.DROPPED_ANSWER,
            FaultKind.JOB_FAILURE,
            FaultKind.FEWER_LINKS,
            FaultKind.BLACK_IMAGE,
        }

    def matches(self, operation: Operation, prompt: str) -> bool:
        """Tell whether this rule is about such a request."""
        text = self.prompt_contains
        return operation is self.place and (text is None or text.lower() in prompt.lower())


class FaultRules(BaseModel):
    """The body of `GET` and `PUT /_emulator/faults`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    faults: tuple[Fault, ...] = ()


class FaultPlan:
    """The rules in force. Replacing them starts their counts anew."""

    def __init__(self, faults: Iterable[Fault], *, chance: Random) -> None:
        self._chance = chance
        self.replace(faults)

    def replace(self, faults: Iterable[Fault]) -> None:
        """Put other rules in force; safe from any thread, for it is one assignment."""
        self._rules = [(fault, _Count()) for fault in faults]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The rules in force, those that are used up included."""
        return tuple(fault for fault, _ in self._rules)

    def meet(self, operation: Operation, prompt: str) -> Fault | None:
        """Return the fault that this request meets, and count it."""
        for fault, applied in self._rules:
            used_up = fault.times is not None and applied.number >= fault.times
            if used_up or not fault.matches(operation, prompt):
                continue
            if self._chance.random() < fault.probability:
                applied.number += 1
                return fault
        return None


class _Count:
    """How often a rule was applied."""

    def __init__(self) -> None:
        self.number = 0
