"""Many prompt sets in one run, which costs the start of a run once for all of them.

Each set has the tables, the materializations and the checks that a run of its own would give it. A
set that fails keeps none of the others back; the run fails at its end, and names it.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.generated_images import GENERATED_IMAGES_CHECKS, SetToBuy, buy_set
from imagepipeline_dagster.defs.generation_requests import plan_set
from imagepipeline_dagster.defs.internals import AssetMaterializationPlannedData
from imagepipeline_dagster.defs.metadata import found_table
from imagepipeline_dagster.defs.moderated_images import (
    MODERATED_IMAGES_CHECKS,
    moderate,
    record_built,
)
from imagepipeline_dagster.defs.prompt_sets import PROMPT_SETS_CHECKS, make_prompt_set
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.stage import STAGES, Made, StageCheck
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.io_manager import table_path
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.partition_names import partition_key
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.purchase.purchase import Purchase
from imagepipeline_dagster.resources import (
    ImagePipelineResource,
    LedgerResource,
    StorageResource,
    TablesResource,
)
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.overrides import Override
from imagepipeline_dagster.tables.reading import SourceTables

_SETS_AT_ONCE = 4  # a set waits for the API for most of its time
_FAILURES_SHOWN = 50
# So soon that a database that was restarted, or a proxy that closes what is idle, breaks few.
_CONNECTION_SECONDS = 10

_Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation


class RunEnded(CorrectableError):
    """A person ended the run before a set's turn came."""


class PromptSets(dg.Config):
    """The prompt sets of one run."""

    prompt_sets: list[str] = Field([], description="Prompt sets; at least one.")


def build_batch_job(
    dataset: ImageDataset,
    bound: Mapping[str, dg.ResourceDefinition],
    executor: dg.ExecutorDefinition,
) -> dg.JobDefinition:
    """Return the job that makes many prompt sets, with these of the dataset's resources."""

    @dg.op(
        name=_op_name(dataset),
        out=dg.Out(dg.Nothing, io_manager_key=dataset.resource("io_manager")),
        pool=dataset.api_pool,
        description="Plans, buys and moderates each of these prompt sets.",
    )
    @with_resources_of(dataset)
    def make_prompt_sets(
        context: dg.OpExecutionContext,
        config: PromptSets,
        tables: TablesResource,
        imagepipeline: ImagePipelineResource,
        ledger: LedgerResource,
        storage: StorageResource,
    ) -> None:
        if not config.prompt_sets:
            raise dg.Failure(
                "No prompt set is named: give `prompt_sets` in the run's config.",
                allow_retries=False,
            )
        # For a set's events Dagster would connect to PostgreSQL fifty times, each for a statement.
        context.instance.optimize_for_webserver(
            statement_timeout=0, pool_recycle=_CONNECTION_SECONDS, max_overflow=20
        )
        with tables.open(dataset.prompts, dataset.embeddings) as source, ledger.open() as opened:
            prompt_sets = list(dict.fromkeys(config.prompt_sets))
            at_once = min(_SETS_AT_ONCE, imagepipeline.max_in_flight, len(prompt_sets))
            batch = _Batch(
                dataset=dataset,
                source=source,
                overrides=tables.overrides(dataset.overrides),
                api=_part_of(imagepipeline, at_once),
                at_once=at_once,
                ledger=opened,
                storage=storage.open(),
                given={"imagepipeline": imagepipeline, "storage": storage},
                run_id=context.run_id,
                log=context.log,
            )
            failures: dict[str, str] = {}
            for made in batch.make(prompt_sets):
                _tell(context, dataset, made)
                if made.failure is not None:
                    failures[made.prompt_set] = str(made.failure)
        if failures:
            raise _failure(failures, asked_for=len(prompt_sets))

    @dg.job(
        name=dataset.named("materialize_batch"),
        executor_def=executor,
        # Dagster would make a sensor anew whose job it gives its resources, and warn of that: a
        # team's IO manager takes the place of the default one.
        resource_defs={**bound, "io_manager": bound[dataset.resource("io_manager")]},
        description="Plans, buys and moderates many prompt sets in one run. The sensors ask for it "
        "when many wait.",
    )
    def materialize_batch() -> None:
        make_prompt_sets()

    return materialize_batch


def _part_of(api: ImagePipelineResource, number: int) -> ImagePipelineResource:
    """Return the API as one of so many sets buys at it: with its part of what the run may do."""
    rate = api.requests_per_second
    limits = {
        "max_in_flight": api.max_in_flight // number,
        "requests_per_second": None if rate is None else rate / number,
    }
    return api.model_copy(update=limits)


def _failure(failures: Mapping[str, str], *, asked_for: int) -> dg.Failure:
    rows = [list(named) for named in sorted(failures.items())]
    return dg.Failure(
        f"{len(failures)} of {asked_for} prompt sets failed: "
        f"{', '.join(sorted(failures))[:1000]}. The others are made.",
        metadata=found_table("failed", ["prompt set", "why"], rows[:_FAILURES_SHOWN]),
        allow_retries=False,
    )


def run_config_of(dataset: ImageDataset, prompt_sets: Sequence[str]) -> Mapping[str, Any]:
    """Return the config of a run that makes these sets."""
    return {"ops": {_op_name(dataset): {"config": {"prompt_sets": list(prompt_sets)}}}}


