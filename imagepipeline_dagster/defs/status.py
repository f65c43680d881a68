"""How a dataset stands: its sets, what waits, what was spent, and what comes next."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.plans import forecast_of_sets
from imagepipeline_dagster.defs.schedules import next_ticks
from imagepipeline_dagster.ledger.budget import Spent
from imagepipeline_dagster.ledger.decisions import unknown_requests
from imagepipeline_dagster.ledger.records import PlanState
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.planning.approval import waits_for_person
from imagepipeline_dagster.planning.forecast import SetPlan
from imagepipeline_dagster.release.reading import latest_manifest
from imagepipeline_dagster.resources import ImagePipelineResource
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.watching.states import PromptSetState, PromptSetStates


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStatus:
    """How a prompt set stands.

    Attributes:
        prompt_set: its name.
        state: `built` from what its rows say; `open` where samples of that are still to come;
            `changed` where it was built from other rows; `new` where it never was.
        images_to_buy: what a purchase would buy now.
        images_unknown: images of which nobody knows whether they were bought.
        refused_rows: rows that are never bought as they are.
        waits_for_approval: whether that purchase waits for a person.
        retry_at: when it is asked for again at the earliest; None for a set that is built.
    """

    prompt_set: str
    state: str
    images_to_buy: int
    images_unknown: int
    refused_rows: int
    waits_for_approval: bool
    retry_at: dt.datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRelease:
    """The newest release."""

    version: str
    created_at: dt.datetime
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetStatus:
    """How a dataset stands at one API.

    Attributes:
        dataset: its name.
        api: the API's origin; `emulator` for the embedded one.
        sets: its prompt sets, by name.
        images_to_buy: what a purchase of all sets would buy; what two share is bought once.
        price: the same as money, where the price is known.
        unknown_requests: how many wait for a person's decision.
        spent: images and money by period.
        budget_left: the budget's rest; None where there is no budget.
        last_release: the newest release, if there is one.
        next_runs: when each schedule ticks next, if it runs.
    """

    dataset: str
    api: str
    sets: tuple[SetStatus, ...]
    images_to_buy: int
    price: str | None
    unknown_requests: int
    spent: Mapping[str, Spent]
    budget_left: str | None
    last_release: LastRelease | None
    next_runs: Mapping[str, dt.datetime]


def status_of(
    dataset: ImageDataset,
    *,
    tables: SourceTables,
    ledger: Ledger,
    storage: Storage,
    api: ImagePipelineResource,
    now: dt.datetime,
) -> DatasetStatus:
    """Return how a dataset stands; nothing is written.

    Raises:
        TablesError: a table cannot be read.
    """
    planned = forecast_of_sets(tables.prompt_sets(), tables, dataset, ledger, origin=api.origin)
    states = PromptSetStates(ledger, dataset=dataset.name).all()
    allowance = dataset.allowance(api.origin)
    spent = allowance.spent(ledger, today=now.date())
    return DatasetStatus(
        dataset=dataset.name,
        api=api.origin,
        sets=tuple(
            _set_status(plan, states.get(plan.name), dataset, ledger, api.origin, now)
            for plan in planned.sets
        ),
        images_to_buy=planned.total.to_buy,
        price=allowance.price_text(planned.total.to_buy),
        unknown_requests=len(unknown_requests(ledger)),
        spent=spent,
        budget_left=allowance.rest_text(spent),
        last_release=_last_release(dataset, storage),
        next_runs=next_ticks(dataset, now=now),
    )


def _set_status(
    plan: SetPlan,
    state: PromptSetState | None,
    dataset: ImageDataset,
    ledger: Ledger,
    origin: str,
    now: dt.datetime,
) -> SetStatus:
    word = _state_word(plan, state)
    return SetStatus(
        prompt_set=plan.name,
        state=word,
        images_to_buy=plan.to_buy,
        images_unknown=plan.summary.images[PlanState.UNKNOWN],
        refused_rows=plan.refused,
        waits_for_approval=waits_for_person(
            dataset.approval, ledger, plan.wanted(dataset.name, dataset.allowance(origin)), now=now
        ),
        retry_at=state.retry_at if state and word != "built" else None,
    )


def _state_word(plan: SetPlan, state: PromptSetState | None) -> str:
    if state is None or state.built_content is None:
        return "new"
    if state.built_content != plan.content:
        return "changed"
    return "open" if state.pending else "built"


def _last_release(dataset: ImageDataset, storage: Storage) -> LastRelease | None:
    manifest = latest_manifest(storage, dataset.releases)
    if manifest is None:
        return None
    return LastRelease(
        version=manifest.version, created_at=manifest.created_at, images=manifest.counts.kept
    )
