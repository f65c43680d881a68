"""Whether an installation can work: each part looked at, with what to do where it cannot.

Nothing is bought. The storage gets a small object, which is removed again.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from typing import Any

import dagster as dg
from packaging.requirements import Requirement
from sqlalchemy.exc import SQLAlchemyError

from imagepipeline_dagster.databases import cause_of, parsed_url
from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.under_way import configured_instance
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.bought import refuse_emulator
from imagepipeline_dagster.ledger.identity import check_ledger, is_known_to_ledgers
from imagepipeline_dagster.ledger.opening import LedgerTooOld
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.resources import (
    ImagePipelineResource,
    LedgerResource,
    StorageResource,
    TablesResource,
)
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.reading import SourceTables

_DISTRIBUTION = "imagepipeline-dagster"
_REMEDIES = {
    "storage": "let this user write there, or name another place by IMAGEPIPELINE_STORAGE",
    "ledger": "name the ledger's database by IMAGEPIPELINE_LEDGER_URL",
    "tables": "name the tables' database by IMAGEPIPELINE_TABLES_URL",
}
_CLOCK_TOLERANCE = dt.timedelta(seconds=30)


class Grade(StrEnum):
    """How a finding is to be taken: a WRONG part keeps the installation from working."""

    GOOD = "good"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is true of a part of the installation, and what to do about it."""

    part: str
    grade: Grade
    text: str
    remedy: str | None = None


def findings_of(
    dataset: ImageDataset,
    resources_of: Callable[[], Mapping[str, Any]],
    variables: Mapping[str, str],
) -> Iterator[Finding]:
    """Look at every part of a dataset's installation, and yield a finding or more about each.

    `variables` are those of the environment, which name Dagster's own folder.
    """
    yield from _guarded("versions", _versions)
    try:
        resources = resources_of()
    except (CorrectableError, ValueError) as error:
        yield _wrong("settings", str(error))
        return
    api: ImagePipelineResource = resources["imagepipeline"]
    tables: TablesResource = resources["tables"]
    ledger: LedgerResource = resources["ledger"]
    storage: StorageResource = resources["storage"]
    yield from _guarded("key", lambda: _key(api))
    yield from _guarded("tables", lambda: _tables(tables, dataset))
    yield from _guarded("storage", lambda: _storage(storage))
    yield from _guarded("ledger", lambda: _ledger(ledger, storage, api))
    yield from _guarded("dagster", lambda: _dagster(dataset, variables))


