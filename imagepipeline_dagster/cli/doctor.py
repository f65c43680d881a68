"""`imagepipeline-dagster doctor`: what is wrong with an installation, and what to do about it."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from itertools import islice
from typing import TYPE_CHECKING

import click
from packaging.requirements import Requirement
from sqlalchemy.exc import SQLAlchemyError

from imagepipeline_dagster import databases
from imagepipeline_dagster.cli.configured import configured_tables, on_dataset, resources_of
from imagepipeline_dagster.cli.terminal import Answer
from imagepipeline_dagster.defs import under_way
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger import bought, identity, opening, requests
from imagepipeline_dagster.moderation import decisions
from imagepipeline_dagster.storage.contract import Storage

if TYPE_CHECKING:
    import dagster as dg

    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.ledger.requests import Ledger
    from imagepipeline_dagster.resources import (
        ImagePipelineResource,
        LedgerResource,
        StorageResource,
        TablesResource,
    )

_DISTRIBUTION = "imagepipeline-dagster"
_REMEDIES = {
    "storage": "let this user write there, or name another place by IMAGEPIPELINE_STORAGE",
    "ledger": "name the ledger's database by IMAGEPIPELINE_LEDGER_URL",
    "tables": "name the tables' database by IMAGEPIPELINE_TABLES_URL",
}
_CLOCK_TOLERANCE = dt.timedelta(seconds=30)
_MOST_DECISIONS = 20  # about nothing, the newest


class Grade(StrEnum):
    """How a finding is to be taken: a WRONG part keeps the installation from working."""

    GOOD = "good"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is true of a part of the installation, and what to do about it."""

    part: str
    grade: Grade
    text: str
    remedy: str | None = None


@click.command()
@on_dataset
def doctor(*, dataset: ImageDataset) -> Answer:
    """Look at versions, key, tables, storage, ledger, clock, decisions, pools and daemon.

    Nothing is bought. The storage gets a small object, which is removed again. The exit code is 1
    where something is wrong.
    """
    findings = list(_findings(dataset))
    return Answer(
        [asdict(finding) for finding in findings],
        _lines(findings),
        failed=any(finding.grade is Grade.WRONG for finding in findings),
    )


