"""A finished job's links into stored bytes: download, verify, store, record.

What was bought must not be lost here: whatever can be tried again later is raised and leaves the
request `submitted`, so that the next run asks its job for links again and pays nothing.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.contract import Job, JobStatus
from imagepipeline_dagster.api.errors import LinkExpired, StatusUnavailable
from imagepipeline_dagster.ledger.records import Outcome, StoredSample
from imagepipeline_dagster.ledger.requests import record_stored, record_succeeded
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.purchase.pictures import Picture, Undecodable, read_picture
from imagepipeline_dagster.storage.contract import Storage, image_path, thumbnail_path

__all__ = ["Landing", "filtered_sample"]

T = TypeVar("T")
_DOWNLOADS_AT_ONCE = 8
_LINK_RENEWALS = 2
_DECODINGS = 2


class Landing:
    """Brings the pictures of finished jobs home, some at a time."""

    def __init__(
        self,
        *,
        client: ImagePipelineClient,
        writer: LedgerWriter,
        storage: Storage,
        executor: Executor,
    ) -> None:
        self._client = client
        self._writer = writer
        self._storage = storage
        self._executor = executor
        self._places = asyncio.Semaphore(_DOWNLOADS_AT_ONCE)

    async def land(
        self, request_key: str, job: Job, *, samples: int, stored: tuple[StoredSample, ...]
    ) -> None:
        """Bring a job's samples home and record each as soon as its bytes are stored.

        `stored` are the samples that an earlier attempt recorded. Fewer links than samples mean
        that some were filtered; which ones survived is not guessed: their `sample_index` is None.

        Raises:
            DownloadError, StatusUnavailable, Throttled, Unreachable, JobError: try again later.
            OSError: the storage failed.
        """
        delivered = min(len(job.download_urls), samples)
        complete = delivered == samples
        have = {sample.slot for sample in stored} if complete else set()
        last = [
            filtered_sample(slot, f"{delivered} links came for {samples} samples")
            for slot in range(delivered, samples)
        ]
        async with self._places:
            to_come = [slot for slot in range(delivered) if slot not in have]
            for slot in to_come:
                sample = await self._sample(slot, job, index=slot if complete else None)
                if slot != to_come[-1]:
                    await self._writer.write(record_stored, request_key, sample)
                else:
                    # Shares its commit with the end of the job.
                    last.append(sample)
        await self._writer.write(record_succeeded, request_key, last)

    async def _sample(self, slot: int, job: Job, *, index: int | None) -> StoredSample:
        def settled(**found: Any) -> StoredSample:  # noqa: ANN401 - StoredSample's own fields
            now = dt.datetime.now(dt.UTC)
            return StoredSample(slot=slot, sample_index=index, stored_at=now, **found)

        trouble: Undecodable | None = None
        for _ in range(_DECODINGS):
            try:
                data = await self._download(slot, job)
            except LinkExpired as error:
                return settled(outcome=Outcome.EXPIRED, error=str(error))
            try:
                picture = await self._in_thread(read_picture, data)
            except Undecodable as error:
                trouble = error
                continue
            return settled(
                outcome=Outcome.GENERATED,
                image_sha256=picture.sha256,
                # Beside the decoding threads: there are as many of those as processors, and a write
                # waits for a disk or a bucket.
                uri=await asyncio.to_thread(self._write, picture, data),
                format=picture.format,
                pixel_width=picture.width,
                pixel_height=picture.height,
                bytes=len(data),
                value_range=picture.value_range,
                has_alpha=picture.has_alpha,
                carries_more=picture.carries_more,
            )
        return settled(outcome=Outcome.UNDECODABLE, error=f"{trouble} (in {_DECODINGS} downloads)")

    async def _download(self, slot: int, job: Job) -> bytes:
        """Download a sample, asking the job for new links where one has expired."""
        for _ in range(_LINK_RENEWALS):
            try:
                return await self._client.download(job.download_urls[slot])
            except LinkExpired:
                if job.id is None:
                    raise
                renewed = await self._client.status(job.task, job.id)
                if renewed.status is JobStatus.PENDING:
                    # A job that was done is not: a passing confusion, and no reason to give up
                    # a picture that is paid.
                    raise StatusUnavailable(
                        f"the job had links, and is {renewed.word[:40]} now"
                    ) from None
                if len(renewed.download_urls) <= slot:
                    raise
                job = renewed
        return await self._client.download(job.download_urls[slot])

    def _write(self, picture: Picture, data: bytes) -> str:
        # Where such a picture is stored already it is written again: what is there may be broken,
        # and of several writers all bring the same bytes.
        self._storage.write(thumbnail_path(picture.sha256), picture.thumbnail)
        return self._storage.write(image_path(picture.sha256, picture.format), data)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)


def filtered_sample(slot: int, error: str) -> StoredSample:
    """Return a sample that the API's safety checker held back."""
    return StoredSample(
        slot=slot,
        sample_index=None,
        outcome=Outcome.VENDOR_FILTERED,
        stored_at=dt.datetime.now(dt.UTC),
        error=error,
    )
