"""What the commands share: errors without a traceback, and text that cannot steer a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

__all__ = ["plain_errors", "printable"]


def printable(text: str) -> str:
    """Return one line that shows what a text holds: what a terminal would obey is spelled out.

    Texts come from tables and from an API; colours, cursor movements and reversed writing in them
    must not change what a person reads.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


@contextmanager
def plain_errors(*more: type[Exception]) -> Iterator[None]:
    """Show what is wrong and what to do about it, without a traceback; `more` are further kinds."""
    from imagepipeline_dagster.environment import EnvironmentInvalid
    from imagepipeline_dagster.tables.database import TablesError
    from imagepipeline_dagster.tables.incoming import ImportRefused
    from imagepipeline_dagster.tables.samples import SampleMissing

    known: tuple[type[Exception], ...] = (
        TablesError,
        ImportRefused,
        SampleMissing,
        EnvironmentInvalid,
        OSError,
        *more,
    )
    try:
        yield
    except known as error:
        lines = map(printable, str(error).splitlines())
        raise click.ClickException("\n".join(lines)) from error
