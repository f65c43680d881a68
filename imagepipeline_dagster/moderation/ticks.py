"""What one tick about verdicts does: it says which sets are to be moderated anew.

A tick is a function of the policy, the overrides, the ledger, the partitions, the cursor that the
tick before it left, and the time.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.moderation.states import (
    VerdictStates,
    basis_of,
    overrides_by_set,
    retry_due,
)
from imagepipeline_dagster.partition_names import prompt_set_of
from imagepipeline_dagster.tables.overrides import Override


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeratedDataset:
    """A dataset as its ticks about verdicts see it.

    Attributes:
        name: the dataset's name in the ledger.
        policy: today's.
        count_overrides: returns how many decisions there are.
        overrides: returns them.
        open_ledger: opens the ledger.
        partitions: returns the partition keys that are there.
        max_runs: the most runs that one tick asks for.
        clock: returns the seconds since 1970.
    """

    name: str
    policy: ModerationPolicy
    count_overrides: Callable[[], int]
    overrides: Callable[[], Sequence[Override]]
    open_ledger: Callable[[], AbstractContextManager[Ledger]]
    partitions: Callable[[], Set[str]]
    max_runs: int
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictsTick:
    """The sets that a tick asks for, each with the basis of its verdicts, and the next cursor."""

    runs: Mapping[str, str]
    asked_at: dt.datetime
    cursor: str


def watch_verdicts(moderated: ModeratedDataset, cursor: str | None) -> VerdictsTick | None:
    """Say which sets are to be moderated anew; None where no override and no rule changed.

    Raises:
        TablesError: the overrides cannot be read.
    """
    # Rows are only ever added, so their number and the policy tell whether to look closer.
    looked_at = f"{_digest(moderated.policy)}/{moderated.count_overrides()}"
    if looked_at == cursor:
        return None
    overrides = moderated.overrides()
    present = {prompt_set_of(key) for key in moderated.partitions()}
    now = dt.datetime.fromtimestamp(moderated.clock(), dt.UTC)
    with moderated.open_ledger() as ledger:
        states = VerdictStates(ledger, dataset=moderated.name)
        known = states.all()
        about = overrides_by_set(ledger, overrides, dataset=moderated.name)
        desired = {
            name: basis_of(moderated.policy, name, about.get(name, ()))
            for name in sorted(present & known.keys())
        }
        due = (name for name in desired if retry_due(desired[name], known[name], now=now))
        runs = {name: desired[name] for name in islice(due, moderated.max_runs)}
        states.ask(runs, now=now)
    # Until every set is as it should be, each tick looks again.
    settled = all(known[name].built_basis == basis for name, basis in desired.items())
    return VerdictsTick(runs=runs, asked_at=now, cursor=looked_at if settled else "")


def _digest(policy: ModerationPolicy) -> str:
    return hashlib.blake2b(policy.model_dump_json().encode(), digest_size=16).hexdigest()
