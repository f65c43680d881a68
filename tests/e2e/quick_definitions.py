"""What `definitions.py` does, with sensors that look often: a test waits for them."""

import os

from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.environment import resources_from_environment
from imagepipeline_dagster.watching.options import Watching

defs = build_definitions(
    ImageDataset(watching=Watching(sensor_seconds=2)),
    resources_from_environment(os.environ),
    start=True,
)
