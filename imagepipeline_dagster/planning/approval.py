"""Whether a purchase waits for a person, and what that person approves."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.approvals import (
    ApprovedPlan,
    WantedPurchase,
    approval_of,
    record_approvals,
)
from imagepipeline_dagster.ledger.budget import Allowance, Budget, Period
from imagepipeline_dagster.ledger.records import PlanState, plan_state
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.options import Options, bounded
from imagepipeline_dagster.planning.forecast import Forecast
from imagepipeline_dagster.planning.requests import PlannedRequest, plan_fingerprint

NOT_APPROVED = "not approved"
"""Begins what is said of each sample that waits for a person."""


class NotApproved(CorrectableError):
    """A purchase waits for a person; says what it would buy, and how it is approved."""


class ApprovalRefused(CorrectableError):
    """The plans cannot be approved as asked; says why."""


class Approval(Options):
    """The purchases that wait until a person approves their plan; the budget limits all."""

    required: Literal["never", "above", "always"] = Field(
        "never",
        description="`never`: whoever starts the sensors or materializes a set consents. `above`: "
        "a purchase of more than `images` or `money` waits. `always`: each waits.",
    )
    images: int | None = bounded(None, "With `above`: more images than this wait.", low=0)
    money: float | None = bounded(
        None, "With `above`: a higher price than this waits, in the price's currency.", low=0
    )
    valid_hours: float = bounded(168, "Hours for which an approval holds.", low=0.1)

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        limits = [limit for limit in (self.images, self.money) if limit is not None]
        if (self.required == "above") != bool(limits):
            raise ValueError(
                "approval: `images` or `money` belong to `required: above`, and to no other"
            )
        return self

    def is_needed(self, images: int, cost: float | None) -> bool:
        """Tell whether a purchase of so many images, at this cost, waits for a person.

        A limit of money holds back what has no known price.
        """
        if not images or self.required == "never":
            return False
        if self.required == "always":
            return True
        too_many = self.images is not None and images > self.images
        too_dear = self.money is not None and (cost is None or cost > self.money)
        return too_many or too_dear


def waits_for_person(
    approval: Approval, ledger: Ledger, wanted: WantedPurchase, *, now: dt.datetime
) -> bool:
    """Tell whether a purchase waits until a person approves its plan."""
    return approval.is_needed(wanted.images, wanted.cost) and not approval_of(
        ledger, wanted, now=now
    )


def is_not_approved(why: Exception | str | None) -> bool:
    """Tell whether this says of something that it waits for a person."""
    return str(why).startswith(NOT_APPROVED)


def allowed_to_spend(
    plan: Iterable[PlannedRequest],
    approval: Approval,
    *,
    prompt_set: str,
    dataset: str,
    ledger: Ledger,
    allowance: Allowance,
    now: dt.datetime,
) -> Allowance | NotApproved:
    """Return what may be spent on a plan, or why it must not be bought yet.

    The ledger says what is to buy: as it stands now, not as it stood when the plan was made. The
    plan is gone through more than once.
    """
    if approval.required == "never":
        return allowance
    calls = {call.request_key: call.samples for call in plan}
    entries = ledger.entries(calls)
    to_buy, under_way = [], 0
    for key, samples in calls.items():
        entry = entries.get(key)
        if plan_state(entry) is PlanState.TO_BUY:
            to_buy.append(samples)
        elif entry is not None and entry.is_under_way:
            under_way += samples
    images, price = sum(to_buy), allowance.price_per_image
    # What is under way may fail: this run then buys it again.
    if not approval.is_needed(images + under_way, allowance.cost(images + under_way)):
        return allowance
    wanted = WantedPurchase(
        dataset, prompt_set, plan_fingerprint(plan), images, max(to_buy, default=1), price
    )
    how = f": `imagepipeline-dagster approve {shlex.quote(prompt_set)}`, or the job approve_plan"
    if (approved := approval_of(ledger, wanted, now=now)) is not None:
        limit = approved.allowance(price)
    elif not approval.is_needed(images, wanted.cost):
        limit = Allowance(
            scope=f"{dataset} unapproved {now.isoformat()}",
            price_per_image=price,
            budget=Budget(images=images, period=Period.TOTAL),
            limit_name="the limit without an approval",
        )
    else:
        counted = "1 image" if images == 1 else f"{images:,} images"
        cost = "" if price is None else f", for {allowance.price_text(images)},"
        waits = "waits" if images == 1 else "wait"
        return NotApproved(f"{NOT_APPROVED}: {counted}{cost} {waits} for a person{how}")
    if limit is not None:
        limit = replace(limit, limit_name=f"{NOT_APPROVED}: {limit.limit_name}", advice=how)
    return replace(allowance, approved=limit)


def approve_plans(
    forecast: Forecast,
    *,
    up_to: float | None,
    who: str,
    why: str,
    dataset: str,
    ledger: Ledger,
    allowance: Allowance,
    valid_hours: float,
    now: dt.datetime,
) -> list[ApprovedPlan]:
    """Approve what the plans of these sets would buy now, and return the approvals.

    Sets that would buy nothing are left out. `up_to` is the most that all of them together may
    cost; it is in images where no price is known.

    Raises:
        ApprovalRefused: they would cost more, or nobody and no reason is named.
    """
    if not (who.strip() and why.strip()):
        raise ApprovalRefused(
            "An approval says who gives it (`who`) and why (`why`): neither may be blank."
        )
    images = forecast.total.to_buy
    cost = allowance.cost(images)
    asked = images if cost is None else cost
    if up_to is not None and asked > up_to:
        shown = allowance.price_text(images) or f"{images:,} images"
        raise ApprovalRefused(
            f"The plans would buy for {shown}, more than {up_to:,g}: nothing is approved."
        )
    approved = [
        ApprovedPlan(
            dataset=dataset,
            prompt_set=planned.name,
            fingerprint=planned.fingerprint,
            max_images=planned.to_buy,
            max_money=allowance.cost(planned.to_buy),
            who=who,
            why=why,
            approved_at=now,
            expires_at=now + dt.timedelta(hours=valid_hours),
        )
        for planned in forecast.sets
        if planned.to_buy
    ]
    record_approvals(ledger, approved)
    return approved
