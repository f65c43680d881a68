"""What may be spent: reserved in the ledger before each POST, across all runs at once.

A reservation is given back only when the POST provably created no job. A job that may have been
bought counts as spent.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator
from sqlalchemy import Connection, bindparam, or_, select, update

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import spending
from imagepipeline_dagster.ledger.upserts import put
from imagepipeline_dagster.options import Options, bounded

SMALLEST_PRICE = 0.000_001
"""The ledger counts money in millionths: less for an image would be nothing."""

_MICROS = 1_000_000
# The row of a scope that holds its sum.
_IN_ALL = ""


class Period(StrEnum):
    """How long a budget lasts; days and months are UTC's."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


class BudgetReached(CorrectableError):
    """The next request would pass the budget; the rest stays planned."""


class Budget(Options):
    """The most that may be spent in each period: images, or money in the price's currency."""

    images: int | None = bounded(None, "Images that may be bought in a period.", low=0)
    money: float | None = bounded(
        None, "Money that may be spent in a period, in the currency of the price.", low=0
    )
    period: Period = Field(
        Period.MONTH, description="How long the budget lasts; days and months are UTC's."
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.images is None) == (self.money is None):
            raise ValueError("budget: give either images or money")
        return self

    @property
    def per(self) -> str:
        """The period in words."""
        return "in all" if self.period == Period.TOTAL else f"per {self.period}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What was spent in a period: images, and money in the price's currency."""

    images: int
    money: float

    @classmethod
    def of(cls, images: int, micros: int) -> Self:
        """Return what the ledger has counted, money in millionths."""
        return cls(images=images, money=micros / _MICROS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """A dataset's budget at one API; without a budget, spending is recorded and never refused.

    Args:
        scope: whose spending it is; the dataset's name and the API's origin.
        price_per_image: money for one image; None where only images are counted.
        budget: the limit, or None.
        currency: label of the money.
        approved: what a person agreed to, where the purchase needs that; counted beside.
        limit_name: of the limit, for messages; they end with `advice`.

    Raises:
        ValueError: a budget of money without a price.
    """

    scope: str
    price_per_image: float | None = None
    budget: Budget | None = None
    currency: str = ""
    approved: Allowance | None = None
    limit_name: str = "the budget"
    advice: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.budget and self.budget.money is not None and self.price_per_image is None:
            raise ValueError("budget: one of money needs price_per_image")

    def cost(self, images: int) -> float | None:
        """Return what so many images cost, where the price is known, to the millionth."""
        return cost_of(images, self.price_per_image)

    def price_text(self, images: int) -> str | None:
        """Return the cost of so many images with its currency, where the price is known."""
        cost = self.cost(images)
        return None if cost is None else self._money_text(cost)

    def rest_text(self, spent: Mapping[str, Spent]) -> str | None:
        """Return how much of the budget is left; None where there is none."""
        if self.budget is None:
            return None
        before = spent[self.budget.period]
        if self.budget.images is not None:
            left = max(self.budget.images - before.images, 0)
            return f"{left:,} of {self.budget.images:,} images {self.budget.per}"
        limit = self.budget.money or 0.0
        left_money = self._money_text(max(limit - before.money, 0.0))
        return f"{left_money} of {self._money_text(limit)} {self.budget.per}"

    def share_spent(self, spent: Mapping[str, Spent]) -> float | None:
        """Return the share of the budget that is spent in its period; None where there is none."""
        if self.budget is None:
            return None
        before = spent[self.budget.period]
        limit = self.budget.money if self.budget.images is None else self.budget.images
        used = before.money if self.budget.images is None else before.images
        # Nothing may be spent under a budget of nothing: it is reached from the start.
        return used / limit if limit else 1.0

    def _money_text(self, money: float) -> str:
        return f"{shown_money(money)} {self.currency}".rstrip()

    def reserve(self, connection: Connection, *, images: int, today: dt.date) -> str | None:
        """Count images as spent; returns why not, where that would pass a limit."""
        if self.approved is None:
            return self._reserve(connection, images, today)
        refusal = self.approved.reserve(connection, images=images, today=today)
        if refusal is None and (refusal := self._reserve(connection, images, today)) is not None:
            self.approved.give_back(connection, images=images, day=today)
        return refusal

    def _reserve(self, connection: Connection, images: int, today: dt.date) -> str | None:
        # Added first: that locks the row of the sum, so that no other reservation overtakes this.
        touched = self._add(connection, images, today)
        if touched < len(_rows_of(today)):
            if touched:
                self._add(connection, -images, today)
            for day in _rows_of(today):
                nothing = {"scope": self.scope, "day": day, "images": 0, "micros": 0}
                put(connection, spending, nothing)
            self._add(connection, images, today)
        if self.budget is None:
            return None
        spent, micros = _spent(connection, self.scope, today)[self.budget.period]
        before = spent - images, micros - self._micros(images)
        refusal = self._refusal(self.budget, *before, images)
        if refusal is not None:
            self._add(connection, -images, today)
        return refusal

    def refuses(self, connection: Connection, *, images: int) -> bool:
        """Tell whether so many more images would pass a limit in all."""
        if self.budget is None:
            return False
        spent = _spent(connection, self.scope, None)[Period.TOTAL]
        return self._refusal(self.budget, *spent, images) is not None

    def give_back(self, connection: Connection, *, images: int, day: dt.date) -> None:
        """Take back what was reserved on a day: its POST created no job."""
        if self.approved is not None:  # first, as above: nobody waits for a row in a circle
            self.approved.give_back(connection, images=images, day=day)
        self._add(connection, -images, day)

    def spent(self, ledger: Ledger, *, today: dt.date) -> Mapping[str, Spent]:
        """Return what was spent so far, by period."""
        with ledger.reading() as connection:
            counted = _spent(connection, self.scope, today)
        return {period: Spent.of(*counted[period]) for period in Period}

    def _refusal(self, budget: Budget, spent: int, micros: int, images: int) -> str | None:
        micros_then = self._together(spent, micros, images)
        if budget.images is not None and spent + images > budget.images:
            limit, used = f"{budget.images:,} images", f"{spent:,}"
        elif budget.money is not None and micros_then > _micros_of(budget.money):
            limit, used = shown_money(budget.money), shown_money(micros / _MICROS)
        else:
            return None
        reached = f"{self.limit_name} of {limit} {budget.per} is reached"
        return f"{reached}: {used} are spent{self.advice}"

    def _together(self, spent: int, micros: int, images: int) -> int:
        """Return what was spent and these images cost together, in millionths."""
        counted, exact = micros + self._micros(images), self._micros(spent + images)
        # The cost of each request was rounded: the last of what is allowed is not refused for that.
        return exact if abs(counted - exact) <= (spent + images + 1) / 2 else counted

    def _add(self, connection: Connection, images: int, day: dt.date) -> int:
        """Add to what was spent on a day and in all; returns how many of their rows exist."""
        added = connection.execute(
            update(spending)
            .where(spending.c.scope == self.scope, spending.c.day.in_(_rows_of(day)))
            .values(
                images=spending.c.images + images,
                micros=spending.c.micros + self._micros(images),
            )
        )
        return added.rowcount

    def _micros(self, images: int) -> int:
        return _micros_of(images * (self.price_per_image or 0))


_OF_MONTH_AND_IN_ALL = select(spending.c.day, spending.c.images, spending.c.micros).where(
    spending.c.scope == bindparam("of_scope"),
    or_(spending.c.day == bindparam("sum"), spending.c.day.like(bindparam("month"))),
)


def cost_of(images: int, price_per_image: float | None) -> float | None:
    """Return what so many images cost, where the price is known, to the millionth."""
    return None if price_per_image is None else _micros_of(images * price_per_image) / _MICROS


def shown_money(money: float) -> str:
    """Return money for people to read, to the cent at least, else as exactly as it is counted."""
    whole, _, decimals = f"{money:,.6f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"


def _micros_of(money: float) -> int:
    # Rounded: in the computer 2.01 is a little less, and three times 0.1 more than 0.3.
    return round(money * _MICROS)


def _rows_of(day: dt.date) -> tuple[str, str]:
    return _IN_ALL, day.isoformat()


def _spent(
    connection: Connection, scope: str, today: dt.date | None
) -> dict[Period, tuple[int, int]]:
    """Return the images and the millionths of money that were spent, by period.

    Without a day only the sum is read.
    """
    of_period = dict.fromkeys(Period, (0, 0))
    values = {"of_scope": scope, "sum": _IN_ALL, "month": f"{today:%Y-%m}%" if today else _IN_ALL}
    for day, images, micros in connection.execute(_OF_MONTH_AND_IN_ALL, values):
        if day == _IN_ALL:
            of_period[Period.TOTAL] = images, micros
            continue
        if today and day == today.isoformat():
            of_period[Period.DAY] = images, micros
        month_images, month_micros = of_period[Period.MONTH]
        of_period[Period.MONTH] = month_images + images, month_micros + micros
    return of_period
