"""The ledger's tables, and how an older ledger becomes a current one.

The engine of a ledger: SQLite in WAL mode with every commit on disk, or PostgreSQL.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import stamina
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    event,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import URL
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

__all__ = [
    "SCHEMA_VERSION",
    "LedgerTooNew",
    "LedgerTooOld",
    "attempts",
    "decisions",
    "moderations",
    "open_ledger_engine",
    "open_ledger_for_reading",
    "perceptual_hashes",
    "prompt_sets",
    "requests",
    "samples",
    "scores",
    "set_contents",
    "spending",
    "upgrade",
    "uses",
]

SCHEMA_VERSION = 1


class LedgerTooNew(RuntimeError):
    """The ledger was written by a later version of this package."""


class LedgerTooOld(RuntimeError):
    """The ledger lacks tables, and is opened in a way that creates none."""


class _Utc(TypeDecorator[dt.datetime]):
    """A moment: UTC without a zone in the database, with one in Python."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> Any:  # noqa: ANN401, ARG002
        return value and value.astimezone(dt.UTC).replace(tzinfo=None)

    # Not process_result_value, which costs three calls a value: a large set reads 50,000 of them.
    def result_processor(
        self,
        dialect: Dialect,
        coltype: object,  # noqa: ARG002 - SQLAlchemy's own signature
    ) -> Callable[[Any], dt.datetime | None]:
        return _moment_of_text if dialect.name == "sqlite" else _moment_of_datetime


def _moment_of_text(value: str | None) -> dt.datetime | None:
    """Read what SQLAlchemy keeps a moment as where the database has no type for it."""
    return None if value is None else dt.datetime.fromisoformat(value).replace(tzinfo=dt.UTC)


def _moment_of_datetime(value: dt.datetime | None) -> dt.datetime | None:
    return None if value is None else value.replace(tzinfo=dt.UTC)


_metadata = MetaData()

version = Table("ledger_version", _metadata, Column("version", Integer, nullable=False))

