"""How a database's URL is read, and how it is shown."""

from __future__ import annotations

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

__all__ = ["engine_url", "shown_url"]


def engine_url(url: str) -> str:
    """Return the URL as SQLAlchemy needs it: plain `postgres(ql)://` is read as psycopg 3.

    Raises:
        ValueError: it is no database URL.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError(
            "not a database URL; write for example sqlite:///data/tables.db or "
            "postgresql://user:password@host/database"
        ) from error
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def shown_url(url: str) -> str:
    """Return the URL for messages and metadata: without its password and its query."""
    return make_url(engine_url(url)).set(query={}).render_as_string(hide_password=True)
