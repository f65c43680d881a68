"""Which prompts use which requests, with the rows that they come from: what lineage stands on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from sqlalchemy import Connection, select

from imagepipeline_dagster.databases import batches
from imagepipeline_dagster.ledger.schema import samples, uses
from imagepipeline_dagster.ledger.upserts import put
from imagepipeline_dagster.rows import fields_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A prompt's call and the request that stands for it, with both tables' rows as they were.

    The rows are JSON. `used_at` is None until it is recorded.
    """

    dataset: str
    prompt_set: str
    prompt_id: str
    call_index: int
    request_key: str
    prompt_row: str
    embedding_row: str | None
    run_id: str = field(compare=False)
    used_at: dt.datetime | None = field(default=None, compare=False)


def uses_of(connection: Connection, request_keys: Iterable[str]) -> dict[str, list[Use]]:
    """Return the calls that use, or used, each of these requests, the first use first."""
    by_key: dict[str, list[Use]] = {key: [] for key in request_keys}
    calls = (uses.c.dataset, uses.c.prompt_set, uses.c.prompt_id, uses.c.call_index)
    for keys in batches(sorted(by_key)):
        query = select(uses).where(uses.c.request_key.in_(keys)).order_by(uses.c.used_at, *calls)
        for row in connection.execute(query).mappings():
            by_key[row["request_key"]].append(Use(**row))
    return by_key


def record_uses(connection: Connection, calls: Iterable[Use]) -> None:
    """Record which request each of these calls uses now."""
    now = {"used_at": dt.datetime.now(dt.UTC)}
    replace = ("prompt_row", "embedding_row", "run_id", "used_at")
    if rows := [fields_of(use) | now for use in calls]:
        put(connection, uses, rows, replace=replace)


def datasets_in(connection: Connection) -> list[str]:
    """Return the datasets of all calls, by name."""
    return sorted(connection.scalars(select(uses.c.dataset).distinct()))


def sets_of_pictures(
    connection: Connection, pictures: Iterable[str], *, dataset: str | None = None
) -> dict[str, list[str]]:
    """Return the prompt sets that pictures, by SHA-256, are in; those of one dataset, if named."""
    sets: dict[str, list[str]] = {}
    for some in batches(sorted(pictures)):
        query = (
            select(samples.c.image_sha256, uses.c.prompt_set)
            .join(uses, uses.c.request_key == samples.c.request_key)
            .where(samples.c.image_sha256.in_(some))
            .distinct()
        )
        if dataset is not None:
            query = query.where(uses.c.dataset == dataset)
        for sha256, prompt_set in connection.execute(query):
            sets.setdefault(sha256, []).append(prompt_set)
    return sets


def sets_using(connection: Connection, request_keys: Iterable[str]) -> list[tuple[str, str]]:
    """Return the dataset and the name of each prompt set that uses one of these requests."""
    calls = chain.from_iterable(uses_of(connection, request_keys).values())
    return sorted({(use.dataset, use.prompt_set) for use in calls})
