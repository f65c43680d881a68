"""Tables and a ledger that are watched, and somebody who edits the tables."""

from __future__ import annotations

from pathlib import Path

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.reading import SourceTables
from tests.tables.filling import run_sql

NOON = 1_800_000_000.0


class Watched:
    """Empty tables, whose rows are stamped long before `now`, and an empty ledger."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'tables.db'}"
        create_tables(self.url)
        self.tables = SourceTables(self.url)
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        self.now = NOON

    def close(self) -> None:
        """Close both."""
        self.tables.close()
        self.ledger.close()

    def sql(self, statement: str, **values: object) -> None:
        """Edit the tables."""
        run_sql(self.url, statement, **values)

    def add(
        self, *names: str, prompt: str = "a boat", at: str = "12:00:00", embedding: str = ""
    ) -> None:
        """Add sets of one row."""
        for name in names:
            self.sql(
                "INSERT INTO prompts (prompt_set, prompt_id, prompt, embeddings, updated_at)"
                " VALUES (:name, '1', :prompt, nullif(:embedding, ''), :at)",
                name=name,
                prompt=prompt,
                embedding=embedding,
                at=f"2026-05-01 {at}",
            )
