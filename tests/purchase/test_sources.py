"""The pictures that requests start from: kept once a link, and never in a purchase's way."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from typing_extensions import override

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.ledger.decisions import withdraw_images
from imagepipeline_dagster.ledger.lineage import ImageUnknown, lineage_of, picture_named
from imagepipeline_dagster.ledger.sources import SourcePicture, sources_of
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.purchase import sources as sources_module
from imagepipeline_dagster.purchase.sources import keeping_sources
from imagepipeline_dagster.storage.contract import image_path, tombstone_path
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.api.servers import NEVER, Received, Reply, answering, serving
from tests.buying import Bought, Buyer, numbered_rows, prompts_of
from tests.purchase.test_rebuild import lose_the_ledger, rebuild, store
from tests.release.samples import NOON, picture

PICTURE = picture(1)
MASK = picture(2, format="JPEG")
SHA256 = hashlib.sha256(PICTURE).hexdigest()


def ours(received: Received) -> bool:
    """Tell our own look-up from the emulator's, which draws on the picture."""
    return received.headers["accept-encoding"] == "identity"


def one_or_other(received: Received) -> Reply:
    """Serve a picture, or a mask where the path says so."""
    return Reply(body=MASK if "mask" in received.path else PICTURE)


def known(buyer: Buyer, *links: str) -> list[SourcePicture | None]:
    """Return what the ledger knows of links."""
    with buyer.open_ledger() as ledger:
        sources = sources_of(ledger, links)
    return [sources.get(link) for link in links]


def prompts_from(link: str, **row: Any) -> list[Prompt]:  # noqa: ANN401 - any column
    """Return two prompts that start from what a link leads to."""
    values = {"task": "image2image", "init_image": link} | row
    return prompts_of(numbered_rows(2, **values))


def buy(buyer: Buyer, link: str, *, keep: bool = True, **row: Any) -> Bought:  # noqa: ANN401
    """Buy their pictures."""
    return buyer.buy(prompts_from(link, **row), keep_source_pictures=keep)


def test_what_a_link_leads_to_is_kept_once(any_buyer: Buyer) -> None:
    """Each row names both pictures, asked for once without the key, and stored as they were."""
    with answering(one_or_other) as server:
        first, mask = f"{server.url}/a.png?signature=x", f"{server.url}/mask.jpg"
        off = buy(any_buyer, first, keep=False)
        bought = buy(any_buyer, first, task="inpainting", mask_image=mask)
        again = buy(any_buyer, first, task="inpainting", mask_image=mask)
        asked = list(filter(ours, server.received))

    assert {image.init_image_sha256 for image in off.images} == {None}
    named = {
        (i.init_image_sha256, i.init_image_format, i.mask_image_sha256, i.mask_image_format)
        for i in bought.images
    }
    assert named == {(SHA256, "PNG", hashlib.sha256(MASK).hexdigest(), "JPEG")}
    assert again.images == bought.images
    assert sorted(request.path for request in asked) == ["/a.png?signature=x", "/mask.jpg"]
    assert not any("api-key" in request.headers for request in asked)
    for data, picture_format in ((PICTURE, "PNG"), (MASK, "JPEG")):
        path = image_path(hashlib.sha256(data).hexdigest(), picture_format)
        assert any_buyer.storage.read(path) == data
    [source, _] = known(any_buyer, first, mask)
    assert source is not None
    assert (source.image_sha256, source.format, source.bytes) == (SHA256, "PNG", len(PICTURE))


HOSTILE: dict[str, tuple[str | Reply, str]] = {
    "gone": (Reply(status=404), "HTTP 404"),
    "a page": (Reply(body=b"<html></html>"), "HTML"),
    "a half": (Reply(body=PICTURE[:-40]), "do not decode"),
    "a picture with an archive behind": (
        Reply(body=PICTURE + b"PK\3\4" * 9),
        "more than a picture",
    ),
    "endless": (Reply(body=PICTURE, endless=True), "max_image_bytes"),
    "dropped": (Reply(drop=True), "interrupted"),
    "a redirect to a file": (
        Reply(status=302, headers={"Location": "file:///etc/passwd"}),
        "only http",
    ),
    "a name that nobody has": ("https://host.invalid/a.png", "cannot be resolved"),
    "a user name": ("http://u:p@127.0.0.1/a.png", "user name"),
    "no host": ("http:///a.png", "no proper host"),
}
PRIVATE: dict[str, str] = {
    "this machine": "http://127.0.0.1:{port}/a.png",
    "its name": "http://localhost:{port}/a.png",
    "a private network": "http://10.0.0.1/a.png",
    "a cloud's secrets": "http://169.254.169.254/latest/meta-data",
}


