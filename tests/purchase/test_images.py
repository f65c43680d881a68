"""Rows of the result, as the ledger has them."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from imagepipeline_dagster.ledger.records import Failure, Outcome, State, StoredSample
from imagepipeline_dagster.planning.requests import unplanned_requests
from imagepipeline_dagster.purchase.images import GeneratedImage, images_of_plan
from imagepipeline_dagster.rows import StoredTable
from tests.buying import numbered_rows, prompts_of
from tests.planning.test_requests import entry_of

PROMPTS = prompts_of(numbered_rows(1, samples=3, negative_prompt="blurry"))
[CALL, REST] = unplanned_requests(PROMPTS, origin="o", samples_per_call=2)


@pytest.mark.parametrize(
    ("state", "failure", "attempt", "outcome"),
    [
        (State.CLAIMED, None, 1, Outcome.PENDING),
        (State.SUBMITTED, None, 1, Outcome.PENDING),
        (State.UNKNOWN, None, 1, Outcome.UNKNOWN),
        (State.FAILED, Failure.NOT_SENT, 0, Outcome.PENDING),
        (State.FAILED, Failure.UNPAID, 1, Outcome.PENDING),
        (State.FAILED, Failure.MODEL_ERROR, 1, Outcome.PENDING),
        (State.FAILED, Failure.MODEL_ERROR, 2, Outcome.FAILED),
        (State.FAILED, Failure.INPUT_REFUSED, 1, Outcome.FAILED),
        (State.SUCCEEDED, None, 1, Outcome.FAILED),
    ],
)
def test_a_sample_that_is_not_stored_has_its_requests_outcome(
    state: State, failure: Failure | None, attempt: int, outcome: Outcome
) -> None:
    """Each state of a request says what became of its samples, and a missing one is open.

    Open is what another run may better: not what failed for good, but a job that the API lost.
    """
    entry = entry_of(CALL, state=state, failure=failure, attempt=attempt, stored=0)
    entry = dataclasses.replace(entry, error="for a reason")

    images = images_of_plan(PROMPTS, [CALL, REST], {CALL.request_key: entry})

    assert [image.outcome for image in images] == [outcome, outcome, Outcome.PENDING]
    assert [image.sample_index for image in images] == [0, 1, 0]
    assert images[0].error
    assert images[2].error is None
    assert [image.is_open for image in images] == [outcome != Outcome.FAILED] * 2 + [True]


def test_a_stored_sample_carries_its_whole_chain() -> None:
    """From the row to the bytes: everything that identifies a picture is in its row."""
    stored = StoredSample(
        slot=1,
        sample_index=1,
        outcome="generated",
        stored_at=dt.datetime(2030, 1, 2, tzinfo=dt.UTC),
        image_sha256="ab" * 32,
        uri="file:///a.png",
        format="PNG",
        pixel_width=64,
        pixel_height=32,
        bytes=99,
        value_range=255,
    )
    entry = dataclasses.replace(entry_of(CALL, state=State.SUBMITTED), stored=(stored,))

    first, second, _ = images_of_plan(PROMPTS, [CALL, REST], {CALL.request_key: entry})

    assert (first.outcome, second.outcome) == (Outcome.PENDING, "generated")
    assert (second.image_sha256, second.uri, second.bytes) == ("ab" * 32, "file:///a.png", 99)
    assert (second.request, second.seed, second.samples) == (CALL.request, CALL.seed, 2)
    assert (second.job_id, second.run_id, second.emulated) == ("job", "run", True)
    assert (second.prompt, second.negative_prompt) == ("boat number 0", "blurry")
    assert second.completed_at == dt.datetime(2030, 1, 2, tzinfo=dt.UTC)
    assert second.content_version == PROMPTS[0].content_version
    table = StoredTable.of([first, second], GeneratedImage)
    assert table.rows(GeneratedImage) == [first, second]
