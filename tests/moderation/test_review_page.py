"""The review page over HTTP, on a real storage and real tables."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest
from starlette.testclient import TestClient

from imagepipeline_dagster.moderation.review.app import review_app
from imagepipeline_dagster.moderation.review.samples import sets_that_wait
from imagepipeline_dagster.moderation.review.session import ReviewSession
from imagepipeline_dagster.moderation.verdicts import ModeratedImage, latest_decisions
from imagepipeline_dagster.rows import StoredTable
from imagepipeline_dagster.storage.contract import image_path
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.tables.overrides import (
    OverrideDecision,
    read_overrides,
    record_overrides,
)
from tests.moderation.judging import decided
from tests.moderation.test_review import HOSTILE, ROWS, row, storage

__all__ = ["storage"]  # a fixture that the tests below use

KEPT, REJECTED, WAITING = ("a" * 64, "b" * 64, "c" * 64)
TOKEN = "not-to-be-guessed"
ORIGIN = "http://127.0.0.1:8123"


@pytest.fixture
def page(storage: LocalFolder, sqlite_url: str) -> TestClient:
    """A client of the page, as its own script asks."""
    for sha256 in (KEPT, REJECTED, WAITING):
        storage.write(image_path(sha256, "PNG"), b"bytes of " + sha256.encode())
    session = ReviewSession(ROWS, storage, tables_url=sqlite_url, reviewer=HOSTILE[1])
    app = review_app(session, title=HOSTILE[0], token=TOKEN)
    return TestClient(app, base_url=f"{ORIGIN}/{TOKEN}/", headers={"origin": ORIGIN})


def decide(page: TestClient, decision: str, sha256: str = WAITING, **more: Any) -> Any:  # noqa: ANN401
    """Send a decision as the page does."""
    asked = {"decision": decision, "prompt_set": "spring", "image_sha256": sha256, **more}
    return page.post("decisions", json=asked)


def recorded(url: str) -> list[tuple[str, str | None, str | None, str]]:
    """Return each decision in the table, with what it is about and why."""
    return [(o.decision, o.prompt_set, o.image_sha256, o.reason) for o in read_overrides(url)]


def test_a_decision_is_a_row_at_once(page: TestClient, sqlite_url: str) -> None:
    """Each decision names picture, set, reviewer and reason, and the page is told the verdict."""
    answer = decide(page, "keep", reason=" a statue ").json()
    assert (answer["verdict"], answer["decision"], answer["recorded"]) == ("kept", "keep", 1)
    assert recorded(sqlite_url) == [("keep", "spring", WAITING, "a statue")]
    assert decide(page, "reject", KEPT).json()["verdict"] == "rejected"
    assert recorded(sqlite_url)[1] == ("reject", "spring", KEPT, "looked at it")
    assert {o.reviewer for o in read_overrides(sqlite_url)} == {HOSTILE[1]}
    by_picture = {s["decided"]["image_sha256"]: s["decided"] for s in page.get("samples").json()}
    assert {key[0]: (d["verdict"], d["why"]) for key, d in by_picture.items()} == {
        "a": ("rejected", "looked at it"),
        "b": ("rejected", None),
        "c": ("kept", "a statue"),
    }


def test_undo_brings_back_what_stood_before(page: TestClient, sqlite_url: str) -> None:
    """Each undo takes back one decision: the former one stands again, or nobody's at all."""
    for decision in ("keep", "reject"):
        decide(page, decision)
    undone = [page.post("decisions", json={"decision": "undo"}) for _ in range(3)]
    assert [answer.status_code for answer in undone] == [200, 200, 409]
    assert [undone[0].json()["verdict"], undone[1].json()["verdict"]] == ["kept", "quarantined"]
    assert undone[1].json()["recorded"] == 0
    assert "Nothing was decided" in undone[2].json()["error"]
    assert [row[0] for row in recorded(sqlite_url)] == ["keep", "reject", "keep", "clear"]


def test_undo_leaves_anothers_later_decision_alone(page: TestClient, sqlite_url: str) -> None:
    """What somebody else decided since then stands."""
    decide(page, "keep")
    theirs = dataclasses.replace(
        read_overrides(sqlite_url)[0], decision=OverrideDecision.REJECT, reviewer="ben"
    )
    record_overrides(sqlite_url, [theirs])
    refused = page.post("decisions", json={"decision": "undo"})
    assert (refused.status_code, len(recorded(sqlite_url))) == (409, 2)
    assert "Somebody has decided anew" in refused.json()["error"]


