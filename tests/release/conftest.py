from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

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
    return open_storage(f"s3://{request.getfixturevalue('s3_bucket')}/data/sets")
