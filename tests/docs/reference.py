"""The pages that follow from the code: command line and options. `make docs` writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from imagepipeline_dagster import (
    Approval,
    Budget,
    Canaries,
    GenerationDefaults,
    ImageDataset,
    ImageDatasetComponent,
    ImagePipelineResource,
    ModerationPolicy,
    ReleasePolicy,
    TableMapping,
    Watching,
)
from imagepipeline_dagster.cli import main

__all__ = ["PAGES"]

DOCS = Path(__file__).parents[2] / "docs"
_MODELS: Sequence[type[BaseModel]] = (
    *(ImageDataset, TableMapping, GenerationDefaults, Budget, Approval, Canaries, Watching),
    *(ModerationPolicy, ReleasePolicy, ImagePipelineResource, ImageDatasetComponent),
)
_NOTE = "<!-- Written by `make docs`: change the code instead. -->"
_COMMANDS = """# Command line

`imagepipeline-dagster` reads the variables of the
[README](../README.md#your-own-key-your-own-tables)."""
_OPTIONS = """# Options

Python and YAML have the same options. [Into a project you have](your-project.md) shows both."""


def _command_line() -> str:
    parts = [_COMMANDS, _NOTE]
    for path, command in _commands(main, "imagepipeline-dagster"):
        context = click.Context(command, info_name=path)
        usage = " ".join(command.collect_usage_pieces(context))
        options = [
            (f"`{' / '.join([*option.opts, *option.secondary_opts])}`", option.help or "")
            for option in command.params
            if isinstance(option, click.Option)
        ]
        parts += [f"## {path}", f"`{path} {usage}`", _prose(command.help or "")]
        parts += [_table(("option", "meaning"), options)] if options else []
    return "\n\n".join(parts) + "\n"


def _commands(command: click.Command | None, path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from _commands(command.get_command(context, name), f"{path} {name}")
    elif command is not None:
        yield path, command


def _options() -> str:
    parts = [_OPTIONS, _NOTE]
    for model in _MODELS:
        rows = [
            (f"`{name}`", _cell(default), description)
            for name, default, description in _fields(model)
        ]
        summary = (model.__doc__ or "").split("\n\n")[0]
        if model is ImageDatasetComponent:
            summary += " It has all options of `ImageDataset`, and these."
        parts += [f"## {model.__name__}", _prose(summary)]
        parts += [_table(("option", "default", "meaning"), rows)]
    return "\n\n".join(parts) + "\n"


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, object, str]]:
    # What a component has beside its dataset's options.
    inherited = ImageDataset.model_fields if model is ImageDatasetComponent else {}
    for name, field in model.model_fields.items():
        if name in inherited:
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        yield name, default, field.description or ""


def _cell(default: object) -> str:
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, BaseModel):
        return f"see `{type(default).__name__}`"
    return f"`{default}`" if str(default) else "empty"


def _prose(text: str) -> str:
    return re.sub(r"[ \t]*\n[ \t]*", "\n", text.replace("\b\n", "")).strip()


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


PAGES = {DOCS / "command-line.md": _command_line, DOCS / "options.md": _options}

if __name__ == "__main__":
    for page, written in PAGES.items():
        page.write_text(written())
