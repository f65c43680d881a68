from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.storage.opening import open_storage


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    with closing(Ledger(f"sqlite:///{tmp_path}/ledger.db")) as opened:
        yield opened


@pytest.fixture(params=["folder", "bucket"])
def either_home(request: pytest.FixtureRequest) -> Storage:
    """An empty storage of each kind; a bucket needs the plugin `tests.s3`."""
    if request.param == "folder":
        return LocalFolder(request.getfixturevalue("tmp_path") / "storage")
    bucket, s3 = map(request.getfixturevalue, ("s3_bucket", "s3"))
    return open_storage(f"s3://{bucket}/data/sets", s3=s3)


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Hugging Face `datasets`, cut off from the hub and from the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        # The library reads these when it is imported.
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        patch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        import datasets  # type: ignore[import-untyped] # it has no types

        yield datasets
