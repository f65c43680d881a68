"""A stage of one prompt set, whoever asks for it: a run of that set, or a batch of many.

A stage is a function that returns what it `Made`, and checks that look at it. Its asset and the
batch are two ways to call them.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.rows import StoredTable

STAGES = ("prompt_sets", "generation_requests", "generated_images", "moderated_images")
"""The partitioned assets, in the order of the flow."""

# The ledger knows what a shard that died had bought: another try is for the rest.
SHARD_RETRIES = dg.RetryPolicy(max_retries=2, delay=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a stage made of one prompt set."""

    table: StoredTable
    data_version: str
    metadata: Mapping[str, Any]

    def output(self, context: dg.AssetExecutionContext) -> dg.Output[StoredTable]:
        """Return what the stage's asset, or its last op, returns to Dagster."""
        # The metadata of an output would be stored twice: with its own event, and the asset's. What
        # the asset says of its columns shows beside the table's own figures.
        columns = context.assets_def.metadata_by_key[context.asset_key]
        context.add_asset_metadata({**columns, **self.metadata})
        with warnings.catch_warnings():
            # An op says its data version in no other way; Dagster marks this one as beta.
            warnings.filterwarnings("ignore", "Parameter `data_version`", dg.BetaWarning)
            return dg.Output(self.table, data_version=dg.DataVersion(self.data_version))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCheck:
    """A check of a stage's table.

    Attributes:
        name: of the check.
        description: what holds where it passes.
        look: takes tables by the names of their stages, resources by theirs, and the `dataset`.
        blocking: whether what comes after waits for it to pass.
    """

    name: str
    description: str
    look: Callable[..., dg.AssetCheckResult]
    blocking: bool = False

    @classmethod
    def of(cls, *, blocking: bool = False) -> Callable[[Callable[..., dg.AssetCheckResult]], Self]:
        """Make a function that looks at tables a check, called and described as it is."""
        return lambda look: cls(
            name=look.__name__,
            description=" ".join((look.__doc__ or "").split()),
            look=look,
            blocking=blocking,
        )

    def inputs(self) -> dict[str, inspect.Parameter]:
        """Return the tables and resources that it takes, by name."""
        takes = dict(inspect.signature(self.look, eval_str=True).parameters)
        takes.pop("dataset", None)
        return takes

    def result(self, dataset: ImageDataset, given: Mapping[str, Any]) -> dg.AssetCheckResult:
        """Return what it sees in what is given, by name; that may be more than it takes."""
        known = {**given, "dataset": dataset}
        return self.look(**{name: known[name] for name in inspect.signature(self.look).parameters})


def build_checks(
    dataset: ImageDataset, stage: str, checks: Sequence[StageCheck]
) -> dg.AssetChecksDefinition:
    """Return a stage's checks as one step of Dagster's.

    Where each step is a process of its own, a dozen checks would take longer than the stages.
    """
    key = dataset.key(stage)

    def look(
        context: dg.AssetCheckExecutionContext, **given: object
    ) -> Iterator[dg.AssetCheckResult]:
        for check in checks:
            if dg.AssetCheckKey(key, check.name) in context.selected_asset_check_keys:
                seen = check.result(dataset, given)
                yield seen._replace(asset_key=key, check_name=check.name)

    inputs = {
        name: parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for check in checks
        for name, parameter in check.inputs().items()
    }
    above = [name for name in inputs if name in STAGES and name != stage]
    signature = inspect.signature(look, eval_str=True)
    vars(look)["__signature__"] = signature.replace(
        parameters=[signature.parameters["context"], *inputs.values()]
    )
    decorated = dg.multi_asset_check(
        name=dataset.named(f"check_{stage}"),
        specs=[
            dg.AssetCheckSpec(
                check.name,
                asset=key,
                description=check.description,
                blocking=check.blocking,
                additional_deps=[dataset.key(name) for name in above if name in check.inputs()],
                partitions_def=dataset.partitions,
            )
            for check in checks
        ],
        ins={name: dg.AssetIn(dataset.key(name)) for name in (stage, *above) if name in inputs},
        can_subset=True,
    )
    return decorated(with_resources_of(dataset)(look))
