"""When a prompt set that is not built whole is asked for again."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from imagepipeline_dagster.tables.fingerprints import SetFingerprint

_FIRST_RETRY = dt.timedelta(minutes=30)
_LONGEST_PAUSE = dt.timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSetState:
    """What is known of a prompt set; a fingerprint is None where it never came to that.

    `retries` are the runs asked for again since the content last changed or was built whole;
    `pending` are the samples that were still open when it was last built.
    """

    prompt_set: str
    requested_prompts: str | None
    requested_embeddings: str | None
    requested_at: dt.datetime | None
    retries: int
    built_content: str | None
    built_at: dt.datetime | None
    pending: int


def is_built(desired: SetFingerprint, state: PromptSetState | None) -> bool:
    """Tell whether a set was last built from just this content."""
    return state is not None and state.built_content == desired.content


def retry_due(desired: SetFingerprint, state: PromptSetState, *, now: dt.datetime) -> bool:
    """Tell whether a set that is not built whole, by request or by hand, is to be asked for again.

    The pauses double from half an hour to a day.
    """
    whole = is_built(desired, state) and not state.pending
    return not whole and pause_is_over(state, now=now)


def retry_at(state: PromptSetState) -> dt.datetime | None:
    """Return when the pause of a set is over, if it is not built whole; None if it never began."""
    last = state.requested_at or state.built_at
    if last is None:
        return None
    doublings: int = 2 ** min(state.retries, 10)
    return last + min(_FIRST_RETRY * doublings, _LONGEST_PAUSE)


def pause_is_over(state: PromptSetState, *, now: dt.datetime) -> bool:
    """Tell whether a set may be asked for again."""
    due = retry_at(state)
    return due is not None and now >= due
