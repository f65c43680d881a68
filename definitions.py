"""The code location: the environment in, the definitions out."""

import os

from imagepipeline_dagster import ImageDataset, build_definitions, resources_from_environment

dataset = ImageDataset()
resources = resources_from_environment(os.environ)
# On a real key, spending begins when a person starts the sensors.
defs = build_definitions(dataset, resources, start=resources["imagepipeline"].emulated)
