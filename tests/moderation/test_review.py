from __future__ import annotations

import csv
import dataclasses
import html
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import escape

from imagepipeline_dagster.moderation.decisions import OVERRIDE_COLUMNS
from imagepipeline_dagster.moderation.review.sheet import review_sheet
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.previews import thumbnail
from imagepipeline_dagster.storage.contract import thumbnail_path
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.moderation.test_duplicates import drawn

HOSTILE = (
    "<script>window.ran = 1</script>",
    '"><img src=x onerror="window.ran = 1">',
    "</p></article><iframe srcdoc='<script>parent.ran = 1</script>'>",
    "javascript:window.ran=1 &lt;b&gt; ${title} $title \u202e reversed",
)


@pytest.fixture
def storage(tmp_path: Path) -> LocalFolder:
    """A storage with two thumbnails, and a page where a third should be."""
    storage = LocalFolder(tmp_path / "storage")
    for place, sha256 in enumerate(("a" * 64, "b" * 64)):
        storage.write(thumbnail_path(sha256), thumbnail(drawn(place * 40)))
    storage.write(thumbnail_path("c" * 64), b"<html><script>window.ran = 1</script></html>")
    return storage


def row(verdict: str, reason: str, sha256: str | None, prompt: str = "a fox") -> ModeratedImage:
    """Return a sample with its verdict."""
    return ModeratedImage(
        prompt_set="spring",
        prompt_id=f"{prompt[:30]} of {verdict}",
        call_index=0,
        sample_index=0,
        outcome="undecodable" if sha256 is None else "generated",
        content_version="c1",
        prompt=prompt,
        image_sha256=sha256,
        format=None if sha256 is None else "PNG",
        verdict=verdict,
        moderation_reason=reason,
        nsfw_score=0.875 if reason == "nsfw" else None,
    )


ROWS = [
    row("kept", "ok", "a" * 64),
    row("rejected", "nsfw", "b" * 64, HOSTILE[0]),
    row("quarantined", "unchecked", "c" * 64, HOSTILE[1]),
    row("rejected", "undecodable", None, HOSTILE[2]),
    row("rejected", "failed", None, HOSTILE[3]),
]


class Tags(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the element."""
        self.found.append((tag, dict(attrs)))


def test_no_text_becomes_markup(storage: LocalFolder) -> None:
    """Whatever prompts say, the sheet has its own elements and no script, link or handler."""
    page = review_sheet(ROWS, storage, title=HOSTILE[0], reviewer=HOSTILE[1])
    tags = Tags(page).found
    names = {name for name, _ in tags}
    assert not names & {"script", "iframe", "a", "link", "form", "object", "embed", "svg"}
    for _, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:image/webp;base64,").startswith(
            "data:image/webp;base64,"
        )
    policy = next(a["content"] or "" for name, a in tags if name == "meta" and "content" in a)
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    for text in HOSTILE[:3]:
        assert escape(text) in page
    assert "\u202e" not in page


def test_only_real_thumbnails_are_pictures(storage: LocalFolder) -> None:
    """What never decoded, and whatever else lies in a thumbnail's place, is text only."""
    tags = Tags(review_sheet(ROWS, storage, title="spring")).found
    assert [a["alt"] for name, a in tags if name == "img"] == ["rejected", "kept"]
    page = review_sheet(ROWS, storage, title="spring")
    assert page.count("no picture") == 3


def test_each_decision_has_its_command_and_row(storage: LocalFolder) -> None:
    """Beside a picture stand the command and the CSV row of each verdict that it does not have."""
    page = review_sheet(
        ROWS[:1],
        storage,
        title="spring",
        reviewer="Ana O'Neil",
        table="decided",
        dataset="shop/spring",
    )
    codes = [html.unescape(found) for found in re.findall(r"<code>(.*?)</code>", page)]
    commands = [shlex.split(code) for code in codes if code.startswith("imagepipeline-dagster ")]
    ours = [command for command in commands if "--image" in command]
    chosen = ["--dataset", "shop/spring", "--table", "decided"]
    assert all(command[2:6] == chosen for command in commands)
    assert [command[6] for command in ours] == ["reject", "quarantine"]
    for command in ours:
        assert command[7:] == ["--image", "a" * 64, "--who", "Ana O'Neil", "--why", "WHY"]
    rows = list(csv.reader(code for code in codes if code.startswith("a" * 64)))
    assert rows == [
        ["a" * 64, "", "", word, "Ana O'Neil", "WHY"] for word in ("reject", "quarantine")
    ]
    assert ",".join(OVERRIDE_COLUMNS) in codes


def test_the_whole_picture_is_named(storage: LocalFolder) -> None:
    """Beside a decision stands where the picture lies, as text."""
    page = review_sheet([dataclasses.replace(ROWS[0], uri="s3://b/<x>.png")], storage, title="s")
    assert "<code>s3://b/&lt;x&gt;.png</code>" in page


def test_what_needs_a_person_comes_first(storage: LocalFolder) -> None:
    """Quarantined samples stand before rejected ones, and those before the kept."""
    tags = Tags(review_sheet(ROWS, storage, title="spring")).found
    order = [a["class"] for name, a in tags if name == "article"]
    assert order == ["quarantined", "rejected", "rejected", "rejected", "kept"]
