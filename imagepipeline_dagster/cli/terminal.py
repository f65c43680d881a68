"""What commands say: an answer, errors without a traceback, texts that cannot steer a terminal."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce, wraps
from typing import Any, TypeVar

import click
import rich
from rich import box
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.markup import is_shown
from imagepipeline_dagster.tables.spelling import quoted, visible_name

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_NARROWEST = 20  # columns for a value, however narrow the terminal is
_LONGEST_ID = 64  # a SHA-256 in hex
_ID_END = 20


def printable(text: str) -> str:
    """Return a text as one line, in which a terminal's orders are spelled out.

    Texts come from tables and from an API; colours, cursor movements and reversed writing in them
    must not change what a person reads.
    """
    return "".join(
        character if is_shown(character) else character.encode("unicode_escape").decode()
        for character in text
    )


class AliasedOption(click.Option):
    """An option that takes a second word too, and does not show it."""

    @override
    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0].replace(f", {self.opts[-1]}", ""), record[1])


def why_option(**options: Any) -> Callable[[CommandT], CommandT]:  # noqa: ANN401 - click's own
    """Return the option that says why a person decides so."""
    return click.option("--why", "--reason", "why", cls=AliasedOption, metavar="TEXT", **options)


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def agree(question: str, *, yes: bool) -> None:
    """Ask a person, unless they said yes beforehand; end the command where they do not agree.

    The question is no fact: standard output is for those.
    """
    if not yes:
        click.confirm(question, abort=True, err=True)


def all_of(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what gives a command all of these options, whose help begins with the last."""
    return lambda command: reduce(lambda given, decorate: decorate(given), decorators, command)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Show what a person can put right, and what to do about it, without a traceback."""
    try:
        yield
    except BrokenPipeError:  # nobody reads on: click ends the command by itself
        raise
    except (CorrectableError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        lines = map(printable, text.splitlines())
        raise click.ClickException("\n".join(lines)) from error


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found or did: facts for programs, and lines for people.

    `failed` says that the command ends with exit code 1.
    """

    facts: object
    lines: str | Iterable[str | Table]
    failed: bool = False


def answering(command: Callable[..., Answer | None]) -> Callable[..., None]:
    """Let a command print what it answers, and errors without a traceback."""

    @wraps(command)
    def answered(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - the command's own
        with plain_errors():
            answer = command(**options)
            if answer is not None:
                echo_answer(answer, as_json=as_json)
        if answer is not None and answer.failed:
            raise click.exceptions.Exit(1)

    return answered


def wants_json() -> bool:
    """Tell whether the command is to print one JSON document, and nothing else."""
    return bool(click.get_current_context().params["as_json"])


def echo_answer(answer: Answer, *, as_json: bool) -> None:
    """Print an answer: its facts as JSON, or its lines."""
    if as_json:
        click.echo(json.dumps(answer.facts, indent=2, default=_json_value))
    else:
        echo_lines([answer.lines] if isinstance(answer.lines, str) else answer.lines)


def echo_lines(lines: Iterable[str | Table]) -> None:
    """Print texts, in which nothing can steer the terminal, and tables."""
    for line in lines:
        if not isinstance(line, str):
            rich.print(line)
            continue
        for part in line.split("\n"):
            click.echo(printable(part))


def field_lines(fields: Mapping[str, str | list[str] | None]) -> Iterator[str]:
    """Yield a line for each value of the fields; on a terminal long ones are folded."""
    width = max(map(len, fields))
    columns = _columns()
    for name, value in fields.items():
        values = [value] if isinstance(value, str) else value or []
        lines = [line for text in values for line in _folded(printable(text), columns, width + 4)]
        for label, line in zip([name] + [""] * len(lines), lines, strict=False):
            yield f"  {label:<{width}}  {line}".rstrip()


def _columns() -> int | None:
    """Return the width of the terminal; None where a file or another program reads."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _folded(text: str, columns: int | None, indent: int) -> list[str]:
    if columns is None or len(text) <= columns - indent:
        return [text]
    # Words stay whole, so that a path or a link can be copied; a few are longer than a line.
    return textwrap.wrap(
        text,
        max(columns - indent, _NARROWEST),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


json_option = click.option("--json", "as_json", is_flag=True, help="As one JSON document.")


def _json_value(value: object) -> str:
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)


def json_lines(text: str) -> list[str]:
    """Return a JSON object's fields, a line each; those that are null are only named, at the end.

    The values stay JSON: a text is told from a number.
    """
    fields = json.loads(text)
    lines = [
        f"{name}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in fields.items()
        if value is not None
    ]
    nulls = [name for name, value in fields.items() if value is None]
    return lines + ([f"null: {', '.join(nulls)}"] if nulls else [])


def shown_id(text: str) -> str:
    """Return an id; on a terminal a long one is shown without its middle."""
    if _columns() is None or len(text) <= _LONGEST_ID:
        return text
    return f"{text[:_ID_END]}…{text[-_ID_END:]}"


def moment(time: dt.datetime | None) -> str | None:
    """Return a time as people read it, in UTC."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else None


def count_of(number: int, what: str) -> str:
    """Return how many there are of something: "1 image", "2 images"."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def counts_table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
    *,
    of: str = "prompt set",
) -> Table:
    """Return a table with a row of cells for each prompt set, or for each of something else.

    The last of several rows is the total.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        min_width=len(title),  # a title is folded at its table's width
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column(of, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row, (name, cells) in enumerate(rows, start=1):
        is_total = len(rows) > 1 and row == len(rows)
        if is_total:
            table.add_section()
        shown_name = name if name == visible_name(name) else quoted(name)
        table.add_row(Text(printable(shown_name)), *cells, style="bold" if is_total else "")
    return table


def shown_number(number: int) -> str:
    """Return a number as a table shows it."""
    return f"{number:,}" if number else "·"
