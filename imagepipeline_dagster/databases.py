"""How a database's URL is read, and how it is shown."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import URL

__all__ = ["parsed_url", "shown_url"]


def parsed_url(url: str) -> URL:
    """Return a database's URL as SQLAlchemy needs it: plain `postgres(ql)://` means psycopg 3.

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
    return parsed


def shown_url(url: str | URL) -> str:
    """Return the URL for messages and metadata, its password masked wherever it stands."""
    parsed = parsed_url(url) if isinstance(url, str) else url
    secret = {name: "***" for name in parsed.query if "pass" in name.lower()}
    return parsed.update_query_dict(secret).render_as_string(hide_password=True)
