"""What the environment and the options configure: dataset, tables, ledger and API."""

from __future__ import annotations

import getpass
import importlib
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import click
import stamina.instrumentation

import imagepipeline_dagster as package
from imagepipeline_dagster import component, environment
from imagepipeline_dagster.cli.terminal import AliasedOption, Answer, answering, json_option
from imagepipeline_dagster.defs import resource_keys
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger import identity
from imagepipeline_dagster.tables import reading, schema

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.ledger.requests import Ledger
    from imagepipeline_dagster.resources import (
        ImagePipelineResource,
        LedgerResource,
        StorageResource,
        TablesResource,
    )
    from imagepipeline_dagster.tables.reading import SourceTables

_PROJECT_FILE = "pyproject.toml"

_dataset_option = click.option(
    "--dataset",
    "--prefix",
    "dataset",
    cls=AliasedOption,
    metavar="NAME",
    help="The dataset, where a project has several: its key prefix, or an ImageDataset in Python "
    "as definitions:dataset.",
)


def on_dataset(command: Callable[..., Answer | None]) -> Callable[..., None]:
    """Give a command its dataset, and print its answer."""

    @wraps(command)
    def with_dataset(*, dataset: str | None, **options: Any) -> Answer | None:  # noqa: ANN401 - the command's own
        # Stamina would tell of repeated requests on standard output, where an answer belongs.
        stamina.instrumentation.set_on_retry_hooks(())
        where = _where_of_project() if dataset is None else dataset
        named_in = "--dataset" if dataset is not None else f"`dataset` in {_PROJECT_FILE}"
        chosen = _dataset_at(where, named_in) if where and ":" in where else _dataset_named(where)
        return command(dataset=chosen, **options)

    return json_option(_dataset_option(answering(with_dataset)))


who_option = click.option(
    "--who",
    "--reviewer",
    "who",
    cls=AliasedOption,
    metavar="NAME",
    help="Who decides; the system's user by default.",
)


def chosen_name() -> str | None:
    """Return what `--dataset` said, for another command of the same dataset."""
    name: str | None = click.get_current_context().params["dataset"]
    return name


