"""Which purchases wait for a person, and which approvals let them go."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest
from pydantic import ValidationError

from imagepipeline_dagster.ledger.approvals import (
    ApprovedPlan,
    WantedPurchase,
    approval_of,
    record_approvals,
)
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.planning.approval import Approval

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
        ({"cost": 5.01}, 0, False),
        ({"cost": None}, 0, False),
        ({}, 2, False),
    ],
)
def test_an_approval_is_for_one_plan_its_price_and_its_time(
    ledger: Ledger, change: dict[str, Any], later: int, *, covers: bool
) -> None:
    """Another plan, a higher price and a later day each need another approval."""
    record_approvals(ledger, [GIVEN])
    wanted = WantedPurchase("images", "spring", "plan-1", images=10, cost=5.0)._replace(**change)

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
    wanted = WantedPurchase("images", "spring", "plan-1", images=1, cost=0.5)
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
