"""What can go wrong at a vendor, switched on by tests and by `emulator --fault`.

A `Fault` is a rule; a `FaultPlan` holds the rules in force and how often each was applied. The
first rule that matches a request is applied to it, and no other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from random import Random
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Operation(StrEnum):
    """What a client does."""

    SUBMIT = "submit"
    STATUS = "status"
    DOWNLOAD = "download"


_ANYWHERE = tuple(Operation)
_SUBMIT, _STATUS, _DOWNLOAD = ((operation,) for operation in _ANYWHERE)


class _OnPost(Enum):
    """What becomes of a POST."""

    NO_JOB = auto()
    ACCEPTED = auto()
    ACCEPTED_IF_ASKED = auto()


class FaultKind(StrEnum):
    """What goes wrong: where it can happen, at first unless told otherwise, and to which POSTs."""

    _value_: str
    places: tuple[Operation, ...]
    on_post: _OnPost

    def __new__(
        cls, word: str, places: tuple[Operation, ...], on_post: _OnPost = _OnPost.NO_JOB
    ) -> Self:
        """Return the kind of this name, with what is known of it."""
        kind = str.__new__(cls, word)
        kind._value_, kind.places, kind.on_post = word, places, on_post
        return kind

    RATE_LIMITED = "rate_limited", _ANYWHERE
    """429 with `Retry-After`."""
    OUT_OF_QUOTA = "out_of_quota", _SUBMIT
    """429 that means that the account cannot pay, as its words say."""
    REFUSED = "refused", _ANYWHERE
    """A 4xx answer with `message`."""
    SERVER_ERROR = "server_error", _ANYWHERE, _OnPost.ACCEPTED_IF_ASKED
    """A 5xx answer; 503 says when to come again, unless the job is accepted all the same."""
    DROPPED_ANSWER = "dropped_answer", _ANYWHERE, _OnPost.ACCEPTED
    """The connection closes without an answer; a POST is accepted all the same."""
    HTML_PAGE = "html_page", _ANYWHERE, _OnPost.ACCEPTED_IF_ASKED
    """A page for people, with status 200."""
    REDIRECT_TO_JOB = "redirect_to_job", _SUBMIT, _OnPost.ACCEPTED
    """303 to the accepted job's status."""
    ENVELOPE = "envelope", _SUBMIT + _STATUS, _OnPost.ACCEPTED
    """The answer lies in `data`, beside `success`."""
    JOB_FAILURE = "job_failure", _SUBMIT, _OnPost.ACCEPTED
    """The job is accepted and ends in FAILURE."""
    FEWER_LINKS = "fewer_links", _SUBMIT, _OnPost.ACCEPTED
    """The job succeeds with fewer links than samples."""
    BLACK_IMAGE = "black_image", _SUBMIT, _OnPost.ACCEPTED
    """The job succeeds with pictures that are black all over."""
    UNKNOWN_STATUS = "unknown_status", _STATUS
    """A status word that the API's page does not know."""
    STUCK = "stuck", _STATUS
    """The job is PENDING, also when it is done."""
    MISSING_LINKS = "missing_links", _STATUS
    """SUCCESS with `download_urls: null`."""
    EMPTY_LINKS = "empty_links", _STATUS
    """SUCCESS with an empty list of links, as where a store is slower than the status."""
    USELESS_LINKS = "useless_links", _STATUS
    """SUCCESS with links that lead to no picture: each is `link`."""
    OTHER_JOB = "other_job", _STATUS
    """The answer carries another job's id."""
    EXPIRED_LINK = "expired_link", _DOWNLOAD
    """403, as for a link that is past its time."""
    LATE_LINK = "late_link", _DOWNLOAD
    """404, as where a store has not heard of the picture yet."""
    TRUNCATED_BYTES = "truncated_bytes", _DOWNLOAD
    """The first half of an image, declared as if it were the whole."""
    CORRUPT_BYTES = "corrupt_bytes", _DOWNLOAD
    """An image of the right length whose second half is noise."""


_HIDES_ACCEPTANCE = tuple(k for k in FaultKind if k.on_post is _OnPost.ACCEPTED_IF_ASKED)
_STATUSES = {FaultKind.SERVER_ERROR: range(500, 600), FaultKind.REFUSED: range(400, 500)}


