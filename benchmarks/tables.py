"""`make bench`: the sensors' looks at a large catalogue, beside pandas and an empty sensor.

    python -m benchmarks.tables [--rows 1000000] [--sets 10000] [--json PATH] [--quick]

On SQLite and on PostgreSQL. Every look is a process of its own; ratios are of one run. Quiet ticks
are the real daemon's, by its own records. Whatever else the machine does shows in the figures:
repeat one that surprises.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
from rich.console import Console
from rich.table import Table

from benchmarks import watching
from benchmarks.catalogue import fill_catalogue
from benchmarks.daemon import QuietTicks, measure_quiet_ticks
from benchmarks.databases import postgresql
from benchmarks.processes import new_processes
from benchmarks.promises import Figure, as_json, table_of
from benchmarks.watching import Place, Spent
from imagepipeline_dagster.watching.options import Watching

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured; `few` and `many` are the sets whose quiet ticks are compared."""

    rows: int
    sets: int
    few: int = 1_000
    many: int = 50_000
    ticks: int = 20
    repetitions: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured on one database: looks with seconds and MiB, ticks in seconds."""

    database: str
    pandas: Spent
    first_look: Spent
    audit: Spent
    verification: Spent
    nothing_changed: float
    ten_changed: float
    daemon: QuietTicks
    daemon_few_sets: QuietTicks
    daemon_many_sets: QuietTicks


def _alone(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do it in a process of its own."""
    with new_processes(1) as pool:
        return pool.submit(work, *args, **kwargs).result()


def _measure(database: str, new_database: Callable[[], str], folder: Path, scale: Scale) -> Figures:
    place = _place(new_database(), folder / f"{database}-{scale.sets}")
    fill_catalogue(place.tables_url, rows=scale.rows, sets=scale.sets)
    pandas = _alone(watching.pandas_reads, place)
    first_look = _alone(watching.first_look, place)
    _alone(watching.settle, place)
    audit = _alone(watching.audit, place)
    verification = _alone(watching.verify, place)
    nothing, ten = _alone(watching.ticks, place, changed=10, repetitions=scale.repetitions)
    daemon = _quiet_ticks(place, scale)
    return Figures(
        database=database,
        pandas=pandas,
        first_look=first_look,
        audit=audit,
        verification=verification,
        nothing_changed=nothing,
        ten_changed=ten,
        daemon=daemon,
        daemon_few_sets=_of_so_many_sets(new_database(), folder, scale, scale.few),
        daemon_many_sets=_of_so_many_sets(new_database(), folder, scale, scale.many),
    )


