from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.moderation.checks import accounting_problems, wrong_sizes
from imagepipeline_dagster.moderation.policy import Rules
from imagepipeline_dagster.moderation.verdicts import (
    Counts,
    ModeratedImage,
    ModerationReason,
    Verdict,
    summarise,
)
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.rows import StoredTable
from tests.moderation.judging import moderate, sample

PICTURE, BLANK, UNMEASURED = 200, 0, None


TRUTH = {
    (True, PICTURE): ("kept", "ok"),
    (True, BLANK): ("rejected", "blank"),
    (True, UNMEASURED): ("quarantined", "unchecked"),
    (False, PICTURE): ("quarantined", "unchecked"),
    (False, BLANK): ("rejected", "blank"),
    (False, UNMEASURED): ("quarantined", "unchecked"),
    (None, PICTURE): ("quarantined", "unchecked"),
    (None, BLANK): ("rejected", "blank"),
    (None, UNMEASURED): ("quarantined", "unchecked"),
}


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize(("safety_checker", "value_range"), TRUTH)
def test_truth_table(
    outcome: str,
    safety_checker: bool | None,  # noqa: FBT001 - a parameter of the table
    value_range: int | None,
) -> None:
    """A picture is kept only when it was checked and is not blank; else its outcome decides."""
    rejected_or_open = "quarantined" if outcome in ("unknown", "pending") else "rejected"
    expected = {"generated": TRUTH[safety_checker, value_range]}
    image = sample(outcome=outcome, safety_checker=safety_checker, value_range=value_range)
    [row] = moderate([image])
    found = row.verdict, row.moderation_reason
    assert found == expected.get(outcome, (rejected_or_open, outcome))


def test_an_outcome_of_another_spelling_is_refused() -> None:
    """A row that cannot be judged stops the moderation rather than slipping through."""
    with pytest.raises(ValueError, match="'Generated' is not a valid Outcome"):
        moderate([sample(outcome="Generated")])


texts = st.text(max_size=8)
numbers = st.integers(0, 2**63 - 1)
times = st.datetimes(timezones=st.just(dt.UTC))
samples = st.builds(
    GeneratedImage,
    prompt_set=texts,
    prompt_id=texts,
    call_index=st.none() | numbers,
    sample_index=st.none() | numbers,
    outcome=st.sampled_from([outcome.value for outcome in Outcome]),
    content_version=texts,
    prompt=st.none() | texts,
    seed=st.none() | numbers,
    safety_checker=st.none() | st.booleans(),
    image_sha256=st.none() | texts,
    bytes=st.none() | numbers,
    value_range=st.none() | st.integers(0, 255),
    submitted_at=st.none() | times,
    emulated=st.booleans(),
    error=st.none() | texts,
)


@given(st.lists(samples, max_size=20))
def test_each_sample_has_one_verdict_and_keeps_everything_else(rows: list[GeneratedImage]) -> None:
    """As many verdicts as samples, in their order, and no other field touched."""
    moderated = moderate(rows)
    fields = [field.name for field in dataclasses.fields(GeneratedImage)]
    assert [[getattr(row, name) for name in fields] for row in moderated] == [
        [getattr(row, name) for name in fields] for row in rows
    ]
    assert {row.verdict for row in moderated} <= set(Verdict)
    assert {row.moderation_reason for row in moderated} <= {*ModerationReason, *Outcome}


@given(st.lists(samples, max_size=20))
def test_moderating_again_gives_the_same_answer(rows: list[GeneratedImage]) -> None:
    """Moderated rows can be moderated again, and an earlier verdict does not weigh."""
    moderated = moderate(rows)
    assert moderate(moderated) == moderated


@given(st.lists(samples, max_size=20))
def test_the_counts_add_up(rows: list[GeneratedImage]) -> None:
    """The verdicts and the reasons each sum up to the samples asked for."""
    counts = summarise(moderate(rows))
    assert counts.kept + counts.rejected + counts.quarantined == counts.requested == len(rows)
    assert sum(counts.by_reason.values()) == len(rows)


def test_counts_by_verdict_and_reason() -> None:
    """The counts name each verdict and each reason that occurs."""
    odd = sample(value_range=BLANK), sample(outcome="failed"), sample(safety_checker=False)
    rows = moderate([sample(), sample(), *odd])
    assert summarise(rows) == Counts(
        requested=5,
        kept=2,
        rejected=2,
        quarantined=1,
        by_reason={"blank": 1, "failed": 1, "ok": 2, "unchecked": 1},
        why_not_kept={"blank": 1, "failed": 1, "unchecked": 1},
    )


def test_moderated_rows_are_stored() -> None:
    """A stored table of moderated rows gives back the same rows."""
    rows = moderate([sample(), sample(safety_checker=None, value_range=None)])
    assert StoredTable.of(rows, ModeratedImage).rows(ModeratedImage) == rows


def test_full_accounting_has_no_problems() -> None:
    """Nothing is reported where each prompt has the rows that it asks for."""
    rows = [sample("a"), sample("b"), sample("b")]
    assert accounting_problems({"a": 1, "b": 2}, rows) == []


def test_accounting_names_the_prompts_that_differ() -> None:
    """Missing rows, rows too many and rows of unknown prompts are each named with both numbers."""
    rows = [sample("b"), sample("b"), sample("d"), sample("ok")]
    assert accounting_problems({"ok": 1, "a": 2, "b": 1}, rows) == [
        "Prompt 'a': 2 samples asked for, 0 rows recorded.",
        "Prompt 'b': 1 samples asked for, 2 rows recorded.",
        "Prompt 'd': 0 samples asked for, 1 rows recorded.",
    ]


def test_a_picture_of_another_size_is_found() -> None:
    """Width and height are compared with the request; one that asked for none is as it is."""
    asked = '{"height":64,"width":48}'
    rows = [
        sample(name, image_sha256="a" * 64, request=request, pixel_width=48, pixel_height=high)
        for name, request, high in (("ok", asked, 64), ("low", asked, 32), ("any", "{}", 32))
    ]
    assert [row.prompt_id for row in wrong_sizes(moderate(rows))] == ["low"]


@pytest.mark.parametrize(
    ("evidence", "option", "reason"),
    [
        ({"carries_more": "200 bytes follow the picture"}, "carries_more", "carries_more"),
        ({"has_alpha": True}, "transparent", "transparent"),
    ],
)
def test_what_more_a_file_holds_sets_it_aside(
    evidence: dict[str, Any], option: str, reason: str
) -> None:
    """A file with more than a picture, or alpha, is quarantined unless the policy says else."""
    image = sample(**evidence)
    verdicts = {
        choice: [(row.verdict, row.moderation_reason) for row in moderate([image], rules)]
        for choice, rules in {
            "default": Rules(),
            **{c: Rules.model_validate({option: c}) for c in ("reject", "keep")},
        }.items()
    }
    assert verdicts == {
        "default": [("quarantined", reason)],
        "reject": [("rejected", reason)],
        "keep": [("kept", "ok")],
    }
