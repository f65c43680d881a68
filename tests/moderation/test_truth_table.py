"""Every combination of flag, signal, policy, classifier and override, against a table of rules."""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import dataclass

import pytest

from imagepipeline_dagster.moderation.policy import Rules
from imagepipeline_dagster.moderation.verdicts import Evidence
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.tables.overrides import Override, OverrideDecision
from tests.moderation.judging import moderate

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
SHA256 = "c" * 64
SCORES = {"absent": None, "low": 0.1, "middle": 0.5, "high": 0.9}
SIGNALS = {
    # outcome, value_range: as the purchase records what the API signalled
    "none": ("generated", 200),
    "fewer_links": ("generated", 200),
    "black": ("generated", 0),
    "refusal": ("vendor_filtered", None),
    "http_error": ("failed", None),
    "undecodable": ("undecodable", None),
}


@dataclass(frozen=True)
class Case:
    """One combination."""

    flag: bool | None
    signal: str
    checked: str
    unchecked: str
    blank: str
    classifier: str
    override: OverrideDecision | None


# The first row that fits gives verdict and reason. None stands for anything.
#     came   blank  policy         classifier
_TABLE: list[tuple[tuple[str | None, ...], tuple[str, str]]] = [
    (("refusal", None, None, None), ("rejected", "vendor_filtered")),
    (("http_error", None, None, None), ("rejected", "failed")),
    (("undecodable", None, None, None), ("rejected", "undecodable")),
    (("black", "reject", None, None), ("rejected", "blank")),
    (("black", "quarantine", None, None), ("quarantined", "blank")),
    ((None, None, "keep-checked", None), ("kept", "ok")),
    ((None, None, "keep-unchecked", None), ("kept", "unchecked")),
    ((None, None, "quarantine", None), ("quarantined", "unchecked")),
    ((None, None, "classify", "absent"), ("quarantined", "unchecked")),
    ((None, None, "classify", "low"), ("kept", "ok")),
    ((None, None, "classify", "middle"), ("quarantined", "nsfw")),
    ((None, None, "classify", "high"), ("rejected", "nsfw")),
]


def documented(case: Case) -> tuple[str, str]:
    """Return what the table says."""
    policy = case.checked if case.flag is True else case.unchecked
    if policy == "keep":
        policy = "keep-checked" if case.flag is True else "keep-unchecked"
    facts = (case.signal, case.blank, policy, case.classifier)
    verdict, reason = next(
        told
        for row, told in _TABLE
        if all(want in (None, fact) for want, fact in zip(row, facts, strict=True))
    )
    if case.override in (None, "clear") or SIGNALS[case.signal][0] != "generated":
        return verdict, reason  # nobody can keep what did not come
    decided = {"keep": "kept", "reject": "rejected", "quarantine": "quarantined"}
    return decided[case.override], f"override:{reason}"


CASES = [
    Case(*values)
    for values in itertools.product(
        (True, False, None),
        SIGNALS,
        ("keep", "classify"),
        ("quarantine", "classify", "keep"),
        ("reject", "quarantine", "keep"),
        SCORES,
        (None, *OverrideDecision),
    )
]


def found(case: Case) -> tuple[str, str]:
    """Return what the moderation says."""
    outcome, value_range = SIGNALS[case.signal]
    came = outcome == "generated"
    image = GeneratedImage(
        prompt_set="spring",
        prompt_id="fox",
        call_index=0,
        sample_index=None if case.signal == "fewer_links" else 0,
        outcome=outcome,
        content_version="c1",
        safety_checker=case.flag,
        value_range=value_range,
        image_sha256=SHA256 if came else None,
        completed_at=NOON,
        format="PNG" if came else None,
    )
    rules = Rules.model_validate(
        {"checked": case.checked, "unchecked": case.unchecked, "blank": case.blank}
    )
    score = SCORES[case.classifier]
    people = [
        Override(
            prompt_set="spring",
            prompt_id="fox",
            decision=decision,
            reviewer="ana",
            reason="seen",
            decided_at=NOON,
        )
        for decision in [case.override]
        if decision is not None
    ]
    evidence = Evidence(
        scores={} if score is None else {SHA256: score},
        overrides=people,
    )
    [row] = moderate([image], rules, evidence)
    return row.verdict, row.moderation_reason


@pytest.mark.parametrize("signal", SIGNALS)
def test_each_combination_gives_the_documented_verdict(signal: str) -> None:
    """Flag, signal, policy, classifier and override together decide as the table says."""
    cases = [case for case in CASES if case.signal == signal]
    assert len(cases) == 3 * 2 * 3 * 3 * 4 * 5
    wrong = [
        (case, found(case), documented(case)) for case in cases if found(case) != documented(case)
    ]
    assert wrong == []


def test_one_flag_among_four_costs_one_sample() -> None:
    """Three links for four samples: three are kept, which they were is not guessed."""
    images = [
        GeneratedImage(
            prompt_set="spring",
            prompt_id="fox",
            call_index=0,
            sample_index=None,
            outcome="generated" if slot < 3 else "vendor_filtered",
            content_version="c1",
            safety_checker=True,
            value_range=200 if slot < 3 else None,
            image_sha256=str(slot) * 64 if slot < 3 else None,
            format="PNG" if slot < 3 else None,
        )
        for slot in range(4)
    ]
    rows = moderate(images)
    assert [(row.verdict, row.moderation_reason) for row in rows] == [
        *[("kept", "ok")] * 3,
        ("rejected", "vendor_filtered"),
    ]
    assert {row.sample_index for row in rows} == {None}


def test_the_latest_decision_counts_and_is_signed() -> None:
    """Of decisions about a picture and about its prompt the latest counts, with who and why."""
    image = GeneratedImage(
        prompt_set="spring",
        prompt_id="fox",
        call_index=0,
        sample_index=0,
        outcome="generated",
        content_version="c1",
        safety_checker=True,
        value_range=200,
        image_sha256=SHA256,
        completed_at=NOON,
        format="PNG",
    )

    def decided(hours: int, decision: OverrideDecision, who: str, *, of_prompt: bool) -> Override:
        return Override(
            image_sha256=None if of_prompt else SHA256,
            prompt_set="spring" if of_prompt else None,
            prompt_id="fox" if of_prompt else None,
            decision=decision,
            reviewer=who,
            reason=f"said {who}",
            decided_at=NOON + dt.timedelta(hours=hours),
        )

    first = decided(0, OverrideDecision.REJECT, "ana", of_prompt=False)
    second = decided(1, OverrideDecision.QUARANTINE, "ben", of_prompt=True)
    third = decided(2, OverrideDecision.KEEP, "cleo", of_prompt=False)
    for overrides, verdict, who in (
        ((first, second), "quarantined", "ben"),
        ((third, second, first), "kept", "cleo"),
    ):
        [row] = moderate([image], evidence=Evidence(overrides=overrides))
        assert (row.verdict, row.overridden_by, row.override_reason) == (
            verdict,
            who,
            f"said {who}",
        )
        assert row.moderation_reason == "override:ok"
        assert row.overridden_at == max(o.decided_at for o in overrides)
