from __future__ import annotations

import dataclasses
import html
import re
from typing import Any

import pytest
import yaml

from imagepipeline_dagster.moderation.verdicts import ModeratedImage, summarise
from imagepipeline_dagster.release.card import Release, card, pick_examples
from imagepipeline_dagster.release.columns import shard_schema
from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import NOON, kept_row, rejected_row

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a | b | c",
    "two\nlines\r\n\n---\n# Heading",
    "![x](https://evil.example/track.png)",
    "[click](javascript:alert(1))",
    "https://evil.example www.evil.example me@evil.example",
    "`code` *bold* _it_ ~~gone~~ $x$ \\| ``` ",
    "---\nlicense: mit\n---",
    "&lt;b&gt; &amp;",
    'quote " and \\ backslash: {{ x }} %s {0}',
    "bell \x07 escape \x1b[31m right-to-left \u202e line \u2028 end",
    "x" * 5000,
    "日本語 émoji 🦊",
]


def release_of(rows: list[ModeratedImage], *, name: str = "foxes") -> Release:
    """Return the release of these rows."""
    kept = [row for row in rows if row.verdict == "kept"]
    return Release(
        name=name,
        version="v0003",
        path="releases/v0003",
        fingerprint="f" * 64,
        created_at=NOON,
        run_id="run9",
        emulated=sum(row.emulated for row in kept),
        counts=summarise(rows),
        prompt_sets={
            name: summarise(row for row in rows if row.prompt_set == name)
            for name in sorted({row.prompt_set for row in rows})
        },
        splits={"train": len(kept)},
        files=(),
    )


def card_of(rows: list[ModeratedImage], *, name: str = "foxes") -> str:
    """Return the card of these rows."""
    return card(release_of(rows, name=name), [row for row in rows if row.verdict == "kept"])


def front_matter(text: str) -> dict[str, Any]:
    """Return what the card's YAML says."""
    loaded = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(loaded, dict)
    return loaded


def test_the_front_matter_leads_to_the_shards(storage: LocalFolder) -> None:
    """The hub's loader is told the name and where the shards are; no licence is claimed."""
    found = front_matter(card_of([kept_row(storage, 1)]))
    info = found.pop("dataset_info")
    assert [feature["name"] for feature in info["features"]] == shard_schema().names
    assert [split["num_examples"] for split in info["splits"]] == [1]
    assert found == {
        "pretty_name": "foxes",
        "task_categories": ["text-to-image"],
        "source_datasets": ["original"],
        "size_categories": ["n<1K"],
        "annotations_creators": ["machine-generated"],
        "tags": ["synthetic"],
        "configs": [
            {
                "config_name": "default",
                "description": "v0003, content ffffffffffffffff, run run9",
                "data_files": [{"split": "train", "path": "parquet/data/train-*.parquet"}],
            }
        ],
    }


def test_the_counts_stand_by_prompt_set_with_the_reasons(storage: LocalFolder) -> None:
    """The card says for each set what was asked for, what became of it, and why."""
    text = card_of(
        [
            kept_row(storage, 1),
            kept_row(storage, 2, prompt_set="summer"),
            rejected_row(3, "blank"),
            rejected_row(4, "failed"),
            rejected_row(5, "failed"),
        ]
    )
    assert "| spring | 4 | 1 | 3 | 0 | 1 blank, 2 failed | 0 |" in text
    assert "| summer | 1 | 1 | 0 | 0 |  | 0 |" in text
    assert "| **All** | 5 | 2 | 3 | 0 | 1 blank, 2 failed | 0 |" in text


def test_an_override_is_counted_once_and_as_what_it_became(storage: LocalFolder) -> None:
    """A person's keep is no reason for not keeping; decisions have a column of their own."""
    decided: dict[str, Any] = {
        "overridden_by": "ana",
        "override_reason": "art",
        "overridden_at": NOON,
    }
    text = card_of(
        [
            kept_row(storage, 1, moderation_reason="override:unchecked", **decided),
            kept_row(storage, 2, verdict="rejected", moderation_reason="override:ok", **decided),
        ]
    )
    assert "| spring | 2 | 1 | 1 | 0 | 1 override&#58;ok | 2 |" in text


def test_emulated_pictures_are_announced_loudly(storage: LocalFolder) -> None:
    """A card with emulated pictures says so first, with their number, and as a tag."""
    rows = [kept_row(storage, number, emulated=number > 1) for number in range(4)]
    text = card_of(rows)
    assert (
        text.split("---\n")[2]
        .splitlines()[2]
        .startswith("> **EMULATED.** 2 of the 4 pictures were drawn by the emulator")
    )
    assert front_matter(text)["tags"] == ["synthetic", "emulated"]
    assert "> **EMULATED.** All 2 pictures" in card_of(rows[2:])


