"""The code location: the environment in, the definitions out."""

import os

import dagster as dg

from imagepipeline_dagster import ImageDataset, build_definitions, resources_from_environment

dataset = ImageDataset()
resources = resources_from_environment(os.environ)
defs = dg.Definitions.merge(
    # On a real key, spending begins when a person starts the sensors.
    build_definitions(dataset, resources, start=resources["imagepipeline"].emulated),
    # The stages follow one another: a process for each would only cost its start.
    dg.Definitions(executor=dg.in_process_executor),
)
