"""The testing kit: a pytest plugin that is there as soon as this package is installed.

- `imagepipeline_emulator` is the API on loopback, at which things go wrong by name: the kinds of
  `imagepipeline-dagster emulator --fault`. Its `resource()` is for assets of your own.
- `image_dataset_in(folder)` is a dataset with empty tables, a ledger and a storage in that folder,
  bought at the emulator of the test. A dataset of your own, with its options, may be given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import dagster as dg
    import pandas as pd

    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.emulator import EmulatorServer, EmulatorStats, Fault
    from imagepipeline_dagster.resources import ImagePipelineResource


# A test waits for nothing that a person would.
_QUICK = {"poll_min_seconds": 0.02, "poll_max_seconds": 0.2}
_SMALL = {"width": 64, "height": 64}


def pytest_configure(config: pytest.Config) -> None:
    """Leave out a warning of Dagster's about its own code, where one resource holds another."""
    about = r"InitResourceContext\.dagster_run is deprecated"
    config.addinivalue_line("filterwarnings", f"ignore:{about}:DeprecationWarning")


class EmulatedApi:
    """The API as a test's own server on loopback: its base URL, and the key that it asks for."""

    def __init__(self, server: EmulatorServer) -> None:
        self._server = server
        self.url, self.api_key = server.url, server.settings.api_key

    @property
    def stats(self) -> EmulatorStats:
        """What was asked, accepted and delivered; assert that `bought_twice` is empty."""
        return self._server.stats

    def faults(self, *faults: str | Fault) -> None:
        """Let these go wrong from now on, in place of earlier ones; none: all is well again.

        A text is a kind, its fields behind a colon: `server_error:status=502,times=1`.

        Raises:
            ValueError: names what is wrong with a text; for an unknown kind, all kinds.
        """
        from imagepipeline_dagster.emulator.faults import Fault

        parsed = (Fault.parse(fault) if isinstance(fault, str) else fault for fault in faults)
        self._server.set_faults(*parsed)

    def resource(self, **options: Any) -> ImagePipelineResource:  # noqa: ANN401 - the resource's own
        """Return the resource of this API, for a dataset or for assets of your own."""
        from imagepipeline_dagster.resources import ImagePipelineResource

        defaults = {"api_key": self.api_key, "base_url": self.url, **_QUICK}
        return ImagePipelineResource(**{**defaults, **options})


class DatasetUnderTest:
    """A dataset whose tables, ledger, storage and Dagster instance lie in a folder of their own."""

    def __init__(
        self, folder: Path, *, api: ImagePipelineResource, dataset: ImageDataset | None = None
    ) -> None:
        import dagster as dg

        from imagepipeline_dagster.defs.dataset import ImageDataset
        from imagepipeline_dagster.defs.definitions import build_definitions
        from imagepipeline_dagster.environment import resources_for
        from imagepipeline_dagster.tables.creating import create_tables

        home = folder / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        self.dataset = dataset or ImageDataset()
        self.instance = dg.DagsterInstance.ephemeral(tempdir=str(home))
        self.resources = {**resources_for(storage_uri=str(folder / "data")), "imagepipeline": api}
        self._tables_url: str = self.resources["tables"].url
        create_tables(self._tables_url)
        self.definitions = build_definitions(self.dataset, self.resources, start=False)

    def add_prompt(
        self,
        prompt_set: str,
        prompt_id: str,
        prompt: str,
        **columns: Any,  # noqa: ANN401 - the table's own types
    ) -> None:
        """Add a row to the prompts table; a picture is small unless the columns say otherwise."""
        row = {"prompt_set": prompt_set, "prompt_id": prompt_id, "prompt": prompt}
        self._insert("prompts", {**row, **_SMALL, **columns})

    def add_embedding(self, embedding_id: str, **columns: Any) -> None:  # noqa: ANN401
        """Add a row to the embeddings table."""
        self._insert("embeddings", {"embedding_id": embedding_id, **columns})

    def materialize(self, prompt_set: str) -> dg.ExecuteInProcessResult:
        """Plan, buy and moderate a prompt set; return the run, or raise what a stage raises."""
        self.instance.add_dynamic_partitions(self.dataset.named("prompt_set"), [prompt_set])
        return self._run("materialize_prompt_set", partition_key=prompt_set)

    def release(self) -> dg.ExecuteInProcessResult:
        """Publish what was kept of all prompt sets, and return the run."""
        return self._run("release_image_dataset")

    def table(self, asset: str, prompt_set: str) -> pd.DataFrame:
        """Return a stage's rows, such as those of `generated_images` or `moderated_images`."""
        with self.definitions.get_asset_value_loader(self.instance) as loader:
            frame: pd.DataFrame = loader.load_asset_value(
                self.dataset.key(asset), partition_key=prompt_set
            )
        return frame

    def close(self) -> None:
        """Let go of the Dagster instance."""
        self.instance.dispose()

    def _insert(self, table: str, row: dict[str, Any]) -> None:
        from imagepipeline_dagster.tables.creating import tables_metadata
        from imagepipeline_dagster.tables.database import writing

        with writing(self._tables_url) as connection:
            connection.execute(tables_metadata().tables[table].insert(), row)

    def _run(self, job: str, *, partition_key: str | None = None) -> dg.ExecuteInProcessResult:
        return self.definitions.resolve_job_def(self.dataset.named(job)).execute_in_process(
            instance=self.instance, partition_key=partition_key
        )


@pytest.fixture
def imagepipeline_emulator() -> Iterator[EmulatedApi]:
    """ImagePipeline's API on loopback for one test, with faults by name."""
    from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings

    with EmulatorServer(EmulatorSettings(latency_seconds=0.02)) as server:
        yield EmulatedApi(server)


@pytest.fixture
def image_dataset_in(
    imagepipeline_emulator: EmulatedApi,
) -> Iterator[Callable[..., DatasetUnderTest]]:
    """Return what makes a dataset in a folder, bought at the emulator of the same test."""
    with ExitStack() as opened:

        def make(folder: Path, *, dataset: ImageDataset | None = None) -> DatasetUnderTest:
            api = imagepipeline_emulator.resource()
            return opened.enter_context(closing(DatasetUnderTest(folder, api=api, dataset=dataset)))

        yield make
