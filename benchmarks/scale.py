"""`make bench`: beyond one machine: a distant bucket, a shared account, large sets, many sets.

    python -m benchmarks.scale [--jobs 400] [--sets 200] [--prompts 20000] [--json PATH]

Each figure is a ratio of two measurements of the same run, one after the other, each in a process
of its own. The API, the bucket and the database are on the same machine: repeat what surprises.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

import click
from rich.console import Console
from rich.table import Table

from benchmarks.bucket import bucket
from benchmarks.databases import postgresql
from benchmarks.processes import new_processes
from benchmarks.promises import Figure, as_json, table_of
from benchmarks.sets import PROMPTS_OF_A_SET, MadeSets, Place, make_sets_alone, make_sets_in_a_batch
from benchmarks.shards import MadeLargeSet, launch_a_set, make_large_set
from benchmarks.stage import Api, Stage, buy_a_set
from benchmarks.vendor import Vendor

_DISTANT_SECONDS = 0.1
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
        self.verdicts: list[Figure] = []
        self.sets: dict[str, MadeSets] = {}
        self.large_sets: list[MadeLargeSet] = []

    def measure_distance(self) -> None:
        """Buy into a bucket that answers at once, and into one that takes its time."""
        rates = []
        for who, delay in (("bucket nearby", 0.0), ("bucket 100 ms away", _DISTANT_SECONDS)):
            with self._vendor() as vendor, bucket(delay_seconds=delay) as uri:
                [line] = self._buy(who, vendor, 1, storage_uri=uri)
            rates.append(line.pictures_per_second)
        self._judge(
            "a bucket 100 ms away: pictures/s, to one nearby", rates[1] / rates[0], at_least=0.8
        )

    def measure_sharing(self) -> None:
        """Buy on PostgreSQL without an account's limit and with one, alone and with others."""
        seconds: dict[int | None, list[float]] = {None: [], _IN_FLIGHT: []}
        with postgresql() as new_database:
            for repetition in range(_REPETITIONS):
                # Each comes first in turn. What else runs on the machine decides little where jobs
                # take so long that waiting for them is most of the time.
                for limit in (None, _IN_FLIGHT) if repetition % 2 else (_IN_FLIGHT, None):
                    with self._vendor(latency_seconds=1.0) as vendor:
                        who = f"jobs of 1 s, {'no' if limit is None else 'a'} limit"
                        url = new_database()
                        [line] = self._buy(who, vendor, 1, ledger_url=url, account=limit)
                    seconds[limit].append(line.seconds)
            for processes in (1, _SHARING):
                with self._vendor(latency_seconds=1.0) as vendor:
                    who = f"an account's limit, {processes} at once"
                    url = new_database()
                    self._buy(who, vendor, processes, ledger_url=url, account=_IN_FLIGHT)
                    stats = vendor.stats()
        ratio = median(seconds[_IN_FLIGHT]) / median(seconds[None])
        self._judge("an account's limit: wall, to none", ratio, at_most=1.02)
        of_limit = stats.peak_in_flight / _IN_FLIGHT
        self._judge("the account's limit: jobs in flight, to it", of_limit, at_most=1)
        self._judge("the account's limit: how far it is used", of_limit, at_least=0.95)
        self._judge("bought twice", len(stats.bought_twice), at_most=0)
        alone, *together = (line.cpu_ms for line in self.lines[-_SHARING - 1 :])
        self._judge(
            f"client CPU a picture, {_SHARING} processes to one",
            mean(together) / alone,
            at_most=1.15,
        )

    def measure_sets(self, sets: int) -> None:
        """Make many small sets in one run, by the domain functions alone, and in a run each."""
        made = []
        with postgresql() as new_database:
            for make in (make_sets_alone, make_sets_in_a_batch):
                self._console.print(f"{make.__name__} …", style="dim")
                with self._vendor() as vendor, new_processes(1) as pool:
                    place = self._place(vendor, new_database())
                    made.append(pool.submit(make, place, sets).result())
            with self._vendor() as vendor, new_processes(1) as pool:
                place = self._place(vendor, new_database())
                launched = pool.submit(launch_a_set, place, PROMPTS_OF_A_SET).result()
        alone, batch = made
        self.sets = {"alone": alone, "in one run": batch, "in a run each": launched}
        ratio = batch.cpu_seconds / alone.cpu_seconds
        self._judge("sets of 10: CPU in a run, to the bare domain code", ratio, at_most=2)
        self._judge("sets of 10: kB of events a set", batch.event_kb, at_most=60)

    def measure_shards(self, prompts: int) -> None:
        """Make a large set in one process, and in shards by two; and a tenth of it."""
        with postgresql() as new_database:
            for count, processes in ((prompts // 10, 1), (prompts, 1), (prompts, 2)):
                self._console.print(f"{count:,} prompts, {processes} at a time …", style="dim")
                with self._vendor(latency_seconds=0, answer_at_once=True) as vendor:
                    place = self._place(vendor, new_database())
                    made = make_large_set(place, prompts=count, processes=processes)
                self.large_sets.append(made)
        tenth, alone, sharded = self.large_sets
        self._judge(
            "a large set in two processes: wall, to one",
            sharded.seconds / alone.seconds,
            at_most=0.75,
        )
        self._judge(
            "a large set: wall a prompt, to a tenth of it",
            alone.seconds / tenth.seconds * tenth.prompts / alone.prompts,
            at_most=1.1,
        )
        largest = max(alone.peak_mib, sharded.peak_mib)
        self._judge("a large set: memory, to a tenth of it", largest / tenth.peak_mib, at_most=1.2)

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
        with new_processes(processes) as pool:
            bought = [
                pool.submit(
                    buy_a_set,
                    api,
                    # As many as one alone: what a process takes to start is the same part of each.
                    jobs=self._jobs,
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

    def _judge(
        self,
        what: str,
        measured: float,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        self.verdicts.append(
            Figure(what=what, measured=measured, at_least=at_least, at_most=at_most)
        )

    def _vendor(self, *, latency_seconds: float = 0.2, answer_at_once: bool = False) -> Vendor:
        return Vendor(
            latency_seconds=latency_seconds,
            concurrency=256,
            picture_bytes=100_000,
            answer_at_once=answer_at_once,
        )

    def _new_folder(self) -> Path:
        folder = self._folder / uuid.uuid4().hex
        folder.mkdir()
        return folder


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
    console.print(table_of(bench.verdicts))
    if json_path is not None:
        figures = {
            "load_before": load_before,
            "cores": os.cpu_count(),
            "lines": [asdict(line) for line in bench.lines],
            "sets": {way: asdict(made) for way, made in bench.sets.items()},
            "large_sets": [asdict(made) for made in bench.large_sets],
            "verdicts": as_json(bench.verdicts),
        }
        json_path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
