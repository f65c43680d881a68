"""Plans: which calls, under which keys, why, and what is left to buy."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagepipeline_dagster.api.contract import request_for
from imagepipeline_dagster.ledger.records import (
    MAX_JOBS_PER_REQUEST,
    MAX_UNPAID_JOBS,
    Attempt,
    Entry,
    Failure,
    Outcome,
    Owner,
    PlanState,
    State,
    StoredSample,
    plan_state,
)
from imagepipeline_dagster.ledger.uses import Use
from imagepipeline_dagster.planning.requests import (
    PlannedRequest,
    Reason,
    plan_requests,
    request_key,
    summarise_plan,
    unplanned_requests,
)
from imagepipeline_dagster.planning.seeds import seed_for
from imagepipeline_dagster.purchase.images import images_of_plan
from imagepipeline_dagster.rows import fields_of
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow
from tests.buying import numbered_rows, prompts_of
from tests.planning.test_prompts import ALL_EMBEDDINGS, ROWS

NOW = dt.datetime(2030, 5, 17, tzinfo=dt.UTC)
EMBEDDINGS = {
    "e1": EmbeddingRow(embedding_id="e1", trigger_words=("sks",), version="v1"),
    "e2": EmbeddingRow(embedding_id="e2", trigger_words=("ohwx",), version="v1"),
}


def entry_of(
    call: PlannedRequest,
    *,
    state: State = State.SUCCEEDED,
    stored: int | None = None,
    failure: Failure | None = None,
    attempt: int = 1,
) -> Entry:
    """Return what the ledger would say of a call; all samples are stored unless told otherwise."""
    slots = range(call.samples if stored is None else stored)
    return Entry(
        **fields_of(call, "request_key", "task", "request", "samples", "embedding_version"),
        state=state,
        attempt=attempt,
        endpoint="http://127.0.0.1/sdxl/text2image/v1",
        emulated=True,
        run_id="run",
        owner=Owner("a-host/1/x"),
        lease_until=NOW,
        claimed_at=NOW,
        job_id="job",
        links=(),
        submitted_at=NOW,
        links_since=None,
        completed_at=NOW,
        failure=failure,
        error=None,
        stored=tuple(
            StoredSample(slot=slot, sample_index=slot, outcome="generated", stored_at=NOW)
            for slot in slots
        ),
    )


class Books:
    """A ledger in memory: what was bought, and what each call used last."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.uses: dict[tuple[str, int], Use] = {}

    def plan(
        self,
        rows: Sequence[PromptRow],
        embeddings: Mapping[str, EmbeddingRow] | None = None,
        *,
        origin: str = "emulator",
        samples_per_call: int = 1,
    ) -> list[PlannedRequest]:
        """Return the rows' plan."""
        prompts = prompts_of(rows, embeddings or EMBEDDINGS)
        calls = unplanned_requests(prompts, origin=origin, samples_per_call=samples_per_call)
        return plan_requests(list(calls), entries=self.entries, latest_uses=self.uses)

    def buy(self, plan: Iterable[PlannedRequest]) -> int:
        """Carry a plan out, and return how many calls were bought."""
        bought = 0
        for call in plan:
            if call.state == PlanState.TO_BUY and call.request_key not in self.entries:
                bought += 1
                self.entries[call.request_key] = entry_of(call)
            self.uses[call.prompt_id, call.call_index] = Use(
                **fields_of(call, "prompt_set", "prompt_id", "call_index", "request_key"),
                dataset="images",
                prompt_row="{}",
                embedding_row=None,
                run_id="run",
            )
        return bought


def test_a_requests_key_is_the_same_in_every_version() -> None:
    """These very keys are in the ledgers of earlier versions; another one would buy again."""
    request = '{"model_id":"sdxl","prompt":"a boat","safety_checker":true,"samples":1,"seed":7}'
    keys = [
        request_key(task="text2image", request=request, embedding_version=version, origin=origin)
        for version, origin in ((None, "emulator"), ("v2", "https://api.imagepipeline.io"))
    ]
    assert keys == [
        "522219f88fcdb2dd93980930de04bfca8c8f418f185e841fd3affbeac7389981",
        "0f3519b426e45ab46c535088cf5bbba1752a63d14e64b292b380bbe296c68fb7",
    ]


def test_a_rows_request_is_the_same_in_every_version() -> None:
    """A row of nothing but its text gives this request, byte for byte, under this key."""
    [call] = Books().plan(numbered_rows(1))
    assert call.request == (
        '{"guidance_scale":7.5,"height":64,"model_id":"sdxl","num_inference_steps":30,'
        '"prompt":"boat number 0","safety_checker":true,"samples":1,"seed":1676683728,"width":64}'
    )
    assert call.request_key == "cd6b4a88187c7d36a0e33dbf84fa919254765a0a57399bae51839d1235fa6298"


