from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from imagepipeline_dagster.emulator.faults import Fault, FaultKind, FaultPlan, Operation


def plan(*faults: Fault, seed: int = 0) -> FaultPlan:
    """Return a plan with its own chance."""
    return FaultPlan(faults, chance=Random(seed))  # noqa: S311 - repeatable, not secret


@given(times=st.integers(1, 10), asked=st.integers(0, 20))
def test_fault_happens_so_often_at_most(times: int, asked: int) -> None:
    """A rule with a count is used up after it."""
    rules = plan(Fault(kind=FaultKind.SERVER_ERROR, times=times))
    met = [rules.meet(Operation.SUBMIT, "a boat") for _ in range(asked)]
    assert sum(fault is not None for fault in met) == min(times, asked)


def test_fault_keeps_to_its_operation_and_prompts() -> None:
    """A rule leaves other operations and other prompts alone, in any letter case."""
    fault = Fault(kind=FaultKind.HTML_PAGE, operation=Operation.STATUS, prompt_contains="Boat")
    rules = plan(fault)
    assert rules.meet(Operation.SUBMIT, "a boat") is None
    assert rules.meet(Operation.STATUS, "a house") is None
    assert rules.meet(Operation.STATUS, "a BOAT") == fault


def test_first_matching_rule_applies() -> None:
    """Of two rules that match, the first is applied until it is used up."""
    first, second = Fault(kind="rate_limited", times=1), Fault(kind="server_error")
    rules = plan(first, second)
    assert [rules.meet(Operation.SUBMIT, "") for _ in range(3)] == [first, second, second]


def test_probability_is_seeded() -> None:
    """A likely fault hits about its share of requests, the same ones with the same seed."""
    fault = Fault(kind="dropped_answer", probability=0.3)
    rules = [plan(fault), plan(fault)]
    one, other = ([each.meet(Operation.SUBMIT, "") for _ in range(500)] for each in rules)
    assert one == other
    assert 100 < sum(met is not None for met in one) < 200


def test_replacing_starts_anew() -> None:
    """Putting the same rules in force again gives them their full count."""
    fault = Fault(kind="server_error", times=1)
    rules = plan(fault)
    assert rules.meet(Operation.SUBMIT, "") == fault
    rules.replace([fault])
    assert rules.meet(Operation.SUBMIT, "") == fault


def test_fault_for_a_while() -> None:
    """A rule with a time is over after it, and is in force anew when it is put again."""
    fault = Fault(kind="html_page", seconds=0.05)
    rules = plan(fault)
    assert rules.meet(Operation.SUBMIT, "") == fault
    time.sleep(0.06)
    assert rules.meet(Operation.SUBMIT, "") is None
    rules.replace([fault])
    assert rules.meet(Operation.SUBMIT, "") == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("stuck", Fault(kind="stuck")),
        ("rate_limited:times=3", Fault(kind="rate_limited", times=3)),
        (
            "server_error:status=502,after_accepting=true",
            Fault(kind="server_error", status=502, after_accepting=True),
        ),
        (
            "refused: message=API key not valid, prompt_contains=boat",
            Fault(kind="refused", message="API key not valid", prompt_contains="boat"),
        ),
    ],
)
def test_a_fault_in_words(text: str, fault: Fault) -> None:
    """A rule may be written as one word, its fields behind a colon."""
    assert Fault.parse(text) == fault


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("meteor", "kind: .*'rate_limited'.*'corrupt_bytes'$"),
        ("server_error:status=404", "server_error has 500 to 599"),
        ("refused:status=500", "refused has 400 to 499"),
        ("stuck:tiems=3", "tiems: "),
        ("stuck:times=many", "times: "),
    ],
)
def test_a_fault_in_wrong_words(text: str, words: str) -> None:
    """A rule that cannot be meant is refused by its field, an unknown kind with all kinds."""
    with pytest.raises(ValueError, match=words):
        Fault.parse(text)


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "truncated_bytes", "operation": "submit"},
        {"kind": "job_failure", "operation": "status"},
        {"kind": "rate_limited", "after_accepting": True},
        {"kind": "server_error", "probability": 1.5},
        {"kind": "server_error", "times": 0},
    ],
)
def test_impossible_rule_is_refused(rule: dict[str, object]) -> None:
    """A rule that could never happen as written is an error, not a rule without effect."""
    with pytest.raises(ValidationError):
        Fault.model_validate(rule)


@given(kind=st.sampled_from(FaultKind))
def test_every_kind_has_a_place(kind: FaultKind) -> None:
    """A rule of a kind alone happens somewhere."""
    fault = Fault(kind=kind)
    assert plan(fault).meet(fault.place, "") == fault
