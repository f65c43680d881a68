from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from imagepipeline_dagster.environment import EnvironmentInvalid
from tests.pipeline import figures, open_pipeline

pytest_plugins = ["tests.s3"]


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


def test_a_bucket_needs_a_ledger(s3_bucket: str, tmp_path: Path) -> None:
    """Without a ledger's URL, a bucket is refused by the name of the variable that is missing."""
    with (
        pytest.raises(EnvironmentInvalid, match="IMAGEPIPELINE_LEDGER_URL: is required when"),
        open_pipeline(tmp_path, storage_uri=f"s3://{s3_bucket}/x", tables_url="sqlite:///t.db"),
    ):
        pass
