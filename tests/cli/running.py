"""The command line, run inside this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from imagepipeline_dagster.cli import main
from tests.tables.filling import rows_in


def do(*arguments: str, answer: str = "") -> Result:
    """Run a command; `answer` is typed when it asks."""
    return CliRunner().invoke(main, list(arguments), input=answer)


def facts(*arguments: str, exit_code: int = 0) -> Any:  # noqa: ANN401 - any JSON
    """Return the one JSON document that a command prints on its standard output."""
    result = do(*arguments, "--json")
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


def prompts() -> list[tuple[str, str, str]]:
    """Return set, id and text of each prompt in the default tables."""
    rows = rows_in("sqlite:///data/tables.db")
    return [(row.prompt_set, row.prompt_id, row.prompt) for row in rows]
