"""A dataset as production has it: a key, databases, a bucket, one limit for the account."""

import os

import dagster as dg

from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.environment import resources_for
from imagepipeline_dagster.planning.prompts import GenerationDefaults
from imagepipeline_dagster.watching.options import Watching

defs = build_definitions(
    ImageDataset(
        defaults=GenerationDefaults(width=64, height=64), watching=Watching(sensor_seconds=1)
    ),
    resources_for(
        api_key=dg.EnvVar("IMAGEPIPELINE_API_KEY"),
        base_url=os.environ["IMAGEPIPELINE_BASE_URL"],
        max_in_flight=3,
        account_max_in_flight=4,
        storage_uri=os.environ["IMAGEPIPELINE_STORAGE"],
        tables_url=dg.EnvVar("IMAGEPIPELINE_TABLES_URL"),
        ledger_url=dg.EnvVar("IMAGEPIPELINE_LEDGER_URL"),
    ),
    start=True,
)