def _of_so_many_sets(tables_url: str, folder: Path, scale: Scale, sets: int) -> QuietTicks:
    place = _place(tables_url, Path(tempfile.mkdtemp(dir=folder)))
    # A small table would be compared whole at each tick.
    rows = max(scale.rows // 5, sets, 2 * Watching().small_table_rows)
    fill_catalogue(tables_url, rows=rows, sets=sets)
    _alone(watching.first_look, place)
    _alone(watching.settle, place)
    return _quiet_ticks(place, scale)


def _place(tables_url: str, folder: Path) -> Place:
    folder.mkdir(parents=True, exist_ok=True)
    return Place(
        tables_url=tables_url, ledger_url=f"sqlite:///{folder / 'ledger.db'}", home=folder / "home"
    )


def _quiet_ticks(place: Place, scale: Scale) -> QuietTicks:
    with place.instance() as instance:
        return measure_quiet_ticks(
            instance,
            home=place.home,
            tables_url=place.tables_url,
            ledger_url=place.ledger_url,
            ticks=scale.ticks,
        )


def _verdicts(found: Figures) -> list[Figure]:
    name, pandas = found.database, found.pandas.seconds
    few, many = found.daemon_few_sets, found.daemon_many_sets
    inside = name == "PostgreSQL"
    return [
        Figure(
            what=f"{name}: nothing changed, to an empty sensor's tick",
            at_most=1.5,
            measured=found.daemon.prompts / found.daemon.empty,
        ),
        Figure(
            what=f"{name}: no embedding changed, to an empty sensor's tick",
            at_most=1.5,
            measured=found.daemon.embeddings / found.daemon.empty,
        ),
        Figure(
            what=f"{name}: count and newest time of each set, to pandas",
            at_most=0.03,
            measured=found.audit.seconds / pandas,
        ),
        Figure(
            what=f"{name}: full verification, to pandas",
            at_most=0.15 if inside else 0.6,
            measured=found.verification.seconds / pandas,
        ),
        Figure(
            what=f"{name}: full verification, memory",
            at_most=64,
            measured=found.verification.mib,
            unit="MiB",
        ),
        Figure(
            what=f"{name}: 10 changed sets, more than none",
            at_most=0.3,
            measured=found.ten_changed - found.nothing_changed,
            unit="s",
        ),
        Figure(
            what=f"{name}: a tick at many sets, to one at few",
            at_most=1.2,
            measured=(many.prompts / many.empty) / (few.prompts / few.empty),
        ),
    ]


@contextmanager
def _databases(folder: Path) -> Iterator[dict[str, Callable[[], str]]]:
    """Give functions that make an empty database and return its URL."""
    numbers = iter(range(100))
    with postgresql() as on_postgresql:
        yield {
            "SQLite": lambda: f"sqlite:///{folder / f'tables-{next(numbers)}.db'}",
            "PostgreSQL": on_postgresql,
        }


def _show(console: Console, figures: list[Figures], scale: Scale) -> list[Figure]:
    table = Table(title=f"{scale.rows:,} rows in {scale.sets:,} prompt sets")
    for heading in ("look", *(each.database for each in figures)):
        table.add_column(heading, justify="left" if heading == "look" else "right")
    for name, attribute in (
        ("pandas reads and hashes", "pandas"),
        ("first look, whole", "first_look"),
        ("count and newest time", "audit"),
        ("full verification", "verification"),
    ):
        spent: list[Spent] = [getattr(each, attribute) for each in figures]
        table.add_row(name, *(_spent(each) for each in spent))
    for name, attribute in (
        ("tick, nothing changed", "nothing_changed"),
        ("tick, 10 sets changed", "ten_changed"),
    ):
        table.add_row(name, *(f"{1000 * getattr(each, attribute):.1f} ms" for each in figures))
    for name, attribute in (
        ("the daemon's quiet ticks", "daemon"),
        (f"… at {scale.few:,} sets", "daemon_few_sets"),
        (f"… at {scale.many:,} sets", "daemon_many_sets"),
    ):
        ticks: list[QuietTicks] = [getattr(each, attribute) for each in figures]
        table.add_row(name, *(_ticks(each) for each in ticks))
    console.print(table)
    verdicts = [verdict for each in figures for verdict in _verdicts(each)]
    console.print(table_of(verdicts))
    return verdicts


def _spent(spent: Spent) -> str:
    ticks = f" in {spent.ticks} ticks, the longest {spent.longest:.1f}" if spent.ticks > 1 else ""
    return f"{spent.seconds:.2f} s{ticks}, {spent.mib:.0f} MiB"


def _ticks(ticks: QuietTicks) -> str:
    return (
        f"{1000 * ticks.prompts:.1f} and {1000 * ticks.embeddings:.1f} ms,"
        f" an empty one {1000 * ticks.empty:.1f} ms"
    )


@click.command()
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--sets", default=10_000, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures.")
@click.option("--quick", is_flag=True, help="A small catalogue, to see that everything runs.")
def main(rows: int, sets: int, json_file: Path | None, *, quick: bool) -> None:
    """Measure looks at a catalogue of prompts."""
    scale = Scale(rows=rows, sets=sets)
    if quick:
        scale = Scale(rows=22_000, sets=110, few=110, many=220, ticks=2, repetitions=1)
    console = Console(width=140)
    folder = Path(tempfile.mkdtemp(prefix="imagepipeline-tables-"))
    try:
        with _databases(folder) as databases:
            figures = [
                _measure(name, new_database, folder, scale)
                for name, new_database in databases.items()
            ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    verdicts = _show(console, figures, scale)
    if json_file is not None:
        told = {
            "scale": asdict(scale),
            "figures": [asdict(each) for each in figures],
            "verdicts": as_json(verdicts),
        }
        json_file.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
