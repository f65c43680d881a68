"""Image datasets out of ImagePipeline's SDXL API, as Dagster assets.

The flow, which is also the order to read the packages in:

    tables      the prompts and embeddings tables
    planning    rows validated, and the calls that they need
    purchase    the calls made, the pictures stored
    moderation  a verdict for every sample
    release     versioned datasets of what was kept
    defs        the same as Dagster assets, checks, sensors and schedules

`ledger` knows what was bought, `watching` which prompt sets changed, `alerts` what a person should
know. `api` is the HTTP contract, `emulator` the same contract served on loopback, `storage` keeps
bytes. `databases` reads URLs, `rows` turns rows into tables, `partition_names` sets into
partitions, `previews` pictures into thumbnails and contact sheets, `markup` text into Markdown.
`telemetry` counts for OpenTelemetry. `errors` is the root of what a person can put right, `options`
of every model of options.

On top: `resources` and `io_manager` for Dagster, `environment` what the environment says,
`component` a dataset in YAML, which `scaffolding` begins, `demo` a dataset from sample tables,
`cli` the command line, `testing` a pytest plugin for teams' own tests.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagepipeline_dagster.alerts.alert import Alert
    from imagepipeline_dagster.alerts.slack import slack_webhook
    from imagepipeline_dagster.component import ImageDatasetComponent
    from imagepipeline_dagster.defs import ImageDataset, build_definitions
    from imagepipeline_dagster.defs.alert_sensors import build_alerts
    from imagepipeline_dagster.environment import resources_from_environment
    from imagepipeline_dagster.io_manager import ParquetIOManager
    from imagepipeline_dagster.ledger.budget import Budget
    from imagepipeline_dagster.moderation.policy import ModerationPolicy
    from imagepipeline_dagster.planning.approval import Approval
    from imagepipeline_dagster.planning.prompts import GenerationDefaults
    from imagepipeline_dagster.purchase.canaries import Canaries
    from imagepipeline_dagster.release.dataset_release import DatasetRelease, latest_release
    from imagepipeline_dagster.release.policy import ReleasePolicy
    from imagepipeline_dagster.resources import (
        GeneratedPictures,
        ImagePipelineResource,
        LedgerResource,
        StorageResource,
        TablesResource,
    )
    from imagepipeline_dagster.tables.schema import TableMapping
    from imagepipeline_dagster.watching.options import Watching

__all__ = [
    "Alert",
    "Approval",
    "Budget",
    "Canaries",
    "DatasetRelease",
    "GeneratedPictures",
    "GenerationDefaults",
    "ImageDataset",
    "ImageDatasetComponent",
    "ImagePipelineResource",
    "LedgerResource",
    "ModerationPolicy",
    "ParquetIOManager",
    "ReleasePolicy",
    "StorageResource",
    "TableMapping",
    "TablesResource",
    "Watching",
    "build_alerts",
    "build_definitions",
    "latest_release",
    "resources_from_environment",
    "slack_webhook",
]

_HOMES = {
    "Alert": "alerts.alert",
    "Approval": "planning.approval",
    "Budget": "ledger.budget",
    "Canaries": "purchase.canaries",
    "DatasetRelease": "release.dataset_release",
    "GeneratedPictures": "resources",
    "GenerationDefaults": "planning.prompts",
    "ImageDataset": "defs",
    "ImageDatasetComponent": "component",
    "ImagePipelineResource": "resources",
    "LedgerResource": "resources",
    "ModerationPolicy": "moderation.policy",
    "ParquetIOManager": "io_manager",
    "ReleasePolicy": "release.policy",
    "StorageResource": "resources",
    "TableMapping": "tables.schema",
    "TablesResource": "resources",
    "Watching": "watching.options",
    "build_alerts": "defs.alert_sensors",
    "build_definitions": "defs",
    "latest_release": "release.dataset_release",
    "resources_from_environment": "environment",
    "slack_webhook": "alerts.slack",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    # Importing Dagster takes a second: the command line's --help and the domain packages need none.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
