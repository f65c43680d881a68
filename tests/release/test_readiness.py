"""What a release may take of each prompt set, by today's rules."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

import pytest
from PIL import Image

from imagepipeline_dagster.ledger.identity import LedgerMismatch
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import evidence
from imagepipeline_dagster.moderation.duplicates import HASH_METHOD
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.moderation.states import basis_of
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.previews import thumbnail
from imagepipeline_dagster.release.readiness import (
    ReadySets,
    StoredSet,
    Today,
    alike_pictures,
    ready_sets,
)
from imagepipeline_dagster.storage.contract import thumbnail_path
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.tables.overrides import Override, OverrideDecision
from tests.moderation.classifiers import Given
from tests.release.samples import NOON, kept_row, picture

POLICY = ModerationPolicy()
REJECT = Override(
    decision=OverrideDecision.REJECT,
    reviewer="ana",
    reason="blurry",
    decided_at=NOON,
    prompt_set="spring",
    prompt_id="p001",
)


def nan() -> Given:
    """Return a classifier that gives no score."""
    return Given(otherwise=math.nan, model_sha256="9" * 64)


@pytest.fixture
def stored(storage: LocalFolder) -> dict[str, list[ModeratedImage]]:
    """Return the samples of two sets, as they were kept by a policy that is still today's."""
    return {
        name: [
            kept_row(
                storage,
                number,
                prompt_set=name,
                moderation_basis=basis_of(POLICY, name, ()),
            )
            for number in range(2)
        ]
        for name in ("spring", "summer")
    }


def rules(ledger: Ledger, storage: LocalFolder, **changes: Any) -> Today:  # noqa: ANN401
    """Return what a release goes by, with these changes."""
    given: dict[str, Any] = {
        "present": {},
        "keep_removed": False,
        "dataset": "image_dataset",
        "policy": POLICY,
        "overrides": [],
    }
    return Today(ledger=ledger, storage=storage, **(given | changes))


def ready(
    stored: dict[str, list[ModeratedImage]],
    ledger: Ledger,
    storage: LocalFolder,
    **changes: Any,  # noqa: ANN401 - any argument
) -> ReadySets:
    """Return what may be released where nothing changed but what is given."""
    present = {name: {row.prompt_id for row in rows} for name, rows in stored.items()}
    sets = [StoredSet(name=name, samples=rows) for name, rows in sorted(stored.items())]
    return ready_sets(sets, rules(ledger, storage, **({"present": present} | changes)))


def ids(images: Iterable[ModeratedImage]) -> list[tuple[str, str]]:
    """Return set and id of what is kept."""
    return [(row.prompt_set, row.prompt_id) for row in images if row.verdict == "kept"]


def test_what_is_up_to_date_is_taken_as_it_is(
    stored: dict[str, list[ModeratedImage]], ledger: Ledger, storage: LocalFolder
) -> None:
    """Verdicts by today's rules are not made anew."""
    found = ready(stored, ledger, storage)
    assert list(found.images) == [*stored["spring"], *stored["summer"]]
    assert (found.judged_anew, found.stopped, found.left_out) == ([], {}, [])


def test_a_decision_of_a_minute_ago_counts(
    stored: dict[str, list[ModeratedImage]], ledger: Ledger, storage: LocalFolder
) -> None:
    """A picture that a person rejected is not released, though nothing moderated its set since."""
    found = ready(stored, ledger, storage, overrides=[REJECT])
    assert ids(found.images) == [("spring", "p000"), ("summer", "p000"), ("summer", "p001")]
    assert found.judged_anew == ["spring"]


def test_a_lost_ledger_forgets_no_rejection(
    stored: dict[str, list[ModeratedImage]], ledger: Ledger, storage: LocalFolder
) -> None:
    """A ledger that does not know where a rejected picture is makes no release."""
    image = stored["spring"][1].image_sha256
    reject = dataclasses.replace(REJECT, prompt_set=None, prompt_id=None, image_sha256=image)
    with pytest.raises(LedgerMismatch, match="knows nothing of what was bought into"):
        ready(stored, ledger, storage, overrides=[reject])


def test_the_policy_of_today_counts(
    stored: dict[str, list[ModeratedImage]], ledger: Ledger, storage: LocalFolder
) -> None:
    """Pictures that today's policy sets aside are not released."""
    doubting = ModerationPolicy(
        checked="classify", classifier="tests.moderation.classifiers:suspicious"
    )
    found = ready(stored, ledger, storage, policy=doubting)
    assert ids(found.images) == []
    assert {row.moderation_reason for row in found.images} == {"nsfw"}
    assert found.judged_anew == ["spring", "summer"]


