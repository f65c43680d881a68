"""The pictures that requests start from, kept beside the purchase: it never waits for them.

A link is looked up once its request gave pictures. What it leads to is stored as a bought picture
is, by its content. A process that dies before that is recorded leaves it to the next run, and so
does a link that leads to none.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.contract import Task
from imagepipeline_dagster.api.errors import DownloadError
from imagepipeline_dagster.ledger.sources import (
    SourcePicture,
    forget_source,
    record_source,
    sources_of,
    withdraw_sources,
)
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.planning.prompts import LINKS
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.purchase.means import Means
from imagepipeline_dagster.purchase.pictures import Undecodable, read_picture
from imagepipeline_dagster.storage.contract import (
    ObjectMissing,
    Storage,
    image_path,
    tombstone_path,
)

_AT_ONCE = 4  # each holds a picture
_QUICK_SECONDS = 10.0
_SLOW_AT_ONCE = 2
_LOOK_SECONDS = 1.0
_WITHDRAWN = "this picture was withdrawn"


def links_of(calls: Iterable[PlannedRequest]) -> set[str]:
    """Return the links to the pictures that calls start from."""
    return {link for call in calls for link in call.source_links.values()}


def sources_shown_by(images: Iterable[GeneratedImage], storage: Storage) -> Iterator[SourcePicture]:
    """Yield the kept pictures that rows name, as far as the storage has them."""
    shown = {
        request[name]: (sha256, getattr(image, f"{name}_format"), image.completed_at)
        for image in images
        if (request := json.loads(image.request or "{}"))
        for name in LINKS[image.task or Task.TEXT2IMAGE]
        if (sha256 := getattr(image, f"{name}_sha256"))
    }
    for link, (sha256, picture_format, completed_at) in shown.items():
        with suppress(ObjectMissing):
            yield SourcePicture(
                link=link,
                looked_up_at=completed_at or dt.datetime.now(dt.UTC),
                image_sha256=sha256,
                format=picture_format,
                bytes=len(storage.read(image_path(sha256, picture_format))),
            )


@asynccontextmanager
async def keeping_sources(
    calls: Sequence[PlannedRequest], means: Means, writer: LedgerWriter
) -> AsyncIterator[Callable[[PlannedRequest], None]]:
    """Open what is told of a call, and then keeps what the call's links lead to.

    At the end those that are under way are waited for, as long as pictures come.
    """
    missing = links_of(calls) if means.settings.keep_source_pictures else set()
    known = await asyncio.to_thread(sources_of, means.ledger, missing)
    missing -= {link for link, source in known.items() if source.image_sha256}
    if not missing:
        yield lambda _: None
        return
    # Connections of its own: a slow host takes none from the paid pictures.
    async with means.open_client() as client:
        keeping = _Keeping(client=client, means=means, writer=writer, missing=missing)
        try:
            yield keeping.want
            await keeping.finish()
        finally:
            for task in keeping.under_way:
                task.cancel()


@dataclass(kw_only=True)
class _Keeping:
    client: ImagePipelineClient
    means: Means
    writer: LedgerWriter
    missing: set[str]
    under_way: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        # What is slow gives way to what waits behind it, and is then among its like.
        self._places = (
            (asyncio.Semaphore(_AT_ONCE), _QUICK_SECONDS),
            (asyncio.Semaphore(_SLOW_AT_ONCE), None),
        )
        self._last_came = 0.0

    def want(self, call: PlannedRequest) -> None:
        """Keep what the links of a call lead to, each once."""
        for link in self.missing.intersection(call.source_links.values()):
            self.missing.remove(link)
            self.under_way.add(asyncio.create_task(self._keep(link)))

    async def finish(self) -> None:
        """Wait for what is under way, until none has come for the patience of a run."""
        self._last_came = time.monotonic()
        patience = self.means.settings.link_patience_seconds
        while self.under_way and (left := self._last_came + patience - time.monotonic()) > 0:
            # All together, and not one after the other: each look at thousands takes a while.
            done, self.under_way = await asyncio.wait(
                self.under_way, timeout=min(left, _LOOK_SECONDS)
            )
            for task in done:
                task.result()

    async def _keep(self, link: str) -> None:
        for places, seconds in self._places:
            async with places:
                try:
                    async with asyncio.timeout(seconds):
                        source = await self._looked_up_or_why_not(link)
                except TimeoutError:
                    continue
                await self._record(source)
                return

    async def _looked_up_or_why_not(self, link: str) -> SourcePicture:
        try:
            return await self._looked_up(link)
        except (DownloadError, Undecodable, OSError) as error:
            now = dt.datetime.now(dt.UTC)
            return SourcePicture(link=link, looked_up_at=now, error=str(error))

    async def _record(self, source: SourcePicture) -> None:
        """Record what came; a picture that was withdrawn meanwhile is taken back.

        A withdrawal names its pictures before it looks into the ledger, and this looks for the name
        after it recorded the picture: whoever is later sees the other.
        """
        await self.writer.write(record_source, source)
        if source.image_sha256 is None or not source.is_kept:
            return
        self._last_came = time.monotonic()
        try:
            if await asyncio.to_thread(
                self._is_taken_back, source.image_sha256, source.format or ""
            ):
                await self.writer.write(withdraw_sources, [source.image_sha256], _WITHDRAWN)
        except OSError as error:
            await self.writer.write(forget_source, source, str(error))

    async def _looked_up(self, link: str) -> SourcePicture:
        """Return what a link leads to, stored unless it was withdrawn.

        Raises:
            DownloadError, Undecodable, OSError: it leads to no picture that can be kept.
        """
        data = await self.client.download(link)
        picture = await asyncio.to_thread(read_picture, data)
        if picture.carries_more is not None:
            raise Undecodable(f"it is more than a picture: {picture.carries_more}")
        # Looked for here too: a run that dies before the second look leaves nothing to take back.
        withdrawn = await asyncio.to_thread(self._is_taken_back, picture.sha256, picture.format)
        if not withdrawn:
            path = image_path(picture.sha256, picture.format)
            await asyncio.to_thread(self.means.storage.write, path, data)
        return SourcePicture(
            link=link,
            looked_up_at=dt.datetime.now(dt.UTC),
            image_sha256=picture.sha256,
            format=picture.format,
            bytes=len(data),
            error=_WITHDRAWN if withdrawn else None,
        )

    def _is_taken_back(self, sha256: str, picture_format: str) -> bool:
        """Tell whether a picture was withdrawn, whatever link it came by; then it is deleted."""
        storage = self.means.storage
        withdrawn = storage.exists(tombstone_path(sha256))
        if withdrawn:
            storage.delete(image_path(sha256, picture_format))
        return withdrawn
