"""The resources of a sensor that mostly finds nothing to do.

For a sensor that names its resources Dagster opens the whole instance at every tick, which takes
longer than all that such a tick asks of the tables. These are made once in each process instead,
and of no instance: neither needs one.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.resources import LedgerResource, TablesResource


def tables_of(context: dg.SensorEvaluationContext, dataset: ImageDataset) -> TablesResource:
    """Return the dataset's resource `tables`."""
    tables: TablesResource = _made(_definitions(context)[dataset.resource("tables")])
    return tables


def ledger_of(context: dg.SensorEvaluationContext, dataset: ImageDataset) -> LedgerResource:
    """Return the dataset's resource `ledger`."""
    ledger: LedgerResource = _made(_definitions(context)[dataset.resource("ledger")])
    return ledger


def _definitions(context: dg.SensorEvaluationContext) -> Mapping[str, dg.ResourceDefinition]:
    # Given to `build_sensor_context`, or those of the code location.
    if context.resource_defs or context.repository_def is None:
        return context.resource_defs or {}
    return context.repository_def.get_top_level_resources()


@cache
def _made(definition: dg.ResourceDefinition) -> Any:  # noqa: ANN401 - whatever it makes
    with dg.build_resources({"it": definition}) as resources:
        return resources.it
