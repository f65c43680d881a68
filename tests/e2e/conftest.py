"""A running Dagster, and a browser that looks at it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, expect, sync_playwright

from tests.e2e.serving import ServedPipeline, serve

_PICTURES = Path(__file__).parents[2] / "docs/images"
_SCREENSHOTS = Path(__file__).with_name("screenshots")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A busy machine takes its time to draw a page.
_TIMEOUT_MS = 30_000


class Screenshot(Protocol):
    """Saves what a page shows now."""

    def __call__(
        self, name: str, *, picture: str | None = None, clip: FloatRect | None = None
    ) -> None:
        """Save it, or a part of it, under a name, and as a picture of the documents."""


@pytest.fixture(scope="session")
def chromium() -> str:
    """The system's browser; without one the tests of the UI are skipped."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine: `apt-get install chromium` brings one")
    return found


@pytest.fixture(scope="module")
def pipeline(
    chromium: str,  # noqa: ARG001 - without a browser nothing is served
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServedPipeline]:
    """The pipeline served by a real Dagster, sensors and daemon included.

    They work all the time that it is served: no longer than a module wants them.
    """
    with serve(tmp_path_factory.mktemp("dagster")) as served:
        yield served


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """A browser for one module: other modules' tests want no event loop of Playwright's."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        expect.set_options(timeout=_TIMEOUT_MS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, pipeline: ServedPipeline) -> Iterator[Page]:
    """A fresh page; an address that begins with / leads to the served UI."""
    with opened_page(browser, pipeline) as page:
        yield page


@contextmanager
def opened_page(browser: Browser, pipeline: ServedPipeline) -> Iterator[Page]:
    """Give a fresh page on a served UI."""
    page = browser.new_page(base_url=pipeline.url, viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(_TIMEOUT_MS)
    yield page
    page.close()


@pytest.fixture
def screenshot(page: Page) -> Screenshot:
    """Save what the page shows now under a name, for people to look at."""
    return saving_screenshots(page)


def saving_screenshots(page: Page) -> Screenshot:
    """Return what saves a page as it is shown now, under a name.

    `picture` names the file that the documents show of it, which `make pictures` renews.
    """
    _SCREENSHOTS.mkdir(exist_ok=True)

    def save(name: str, *, picture: str | None = None, clip: FloatRect | None = None) -> None:
        file = _SCREENSHOTS / f"{name}.png"
        page.screenshot(path=file, clip=clip, animations="disabled")
        if picture is not None and os.environ.get("RENEW_PICTURES"):
            shown = Image.open(file).convert("RGB")
            if picture.endswith(".png"):
                shown = shown.quantize(64)
            shown.save(_PICTURES / picture, optimize=True, quality=85)

    return save
