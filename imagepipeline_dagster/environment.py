"""The environment variables, and the resources that they configure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from imagepipeline_dagster.io_manager import ParquetIOManager
from imagepipeline_dagster.resources import (
    ImagePipelineResource,
    LedgerResource,
    StorageResource,
    TablesResource,
)

__all__ = ["EnvironmentInvalid", "resources_from_environment"]

_KEY = "IMAGEPIPELINE_API_KEY"
_BASE_URL = "IMAGEPIPELINE_BASE_URL"
_MAX_IN_FLIGHT = "IMAGEPIPELINE_MAX_IN_FLIGHT"
_STORAGE = "IMAGEPIPELINE_STORAGE"
_TABLES_URL = "IMAGEPIPELINE_TABLES_URL"
_LEDGER_URL = "IMAGEPIPELINE_LEDGER_URL"


class EnvironmentInvalid(ValueError):
    """A variable is missing or cannot be used; the message says which, and what to do."""


def resources_from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the resources by their Dagster keys.

    The API key and the database URLs stay references to their variables, so that the UI and the
    run storage never hold a secret.

    Raises:
        EnvironmentInvalid: names the variable.
    """
    given = {name: value for name, value in environment.items() if value.strip()}
    storage = StorageResource(uri=given.get(_STORAGE, "data"))
    return {
        "imagepipeline": ImagePipelineResource(
            api_key=dg.EnvVar(_KEY) if _KEY in given else None,
            base_url=given.get(_BASE_URL, "https://api.imagepipeline.io"),
            max_in_flight=_whole_number(given.get(_MAX_IN_FLIGHT, "16")),
        ),
        "tables": TablesResource(
            url=_database_url(given, _TABLES_URL, "tables.db"),
            create_samples=_TABLES_URL not in given,
        ),
        "ledger": LedgerResource(url=_database_url(given, _LEDGER_URL, "ledger.db")),
        "storage": storage,
        "io_manager": ParquetIOManager(storage=storage),
    }


def _database_url(given: Mapping[str, str], name: str, file: str) -> Any:  # noqa: ANN401 - EnvVar is a str
    if name in given:
        return dg.EnvVar(name)
    storage = given.get(_STORAGE, "data")
    if storage.startswith("s3://"):
        raise EnvironmentInvalid(
            f"{name}: is required when {_STORAGE} is a bucket ({storage}); "
            "set it to a database, such as postgresql://user:password@host/database"
        )
    folder = Path(storage.removeprefix("file://"))
    return f"sqlite:///{folder / file}"


def _whole_number(value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise EnvironmentInvalid(f"{_MAX_IN_FLIGHT}: {value!r} is not a whole number from 1 on")
    return int(value)
