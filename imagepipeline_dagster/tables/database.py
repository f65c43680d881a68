"""Databases by URL: their engines, the tables as they have them, and the errors about both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL

from imagepipeline_dagster.databases import (
    DriverMissing,
    cause_of,
    engine_that_reads,
    engine_that_writes,
    make_private_file,
    parsed_url,
    shown_url,
    sqlite_file,
    what_to_check,
)
from imagepipeline_dagster.tables.errors import RowRefused, TablesUnavailable


def _check_exists(file: Path, url: str) -> None:
    if not file.exists():
        raise TablesUnavailable(
            f"There is no SQLite file {file.absolute()} (from {shown_url(url)}). "
            "`imagepipeline-dagster init` makes one with sample prompts, for the same --dataset "
            "where there are several; IMAGEPIPELINE_TABLES_URL, or the component's `tables_url`, "
            "names another."
        )


def source_engine(url: str) -> sa.Engine:
    """Return an engine which only reads: it never makes a SQLite file, and refuses to write.

    Raises:
        TablesUnavailable: when the URL cannot be read, its driver is not installed, or the SQLite
            file does not exist.
    """
    engine = _opened(engine_that_reads, url)
    file = sqlite_file(parsed_url(url))
    if file is not None:
        _check_exists(file, url)
        # At each connection: the engine may be older than the loss of the file.
        sa.event.listen(engine, "do_connect", lambda *_: _check_exists(file, url))
    return engine


@contextlib.contextmanager
def reading(url: str) -> Iterator[sa.Connection]:
    """Give a connection of an engine that only reads; see `source_engine`.

    Raises:
        TablesUnavailable: when the database cannot be used.
    """
    engine = source_engine(url)
    try:
        with reporting_database_errors(url), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextlib.contextmanager
def writing(url: str, *, create_file: bool = False) -> Iterator[sa.Connection]:
    """Give a connection in one transaction, table definitions included: all of it or nothing.

    A SQLite file is made, with its folder, only if asked for.

    Raises:
        TablesUnavailable: when the database cannot be used.
        RowRefused: when a constraint does not allow what is written.
    """
    engine = _opened(engine_that_writes, url)
    file = sqlite_file(parsed_url(url))
    if file is not None and create_file:
        make_private_file(file)
    elif file is not None:
        _check_exists(file, url)
    try:
        with reporting_database_errors(url), engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _opened(open_engine: Callable[[URL], sa.Engine], url: str) -> sa.Engine:
    try:
        return open_engine(parsed_url(url))
    except ValueError as error:
        raise TablesUnavailable(f"The tables' database: {error}") from None
    except DriverMissing as error:
        raise TablesUnavailable(str(error)) from error


@contextlib.contextmanager
def reporting_database_errors(url: str) -> Iterator[None]:
    """Turn the driver's errors into ours, which say where and what to do.

    Raises:
        RowRefused: when a constraint does not allow what is written.
        TablesUnavailable: for all other errors.
    """
    try:
        yield
    except (sa.exc.IntegrityError, sa.exc.DataError) as error:
        refused = isinstance(error, sa.exc.IntegrityError)
        raise RowRefused(
            f"The tables at {shown_url(url)} "
            f"{'refuse a row' if refused else 'cannot hold a value'}, and nothing was changed: "
            f"{cause_of(error)}"
        ) from error
    except (sa.exc.StatementError, sa.exc.TimeoutError) as error:
        raise TablesUnavailable(
            f"The tables at {shown_url(url)} cannot be used: {cause_of(error)} "
            f"{what_to_check(url)}, and the URL in IMAGEPIPELINE_TABLES_URL."
        ) from error