def test_undo_brings_back_what_another_decided_meanwhile(page: TestClient, sqlite_url: str) -> None:
    """What somebody else decided after the page was loaded stands again, and is not cleared."""
    page.get("samples")
    decide(page, "reject", KEPT)
    theirs = decided(
        "reject",
        at=dt.datetime.now(dt.UTC),
        prompt_set="spring",
        image_sha256=KEPT,
        reviewer="ben",
    )
    record_overrides(sqlite_url, [theirs])
    decide(page, "keep", KEPT)
    undone = page.post("decisions", json={"decision": "undo"}).json()
    assert (undone["verdict"], undone["decision"]) == ("rejected", "reject")
    again = page.post("decisions", json={"decision": "undo"})
    assert again.status_code == 409
    assert [row[0] for row in recorded(sqlite_url)] == ["reject", "reject", "keep", "reject"]


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        (f"{ORIGIN}/another-token/samples", {}),
        (f"{ORIGIN}/", {}),
        (f"{ORIGIN}/{TOKEN}/samples", {"host": "rebound.example:8123"}),
        (f"{ORIGIN}/{TOKEN}/samples", {"host": "127.0.0.1:9999"}),
        (f"{ORIGIN}/{TOKEN}/samples", {"origin": "https://elsewhere.example"}),
        (f"{ORIGIN}/{TOKEN}/samples", {"origin": "null"}),
        (f"{ORIGIN}/{TOKEN}/samples", {"origin": "http://127.0.0.1:9999"}),
        (f"{ORIGIN}/{TOKEN}/decisions", {"origin": "https://elsewhere.example"}),
        (f"{ORIGIN}/{TOKEN}/decisions", {"origin": "null"}),
        (f"{ORIGIN}/{TOKEN}/decisions", {"origin": None}),
        (f"{ORIGIN}/{TOKEN}/decisions", {"host": "rebound.example:8123"}),
        (f"{ORIGIN}/{TOKEN}x/decisions", {}),
    ],
)
def test_other_pages_are_refused(
    page: TestClient, sqlite_url: str, url: str, headers: dict[str, str | None]
) -> None:
    """Without the secret, under a foreign name or from another origin nothing is told or done."""
    for name, value in headers.items():
        page.headers.pop(name, None)
        if value is not None:
            page.headers[name] = value
    if url.endswith("decisions"):
        asked = {"decision": "keep", "prompt_set": "spring", "image_sha256": WAITING}
        answer = page.post(url, json=asked)
    else:
        answer = page.get(url)
    assert (answer.status_code, recorded(sqlite_url)) == (403, [])
    assert "spring" not in answer.text


def test_only_pictures_of_the_sets_are_served(page: TestClient, storage: LocalFolder) -> None:
    """A picture is looked up by its SHA-256 among the page's own, and is a picture alone."""
    storage.write(image_path("d" * 64, "PNG"), b"of another set")
    served = page.get(f"pictures/{KEPT}")
    assert served.content == b"bytes of " + KEPT.encode()
    assert served.headers["content-type"] == "image/png"
    assert page.get(f"thumbnails/{KEPT}").headers["content-type"] == "image/webp"
    for path in (
        *(f"pictures/{'d' * 64}", f"thumbnails/{WAITING}", f"pictures/{KEPT}.png"),
        *("pictures/..%2F..%2Ftables.db", "thumbnails/..%2F..%2Fledger.db", "session.py"),
    ):
        assert page.get(path).status_code == 404, path


def test_what_is_no_decision_is_refused(page: TestClient, sqlite_url: str) -> None:
    """Other words, pictures, methods and sizes change nothing, and nothing is repeated of them."""
    for answer, status in (
        (decide(page, "clear"), 400),
        (decide(page, "keep", more=1), 400),
        (decide(page, "keep", "e" * 64), 409),
        (decide(page, "keep", reason="x" * 501), 400),
        (decide(page, "keep", reason="x" * 20_000), 413),
        (page.post("decisions", content=b"\xff"), 400),
        (page.put("decisions"), 405),
        (page.post("samples"), 405),
        (page.delete("decisions"), 405),
    ):
        assert answer.status_code == status
        assert "xxx" not in answer.text
    assert recorded(sqlite_url) == []


def test_no_text_becomes_markup_and_no_script_runs_but_its_own(page: TestClient) -> None:
    """The page has no text of the tables but title and reviewer, and its policy binds it."""
    answer = page.get(".")
    assert "<script>window" not in answer.text
    assert "&lt;script&gt;window.ran" in answer.text
    assert answer.text.count("<script") == 1
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    samples = page.get("samples")
    assert samples.headers["content-type"] == "application/json"
    for each in (answer, samples, page.get("page.js"), page.get("no/such/thing")):
        assert each.headers["x-content-type-options"] == "nosniff"
        assert each.headers["cache-control"] == "no-store"
        assert each.headers["cross-origin-resource-policy"] == "same-origin"
    assert "\u202e" not in samples.text


def test_the_sets_that_wait_are_those_with_an_open_picture(
    storage: LocalFolder, sqlite_url: str
) -> None:
    """A set is left out when nothing waits in it, or people decided about all that does."""

    def store(name: str, *images: ModeratedImage) -> None:
        rows = [dataclasses.replace(image, prompt_set=name) for image in images]
        stored = StoredTable.of(rows, ModeratedImage)
        storage.write(f"moderated_images/{name}.parquet", stored.encoded)

    store("decided", row("quarantined", "unchecked", WAITING))
    store("done", ROWS[0], row("quarantined", "pending", None))
    store("open", *ROWS)

    def waiting() -> list[str]:
        decisions = latest_decisions(read_overrides(sqlite_url))
        found = sets_that_wait(storage, "moderated_images", decisions)
        return [images[0].prompt_set for images in found]

    assert waiting() == ["decided", "open"]
    ours = decided("quarantine", prompt_set="decided", image_sha256=WAITING)
    record_overrides(sqlite_url, [ours])
    assert waiting() == ["open"]
    record_overrides(sqlite_url, [dataclasses.replace(ours, decision=OverrideDecision.CLEAR)])
    assert waiting() == ["decided", "open"]
