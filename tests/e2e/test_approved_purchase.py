"""From a table to a release on an API that asks for a key, as a person does it in the UI."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import opened_page, saving_screenshots
from tests.e2e.serving import serve
from tests.processes import COMMAND, environment, serving_emulator
from tests.waiting import until

_KEY = "sk-of-the-browser-test"
_SET = "portraits"
_APPROVAL = f"""\
ops:
  approve_sets:
    config:
      sets: [{_SET}]
      up_to: 5
      who: ana
      why: the spring catalogue
"""


@pytest.fixture
def variables(chromium: str, tmp_path: Path) -> Iterator[dict[str, str]]:  # noqa: ARG001
    """The environment of a project that buys at an API with a key: an emulator of its own."""
    with serving_emulator("--api-key", _KEY, "--latency", "0.1", cwd=tmp_path) as url:
        yield {
            "IMAGEPIPELINE_API_KEY": _KEY,
            "IMAGEPIPELINE_BASE_URL": url,
            "IMAGEPIPELINE_STORAGE": str(tmp_path / "storage"),
        }


@pytest.mark.slow
def test_a_plan_is_approved_in_the_launchpad_and_bought(
    browser: Browser, tmp_path: Path, variables: dict[str, str]
) -> None:
    """A person registers, looks at prices, approves and reviews; a release has what was kept.

    Nothing is bought before the approval, and a picture that was rejected is not released.
    """
    definitions = Path(__file__).with_name("approved_definitions.py")
    with (
        serve(tmp_path, definitions=definitions, variables=variables) as served,
        opened_page(browser, served) as page,
    ):
        screenshot = saving_screenshots(page)
        _launch(page, "register_prompt_sets")
        assert _SET in served.prompt_sets()

        _launch(page, "plan_prompt_sets")
        page.get_by_text("Show Markdown").first.click()
        expect(page.get_by_text("0.24 EUR")).to_be_visible()
        page.set_viewport_size({"width": 1360, "height": 560})
        screenshot("plan_with_prices", picture="plan-with-prices.png")
        page.set_viewport_size({"width": 1360, "height": 1000})
        assert _KEY not in page.content()
        assert served.runs(_SET) == []

        show = partial(screenshot, "approval", picture="approval.png")
        _launch(page, "approve_plan", config=_APPROVAL, look=show)
        bought = served.wait_for_next_run(_SET, after=[])
        assert bought.sensor == "approvals_sensor"
        figures = served.figures("generated_images", prompt_set=_SET, run_id=bought.run_id)
        assert figures["bought"] == 12

        with _reviewing(tmp_path, variables) as url:
            page.goto(url)
            expect(page.get_by_text("kept: ok").first).to_be_visible()
            page.keyboard.press("r")
            expect(page.get_by_text("rejected by ana")).to_be_visible()
            page.set_viewport_size({"width": 1180, "height": 660})
            screenshot("review", picture="review-page.webp")
        _start(page, "moderation_overrides_sensor")
        served.wait_for_next_run(_SET, after=[bought])

        _open_job(page, "release_image_dataset")
        page.get_by_role("button", name="Materialize").first.click()
        manifest = served.releases / "v0001/manifest.json"
        until(manifest.is_file, what="the release")
        page.goto("/assets/image_dataset")
        expect(page.get_by_text("v0001").first).to_be_visible()
        screenshot("release")
        assert json.loads(manifest.read_text())["counts"]["kept"] == 11


def _open_job(page: Page, job: str) -> None:
    page.goto("/jobs")
    page.get_by_role("link").filter(has_text=job).first.click()


def _launch(
    page: Page, job: str, *, config: str | None = None, look: Callable[[], None] = lambda: None
) -> None:
    """Launch a job from its Launchpad, and wait until it has succeeded."""
    _open_job(page, job)
    page.get_by_text("Launchpad", exact=True).click()
    button = page.get_by_role("button", name="Launch Run")
    expect(button).to_be_enabled()
    if config is not None:
        page.locator(".CodeMirror").first.click()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(config)
        expect(page.get_by_text("No errors", exact=True)).to_be_visible()
    look()
    button.click()
    page.wait_for_url("**/runs/*")
    expect(page.get_by_text("RUN_SUCCESS", exact=True).first).to_be_visible()


def _start(page: Page, sensor: str) -> None:
    """Switch a sensor on, at its page."""
    page.goto("/automation")
    page.get_by_role("link", name=sensor).click()
    page.wait_for_url(f"**/sensors/{sensor}")
    # The page of the sensors has boxes to tick, too.
    expect(page.get_by_text("moderate_prompt_set").first).to_be_visible()
    page.locator("label:has(input[type=checkbox])").first.click()


@contextmanager
def _reviewing(folder: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """Serve the pages of the review, and give their address."""
    options = ["--serve", "--json", "--who", "ana"]
    with subprocess.Popen(  # noqa: S603
        [*COMMAND, "review", _SET, *options],
        cwd=folder,
        env=environment(PYTHONUNBUFFERED="1", **variables),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, "the review ended"
            text += line
        try:
            yield json.loads(text)["url"]
        finally:
            process.terminate()
            process.wait(10)
