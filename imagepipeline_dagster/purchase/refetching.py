"""Paid pictures asked for again: by the ids of their jobs, at no cost, whenever a person wants.

It fetches samples without a picture, final ones too, and pictures that the storage lacks or holds
in other bytes. Nothing is bought, and a sample that cannot be had stays as it was.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass

from imagepipeline_dagster.api.address import origin_of
from imagepipeline_dagster.api.contract import submit_path
from imagepipeline_dagster.api.errors import ImagePipelineError
from imagepipeline_dagster.api.jobs import Job
from imagepipeline_dagster.ledger.records import Entry, Outcome, StoredSample
from imagepipeline_dagster.ledger.steps import record_refetched
from imagepipeline_dagster.ledger.verification import damage_of
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.purchase.landing import CALLED_UNSAFE, Landing
from imagepipeline_dagster.purchase.means import Means
from imagepipeline_dagster.purchase.pictures import Undecodable


@dataclass(frozen=True, slots=True, kw_only=True)
class Refetched:
    """What came of asking for one request's pictures: how many came, how many lack, and why."""

    request_key: str
    came: int
    missing: int
    trouble: str | None = None


def refetch(entries: Sequence[Entry], means: Means) -> list[Refetched]:
    """Ask the jobs of these requests for what is missing of their pictures.

    The jobs of another API than that of the means are left alone.

    Raises:
        OSError: the storage failed.
    """

    async def ask_all() -> list[Refetched]:
        with LedgerWriter(means.ledger.engine) as writer:
            async with means.open_client() as client:
                with Landing(
                    client=client,
                    writer=writer,
                    storage=means.storage,
                    patience_seconds=0.0,
                    ahead=means.ledger.clock_ahead(),
                ) as landing:
                    refetching = _Refetching(means, landing)
                    return [await refetching.of(entry) for entry in entries]

    return asyncio.run(ask_all())


@dataclass(frozen=True, slots=True)
class _Refetching:
    means: Means
    landing: Landing

    async def of(self, entry: Entry) -> Refetched:
        slots = await asyncio.to_thread(self._missing_slots, entry)
        trouble = self._why_not(entry)
        samples: list[StoredSample] = []
        if slots and trouble is None:
            try:
                job = await self.landing.client.status(entry.task, entry.job_id or "")
            except ImagePipelineError as error:
                trouble = str(error)
            else:
                samples, trouble = await self._fetched(entry, job, slots)
        if samples and not await self.landing.writer.write(record_refetched, entry, samples):
            samples, trouble = [], "a run took it up meanwhile"
        return Refetched(
            request_key=entry.request_key,
            came=len(samples),
            missing=len(slots) - len(samples),
            trouble=trouble,
        )

    def _why_not(self, entry: Entry) -> str | None:
        """Return why a request's job cannot be asked for, None where it can."""
        if entry.is_live(dt.datetime.now(dt.UTC) + self.landing.ahead):
            return "a run works on it"
        if entry.job_id is None:
            return "the API named no job that could be asked for"
        there = origin_of(entry.endpoint.removesuffix(submit_path(entry.task)))
        means = self.means
        if entry.emulated != means.emulated or not (means.emulated or there == means.origin):
            return f"its job is at {'the emulator' if entry.emulated else there}"
        return None

    def _missing_slots(self, entry: Entry) -> list[int]:
        there = {
            sample.slot
            for sample in entry.stored
            if sample.outcome == Outcome.WITHDRAWN or self._is_there(sample)
        }
        return [slot for slot in range(entry.samples) if slot not in there]

    def _is_there(self, sample: StoredSample) -> bool:
        sha256, picture_format = sample.image_sha256, sample.format
        if sha256 is None or picture_format is None:
            return False
        return damage_of(self.means.storage, sha256, picture_format, sample.bytes) is None

    async def _fetched(
        self, entry: Entry, job: Job, slots: Sequence[int]
    ) -> tuple[list[StoredSample], str | None]:
        links = len(job.download_urls)
        trouble = None if links >= entry.samples else _answer_of(job, entry)
        samples = []
        checked = json.loads(entry.request).get("safety_checker", True)
        for slot in slots:
            if slot >= links:
                continue
            if checked and slot in job.unsafe:
                trouble = f"sample {slot}: {CALLED_UNSAFE}"
                continue
            try:
                index = slot if links == entry.samples else None
                samples.append(await self.landing.fetch(slot, job, index))
            except (ImagePipelineError, Undecodable) as error:
                trouble = f"sample {slot}: {error}"
        return samples, trouble


def _answer_of(job: Job, entry: Entry) -> str:
    said = f"the API says {job.word[:40]}"
    if job.error:
        return f"{said}: {job.error}"
    return f"{said}, with {len(job.download_urls)} links for {entry.samples} samples"