def looked_up(
    buyer: Buyer, *links: str, api: str, patience: float = 0.5
) -> list[SourcePicture | None]:
    """Look links up, in this order, as beside a purchase at that API; return what is known."""

    @asynccontextmanager
    async def client() -> AsyncIterator[ImagePipelineClient]:
        async with ImagePipelineClient(
            api_key="k",
            base_url=api,
            max_attempts=1,
            max_image_bytes=100_000,
            allow_insecure=True,
        ) as opened:
            yield opened

    async def look_up() -> None:
        calls = [call for link in links for call in buyer.plan(prompts_from(link))]
        with buyer.open_ledger() as ledger, LedgerWriter(ledger.engine) as writer:
            settings = dataclasses.replace(
                buyer.settings, keep_source_pictures=True, link_patience_seconds=patience
            )
            means = dataclasses.replace(buyer.means(ledger), open_client=client, settings=settings)
            async with keeping_sources(calls, means, writer) as want:
                for call in calls:
                    want(call)

    asyncio.run(look_up())
    return known(buyer, *links)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_link_is_a_recorded_reason(name: str, buyer: Buyer) -> None:
    """What cannot be kept is known with why, stops nothing, and is looked up by the next run."""
    hostile, why = HOSTILE[name]
    reply = hostile if isinstance(hostile, Reply) else Reply()
    with answering(lambda _: reply) as server:
        link = hostile if isinstance(hostile, str) else f"{server.url}/a.png"
        [source] = looked_up(buyer, link, api=buyer.base_url)
        asked = len(server.received)
        looked_up(buyer, link, api=buyer.base_url)
        assert len(server.received) == 2 * asked

    assert source is not None
    assert source.image_sha256 is None
    assert why in str(source.error)
    assert list(buyer.storage.list("images")) == []


@pytest.mark.parametrize("name", PRIVATE)
def test_a_table_sends_no_run_into_a_private_network(name: str, buyer: Buyer) -> None:
    """At a public API no link to a private address is opened."""
    with serving(Reply(body=PICTURE)) as server:
        link = PRIVATE[name].format(port=server.port)
        [source] = looked_up(buyer, link, api="http://198.41.0.4")
        assert server.received == []
    assert source is not None
    assert source.image_sha256 is None
    assert "not a public address" in str(source.error) or "this machine" in str(source.error)


def test_a_link_that_is_dead_for_a_while_is_kept_later(buyer: Buyer) -> None:
    """The picture is bought all the same, and the run after names what it started from."""
    dead = True

    def script(received: Received) -> Reply:
        return Reply(status=404) if dead and ours(received) else Reply(body=PICTURE)

    with answering(script) as server:
        link = f"{server.url}/a.png"
        bought = buy(buyer, link)
        [source] = known(buyer, link)
        dead = False
        later = buy(buyer, link)

    assert bought.outcomes == later.outcomes == {"generated": 2}
    assert {image.init_image_sha256 for image in bought.images} == {None}
    assert source is not None
    assert source.error == "127.0.0.1 answered HTTP 404"
    assert {image.init_image_sha256 for image in later.images} == {SHA256}


def test_a_slow_host_delays_no_purchase(buyer: Buyer) -> None:
    """A run ends once no picture has come for its patience, and the next one asks again."""

    def script(received: Received) -> Reply:
        return Reply(body=PICTURE, pause=NEVER if ours(received) else 0.0)

    with answering(script) as server:
        bought = buy(buyer, f"{server.url}/a.png")
    assert bought.outcomes == {"generated": 2}
    assert known(buyer, f"{server.url}/a.png") == [None]


