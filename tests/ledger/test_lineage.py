"""From an image, however it is named, back to all that it comes from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind
from imagepipeline_dagster.ledger.decisions import LedgerDecision, decide, unknown_requests
from imagepipeline_dagster.ledger.lineage import ImageLineage, ImageUnknown, lineage_of
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.storage.contract import thumbnail_path
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow
from tests.buying import Bought, Buyer, numbered_rows, prompts_of

STYLE = EmbeddingRow(embedding_id="style", trigger_words=("styled",), version="7")


def traced(buyer: Buyer, image: str) -> ImageLineage:
    """Return an image's lineage out of a ledger that is only read."""
    ledger = Ledger(buyer.ledger_url, create=False)
    try:
        return lineage_of(ledger, image)
    finally:
        ledger.close()


def only_image(bought: Bought) -> tuple[GeneratedImage, str, Path]:
    """Return the single image that was bought, its SHA-256 and its file."""
    (image,) = bought.images
    assert image.image_sha256 is not None
    assert image.uri is not None
    return image, image.image_sha256, Path(urlsplit(image.uri).path)


def test_an_image_leads_back_to_everything(buyer: Buyer, emulator: EmulatorServer) -> None:
    """The chain has the rows as they were, the exact request, seed, job, run and times."""
    row = numbered_rows(1, embeddings="style", seed=5)[0]
    bought = buyer.buy(prompts_of([row], {"style": STYLE}), run_id="run-1")
    image, sha256, _ = only_image(bought)

    (origin,) = traced(buyer, sha256).samples

    sample, entry, job = origin.sample, origin.entry, origin.job
    (use,) = origin.uses
    assert (use.dataset, use.prompt_set, use.prompt_id, use.call_index) == (
        *("images", "spring", "p0000", 0),
    )
    assert json.loads(use.prompt_row)["prompt"] == "boat number 0"
    assert use.embedding_row is not None
    assert json.loads(use.embedding_row)["version"] == "7"
    assert entry.request == image.request
    assert json.loads(entry.request)["prompt"] == "boat number 0, styled"
    assert (origin.seed, entry.samples, sample.sample_index) == (5, 1, 0)
    assert (entry.embedding_version, entry.task) == ("7", "text2image")
    assert (job.job_id, job.run_id) == (image.job_id, "run-1")
    assert entry.endpoint == f"{emulator.url}/sdxl/text2image/v1"
    assert entry.emulated
    assert sample.outcome == "generated"
    assert (job.submitted_at, sample.stored_at) == (image.submitted_at, image.completed_at)
    assert (sample.uri, sample.format, sample.bytes) == (image.uri, image.format, image.bytes)
    assert not origin.earlier
    assert not origin.decisions


def test_every_name_of_an_image_finds_it(buyer: Buyer, tmp_path: Path) -> None:
    """A hash, its beginning, a file, a copy, a thumbnail and a URI all lead to the same image."""
    image, sha256, file = only_image(buyer.buy(prompts_of(numbered_rows(1))))
    copy = tmp_path / "holiday.png"
    copy.write_bytes(file.read_bytes())
    thumbnail = buyer.folder / thumbnail_path(sha256)
    names = [
        sha256,
        sha256.upper(),
        sha256[:8],
        str(file),
        str(copy),
        copy.as_uri(),
        str(thumbnail),
        thumbnail.as_uri(),
        str(image.uri),
        f"s3://bucket/prefix/images/{sha256[:2]}/{sha256}.png",
        f"/nowhere/images/{sha256[:2]}/{sha256}.png",
    ]
    for name in names:
        assert traced(buyer, name).image_sha256 == sha256


def test_what_is_no_image_of_ours_is_said_plainly(buyer: Buyer, tmp_path: Path) -> None:
    """Unknown bytes, missing files, foreign links, short names and changed files are refused."""
    _, sha256, file = only_image(buyer.buy(prompts_of(numbered_rows(1))))
    other = tmp_path / "other.png"
    other.write_bytes(b"something else")
    cases = {
        "0" * 64: "knows no image",
        "0" * 8: "begins with 00000000",
        str(other): hashlib.sha256(b"something else").hexdigest(),
        str(tmp_path / "absent.png"): "is no file",
        sha256[:7]: "is no file",
        f"https://host/{sha256}.png": "not the URI",
        "s3://bucket/photo.png": "not the URI",
    }
    for name, message in cases.items():
        with pytest.raises(ImageUnknown, match=message):
            traced(buyer, name)
    file.write_bytes(file.read_bytes() + b"!")
    with pytest.raises(ImageUnknown, match="changed after it was stored"):
        traced(buyer, str(file))


def test_a_ledger_that_is_not_there_knows_no_image(buyer: Buyer) -> None:
    """Without a ledger no image is known, and none is made by asking."""
    with pytest.raises(ImageUnknown, match="knows no image"):
        traced(buyer, "0" * 64)
    assert not (buyer.folder.parent / "ledger.db").exists()


def test_a_request_that_two_prompts_share_names_both(buyer: Buyer) -> None:
    """Two rows that ask for the same picture are both named, for it was bought once."""
    rows = [
        PromptRow(prompt_set="spring", prompt_id=name, prompt="the same boat", seed=1)
        for name in ("a", "b")
    ]
    bought = buyer.buy(prompts_of(rows))
    (sample,) = traced(buyer, str(bought.images[0].image_sha256)).samples
    assert sorted(use.prompt_id for use in sample.uses) == ["a", "b"]


def test_earlier_jobs_and_decisions_stay_known(buyer: Buyer, emulator: EmulatorServer) -> None:
    """An image that took a lost answer, a decision and a failed job names all of them."""
    prompts = prompts_of(numbered_rows(1))
    emulator.set_faults(Fault(kind=FaultKind.DROPPED_ANSWER, times=1))
    buyer.buy(prompts, run_id="first")
    emulator.set_faults(Fault(kind=FaultKind.JOB_FAILURE, times=1))
    for why in ("lost", "failed"):
        with buyer.open_ledger() as ledger:
            keys = [request.request_key for request in unknown_requests(ledger)] or [
                call.request_key for call in buyer.plan(prompts)
            ]
            decide(ledger, keys, LedgerDecision.RESUBMIT, who="mira", why=why)
        bought = buyer.buy(prompts, run_id=f"after {why}")
    _, sha256, _ = only_image(bought)

    (sample,) = traced(buyer, sha256).samples

    assert [attempt.failure for attempt in sample.earlier] == ["resubmitted", "model_error"]
    assert [attempt.run_id for attempt in sample.earlier] == ["first", "after lost"]
    lost, failed = sample.earlier
    assert lost.job_id is None
    assert failed.job_id not in (None, sample.job.job_id)
    assert "may have been bought" in str(lost.error)
    assert [decision.why for decision in sample.decisions] == ["lost", "failed"]
    assert sample.job.run_id == "after failed"
