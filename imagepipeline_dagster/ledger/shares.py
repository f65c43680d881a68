"""What an API account allows, divided among the processes that buy at it.

Each holds a share: places for jobs in flight, and requests a second. Together the shares never pass
what the account allows: one grows by what is free, and shrinks as its jobs end. A share lasts as
long as its lease, by the database's clock; a living process renews it each second or sooner.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, select

from imagepipeline_dagster.ledger.records import Lease
from imagepipeline_dagster.ledger.schema import shares
from imagepipeline_dagster.ledger.upserts import put

_LOCK = 7190113215


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountLimits:
    """What all processes together may do at one API; None is no limit.

    Attributes:
        account: the API's origin; for the shards of one run, with the run's id.
        max_in_flight: jobs in flight at once.
        requests_per_second: requests of every kind but downloads.
    """

    account: str
    max_in_flight: int | None
    requests_per_second: float | None

    @property
    def exist(self) -> bool:
        """Whether there is a limit at all."""
        return self.max_in_flight is not None or self.requests_per_second is not None


class Demand(NamedTuple):
    """The places that a process may be using, and those that it could use."""

    held: int
    wanted: int


class Share(NamedTuple):
    """What a process may do until it asks again; None is no limit."""

    places: int | None
    requests_per_second: float | None


def record_share(
    connection: Connection, limits: AccountLimits, demand: Demand, *, lease: Lease
) -> Share:
    """Renew a process's share, and return what it may do from now on."""
    if connection.dialect.name == "postgresql":
        # SQLite has one writer at a time.
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    others = _others(connection, limits.account, lease)
    wanted = {owner: row.wanted for owner, row in others.items()}
    mine = lease.owner.name
    wanted[mine] = demand.wanted
    places, rate = None, None
    if limits.max_in_flight is not None:
        free = limits.max_in_flight - sum(row.places for row in others.values())
        places = max(0, min(free, _fair_places(limits.max_in_flight, wanted)[mine]))
    if limits.requests_per_second is not None:
        free_rate = limits.requests_per_second - sum(row.rate for row in others.values())
        # A process that wants no place may still have a picture to ask for.
        weights = {owner: max(1, places) for owner, places in wanted.items()}
        fair_rate = limits.requests_per_second * weights[mine] / sum(weights.values())
        rate = max(0.0, min(free_rate, fair_rate))
    row = {
        "account": limits.account,
        "owner": mine,
        "places": max(demand.held, places or 0),
        "rate": rate or 0.0,
        "wanted": demand.wanted,
        "lease_until": lease.until(),
    }
    replace = ("places", "rate", "wanted", "lease_until")
    put(connection, shares, row, replace=replace)
    return Share(places, rate)


def _others(connection: Connection, account: str, lease: Lease) -> dict[str, Row[Any]]:
    """Return the live shares of other processes; those that ended are removed."""
    now: dt.datetime = lease.now()
    connection.execute(delete(shares).where(shares.c.lease_until <= now))
    query = select(shares).where(shares.c.account == account, shares.c.owner != lease.owner.name)
    return {row.owner: row for row in connection.execute(query)}


def _fair_places(places: int, wanted: Mapping[str, int]) -> dict[str, int]:
    """Divide places evenly; the others get those that somebody does not want."""
    parts: dict[str, int] = {}
    # The smallest wish comes first: its rest is then still to be given.
    for owner in sorted(wanted, key=lambda owner: (wanted[owner], owner)):
        parts[owner] = min(wanted[owner], places // (len(wanted) - len(parts)))
        places -= parts[owner]
    return parts
