"""Errors about the tables that a person has to put right."""

from __future__ import annotations

from imagepipeline_dagster.errors import CorrectableError


class TablesError(CorrectableError):
    """Something about the two tables that a person has to put right."""


class TablesUnavailable(TablesError):
    """The database cannot be reached or read; names its URL without the password."""


class RowRefused(TablesError):
    """A constraint of the table does not allow a row; nothing of its transaction was written."""


class TableMissing(TablesError):
    """The database has no such table; names those that it has."""


class ColumnMissing(TablesError):
    """The table has no such column; names those that it has."""
