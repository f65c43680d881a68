"""How a database's URL is read and shown, its engine opened, and what its driver says."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
import stamina
from sqlalchemy.engine import URL

from imagepipeline_dagster.errors import CorrectableError

_CONNECT_SECONDS = 10  # a sensor has 60 s for everything
_BATCH = 500  # far below every limit on bound values
_BUSY_MILLISECONDS = 30_000
_LOOK_SECONDS = 0.001
_PSYCOPG = "postgresql+psycopg"
# A smaller difference of two clocks is as much the network's.
_SAME_CLOCK = dt.timedelta(seconds=1)


T = TypeVar("T")

AWAY = (sa.exc.OperationalError, sa.exc.InternalError, sa.exc.InterfaceError)
"""What drivers raise while a database restarts, is locked, or is a copy that takes no writes."""


def batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items in parts of which each fits into one `IN (…)` of any database."""
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def clock_ahead(connection: sa.Connection) -> dt.timedelta:
    """Return how far the database's clock is ahead of this machine's, as measured now.

    A SQLite file has the clock of whoever uses it.
    """
    if connection.dialect.name != "postgresql":
        return dt.timedelta(0)
    connection.execute(sa.select(1))  # connected: what follows is quick
    before = _now()
    there: dt.datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    ahead = there - before - (_now() - before) / 2
    return ahead if abs(ahead) >= _SAME_CLOCK else dt.timedelta(0)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class DriverMissing(CorrectableError):
    """The driver for a database's URL is not installed; the message says what to install."""


