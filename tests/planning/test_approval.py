"""Which purchases wait for a person, and which approvals let them go."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from imagepipeline_dagster.ledger.approvals import (
    ApprovedPlan,
    WantedPurchase,
    approval_of,
    record_approvals,
)
from imagepipeline_dagster.ledger.budget import Allowance
from imagepipeline_dagster.ledger.records import Claim, Owner
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.steps import record_claims
from imagepipeline_dagster.planning.approval import (
    NOT_APPROVED,
    Approval,
    NotApproved,
    allowed_to_spend,
    waits_for_person,
)
from imagepipeline_dagster.planning.forecast import forecast_of
from imagepipeline_dagster.planning.requests import (
    PlannedRequest,
    plan_fingerprint,
    unplanned_requests,
)
from imagepipeline_dagster.rows import fields_of
from tests.buying import SMALL, numbered_rows, prompts_of

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
GIVEN = ApprovedPlan(
    dataset="images",
    prompt_set="spring",
    fingerprint="plan-1",
    max_images=10,
    max_money=5.0,
    who="ana",
    why="the catalogue",
    approved_at=NOW,
    expires_at=NOW + dt.timedelta(days=1),
)
ALWAYS = Approval(required="always")
WANTED = WantedPurchase(
    "images", "spring", "plan-1", images=10, largest_call=1, price_per_image=0.5
)


@pytest.mark.parametrize(
    ("options", "images", "cost", "waits"),
    [
        ({}, 10_000, None, False),
        ({"required": "always"}, 1, None, True),
        ({"required": "always"}, 0, None, False),
        ({"required": "above", "images": 10}, 10, None, False),
        ({"required": "above", "images": 10}, 11, None, True),
        ({"required": "above", "money": 5}, 100, 5.0, False),
        ({"required": "above", "money": 5}, 100, 5.01, True),
        # Without a price nobody knows that it is little.
        ({"required": "above", "money": 5}, 1, None, True),
        ({"required": "above", "images": 10, "money": 5}, 11, 1.0, True),
    ],
)
def test_what_waits(
    options: dict[str, object], images: int, cost: float | None, *, waits: bool
) -> None:
    """A purchase waits by what the dataset says, and one that buys nothing never does."""
    assert Approval.model_validate(options).is_needed(images, cost) is waits


@pytest.mark.parametrize(
    "options",
    [
        {"required": "above"},
        {"required": "always", "images": 5},
        {"images": 5},
        {"required": "above", "images": -1},
        {"required": "above", "money": float("nan")},
        {"required": "sometimes"},
        {"valid_hours": 0},
        {"valid_hours": 1, "until": "noon"},
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object]) -> None:
    """A limit without its rule, a rule without its limit, and words of no meaning are refused."""
    with pytest.raises(ValidationError):
        Approval.model_validate(options)


@pytest.mark.parametrize(
    ("change", "later", "covers"),
    [
        ({}, 0, True),
        ({"fingerprint": "plan-2"}, 0, False),
        ({"prompt_set": "summer"}, 0, False),
        ({"dataset": "others"}, 0, False),
        ({"images": 11}, 0, False),
        ({"price_per_image": 0.501}, 0, False),
        ({"price_per_image": None}, 0, False),
        ({}, 2, False),
    ],
)
def test_an_approval_is_for_one_plan_its_price_and_its_time(
    ledger: Ledger, change: dict[str, Any], later: int, *, covers: bool
) -> None:
    """Another plan, a higher price and a later day each need another approval."""
    record_approvals(ledger, [GIVEN])
    wanted = WANTED._replace(**change)

    found = approval_of(ledger, wanted, now=NOW + dt.timedelta(days=later))

    assert found == (dataclasses.replace(GIVEN, number=1) if covers else None)


@pytest.mark.parametrize(
    ("limits", "used_up_by"),
    [
        ({"max_money": None}, 10),
        ({"max_images": None}, 10),
        ({"max_images": None, "max_money": None}, None),
    ],
)
def test_an_approval_is_used_once(
    ledger: Ledger, limits: dict[str, Any], used_up_by: int | None
) -> None:
    """Once so many images were bought under it as it allows, it lets nothing go any more."""
    record_approvals(ledger, [dataclasses.replace(GIVEN, **limits)])
    wanted = WANTED._replace(images=1)
    approved = approval_of(ledger, wanted, now=NOW)
    assert approved is not None
    allowance = approved.allowance(wanted.price_per_image)
    assert (allowance is None) is (used_up_by is None)
    if allowance is not None and used_up_by is not None:
        for images in (used_up_by - 1, 1):
            assert approval_of(ledger, wanted, now=NOW) is not None
            with ledger.engine.begin() as connection:
                assert allowance.reserve(connection, images=images, today=NOW.date()) is None
        assert approval_of(ledger, wanted, now=NOW) is None


def approve(
    ledger: Ledger,
    plan: Sequence[PlannedRequest],
    *,
    max_images: int | None = 10,
    max_money: float | None = 5.0,
) -> Allowance:
    """Approve a plan; returns what may be bought under it, at 0.5 an image."""
    given = dataclasses.replace(
        GIVEN, fingerprint=plan_fingerprint(plan), max_images=max_images, max_money=max_money
    )
    record_approvals(ledger, [given])
    allowance = dataclasses.replace(given, number=1).allowance(0.5)
    assert allowance is not None
    return allowance


def plan_of(count: int, *, samples: int = 1) -> list[PlannedRequest]:
    """Return the calls of so many prompts, at most four images each."""
    prompts = prompts_of(numbered_rows(count, samples=samples))
    return list(unplanned_requests(prompts, origin="http://api", samples_per_call=4))


def spend(ledger: Ledger, allowance: Allowance, images: int) -> str | None:
    """Reserve so many images; returns why not."""
    with ledger.engine.begin() as connection:
        return allowance.reserve(connection, images=images, today=NOW.date())


def allowed(
    ledger: Ledger, plan: Sequence[PlannedRequest], approval: Approval, *, price: float = 0.5
) -> Allowance | NotApproved:
    """Return what may be spent on a plan as the ledger stands."""
    return allowed_to_spend(
        plan,
        approval,
        prompt_set="spring",
        dataset="images",
        ledger=ledger,
        allowance=Allowance(scope="images", price_per_image=price),
        now=NOW,
    )


@pytest.mark.parametrize(("images", "money", "spent"), [(8, None, 6), (None, 5.0, 8), (8, 5.0, 6)])
def test_an_approval_with_no_rest_for_the_next_call_is_used_up(
    ledger: Ledger, images: int | None, money: float | None, spent: int
) -> None:
    """What is left may be too little for a call, of images or of money: then a person is asked."""
    plan = plan_of(3, samples=5)
    approved = approve(ledger, plan, max_images=images, max_money=money)
    assert spend(ledger, approved, spent) is None
    wanted = WANTED._replace(fingerprint=plan_fingerprint(plan), images=5)

    with_rest = [
        approval_of(ledger, wanted._replace(largest_call=call), now=NOW) is not None
        for call in (2, 4)
    ]
    assert with_rest == [True, False]


def test_the_largest_call_to_buy_decides_whether_a_plan_waits(ledger: Ledger) -> None:
    """A run that could not buy its calls of four images waits, and does not end half way."""
    plan = plan_of(1, samples=5)
    (foreseen,) = forecast_of(
        [("spring", numbered_rows(1, samples=5))],
        {},
        defaults=SMALL,
        samples_per_call=4,
        dataset="images",
        ledger=ledger,
        origin="http://api",
    ).sets
    wanted = foreseen.wanted("images", Allowance(scope="images", price_per_image=0.5))
    approved = approve(ledger, plan)
    assert isinstance(allowed(ledger, plan, ALWAYS), Allowance)
    assert not waits_for_person(ALWAYS, ledger, wanted, now=NOW)
    assert spend(ledger, approved, 7) is None
    assert isinstance(allowed(ledger, plan, ALWAYS), NotApproved)
    assert waits_for_person(ALWAYS, ledger, wanted, now=NOW)


def test_a_price_that_rises_buys_no_more_than_the_money_approved(ledger: Ledger) -> None:
    """Of ten images for 5.00, five at 0.50 leave two at 1.00."""
    plan = plan_of(5)
    assert spend(ledger, approve(ledger, plan), 5) is None
    dearer = allowed(ledger, plan, ALWAYS, price=1.0)
    assert isinstance(dearer, Allowance)

    refusals = [spend(ledger, dearer, 1) for _ in range(3)]

    assert refusals[:2] == [None, None]
    assert "approval of 5.00 in all is reached: 4.50 are spent" in str(refusals[2])


def test_all_that_was_approved_is_bought_at_a_price_of_many_decimals(ledger: Ledger) -> None:
    """The ledger rounds the cost of each request: the last image is not refused for that."""
    plan = plan_of(10)
    approve(ledger, plan, max_money=0.033335)
    allowance = allowed(ledger, plan, ALWAYS, price=0.0033335)
    assert isinstance(allowance, Allowance)
    refusals = [spend(ledger, allowance, 1) for _ in range(11)]
    assert refusals[:10] == [None] * 10
    assert "approval of 10 images in all is reached" in str(refusals[10])


@pytest.mark.parametrize(
    ("approval", "to_buy", "under_way", "rest", "bought"),
    [
        (ALWAYS, 0, 2, None, 0),
        (ALWAYS, 0, 2, 0, 0),
        (ALWAYS, 0, 2, 1, 1),
        # Within the limit nobody is asked.
        (Approval(required="above", images=1), 0, 1, None, 4),
        (Approval(required="above", images=1), 0, 2, None, 0),
        (Approval(required="above", money=0.5), 0, 2, 1, 1),
        # What is still to buy, and needs nobody, is bought.
        (Approval(required="above", images=2), 1, 3, None, 1),
    ],
)
def test_what_is_bought_again_stays_within_the_approval(
    ledger: Ledger,
    approval: Approval,
    to_buy: int,
    under_way: int,
    rest: int | None,
    bought: int,
) -> None:
    """A run that takes over what fails buys no more again than a person let it, or needs nobody."""
    plan = plan_of(under_way + to_buy)
    claims = [
        Claim(
            **fields_of(call, "request_key", "task", "request", "samples", "embedding_version"),
            endpoint="http://api",
            emulated=False,
            run_id="one that died",
        )
        for call in plan[:under_way]
    ]
    with ledger.engine.begin() as connection:
        record_claims(connection, claims, owner=Owner("a-host/1/me"), lease_until=NOW)
    if rest is not None:
        approved = approve(ledger, plan, max_images=under_way + rest)
        assert spend(ledger, approved, under_way) is None

    allowance = allowed(ledger, plan, approval)

    assert isinstance(allowance, Allowance)
    refusals = [spend(ledger, allowance, 1) for _ in range(4)]
    assert refusals.count(None) == bought
    for refusal in refusals[bought:]:
        assert str(refusal).startswith(NOT_APPROVED)
        assert "`imagepipeline-dagster approve spring`" in str(refusal)
