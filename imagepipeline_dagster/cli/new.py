"""`imagepipeline-dagster new`: a project to start from."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click
from sqlalchemy.engine import URL

from imagepipeline_dagster.cli.terminal import Answer, answering, json_option
from imagepipeline_dagster.tables import samples

# Those of this repository itself, which a wheel brings along.
_SHARED = ("definitions.py", "dagster.yaml")


@click.command()
@click.argument("folder", metavar="PROJECT", type=click.Path(path_type=Path))
@json_option
@answering
def new(*, folder: Path) -> Answer:
    """Make a project in the folder PROJECT: definitions, sample tables, an instance and a test.

    It runs at once, on the emulator. A folder that holds anything is left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise click.ClickException(f"{folder} is not empty: name a new folder.")
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "images"
    written = []
    for source in _sources():
        file = folder / source.name.replace("gitignore", ".gitignore")
        file.write_text(source.read_text("utf-8").replace("PROJECT", name), encoding="utf-8")
        written.append(file.name)
    (folder / "data").mkdir()
    tables = folder / "data" / "tables.db"
    samples.create_sample_tables(URL.create("sqlite", database=str(tables)).render_as_string())
    return Answer(
        {"folder": folder, "files": [*written, "data/tables.db"]},
        [
            f"{folder} has {', '.join(written)} and data/tables.db. Next:",
            f"  cd {shlex.quote(str(folder))}",
            '  export DAGSTER_HOME="$PWD"',
            "  pytest                       # with pytest installed: the dataset on an emulator",
            "  imagepipeline-dagster plan   # what a purchase would buy",
            "  dagster dev                  # the UI; without a key an emulator draws the pictures",
        ],
    )


def _sources() -> Iterator[Traversable]:
    """Yield the files that a project is made of; they are templates of its name."""
    packaged = files(__package__) / "new_project"
    for name in ("pyproject.toml", "README.md", "gitignore", "test_images.py"):
        yield packaged / name
    for name in _SHARED:
        source = packaged / name
        # Where the package is used out of its repository, they are at the top of that.
        yield source if source.is_file() else Path(__file__).parents[2] / name
