"""Places for a run's jobs in flight: as many as the run may have and the account has for it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from imagepipeline_dagster.api.pacing import RequestPace
from imagepipeline_dagster.databases import AWAY
from imagepipeline_dagster.ledger.records import Lease
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.shares import AccountLimits, Demand, Share, record_share
from imagepipeline_dagster.ledger.writer import PATIENCE_SECONDS
from imagepipeline_dagster.purchase.state import RunState

# While a run waits for its first place, or has to give some back; then less and less often.
_EARLY_RENEWAL_SECONDS = 0.2
_SHARE_OF_THE_WAIT = 0.25


class Places:
    """The places of one run, `most` of them, of which none may be taken at first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._allowed = 0
        self._taken = 0
        self._waiting = 0
        self._changed = asyncio.Event()
        self.asked = asyncio.Event()

    @property
    def demand(self) -> Demand:
        """The places that may be taken until the next change, and those that could be used."""
        held = max(self._taken, self._allowed)
        return Demand(held, min(self._most, self._taken + self._waiting))

    async def take(self, *, waiting: int) -> None:
        """Take a place for one of the jobs that wait, once there is one."""
        self._waiting = waiting
        self.asked.set()
        while self._taken >= self._allowed:
            self._changed.clear()
            await self._changed.wait()
        self._taken += 1
        self._waiting -= 1

    def give_back(self) -> None:
        """Give a place back."""
        self._taken -= 1
        self._changed.set()

    def allow(self, places: int | None) -> None:
        """Let so many be taken from now on, None: all of them; those that are taken stay."""
        self._allowed = self._most if places is None else min(self._most, places)
        self._changed.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountShare:
    """Opens a run's places: all of them, or those that are its share of the API account.

    Each `renewal_seconds` it is renewed, and only then it is seen that others came or went.
    """

    limits: AccountLimits
    ledger: Ledger
    lease: Lease
    places: Places
    pace: RequestPace
    state: RunState
    renewal_seconds: float

    async def keep(self) -> None:
        """Renew the share from the first job on, until cancelled.

        A ledger that gives none stops the run.
        """
        if not self.limits.exist:
            self.places.allow(None)
            return
        await self.places.asked.wait()
        try:
            await self._renew()
        except SQLAlchemyError as error:
            self.state.stop(error)
            # Nothing is sent any more, and what is paid comes to its end.
            self.places.allow(None)
            self.pace.requests_per_second = self.limits.requests_per_second or 0.0

    async def _renew(self) -> None:
        settled_at = renewed_at = time.monotonic()
        while True:
            pause = self.renewal_seconds
            try:
                demand = self.places.demand
                share = await asyncio.to_thread(self._renewed, demand)
                self._apply(share)
                renewed_at = time.monotonic()
                if share.places is not None and (
                    demand.held > share.places or demand.wanted > share.places == 0
                ):
                    early = _SHARE_OF_THE_WAIT * (time.monotonic() - settled_at)
                    pause = min(max(_EARLY_RENEWAL_SECONDS, early), self.renewal_seconds)
                else:
                    settled_at = time.monotonic()
            except AWAY:
                # While the ledger cannot be reached nothing is claimed, so nothing new is sent.
                if time.monotonic() - renewed_at > PATIENCE_SECONDS:
                    raise
            await asyncio.sleep(pause)

    def _renewed(self, demand: Demand) -> Share:
        with self.ledger.engine.begin() as connection:
            return record_share(connection, self.limits, demand, lease=self.lease)

    def _apply(self, share: Share) -> None:
        if share.requests_per_second is not None:
            self.pace.requests_per_second = share.requests_per_second
        self.places.allow(share.places)
        if share.places is not None:
            waits = share.places == 0 and self.places.demand.wanted > 0
            self.state.waits_for = "other runs' jobs at the API's account" if waits else None