def test_everything_that_makes_another_picture_makes_another_key() -> None:
    """Origin, task, request and embedding version tell keys apart, and no two fields mix."""
    usual = {
        "task": "text2image", "request": "{}", "embedding_version": None, "origin": "emulator"
    }  # fmt: skip
    others = [
        {"task": "inpainting"},
        {"request": "{ }"},
        {"embedding_version": ""},
        {"embedding_version": "null"},
        {"origin": "emulator "},
        {"origin": "https://gateway.example/staging"},
        {"origin": "https://gateway.example/prod"},
    ]
    keys = {request_key(**{**usual, **other}) for other in [{}, *others]}  # type: ignore[arg-type] # mixed values
    assert len(keys) == 1 + len(others)


def test_calls_carry_the_samples_and_seeds_of_their_row() -> None:
    """Seven samples at four a call are two calls; a given seed is the first call's alone."""
    [row] = numbered_rows(1, samples=7, seed=41)
    calls = Books().plan([row], samples_per_call=4)
    assert [(c.call_index, c.samples, c.seed) for c in calls] == [
        (0, 4, 41),
        (1, 3, seed_for("spring", "p0000", 1)),
    ]
    for call in calls:
        request = request_for(call.task, json.loads(call.request))
        assert (request.samples, request.seed) == (call.samples, call.seed)


def test_a_seed_of_zero_is_used_as_given() -> None:
    """Zero is a seed like any other."""
    [call] = Books().plan(numbered_rows(1, seed=0))
    assert call.seed == 0


def test_one_edited_prompt_of_a_thousand_buys_one_image() -> None:
    """What stays as it was is reused, and the plan says why the one is new."""
    books, rows = Books(), numbered_rows(1000)
    assert books.buy(books.plan(rows)) == 1000
    rows[500] = dataclasses.replace(rows[500], prompt="a lighthouse")

    plan = books.plan(rows)

    assert Counter((c.state, c.reason) for c in plan) == {
        ("reused", "unchanged"): 999,
        ("to_buy", "prompt_changed"): 1,
    }
    summary = summarise_plan(plan)
    assert (summary.images["to_buy"], summary.images["reused"]) == (1, 999)
    assert summary.to_buy_by_reason == {Reason.PROMPT_CHANGED: 1}
    assert books.buy(plan) == 1


def test_touching_rows_buys_nothing() -> None:
    """`updated_at`, the order of rows and further rows leave the pixels of a row alone."""
    books, rows = Books(), numbered_rows(50)
    books.buy(books.plan(rows))
    touched = [dataclasses.replace(row, updated_at=NOW) for row in reversed(rows)]
    further = PromptRow(prompt_set="spring", prompt_id="zz", prompt="a further one")

    plan = books.plan([*touched, further])

    assert [c.prompt_id for c in plan if c.state == PlanState.TO_BUY] == ["zz"]


def test_a_new_embedding_version_buys_the_rows_that_use_it() -> None:
    """Rows of other embeddings, and rows of none, are left alone."""
    books = Books()
    rows = [
        *numbered_rows(3, embeddings="e1"),
        *(
            dataclasses.replace(row, prompt_id=f"q{row.prompt_id}")
            for row in numbered_rows(4, embeddings="e2")
        ),
        *(dataclasses.replace(row, prompt_id=f"r{row.prompt_id}") for row in numbered_rows(5)),
    ]
    books.buy(books.plan(rows))
    newer = {**EMBEDDINGS, "e2": dataclasses.replace(EMBEDDINGS["e2"], version="v2")}

    plan = books.plan(rows, newer)

    assert Counter(c.reason for c in plan if c.state == PlanState.TO_BUY) == {
        Reason.EMBEDDING_CHANGED: 4
    }
    assert all(c.prompt_id.startswith("q") for c in plan if c.state == PlanState.TO_BUY)


def test_an_edit_that_is_taken_back_buys_nothing() -> None:
    """A, then B, then A again is two purchases, not three."""
    books = Books()
    [first] = numbered_rows(1)
    second = dataclasses.replace(first, prompt="a lighthouse")
    bought = [books.buy(books.plan([row])) for row in (first, second, first, second)]
    assert bought == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"prompt": "a lighthouse"}, Reason.PROMPT_CHANGED),
        ({"negative_prompt": "blurry"}, Reason.PROMPT_CHANGED),
        ({"guidance_scale": 9.0}, Reason.PARAMETERS_CHANGED),
        ({"seed": 5}, Reason.PARAMETERS_CHANGED),
        ({"safety_checker": False}, Reason.PARAMETERS_CHANGED),
        ({"embeddings": "e1"}, Reason.EMBEDDING_CHANGED),
        (
            {"task": "image2image", "init_image": "http://a.example/b.png"},
            Reason.PARAMETERS_CHANGED,
        ),
        ({"guidance_scale": 9.0, "prompt": "a lighthouse"}, Reason.PROMPT_CHANGED),
    ],
)
def test_a_plan_says_what_changed(values: dict[str, object], reason: Reason) -> None:
    """The reason is the nearest cause that a person would name."""
    books, [row] = Books(), numbered_rows(1)
    assert {c.reason for c in books.plan([row])} == {Reason.NEW}
    books.buy(books.plan([row]))

    [call] = books.plan([dataclasses.replace(row, **values)])  # type: ignore[arg-type] # any columns

    assert (call.state, call.reason) == (PlanState.TO_BUY, reason)


