from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from pydantic import ValidationError

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.dataset_release import latest_release
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.splits import leaks, place_of, splits_of
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release import samples
from tests.release.samples import HALVES, kept_row, picture, publish_rows

POLICY = HALVES.changed(formats=("parquet",))


def row(number: int, **changes: object) -> ModeratedImage:
    """Return a kept sample with a prompt and a picture of its own."""
    own = {"prompt": f"prompt {number}", "image_sha256": f"{number:064x}"}
    return samples.row(prompt_id=f"p{number}", **(own | changes))


def test_shares_are_about_what_was_asked_for() -> None:
    """Many prompts are split in about the shares of the policy, the same each time."""
    rows = [row(number) for number in range(2000)]
    policy = ReleasePolicy(splits={"train": 8, "validation": 1, "test": 1})
    splits = splits_of(rows, policy, former={})
    assert splits == splits_of(rows, policy, former={})
    assert 1500 < splits.count("train") < 1700
    assert 140 < splits.count("test") < 260


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "the same"},
        {"image_sha256": "a" * 64},
        {"duplicate_of": "b" * 64},
        {"request": '{"init_image":"https://x/i.png"}'},
        {"init_image_sha256": "c" * 64},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_tells_of_each_other_stays_together(changes: dict[str, object]) -> None:
    """Pictures of one prompt, one init image, and near-duplicates are in one split, any order."""
    rows = [row(number, **changes) for number in range(40)]
    assert len(set(splits_of(rows, POLICY, former={}))) == 1
    assert splits_of(rows[::-1], POLICY, former={}) == splits_of(rows, POLICY, former={})


def test_near_duplicates_of_several_sets_stay_together() -> None:
    """Pictures that are alike share a split, through others too; apart they are a leak."""
    rows = [row(number, prompt_set=f"set {number}") for number in range(40)]
    images = [str(own.image_sha256) for own in rows]
    alike = list(pairwise(images))
    splits = splits_of(rows, POLICY, former={}, alike=alike)
    assert len(set(splits)) == 1
    assert leaks(rows, splits, POLICY, alike=alike) == []
    [leak] = leaks(rows, ["train"] + ["test"] * 39, POLICY, alike=alike)
    assert leak == (
        f"Picture {images[0][:12]} is in 'train', and its near-duplicate {images[1][:12]} in "
        "'test'."
    )


def test_a_split_may_be_given_by_a_column() -> None:
    """Named values go where they are said to go, before all else, and leak nowhere."""
    policy = POLICY.changed(group_by="prompt_set", split_of={"holdout": "test"})
    held = [row(number, prompt_set="holdout") for number in range(20)]
    others = [row(number, prompt_set=f"set {number}") for number in range(20, 60)]
    former = {place_of(held[0]): "train"}
    splits = splits_of([*held, *others], policy, former=former)
    assert set(splits[:20]) == {"test"}
    assert set(splits[20:]) == {"train", "test"}
    copied = dataclasses.replace(others[0], image_sha256=held[0].image_sha256)
    assert splits_of([*held, copied], policy, former={})[-1] == "test"
    both = policy.changed(split_of={"holdout": "test", "set 20": "train"})
    rows = [*held, copied]
    assert len(leaks(rows, splits_of(rows, both, former={}), both)) == 1


def test_a_sample_keeps_its_split() -> None:
    """What was in a split stays there, and takes what comes to its group along."""
    old = row(1)
    for split in POLICY.splits:
        former = {place_of(old): split}
        assert splits_of([row(2, prompt="prompt 1"), old], POLICY, former=former) == [split] * 2


def test_a_leak_is_found() -> None:
    """A picture whose like is in another split is named."""
    rows = [row(1, prompt="the same"), row(2, prompt="the same"), row(3)]
    assert leaks(rows, ["train", "train", "test"], POLICY) == []
    assert leaks(rows, ["train", "test", "test"], POLICY) == [
        "'spring', prompt 'p2' is in 'test', and 'train' has its like."
    ]


def test_splits_last_from_release_to_release(storage: LocalFolder) -> None:
    """More samples move none of those that were there; another policy splits anew."""
    rows = [kept_row(storage, number) for number in range(30)]

    def splits() -> dict[str, str]:
        table = latest_release(storage).as_arrow(["prompt_id", "split"]).to_pydict()
        return dict(zip(table["prompt_id"], table["split"], strict=True))

    publish_rows(storage, rows[:15], policy=POLICY)
    first = splits()
    assert set(first.values()) == {"train", "test"}
    manifest = publish_rows(storage, rows, policy=POLICY)
    assert first.items() <= splits().items()
    assert sum(manifest.splits.values()) == 30
    repacked = publish_rows(storage, rows, policy=ReleasePolicy())
    assert (repacked.created, repacked.semantic_version) == (True, "1.1.1")
    assert set(splits().values()) == {"train"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["webdataset"]}, "parquet is missing"),
        ({"splits": {"a b": 1}}, "'a b' is no name"),
        ({"splits": {"train": 0}}, "needs shares above 0"),
        ({"splits": {}}, "needs shares above 0"),
        ({"split_of": {"holdout": "tset"}}, "'tset' is none of the splits"),
        ({"group_by": "colour"}, "'colour' is no column"),
        ({"group_by": "uri"}, "'uri' is no column of a release"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(options: dict[str, object], message: str) -> None:
    """A wrong option is named with what it takes."""
    with pytest.raises(ValidationError, match=message):
        ReleasePolicy.model_validate(options)


def test_a_shuffled_order_stays_from_release_to_release(storage: LocalFolder) -> None:
    """Sets are mixed; what is added or edited moves no other sample; another order packs anew."""
    rows = [kept_row(storage, n, prompt_set=f"set {n // 15}") for n in range(30)]
    shuffled = ReleasePolicy(order="shuffled", max_lost_share=1)

    def order(policy: ReleasePolicy = shuffled) -> list[str]:
        publish_rows(storage, rows, policy=policy)
        return [str(i) for i in latest_release(storage).as_arrow()["prompt_id"].to_pylist()]

    first = order()
    assert first != sorted(first)
    assert len({prompt >= "p015" for prompt in first[:10]}) == 2, "both sets come early"
    rows[3] = kept_row(storage, 3, data=picture(103), prompt_set="set 0")
    rows += [kept_row(storage, n, prompt_set="set 2") for n in range(30, 40)]
    second = order()
    assert [prompt for prompt in second if prompt < "p030"] == first
    assert order(shuffled.changed(order="sorted")) == sorted(second)
    assert latest_release(storage).manifest.semantic_version == "2.0.1"
