"""What one tick about verdicts does: it says which sets are to be moderated anew."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence, Set
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
from imagepipeline_dagster.tables.overrides import Override


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictsTick:
    """The sets that a tick asks for, each with the basis of its verdicts.

    Once all is `settled`, no tick needs to look again before a rule or an override is new.
    """

    runs: Mapping[str, str]
    settled: bool


def looked_at(policy: ModerationPolicy, *, decisions: int) -> str:
    """Return what a tick looks at, in short: while it is the same, no settled verdict changes.

    People's decisions are only ever added, so their number tells.
    """
    return f"{policy.digest}/{decisions}"


def watch_verdicts(
    ledger: Ledger,
    policy: ModerationPolicy,
    overrides: Sequence[Override],
    *,
    dataset: str,
    present: Set[str],
    max_runs: int,
    now: dt.datetime,
) -> VerdictsTick:
    """Ask for new verdicts on the sets whose last ones were made from something else.

    Args:
        ledger: knows what they were made from.
        policy: today's.
        overrides: what people decided until now.
        dataset: the dataset's name in the ledger.
        present: the prompt sets that have a partition.
        max_runs: the most sets that one tick asks for.
        now: the time.
    """
    states = VerdictStates(ledger, dataset=dataset)
    known = states.all()
    about = overrides_by_set(ledger, overrides, dataset=dataset)
    desired = {
        name: basis_of(policy, name, about.get(name, ())) for name in sorted(present & known.keys())
    }
    due = (name for name in desired if retry_due(desired[name], known[name], now=now))
    runs = {name: desired[name] for name in islice(due, max_runs)}
    states.ask(runs, now=now)
    settled = all(known[name].built_basis == basis for name, basis in desired.items())
    return VerdictsTick(runs=runs, settled=settled)