def test_bought_pictures_are_not_called_emulated(storage: LocalFolder) -> None:
    """A card of bought pictures has no such warning."""
    assert "EMULATED" not in card_of([kept_row(storage, 1)])


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of the card's tables as Markdown cuts them: at each bare bar."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_text_and_nothing_else(storage: LocalFolder, text: str) -> None:
    """No prompt, id, set or name can end a cell, link, load, run, or add to the YAML."""
    row = kept_row(storage, 1, prompt_set=text, prompt_id=text, prompt=text)
    card = card_of([row], name=text)
    plain = card_of([kept_row(storage, 1)])

    assert [len(cells) for cells in table_rows(card)] == [len(c) for c in table_rows(plain)]
    assert len(card.splitlines()) == len(plain.splitlines())
    assert set(front_matter(card)) == set(front_matter(plain))
    assert front_matter(card)["pretty_name"] == text
    [shown] = [cells[2] for cells in table_rows(card) if len(cells) == 5 and cells[3] == "1"]
    assert not re.search(r"[<>|`*\[\]()!:/@.\\$~{}\"]|\b_|_\b|&(?!#\d+;)", shown)
    assert all(sign.isprintable() for sign in shown)


@pytest.mark.parametrize(
    "text", ["<b> & | 100% (a, b) [c] _d_", "日本語 émoji 🦊", "👩\u200d👧 क्\u200dष"]
)
def test_escaped_text_reads_as_it_was(storage: LocalFolder, text: str) -> None:
    """What a browser shows is the prompt itself."""
    assert f"| {text} |" in html.unescape(card_of([kept_row(storage, 1, prompt=text)]))


def test_a_plain_name_stays_readable(storage: LocalFolder) -> None:
    """A name with underscores is in the file as it is spelled."""
    assert "| spring_catalogue_v2 | 1 | 1 |" in card_of(
        [kept_row(storage, 1, prompt_set="spring_catalogue_v2")]
    )


def test_thousands_of_sets_make_a_short_card(storage: LocalFolder) -> None:
    """Beyond a hundred sets the card refers to the manifest for the others."""
    rows = [rejected_row(number, prompt_set=f"set{number:04d}") for number in range(250)]
    text = card_of([kept_row(storage, 1, prompt_set="set0000"), *rows])
    assert "| set0099 |" in text
    assert "| set0100 |" not in text
    assert "| 150 further prompt sets: see `manifest.json` | | | | | | |" in text


def test_examples_come_from_all_over_the_dataset(storage: LocalFolder) -> None:
    """The contact sheet shows at most 48 rows, spread evenly; few rows are all shown."""
    row = kept_row(storage, 1)
    assert len(pick_examples(HeldRows([row] * 5))) == 5
    rows = [kept_row(storage, 1, prompt_id=str(number)) for number in range(1000)]
    picked = [int(example.prompt_id) for example in pick_examples(HeldRows(rows))]
    assert 40 <= len(picked) <= 48
    assert picked[-1] > 950


def test_every_column_is_explained(storage: LocalFolder) -> None:
    """The card has a line for each column of the shards."""
    text = card_of([kept_row(storage, 1)])
    assert "| `seed` | int64 | Seed of the call |" in text
    assert "| `image` | picture |" in text


def test_a_release_needs_a_time_zone(storage: LocalFolder) -> None:
    """A time that could be anywhere's is refused."""
    release = release_of([kept_row(storage, 1)])
    with pytest.raises(ValueError, match="timezone"):
        Release.model_validate(release.model_dump() | {"created_at": NOON.replace(tzinfo=None)})


def test_what_the_publisher_states_stands_in_the_card(storage: LocalFolder) -> None:
    """Licence, homepage and citation of the policy are told, and none is made up."""
    policy = ReleasePolicy(license="cc-by-4.0", homepage="example.org", citation="Fox, 2026")
    release = release_of([kept_row(storage, 1)])
    text = html.unescape(card(release, [], policy=policy))
    assert front_matter(text)["license"] == "cc-by-4.0"
    assert "The licence is cc-by-4.0. More stands at example.org." in text
    assert "## How to cite it\n\nFox, 2026" in text
    assert "How to cite it" not in card(release, [])


@pytest.mark.parametrize(
    ("images", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T")],
)
def test_the_size_is_one_that_the_hub_knows(
    storage: LocalFolder, images: int, category: str
) -> None:
    """The number of images is told as the Hub's range of sizes."""
    release = release_of([kept_row(storage, 1)])
    counts = dataclasses.replace(release.counts, kept=images)
    text = card(release.model_copy(update={"counts": counts}), [])
    assert front_matter(text)["size_categories"] == [category]
