"""Every combination of flag, signal, policy, classifier and override, against a table of rules."""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import dataclass

import pytest

from imagepipeline_dagster.moderation.policy import Rules
from imagepipeline_dagster.moderation.verdicts import Evidence
from imagepipeline_dagster.tables.overrides import Override, OverrideDecision
from tests.moderation.judging import NOON, decided, moderate, sample

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
    image = sample(
        sample_index=None if case.signal == "fewer_links" else 0,
        outcome=outcome,
        safety_checker=case.flag,
        value_range=value_range,
        image_sha256=SHA256 if came else None,
        completed_at=NOON,
    )
    rules = Rules.model_validate(
        {"checked": case.checked, "unchecked": case.unchecked, "blank": case.blank}
    )
    score = SCORES[case.classifier]
    people = [decided(case.override, prompt_set="spring", prompt_id="fox")] if case.override else []
    evidence = Evidence(scores={} if score is None else {SHA256: score}, overrides=people)
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
        *(sample(sample_index=None, image_sha256=str(slot) * 64) for slot in range(3)),
        sample(sample_index=None, outcome="vendor_filtered", value_range=None),
    ]
    rows = moderate(images)
    assert [(row.verdict, row.moderation_reason) for row in rows] == [
        *[("kept", "ok")] * 3,
        ("rejected", "vendor_filtered"),
    ]
    assert {row.sample_index for row in rows} == {None}


def test_the_latest_decision_counts_and_is_signed() -> None:
    """Of decisions about a picture and about its prompt the latest counts, with who and why."""
    image = sample(image_sha256=SHA256, completed_at=NOON)

    def said(hours: int, decision: str, who: str, **about: str) -> Override:
        at = NOON + dt.timedelta(hours=hours)
        return decided(decision, at, reviewer=who, reason=f"said {who}", **about)

    first = said(0, "reject", "ana", image_sha256=SHA256)
    second = said(1, "quarantine", "ben", prompt_set="spring", prompt_id="fox")
    third = said(2, "keep", "cleo", image_sha256=SHA256)
    for overrides, verdict, who in (
        ((first, second), "quarantined", "ben"),
        ((third, second, first), "kept", "cleo"),
    ):
        [row] = moderate([image], evidence=Evidence(overrides=overrides))
        signed = row.verdict, row.overridden_by, row.override_reason
        assert signed == (verdict, who, f"said {who}")
        assert row.moderation_reason == "override:ok"
        assert row.overridden_at == max(o.decided_at for o in overrides)
