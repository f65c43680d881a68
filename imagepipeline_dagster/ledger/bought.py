"""What was bought: whether anything was, and how much of what, by day, set and model."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.budget import Spent
from imagepipeline_dagster.ledger.records import State
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import requests, spending, uses


class EmulatorRefused(CorrectableError):
    """The emulator would draw in place of pictures that were paid for; says what to set."""


def refuse_emulator(ledger: Ledger) -> None:
    """Refuse a ledger that knows bought pictures.

    Raises:
        EmulatorRefused: says how many requests were bought, and what to do.
    """
    bought = select(func.count()).where(
        requests.c.state == State.SUCCEEDED, requests.c.emulated.is_(False)
    )
    with ledger.reading() as connection:
        count = connection.execute(bought).scalar_one()
    if count:
        raise EmulatorRefused(
            f"This dataset has pictures of {count} requests that were bought, and no API key is "
            "set: the emulator would draw others in their place. Set IMAGEPIPELINE_API_KEY, or "
            "api_key of the component or the resource; or give the emulator a storage and a ledger "
            "of its own (IMAGEPIPELINE_STORAGE)."
        )


@dataclass(slots=True)
class Bought:
    """Images that were bought, and images that other calls reused instead of buying them."""

    bought: int = 0
    reused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a dataset bought at one API.

    Attributes:
        by_day: what was reserved each day, UTC, lost and failed jobs included.
        by_set: what each prompt set bought or reused; the first set that used a request bought it.
        by_model: the same by the API's model.
        total: the same in all.
    """

    by_day: Mapping[str, Spent]
    by_set: Mapping[str, Bought] = field(default_factory=dict)
    by_model: Mapping[str, Bought] = field(default_factory=dict)
    total: Bought = field(default_factory=Bought)


def costs_of(ledger: Ledger, *, dataset: str, scope: str, emulated: bool) -> Costs:
    """Return what a dataset bought; `scope` is that of its allowance."""
    by_set, by_model = defaultdict[str, Bought](Bought), defaultdict[str, Bought](Bought)
    total = Bought()
    used: set[str] = set()
    query = (
        select(requests.c.request_key, requests.c.samples, requests.c.request, uses.c.prompt_set)
        .join(uses, uses.c.request_key == requests.c.request_key)
        .where(
            uses.c.dataset == dataset,
            requests.c.emulated == emulated,
            requests.c.submitted_at.is_not(None),
        )
        .order_by(uses.c.used_at, uses.c.prompt_set, uses.c.prompt_id, uses.c.call_index)
    )
    with ledger.reading() as connection:
        by_day = _spent_by_day(connection, scope)
        for key, samples, request, prompt_set in connection.execute(query):
            model = str(json.loads(request).get("model_id"))
            for count in (total, by_set[prompt_set], by_model[model]):
                if key in used:
                    count.reused += samples
                else:
                    count.bought += samples
            used.add(key)
    return Costs(by_day=by_day, by_set=dict(by_set), by_model=dict(by_model), total=total)


def _spent_by_day(connection: Connection, scope: str) -> dict[str, Spent]:
    query = (
        select(spending.c.day, spending.c.images, spending.c.micros)
        .where(spending.c.scope == scope, spending.c.day != "")
        .order_by(spending.c.day)
    )
    return {day: Spent.of(*counted) for day, *counted in connection.execute(query)}