def _guarded(part: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Look at a part; an error that a person can put right says itself what to do."""
    try:
        yield from look()
    except CorrectableError as error:
        yield _wrong(part, str(error))
    except (OSError, ValueError) as error:
        yield _wrong(part, str(error), _REMEDIES.get(part))
    except SQLAlchemyError as error:
        yield _wrong(
            part, cause_of(error), "check that the database runs, its URL, and what its user may do"
        )


def _good(part: str, text: str) -> Finding:
    return Finding(part=part, grade=Grade.GOOD, text=text)


def _note(part: str, text: str, remedy: str | None = None) -> Finding:
    return Finding(part=part, grade=Grade.NOTE, text=text, remedy=remedy)


def _wrong(part: str, text: str, remedy: str | None = None) -> Finding:
    return Finding(part=part, grade=Grade.WRONG, text=text, remedy=remedy)


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
    if broken:
        yield _wrong(
            "versions",
            "; ".join(broken),
            "install from the lock, or `pip install --upgrade` these packages together",
        )
    else:
        yield _good(
            "versions", f"{_DISTRIBUTION} {version(_DISTRIBUTION)} on dagster {dg.__version__}"
        )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _key(api: ImagePipelineResource) -> Iterator[Finding]:
    if api.emulated:
        yield _note(
            "key",
            "there is no API key: the emulator draws the pictures",
            "set IMAGEPIPELINE_API_KEY to buy real ones",
        )
        return

    trouble = api.why_unusable()
    if trouble is None:
        yield _good("key", f"{api.base_url} takes the key")
    else:
        yield _wrong(
            "key", trouble, "check IMAGEPIPELINE_API_KEY, IMAGEPIPELINE_BASE_URL and the network"
        )


def _tables(tables: TablesResource, dataset: ImageDataset) -> Iterator[Finding]:
    with SourceTables(tables.url, prompts=dataset.prompts, embeddings=dataset.embeddings) as source:
        sets = len(source.prompt_sets())
        source.embeddings()
    if sets:
        yield _good("tables", f"{sets:,} prompt sets")
    else:
        yield _note(
            "tables",
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
    if came_back:
        yield _good("storage", f"{storage.uri} keeps what is written")
    else:
        yield _wrong(
            "storage",
            f"{storage.uri} gave other bytes back than were written",
            "use a storage that shows a write at once",
        )


def _ledger(
    resource: LedgerResource, storage: StorageResource, api: ImagePipelineResource
) -> Iterator[Finding]:
    with closing(Ledger(resource.url, create=False)) as ledger:
        try:
            absent = ledger.is_absent
        except LedgerTooOld as error:
            yield _note("ledger", str(error))
            return
        if absent:
            yield _without_ledger(ledger, storage.open())
            return
        check_ledger(ledger, storage.open())
        if api.emulated:
            refuse_emulator(ledger)
        yield _good("ledger", f"{ledger.shown_url} is the one that the storage knows")
        ahead = ledger.clock_ahead()
    if abs(ahead) > _CLOCK_TOLERANCE:
        yield _wrong(
            "clock",
            f"this machine's clock is {-ahead.total_seconds():+.0f} s off the database's",
            "let NTP set the clocks: sensors, links and buckets go by them",
        )
    else:
        yield _good("clock", "this machine and the database agree on the time")


def _without_ledger(ledger: Ledger, storage: Storage) -> Finding:
    if is_known_to_ledgers(storage):
        return _wrong(
            "ledger",
            f"there is none at {ledger.shown_url}, and another one bought into {storage.uri}",
            "name that one by IMAGEPIPELINE_LEDGER_URL; `imagepipeline-dagster ledger rebuild` "
            "makes a lost one anew",
        )
    return _note("ledger", f"there is none at {ledger.shown_url} yet", "the first run makes it")


def _dagster(dataset: ImageDataset, variables: Mapping[str, str]) -> Iterator[Finding]:
    try:
        opened = configured_instance(variables)
    except CorrectableError:
        raise
    except Exception as error:  # noqa: BLE001 - its storage is anybody's, with errors of its own
        # Not the error's text: it may quote a password of dagster.yaml.
        yield _wrong(
            "dagster",
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
    # SQLAlchemy takes the plain form for a driver that dagster-postgres does not work with.
    if url is not None and parsed_url(url).drivername != "postgresql+psycopg2":
        yield _wrong(
            "dagster",
            "the instance's PostgreSQL URL does not begin with postgresql+psycopg2://",
            "write it so, or `scheme: postgresql+psycopg2` below postgres_db",
        )
    elif url is None:
        yield _note(
            "dagster",
            "runs and events are in SQLite: good for one machine",
            "for more, begin with deploy/dagster.yaml",
        )
    else:
        yield _good("dagster", "runs and events are in PostgreSQL")


def _pools(dataset: ImageDataset, instance: dg.DagsterInstance) -> Iterator[Finding]:
    pool = dataset.pool or dataset.named("imagepipeline_api")
    limits = {limit.name: limit for limit in instance.event_log_storage.get_pool_limits()}
    limit = limits.get(pool)
    remedy = f"`dagster instance concurrency set {pool} 4`"
    if limit is not None and not limit.from_default:
        yield _good("pools", f"{pool} has a limit of {limit.limit}")
    elif instance.global_op_concurrency_default_limit is not None:
        yield _note(
            "pools",
            f"nobody set the limit of {pool}: before its first run Dagster knows none",
            remedy,
        )
    else:
        yield _wrong("pools", f"{pool} has no limit: any number of runs buy at once", remedy)


def _daemon(instance: dg.DagsterInstance) -> Iterator[Finding]:
    statuses = instance.get_daemon_statuses()
    silent = sorted(name for name, status in statuses.items() if not status.healthy)
    if silent:
        yield _wrong(
            "daemon",
            f"without a sign of life: {', '.join(silent).lower()}",
            "start `dagster-daemon run` (`dagster dev` does), and look into its log",
        )
    else:
        yield _good("daemon", "every daemon is alive")