def test_rows_and_sets_that_left_the_table_are_left_out(
    stored: dict[str, list[ModeratedImage]], ledger: Ledger, storage: LocalFolder
) -> None:
    """A deleted row is not released; a deleted set stays only where the dataset keeps such sets."""
    present = {"spring": {"p000"}}
    found = ready(stored, ledger, storage, present=present)
    assert ids(found.images) == [("spring", "p000")]
    assert found.left_out == [
        "'spring': prompts that left the prompts table: 1, as 'p001'.",
        "'summer': the prompt set left the prompts table.",
    ]
    kept = ready(stored, ledger, storage, present=present, keep_removed=True)
    assert ids(kept.images) == [("spring", "p000"), ("summer", "p000"), ("summer", "p001")]


def test_a_set_that_cannot_be_judged_stops_no_other(
    stored: dict[str, list[ModeratedImage]], ledger: Ledger, storage: LocalFolder
) -> None:
    """A classifier that gives no score leaves its set out, and names itself; others go on."""
    policy = ModerationPolicy(
        for_sets={"summer": {"checked": "classify"}},
        classifier="tests.release.test_readiness:nan",
    )
    found = ready(stored, ledger, storage, policy=policy)
    assert ids(found.images) == [("spring", "p000"), ("spring", "p001")]
    told = found.stopped["summer"]
    assert "it cannot be judged: The classifier tests.moderation.classifiers" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdict": "kept", "safety_checker": False}, "nobody checked it"),
        ({"verdict": "rejected", "moderation_reason": "blank"}, "max_rejected_share"),
    ],
)
def test_a_set_that_a_check_stops_is_left_out(
    stored: dict[str, list[ModeratedImage]],
    ledger: Ledger,
    storage: LocalFolder,
    changes: dict[str, Any],
    told: str,
) -> None:
    """What a blocking check of the verdicts stops does not reach a release by its older rows."""
    bad = [dataclasses.replace(stored["summer"][0], **changes)] * 20
    found = ready({**stored, "summer": bad}, ledger, storage)
    assert ids(found.images) == [("spring", "p000"), ("spring", "p001")]
    assert (list(found.stopped), found.left_out) == (["summer"], [])
    assert told in found.stopped["summer"]


def test_bought_and_emulated_pictures_are_never_mixed(
    stored: dict[str, list[ModeratedImage]], ledger: Ledger, storage: LocalFolder
) -> None:
    """Beside bought pictures those of the emulator are left out and named; alone they stay."""
    drawn = [dataclasses.replace(row, emulated=True) for row in stored["summer"]]
    mixed = ready({**stored, "summer": drawn}, ledger, storage)
    assert ids(mixed.images) == [("spring", "p000"), ("spring", "p001")]
    assert mixed.left_out == [
        "'summer': 2 pictures that the emulator drew, beside others that were bought."
    ]
    alone = ready({"summer": drawn}, ledger, storage)
    assert ids(alone.images) == [("summer", "p000"), ("summer", "p001")]


def test_near_duplicates_are_found_across_sets(storage: LocalFolder, ledger: Ledger) -> None:
    """A picture and its JPEG of another set are a pair, where the policy looks for such."""
    rows = [
        kept_row(storage, 1, prompt_set="spring"),
        kept_row(storage, 1, prompt_set="summer", format="JPEG"),
        kept_row(storage, 1, prompt_set="autumn", format="WEBP", verdict="rejected"),
    ]
    for row in rows:
        with Image.open(io.BytesIO(picture(1, format=str(row.format), side=96))) as shown:
            storage.write(thumbnail_path(str(row.image_sha256)), thumbnail(shown))
    near = ModerationPolicy(near_duplicate_distance=8)
    pairs = alike_pictures(rows, rules(ledger, storage, policy=near))
    assert [set(pair) for pair in pairs] == [{row.image_sha256 for row in rows[:2]}]
    assert alike_pictures(rows, rules(ledger, storage)) == []


def test_many_that_are_alike_are_joined_by_few_pairs(storage: LocalFolder, ledger: Ledger) -> None:
    """Pictures that are all alike, or through others, are a chain of pairs, and not every pair."""
    rows = [kept_row(storage, number) for number in range(32)]
    hashes = [
        {"image_sha256": row.image_sha256, "method": HASH_METHOD, "hash": f"{number:016x}"}
        for number, row in enumerate(rows)
    ]
    with ledger.engine.begin() as connection:
        connection.execute(evidence.insert(), hashes)
    near = ModerationPolicy(near_duplicate_distance=2)
    pairs = alike_pictures(rows, rules(ledger, storage, policy=near))
    assert len(pairs) == len(rows) - 1
    joined = {str(rows[0].image_sha256)}
    for _ in pairs:
        joined.update(chain.from_iterable(pair for pair in pairs if not joined.isdisjoint(pair)))
    assert joined == {row.image_sha256 for row in rows}
