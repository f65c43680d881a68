"""Plans that people approved: who, when, why, for which plan, and for how much at most.

An approval is about one plan, which its fingerprint names: an edited plan needs another.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, insert, select

from imagepipeline_dagster.ledger.budget import Allowance, Budget, Period, cost_of
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import approvals
from imagepipeline_dagster.rows import fields_of


class WantedPurchase(NamedTuple):
    """What a plan would buy now; `largest_call` are the images of the largest call of that."""

    dataset: str
    prompt_set: str
    fingerprint: str
    images: int
    largest_call: int
    price_per_image: float | None

    @property
    def cost(self) -> float | None:
        """What it costs, where the price is known."""
        return cost_of(self.images, self.price_per_image)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovedPlan:
    """A row of `ledger_approvals`; `number` is None until it is recorded.

    `max_images` and `max_money` are the most that may be bought under it; None sets no limit.
    """

    dataset: str
    prompt_set: str
    fingerprint: str
    max_images: int | None
    max_money: float | None
    who: str
    why: str
    approved_at: dt.datetime
    expires_at: dt.datetime
    number: int | None = None

    @property
    def name(self) -> str:
        """What tells it from every other, also of another ledger, whose numbers are the same."""
        return f"{self.number}/{self.approved_at.isoformat(timespec='milliseconds')}"

    def covers(self, wanted: WantedPurchase) -> bool:
        """Tell whether so much may be bought under it; a limit of money needs a known cost."""
        if self.max_images is not None and wanted.images > self.max_images:
            return False
        cost = wanted.cost
        return self.max_money is None or (cost is not None and cost <= self.max_money)

    def allowance(self, price_per_image: float | None) -> Allowance | None:
        """Return what may be bought under it in all; None where it sets no limit."""
        if self.max_images is None and self.max_money is None:
            return None
        # Unchecked: a configured budget has one limit, and what is approved has both.
        budget = Budget.model_construct(
            images=self.max_images, money=self.max_money, period=Period.TOTAL
        )
        return Allowance(
            scope=f"{self.dataset} approval {self.name}",
            price_per_image=price_per_image,
            budget=budget,
            limit_name="the approval",
        )

    def is_used_up(self, connection: Connection, wanted: WantedPurchase) -> bool:
        """Tell whether too little is left of it for a call to buy: any of them may come first."""
        allowance = self.allowance(wanted.price_per_image)
        return allowance is not None and allowance.refuses(connection, images=wanted.largest_call)


def record_approvals(ledger: Ledger, approved: Sequence[ApprovedPlan]) -> None:
    """Record that these plans are approved."""
    rows = [fields_of(approval) for approval in approved]
    for row in rows:
        del row["number"]
    ledger.execute_many(insert(approvals), rows)


def approval_of(ledger: Ledger, wanted: WantedPurchase, *, now: dt.datetime) -> ApprovedPlan | None:
    """Return the newest approval under which this may be bought now; None where none is.

    One under which something may still be bought counts: the ledger holds all runs together to it.
    """
    query = (
        select(approvals)
        .where(
            approvals.c.dataset == wanted.dataset,
            approvals.c.prompt_set == wanted.prompt_set,
            approvals.c.fingerprint == wanted.fingerprint,
            approvals.c.expires_at > now,
        )
        .order_by(approvals.c.number.desc())
    )
    with ledger.reading() as connection:
        valid = [ApprovedPlan(**row) for row in connection.execute(query).mappings()]
        return next(
            (
                approval
                for approval in valid
                if approval.covers(wanted) and not approval.is_used_up(connection, wanted)
            ),
            None,
        )


def approvals_since(
    ledger: Ledger, last: str | None, *, dataset: str, at_most: int
) -> list[ApprovedPlan]:
    """Return a dataset's approvals after the one that is named so, oldest first.

    All of them where this ledger has no such one: it was made anew, or is a copy of an earlier one.
    """
    mine = select(approvals).where(approvals.c.dataset == dataset).order_by(approvals.c.number)
    number = int(last.partition("/")[0]) if last else 0
    with ledger.reading() as connection:
        there = connection.execute(mine.where(approvals.c.number == number)).mappings().first()
        if there is None or ApprovedPlan(**there).name != last:
            number = 0
        query = mine.where(approvals.c.number > number).limit(at_most)
        return [ApprovedPlan(**row) for row in connection.execute(query).mappings()]
