from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from imagepipeline_dagster import ImageDataset
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.release.dataset_release import latest_release
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.storage.opening import open_storage
from tests.pipeline import figures, open_pipeline

if TYPE_CHECKING:
    from tests.s3 import Requests

pytest_plugins = ["tests.s3"]

PICTURES = 12


@pytest.mark.slow
def test_the_chain_on_a_bucket_and_postgresql(
    tmp_path: Path, s3_bucket: str, postgres_url: str
) -> None:
    """With a bucket for bytes and PostgreSQL for tables and ledger, the whole chain works."""
    with open_pipeline(
        tmp_path,
        storage_uri=f"s3://{s3_bucket}/art/one",
        tables_url=postgres_url,
        ledger_url=postgres_url,
    ) as pipeline:
        pipeline.add_embedding("look", trigger_words="lk", placement="positive")
        pipeline.add("boats", "one", samples=2)
        pipeline.add("boats", "two", embeddings="look")
        run = pipeline.sync()["boats"]
        released = pipeline.release()
        assert pipeline.tick() == []
        pipeline.sql("UPDATE embeddings SET version = '2'")
        again = pipeline.sync()["boats"]
        again_released = pipeline.release()

        assert (figures(run)["kept"], figures(run)["bought"]) == (3, 3)
        assert (figures(again)["bought"], figures(again)["reused"]) == (1, 2)
        uris = set(pipeline.table("generated_images", "boats")["uri"])
    assert figures(released)["dagster/uri"] == f"s3://{s3_bucket}/art/one/releases/v0001"
    assert (figures(again_released)["version"], figures(again_released)["dagster/row_count"]) == (
        "v0002",
        3,
    )
    listed = boto3.client("s3").list_objects_v2(Bucket=s3_bucket)["Contents"]
    keys = {entry["Key"] for entry in listed}
    assert {uri.removeprefix(f"s3://{s3_bucket}/") for uri in uris} <= keys
    assert all(key.startswith("art/one/") for key in keys)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".parquet")]


@pytest.mark.slow
def test_each_request_to_a_bucket_is_needed(
    tmp_path: Path, s3_bucket: str, s3_requests: Requests
) -> None:
    """A picture is two PUTs to buy, and one GET to classify, to release and to verify."""
    policy = ModerationPolicy(checked="classify", classifier="tests.moderation.classifiers:Given")
    with open_pipeline(
        tmp_path,
        dataset=ImageDataset(moderation=policy),
        storage_uri=f"s3://{s3_bucket}/p",
        tables_url=f"sqlite:///{tmp_path / 'tables.db'}",
        ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}",
    ) as pipeline:
        for number in range(PICTURES):
            pipeline.add("boats", f"p{number}", seed=number)
        pipeline.sync()
        bought = s3_requests.about("images"), s3_requests.about("thumbnails")["PUT"]
        s3_requests.clear()
        pipeline.sync()
        pipeline.release()
        released = s3_requests.about("images")
        s3_requests.clear()
        storage = open_storage(f"s3://{s3_bucket}/p")
        release = latest_release(storage)
        assert problems_of(storage, release.manifest) == []
        verified = s3_requests.about("releases/v0001")
    assert bought == ({"PUT": PICTURES, "GET": PICTURES}, PICTURES)
    assert released == {"GET": PICTURES}
    assert verified == {"GET": len(release.files()) + 1}
