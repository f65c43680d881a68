"""`make bench`: a purchase beside hand-written loops and beside the ideal, in one run.

    python -m benchmarks.purchase [--jobs 400] [--json PATH] [--quick]

Every contestant runs in a process of its own, one after another, against the same emulator process.
All figures are of that contestant alone; the emulator's work is on the same machine, though, and so
is whatever else runs there: repeat a figure that surprises.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
from rich.console import Console
from rich.table import Table

from benchmarks.peers import Peer, buy_in_a_pool, buy_one_by_one
from benchmarks.processes import new_processes
from benchmarks.promises import Figure, as_json, table_of
from benchmarks.stage import Api, Decoding, Stage, buy_a_set, measure_decoding, store_a_set
from benchmarks.vendor import PICTURE_BYTES, Vendor

P = ParamSpec("P")
T = TypeVar("T")
_WIDTH = 140


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured. Seconds; `pace` is a job's mean, and what pauses are multiples of."""

    jobs: int
    pace: float = 1.0
    sampled: int = 10
    many: int = 4000
    stored: int = 10_000
    picture_bytes: int = PICTURE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A contestant's figures, `ratio` to the ideal schedule; counts and CPU are for each job.

    A sequential loop's are extrapolated: `jobs` says how many it really bought. The percentages are
    of wall time: the event loop's CPU, what of that writing to the ledger took, and the CPU of the
    ledger's own thread.
    """

    who: str
    jobs: int
    seconds: float
    ratio: float
    jobs_per_second: float
    status_requests: float
    cpu_ms: float
    loop_percent: float | None = None
    ledger_percent: float | None = None
    writer_percent: float | None = None
    peak_mib: float | None = None


class Bench:
    """One run of all contestants, in a folder that is removed afterwards."""

    def __init__(self, scale: Scale, *, folder: Path, one_process: bool, console: Console) -> None:
        self._scale = scale
        self._folder = folder
        self._console = console
        # A process of its own for each contestant: its CPU time and its memory are its own.
        self._processes = new_processes(1, tasks_of_each=None if one_process else 1)
        self._runs = 0

    def compare(self) -> list[Line]:
        """Run all that buys the same number of images from the same emulator."""
        scale = self._scale
        with self._vendor(latency_seconds=scale.pace, concurrency=32) as vendor:
            return [
                self._peer(vendor, "sequential loop", buy_one_by_one, 0.5, jobs=scale.sampled),
                self._peer(vendor, "32 threads, 1 s poll", buy_in_a_pool, 1.0, jobs=scale.jobs),
                self._peer(vendor, "32 threads, 3 s poll", buy_in_a_pool, 3.0, jobs=scale.jobs),
                *(
                    self._ours(vendor, f"ours, {n} in flight", jobs=scale.jobs, in_flight=n)
                    for n in (32, 40, 256)
                ),
            ]

    def find_limit(self) -> Line:
        """Run ours against an emulator that works on as many jobs as there are in flight."""
        scale = self._scale
        with self._vendor(latency_seconds=scale.pace, concurrency=256) as vendor:
            who = "ours, 256 in flight, 256 at work"
            return self._ours(vendor, who, jobs=2 * scale.jobs, in_flight=256)

    def grow(self) -> list[Line]:
        """Buy few images and many, as fast as the client can: the memory should be the same."""
        scale = self._scale
        with self._vendor(latency_seconds=scale.pace / 2, concurrency=64) as vendor:
            return [
                self._ours(vendor, f"ours, {jobs:,} images", jobs=jobs, in_flight=40)
                for jobs in (scale.jobs, scale.many)
            ]

    def repeat(self) -> tuple[Stage, int]:
        """Run ours again with nothing to buy; returns it and the requests that the API saw."""
        with self._vendor() as vendor:
            before = vendor.stats()
            stage = self._in_process(
                store_a_set,
                self._api(vendor, max_in_flight=16),
                jobs=self._scale.stored,
                folder=self._new_folder(),
                prompt_set="stored",
            )
            after = vendor.stats()
        asked = (after.posts_received, after.status_requests, after.downloads)
        return stage, sum(asked) - sum(
            (before.posts_received, before.status_requests, before.downloads)
        )

    def look(self) -> Decoding:
        """Measure what looking at one picture costs."""
        return self._in_process(measure_decoding, self._scale.picture_bytes)

    def _vendor(self, *, latency_seconds: float = 1.0, concurrency: int = 32) -> Vendor:
        return Vendor(
            latency_seconds=latency_seconds,
            concurrency=concurrency,
            picture_bytes=self._scale.picture_bytes,
        )

    def _peer(
        self, vendor: Vendor, who: str, buy: Callable[..., Peer], polls: float, *, jobs: int
    ) -> Line:
        self._console.print(f"{who} …", style="dim")
        before = vendor.stats()
        folder = self._new_folder()
        peer = self._in_process(
            buy,
            url=vendor.url,
            api_key=vendor.settings.api_key,
            jobs=jobs,
            poll_seconds=polls * self._scale.pace,
            folder=folder,
        )
        shutil.rmtree(folder)
        after = vendor.stats()
        asked = after.status_requests - before.status_requests
        # What was bought as a sample stands for all jobs, in proportion.
        seconds = peer.seconds * self._scale.jobs / jobs
        ideal = vendor.ideal_seconds(before.posts_accepted, self._scale.jobs)
        return Line(
            who=who,
            jobs=jobs,
            seconds=seconds,
            ratio=seconds / ideal,
            jobs_per_second=self._scale.jobs / seconds,
            status_requests=asked / jobs,
            cpu_ms=1000 * peer.cpu_seconds / jobs,
        )

    def _ours(self, vendor: Vendor, who: str, *, jobs: int, in_flight: int) -> Line:
        self._console.print(f"{who} …", style="dim")
        before = vendor.stats()
        folder = self._new_folder()
        stage = self._in_process(
            buy_a_set,
            self._api(vendor, max_in_flight=in_flight),
            jobs=jobs,
            folder=folder,
            prompt_set=folder.name,
        )
        shutil.rmtree(folder)
        after = vendor.stats()
        if not stage.stored == jobs == after.posts_accepted - before.posts_accepted:
            raise RuntimeError(f"{who}: {stage.stored} of {jobs} images were stored")
        asked = after.status_requests - before.status_requests
        return Line(
            who=who,
            jobs=jobs,
            seconds=stage.seconds,
            ratio=stage.seconds / vendor.ideal_seconds(before.posts_accepted, jobs),
            jobs_per_second=jobs / stage.seconds,
            status_requests=asked / jobs,
            cpu_ms=1000 * stage.cpu_seconds / jobs,
            loop_percent=100 * stage.loop_seconds / stage.seconds,
            ledger_percent=100 * stage.ledger_seconds / stage.seconds,
            writer_percent=100 * stage.writer_seconds / stage.seconds,
            peak_mib=stage.peak_mib,
        )

    def _api(self, vendor: Vendor, *, max_in_flight: int) -> Api:
        return Api(
            api_key=vendor.settings.api_key,
            url=vendor.url,
            max_in_flight=max_in_flight,
            # At a job's usual pace this is the default.
            poll_min_seconds=0.5 * self._scale.pace,
        )

    def _in_process(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._processes.submit(function, *args, **kwargs).result()

    def _new_folder(self) -> Path:
        self._runs += 1
        folder = self._folder / f"run{self._runs}"
        folder.mkdir()
        return folder


def _verdicts(
    lines: list[Line],
    grown: list[Line],
    *,
    decoding: Decoding,
    again: Stage,
    asked: int,
    stored: int,
) -> list[Figure]:
    with_32, with_40 = lines[3], lines[4]
    true_colours = decoding.true_colour_ms - decoding.quick_ms
    few, many = (line.peak_mib or 0.0 for line in grown)
    return [
        _verdict("40 in flight: time to the ideal's", 1.05, with_40.ratio, "x"),
        _verdict("40 in flight: status requests a job", 3, with_40.status_requests, ""),
        _verdict("32 in flight: time to the ideal's", 1.15, with_32.ratio, "x"),
        _verdict("32 in flight: status requests a job", 2.5, with_32.status_requests, ""),
        _verdict(
            "client CPU a job, had its picture true colours",
            27,
            max(with_32.cpu_ms, with_40.cpu_ms) + true_colours,
            "ms",
        ),
        _verdict(
            "ledger on the event loop, of wall time",
            2,
            max(with_32.ledger_percent or 0, with_40.ledger_percent or 0),
            "%",
        ),
        _verdict(
            f"peak memory at {grown[1].jobs:,} images to that at {grown[0].jobs:,}",
            1.2,
            many / few,
            "x",
        ),
        _verdict(f"second run over {stored:,} stored requests", 2, again.seconds, "s"),
        _verdict("second run: requests to the API", 0, asked, ""),
    ]


def _verdict(what: str, at_most: float, measured: float, unit: str) -> Figure:
    return Figure(what=what, at_most=at_most, measured=measured, unit=unit)


def _table_of_lines(lines: list[Line], scale: Scale) -> Table:
    table = Table(title=f"{scale.jobs} images of {scale.picture_bytes / 1e6:g} MB", expand=False)
    table.add_column("", no_wrap=True)
    for heading in (
        *("images", "seconds", "x ideal", "images/s", "status a job", "CPU ms a job"),
        *("loop busy %", "ledger on it %", "off it %", "peak MiB"),
    ):
        table.add_column(heading, justify="right")
    for line in lines:
        table.add_row(
            line.who,
            f"{line.jobs:,}",
            f"{line.seconds:.1f}",
            f"{line.ratio:.2f}",
            f"{line.jobs_per_second:.1f}",
            f"{line.status_requests:.2f}",
            f"{line.cpu_ms:.1f}",
            _shown(line.loop_percent, 0),
            _shown(line.ledger_percent, 2),
            _shown(line.writer_percent, 1),
            _shown(line.peak_mib, 0),
        )
    return table


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


@click.command()
@click.option("--jobs", default=400, show_default=True, help="Images that each contestant buys.")
@click.option("--quick", is_flag=True, help="A smoke test: the figures mean nothing.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Figures as JSON."
)
def main(*, jobs: int, quick: bool, json_path: Path | None) -> None:
    """Compare a purchase with hand-written loops and with the ideal schedule."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    scale = Scale(jobs=jobs)
    if quick:
        scale = Scale(
            jobs=jobs, pace=0.1, sampled=2, many=2 * jobs, stored=100, picture_bytes=20_000
        )
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        bench = Bench(scale, folder=Path(name), one_process=quick, console=console)
        lines = bench.compare()
        limit = bench.find_limit()
        grown = bench.grow()
        again, asked = bench.repeat()
        decoding = bench.look()
    verdicts = _verdicts(
        lines, grown, decoding=decoding, again=again, asked=asked, stored=scale.stored
    )
    console.print(_table_of_lines([*lines, limit, *grown], scale))
    console.print(
        f"The sequential loop bought {scale.sampled} images; its time is extrapolated to "
        f"{scale.jobs}. Ideal: the emulator's own latencies, list-scheduled on its workers.\n"
        f"Verifying one of its pictures takes {decoding.quick_ms:.1f} ms of CPU, one of true "
        f"colours {decoding.true_colour_ms:.1f} ms. "
        f"Load before: {load_before:.1f} on {os.cpu_count()} cores."
    )
    console.print(table_of(verdicts))
    if json_path is not None:
        figures = {
            "load_before": load_before,
            "cores": os.cpu_count(),
            "decoding": asdict(decoding),
            "lines": [asdict(line) for line in (*lines, limit, *grown)],
            "second_run": {**asdict(again), "requests": scale.stored, "api_requests": asked},
            "verdicts": as_json(verdicts),
        }
        json_path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
