"""Many small prompt sets: in one run of Dagster, and by the domain functions alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.databases import parsed_url
from imagepipeline_dagster.defs.batches import run_config_of
from imagepipeline_dagster.environment import resources_for
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.moderating import moderate_set
from imagepipeline_dagster.planning.prompts import validated_prompts
from imagepipeline_dagster.planning.requests import plan_prompt_set, uses_of_plan
from imagepipeline_dagster.purchase.images import images_of_plan
from imagepipeline_dagster.purchase.purchase import Purchase
from imagepipeline_dagster.tables.creating import create_tables, tables_metadata

PROMPTS_OF_A_SET = 10
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""The run config of a run that logs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where sets are bought and kept; the instance's database is PostgreSQL's."""

    vendor_url: str
    api_key: str
    folder: Path
    instance_url: str

    @property
    def data(self) -> Path:
        """Where tables and pictures are."""
        return self.folder / "data"

    def fill(self, prompts_of: Mapping[str, int]) -> None:
        """Make the tables, with so many prompts in each set."""
        self.data.mkdir()
        url = f"sqlite:///{self.data / 'tables.db'}"
        create_tables(url)
        rows = [
            {"prompt_set": name, "prompt_id": f"p{number:05}", "prompt": f"boat {number} of {name}"}
            for name, prompts in prompts_of.items()
            for number in range(prompts)
        ]
        engine = sa.create_engine(parsed_url(url))
        with engine.begin() as connection:
            connection.execute(tables_metadata().tables["prompts"].insert(), rows)
        engine.dispose()

    def configure_dagster(self) -> None:
        """Write Dagster's configuration."""
        (self.folder / "dagster.yaml").write_text(
            f"storage: {{postgres: {{postgres_url: '{self._dagster_url}'}}}}\n"
            "telemetry: {enabled: false}\n"
        )

    def event_kb(self) -> float:
        """Return the size of all events of the instance."""
        engine = sa.create_engine(self._dagster_url)
        with engine.connect() as connection:
            query = sa.text("SELECT sum(octet_length(event)) FROM event_logs")
            size = int(connection.execute(query).scalar_one())
        engine.dispose()
        return size / 1000

    @property
    def _dagster_url(self) -> str:
        return self.instance_url.replace("postgresql://", "postgresql+psycopg2://")


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSets:
    """What a set took on the average: CPU seconds of what made it, and kB of events."""

    cpu_seconds: float
    event_kb: float


def make_sets_alone(place: Place, sets: int) -> MadeSets:
    """Make sets one after the other, without Dagster."""
    dataset, resources, names = _prepared(place, sets)
    api, storage = resources["imagepipeline"], resources["storage"].open()
    with (
        resources["tables"].open(dataset.prompts, dataset.embeddings) as source,
        closing(Ledger(resources["ledger"].url)) as ledger,
    ):
        began = time.process_time()
        for name in names:
            rows, embeddings = source.prompts(name), source.embeddings()
            prompts = list(validated_prompts(rows, embeddings, defaults=dataset.defaults))
            plan = plan_prompt_set(
                prompts,
                prompt_set=name,
                dataset=dataset.name,
                ledger=ledger,
                origin=api.origin,
                samples_per_call=1,
            )
            report = Purchase(
                plan=plan,
                uses=uses_of_plan(plan, prompts, dataset=dataset.name, run_id="bench"),
                means=dataset.means(api, ledger, storage, run_id="bench"),
            ).carry_out()
            moderation = moderate_set(
                images_of_plan(prompts, plan, report.entries),
                prompt_set=name,
                dataset=dataset.name,
                policy=dataset.moderation,
                overrides=[],
                ledger=ledger,
                storage=storage,
            )
            list(moderation.images)
        return MadeSets(cpu_seconds=(time.process_time() - began) / sets, event_kb=0.0)


def make_sets_in_a_batch(place: Place, sets: int) -> MadeSets:
    """Make sets in one run."""
    dataset, resources, names = _prepared(place, sets)
    place.configure_dagster()
    job = build_definitions(dataset, resources, start=False).resolve_job_def(
        dataset.named("materialize_batch")
    )
    with dg.DagsterInstance.from_config(str(place.folder)) as instance:
        began = time.process_time()
        job.execute_in_process(
            instance=instance, run_config={**run_config_of(dataset, names), **QUIET}
        )
        cpu_seconds = (time.process_time() - began) / sets
    return MadeSets(cpu_seconds=cpu_seconds, event_kb=place.event_kb() / sets)


def _prepared(place: Place, sets: int) -> tuple[ImageDataset, Mapping[str, Any], Sequence[str]]:
    # Of each way, so that none finds bought what another bought.
    names = [f"{place.folder.name}-{number:04}" for number in range(sets)]
    place.fill(dict.fromkeys(names, PROMPTS_OF_A_SET))
    resources = resources_for(
        api_key=place.api_key, base_url=place.vendor_url, storage_uri=str(place.data)
    )
    return ImageDataset(), resources, names