def test_another_api_is_no_change_of_the_row() -> None:
    """What an emulator drew is new at the real API, under a key of its own."""
    books, rows = Books(), numbered_rows(1)
    books.buy(books.plan(rows))
    [call] = books.plan(rows, origin="https://api.imagepipeline.io")
    assert (call.state, call.reason) == (PlanState.TO_BUY, Reason.NEW)


@pytest.mark.parametrize(
    ("state", "failure", "attempt", "stored", "planned"),
    [
        (State.CLAIMED, None, 1, 0, PlanState.IN_FLIGHT),
        (State.SUBMITTED, None, 1, 1, PlanState.IN_FLIGHT),
        (State.SUBMITTED, None, 1, 2, PlanState.REUSED),
        (State.SUCCEEDED, None, 1, 2, PlanState.REUSED),
        (State.UNKNOWN, None, 1, 0, PlanState.UNKNOWN),
        (State.FAILED, Failure.NOT_SENT, 0, 0, PlanState.TO_BUY),
        (State.FAILED, Failure.NOT_SENT, 1, 0, PlanState.TO_BUY),
        (State.FAILED, Failure.MODEL_ERROR, 1, 0, PlanState.TO_BUY),
        (State.FAILED, Failure.MODEL_ERROR, MAX_JOBS_PER_REQUEST, 0, PlanState.FAILED),
        (State.FAILED, Failure.UNPAID, MAX_UNPAID_JOBS - 1, 0, PlanState.TO_BUY),
        (State.FAILED, Failure.UNPAID, MAX_UNPAID_JOBS, 0, PlanState.FAILED),
        (State.FAILED, Failure.INPUT_REFUSED, 1, 0, PlanState.FAILED),
        (State.FAILED, Failure.FILTERED, 1, 2, PlanState.REUSED),
    ],
)
def test_the_ledger_decides_what_a_purchase_would_do(
    state: State, failure: Failure | None, attempt: int, stored: int, planned: PlanState
) -> None:
    """Only what was never bought, or provably gave nothing, is to buy."""
    [call] = Books().plan(numbered_rows(1, samples=2), samples_per_call=2)
    entry = entry_of(call, state=state, failure=failure, attempt=attempt, stored=stored)
    assert plan_state(entry) == planned
    assert plan_state(None) == PlanState.TO_BUY


def test_a_job_that_could_not_be_paid_takes_no_other_ones_place() -> None:
    """The jobs that a request may cost are counted without those that an empty account ended."""
    [call] = Books().plan(numbered_rows(1))
    unpaid = Attempt(
        attempt=1,
        job_id="job-1",
        run_id="run",
        submitted_at=NOW,
        ended_at=NOW,
        failure=Failure.UNPAID,
        error="no credits",
    )
    entry = entry_of(call, state=State.FAILED, failure=Failure.MODEL_ERROR, attempt=2, stored=0)
    assert plan_state(dataclasses.replace(entry, earlier=(unpaid,))) == PlanState.TO_BUY


ENTRY_KINDS = st.sampled_from(
    [
        None,
        *((state, None, stored) for state in State for stored in (0, 1, None)),
        *((State.FAILED, failure, stored) for failure in Failure for stored in (0, None)),
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=6), st.integers(min_value=1, max_value=4), st.data())
def test_there_is_a_row_for_each_sample_that_a_table_asks_for(
    rows: list[PromptRow], samples_per_call: int, data: st.DataObject
) -> None:
    """Valid or not, bought or not, whatever the ledger says: samples asked for = rows."""
    prompts = prompts_of(rows, ALL_EMBEDDINGS)
    plan = list(unplanned_requests(prompts, origin="o", samples_per_call=samples_per_call))
    entries = {}
    for call in plan:
        kind = data.draw(ENTRY_KINDS)
        if kind is not None:
            state, failure, stored = kind
            entries[call.request_key] = entry_of(call, state=state, failure=failure, stored=stored)

    images = images_of_plan(prompts, plan, entries)

    assert len(images) == sum(prompt.samples for prompt in prompts)
    asked: Counter[str] = Counter()
    for prompt in prompts:
        asked[prompt.prompt_id] += prompt.samples
    assert Counter(image.prompt_id for image in images) == asked
    refused = [image for image in images if image.outcome == Outcome.INVALID]
    assert len(refused) == sum(prompt.samples for prompt in prompts if not prompt.valid)
    assert all(image.error and image.request_key is None for image in refused)
    assert {call.prompt_id for call in plan} == {p.prompt_id for p in prompts if p.valid}
