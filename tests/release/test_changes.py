from __future__ import annotations

import dataclasses
import datetime as dt
import io
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release import comparing
from imagepipeline_dagster.release.changes import (
    COMPARED,
    Change,
    ChangesTable,
    Known,
    changes_between,
    changes_page,
    next_semantic_version,
)
from imagepipeline_dagster.release.comparing import changes_of
from imagepipeline_dagster.release.dataset_release import DatasetRelease, releases_in
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.publish import TooMuchLost
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import NOON, kept_row, picture, publish_rows, rejected_row


def after(
    storage: LocalFolder, rows: list[ModeratedImage], *, former: list[ModeratedImage]
) -> tuple[DatasetRelease, list[Change]]:
    """Publish the former rows and then these; return the release and what differs."""
    publish_rows(storage, former)
    publish_rows(storage, rows)
    first, second = releases_in(storage)
    return second, second.changes_since(first)


SEEDS = ("seed=None", "seed=2")
CHANGED: list[tuple[dict[str, Any], str, str | None, str | None]] = [
    ({"prompt": "a cat"}, "prompt_changed", "a fox, number 1", "a cat"),
    ({"request": '{"prompt":"a fox, number 1","seed":2}'}, "parameters_changed", *SEEDS),
    ({"embeddings": "neon", "embedding_version": "2"}, "embedding_changed", "", "neon version 2"),
    ({"overridden_by": "ana", "moderation_reason": "override:ok"}, "override", None, "ana"),
    ({"moderation_reason": "unchecked"}, "policy", "ok", "unchecked"),
]
SPLITS = ({"train": 1}, {"test": 1}, {"train": 0.5, "test": 0.5})


@pytest.mark.parametrize(("changes", "cause", "was", "is_now"), CHANGED)
def test_a_changed_sample_has_its_cause(
    storage: LocalFolder,
    changes: dict[str, Any],
    cause: str,
    was: str | None,
    is_now: str | None,
) -> None:
    """What changed in a sample's lineage is told, with what it was and what it is."""
    row, other = kept_row(storage, 1), kept_row(storage, 2)
    release, [change] = after(
        storage, [dataclasses.replace(row, **changes), other], former=[row, other]
    )
    assert (change.change, change.cause, change.before, change.after) == (
        "changed",
        cause,
        was,
        is_now,
    )
    assert (change.prompt_id, change.image_before) == ("p001", row.image_sha256)
    assert release.manifest.semantic_version == "2.0.0"
    assert release.manifest.changes == {f"changed: {cause}": 1}


def test_a_picture_that_was_bought_again_is_told(storage: LocalFolder) -> None:
    """Another picture of the same request was bought again."""
    again = kept_row(storage, 1, data=picture(9))
    _, [change] = after(storage, [again], former=[kept_row(storage, 1)])
    assert (change.cause, change.image_after) == ("bought_again", again.image_sha256)


def test_what_came_and_went_has_its_cause(storage: LocalFolder) -> None:
    """Added and removed samples say why, from the verdicts of all samples."""
    former = [
        kept_row(storage, 1, prompt_set="gone"),
        *(kept_row(storage, number) for number in (*range(2, 7), 8)),
    ]
    decided: dict[str, Any] = {"overridden_by": "ana", "override_reason": "blurry"}
    rows = [
        kept_row(storage, 2),
        kept_row(storage, 2, sample_index=1, data=picture(21)),
        kept_row(storage, 3, verdict="rejected", moderation_reason="override:ok", **decided),
        kept_row(storage, 4, verdict="quarantined", moderation_reason="nsfw"),
        rejected_row(5, "vendor_filtered", outcome="vendor_filtered"),
        kept_row(storage, 7),
        rejected_row(8, "withdrawn", outcome="withdrawn", error="withdrawn by ana: a person asked"),
        kept_row(storage, 9, moderation_reason="override:nsfw", **decided),
        kept_row(storage, 10, moderation_reason="override:ok", **decided),
    ]
    release, changes = after(storage, rows, former=former)
    assert [(c.change, c.prompt_id, c.sample_index, c.cause) for c in changes] == [
        ("removed", "p001", 0, "set_removed"),
        ("added", "p002", 1, "new_sample"),
        ("removed", "p003", 0, "override"),
        ("removed", "p004", 0, "policy"),
        ("removed", "p005", 0, "vendor_filtered"),
        ("removed", "p006", 0, "prompt_removed"),
        ("added", "p007", 0, "new_prompt"),
        ("removed", "p008", 0, "withdrawn"),
        ("added", "p009", 0, "override"),
        ("added", "p010", 0, "new_prompt"),
    ]
    assert [c.after for c in changes if c.cause in ("override", "policy", "withdrawn")] == [
        *("ana", "nsfw", "withdrawn by ana: a person asked", "ana")
    ]

    page = Path(release.path, "CHANGES.md").read_text()
    assert "# v0002 after v0001" in page
    assert "| removed | set_removed | 1 |" in page
    frame = pd.read_parquet(io.BytesIO(storage.read("releases/v0002/changes.parquet")))
    assert list(frame["cause"]) == [c.cause for c in changes]
    assert "What changed since v0001" in Path(release.path, "README.md").read_text()