def _where_of_project() -> str | None:
    """Return what pyproject.toml names as the dataset of the commands, if it does."""
    try:
        text = Path(_PROJECT_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        options = tomllib.loads(text).get("tool", {}).get("imagepipeline-dagster", {})
    except tomllib.TOMLDecodeError as error:
        raise click.ClickException(f"{_PROJECT_FILE}: {error}") from error
    # Without it, a command would be about another dataset than was meant.
    if unknown := ", ".join(options.keys() - {"dataset"}):
        raise click.ClickException(
            f"{_PROJECT_FILE}: [tool.imagepipeline-dagster] has one option, `dataset`, "
            f"and no {unknown}"
        )
    return str(options["dataset"]) if options else None


def _dataset_at(where: str, named_in: str) -> ImageDataset:
    module, _, name = where.partition(":")
    _make_importable(Path.cwd())
    try:
        loaded = importlib.import_module(module)
        dataset = getattr(loaded, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint=named_in) from error
    except CorrectableError as error:  # a mistake in the module, or in the environment
        raise click.UsageError(str(error)) from error
    if not isinstance(dataset, package.ImageDataset):
        raise click.BadParameter(f"{where} is no ImageDataset", param_hint=named_in)
    click.get_current_context().obj = resource_keys.given_resources(dataset, vars(loaded).values())
    return dataset


def _dataset_named(name: str | None) -> ImageDataset:
    """Return the dataset of this key prefix: of the project's YAML, or else a default one."""
    # `status` tells the name in the ledger, which ends with the last asset's.
    prefix = tuple(filter(None, (name or "").removesuffix("image_dataset").split("/")))
    project = component.project_around(Path.cwd())
    if project is not None:
        for folder in (project, project / "src"):
            _make_importable(folder)
    written = component.datasets_in_yaml(project) if project else []
    if not written:
        return package.ImageDataset(key_prefix=prefix)
    if name is None and len(written) == 1:
        return written[0]
    of_prefix = [dataset for dataset in written if dataset.key_prefix == prefix]
    if name is not None and of_prefix:
        return of_prefix[0]
    names = ", ".join("/".join(dataset.key_prefix) or dataset.name for dataset in written)
    raise click.BadParameter(
        f"this project's defs.yaml files have {names}; name one of them", param_hint="--dataset"
    )


def _make_importable(folder: Path) -> None:
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def changed_dataset(
    dataset: ImageDataset,
    *,
    price_per_image: float | None = None,
    prompts: str | None = None,
    embeddings: str | None = None,
) -> ImageDataset:
    """Return a dataset with another price, or with tables under the names of our columns."""
    changes: dict[str, Any] = {
        "price_per_image": price_per_image,
        "prompts": schema.TableMapping(prompts) if prompts else None,
        "embeddings": schema.TableMapping(embeddings) if embeddings else None,
    }
    return dataset.changed(**{name: to for name, to in changes.items() if to is not None})


class Resources(TypedDict):
    """What a command's dataset works with, by the names of `build_definitions`."""

    imagepipeline: ImagePipelineResource
    tables: TablesResource
    ledger: LedgerResource
    storage: StorageResource


def resources_of(dataset: ImageDataset) -> Resources:
    """Return the resources of a command's dataset, made once in its context.

    They are those of its module's definitions, of its YAML, or else of the environment.
    """
    context = click.get_current_context()
    if not context.obj:
        given = (
            dataset.resources()
            if isinstance(dataset, component.ImageDatasetComponent)
            else environment.resources_from_environment(os.environ)
        )
        context.obj = {name: resource_keys.with_variables(it) for name, it in given.items()}
    resources: Resources = context.obj
    return resources


def tables_url(dataset: ImageDataset) -> str:
    """Return the URL of a dataset's tables."""
    return resources_of(dataset)["tables"].url


def configured_tables(dataset: ImageDataset) -> SourceTables:
    """Open a dataset's tables.

    The resource would make sample tables where there are none.
    """
    return reading.SourceTables(
        tables_url(dataset), prompts=dataset.prompts, embeddings=dataset.embeddings
    )


def configured_ledger(dataset: ImageDataset, *, create: bool) -> AbstractContextManager[Ledger]:
    """Open a dataset's ledger; without `create` it is read alone, and an absent one is empty."""
    return resources_of(dataset)["ledger"].open(create=create)


def ledger_warning(dataset: ImageDataset, ledger: Ledger) -> str | None:
    """Return why no run will buy with this ledger, or where a run may miss it.

    Whoever looks at what is to buy should not take a lost ledger for an empty one.
    """
    resources = resources_of(dataset)
    try:
        identity.check_ledger(ledger, resources["storage"].open())
    except CorrectableError as error:
        return str(error)
    return None if resources["imagepipeline"].emulated else ledger.warning


@contextmanager
def present_ledger(dataset: ImageDataset) -> Iterator[Ledger]:
    """Open a dataset's ledger for reading; fail where there is none."""
    with configured_ledger(dataset, create=False) as ledger:
        if ledger.is_absent:
            raise click.ClickException(
                f"There is no ledger at {ledger.shown_url}. IMAGEPIPELINE_LEDGER_URL or "
                "IMAGEPIPELINE_STORAGE names another; a relative path begins in this folder."
            )
        yield ledger


def decider(who: str | None, why: str) -> str:
    """Return who decides: the system's user, unless `who` says another; with a reason."""
    name = who or system_user()
    if name is None:
        raise click.ClickException("The system names no user: say --who.")
    if not why.strip():
        raise click.BadParameter("must not be blank", param_hint="--why")
    return name


def system_user() -> str | None:
    """Return the name of the system's user; None in a container that gives it none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