class Fault(BaseModel):
    """One rule: `kind` happens on `operation`, for matching requests, for a while or some times.

    The fields below `prompt_contains` each belong to some kinds and are ignored by the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    operation: Operation | None = Field(
        None, description="Where it happens; unset: SUBMIT, or the first place where it can."
    )
    times: Annotated[int, Field(ge=1)] | None = Field(
        None, description="How often it happens at most; unset: every time."
    )
    seconds: Annotated[float, Field(gt=0)] | None = Field(
        None, description="How long it happens, from the moment it is switched on; unset: always."
    )
    probability: float = Field(1.0, ge=0, le=1, description="How likely a match is to be hit.")
    prompt_contains: str | None = Field(
        None, description="Only for prompts that hold this text, in any letter case."
    )
    status: int = Field(
        default_factory=lambda given: 400 if given["kind"] is FaultKind.REFUSED else 503,
        description="SERVER_ERROR and REFUSED: the HTTP status.",
    )
    after_accepting: bool = Field(
        default=False,
        description="SERVER_ERROR and HTML_PAGE on SUBMIT: the job is accepted all the same.",
    )
    retry_after_seconds: int = Field(
        1, ge=0, description="RATE_LIMITED and SERVER_ERROR with 503: the Retry-After header."
    )
    message: str = Field(
        "the worker ran out of memory", description="JOB_FAILURE and REFUSED: the error."
    )
    missing: int = Field(1, ge=1, le=4, description="FEWER_LINKS: how many links are missing.")
    word: str = Field("WARMING_UP", description="UNKNOWN_STATUS: the status word.")
    link: str = Field("file:///picture.png", description="USELESS_LINKS: what each link is.")

    @model_validator(mode="after")
    def _can_happen(self) -> Self:
        if self.place not in self.kind.places:
            raise ValueError(f"{self.kind} happens on {' or '.join(self.kind.places)} only")
        if self.after_accepting and self.kind not in _HIDES_ACCEPTANCE:
            raise ValueError(f"after_accepting is for {' and '.join(_HIDES_ACCEPTANCE)} only")
        if self.status not in (statuses := _STATUSES.get(self.kind, range(1000))):
            raise ValueError(f"status: {self.kind} has {statuses.start} to {statuses.stop - 1}")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the fault that a text names: `server_error:status=502,after_accepting=true`.

        Raises:
            ValueError: names what is wrong with it.
        """
        kind, _, fields = text.partition(":")
        pairs = [field.partition("=") for field in fields.split(",") if field.strip()]
        values = {name.strip(): value.strip() for name, _, value in pairs}
        try:
            return cls.model_validate({"kind": kind.strip(), **values})
        except ValidationError as error:
            problems = (
                f"{'.'.join(map(str, problem['loc'])) or kind}: {problem['msg']}"
                for problem in error.errors()
                if problem["type"] != "default_factory_not_called"  # it follows from another one
            )
            raise ValueError("; ".join(problems)) from None

    @property
    def place(self) -> Operation:
        """The operation that this fault happens on."""
        return self.operation or self.kind.places[0]

    @property
    def accepts_job(self) -> bool:
        """Whether a POST that meets this fault is accepted, whatever its answer says."""
        return self.after_accepting or self.kind.on_post is _OnPost.ACCEPTED

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
        now = time.monotonic()
        self._rules = [(fault, _Use(since=now)) for fault in faults]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The rules in force, those that are used up included."""
        return tuple(fault for fault, _ in self._rules)

    def meet(self, operation: Operation, prompt: str) -> Fault | None:
        """Return the fault that this request meets, and count it."""
        for fault, use in self._rules:
            used_up = fault.times is not None and use.number >= fault.times
            over = fault.seconds is not None and time.monotonic() - use.since > fault.seconds
            if used_up or over or not fault.matches(operation, prompt):
                continue
            if self._chance.random() < fault.probability:
                use.number += 1
                return fault
        return None


@dataclass(slots=True)
class _Use:
    """Since when a rule is in force (monotonic seconds), and how often it was applied."""

    since: float
    number: int = 0
