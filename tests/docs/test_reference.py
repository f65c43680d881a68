"""The documents agree with the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.reference import PAGES
from tests.processes import PROJECT

DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])


@pytest.mark.parametrize(("page", "written"), PAGES.items(), ids=[page.stem for page in PAGES])
def test_a_generated_page_is_current(page: Path, written: Callable[[], str]) -> None:
    """Each command, each of its options and each option of a dataset is documented."""
    assert page.read_text() == written(), "run `make docs`"


def test_each_promise_names_a_test() -> None:
    """Every test that the page of promises names is there."""
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (PROJECT / "docs/promises.md").read_text())
    assert len(named) > 20
    for file, name in named:
        names = {
            node.name
            for node in ast.walk(ast.parse((PROJECT / file).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in names, f"{file} has no {name}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=[page.stem for page in DOCUMENTS])
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file of this project has a file, and each anchor a heading."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), link
        if anchor:
            assert anchor in _anchors(linked), link


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_page_is_reachable_from_the_readme() -> None:
    """The README links every document of the folder, but for the pages of pages."""
    linked = set(re.findall(r"docs/([\w-]+\.md)", (PROJECT / "README.md").read_text()))
    assert {page.name for page in (PROJECT / "docs").glob("*.md")} == linked


def test_pictures_are_small() -> None:
    """A picture of the documents has less than 150 kB."""
    pictures = list((PROJECT / "docs/images").iterdir())
    assert pictures
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