def test_a_slow_link_gives_way(buyer: Buyer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many links are slow, the pictures behind those that are not are kept."""
    monkeypatch.setattr(sources_module, "_QUICK_SECONDS", 0.5)

    def script(received: Received) -> Reply:
        return Reply(body=PICTURE, pause=NEVER if "slow" in received.path else 0.0)

    with answering(script) as server:
        slow = [f"{server.url}/slow{number}.png" for number in range(6)]
        links = (*slow, f"{server.url}/a.png")
        *late, quick = looked_up(buyer, *links, api=buyer.base_url, patience=3)
    assert late == [None] * 6
    assert quick is not None
    assert quick.image_sha256 == SHA256


@pytest.mark.parametrize("failing", [1, 2])
def test_a_storage_that_fails_a_moment_fails_no_run(buyer: Buyer, failing: int) -> None:
    """Where no withdrawal can be looked for, before or after, the next run looks the link up."""
    looks = itertools.count(1)

    class Failing(LocalFolder):
        @override
        def exists(self, path: str) -> bool:
            if path == tombstone_path(SHA256) and next(looks) == failing:
                raise OSError("the storage is away")
            return super().exists(path)

    with serving(Reply(body=PICTURE)) as server:
        link = f"{server.url}/a.png"
        storage = Failing(buyer.folder)
        bought = buyer.buy(prompts_from(link), storage=storage, keep_source_pictures=True)
        [source] = known(buyer, link)
        later = buy(buyer, link)

    assert bought.outcomes == {"generated": 2}
    assert source is not None
    assert (source.image_sha256, source.error) == (None, "the storage is away")
    assert {image.init_image_sha256 for image in later.images} == {SHA256}


def test_a_failed_look_forgets_no_picture_of_another_run(buyer: Buyer) -> None:
    """What another run recorded of the same link stays, though this one's storage fails."""

    class Failing(LocalFolder):
        @override
        def exists(self, path: str) -> bool:
            if path == tombstone_path(SHA256):
                if next(looks) == 2:
                    raise OSError("the storage is away")
                buy(buyer, link)  # another run, which is done before this one
            return super().exists(path)

    looks = itertools.count(1)
    with serving(Reply(body=PICTURE)) as server:
        link = f"{server.url}/a.png"
        storage = Failing(buyer.folder)
        buyer.buy(prompts_from(link), storage=storage, keep_source_pictures=True)
        [source] = known(buyer, link)

    assert source is not None
    assert (source.image_sha256, source.error) == (SHA256, None)


class _Killed(BaseException):
    """The process is gone."""


class Deadly(LocalFolder):
    """A storage whose process dies once a picture that requests start from is stored."""

    @override
    def write(self, path: str, data: bytes, *, derived: bool = False) -> str:
        uri = super().write(path, data, derived=derived)
        if data == PICTURE:
            raise _Killed
        return uri


def test_a_run_that_dies_before_it_recorded_a_picture_leaves_it_to_the_next(buyer: Buyer) -> None:
    """A stored picture that nobody recorded is looked up again, and there once."""
    with serving(Reply(body=PICTURE)) as server:
        link = f"{server.url}/a.png"
        prompts = prompts_from(link)
        with pytest.raises(_Killed):
            buyer.buy(prompts, storage=Deadly(buyer.folder), keep_source_pictures=True)
        assert known(buyer, link) == [None]
        bought = buyer.buy(prompts, keep_source_pictures=True)

    assert [image.init_image_sha256 for image in bought.images] == [SHA256] * 2
    assert len(list(buyer.storage.list("images"))) == 3


def test_a_withdrawn_picture_comes_back_by_no_link(any_buyer: Buyer) -> None:
    """A picture that was taken back is not kept again, by its link or by another."""
    with serving(Reply(body=PICTURE)) as server:
        first, other = f"{server.url}/a.png", f"{server.url}/b.png"
        buy(any_buyer, first)
        with any_buyer.open_ledger() as ledger:
            assert picture_named(ledger, SHA256[:8]) == SHA256
            with pytest.raises(ImageUnknown, match="requests start from it"):
                lineage_of(ledger, SHA256)
            # As `releases withdraw` does, whose own tests are of the storage.
            any_buyer.storage.write(tombstone_path(SHA256), b"{}")
            withdraw_images(ledger, [SHA256], who="jo", why="a face", at=NOON)
        any_buyer.storage.delete(image_path(SHA256, "PNG"))
        named = {
            i.init_image_sha256 for link in (first, other) for i in buy(any_buyer, link).images
        }

    assert named == {None}
    assert not any_buyer.storage.exists(image_path(SHA256, "PNG"))
    [by_first, by_other] = known(any_buyer, first, other)
    assert by_first is not None
    assert by_other is not None
    assert (by_first.error, by_other.error) == (
        "withdrawn by jo: a face",
        "this picture was withdrawn",
    )


def test_a_withdrawn_picture_is_not_stored_again(buyer: Buyer) -> None:
    """A run that dies at any moment leaves nothing of a picture that was withdrawn before."""
    buyer.storage.write(tombstone_path(SHA256), b"{}")
    with serving(Reply(body=PICTURE)) as server:
        link = f"{server.url}/a.png"
        buyer.buy(prompts_from(link), storage=Deadly(buyer.folder), keep_source_pictures=True)
    [source] = known(buyer, link)
    assert source is not None
    assert source.error == "this picture was withdrawn"
    assert not buyer.storage.exists(image_path(SHA256, "PNG"))


def test_a_rebuilt_ledger_knows_them(buyer: Buyer) -> None:
    """A lost ledger learns from the tables what the links led to, and asks for none again."""
    with serving(Reply(body=PICTURE)) as server:
        link = f"{server.url}/a.png"
        bought = buy(buyer, link)
        store(buyer, prompts_from(link), bought)
        lose_the_ledger(buyer.ledger_url)
        asked = len(server.received)
        rebuild(buyer)
        again = buy(buyer, link)
        assert len(server.received) == asked
    assert {image.init_image_sha256 for image in again.images} == {SHA256}
