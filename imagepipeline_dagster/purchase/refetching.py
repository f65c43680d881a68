"""Paid pictures asked for again: by the ids of their jobs, at no cost, whenever a person wants.

It fetches samples without a picture, final ones too, and pictures that the storage lacks or holds
in other bytes. Nothing is bought, and a sample that cannot be had stays as it was.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from imagepipeline_dagster.api.address import origin_of
from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.contract import submit_path
from imagepipeline_dagster.api.errors import ImagePipelineError
from imagepipeline_dagster.api.jobs import Job
from imagepipeline_dagster.ledger.records import Entry, Outcome, StoredSample
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.steps import record_refetched
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.purchase.landing import Landing, landing_threads
from imagepipeline_dagster.purchase.pictures import Undecodable
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage, image_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Refetched:
    """What came of asking for one request's pictures: how many came, how many lack, and why."""

    request_key: str
    came: int
    missing: int
    trouble: str | None = None


def refetch(
    entries: Sequence[Entry],
    *,
    ledger: Ledger,
    storage: Storage,
    open_client: Callable[[], AbstractAsyncContextManager[ImagePipelineClient]],
    origin: str,
    emulated: bool,
) -> list[Refetched]:
    """Ask the jobs of these requests for what is missing of their pictures.

    `origin` and `emulated` are of the API that is asked now: the jobs of another are left alone.

    Raises:
        OSError: the storage failed.
    """

    async def ask_all() -> list[Refetched]:
        with (
            LedgerWriter(ledger.engine) as writer,
            landing_threads() as threads,
        ):
            async with open_client() as client:
                landing = Landing(
                    client=client,
                    writer=writer,
                    storage=storage,
                    threads=threads,
                    patience_seconds=0.0,
                    ahead=ledger.clock_ahead(),
                )
                refetching = _Refetching(client, writer, landing, storage)
                return [
                    await refetching.of(entry, origin=origin, emulated=emulated)
                    for entry in entries
                ]

    return asyncio.run(ask_all())


@dataclass(frozen=True, slots=True)
class _Refetching:
    client: ImagePipelineClient
    writer: LedgerWriter
    landing: Landing
    storage: Storage

    async def of(self, entry: Entry, *, origin: str, emulated: bool) -> Refetched:
        slots = await asyncio.to_thread(self._missing_slots, entry)
        trouble = _why_not(entry, origin=origin, emulated=emulated)
        samples: list[StoredSample] = []
        if slots and trouble is None:
            try:
                job = await self.client.status(entry.task, entry.job_id or "")
            except ImagePipelineError as error:
                trouble = str(error)
            else:
                samples, trouble = await self._fetched(entry, job, slots)
        if samples and not await self.writer.write(record_refetched, entry, samples):
            samples, trouble = [], "a run took it up meanwhile"
        return Refetched(
            request_key=entry.request_key,
            came=len(samples),
            missing=len(slots) - len(samples),
            trouble=trouble,
        )

    def _missing_slots(self, entry: Entry) -> list[int]:
        there = {
            sample.slot
            for sample in entry.stored
            if sample.outcome == Outcome.WITHDRAWN or self._is_there(sample)
        }
        return [slot for slot in range(entry.samples) if slot not in there]

    def _is_there(self, sample: StoredSample) -> bool:
        if sample.image_sha256 is None or sample.format is None:
            return False
        try:
            data = self.storage.read(image_path(sample.image_sha256, sample.format))
        except ObjectMissing:
            return False
        return hashlib.sha256(data).hexdigest() == sample.image_sha256

    async def _fetched(
        self, entry: Entry, job: Job, slots: Sequence[int]
    ) -> tuple[list[StoredSample], str | None]:
        links = len(job.download_urls)
        trouble = None if links >= entry.samples else _answer_of(job, entry)
        samples = []
        for slot in slots:
            if slot >= links:
                continue
            try:
                index = slot if links == entry.samples else None
                samples.append(await self.landing.fetch(slot, job, index))
            except (ImagePipelineError, Undecodable) as error:
                trouble = f"sample {slot}: {error}"
        return [sample for sample in samples if sample.outcome == Outcome.GENERATED], trouble


def _answer_of(job: Job, entry: Entry) -> str:
    said = f"the API says {job.word[:40]}"
    if job.error:
        return f"{said}: {job.error}"
    return f"{said}, with {len(job.download_urls)} links for {entry.samples} samples"


def _why_not(entry: Entry, *, origin: str, emulated: bool) -> str | None:
    """Return why a request's job cannot be asked for, None where it can."""
    if entry.is_live(dt.datetime.now(dt.UTC)):
        return "a run works on it"
    if entry.job_id is None:
        return "the API named no job that could be asked for"
    there = origin_of(entry.endpoint.removesuffix(submit_path(entry.task)))
    if entry.emulated != emulated or not (emulated or there == origin):
        return f"its job is at {'the emulator' if entry.emulated else there}"
    return None