def parsed_url(url: str) -> URL:
    """Return a database's URL as SQLAlchemy needs it.

    Plain `postgres(ql)://` means psycopg 3, and `~` in a SQLite file's path the home folder.

    Raises:
        ValueError: it is no database URL. The text is not shown: it may hold a password in a place
            where no parser finds it.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise ValueError(
            "The URL cannot be read. It looks like sqlite:///data/tables.db or "
            "postgresql://user:password@host/database; a password's own @ : / are percent-quoted."
        ) from None
    if parsed.drivername in ("postgres", "postgresql"):
        return parsed.set(drivername=_PSYCOPG)
    if parsed.get_backend_name() == "sqlite" and (parsed.database or "").startswith("~"):
        return parsed.set(database=str(Path(str(parsed.database)).expanduser()))
    return parsed


def shown_url(url: str | URL) -> str:
    """Return the URL for messages and metadata, its password masked wherever it stands."""
    parsed = parsed_url(url) if isinstance(url, str) else url
    secret = {name: "***" for name in parsed.query if "pass" in name.lower()}
    return parsed.update_query_dict(secret).render_as_string(hide_password=True)


def sqlite_file(url: URL) -> Path | None:
    """Return the SQLite file that the URL names by its path; None for everything else."""
    database = url.database
    if url.get_backend_name() != "sqlite" or not database:
        return None
    return None if database == ":memory:" or database.startswith("file:") else Path(database)


def engine_that_reads(url: URL) -> sa.Engine:
    """Return an engine that makes no file and refuses to write.

    On SQLite a transaction sees one moment of the database.

    Raises:
        DriverMissing: the URL's driver is not installed.
    """
    options: dict[str, Any] = {}
    if (file := sqlite_file(url)) is not None:
        # mode=rw and not ro: a reader that may not write cannot roll back what a crashed writer
        # left behind. Writing is refused by query_only below.
        location = f"file:{quote(str(file.absolute()))}"
        url = url.set(database=location).update_query_dict({"mode": "rw", "uri": "true"})
    if url.get_backend_name() in ("sqlite", "duckdb"):
        # An open connection would go on reading a file that was replaced, or keep DuckDB's writers
        # out; a new one costs next to nothing.
        options["poolclass"] = sa.pool.NullPool
    if url.get_backend_name() == "duckdb":
        options["connect_args"] = {"read_only": True}
    if url.drivername == _PSYCOPG:
        # A statement that the server had prepared fails once its owner gives a column another type.
        options["connect_args"] = {"prepare_threshold": None}
    engine = _engine(url, **options)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare("query_only = ON"))
        # Without it each query of a transaction would see another moment.
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    if engine.dialect.name == "postgresql":
        return engine.execution_options(postgresql_readonly=True)
    return engine


def engine_that_writes(url: URL, *, write_ahead: bool = False) -> sa.Engine:
    """Return an engine whose transactions are all or nothing, table definitions included.

    On SQLite each takes the lock of the writers at its beginning, so that two wait for each other
    instead of failing halfway; one with the execution option `only_reads` takes none. With
    `write_ahead` the file is in WAL mode, whose readers wait for no writer.

    Raises:
        DriverMissing: the URL's driver is not installed.
    """
    engine = _engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare("synchronous = FULL"))
        if write_ahead:
            sa.event.listen(engine, "connect", _write_ahead)
        sa.event.listen(engine, "begin", _begin_writing)
    return engine


def _engine(url: URL, **options: Any) -> sa.Engine:  # noqa: ANN401 - create_engine's own
    if url.drivername == _PSYCOPG and "connect_timeout" not in url.query:
        options.setdefault("connect_args", {})["connect_timeout"] = _CONNECT_SECONDS
    if url.get_backend_name() != "sqlite":
        options["pool_pre_ping"] = True
    try:
        return sa.create_engine(url, **options)
    except (sa.exc.NoSuchModuleError, ImportError) as error:
        extra = "pip install 'imagepipeline-dagster[postgres]'"
        another = "install it, or name another one, as dialect+driver://…"
        what_to_do = extra if "psycopg" in str(error) else another
        raise DriverMissing(
            f"No driver for {shown_url(url)} is installed ({what_to_do}): {error}"
        ) from error


def _prepare(pragma: str) -> Callable[[Any, object], None]:
    def prepare(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver's own
        # The driver would begin too late, at the first INSERT, and commit before CREATE TABLE.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        connection.execute(f"PRAGMA {pragma}")

    return prepare


@stamina.retry(on=sqlite3.OperationalError, attempts=None, timeout=30.0, wait_initial=0.02)
def _write_ahead(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver's own
    # Two processes that make a file at once: SQLite does not wait for this lock by itself.
    connection.execute("PRAGMA journal_mode = WAL")


def _begin_writing(connection: sa.Connection) -> None:
    if connection.get_execution_options().get("only_reads"):
        connection.exec_driver_sql("BEGIN")
        return
    driver: Any = connection.connection.driver_connection
    [[patience]] = driver.execute("PRAGMA busy_timeout")
    until = time.monotonic() + patience / 1000
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        while time.monotonic() < until:
            try:
                driver.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                    break
                # SQLite itself looks less and less often: who has waited for long would go on
                # waiting behind those who have just come.
                time.sleep(_LOOK_SECONDS)
            else:
                return
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # its error is SQLAlchemy's
    finally:
        driver.execute(f"PRAGMA busy_timeout = {patience}")


@contextmanager
def one_at_a_time(engine: sa.Engine, file: Path | None, number: int) -> Iterator[None]:
    """Let one process of all that use a database into the block; the others wait.

    The lock ends with its process, and is nobody's transaction. `file` is that of a SQLite
    database; one in memory is one process's. `number` tells the lock from others.
    """
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.select(sa.func.pg_advisory_lock(number)))
            connection.detach()  # closed for good: the lock is the session's
            yield
    elif file is not None:
        with file.with_name(f"{file.name}.lock-{number}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    else:
        yield


def make_private_file(file: Path) -> None:
    """Make an empty file that its owner alone can read, and its folder, unless it is there.

    SQLite gives the files beside it the same permissions.
    """
    file.absolute().parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))


def copy_sqlite(file: Path, copy: Path) -> None:
    """Copy a database as it is at one moment, what its `-wal` file holds included.

    Others may write to it meanwhile. The copy replaces what has its name once it is whole and on
    the disk.
    """
    unfinished = copy.with_name(f"{copy.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    make_private_file(unfinished)
    try:
        location = f"{file.absolute().as_uri()}?mode=rw"
        with (
            closing(sqlite3.connect(location, uri=True)) as source,
            closing(sqlite3.connect(unfinished)) as target,
        ):
            source.backup(target)
            # One file: a copy that is moved or restored must not depend on a second one.
            target.execute("PRAGMA journal_mode = DELETE")
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(copy)
    finally:
        unfinished.unlink(missing_ok=True)


def what_to_check(url: str) -> str:
    """Return what a person looks at first where a database cannot be used."""
    if url.startswith(("sqlite", "duckdb")):
        return "Check that its folder can be written and has room, that nobody keeps it locked"
    return "Check that the database runs"


def cause_of(error: BaseException) -> str:
    """Return what a driver says about an error, as a sentence on one line."""
    words = " ".join(str(getattr(error, "orig", None) or error).split())
    return words if words.endswith((".", "?", "!")) else f"{words}."
