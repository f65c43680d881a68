from __future__ import annotations

from pathlib import Path

import pytest

from imagepipeline_dagster.storage.contract import image_path
from tests.api.servers import Reply, serving
from tests.cli.running import facts
from tests.cli.shop import Shop, files_in
from tests.release.samples import picture


@pytest.fixture(autouse=True)
def _storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the storage by its whole path: an opened one is kept as long as the process lives."""
    monkeypatch.setenv("IMAGEPIPELINE_STORAGE", str(tmp_path / "data"))


def test_images_that_are_as_bought_are_said_to_be(shop: Shop) -> None:
    """Where nothing is wrong the command says how many it read, and changes nothing."""
    shop.add("a", samples=2)
    shop.buy()
    before = files_in(shop.folder)
    assert "2 images: each is there, as it was bought." in shop.run("verify")
    assert files_in(shop.folder) == before


def test_each_damage_is_found(shop: Shop) -> None:
    """An image that is gone, cut off or changed is named with what is wrong, and the code is 1."""
    shop.add("a", samples=4)
    images = [image for image in shop.buy().images if image.image_sha256]
    paths = [Path(str(image.uri).removeprefix("file://")) for image in images]
    paths[0].unlink()
    paths[1].write_bytes(b"")
    data = bytearray(paths[2].read_bytes())
    data[-1] ^= 1
    paths[2].write_bytes(data)

    output = shop.run("verify", "--repair", ok=False)
    assert f"missing: {paths[0].as_uri()}" in output
    assert f"other size: {paths[1].as_uri()}" in output
    assert f"other bytes: {paths[2].as_uri()}" in output
    assert paths[3].name not in output
    assert "3 images of 4 are missing or differ." in output
    assert f"ledger refetch {str(images[0].request_key)[:12]}" in output

    found = facts("verify", exit_code=1)
    assert found["images"] == 4
    assert {damaged["damage"] for damaged in found["damaged"]} == {
        "missing",
        "other size",
        "other bytes",
    }


def test_a_picture_that_requests_start_from_is_read_too(shop: Shop) -> None:
    """One that is gone is named, with the link that it came by."""
    with serving(Reply(body=picture(1))) as server:
        link = f"{server.url}/a.png"
        shop.add("a", task="image2image", init_image=link)
        [image] = shop.buy(keep_source_pictures=True).images
    path = image_path(str(image.init_image_sha256), "PNG")
    (shop.folder / "data" / path).unlink()

    output = shop.run("verify", "--repair", ok=False)
    assert f"{path}\n  a backup, or its link: {link}" in output
    assert "1 image of 2 are missing or differ." in output


def test_without_a_ledger_there_is_nothing_to_verify_by(shop: Shop) -> None:
    """A folder without a ledger is no folder in order."""
    assert "There is no ledger" in shop.run("verify", ok=False)