def test_samples_of_one_prompt_are_told_apart() -> None:
    """A page of changes says call and place of each sample, as far as they are known."""
    added = partial(Change, change="added", cause="new_prompt", prompt_set="spring")
    added = partial(added, prompt_id="p001", call_index=0, after="a fox")
    changes = ChangesTable([added(sample_index=1), added(sample_index=None)])
    page = changes_page("v0002", "v0001", changes)
    assert "| added | spring | p001 | 0 | 1 | new_prompt |  | a fox |" in page
    assert "| added | spring | p001 | 0 |  | new_prompt |  | a fox |" in page


@pytest.mark.parametrize(
    ("change", "before", "after", "told"),
    [
        ("added", None, "ana", "|  | decided by ana |"),
        ("added", "ana", None, "| decided by ana | no longer so |"),
        ("changed", "ana", "bob", "| decided by ana | decided by bob |"),
        ("removed", "a fox", "ana", "| a fox | decided by ana |"),
    ],
)
def test_a_decision_is_told_in_words(
    change: str, before: str | None, after: str | None, told: str
) -> None:
    """A page of changes says who decided, and whose decision holds no longer."""
    decided = partial(Change, cause="override", prompt_set="spring", prompt_id="p001")
    changes = ChangesTable([decided(change=change, before=before, after=after)])
    assert told in changes_page("v0002", "v0001", changes)


def test_the_time_of_a_comparison_grows_with_the_releases() -> None:
    """Ten thousand prompts that went and ten thousand others that came take no minutes."""
    old, new = (
        [
            {**dict.fromkeys(COMPARED), "prompt_set": "s", "prompt_id": f"{name}{n}"}
            for n in range(10_000)
        ]
        for name in ("old", "new")
    )
    known = Known(
        judged={},
        old_prompts={("s", f"old{n}") for n in range(10_000)},
        new_sets={"s"},
        stopped={},
        kept_out=lambda _: None,
    )
    started = time.process_time()

    changes = changes_between(old, new, known)

    assert time.process_time() - started < 2
    assert Counter(change.cause for change in changes) == {
        "new_prompt": 10_000,
        "prompt_removed": 10_000,
    }


