"""What may be spent: reserved before each POST, given back when none happened."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from imagepipeline_dagster.ledger.budget import Allowance, Budget, Period
from imagepipeline_dagster.ledger.requests import Ledger

TODAY = dt.date(2026, 3, 31)


def reserve(
    ledger: Ledger, allowance: Allowance, images: int, today: dt.date = TODAY
) -> str | None:
    """Reserve in a transaction of its own."""
    with ledger.engine.begin() as connection:
        return allowance.reserve(connection, images=images, today=today)


def test_a_budget_of_images_is_spent_to_the_last_one_and_no_further(ledger: Ledger) -> None:
    """A reservation that would pass the budget is refused with its figures."""
    allowance = Allowance(scope="a", budget=Budget(images=5, period=Period.DAY))
    assert reserve(ledger, allowance, 4) is None
    refusal = reserve(ledger, allowance, 2)
    assert refusal is not None
    assert "5 images per day" in refusal
    assert reserve(ledger, allowance, 1) is None
    assert allowance.spent(ledger, today=TODAY)[Period.DAY].images == 5


@pytest.mark.parametrize(
    ("price", "money", "images"),
    [
        (0.1, 1, 10),
        (0.67, 2.01, 3),
        # The ledger rounds each to a millionth: up, and down.
        (0.0033335, 0.033335, 10),
        (0.0000014, 0.000014, 10),
    ],
)
def test_a_budget_of_money_counts_exactly(
    ledger: Ledger, price: float, money: float, images: int
) -> None:
    """As many images fit into a budget as its money is worth, and not one more."""
    budget = Budget(money=money, period=Period.TOTAL)
    allowance = Allowance(scope="a", price_per_image=price, budget=budget)
    assert [reserve(ledger, allowance, 1) for _ in range(images)] == [None] * images
    assert reserve(ledger, allowance, 1) is not None


def test_a_price_is_exact() -> None:
    """Three images of 0.1 cost 0.3: no more than a person allows for them."""
    assert Allowance(scope="a", price_per_image=0.1).cost(3) == 0.3


@pytest.mark.parametrize(
    ("price", "images", "shown"),
    [(0.004, 1, "0.004 EUR"), (0.004, 250_000, "1,000.00 EUR"), (0.0035, 4, "0.014 EUR")],
)
def test_no_price_is_shown_as_nothing(price: float, images: int, shown: str) -> None:
    """An image may cost less than a cent: what people read says so."""
    allowance = Allowance(scope="a", price_per_image=price, currency="EUR")
    assert allowance.price_text(images) == shown


@pytest.mark.parametrize(
    ("period", "later", "refused"),
    [
        (Period.DAY, TODAY + dt.timedelta(days=1), False),
        (Period.MONTH, TODAY - dt.timedelta(days=30), True),
        (Period.MONTH, TODAY + dt.timedelta(days=1), False),
        (Period.TOTAL, TODAY + dt.timedelta(days=400), True),
    ],
)
def test_a_budget_begins_anew_with_its_period(
    ledger: Ledger, period: Period, later: dt.date, *, refused: bool
) -> None:
    """What was spent counts within the same day or month, or for ever."""
    allowance = Allowance(scope="a", budget=Budget(images=3, period=period))
    assert reserve(ledger, allowance, 3) is None
    assert (reserve(ledger, allowance, 1, later) is not None) is refused


def test_what_is_given_back_can_be_spent_again(ledger: Ledger) -> None:
    """A POST that created no job frees what was reserved for it."""
    allowance = Allowance(scope="a", budget=Budget(images=2, period=Period.MONTH))
    assert reserve(ledger, allowance, 2) is None
    with ledger.engine.begin() as connection:
        allowance.give_back(connection, images=2, day=TODAY)
    assert reserve(ledger, allowance, 2) is None


def test_scopes_do_not_share_a_budget(ledger: Ledger) -> None:
    """What one dataset spends at one API is no other's business."""
    budget = Budget(images=1, period=Period.TOTAL)
    assert reserve(ledger, Allowance(scope="a", budget=budget), 1) is None
    assert reserve(ledger, Allowance(scope="b", budget=budget), 1) is None


def test_many_at_once_never_pass_the_budget(ledger: Ledger) -> None:
    """Of 40 reservations at the same time exactly as many succeed as the budget allows."""
    allowance = Allowance(scope="a", budget=Budget(images=25, period=Period.MONTH))
    with ThreadPoolExecutor(8) as threads:
        refusals = list(threads.map(lambda _: reserve(ledger, allowance, 1), range(40)))
    assert refusals.count(None) == 25


def test_what_was_approved_and_the_budget_hold_side_by_side(ledger: Ledger) -> None:
    """Neither is passed, and what one refuses counts in none of both."""
    approved = Allowance(
        scope="a/1",
        budget=Budget(images=3, period=Period.TOTAL),
        limit_name="the approval",
    )
    allowance = Allowance(
        scope="a", budget=Budget(images=4, period=Period.TOTAL), approved=approved
    )
    assert reserve(ledger, allowance, 2) is None
    assert reserve(ledger, allowance, 2) == (
        "the approval of 3 images in all is reached: 2 are spent"
    )
    assert reserve(ledger, dataclasses.replace(allowance, approved=None), 2) is None
    assert "the budget of 4 images" in str(reserve(ledger, allowance, 1))
    with ledger.engine.begin() as connection:
        allowance.give_back(connection, images=2, day=TODAY)

    spent = [it.spent(ledger, today=TODAY)[Period.TOTAL].images for it in (allowance, approved)]
    assert spent == [2, 0]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "give either images or money"),
        ({"images": 1, "money": 1.0}, "give either images or money"),
        ({"images": -1}, "images: -1 is below 0"),
        ({"images": 1, "period": "week"}, "period\n  Input should be 'day', 'month' or 'total'"),
        ({"money": math.nan}, "money\n  Input should be a finite number"),
        ({"money": math.inf}, "money\n  Input should be a finite number"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused(
    options: dict[str, int | float | str], problem: str
) -> None:
    """A budget names one finite limit that is not negative, and a known period."""
    with pytest.raises(ValueError, match=problem):
        Budget.model_validate(options)


def test_a_budget_of_money_needs_a_price() -> None:
    """Without a price nobody could tell when the money is spent."""
    with pytest.raises(ValueError, match="price_per_image"):
        Allowance(scope="a", budget=Budget(money=1))
