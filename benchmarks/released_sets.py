"""A dataset of many small prompt sets as it is before its first release, and its releases.

The tables of all sets are there, as moderation leaves them, and so are the pictures. They are
written without a purchase, which would take hours.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

from benchmarks.sets import QUIET
from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.databases import parsed_url
from imagepipeline_dagster.environment import resources_for
from imagepipeline_dagster.io_manager import table_path
from imagepipeline_dagster.moderation.states import basis_of
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.readiness import AskedFor
from imagepipeline_dagster.rows import StoredTable
from imagepipeline_dagster.storage.contract import image_path
from imagepipeline_dagster.tables.creating import create_tables, tables_metadata

_PROMPTS = 10
_BYTES = 1000
_NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_DATASET = ImageDataset()
_STEP = 100  # of the sets, those that change


def write_sets(folder: Path, sets: int) -> None:
    """Write the tables and pictures of so many sets of ten prompts."""
    names = [f"set {number:05d}" for number in range(sets)]
    for name in names:
        _write_set(folder, name)
    url: str = _resources(folder)["tables"].url
    create_tables(url)
    engine = sa.create_engine(parsed_url(url))
    with engine.begin() as connection:
        connection.execute(tables_metadata().tables["prompts"].insert(), list(_prompts(names)))
    engine.dispose()


def change_sets(folder: Path, sets: int) -> None:
    """Write every hundredth set as it is once other pictures were bought for it."""
    for number in range(0, sets, _STEP):
        _write_set(folder, f"set {number:05d}", bought="again")


def _write_set(folder: Path, name: str, *, bought: str = "") -> None:
    rows = [_row(folder, name, number, bought) for number in range(_PROMPTS)]
    asked = [AskedFor(prompt_id=row.prompt_id, samples=1, content_version="1") for row in rows]
    for stage, table in (
        ("moderated_images", StoredTable.of(rows, ModeratedImage)),
        ("prompt_sets", StoredTable.of(asked, AskedFor)),
    ):
        _write(folder / table_path(_DATASET.key(stage), name), table.encoded)


def _prompts(names: list[str]) -> Iterator[dict[str, str]]:
    for name in names:
        for number in range(_PROMPTS):
            prompt = _prompt(name, number)
            yield {"prompt_set": name, "prompt_id": f"p{number}", "prompt": prompt}


def _prompt(name: str, number: int) -> str:
    return f"boat {number} of {name}, in a harbour at dawn, oil on canvas, soft light"


def _row(folder: Path, name: str, number: int, bought: str) -> ModeratedImage:
    data = hashlib.shake_128(f"{name} {number} {bought}".encode()).digest(_BYTES)
    sha256 = hashlib.sha256(data).hexdigest()
    _write(folder / image_path(sha256, "PNG"), data)
    request = json.dumps({"prompt": _prompt(name, number), "seed": number, "width": 1024})
    return ModeratedImage(
        prompt_set=name,
        prompt_id=f"p{number}",
        call_index=0,
        sample_index=0,
        outcome="generated",
        content_version="1",
        task="text2image",
        model_id="sdxl",
        prompt=_prompt(name, number),
        seed=int(sha256[:8], 16),
        samples=1,
        safety_checker=True,
        request_key=hashlib.sha256(request.encode()).hexdigest(),
        request=request,
        image_sha256=sha256,
        uri=(folder / image_path(sha256, "PNG")).as_uri(),
        format="PNG",
        pixel_width=1024,
        pixel_height=1024,
        bytes=_BYTES,
        value_range=200,
        has_alpha=False,
        job_id=sha256[:32],
        submitted_at=_NOW + dt.timedelta(seconds=number),
        completed_at=_NOW + dt.timedelta(seconds=number + 1),
        run_id="bench",
        endpoint="https://api.imagepipeline.io/sdxl/text2image/v1",
        verdict="kept",
        moderation_reason="ok",
        moderation_basis=basis_of(_DATASET.moderation, name, ()),
    )


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def materialize_release(folder: Path, sets: int, **policy: object) -> tuple[bool, float]:
    """Materialize `image_dataset`; return whether it was new, and how many seconds that took."""
    dataset = ImageDataset(release=ReleasePolicy.model_validate(policy))
    definitions = build_definitions(dataset, _resources(folder), start=False)
    key = _DATASET.key("image_dataset")
    with dg.DagsterInstance.ephemeral() as instance:
        names = [f"set {number:05d}" for number in range(sets)]
        instance.add_dynamic_partitions(_DATASET.partitions.name or "", names)
        for name in names[::_STEP]:
            instance.report_runless_asset_event(_moderation(folder, name))
        began = time.perf_counter()
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[key], run_config=QUIET
        )
        seconds = time.perf_counter() - began
    [made] = result.asset_materializations_for_node("image_dataset")
    return bool(made.metadata["new_version"].value), seconds


def _moderation(folder: Path, name: str) -> dg.AssetMaterialization:
    key = _DATASET.key("moderated_images")
    version = hashlib.sha256((folder / table_path(key, name)).read_bytes()).hexdigest()
    return dg.AssetMaterialization(key, partition=name, tags={"dagster/data_version": version})


def _resources(folder: Path) -> Mapping[str, Any]:
    return resources_for(
        api_key="none", base_url="http://127.0.0.1:9", storage_uri=str(folder), allow_insecure=True
    )
