"""The review sheet as a person meets it: a file in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from imagepipeline_dagster.moderation.review.sheet import review_sheet
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.moderation.test_review import HOSTILE, ROWS, storage

__all__ = ["storage"]  # a fixture that the tests below use


@pytest.fixture
def sheet(browser: Browser, storage: LocalFolder, tmp_path: Path) -> Iterator[Page]:
    """The sheet opened; what a page says in its console is kept."""
    file = tmp_path / "review.html"
    file.write_text(review_sheet(ROWS, storage, title=HOSTILE[0], reviewer=HOSTILE[1]))
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(file.as_uri())
    yield page
    page.close()


def blur_of(page: Page, verdict: str) -> str:
    """Return how the picture of the first sample with this verdict is filtered."""
    picture = page.locator(f"article.{verdict} img").first
    return str(picture.evaluate("picture => getComputedStyle(picture).filter"))


def test_flagged_pictures_are_blurred_until_clicked(sheet: Page) -> None:
    """What was rejected is blurred at first, shows on a click, and blurs on the next."""
    assert blur_of(sheet, "rejected") == "blur(18px)"
    assert blur_of(sheet, "kept") == "none"
    picture = sheet.locator("article.rejected img")
    assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 0
    picture.click()
    assert blur_of(sheet, "rejected") == "none"
    picture.click()
    assert blur_of(sheet, "rejected") == "blur(18px)"


def test_the_filter_shows_one_verdict(sheet: Page) -> None:
    """A click on a verdict leaves its samples, a click on all brings the others back."""
    for verdict, number in (("rejected", 3), ("quarantined", 1), ("kept", 1), ("all", 5)):
        sheet.locator("nav label").filter(has_text=verdict).click()
        expect(sheet.locator("article:visible")).to_have_count(number)


def test_no_prompt_runs_a_script(sheet: Page) -> None:
    """Prompts with scripts and handlers are shown as the text that they are."""
    for text in HOSTILE[:3]:
        expect(sheet.get_by_text(text).first).to_be_visible()
    assert sheet.evaluate("typeof window.ran") == "undefined"
    assert sheet.locator("script, iframe").count() == 0
    # Were markup to slip in one day, the page's own policy would still keep it from running.
    sheet.locator("main").evaluate(
        "main => { main.innerHTML += '<img src=x onerror=\"window.ran = 1\">' }"
    )
    sheet.wait_for_timeout(300)
    assert sheet.evaluate("typeof window.ran") == "undefined"


def test_the_sheet_asks_for_nothing(browser: Browser, sheet: Page, tmp_path: Path) -> None:
    """Opening it loads the file and not one thing more."""
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "review.html").as_uri())
    page.wait_for_load_state("networkidle")
    page.close()
    assert [url for url in asked if not url.startswith("data:")] == [sheet.url]
