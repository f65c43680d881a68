"""A dataset of which nothing is bought until a person approves its plan."""

import os

from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.environment import resources_from_environment
from imagepipeline_dagster.ledger.budget import Budget
from imagepipeline_dagster.planning.approval import Approval
from imagepipeline_dagster.watching.options import Watching

defs = build_definitions(
    ImageDataset(
        price_per_image=0.02,
        currency="EUR",
        budget=Budget(money=50),
        approval=Approval(required="always"),
        watching=Watching(sensor_seconds=1),
    ),
    resources_from_environment(os.environ),
    start=False,
)
