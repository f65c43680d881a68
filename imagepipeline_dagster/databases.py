"""How a database's URL is read and shown, and what its driver says."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL

__all__ = ["cause_of", "parsed_url", "shown_url"]


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
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite" and (parsed.database or "").startswith("~"):
        return parsed.set(database=str(Path(str(parsed.database)).expanduser()))
    return parsed


def shown_url(url: str | URL) -> str:
    """Return the URL for messages and metadata, its password masked wherever it stands."""
    parsed = parsed_url(url) if isinstance(url, str) else url
    secret = {name: "***" for name in parsed.query if "pass" in name.lower()}
    return parsed.update_query_dict(secret).render_as_string(hide_password=True)


def cause_of(error: BaseException) -> str:
    """Return what a driver says about an error, as a sentence on one line."""
    words = " ".join(str(getattr(error, "orig", None) or error).split())
    return words if words.endswith((".", "?", "!")) else f"{words}."
