"""A run's purchases counted in the ledger and on the storage, so that each knows the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from imagepipeline_dagster.ledger.identity import (
    LedgerIdentity,
    LedgerMismatch,
    check_ledger,
    mark_storage,
    record_purchase,
)
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.purchase.means import Means
from imagepipeline_dagster.purchase.state import RunState


@dataclass(slots=True, kw_only=True)
class PurchaseCount:
    """Compares ledger and storage before a run buys, and counts in both while it does."""

    means: Means
    writer: LedgerWriter
    state: RunState
    _counted: int = field(default=0, init=False)
    _last: LedgerIdentity | None = field(default=None, init=False)

    async def begin(self) -> None:
        """Look whether the ledger knows what the storage holds; where it does not, stop the run.

        That counts before a reason to send nothing: with such a reason alone the set's table would
        be made anew by this ledger, and it is what a lost ledger is rebuilt from.
        """
        try:
            self._last = await asyncio.to_thread(
                check_ledger, self.means.ledger, self.means.storage
            )
            if not self.state.stops:
                await self._count()
        except (LedgerMismatch, OSError) as error:
            # Nor is anything bought that could not be stored.
            self.state.stopper = error

    async def follow(self) -> None:
        """Count what was sent since the last time."""
        if self.state.sent > self._counted:
            await self._count()

    async def _count(self) -> None:
        sent = self.state.sent
        counted = await self.writer.write(record_purchase)
        await asyncio.to_thread(mark_storage, self.means.storage, counted, after=self._last)
        self._counted, self._last = sent, counted
