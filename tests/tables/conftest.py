"""Both databases that the tables are promised to work on, and tables to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.reading import SourceTables
from tests.tables.filling import run_sql


@pytest.fixture(params=["sqlite", "postgresql"])
def tables_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, SQLite and PostgreSQL in turn."""
    if request.param == "sqlite":
        file = tmp_path / "tables.db"
        file.touch()
        return f"sqlite:///{file}"
    url: str = request.getfixturevalue("postgres_url")
    return url


Execute = Callable[..., object]


@pytest.fixture
def execute(tables_url: str) -> Execute:
    """Run statements on the database as somebody would who does not know this package."""
    return partial(run_sql, tables_url)


@pytest.fixture
def tables(tables_url: str) -> Iterator[SourceTables]:
    """The tables of the database under their default names."""
    with SourceTables(tables_url) as opened:
        yield opened


@pytest.fixture
def created_url(tables_url: str) -> str:
    """The URL of a database with both tables, empty."""
    create_tables(tables_url)
    return tables_url
