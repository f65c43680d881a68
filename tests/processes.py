"""Programs of this project as processes of their own, with an environment that holds no secrets."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pyarrow.parquet as pq

from tests.waiting import PATIENCE_SECONDS

PROJECT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "imagepipeline_dagster.cli"]

# What the daemon would do until nothing is left to do: tick, run, release.
DRIVE = """
import os, sys
import dagster as dg
sys.path.insert(0, os.environ["PROJECT"])
from definitions import defs

repository = defs.get_repository_def()
failed = 0
with dg.DagsterInstance.get() as instance:
    for name in ("prompts_sensor", "embeddings_sensor"):
        with dg.build_sensor_context(
            instance_ref=instance.get_ref(), repository_def=repository, resources=defs.resources
        ) as context:
            tick = repository.get_sensor_def(name).evaluate_tick(context)
        for change in tick.dynamic_partitions_requests or ():
            if isinstance(change, dg.AddDynamicPartitionsRequest):
                instance.add_dynamic_partitions(change.partitions_def_name, change.partition_keys)
        for event in tick.asset_events:
            instance.report_runless_asset_event(event)
    job = defs.resolve_job_def("materialize_prompt_set")
    for key in sorted(instance.get_dynamic_partitions("prompt_set")):
        result = job.execute_in_process(
            instance=instance, partition_key=key, raise_on_error=False
        )
        failed += not result.success
    if "--release" in sys.argv:
        job = defs.resolve_job_def("release_image_dataset")
        failed += not job.execute_in_process(instance=instance, raise_on_error=False).success
sys.exit(failed)
"""


def environment(**given: str) -> dict[str, str]:
    """Return an environment without this project's variables, but for these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("IMAGEPIPELINE_", "DAGSTER_", "AWS_"))
    }
    return {**kept, "PROJECT": str(PROJECT), "DAGSTER_DISABLE_TELEMETRY": "1", **given}


def run(
    arguments: list[str], *, cwd: Path, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it said."""
    return subprocess.run(  # noqa: S603 - this project's own programs
        arguments,
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def run_script(script: str, *, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script by bash, which ends at its first error, with this project's commands."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    return run(
        ["/bin/bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        variables={"PATH": path, "PYTHONPATH": str(PROJECT), **variables},
    )


def dg_project(folder: Path, package: str) -> Path:
    """Lay a project out as `dg` does, without a component; return its folder of definitions."""
    (folder / "pyproject.toml").write_text(_DG_PROJECT.format(package))
    definitions = folder / "src" / package / "defs"
    definitions.mkdir(parents=True)
    for part in (definitions, definitions.parent):
        (part / "__init__.py").touch()
    return definitions


_DG_PROJECT = """
[project]
name = "shop"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "{}"
"""


def built_wheel(folder: Path) -> Path:
    """Build the wheel of this project into a folder."""
    build = ["hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run([sys.executable, "-m", *build], cwd=PROJECT, check=True, capture_output=True)  # noqa: S603
    (wheel,) = folder.iterdir()
    return wheel


def files_with(folder: Path, secret: str) -> list[Path]:
    """Return the files below a folder that hold a secret, compressed or not."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(secret.encode() in part for part in _contents(path))
    ]


def _contents(file: Path) -> Iterator[bytes]:
    """Yield a file's bytes, and what is packed in it: Parquet's cells, Dagster's snapshots."""
    data = file.read_bytes()
    yield data
    if file.suffix == ".parquet":
        yield repr(pq.ParquetFile(file).read().to_pylist()).encode()
    elif data.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(file)) as database:
            names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (name,) in names.fetchall():
                for row in database.execute(f'SELECT * FROM "{name}"'):  # noqa: S608
                    for packed in row:
                        if isinstance(packed, bytes):
                            with suppress(zlib.error):
                                yield zlib.decompress(packed)


@contextmanager
def serving_emulator(*options: str, cwd: Path) -> Iterator[str]:
    """Serve `imagepipeline-dagster emulator` on a free port, and give its URL."""
    with subprocess.Popen(  # noqa: S603
        [*COMMAND, "emulator", "--port", "0", *options],
        cwd=cwd,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line + process.stdout.read()
            yield found[0]
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)
