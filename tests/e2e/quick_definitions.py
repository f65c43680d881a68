"""What `definitions.py` does, with sensors that look often: a test waits for them."""

import os

from imagepipeline_dagster.defs import ImageDataset, build_definitions
from imagepipeline_dagster.environment import resources_from_environment

defs = build_definitions(
    ImageDataset(sensor_seconds=1), resources_from_environment(os.environ), start=True
)
