"""Dagster's own databases in the tests' process, without what it does anew for each of them.

Each run's events are in a SQLite file. Dagster makes an engine for every event that it writes or
reads there, compiles the same statements for it, waits for the disk, and holds each new file
against its migrations. That is more work than ours in a run of a few pictures.
"""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.sqlite import sqlite_event_log

_read_scripts = ScriptDirectory.from_config
_scripts: dict[str | None, ScriptDirectory] = {}


def _scripts_of(config: Config) -> ScriptDirectory:
    # They stay as they are while the tests run.
    place = config.get_main_option("script_location")
    if place not in _scripts:
        _scripts[place] = _read_scripts(config)
    return _scripts[place]


def _engine_of(url: str, *, connect_args: dict[str, Any], **_: object) -> sa.Engine:
    return _engine(url, connect_args["timeout"])


@lru_cache(maxsize=32)
def _engine(url: str, timeout: float) -> sa.Engine:
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"timeout": timeout})
    sa.event.listen(engine, "connect", _without_waiting)
    return engine


def _without_waiting(connection: sqlite3.Connection, _: object) -> None:
    # What a test killed stays written; no test outlives the machine.
    connection.execute("PRAGMA synchronous = OFF")


def quicken_instances() -> None:
    """Let Dagster keep engines and migrations, for as long as this process lives."""
    ScriptDirectory.from_config = _scripts_of  # type: ignore[method-assign]
    vars(sqlite_event_log)["create_engine"] = _engine_of
