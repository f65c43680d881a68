"""`imagepipeline-dagster …`, a module for each group of commands.

- Tables: `tables`, `importing`, with the `changes` of an import and its `progress`.
- What was bought, read again: `verify`.
- Money: `plan`, `ledger`. Partitions: `sets`. How all stands: `status`.
- What keeps it from working: `doctor`.
- Where pictures come from: `lineage`. People's decisions: `moderation`.
- Versions of the dataset: `releases`.
- To begin: `new`. To try: `emulator`, `demo`.
- What they share: `configured` (what the environment says), `terminal` (what a person sees).

A command's module is imported when the command is asked for. It imports modules of the flow, and
no names from them: these are executed at the first use of a name, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader

import click
from typing_extensions import override

__all__ = ["main"]

_COMMANDS = {
    "approve": ("plan.approve", "Let the plans of prompt sets be bought."),
    "costs": ("status.costs", "Show what was bought and reused, by day, set and model."),
    "demo": ("demo.demo", "Make a dataset from the sample tables."),
    "doctor": ("doctor.doctor", "Say what is wrong with this installation."),
    "emulator": ("emulator.emulator", "Serve the API's contract on this computer."),
    "export": ("tables.export", "Write a table to a file that imports again."),
    "import-embeddings": (
        "importing.import_embeddings",
        "Bring a file's rows into the embeddings table.",
    ),
    "import-prompts": ("importing.import_prompts", "Bring a file's rows into the prompts table."),
    "init": ("tables.init", "Create the two tables, with sample rows."),
    "ledger": ("ledger.ledger_group", "Decide about lost answers; copy the ledger."),
    "lineage": ("lineage.lineage", "Show what made an image, or what a row or embedding made."),
    "new": ("new.new", "Make a project to start from."),
    "override": ("moderation.override", "Record what a person decides about pictures."),
    "plan": ("plan.plan", "Show what a purchase would buy now, and why."),
    "releases": ("releases.releases_group", "Look at releases, compare and verify them."),
    "replay": ("lineage.replay", "Buy an image's request again, and compare."),
    "retry": ("status.retry", "Have open or failed sets asked for again without a pause."),
    "review": ("moderation.review", "Review pictures: a page that records decisions, or a file."),
    "sets": ("sets.sets_group", "Register prompt sets as partitions."),
    "status": ("status.status", "Show how the dataset stands, and what comes next."),
    "verify": ("verify.verify", "Compare every stored image with the ledger."),
}
"""Where each command is, and what the list of them says of it."""


class _LazyFinder:
    """Finds Dagster and our modules, which are executed once a name of theirs is used."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, _target: object = None
    ) -> ModuleSpec | None:
        if name != "dagster" and name.partition(".")[0] != "imagepipeline_dagster":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec and spec.loader:
            spec.loader = LazyLoader(spec.loader)
        return spec


@contextmanager
def _lazy_imports() -> Iterator[None]:
    sys.meta_path.insert(0, _LazyFinder)
    try:
        yield
    finally:
        sys.meta_path.remove(_LazyFinder)


class _Commands(click.Group):
    """Knows the commands by name, and imports the one that is asked for."""

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(".")
        with _lazy_imports():
            command: click.Command = getattr(import_module(f"{__name__}.{module}"), name)
        return command

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in _COMMANDS.items()])


@click.group(
    cls=_Commands,
    # The names are enough for click to ask "Did you mean …?".
    commands=dict.fromkeys(_COMMANDS, click.Command(None)),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="imagepipeline-dagster")
def main() -> None:
    """Image datasets out of ImagePipeline's SDXL API, as Dagster assets.

    The tables are where IMAGEPIPELINE_TABLES_URL says, or in data/tables.db.
    """
