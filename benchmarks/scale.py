"""`make bench`: beyond one machine: a distant bucket, a shared account, large sets, many sets.

    python -m benchmarks.scale [--jobs 400] [--sets 200] [--prompts 20000] [--json PATH]

Each figure is a ratio of two measurements of the same run, one after the other, each in a process
of its own. The API, the bucket and the database are on the same machine: repeat what surprises.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
from rich.console import Console
from rich.table import Table

from benchmarks.bucket import bucket
from benchmarks.databases import postgresql
from benchmarks.promises import Verdict, table_of_verdicts
from benchmarks.sets import PROMPTS_OF_A_SET, MadeSets, Place, make_sets_alone, make_sets_in_a_batch
from benchmarks.shards import MadeLargeSet, launch_a_set, make_large_set
from benchmarks.stage import Api, Stage, buy_a_set
from benchmarks.vendor import Vendor

P = ParamSpec("P")
T = TypeVar("T")
_DISTANT_SECONDS = 0.1
_PICTURE_BYTES = 100_000
_IN_FLIGHT = 32
_SHARING = 4
_REPETITIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One purchase, or several at once: pictures a second, and the client's CPU for each."""

    who: str
    pictures: int
    seconds: float
    pictures_per_second: float
    cpu_ms: float


class Bench:
    """One run of all measurements, in a folder that is removed afterwards."""

    def __init__(self, jobs: int, *, folder: Path, console: Console) -> None:
        self._jobs = jobs
        self._folder = folder
        self._console = console
        self.lines: list[Line] = []
        self.verdicts: list[Verdict] = []
        self.sets: dict[str, MadeSets] = {}
        self.large_sets: list[MadeLargeSet] = []

    def measure_distance(self) -> None:
        """Buy into a bucket that answers at once, and into one that takes its time."""
        rates = []
        for who, delay in (("bucket nearby", 0.0), ("bucket 100 ms away", _DISTANT_SECONDS)):
            with self._vendor() as vendor, bucket(delay_seconds=delay) as uri:
                [line] = self._buy(who, vendor, 1, storage_uri=uri)
            rates.append(line.pictures_per_second)
        self._judge("a bucket 100 ms away: pictures/s, to one nearby", 0.8, rates[1] / rates[0])

    def measure_sharing(self) -> None:
        """Buy on PostgreSQL without an account's limit and with one, alone and with others."""
        with postgresql() as new_database:
            best: dict[int | None, float] = {}
            # In turn, the best of each: what else runs on the machine is no part of it.
            for limit in _REPETITIONS * (None, _IN_FLIGHT):
                with self._vendor() as vendor:
                    url = new_database()
                    who = "no account limit" if limit is None else "with a limit"
                    [line] = self._buy(who, vendor, 1, ledger_url=url, account=limit)
                best[limit] = min(best.get(limit, line.seconds), line.seconds)
            ratio = best[_IN_FLIGHT] / best[None]
            self._judge("an account's limit: wall, to none", 1.02, ratio, at_most=True)
            with self._vendor() as vendor:
                url = new_database()
                who = f"{_SHARING} processes, one limit"
                together = self._buy(who, vendor, _SHARING, ledger_url=url, account=_IN_FLIGHT)
                stats = vendor.stats()
        of_limit = stats.peak_in_flight / _IN_FLIGHT
        self._judge("the account's limit: jobs in flight, to it", 1.0, of_limit, at_most=True)
        self._judge("the account's limit: how far it is used", 0.95, of_limit)
        self._judge("bought twice", 0, len(stats.bought_twice), at_most=True)
        cpu = sum(line.cpu_ms for line in together) / len(together)
        self._judge(
            f"client CPU a picture, {_SHARING} processes to one",
            1.15,
            cpu / self.lines[-_SHARING - 1].cpu_ms,
            at_most=True,
        )

    def measure_sets(self, sets: int) -> None:
        """Make many small sets in one run, by the domain functions alone, and in a run each."""
        made = []
        with postgresql() as new_database:
            for make in (make_sets_alone, make_sets_in_a_batch):
                self._console.print(f"{make.__name__} …", style="dim")
                with self._vendor() as vendor, _processes(1) as pool:
                    place = self._place(vendor, new_database())
                    made.append(pool.submit(make, place, sets).result())
            with self._vendor() as vendor, _processes(1) as pool:
                place = self._place(vendor, new_database())
                launched = pool.submit(launch_a_set, place, PROMPTS_OF_A_SET).result()
        alone, batch = made
        self.sets = {"alone": alone, "in one run": batch, "in a run each": launched}
        ratio = batch.cpu_seconds / alone.cpu_seconds
        self._judge("sets of 10: CPU in a run, to the bare domain code", 2.0, ratio, at_most=True)
        self._judge("sets of 10: kB of events a set", 60, batch.event_kb, at_most=True)

    def measure_shards(self, prompts: int) -> None:
        """Make a large set in one process, and in shards by two; and a tenth of it."""
        with postgresql() as new_database:
            for count, processes in ((prompts // 10, 1), (prompts, 1), (prompts, 2)):
                self._console.print(f"{count:,} prompts, {processes} at a time …", style="dim")
                with Vendor(
                    latency_seconds=0,
                    concurrency=256,
                    picture_bytes=_PICTURE_BYTES,
                    answer_at_once=True,
                ) as vendor:
                    place = self._place(vendor, new_database())
                    made = make_large_set(place, prompts=count, processes=processes)
                self.large_sets.append(made)
        tenth, alone, sharded = self.large_sets
        self._judge(
            "a large set in two processes: wall, to one",
            0.75,
            sharded.seconds / alone.seconds,
            at_most=True,
        )
        self._judge(
            "a large set: wall a prompt, to a tenth of it",
            1.1,
            alone.seconds / tenth.seconds * tenth.prompts / alone.prompts,
            at_most=True,
        )
        largest = max(alone.peak_mib, sharded.peak_mib)
        self._judge(
            "a large set: memory, to a tenth of it", 1.2, largest / tenth.peak_mib, at_most=True
        )

    def _place(self, vendor: Vendor, instance_url: str) -> Place:
        return Place(
            vendor_url=vendor.url,
            api_key=vendor.settings.api_key,
            folder=self._new_folder(),
            instance_url=instance_url,
        )

    def _buy(
        self,
        who: str,
        vendor: Vendor,
        processes: int,
        *,
        storage_uri: str | None = None,
        ledger_url: str | None = None,
        account: int | None = None,
    ) -> list[Line]:
        self._console.print(f"{who} …", style="dim")
        api = Api(
            url=vendor.url,
            api_key=vendor.settings.api_key,
            max_in_flight=_IN_FLIGHT,
            poll_min_seconds=0.1,
            account_max_in_flight=account,
        )
        jobs = self._jobs // processes
        with _processes(processes) as pool:
            bought = [
                pool.submit(
                    buy_a_set,
                    api,
                    jobs=jobs,
                    folder=self._new_folder(),
                    prompt_set=f"set-{number}",
                    storage_uri=storage_uri,
                    ledger_url=ledger_url,
                )
                for number in range(processes)
            ]
            stages = [future.result() for future in bought]
        lines = [_line(who, stage) for stage in stages]
        self.lines += lines
        return lines

    def _judge(self, what: str, bound: float, measured: float, *, at_most: bool = False) -> None:
        self.verdicts.append(
            Verdict(what=what, bound=bound, measured=measured, at_least=not at_most)
        )

    @contextmanager
    def _vendor(self) -> Iterator[Vendor]:
        with Vendor(latency_seconds=0.2, concurrency=256, picture_bytes=_PICTURE_BYTES) as vendor:
            yield vendor

    def _new_folder(self) -> Path:
        folder = self._folder / uuid.uuid4().hex
        folder.mkdir()
        return folder


@contextmanager
def _processes(number: int) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def _line(who: str, stage: Stage) -> Line:
    return Line(
        who=who,
        pictures=stage.stored,
        seconds=stage.seconds,
        pictures_per_second=stage.stored / stage.seconds,
        cpu_ms=1000 * stage.cpu_seconds / stage.stored,
    )


def _table_of_lines(lines: list[Line]) -> Table:
    table = Table(title="pictures of 0.1 MB", expand=False)
    table.add_column("", no_wrap=True)
    for heading in ("pictures", "seconds", "pictures/s", "CPU ms a picture"):
        table.add_column(heading, justify="right")
    for line in lines:
        table.add_row(
            line.who,
            f"{line.pictures:,}",
            f"{line.seconds:.1f}",
            f"{line.pictures_per_second:.1f}",
            f"{line.cpu_ms:.1f}",
        )
    return table


@click.command()
@click.option("--jobs", default=400, show_default=True, help="Pictures of each measurement.")
@click.option("--sets", default=200, show_default=True, help="Prompt sets of ten prompts each.")
@click.option("--prompts", default=20_000, show_default=True, help="Prompts of the large set.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Figures as JSON."
)
def main(*, jobs: int, sets: int, prompts: int, json_path: Path | None) -> None:
    """Measure a distant bucket, a shared account, many sets and a large one."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        bench = Bench(jobs, folder=Path(name), console=console)
        bench.measure_distance()
        bench.measure_sharing()
        bench.measure_sets(sets)
        bench.measure_shards(prompts)
    console.print(_table_of_lines(bench.lines))
    for way, made in bench.sets.items():
        hours = made.cpu_seconds * 10_000 / 3600
        console.print(
            f"sets of 10, {way}: {made.cpu_seconds:.3f} s of CPU and {made.event_kb:.0f} kB of "
            f"events each; 10,000 take {hours:.1f} h"
        )
    for large in bench.large_sets:
        console.print(
            f"a set of {large.prompts:,}, {large.processes} at a time: {large.seconds:.1f} s, "
            f"{large.peak_mib:.0f} MiB at most in a process"
        )
    console.print(f"Load before: {load_before:.1f} on {os.cpu_count()} cores.")
    console.print(table_of_verdicts(bench.verdicts))
    if json_path is not None:
        figures = {
            "load_before": load_before,
            "cores": os.cpu_count(),
            "lines": [asdict(line) for line in bench.lines],
            "sets": {way: asdict(made) for way, made in bench.sets.items()},
            "large_sets": [asdict(made) for made in bench.large_sets],
            "verdicts": [{**asdict(verdict), "met": verdict.met} for verdict in bench.verdicts],
        }
        json_path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
