from __future__ import annotations

import datetime as dt
import hashlib
import io
import math
import threading
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import insert

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import evidence
from imagepipeline_dagster.moderation.duplicates import HASH_METHOD
from imagepipeline_dagster.moderation.evidence import ScoreInvalid, hashes_of, scores_of
from imagepipeline_dagster.moderation.moderating import Moderation, moderate_set
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.previews import thumbnail
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.storage.contract import image_path, thumbnail_path
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.moderation.classifiers import Given
from tests.moderation.judging import sample


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    opened = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


def stored(storage: LocalFolder, number: int, **changes: Any) -> GeneratedImage:  # noqa: ANN401
    """Return a sample whose small picture and thumbnail are in the storage."""
    picture = Image.linear_gradient("L").resize((32, 32)).rotate(number * 7).convert("RGB")
    picture.putpixel((0, 0), (number % 256, number // 256, 7))
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    data = encoded.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    storage.write(image_path(sha256, "PNG"), data)
    storage.write(thumbnail_path(sha256), thumbnail(picture))
    return unchecked(number, **{"image_sha256": sha256, "bytes": len(data), **changes})


def unchecked(number: int, **changes: Any) -> GeneratedImage:  # noqa: ANN401 - the row's own
    """Return a sample that came unchecked."""
    return sample(f"p{number:05d}", **{"safety_checker": False, **changes})


class Unreadable(LocalFolder):
    """A storage that nothing may be read from."""

    def read(self, path: str) -> bytes:
        """Fail the test."""
        raise AssertionError(f"{path} was read")


def test_scores_are_computed_once_for_a_picture_and_a_model(
    storage: LocalFolder, ledger: Ledger
) -> None:
    """A second pass asks the model nothing and reads nothing; another model looks for itself."""
    images = [stored(storage, number) for number in range(20)]
    twice = [*images, images[0]]
    first = Given({str(images[3].image_sha256): 0.75})
    scores = scores_of(twice, first, ledger=ledger, storage=storage)
    assert (scores.computed, first.looked_at, len(scores.scores)) == (20, 20, 20)
    assert max(first.batches) <= 16
    assert scores.scores[str(images[3].image_sha256)] == 0.75

    again = scores_of(
        images, first, ledger=ledger, storage=Unreadable(Path(storage.uri.removeprefix("file://")))
    )
    assert (again.computed, again.scores, first.looked_at) == (0, scores.scores, 20)

    other = Given(otherwise=0.2, model_sha256="b" * 64)
    third = scores_of(images, other, ledger=ledger, storage=storage)
    assert (third.computed, set(third.scores.values())) == (20, {0.2})


def test_a_crash_loses_one_batch_at_most(storage: LocalFolder, ledger: Ledger) -> None:
    """Scores are stored batch by batch: those computed before a failure are not computed again."""
    images = [stored(storage, number) for number in range(40)]

    class Breaking(Given):
        def score(self, pictures: Sequence[bytes]) -> Sequence[float]:
            if self.batches:
                raise RuntimeError("the model broke")
            return super().score(pictures)

    with pytest.raises(ScoreInvalid, match="the model broke"):
        scores_of(images, Breaking(), ledger=ledger, storage=storage)
    after = Given()
    assert scores_of(images, after, ledger=ledger, storage=storage).computed == 40 - 16


def test_the_next_batch_is_read_while_the_model_looks(storage: LocalFolder, ledger: Ledger) -> None:
    """A distant bucket does not keep the model waiting: its pictures come meanwhile."""
    images = [stored(storage, number) for number in range(32)]
    second_batch = threading.Event()

    class Watched(LocalFolder):
        def read(self, path: str) -> bytes:
            if path == image_path(str(images[16].image_sha256), "PNG"):
                second_batch.set()
            return super().read(path)

    class Waiting(Given):
        def score(self, pictures: Sequence[bytes]) -> Sequence[float]:
            assert second_batch.wait(10)
            return super().score(pictures)

    watched = Watched(Path(storage.uri.removeprefix("file://")))
    assert scores_of(images, Waiting(), ledger=ledger, storage=watched).computed == 32


def test_a_picture_whose_bytes_are_gone_has_no_score(storage: LocalFolder, ledger: Ledger) -> None:
    """A lost picture is not guessed about: it has no score, and is set aside."""
    here, gone = stored(storage, 1), unchecked(2, image_sha256="0" * 64)
    found = scores_of([here, gone], Given(), ledger=ledger, storage=storage)
    assert set(found.scores) == {here.image_sha256}
    policy = ModerationPolicy(unchecked="classify")
    moderation = moderated([here, gone], policy, ledger, storage, Given())
    assert [row.verdict for row in moderation.images] == ["kept", "quarantined"]


def test_hashes_are_computed_once(storage: LocalFolder, ledger: Ledger) -> None:
    """Perceptual hashes come from thumbnails, and a second time from the ledger."""
    images = [stored(storage, number) for number in range(6)]
    found = hashes_of(
        [*images, unchecked(9, image_sha256="0" * 64)], ledger=ledger, storage=storage
    )
    assert set(found) == {image.image_sha256 for image in images}
    blind = Unreadable(Path(storage.uri.removeprefix("file://")))
    assert hashes_of(images, ledger=ledger, storage=blind) == found


_NUMBERS = count()


class Named:
    """What makes the classifiers of policies, each under a name of its own."""


def moderated(
    images: Sequence[GeneratedImage],
    policy: ModerationPolicy,
    ledger: Ledger,
    storage: LocalFolder,
    classifier: Given,
) -> Moderation:
    """Moderate the set with the given classifier, which the policy names."""
    name = f"given_{next(_NUMBERS)}"
    setattr(Named, name, lambda: classifier)
    return moderate_set(
        images,
        prompt_set="spring",
        dataset="image_dataset",
        policy=policy.changed(classifier=f"{__name__}:Named.{name}"),
        overrides=[],
        ledger=ledger,
        storage=storage,
    )


def test_only_what_the_policy_names_is_classified(storage: LocalFolder, ledger: Ledger) -> None:
    """Blank pictures and those that the policy believes are not shown to the classifier."""
    images = [
        stored(storage, 1),
        stored(storage, 2, safety_checker=True),
        stored(storage, 3, value_range=0),
        stored(storage, 4, outcome="failed", image_sha256=None),
    ]
    for policy, looked_at in (
        (ModerationPolicy(), 0),
        (ModerationPolicy(unchecked="classify"), 1),
        (ModerationPolicy(checked="classify", for_sets={"spr*": {"unchecked": "classify"}}), 2),
    ):
        classifier = Given(model_sha256=policy.rules_for("spring").digest * 2)
        moderation = moderated(images, policy, ledger, storage, classifier)
        assert (classifier.looked_at, moderation.classified) == (looked_at, looked_at)
        named = {row.nsfw_model for row in moderation.images if row.nsfw_score is not None}
        assert named == ({classifier.model_sha256} if looked_at else set())


@pytest.mark.slow
def test_ten_thousand_verdicts_are_replayed_from_what_is_known(
    ledger: Ledger, tmp_path: Path
) -> None:
    """A new threshold over 10,000 rows reads no picture and asks no model."""
    images = [
        unchecked(n, image_sha256=hashlib.sha256(b"%d" % n).hexdigest()) for n in range(10_000)
    ]
    classifier = Given()
    now = dt.datetime.now(dt.UTC)
    with ledger.engine.begin() as connection:
        connection.execute(
            insert(evidence),
            [
                {
                    "image_sha256": image.image_sha256,
                    "method": classifier.model_sha256,
                    "score": number / 10_000,
                    "measured_at": now,
                }
                for number, image in enumerate(images)
            ],
        )
        connection.execute(
            insert(evidence),
            [
                {
                    "image_sha256": image.image_sha256,
                    "method": HASH_METHOD,
                    "hash": str(image.image_sha256)[:16],
                }
                for image in images
            ],
        )
    policy = ModerationPolicy(unchecked="classify", near_duplicate_distance=4)
    storage = Unreadable(tmp_path)
    before = moderated(images, policy, ledger, storage, classifier)
    stricter = policy.model_copy(update={"reject_score": 0.5, "quarantine_score": 0.2})
    after = moderated(images, stricter, ledger, storage, classifier)

    def rejected(moderation: Moderation) -> int:
        return sum(row.verdict == "rejected" for row in moderation.images)

    assert (rejected(before), rejected(after)) == (2_000, 5_000)
    assert (classifier.looked_at, after.classified) == (0, 0)


@pytest.mark.parametrize("answer", [math.nan, -1, 2, math.inf, None, "0.5", True])
def test_what_is_no_score_is_refused(storage: LocalFolder, ledger: Ledger, answer: object) -> None:
    """A score that is no number from 0 to 1 names its classifier, and nothing of it is stored."""
    image = stored(storage, 1)
    wrong = Given({str(image.image_sha256): answer})  # type: ignore[dict-item] # on purpose
    with pytest.raises(ScoreInvalid, match=r"tests\.moderation\.classifiers:Given gave picture"):
        scores_of([image], wrong, ledger=ledger, storage=storage)
    assert scores_of([image], Given(), ledger=ledger, storage=storage).computed == 1


def test_each_picture_has_one_score(storage: LocalFolder, ledger: Ledger) -> None:
    """A classifier that answers too few or too many scores is refused by name."""

    class Short(Given):
        def score(self, pictures: Sequence[bytes]) -> Sequence[float]:
            return super().score(pictures)[1:]

    images = [stored(storage, number) for number in range(2)]
    with pytest.raises(ScoreInvalid, match="Short gave 1 scores for 2 pictures"):
        scores_of(images, Short(), ledger=ledger, storage=storage)


def test_a_stored_score_that_is_none_is_computed_anew(storage: LocalFolder, ledger: Ledger) -> None:
    """A score of 7 in the ledger's table keeps nothing: the picture is shown again."""
    image = stored(storage, 1)
    row = {
        "image_sha256": image.image_sha256,
        "method": "a" * 64,
        "score": 7.0,
        "measured_at": dt.datetime.now(dt.UTC),
    }
    with ledger.engine.begin() as connection:
        connection.execute(insert(evidence).values(row))
    for computed in (1, 0):
        found = scores_of([image], Given(), ledger=ledger, storage=storage)
        assert (found.computed, set(found.scores.values())) == (computed, {0.1})
