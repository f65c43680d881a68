from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import pytest
from dagster._serdes import serialize_value
from PIL import Image

from tests.defs.conftest import Sampled
from tests.pipeline import STAGES, checks_of, data_versions, figures, metadata_of

_MOST_METADATA = 48_000
SETS = ("harbour_at_night", "portraits", "spring_catalogue")


def _picture(value: object) -> Image.Image:
    """Decode the picture of a Markdown metadata value."""
    found = re.search(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", str(value))
    assert found, str(value)[:200]
    picture = Image.open(io.BytesIO(base64.b64decode(found[1], validate=True)))
    picture.load()
    return picture


def test_every_row_of_the_prompts_table_is_accounted_for(sampled: Sampled) -> None:
    """Each prompt, refused or not, has as many rows at the end as it asks for samples."""
    asked = {
        (row.prompt_set, row.prompt_id): row.samples
        for row in sampled.pipeline.sql("SELECT prompt_set, prompt_id, samples FROM prompts")
    }
    for stage in ("generated_images", "moderated_images"):
        counted: Counter[tuple[str, str]] = Counter()
        for key in sampled.runs:
            frame = sampled.pipeline.table(stage, key)
            counted.update(zip(frame["prompt_set"], frame["prompt_id"], strict=True))
        assert counted == asked
    assert sum(asked.values()) == 40


def test_the_samples_show_each_outcome(sampled: Sampled) -> None:
    """A filtered, a refused and an unchecked sample say why they are not kept; the rest is."""
    outcomes = {}
    for key in sampled.runs:
        frame = sampled.pipeline.table("moderated_images", key)
        rows = zip(frame["prompt_id"], frame["verdict"], frame["moderation_reason"], strict=True)
        outcomes.update({row[0]: row[1:] for row in rows})
    others = {prompt_id: why for prompt_id, why in outcomes.items() if why != ("kept", "ok")}
    assert others == {
        "colour_bars": ("rejected", "vendor_filtered"),
        "everything": ("rejected", "invalid"),
        "potter": ("quarantined", "unchecked"),
    }


def test_stored_bytes_are_those_that_the_rows_name(sampled: Sampled) -> None:
    """Each image is a file at its URI, named after its content, and says that it is emulated."""
    frame = sampled.pipeline.table("moderated_images", "portraits")
    pictures = frame[frame["image_sha256"].notna()]
    assert len(pictures) == 12
    assert pictures["emulated"].all()
    assert set(pictures["endpoint"].map(lambda url: urlsplit(url).path)) == {
        "/sdxl/text2image/v1",
        "/sdxl/image2image/v1",
    }
    for _, row in pictures.iterrows():
        data = Path(urlsplit(row["uri"]).path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["image_sha256"]
        assert len(data) == row["bytes"]
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size == (row["pixel_width"], row["pixel_height"])


@pytest.mark.parametrize("stage", [*STAGES, "image_dataset"])
def test_each_stage_says_how_much_and_where(sampled: Sampled, stage: str) -> None:
    """Row count, the URI of what was stored, and described columns are in each stage's event."""
    run = sampled.release if stage == "image_dataset" else sampled.runs["portraits"]
    metadata = metadata_of(run, stage)

    of_whole = "" if stage == "image_dataset" else "partition_"
    rows = metadata[f"dagster/{of_whole}row_count"].value
    uri = str(metadata["dagster/uri"].value)
    schema = metadata["dagster/column_schema"].value
    assert isinstance(schema, dg.TableSchema)
    assert all(column.description for column in schema.columns)
    assert Path(urlsplit(uri).path).exists()
    if stage != "image_dataset":
        frame = sampled.pipeline.table(stage, "portraits")
        assert (len(frame), list(frame)) == (rows, [column.name for column in schema.columns])
    else:
        assert (rows, uri.rpartition("/")[2]) == (37, "v0001")


_ORIGINS = {
    "prompt": {
        ("prompts", "prompt"),
        ("embeddings", "trigger_words"),
        ("embeddings", "placement"),
    },
    "init_image_sha256": {("prompts", "init_image")},
}


@pytest.mark.parametrize("name", _ORIGINS)
def test_a_released_column_leads_to_the_tables(sampled: Sampled, name: str) -> None:
    """From column to column, what is released comes from the user's own columns."""
    above: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for stage in (*STAGES, "image_dataset"):
        run = sampled.release if stage == "image_dataset" else sampled.runs["portraits"]
        lineage = metadata_of(run, stage)["dagster/column_lineage"].value
        assert isinstance(lineage, dg.TableColumnLineage)
        for column, deps in lineage.deps_by_column.items():
            above[stage, column] = {(d.asset_key.to_user_string(), d.column_name) for d in deps}
    columns = {("image_dataset", name)}
    while made := columns & above.keys():
        columns = columns.difference(made).union(*(above[column] for column in made))

    assert columns == _ORIGINS[name]


def test_the_purchase_says_what_it_bought(sampled: Sampled) -> None:
    """Samples requested, bought and reused, API calls and seconds stand in its event."""
    figures = {
        key: {name: metadata_of(run, "generated_images")[name].value for name in _FIGURES}
        for key, run in sampled.runs.items()
    }
    assert figures == {
        "spring_catalogue": dict(zip(_FIGURES, (14, 14, 0, 14, 0, True), strict=True)),
        "harbour_at_night": dict(zip(_FIGURES, (14, 13, 0, 13, 0, True), strict=True)),
        "portraits": dict(zip(_FIGURES, (12, 12, 0, 12, 0, True), strict=True)),
    }
    for run in sampled.runs.values():
        seconds = metadata_of(run, "generated_images")["seconds"].value
        assert isinstance(seconds, float)
        assert 0 < seconds < 100


_FIGURES = ("requested", "bought", "reused", "api_calls", "resumed_jobs", "emulated")


def test_verdicts_are_counted(sampled: Sampled) -> None:
    """The moderation's event counts kept, rejected and quarantined, which add up."""
    counts = {
        key: tuple(figures(run)[name] for name in ("requested", "kept", "rejected", "quarantined"))
        for key, run in sampled.runs.items()
    }
    assert counts == {
        "spring_catalogue": (14, 13, 1, 0),
        "harbour_at_night": (14, 13, 1, 0),
        "portraits": (12, 11, 0, 1),
    }


@pytest.mark.parametrize("stage", ["generated_images", "moderated_images", "image_dataset"])
def test_contact_sheets_are_pictures(sampled: Sampled, stage: str) -> None:
    """Each image stage's event holds a contact sheet that a browser can decode."""
    runs = [sampled.release] if stage == "image_dataset" else list(sampled.runs.values())
    for run in runs:
        sheet = _picture(metadata_of(run, stage)["contact_sheet"].value)
        assert sheet.format == "WEBP"
        assert sheet.width > 200
        colours = sheet.convert("RGB").getcolors(sheet.width * sheet.height)
        assert colours is not None
        assert len(colours) > 1000


def test_events_stay_small(sampled: Sampled) -> None:
    """No materialization and no check result of the samples takes 48 kB."""
    for run in [*sampled.runs.values(), sampled.release]:
        for event in run.get_asset_materialization_events():
            assert len(serialize_value(event.materialization)) < _MOST_METADATA
        for check in run.get_asset_check_evaluations():
            assert len(serialize_value(check)) < _MOST_METADATA


def test_a_stage_tells_once(sampled: Sampled) -> None:
    """What a materialization says is not stored a second time with the output of its step."""
    for run in sampled.runs.values():
        outputs = [event for event in run.all_events if event.is_successful_output]
        assert len(outputs) >= len(STAGES)
        assert max(len(serialize_value(event)) for event in outputs) < 3_000


def test_checks_of_the_samples(sampled: Sampled) -> None:
    """A refused row is a warning with a table of what is wrong; all else passes."""
    for key, run in sampled.runs.items():
        checks = checks_of(run)
        assert {name: check.passed for name, check in checks.items()} == {
            "every_row_is_valid": key != "harbour_at_night",
            "images_are_complete": True,
            "prompts_are_plain_text": True,
            "no_purchase_waits": True,
            "images_decode": True,
            "no_answer_was_lost": True,
            "every_sample_is_accounted_for": True,
            "only_kept_passes_on": True,
            "few_are_rejected": True,
            "classifier_agrees_with_the_api": True,
            "few_are_duplicates": True,
            "sizes_are_as_asked": True,
        }
    refused = checks_of(sampled.runs["harbour_at_night"])["every_row_is_valid"]
    assert refused.severity is dg.AssetCheckSeverity.WARN
    assert refused.description == "1 of 9 rows are refused"
    assert refused.metadata["refused"].value == 1
    table = html.unescape(str(refused.metadata["problems"].value))
    assert table.startswith("| prompt_id | problems |\n")
    assert re.search(r"\| everything \| prompt: has \d+ tokens, and the model reads 75", table)

    assert {name: check.passed for name, check in checks_of(sampled.release).items()} == {
        "nothing_unchecked": True,
        "only_kept_is_released": True,
        "every_set_is_released": True,
        "splits_do_not_leak": True,
    }


def test_only_kept_images_are_released(sampled: Sampled) -> None:
    """The release holds what was kept of all sets, and nothing unchecked or filtered."""
    folder = Path(urlsplit(str(figures(sampled.release)["dagster/uri"])).path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["counts"]["kept"] == 37
    assert set(manifest["prompt_sets"]) == set(SETS)
    card = (folder / "README.md").read_text()
    assert "emulat" in card.lower()
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "parquet/data").to_pylist()
    assert len(rows) == 37
    assert not {"potter", "colour_bars", "everything"} & {row["prompt_id"] for row in rows}
    for row in rows:
        assert hashlib.sha256(row["image"]["bytes"]).hexdigest() == row["file_sha256"]


def test_making_a_set_again_buys_nothing_and_changes_nothing(sampled: Sampled) -> None:
    """Touched rows give the same data versions at every stage, no API call and no new release."""
    first = sampled.runs["harbour_at_night"]
    sampled.pipeline.sql("UPDATE prompts SET updated_at = '2031-01-01 00:00:00'")
    sampled.pipeline.sql("UPDATE embeddings SET updated_at = '2031-01-01 00:00:00'")
    assert sampled.pipeline.tick() == []

    again = sampled.pipeline.run("harbour_at_night")
    release = sampled.pipeline.release()

    assert data_versions(again) == data_versions(first)
    assert set(data_versions(first)) == set(STAGES)
    told = figures(again)
    assert (told["api_calls"], told["bought"], told["reused"]) == (0, 0, 13)
    assert (told["images_to_buy"], told["images_reused"]) == (0, 13)
    assert figures(release)["version"] == "v0001"
    assert figures(release)["new_version"] is False
    assert data_versions(release) == data_versions(sampled.release)
