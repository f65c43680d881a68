"""The command line, run inside this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from imagepipeline_dagster.cli import main
from tests.tables.filling import rows_in


def do(*arguments: str, answer: str = "") -> Result:
    """Run a command; `answer` is typed when it asks."""
    return CliRunner().invoke(main, list(arguments), input=answer)


def prompts() -> list[tuple[str, str, str]]:
    """Return set, id and text of each prompt in the default tables."""
    rows = rows_in("sqlite:///data/tables.db")
    return [(row.prompt_set, row.prompt_id, row.prompt) for row in rows]
