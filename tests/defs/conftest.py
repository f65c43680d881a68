"""The sample tables as a whole dataset, made once; and empty tables for the tests that edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from tests.pipeline import Pipeline, open_pipeline


@dataclass(frozen=True)
class Sampled:
    """The sample tables' pipeline after its first runs, which are kept by partition."""

    pipeline: Pipeline
    runs: Mapping[str, dg.ExecuteInProcessResult]
    release: dg.ExecuteInProcessResult


@pytest.fixture(scope="session")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sampled]:
    """Make the sample tables' images and their release, once for all tests that only look."""
    with open_pipeline(tmp_path_factory.mktemp("sampled"), samples=True) as pipeline:
        yield Sampled(pipeline, pipeline.sync(), pipeline.release())


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline on tables without a row."""
    with open_pipeline(tmp_path) as opened:
        yield opened
