"""Image datasets out of ImagePipeline's SDXL API, as Dagster assets.

The flow, which is also the order to read the packages in:

    tables      the prompts and embeddings tables
    generation  rows validated, planned, bought and stored; the ledger
    moderation  a verdict for every sample
    release     versioned datasets of what was kept
    defs        the same as Dagster assets, checks, sensors and schedules

`api` is the HTTP contract, `emulator` the same contract served on loopback, `storage` keeps bytes.
"""

from imagepipeline_dagster.defs import ImageDataset, build_definitions
from imagepipeline_dagster.environment import resources_from_environment
from imagepipeline_dagster.generation.prompts import GenerationDefaults
from imagepipeline_dagster.io_manager import ParquetIOManager
from imagepipeline_dagster.resources import (
    Generation,
    ImagePipelineResource,
    LedgerResource,
    StorageResource,
    TablesResource,
)
from imagepipeline_dagster.tables.schema import TableMapping

__all__ = [
    "Generation",
    "GenerationDefaults",
    "ImageDataset",
    "ImagePipelineResource",
    "LedgerResource",
    "ParquetIOManager",
    "StorageResource",
    "TableMapping",
    "TablesResource",
    "build_definitions",
    "resources_from_environment",
]