def test_many_changes_are_told_band_by_band(
    storage: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few rows are held at once, each change is told once, the sets one after the other."""
    monkeypatch.setattr(comparing, "_BAND", 3)
    sets = [f"set {number % 4}" for number in range(10)] + ["large"] * 10
    rows = [kept_row(storage, number, prompt_set=name) for number, name in enumerate(sets)]
    twice = kept_row(storage, 30, call_index=None, sample_index=None, prompt_set="twice")
    changed = [dataclasses.replace(row, prompt="a cat") for row in rows]
    release, _ = after(
        storage, [*changed[1:], kept_row(storage, 40), twice], former=[*rows, twice, twice]
    )

    differences = list(changes_of(storage, releases_in(storage)[0].manifest, release.manifest))

    assert Counter((change.change, change.cause) for change in differences) == {
        ("changed", "prompt_changed"): 19,
        ("removed", "prompt_removed"): 2,
        ("added", "new_prompt"): 1,
    }
    assert [change.prompt_set for change in differences] == sorted([*sets, "twice", "spring"])


def test_any_two_releases_can_be_compared(storage: LocalFolder) -> None:
    """Releases that do not follow each other are compared by what is in them."""
    for numbers in ((1,), (1, 2), (1, 2, 3)):
        publish_rows(storage, [kept_row(storage, number) for number in numbers])
    first, _, third = releases_in(storage)
    assert [c.prompt_id for c in third.changes_since(first)] == ["p002", "p003"]
    assert [c.cause for c in first.changes_since(third)] == ["prompt_removed"] * 2


def test_what_went_in_between_keeps_its_cause(storage: LocalFolder) -> None:
    """However many releases lie between two, the one that lost a picture says why."""
    rows = [kept_row(storage, number, prompt_set=f"set {number}") for number in range(5)]
    publish_rows(storage, rows)
    nsfw = dataclasses.replace(rows[0], verdict="quarantined", moderation_reason="nsfw")
    refused: dict[str, Any] = {"verdict": "rejected", "moderation_reason": "override:ok"}
    by_ana = dataclasses.replace(rows[1], overridden_by="ana", **refused)
    publish_rows(storage, [nsfw, *rows[1:]])
    publish_rows(storage, [nsfw, by_ana, *rows[2:]])
    publish_rows(storage, rows[3:])
    first, *_, last = releases_in(storage)

    assert [(c.prompt_set, c.cause, c.after) for c in last.changes_since(first)] == [
        ("set 0", "policy", "nsfw"),
        ("set 1", "override", "ana"),
        ("set 2", "set_removed", None),
    ]


def test_what_comes_back_is_not_told_as_new(storage: LocalFolder) -> None:
    """A picture that the former release had lost says what had taken it away: that is over."""
    rows = [kept_row(storage, number, prompt_set=f"set {number}") for number in range(6)]
    refused: dict[str, Any] = {"verdict": "rejected", "moderation_reason": "override:ok"}
    without = [
        dataclasses.replace(rows[0], overridden_by="ana", **refused),
        dataclasses.replace(rows[1], verdict="quarantined", moderation_reason="nsfw"),
        dataclasses.replace(rows[3], overridden_by="ana", **refused),
        rows[5],
    ]
    publish_rows(storage, rows)
    publish_rows(storage, without, stopped={"set 2": "the check accounting failed"})
    edited = kept_row(storage, 3, prompt_set="set 3", data=picture(30))
    publish_rows(storage, [*rows[:3], edited, *rows[4:]])
    first, second, last = releases_in(storage)

    told = [
        ("set 0", "override", "ana", None),
        ("set 1", "policy", "nsfw", "ok"),
        ("set 2", "left_out", "the check accounting failed", None),
        # Another picture, and one whose row had left the table.
        ("set 3", "new_prompt", None, "a fox, number 3"),
        ("set 4", "new_prompt", None, "a fox, number 4"),
    ]
    changes = last.changes_since(second)
    assert [(c.prompt_set, c.cause, c.before, c.after) for c in changes] == told
    assert [c.cause for c in last.changes_since(first)] == ["bought_again"]


def test_what_a_release_held_back_is_not_told_as_new(storage: LocalFolder) -> None:
    """A picture that is let in for the first time says what kept it out of the former release."""
    earlier = NOON - dt.timedelta(hours=1)
    rows = [
        kept_row(storage, number, prompt_set=f"set {number}", completed_at=earlier)
        for number in range(6)
    ]
    unchecked: dict[str, Any] = {"verdict": "quarantined", "moderation_reason": "unchecked"}
    refused: dict[str, Any] = {"verdict": "rejected", "moderation_reason": "override:ok"}
    publish_rows(
        storage,
        [
            rows[0],
            dataclasses.replace(rows[1], **unchecked),
            dataclasses.replace(rows[2], overridden_by="ana", **refused),
            dataclasses.replace(rows[4], **unchecked),
        ],
        stopped={"set 3": "the check accounting failed"},
    )
    late = kept_row(storage, 9, prompt_set="set 1", completed_at=NOON + dt.timedelta(hours=1))
    # One sample of the set is held back no more, so this one was bought for another.
    older = kept_row(storage, 10, prompt_set="set 1", completed_at=earlier)
    # A prompt that was left alone keeps what is new from being taken for it.
    still = dataclasses.replace(rows[4], **unchecked)
    new = kept_row(storage, 8, prompt_set="set 4", completed_at=earlier)
    release = publish_rows(storage, [*rows[:4], late, older, still, new, rows[5]])

    changes = releases_in(storage)[1].changes_since(releases_in(storage)[0])
    assert [(c.prompt_set, c.prompt_id, c.cause, c.before, c.after) for c in changes] == [
        ("set 1", "p001", "policy", "unchecked", "ok"),
        ("set 1", "p009", "new_prompt", None, "a fox, number 9"),
        ("set 1", "p010", "new_prompt", None, "a fox, number 10"),
        ("set 2", "p002", "override", None, None),
        ("set 3", "p003", "left_out", "the check accounting failed", None),
        ("set 4", "p008", "new_prompt", None, "a fox, number 8"),
        ("set 5", "p005", "new_prompt", None, "a fox, number 5"),
    ]
    assert release.changes["added: policy"] == 1


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "flipped"])
def test_damaged_changes_of_the_former_release_stop_no_other(
    storage: LocalFolder, *, is_cut: bool
) -> None:
    """What is not the file that was released is not believed, and what comes back is new."""
    rows = [kept_row(storage, number, prompt_set=f"set {number}") for number in range(3)]
    nsfw = dataclasses.replace(rows[0], verdict="quarantined", moderation_reason="nsfw")
    publish_rows(storage, rows)
    publish_rows(storage, [nsfw, *rows[1:]])
    path = "releases/v0002/changes.parquet"
    whole = storage.read(path)
    flipped = bytes(255 - byte for byte in whole[-200:-8])
    storage.write(path, whole[:-99] if is_cut else whole[:-200] + flipped + whole[-8:])

    release = publish_rows(storage, rows)

    assert release.changes == {"added: new_prompt": 1}


def test_a_set_that_a_check_stops_is_not_told_as_removed(storage: LocalFolder) -> None:
    """A set that exists and is left out says why; one that is gone is removed."""
    rows = [kept_row(storage, number, prompt_set=f"set {number}") for number in range(3)]
    publish_rows(storage, rows)
    publish_rows(storage, rows[:1], stopped={"set 1": "the check accounting failed"})
    first, last = releases_in(storage)

    assert last.manifest.left_out == ("'set 1': the check accounting failed",)
    assert [(c.prompt_set, c.cause, c.after) for c in last.changes_since(first)] == [
        ("set 1", "left_out", "the check accounting failed"),
        ("set 2", "set_removed", None),
    ]


def test_a_sample_in_another_split_is_told(storage: LocalFolder) -> None:
    """Another split is a change of the sample, with both; and of the packing: a patch."""
    rows = [kept_row(storage, number) for number in range(8)]
    for splits in SPLITS:
        publish_rows(storage, rows, policy=ReleasePolicy(splits=splits))
    first, second, third = releases_in(storage)

    assert {(c.change, c.cause, c.before, c.after) for c in second.changes_since(first)} == {
        ("changed", "split_changed", "train", "test")
    }
    assert second.manifest.changes == {"changed: split_changed": 8}
    assert third.manifest.semantic_version == "1.0.2"
    moved = third.changes_since(first)
    assert len(moved) == third.manifest.splits["test"]
    assert third.packing_since(first) == ['splits: {"train": 1.0} -> {"train": 0.5, "test": 0.5}']


@pytest.mark.parametrize(
    ("former", "kinds", "version"),
    [
        (None, [], "1.0.0"),
        ("1.0.0", ["added"], "1.1.0"),
        ("1.1.0", ["added", "changed"], "2.0.0"),
        ("2.3.4", ["removed"], "3.0.0"),
        ("2.3.4", [], "2.3.5"),
    ],
)
def test_the_semantic_version_follows_from_the_changes(
    former: str | None, kinds: list[str], version: str
) -> None:
    """Removed or changed is major, only added is minor, packed anew is a patch."""
    assert next_semantic_version(former, kinds) == version


def test_a_release_that_loses_much_is_refused(storage: LocalFolder) -> None:
    """More than a fifth gone without a decision is no release, unless the policy says so."""
    rows = [kept_row(storage, number) for number in range(10)]
    publish_rows(storage, rows)
    with pytest.raises(TooMuchLost, match=r"3 of the 10 pictures of v0001 .*\(3 prompt_removed\)"):
        publish_rows(storage, rows[3:], policy=ReleasePolicy())
    assert [release.version for release in releases_in(storage)] == ["v0001"]
    assert [p for p in storage.list("releases") if p.startswith("releases/v0002/")] == []
    assert publish_rows(storage, rows[2:], policy=ReleasePolicy()).created
    assert publish_rows(storage, rows[5:], policy=ReleasePolicy(max_lost_share=1)).created


def test_decisions_and_rules_may_take_what_they_like(storage: LocalFolder) -> None:
    """What a person or another policy takes out is meant: it counts as no loss."""
    rows = [kept_row(storage, number) for number in range(4)]
    publish_rows(storage, rows)
    refused = [
        dataclasses.replace(
            row, verdict="rejected", moderation_reason="override:ok", overridden_by="ana"
        )
        for row in rows[1:]
    ]
    assert publish_rows(storage, [rows[0], *refused], policy=ReleasePolicy()).counts.kept == 1
