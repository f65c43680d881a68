"""A code location for `benchmarks.daemon`: a dataset's sensors, and one that does nothing."""

import os

import dagster as dg

from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.environment import resources_from_environment
from imagepipeline_dagster.watching.options import Watching


@dg.sensor(
    job_name="materialize_prompt_set",
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def empty_sensor() -> dg.SkipReason:
    """Skip: what a tick costs by itself."""
    return dg.SkipReason("nothing to look at")


defs = dg.Definitions.merge(
    build_definitions(
        ImageDataset(watching=Watching(sensor_seconds=1)),
        resources_from_environment(os.environ),
        start=True,
    ),
    dg.Definitions(sensors=[empty_sensor]),
)
