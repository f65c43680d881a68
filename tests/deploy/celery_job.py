"""The job of one prompt set on Celery's workers; run as a program, it is the run's own process."""

import os
import sys

import dagster as dg
from dagster_celery import celery_executor

from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.environment import resources_from_environment
from imagepipeline_dagster.planning.prompts import GenerationDefaults

PARTITION = "spring"
SHARD_ROWS = 15


def make_job() -> dg.JobDefinition:
    """Return the job, as each process makes it for itself."""
    definitions = build_definitions(
        ImageDataset(shard_rows=SHARD_ROWS, defaults=GenerationDefaults(width=64, height=64)),
        resources_from_environment(os.environ),
        start=False,
        executor=celery_executor,
    )
    return definitions.resolve_job_def("materialize_prompt_set")


if __name__ == "__main__":
    # By its own name: as a program it is `__main__`, where no worker finds it.
    from tests.deploy import celery_job  # noqa: PLW0406

    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("prompt_set", [PARTITION])
        url = os.environ["BROKER_URL"]
        result = dg.execute_job(
            dg.reconstructable(celery_job.make_job),
            instance=instance,
            tags={"dagster/partition": PARTITION},
            run_config={"execution": {"config": {"broker": url, "backend": url}}},
            raise_on_error=False,
        )
        sys.exit(not result.success)