def sets_of_run(run_config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the prompt sets that a run's config names, whichever dataset's they are."""
    for op in (run_config.get("ops") or {}).values():
        yield from (op.get("config") or {}).get("prompt_sets") or ()


def _op_name(dataset: ImageDataset) -> str:
    return dataset.named("make_prompt_sets")


@dataclass(slots=True, kw_only=True)
class _MadeSet:
    """What became of a set: what Dagster is to be told, and where it failed, if it did.

    `given` are the resources that its checks take, and its tables by their stages.
    """

    prompt_set: str
    given: dict[str, object]
    events: list[_Event] = field(default_factory=list)
    stage: str = STAGES[0]
    failure: Exception | None = None


def _tell(context: dg.OpExecutionContext, dataset: ImageDataset, made: _MadeSet) -> None:
    """Tell Dagster what became of a set."""
    if made.failure is not None:
        context.log.error("prompt set %s failed: %s", made.prompt_set, made.failure)
        # Its partition shows as failed once the run, which was to make it, has ended without.
        planned = dg.DagsterEvent.build_asset_materialization_planned_event(
            context.job_name,
            _op_name(dataset),
            AssetMaterializationPlannedData(
                dataset.key(made.stage), partition=partition_key(made.prompt_set)
            ),
        )
        context.instance.report_dagster_event(planned, context.run_id)
    for event in made.events:
        context.log_event(event)  # type: ignore[arg-type] # its type leaves out checks


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """What all sets of one run share."""

    dataset: ImageDataset
    source: SourceTables
    overrides: Sequence[Override]
    api: ImagePipelineResource
    at_once: int
    ledger: Ledger
    storage: Storage
    given: Mapping[str, object]
    run_id: str
    log: logging.Logger
    reading: threading.Lock = field(default_factory=threading.Lock)
    purchases: dict[str, Purchase] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)

    def make(self, prompt_sets: Sequence[str]) -> Iterator[_MadeSet]:
        """Make the sets, some at a time, and yield each once it has ended."""
        with ThreadPoolExecutor(self.at_once, "prompt-set") as threads:
            # Listed nowhere: each holds the tables of its set.
            futures = (threads.submit(self._made, name) for name in prompt_sets)
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BaseException:
                # A person ended the run: each purchase comes to an end that loses nothing. All at
                # once, since each waits for its last answers.
                self.stopping.set()
                threads.shutdown(wait=False, cancel_futures=True)
                with ThreadPoolExecutor(self.at_once) as ending:
                    list(ending.map(Purchase.interrupt, list(self.purchases.values())))
                raise

    def _made(self, prompt_set: str) -> _MadeSet:
        made = _MadeSet(prompt_set=prompt_set, given=dict(self.given))
        try:
            self._make(made)
        except Exception as error:  # noqa: BLE001 - it is told, and the other sets go on
            made.failure = error
        finally:
            self.purchases.pop(prompt_set, None)
        return made

    def _make(self, made: _MadeSet) -> None:
        dataset, name = self.dataset, made.prompt_set
        with self.reading:
            prompts = make_prompt_set(dataset, name, self.source)
        self._keep(made, prompts, PROMPT_SETS_CHECKS)
        made.stage = "generation_requests"
        plan = plan_set(dataset, name, prompts.table, api=self.api, ledger=self.ledger)
        self._keep(made, plan)
        made.stage = "generated_images"
        to_buy = SetToBuy(
            dataset=dataset,
            prompt_set=name,
            prompts=prompts.table,
            plan=plan.table,
            means=dataset.means(self.api, self.ledger, self.storage, run_id=self.run_id),
            log=self.log,
            on_start=partial(self._begin, name),
        )
        purchased = buy_set(to_buy, small_sheets=True)
        made.events.append(purchased.plan)
        self._keep(made, purchased.images, GENERATED_IMAGES_CHECKS)
        made.stage = "moderated_images"
        images = moderate(
            dataset,
            name,
            purchased.images.table.rows(GeneratedImage),
            overrides=self.overrides,
            ledger=self.ledger,
            storage=self.storage,
            small_sheets=True,
        )
        self._keep(made, images, MODERATED_IMAGES_CHECKS)

    def _begin(self, prompt_set: str, purchase: Purchase) -> None:
        self.purchases[prompt_set] = purchase
        if self.stopping.is_set():
            # It was on its way here when the run was ended.
            raise RunEnded("the run was ended before this set was bought")

    def _keep(self, made: _MadeSet, result: Made, checks: Sequence[StageCheck] = ()) -> None:
        """Store a stage's table, and note what its materialization and its checks say."""
        key, partition = self.dataset.key(made.stage), partition_key(made.prompt_set)
        uri = self.storage.write(table_path(key, partition), result.table.encoded)
        if made.stage == STAGES[-1]:
            record_built(self.dataset, result.table.rows(ModeratedImage), self.ledger)
        made.events.append(
            dg.AssetMaterialization(
                key,
                partition=partition,
                metadata={**result.metadata, "dagster/uri": uri},
                tags={"dagster/data_version": result.data_version},
            )
        )
        made.given[made.stage] = result.table
        for check in checks:
            seen = check.result(self.dataset, made.given)
            made.events.append(
                dg.AssetCheckEvaluation(
                    asset_key=key,
                    check_name=check.name,
                    passed=seen.passed,
                    metadata=seen.metadata,
                    severity=seen.severity,
                    description=seen.description,
                    blocking=check.blocking,
                    partition=partition,
                )
            )
            if check.blocking and not seen.passed:
                raise dg.Failure(f"the check {check.name} did not pass: {seen.description}")
