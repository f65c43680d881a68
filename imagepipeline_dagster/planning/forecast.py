"""The purchase of several prompt sets, foreseen: the plan of each, and of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from imagepipeline_dagster.ledger.approvals import WantedPurchase
from imagepipeline_dagster.ledger.budget import Allowance
from imagepipeline_dagster.ledger.records import PlanState
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.planning.prompts import GenerationDefaults, Prompt, validated_prompts
from imagepipeline_dagster.planning.requests import (
    PlanCount,
    PlannedRequest,
    PlanSummary,
    plan_fingerprint,
    plan_prompt_set,
    summarise_plan,
)
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow

_REFUSALS = 20  # rows of a set that are named


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that is refused before anything is paid, and why."""

    prompt_set: str
    prompt_id: str
    problems: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPlan:
    """The plan of a prompt set in numbers, and how many of its rows are refused.

    `refusals` are the first of those rows. `fingerprint` names the plan where it is approved,
    `content` is the version of the set's rows; that of all sets has neither.
    """

    name: str
    content: str
    fingerprint: str
    summary: PlanSummary
    refused: int
    refusals: tuple[Refusal, ...] = ()

    @property
    def to_buy(self) -> int:
        """Images to buy."""
        return self.summary.images[PlanState.TO_BUY]

    def wanted(self, dataset: str, allowance: Allowance) -> WantedPurchase:
        """Return what a dataset would buy by this plan."""
        return WantedPurchase(
            dataset,
            self.name,
            self.fingerprint,
            self.to_buy,
            self.summary.largest_to_buy,
            allowance.price_per_image,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The plan of each prompt set, and of all: a request that two sets share is bought once."""

    sets: tuple[SetPlan, ...]
    total: SetPlan


def forecast_of(
    prompt_sets: Iterable[tuple[str, Sequence[PromptRow]]],
    embeddings: Mapping[str, EmbeddingRow],
    *,
    defaults: GenerationDefaults,
    refuses_syntax: bool = False,
    samples_per_call: int,
    dataset: str,
    ledger: Ledger,
    origin: str,
) -> Forecast:
    """Return what a purchase of prompt sets, given with their rows, would buy as the ledger stands.

    Nothing is written. The rows need not be in the tables yet.
    """
    planned = []
    count = PlanCount()
    for name, rows in prompt_sets:
        prompts = list(
            validated_prompts(rows, embeddings, defaults=defaults, refuses_syntax=refuses_syntax)
        )
        requests = plan_prompt_set(
            prompts,
            prompt_set=name,
            dataset=dataset,
            ledger=ledger,
            origin=origin,
            samples_per_call=samples_per_call,
        )
        count.add(requests)
        planned.append(_set_plan(name, prompts, requests))
    return Forecast(
        sets=tuple(planned),
        total=SetPlan(
            name="total",
            content="",
            fingerprint="",
            summary=count.summary,
            refused=sum(plan.refused for plan in planned),
            refusals=tuple(chain.from_iterable(plan.refusals for plan in planned)),
        ),
    )


def _set_plan(name: str, prompts: Sequence[Prompt], requests: Sequence[PlannedRequest]) -> SetPlan:
    refused = [prompt for prompt in prompts if not prompt.valid]
    return SetPlan(
        name=name,
        content=prompts[0].content_version if prompts else "",
        fingerprint=plan_fingerprint(requests),
        summary=summarise_plan(requests),
        refused=len(refused),
        refusals=tuple(
            Refusal(name, prompt.prompt_id, prompt.problems or "") for prompt in refused[:_REFUSALS]
        ),
    )
