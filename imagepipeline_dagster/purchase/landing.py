"""A finished job's links into stored bytes: download, verify, store, record.

Nothing bought may be lost here: an error that may pass is raised and leaves the request
`submitted`, so that the next run asks its job for links again and pays nothing.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Self, TypeVar

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.errors import DownloadError, LinkExpired, LinkRefused
from imagepipeline_dagster.api.jobs import Job, JobStatus
from imagepipeline_dagster.ledger.records import Hold, Outcome, StoredSample
from imagepipeline_dagster.ledger.steps import record_stored, record_successes
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.purchase.pictures import Picture, Undecodable, read_picture
from imagepipeline_dagster.rows import fields_of
from imagepipeline_dagster.storage.contract import Storage, image_path, thumbnail_path

T = TypeVar("T")
_DOWNLOADS_AT_ONCE = 8
# A bucket answers after a tenth of a second. Each picture is two objects, and held in memory.
_PICTURES_WRITTEN_AT_ONCE = 16
_FIRST_PAUSE_SECONDS = 0.2
# An API may list its links some looks later; so long a list that is too short is doubted.
_SHORT_LISTS_DOUBTED_SECONDS = 3.0
CALLED_UNSAFE = "the API's answer calls it unsafe"
_NOT_HELD = "another process has the request, or a further attempt at it"


class PicturesLate(DownloadError):
    """Paid pictures cannot be had yet; the job is asked for them again."""


class HoldLost(Exception):
    """A request is another process's by now, or a person decided about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """Brings the pictures of finished jobs home, some at a time; its threads end with its block.

    `patience_seconds` is how long a run goes on asking for one that cannot be had. The ledger's
    clock is `ahead` of this machine's, and tells when a picture came and how long links live.
    """

    client: ImagePipelineClient
    writer: LedgerWriter
    storage: Storage
    patience_seconds: float
    ahead: dt.timedelta
    _downloads: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(_DOWNLOADS_AT_ONCE), init=False
    )
    _writes: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(_PICTURES_WRITTEN_AT_ONCE), init=False
    )

    # As many as processors verify pictures; the others wait for the storage.
    _verifying: Executor = field(
        default_factory=lambda: ThreadPoolExecutor(max(2, os.cpu_count() or 2), "pictures"),
        init=False,
    )
    _storing: Executor = field(
        default_factory=lambda: ThreadPoolExecutor(2 * _PICTURES_WRITTEN_AT_ONCE, "storage"),
        init=False,
    )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._verifying.shutdown()
        self._storing.shutdown()

    async def land(
        self,
        hold: Hold,
        job: Job,
        *,
        samples: int,
        checked: bool,
        stored: tuple[StoredSample, ...],
        links_end: dt.datetime,
    ) -> int:
        """Bring a job's samples home, record each once its bytes are stored, and count the useful.

        Until `links_end` a link that does not work, or gives no picture, is a passing trouble.
        Fewer links than samples mean that the safety checker filtered some, where it was asked to;
        which ones survived is not guessed: their `sample_index` is None. One that the answer calls
        unsafe is filtered too.

        Args:
            hold: under which they are recorded.
            job: that has succeeded.
            samples: that were asked for.
            checked: whether the API's safety checker was to look at them.
            stored: what earlier runs recorded of them.
            links_end: until when links may come to work.

        Raises:
            PicturesLate: some cannot be had now; what came is recorded.
            HoldLost: another process has the request.
            DownloadError, StatusUnavailable, Throttled, Unreachable, JobError: try again later.
            OSError: the storage failed.
        """
        job = await self._with_links(job, samples, checked=checked, links_end=links_end)
        delivered = min(len(job.download_urls), samples)
        complete = delivered == samples
        # Of a shorter list nobody knew which sample a picture was.
        have = {it.slot: it for it in stored if it.sample_index == it.slot} if complete else {}
        landed = [have[slot] for slot in sorted(have)]
        missing = range(delivered, samples)
        why = (
            f"{delivered} links came for {samples} samples"
            if job.links_told
            else "the API listed no links that can be read"
        )
        late: list[PicturesLate] = []
        unrecorded: list[StoredSample] = []
        if job.links_told and checked:
            unrecorded = [lost_sample(slot, Outcome.VENDOR_FILTERED, why) for slot in missing]
        elif missing and self._now() < links_end:
            late.append(PicturesLate(why))
        else:
            unrecorded = [lost_sample(slot, Outcome.EXPIRED, why) for slot in missing]
        unsafe = {slot for slot in job.unsafe if checked and slot < delivered} - have.keys()
        unrecorded += (
            lost_sample(
                slot, Outcome.VENDOR_FILTERED, CALLED_UNSAFE, index=slot if complete else None
            )
            for slot in sorted(unsafe)
        )
        for slot in (slot for slot in range(delivered) if slot not in have.keys() | unsafe):
            try:
                sample = await self._sample(
                    slot, job, index=slot if complete else None, links_end=links_end
                )
            except PicturesLate as error:
                late.append(error)
                continue
            landed.append(sample)
            # The last one shares its commit with the end of the job.
            if not late and slot == delivered - 1:
                unrecorded.append(sample)
            elif not await self.writer.write(record_stored, hold, sample):
                raise HoldLost(_NOT_HELD)
        if late:
            raise late[0]
        if not await self.writer.write_together(record_successes, (hold, unrecorded)):
            raise HoldLost(_NOT_HELD)
        return sum(
            sample.outcome == Outcome.GENERATED and sample.value_range != 0 for sample in landed
        )

    def _now(self) -> dt.datetime:
        """Return the time by the ledger's clock."""
        return dt.datetime.now(dt.UTC) + self.ahead

    async def _with_links(
        self, job: Job, samples: int, *, checked: bool, links_end: dt.datetime
    ) -> Job:
        """Return the job with its links; while some or all are missing, it is asked again.

        An API may list them some looks later. Where its filter may have held them back, a list that
        stays short is believed soon; else it is waited for as a link is.
        """
        pauses = self._pauses(links_end)
        doubted_until = time.monotonic() + _SHORT_LISTS_DOUBTED_SECONDS
        while len(job.download_urls) < samples and job.id is not None:
            pause = next(pauses, None)
            if pause is None:
                break
            believed = job.links_told and checked
            if believed and time.monotonic() + pause > doubted_until:
                break
            await asyncio.sleep(pause)
            renewed = await self._renewed(job)
            # A later, shorter list takes no link away that was listed once.
            job = renewed if len(renewed.download_urls) >= len(job.download_urls) else job
        return job

    def _pauses(self, links_end: dt.datetime) -> Iterator[float]:
        """Yield the pauses before each further try, in seconds: they grow, and end in this run."""
        yield 0.0
        pause, left = _FIRST_PAUSE_SECONDS, self.patience_seconds
        while left > 0 and self._now() < links_end:
            yield min(pause, left)
            pause, left = 2 * pause, left - pause

    async def _sample(
        self, slot: int, job: Job, *, index: int | None, links_end: dt.datetime
    ) -> StoredSample:
        """Return a sample that was brought home, or one that is lost for good.

        Raises:
            PicturesLate: it cannot be had now, and its links are not over.
        """
        pauses = self._pauses(links_end)
        while True:
            try:
                return await self.fetch(slot, job, index)
            except (LinkExpired, LinkRefused, Undecodable) as error:
                trouble = error
            pause = next(pauses, None)
            if pause is None:
                break
            await asyncio.sleep(pause)
            renewed = await self._renewed(job)
            job = renewed if len(renewed.download_urls) > slot else job
        if self._now() < links_end:
            raise PicturesLate(f"sample {slot}: {trouble}") from trouble
        decodes = not isinstance(trouble, Undecodable)
        return lost_sample(
            slot, Outcome.EXPIRED if decodes else Outcome.UNDECODABLE, str(trouble), index=index
        )

    async def fetch(self, slot: int, job: Job, index: int | None) -> StoredSample:
        """Download, verify and store one picture; nothing is recorded.

        Raises:
            DownloadError: it cannot be had.
            Undecodable: what came is no picture.
            OSError: the storage failed.
        """
        async with self._downloads:
            data = await self.client.download(job.download_urls[slot])
            picture = await _in_thread(self._verifying, read_picture, data)
            # Before its place is another's: what waits for the storage is held in memory.
            await self._writes.acquire()
        try:
            uri = await self._write(picture, data)
        finally:
            self._writes.release()
        return StoredSample(
            slot=slot,
            sample_index=index,
            # People's decisions are compared with it, whatever machine they are taken at.
            stored_at=self._now(),
            outcome=Outcome.GENERATED,
            image_sha256=picture.sha256,
            uri=uri,
            pixel_width=picture.width,
            pixel_height=picture.height,
            bytes=len(data),
            **fields_of(picture, "format", "value_range", "has_alpha", "carries_more"),
        )

    async def _renewed(self, job: Job) -> Job:
        """Return the job as the API tells of it now, with fresh links."""
        if job.id is None:
            return job
        renewed = await self.client.status(job.task, job.id)
        if renewed.status is JobStatus.PENDING:
            # A job that was done is not: a passing confusion, which says nothing of its links.
            return job.model_copy(update={"links_told": False})
        return renewed

    async def _write(self, picture: Picture, data: bytes) -> str:
        # Where such a picture is stored already it is written again: what is there may be broken,
        # and of several writers all bring the same bytes.
        _, uri = await asyncio.gather(
            _in_thread(
                self._storing,
                partial(self.storage.write, derived=True),
                thumbnail_path(picture.sha256),
                picture.thumbnail,
            ),
            _in_thread(
                self._storing,
                self.storage.write,
                image_path(picture.sha256, picture.format),
                data,
            ),
        )
        return uri


async def _in_thread(executor: Executor, function: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


def lost_sample(
    slot: int, outcome: Outcome, error: str, *, index: int | None = None
) -> StoredSample:
    """Return a sample of which no picture came, or none that can be used."""
    return StoredSample(
        slot=slot,
        sample_index=index,
        outcome=outcome,
        stored_at=dt.datetime.now(dt.UTC),
        error=error,
    )
