"""One large prompt set: in one process, and in shards that several processes make.

The set is made by a program of its own, which starts the processes of its steps. All of them are in
one session, and the largest of each one's memory is read from /proc while they live.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from benchmarks.sets import QUIET, MadeSets, Place
from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.environment import resources_for
from imagepipeline_dagster.planning.prompts import GenerationDefaults

_PARTITION = "large"
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeLargeSet:
    """How long a set took, and the most memory that any process of it had."""

    prompts: int
    processes: int
    seconds: float
    peak_mib: float


def make_large_set(place: Place, *, prompts: int, processes: int) -> MadeLargeSet:
    """Make one set of so many prompts with so many processes at a time."""
    place.fill({_PARTITION: prompts})
    place.configure_dagster()
    variables = {
        "DAGSTER_HOME": str(place.folder),
        "BENCH_API_KEY": place.api_key,
        "BENCH_BASE_URL": place.vendor_url,
        "BENCH_PROCESSES": str(processes),
    }
    command = [sys.executable, "-c", "from benchmarks import shards; shards.run()"]
    began, peak_kib = time.perf_counter(), 0
    with subprocess.Popen(  # noqa: S603 - this very interpreter
        command, env={**os.environ, **variables}, start_new_session=True
    ) as program:
        while program.poll() is None:
            peak_kib = max(peak_kib, *_peaks_kib(program.pid), 0)
            time.sleep(_LOOK_SECONDS)
    if program.returncode:
        raise RuntimeError(f"the set was not made: exit code {program.returncode}")
    return MadeLargeSet(
        prompts=prompts,
        processes=processes,
        seconds=time.perf_counter() - began,
        peak_mib=peak_kib / 1024,
    )


def launch_a_set(place: Place, prompts: int) -> MadeSets:
    """Make one set in a run and a process of its own, which has everything to import."""
    before = _children_cpu_seconds()
    make_large_set(place, prompts=prompts, processes=1)
    return MadeSets(cpu_seconds=_children_cpu_seconds() - before, event_kb=place.event_kb())


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_job() -> dg.JobDefinition:
    """Return the job, as each process makes it for itself."""
    processes = int(os.environ["BENCH_PROCESSES"])
    definitions = build_definitions(
        ImageDataset(defaults=GenerationDefaults(width=64, height=64)),
        resources_for(
            api_key=os.environ["BENCH_API_KEY"],
            base_url=os.environ["BENCH_BASE_URL"],
            storage_uri=str(Path(os.environ["DAGSTER_HOME"]) / "data"),
        ),
        start=False,
        executor=_several(processes) if processes > 1 else dg.in_process_executor,
    )
    return definitions.resolve_job_def("materialize_prompt_set")


def _several(processes: int) -> dg.ExecutorDefinition:
    # Steps that are forked from a server which has imported all of it begin at once.
    preloaded = {"preload_modules": ["benchmarks.shards", "imagepipeline_dagster.preloading"]}
    return dg.multiprocess_executor.configured(
        {"max_concurrent": processes, "start_method": {"forkserver": preloaded}}
    )


def _peaks_kib(session: int) -> list[int]:
    peaks = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError, ValueError, IndexError):  # it has just ended
            if os.getsid(int(process.name)) == session:
                status = (process / "status").read_text()
                peaks.append(int(status.split("VmHWM:")[1].split()[0]))
    return peaks


def run() -> None:
    """Make the set: what the program does."""
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("prompt_set", [_PARTITION])
        result = dg.execute_job(
            dg.reconstructable(make_job),
            instance=instance,
            tags={"dagster/partition": _PARTITION},
            run_config=QUIET,
        )
    sys.exit(not result.success)
