"""The review page as a person meets it: 500 pictures in a browser, decided about by keys."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.loopback import QuietServer
from imagepipeline_dagster.moderation.moderating import moderate_set
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.moderation.review.app import review_app
from imagepipeline_dagster.moderation.review.session import ReviewSession
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.previews import thumbnail
from imagepipeline_dagster.storage.contract import image_path, thumbnail_path
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.tables.overrides import read_overrides
from tests.e2e.conftest import Screenshot
from tests.moderation.test_duplicates import drawn
from tests.moderation.test_review import HOSTILE, row
from tests.waiting import until

_EVERY_FIFTH = (("quarantined", "unchecked"), ("rejected", "nsfw"), *[("kept", "ok")] * 3)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> LocalFolder:
    """An empty storage."""
    return LocalFolder(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def images(storage: LocalFolder) -> list[ModeratedImage]:
    """500 pictures of two sets, a fifth of which wait for a person; the first prompts are hostile.

    Each has bytes of its own, and one of twenty looks.
    """
    looks = [drawn(place * 12).convert("RGB") for place in range(20)]
    encoded = []
    for look in looks:
        file = io.BytesIO()
        look.save(file, "PNG")
        encoded.append((file.getvalue(), thumbnail(look)))
    listed = []
    for place in range(500):
        picture, small = encoded[place % 20]
        picture += str(place).encode()
        sha256 = hashlib.sha256(picture).hexdigest()
        storage.write(image_path(sha256, "PNG"), picture)
        storage.write(thumbnail_path(sha256), small)
        verdict, reason = _EVERY_FIFTH[place % 5]
        prompt = HOSTILE[place // 5] if place < 20 else f"a radial lamp, number {place}"
        image = row(verdict, reason, sha256, prompt)
        listed.append(
            dataclasses.replace(
                image,
                prompt_set="spring" if place < 300 else "summer",
                prompt_id=f"lamp_{place:03}",
                model_id="sdxl",
                seed=1_000 + place,
                pixel_width=256,
                pixel_height=256,
                safety_checker=reason == "ok",
                value_range=200,
            )
        )
    return listed


@pytest.fixture
def page(
    browser: Browser, images: list[ModeratedImage], storage: LocalFolder, sqlite_url: str
) -> Iterator[Page]:
    """The page, served and opened."""
    session = ReviewSession(images, storage, tables_url=sqlite_url, reviewer="ana")
    app = review_app(session, title="Review of all that waits", token="secret")
    server = QuietServer(app)
    server.start()
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{server.url}/secret/")
    expect(page.locator("#status")).to_have_text("500 pictures")
    yield page
    page.close()
    server.stop()


def current(page: Page) -> str:
    """Return the name of the picture that a key decides about."""
    return page.locator(".tile.current .name").inner_text().split(" ")[0]


@pytest.mark.slow
def test_five_hundred_pictures_are_reviewed_by_keys(
    page: Page,
    images: list[ModeratedImage],
    storage: LocalFolder,
    sqlite_url: str,
    tmp_path: Path,
    screenshot: Screenshot,
) -> None:
    """Keys decide, move, open and undo; filters leave what they say; moderation applies it all."""
    screenshot("review_grid")
    assert current(page) == "lamp_000"
    for verdict, number in (("kept", 300), ("rejected", 100), ("quarantined", 100)):
        page.locator("nav label").filter(has_text=verdict).click()
        expect(page.locator(".tile:visible")).to_have_count(number)

    page.locator("[name=reason]").fill("seen large")
    page.keyboard.press("Escape")
    for key in "krq":
        page.keyboard.press(key)
    expect(page.locator("#status")).to_have_text("3 recorded")
    assert current(page) == "lamp_015"
    page.keyboard.press("u")
    expect(page.locator("#status")).to_have_text("2 recorded")
    assert current(page) == "lamp_010"
    expect(page.locator(".tile.kept:visible .verdict")).to_have_text("kept by ana")

    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # the key stays down: no button has the focus yet
    large = page.locator("dialog #large")
    expect(large).to_be_visible()
    assert large.evaluate("large => large.decode().then(() => large.naturalWidth)") == 256
    expect(page.locator("#prompt")).to_have_text(HOSTILE[2])
    expect(page.locator("#facts")).to_contain_text("1010")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#prompt")).to_have_text("a radial lamp, number 20")
    screenshot("review_large")
    page.locator("[data-decision=keep]").click()
    expect(page.locator("#facts")).to_contain_text("lamp_025")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    assert current(page) == "lamp_025"
    page.keyboard.press("ArrowDown")
    assert current(page) > "lamp_030"

    page.locator("nav label").filter(has_text="all").click()
    page.locator("[name=set]").select_option("summer")
    expect(page.locator(".tile:visible")).to_have_count(200)
    page.locator("[name=score]").fill("0.8")
    expect(page.locator(".tile:visible")).to_have_count(40)
    assert page.evaluate("typeof window.ran") == "undefined"

    decisions = read_overrides(sqlite_url)
    by_digest = {image.image_sha256: image.prompt_id for image in images}
    assert [(by_digest[o.image_sha256], o.decision, o.reason[:4]) for o in decisions] == [
        ("lamp_000", "keep", "seen"),
        ("lamp_005", "reject", "seen"),
        ("lamp_010", "quarantine", "seen"),
        ("lamp_010", "clear", "undo"),
        ("lamp_020", "keep", "seen"),
    ]
    assert {(o.reviewer, o.prompt_set) for o in decisions} == {("ana", "spring")}
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    moderated = moderate_set(
        [image for image in images if image.prompt_set == "spring"],
        prompt_set="spring",
        dataset="image_dataset",
        policy=ModerationPolicy(),
        overrides=decisions,
        ledger=ledger,
        storage=storage,
    )
    ledger.close()
    decided = {i.prompt_id: i.verdict for i in moderated.images if i.overridden_by == "ana"}
    assert decided == {"lamp_000": "kept", "lamp_005": "rejected", "lamp_020": "kept"}


def test_thumbnails_are_loaded_where_they_are_seen(page: Page) -> None:
    """Of 500 thumbnails those far below are not asked for; a scroll asks for them."""
    count = "performance.getEntriesByType('resource').filter(e => e.name.includes('/thumb')).length"
    page.wait_for_load_state("networkidle")
    before = page.evaluate(count)
    assert 0 < before < 400
    page.locator(".tile").last.scroll_into_view_if_needed()
    until(lambda: page.evaluate(count) > before, what="thumbnails below")


def test_another_page_reaches_nothing(browser: Browser, page: Page, sqlite_url: str) -> None:
    """A page of another origin that knows even the address can neither read nor decide."""
    foreign = browser.new_page()
    foreign.goto("data:text/html,<title>elsewhere</title>")
    asked = {"decision": "keep", "prompt_set": "spring", "image_sha256": "0" * 64}
    outcome = foreign.evaluate(
        """async ([url, asked]) => {
            const body = JSON.stringify(asked);
            const told = [];
            for (const [path, init] of [["samples", {}], ["decisions", { method: "POST", body }]])
                told.push(await fetch(url + path, init).then((a) => a.text(), () => "refused"));
            return told;
        }""",
        [page.url, asked],
    )
    foreign.close()
    assert outcome == ["refused", "refused"]
    assert read_overrides(sqlite_url) == []
