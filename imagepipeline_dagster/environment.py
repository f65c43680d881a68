"""The environment variables, and the resources that they configure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import dagster as dg
from pydantic import ValidationError
from sqlalchemy.engine import URL

from imagepipeline_dagster.api.address import AddressInvalid
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.io_manager import ParquetIOManager
from imagepipeline_dagster.resources import (
    DEFAULT_BASE_URL,
    ImagePipelineResource,
    LedgerResource,
    StorageResource,
    TablesResource,
)
from imagepipeline_dagster.storage.opening import folder_at, open_storage

API_KEY = "IMAGEPIPELINE_API_KEY"
BASE_URL = "IMAGEPIPELINE_BASE_URL"
MAX_IN_FLIGHT = "IMAGEPIPELINE_MAX_IN_FLIGHT"
STORAGE = "IMAGEPIPELINE_STORAGE"
TABLES_URL = "IMAGEPIPELINE_TABLES_URL"
LEDGER_URL = "IMAGEPIPELINE_LEDGER_URL"
ALLOW_INSECURE = "IMAGEPIPELINE_ALLOW_INSECURE"


class EnvironmentInvalid(CorrectableError):
    """A variable is missing or cannot be used; the message says which, and what to do."""


def resources_from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the resources by their names in `build_definitions`, from the documented variables.

    The API key and the database URLs stay references, so that neither the UI nor the run storage
    ever holds a secret. A second dataset may have values of its own, from variables of any name.
    One that no variable of the process holds counts as it is given.

    Raises:
        EnvironmentInvalid: names the variable.
    """
    settings = {name: value for name, value in environment.items() if value.strip()}

    def secret(name: str) -> str | None:
        if name not in settings:
            return None
        # The process's own variable of that name may hold another value.
        holders = (each for each in (name, *os.environ) if os.environ.get(each) == settings[name])
        holder = next(holders, None)
        return dg.EnvVar(holder) if holder else settings[name]

    return resources_for(
        api_key=secret(API_KEY),
        base_url=settings.get(BASE_URL, DEFAULT_BASE_URL),
        max_in_flight=_whole_number(settings.get(MAX_IN_FLIGHT, "16")),
        storage_uri=settings.get(STORAGE, "data"),
        tables_url=secret(TABLES_URL),
        ledger_url=secret(LEDGER_URL),
        allow_insecure=settings.get(ALLOW_INSECURE, "").strip().lower() in {"1", "true", "yes"},
    )


def resources_for(
    *,
    api_key: str | None = None,
    storage_uri: str = "data",
    storage_options: Mapping[str, str] = MappingProxyType({}),
    tables_url: str | None = None,
    ledger_url: str | None = None,
    **api_options: Any,  # noqa: ANN401 - the fields of ImagePipelineResource
) -> dict[str, Any]:
    """Return the resources by their names in `build_definitions`.

    `api_options` are further fields of `ImagePipelineResource`. Without URLs, both databases are
    SQLite files in the storage's folder, and the tables are created there with samples.

    Raises:
        EnvironmentInvalid: the storage is neither a folder nor a bucket; or it is a bucket, and a
            database's URL is missing; or the base URL is none.
    """
    _check_storage(storage_uri)
    storage = StorageResource(uri=storage_uri, write_options=dict(storage_options))
    tables = tables_url or _file_url(storage_uri, "tables.db", TABLES_URL)
    ledger = ledger_url or _file_url(storage_uri, "ledger.db", LEDGER_URL)
    return {
        "imagepipeline": _api(api_key=api_key, **api_options),
        "tables": TablesResource(url=tables, create_samples=tables_url is None),
        "ledger": LedgerResource(url=ledger),
        "storage": storage,
        "io_manager": ParquetIOManager(storage=storage),
    }


def _file_url(storage_uri: str, file: str, variable: str) -> str:
    folder = folder_at(storage_uri)
    if folder is None:
        raise EnvironmentInvalid(
            f"{variable}: is required when {STORAGE} is a bucket ({storage_uri}); "
            "set it to a database, such as postgresql://user:password@host/database"
        )
    # Composed by SQLAlchemy: a sign in a folder's name may mean something else in a URL.
    return URL.create("sqlite", database=str(folder / file)).render_as_string()


def _check_storage(storage_uri: str) -> None:
    # Now, and not in the first run; a bucket is left to it, as its libraries take long to load.
    if not storage_uri.startswith("s3://"):
        try:
            open_storage(storage_uri)
        except ValueError as error:
            raise EnvironmentInvalid(f"{STORAGE}: {error}") from error


def _api(**options: Any) -> ImagePipelineResource:  # noqa: ANN401 - its fields
    try:
        return ImagePipelineResource(**options)
    except ValidationError as error:
        cause = error.errors()[0].get("ctx", {}).get("error")
        if not isinstance(cause, AddressInvalid):
            raise
        raise EnvironmentInvalid(
            f"{BASE_URL}: {cause}; it is a URL such as {DEFAULT_BASE_URL}"
        ) from error


def _whole_number(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise EnvironmentInvalid(f"{MAX_IN_FLIGHT}: {value!r} is not a whole number from 1 on")
    return int(value)