def _lines(findings: Iterable[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.grade:<5}  {finding.part:<8}  {finding.text}"
        if finding.remedy:
            yield f"{'':17}→ {finding.remedy}"


def _findings(dataset: ImageDataset) -> Iterator[Finding]:
    """Look at every part of a dataset's installation, and yield a finding or more about each."""
    yield from _guarded("versions", _versions)
    try:
        resources = resources_of(dataset)
    except (CorrectableError, ValueError) as error:
        yield Finding("settings", Grade.WRONG, str(error))
        return
    api, storage, ledger = resources["imagepipeline"], resources["storage"], resources["ledger"]
    yield from _guarded("key", lambda: _key(api))
    of_tables = list(_guarded("tables", lambda: _tables(dataset)))
    yield from of_tables
    yield from _guarded("storage", lambda: _storage(storage))
    of_ledger = list(_guarded("ledger", lambda: _ledger(ledger, storage, api)))
    yield from of_ledger
    if all(finding.grade is Grade.GOOD for finding in (*of_tables, *of_ledger)):
        yield from _guarded("decisions", lambda: _decisions(dataset, resources["tables"], ledger))
    yield from _guarded("dagster", lambda: _dagster(dataset))


def _guarded(part: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Look at a part; an error that a person can put right says itself what to do."""
    try:
        yield from look()
    except CorrectableError as error:
        yield Finding(part, Grade.WRONG, str(error))
    except (OSError, ValueError) as error:
        yield Finding(part, Grade.WRONG, str(error), _REMEDIES.get(part))
    except SQLAlchemyError as error:
        remedy = "check that the database runs, its URL, and what its user may do"
        yield Finding(part, Grade.WRONG, databases.cause_of(error), remedy)


def _judged(part: str, trouble: str | None, *, well: str, remedy: str) -> Finding:
    """Return that all is well with a part, or its trouble and what to do about it."""
    if trouble:
        return Finding(part, Grade.WRONG, trouble, remedy)
    return Finding(part, Grade.GOOD, well)


def _versions() -> Iterator[Finding]:
    """Compare what is installed with what this package and Dagster's libraries ask for."""
    dagster_libraries = {
        name
        for distribution in distributions()
        if (name := distribution.metadata["Name"].lower().replace("_", "-")).startswith("dagster-")
    }
    broken = [
        f"{name} needs {requirement}, and {_installed(requirement.name) or 'none'} is installed"
        for name in sorted({_DISTRIBUTION, *dagster_libraries})
        for requirement in map(Requirement, requires(name) or ())
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not requirement.specifier.contains(_installed(requirement.name) or "0", prereleases=True)
    ]
    yield _judged(
        "versions",
        "; ".join(broken),
        well=f"{_DISTRIBUTION} {version(_DISTRIBUTION)} on dagster {version('dagster')}",
        remedy="install from the lock, or `pip install --upgrade` these packages together",
    )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _key(api: ImagePipelineResource) -> Iterator[Finding]:
    if api.emulated:
        yield Finding(
            "key",
            Grade.NOTE,
            "there is no API key: the emulator draws the pictures",
            "set IMAGEPIPELINE_API_KEY to buy real ones",
        )
        return
    yield _judged(
        "key",
        api.why_unusable(),
        well=f"{api.base_url} takes the key",
        remedy="check IMAGEPIPELINE_API_KEY, IMAGEPIPELINE_BASE_URL and the network",
    )


def _tables(dataset: ImageDataset) -> Iterator[Finding]:
    with configured_tables(dataset) as source:
        sets = len(source.prompt_sets())
        source.embeddings()
    if sets:
        yield Finding("tables", Grade.GOOD, f"{sets:,} prompt sets")
    else:
        yield Finding(
            "tables",
            Grade.NOTE,
            "the prompts table has no prompt set",
            "`imagepipeline-dagster import-prompts FILE` brings some",
        )


def _storage(resource: StorageResource) -> Iterator[Finding]:
    storage = resource.open()
    path, written = f"doctor-{uuid.uuid4().hex}", b"written by imagepipeline-dagster doctor"
    storage.write(path, written)
    try:
        came_back = storage.read(path) == written
    finally:
        storage.delete(path)
    yield _judged(
        "storage",
        None if came_back else f"{storage.uri} gave other bytes back than were written",
        well=f"{storage.uri} keeps what is written",
        remedy="use a storage that shows a write at once",
    )


def _ledger(
    resource: LedgerResource, storage: StorageResource, api: ImagePipelineResource
) -> Iterator[Finding]:
    with closing(requests.Ledger(resource.url, create=False)) as ledger:
        try:
            absent = ledger.is_absent
        except opening.LedgerTooOld as error:
            yield Finding("ledger", Grade.NOTE, str(error))
            return
        if absent:
            yield _without_ledger(ledger, storage.open())
            return
        identity.check_ledger(ledger, storage.open())
        if api.emulated:
            bought.refuse_emulator(ledger)
        where = f"{ledger.shown_url} is the one that the storage knows"
        yield Finding("ledger", Grade.GOOD, where)
        ahead = ledger.clock_ahead()
    is_off = abs(ahead) > _CLOCK_TOLERANCE
    off = f"this machine's clock is {-ahead.total_seconds():+.0f} s off the database's"
    yield _judged(
        "clock",
        off if is_off else None,
        well="this machine and the database agree on the time",
        remedy="let NTP set the clocks: sensors, links and buckets go by them",
    )


def _decisions(
    dataset: ImageDataset, tables: TablesResource, resource: LedgerResource
) -> Iterator[Finding]:
    overrides = tables.overrides(dataset.overrides)
    with resource.open(create=False) as ledger, ledger.reading() as connection:
        about_nothing = decisions.decisions_about_nothing(connection, overrides)
        for decided, why in islice(about_nothing, _MOST_DECISIONS):
            yield Finding(
                "decisions",
                Grade.NOTE,
                f"the {decided.decision} of row {decided.number} is about nothing: {why}",
                f"add the row that was meant to {dataset.overrides}, or a clear of this one",
            )


def _without_ledger(ledger: Ledger, storage: Storage) -> Finding:
    if identity.is_known_to_ledgers(storage):
        return Finding(
            "ledger",
            Grade.WRONG,
            f"there is none at {ledger.shown_url}, and another one bought into {storage.uri}",
            "name that one by IMAGEPIPELINE_LEDGER_URL; `imagepipeline-dagster ledger rebuild` "
            "makes a lost one anew",
        )
    there = f"there is none at {ledger.shown_url} yet"
    return Finding("ledger", Grade.NOTE, there, "the first run makes it")


def _dagster(dataset: ImageDataset) -> Iterator[Finding]:
    try:
        opened = under_way.configured_instance(os.environ)
    except CorrectableError:
        raise
    except Exception as error:  # noqa: BLE001 - its storage is anybody's, with errors of its own
        # Not the error's text: it may quote a password of dagster.yaml.
        yield Finding(
            "dagster",
            Grade.WRONG,
            f"its instance cannot be opened ({type(error).__name__})",
            "check dagster.yaml, the variables that it names, and that its database runs; "
            "`dagster instance info` says more",
        )
        return
    with opened as instance:
        yield from _dagster_storage(instance)
        yield from _pools(dataset, instance)
        yield from _daemon(instance)


def _dagster_storage(instance: dg.DagsterInstance) -> Iterator[Finding]:
    url = getattr(instance.event_log_storage, "postgres_url", None)
    if url is None:
        yield Finding(
            "dagster",
            Grade.NOTE,
            "runs and events are in SQLite: good for one machine",
            "for more, begin with deploy/dagster.yaml",
        )
        return
    # SQLAlchemy takes the plain form for a driver that dagster-postgres does not work with.
    of_another = databases.parsed_url(url).drivername != "postgresql+psycopg2"
    wrong = "the instance's PostgreSQL URL does not begin with postgresql+psycopg2://"
    yield _judged(
        "dagster",
        wrong if of_another else None,
        well="runs and events are in PostgreSQL",
        remedy="write it so, or `scheme: postgresql+psycopg2` below postgres_db",
    )


def _pools(dataset: ImageDataset, instance: dg.DagsterInstance) -> Iterator[Finding]:
    pool = dataset.api_pool
    limits = {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}
    default = instance.global_op_concurrency_default_limit
    remedy = f"`dagster instance concurrency set {pool} 4`"
    if pool in limits:
        yield Finding("pools", Grade.GOOD, f"{pool} has a limit of {limits[pool]}")
    elif default is not None:
        known = f"Dagster learns the limit of {pool} at its first run: the default of {default}"
        yield Finding("pools", Grade.NOTE, known, remedy)
    else:
        unlimited = f"{pool} has no limit: any number of runs buy at once"
        yield Finding("pools", Grade.WRONG, unlimited, remedy)


def _daemon(instance: dg.DagsterInstance) -> Iterator[Finding]:
    statuses = instance.get_daemon_statuses()
    silent = sorted(name for name, status in statuses.items() if not status.healthy)
    yield _judged(
        "daemon",
        f"without a sign of life: {', '.join(silent).lower()}" if silent else None,
        well="every daemon is alive",
        remedy="start `dagster-daemon run` (`dagster dev` does), and look into its log",
    )
