"""The command line, run inside this process."""

from __future__ import annotations

import sqlalchemy as sa
from click.testing import CliRunner, Result

from imagepipeline_dagster.cli import main


def do(*arguments: str, answer: str = "") -> Result:
    """Run a command; `answer` is typed when it asks."""
    return CliRunner().invoke(main, list(arguments), input=answer)


def prompts() -> list[tuple[str, str, str]]:
    """Return set, id and text of each prompt in the default tables."""
    engine = sa.create_engine("sqlite:///data/tables.db")
    with engine.connect() as connection:
        found = connection.execute(
            sa.text("SELECT prompt_set, prompt_id, prompt FROM prompts ORDER BY 1, 2")
        )
        rows = [(row[0], row[1], row[2]) for row in found]
    engine.dispose()
    return rows
