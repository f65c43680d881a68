"""Processes of their own, which have nothing to import that the benchmark has imported.

Each is forked from a server that did so once and does nothing else. A process that starts anew
takes seconds of both cores for it, which no measurement counts.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext

# Each process runs the program's module once more, which its server has imported. That is meant.
warnings.filterwarnings("ignore", ".* prior to execution of 'benchmarks", RuntimeWarning)


def forking() -> ForkServerContext:
    """Return what starts them."""
    context = multiprocessing.get_context("forkserver")
    program = sys.modules["__main__"].__spec__
    context.set_forkserver_preload([program.name] if program else [])
    return context


def new_processes(number: int, *, tasks_of_each: int | None = None) -> ProcessPoolExecutor:
    """Return so many, with the environment as it is now: the server's own is of its start."""
    return ProcessPoolExecutor(
        number,
        mp_context=forking(),
        initializer=_set_environment,
        initargs=(dict(os.environ),),
        max_tasks_per_child=tasks_of_each,
    )


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
