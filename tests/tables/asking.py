"""The cheap questions, each asked of the prompts table opened for it alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from imagepipeline_dagster.tables.reading import PromptsTable, SourceTables
from imagepipeline_dagster.tables.summaries import newest_time

P = ParamSpec("P")
T = TypeVar("T")


def asked(
    question: Callable[Concatenate[PromptsTable, P], T],
    tables: SourceTables,
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Return the answer to a question of `summaries` or `checksums`."""
    with tables.open_prompts() as prompts:
        return question(prompts, *args, **kwargs)


def newest_in(tables: SourceTables) -> str:
    """Return the newest time in the prompts table, which has one."""
    newest = asked(newest_time, tables)
    assert newest is not None
    return newest