requests = Table(
    "ledger_requests",
    _metadata,
    Column("request_key", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    # Jobs that were POSTed for this request so far, the current one included.
    Column("attempt", Integer, nullable=False),
    Column("task", String(16), nullable=False),
    Column("request", Text, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("embedding_version", Text),
    Column("endpoint", Text, nullable=False),
    Column("emulated", Boolean, nullable=False),
    Column("run_id", Text, nullable=False),
    # The process that works on it, and until when its word holds.
    Column("owner", Text, nullable=False),
    Column("lease_until", _Utc, nullable=False),
    Column("claimed_at", _Utc, nullable=False),
    Column("job_id", Text),
    # Only where a job has no id to ask for them again.
    Column("links", JSON),
    Column("submitted_at", _Utc),
    Column("completed_at", _Utc),
    Column("failure", String(16)),
    Column("error", Text),
    Index("ledger_requests_by_owner", "owner", "state"),
    Index("ledger_requests_by_state", "state"),
)

samples = Table(
    "ledger_samples",
    _metadata,
    Column("request_key", String(64), primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("sample_index", Integer),
    Column("outcome", String(16), nullable=False),
    Column("image_sha256", String(64), index=True),
    Column("uri", Text),
    Column("format", String(8)),
    Column("pixel_width", Integer),
    Column("pixel_height", Integer),
    Column("bytes", Integer),
    Column("value_range", Integer),
    Column("stored_at", _Utc, nullable=False),
    Column("error", Text),
)

# Attempts that ended without a picture, so that their job ids stay known.
attempts = Table(
    "ledger_attempts",
    _metadata,
    Column("request_key", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("job_id", Text),
    Column("run_id", Text, nullable=False),
    Column("submitted_at", _Utc),
    Column("ended_at", _Utc, nullable=False),
    Column("failure", String(16), nullable=False),
    Column("error", Text),
)

# Which prompt asked for which request, with its row as it was: from a picture back to its prompts.
uses = Table(
    "ledger_uses",
    _metadata,
    Column("dataset", String(200), primary_key=True),
    Column("prompt_set", Text, primary_key=True),
    Column("prompt_id", Text, primary_key=True),
    Column("call_index", Integer, primary_key=True),
    Column("request_key", String(64), primary_key=True),
    Column("prompt_row", Text, nullable=False),
    Column("embedding_row", Text),
    Column("run_id", Text, nullable=False),
    Column("used_at", _Utc, nullable=False),
    Index("ledger_uses_by_key", "request_key"),
)

# Money in millionths, so that sums are exact. The row of the empty day holds the sum of all days.
spending = Table(
    "ledger_spending",
    _metadata,
    Column("scope", String(400), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("images", BigInteger, nullable=False),
    Column("micros", BigInteger, nullable=False),
)

# What people decided about requests; rows are only ever added.
decisions = Table(
    "ledger_decisions",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("request_key", String(64), nullable=False, index=True),
    Column("decided_at", _Utc, nullable=False),
    Column("decision", String(16), nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
)

prompt_sets = Table(
    "ledger_prompt_sets",
    _metadata,
    Column("dataset", String(200), primary_key=True),
    Column("prompt_set", Text, primary_key=True),
    Column("requested_prompts", String(64)),
    Column("requested_embeddings", String(64)),
    Column("requested_at", _Utc),
    # Runs asked for in all: makes each run's key unique.
    Column("attempt", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("built_content", String(64)),
    Column("built_at", _Utc),
    Column("pending", Integer, nullable=False),
)

# What each prompt set of the tables says, as far as the sensors have looked: how it was recognised
# (rows, newest time, checksum), and what its rows said when they were last read.
set_contents = Table(
    "ledger_set_contents",
    _metadata,
    Column("dataset", String(200), primary_key=True),
    Column("prompt_set", Text, primary_key=True),
    Column("rows", BigInteger, nullable=False),
    Column("newest", Text),
    Column("checksum", String(64), nullable=False),
    Column("prompts", String(64), nullable=False),
    Column("embeddings", String(64), nullable=False),
    Column("content", String(64), nullable=False),
    # Those that its rows name, known to the embeddings table or not.
    Column("embedding_ids", JSON, nullable=False),
    Column("changed_at", _Utc, nullable=False),
    # The version of the rows that Dagster was last told of; and the ticks, so that one whose answer
    # was lost can give the same answer again.
    Column("reported", String(64)),
    Column("reported_in", String(64)),
    Column("asked_in", String(64)),
)

# What each prompt set's verdicts were last asked for and made from: the policy and the overrides.
moderations = Table(
    "ledger_moderations",
    _metadata,
    Column("dataset", String(200), primary_key=True),
    Column("prompt_set", Text, primary_key=True),
    Column("requested_basis", String(64)),
    Column("requested_at", _Utc),
    Column("built_basis", String(64)),
)

# What a classifier said of a picture: the same bytes and the same model give the same score.
scores = Table(
    "ledger_scores",
    _metadata,
    Column("image_sha256", String(64), primary_key=True),
    Column("model_sha256", String(64), primary_key=True),
    Column("score", Float(53), nullable=False),
    Column("scored_at", _Utc, nullable=False),
)

perceptual_hashes = Table(
    "ledger_perceptual_hashes",
    _metadata,
    Column("image_sha256", String(64), primary_key=True),
    Column("method", String(32), primary_key=True),
    Column("hash", String(64), nullable=False),
)


def open_ledger_engine(url: URL) -> Engine:
    """Return the engine of a ledger; nothing is opened yet."""
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ANN401, ARG001
        # The driver's own transactions begin too late to be atomic; ours begin below.
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 30000")
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("ledger_reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


@stamina.retry(on=sqlite3.OperationalError, attempts=None, timeout=30.0, wait_initial=0.02)
def _write_ahead(connection: Any) -> None:  # noqa: ANN401 - the driver's own
    # Two processes that make a ledger at once: SQLite does not wait for this lock by itself.
    connection.execute("PRAGMA journal_mode = WAL")


def open_ledger_for_reading(url: URL) -> Engine:
    """Return the engine of a ledger that is only read: no file and no table is made.

    Where there is no ledger it is that of an empty one, in memory.

    Raises:
        LedgerTooNew: the tables are of a later version than this package knows.
        LedgerTooOld: they are of an earlier one.
    """
    engine = _reading_engine(url)
    if engine is not None:
        if _version_in(engine) == SCHEMA_VERSION:
            return engine
        there = inspect(engine).has_table(version.name)
        engine.dispose()
        if there:
            # Read as an empty one, it would look as if nothing had ever been bought.
            raise LedgerTooOld("the ledger is of an earlier version; a run brings it up to date")
    empty = create_engine("sqlite://", poolclass=StaticPool)
    _metadata.create_all(empty)
    return empty


def _reading_engine(url: URL) -> Engine | None:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True).execution_options(postgresql_readonly=True)
    file = url.database
    if not file or file == ":memory:":
        return None
    if not file.startswith("file:"):
        if not Path(file).exists():
            return None
        # mode=rw and not ro: a reader that may not write cannot roll back what a crashed writer
        # left behind.
        location = f"file:{quote(str(Path(file).absolute()))}"
        url = url.set(database=location).update_query_dict({"mode": "rw", "uri": "true"})
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ANN401, ARG001
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 30000")
        connection.execute("PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Without it each query of a transaction would see another moment.
        connection.exec_driver_sql("BEGIN")

    return engine


def upgrade(engine: Engine) -> None:
    """Create the ledger's tables where there are none, and bring older ones up to date.

    Raises:
        LedgerTooNew: the tables are of a later version than this package knows.
    """
    if _version_in(engine) == SCHEMA_VERSION:
        return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Two processes may come here at once; CREATE TABLE IF NOT EXISTS alone can collide.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7190113214)")
        _metadata.create_all(connection)
        if connection.execute(select(version.c.version)).first() is None:
            connection.execute(insert(version).values(version=SCHEMA_VERSION))


def _version_in(engine: Engine) -> int | None:
    """Return the schema version of a ledger; None where its tables are not there, or not all.

    Raises:
        LedgerTooNew: it is a later one.
    """
    tables = set(inspect(engine).get_table_names())
    if version.name not in tables:
        return None
    with engine.connect().execution_options(ledger_reads=True) as connection:
        found: int | None = connection.execute(select(version.c.version)).scalar_one_or_none()
    if found is not None and found > SCHEMA_VERSION:
        raise LedgerTooNew(
            f"the ledger has schema version {found}, this package knows {SCHEMA_VERSION}: "
            "install a later imagepipeline-dagster"
        )
    return found if tables >= _metadata.tables.keys() else None
