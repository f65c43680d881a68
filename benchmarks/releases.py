"""`make bench`: releases, beside a plain copy with fsync of the same bytes in the same run.

    python -m benchmarks.releases [--pictures 10000] [--rows 1000000] [--sets 10000] [--json PATH]

Every release is a process of its own; ratios are of one run. The copy is one pass: each picture is
read and appended to one file, which is synced at the end. No way to write the bytes is cheaper.
Beside it stands a copy of the folder, file by file, which is what one would do without a release.
Copies and first releases are the better of two, so that no burst of another process decides.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

from benchmarks.processes import new_processes
from benchmarks.promises import Figure, as_json, table_of
from imagepipeline_dagster.moderation.verdicts import ModeratedImage, summarise
from imagepipeline_dagster.release.card import Release, ReleaseFile
from imagepipeline_dagster.release.changes import ChangesTable
from imagepipeline_dagster.release.columns import released_row, shard_schema
from imagepipeline_dagster.release.comparing import changes_of
from imagepipeline_dagster.release.content import Publication
from imagepipeline_dagster.release.credentials import stamp_of
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.publish import publish
from imagepipeline_dagster.release.stamping import Mark
from imagepipeline_dagster.storage.contract import image_path
from imagepipeline_dagster.storage.folder import LocalFolder

P = ParamSpec("P")
T = TypeVar("T")

_NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_PICTURE_BYTES = 100_000
_SETS = 100
_ROWS_OF_A_SHARD = 2500  # of 100 kB each
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spent:
    """What a piece of work took; the peak is its process's, with all that is imported."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def _apart(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do it in a process of its own."""
    with new_processes(1) as process:
        return process.submit(work, *args, **kwargs).result()


def _timed(work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> _Spent:
    """Do it, and return what it took."""
    began, cpu_began = time.perf_counter(), time.process_time()
    work(*args, **kwargs)
    return _Spent(
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu_began,
        peak_mib=_peak_mib(),
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _row(number: int, *, pictures: int) -> ModeratedImage:
    """Return a kept row; its picture is drawn from its number."""
    data = _picture(number)
    return ModeratedImage(
        prompt_set=f"set {number * _SETS // pictures:05d}",
        prompt_id=f"p{number:08d}",
        call_index=0,
        sample_index=0,
        outcome="generated",
        content_version="1",
        prompt=f"a harbour at dawn, number {number}",
        seed=number,
        samples=1,
        safety_checker=True,
        request=json.dumps({"prompt": f"a harbour at dawn, number {number}", "seed": number}),
        image_sha256=hashlib.sha256(data).hexdigest(),
        format="PNG",
        bytes=len(data),
        value_range=200,
        completed_at=_NOW,
        verdict="kept",
        moderation_reason="ok",
    )


def _picture(number: int) -> bytes:
    """Return a PNG file whose pixels are noise: as hard to compress as a picture, and stamped."""
    noise = hashlib.shake_128(str(number).encode()).digest(_PICTURE_BYTES)
    chunks = ((b"IHDR", bytes(13)), (b"IDAT", noise), (b"IEND", b""))
    return _PNG + b"".join(
        len(data).to_bytes(4, "big") + kind + data + b"\0\0\0\0" for kind, data in chunks
    )


def _store(folder: Path, numbers: Sequence[int], pictures: int) -> None:
    """Write the pictures as a purchase does, and let the disk take its time before the race."""
    storage = LocalFolder(folder)
    for number in numbers:
        row = _row(number, pictures=pictures)
        storage.write(image_path(str(row.image_sha256), "PNG"), _picture(number), derived=True)
    os.sync()


def _copy(folder: Path, target: Path) -> None:
    with target.open("wb") as copied:
        for picture in sorted((folder / "images").rglob("*.png")):
            copied.write(picture.read_bytes())
        copied.flush()
        os.fsync(copied.fileno())


def _copy_folder(folder: Path, target: Path) -> None:
    shutil.copytree(folder / "images", target)
    os.sync()


def _publish(
    folder: Path, pictures: int, *, to: str, formats: tuple[str, ...], edited: range
) -> _Spent:
    """Publish all pictures, and return what that took, without making the rows.

    The edited ones are others, which were bought in their place. Like a run that has read its
    tables by then, the process has loaded pandas, which pyarrow does at its first list.
    """
    pa.array([0])
    rows = [_row(number, pictures=pictures) for number in range(pictures)]
    for number in edited:
        bought = _row(pictures + number, pictures=pictures)
        rows[number] = replace(rows[number], image_sha256=bought.image_sha256)
    publication = Publication(
        storage=LocalFolder(folder),
        name="bench",
        images=rows,
        run_id="bench",
        created_at=_NOW,
        folder=to,
        policy=ReleasePolicy.model_validate({"formats": formats}),
    )
    return _timed(publish, publication)


def _changed(
    what: str, folder: Path, first: _Spent, changed: _Spent, *, at_most: float
) -> list[Figure]:
    """Return what the second version took: bytes that are in no other, and time."""
    of_first, of_second = (
        [path.stat() for path in (folder / version).rglob("*") if path.is_file()]
        for version in ("v0001", "v0002")
    )
    whole = sum(file.st_size for file in of_first)
    added = sum(file.st_size for file in of_second if file.st_nlink == 1)
    shares = {"bytes": (added / whole, 5), "time": (changed.seconds / first.seconds, at_most)}
    return [
        Figure(
            what=f"{what}, {of_what}", measured=100 * share, unit="% of the first", at_most=promised
        )
        for of_what, (share, promised) in shares.items()
    ]


def measure_releases(folder: Path, pictures: int) -> list[Figure]:
    """Publish, publish again after changes, and publish with further formats."""
    in_one_set, all_over = range(pictures // 100), range(0, pictures, 100)
    bought = [pictures + number for number in {*in_one_set, *all_over}]
    _store(folder, [*range(pictures), *bought], pictures)
    copied, folder_copied = (
        min(_apart(_timed, copy, folder, folder / f"{name} {turn}").seconds for turn in range(2))
        for name, copy in (("copy", _copy), ("copied folder", _copy_folder))
    )

    def released(to: str, *formats: str, edited: range = range(0)) -> _Spent:
        return _apart(_publish, folder, pictures, to=to, formats=formats, edited=edited)

    def first_released(to: str, *formats: str) -> _Spent:
        spent = (released(of_turn, *formats) for of_turn in (to, f"{to} again"))
        return min(spent, key=attrgetter("seconds"))

    first = first_released("releases", "parquet")
    changed = released("releases", "parquet", edited=in_one_set)
    beside = {
        name: first_released(name, "parquet", name)
        for name in ("webdataset", "imagefolder", "lance")
    }
    lance_scattered = released("lance", "parquet", "lance", edited=all_over)
    folder_alone, scattered = (
        released("scattered", "imagefolder", edited=edited) for edited in (range(0), all_over)
    )
    return [
        Figure(what="a plain copy with fsync", measured=copied, unit="s"),
        Figure(what="a copy of the folder", measured=folder_copied / copied, unit="x the copy"),
        Figure(what="first release", measured=first.seconds / copied, unit="x the copy", at_most=2),
        # What others do on the machine shows less in it.
        Figure(what="first release, CPU", measured=first.cpu_seconds, unit="s"),
        Figure(what="first release, peak", measured=first.peak_mib, unit="MiB", at_most=400),
        *_changed("1 % changed in one set", folder / "releases", first, changed, at_most=15),
        *(
            Figure(
                what=f"{name} beside parquet",
                measured=max(0.0, spent.seconds - first.seconds) / copied,
                unit="x the copy",
                at_most=1.5,
            )
            for name, spent in beside.items()
        ),
        *_changed(
            "1 % changed all over, image folder alone",
            folder / "scattered",
            folder_alone,
            scattered,
            at_most=5,
        ),
        *_changed(
            "1 % changed all over, lance and parquet",
            folder / "lance",
            beside["lance"],
            lance_scattered,
            at_most=5,
        ),
    ]


def measure_stamping(times: int) -> list[Figure]:
    """Stamp a picture of each container again and again, in memory."""
    noise = hashlib.shake_128(b"a picture").digest(3 * 180 * 180)
    picture = Image.frombytes("RGB", (180, 180), noise)
    lines: list[Figure] = []
    for container in ("PNG", "JPEG", "WEBP"):
        file = io.BytesIO()
        picture.save(file, container, quality=98)
        seconds = _timed(_stamp, file.getvalue(), container, times).seconds
        what = f"stamping a {container} picture"
        lines.append(Figure(what=what, measured=1000 * seconds / times, unit="ms", at_most=0.3))
    return lines


def _stamp(data: bytes, container: str, times: int) -> None:
    row, stamped = replace(_row(0, pictures=1), format=container), stamp_of(ReleasePolicy())
    assert stamped is not None  # noqa: S101
    for _ in range(times):
        assert stamped(row, data).mark is Mark.STAMPED  # noqa: S101


def _compared_release(folder: Path, version: str, rows: int, *, edited: bool) -> Release:
    """Write a release's Parquet files without pictures; where edited, 1 % of the prompts are."""
    (folder / version).mkdir(parents=True)
    template = released_row(
        _row(0, pictures=1), split="train", file_sha256="0" * 64, mark="stamped"
    )
    files: list[ReleaseFile] = []
    for start in range(0, rows, _ROWS_OF_A_SHARD):
        numbers = range(start, min(start + _ROWS_OF_A_SHARD, rows))
        columns: dict[str, list[object]] = {
            name: [value] * len(numbers) for name, value in template.items()
        }
        prompts = [
            f"a harbour, number {n}{', at dawn' if edited and n % 100 == 0 else ''}"
            for n in numbers
        ]
        columns["image"] = [{"bytes": b"", "path": "picture.png"}] * len(numbers)
        columns["prompt_set"] = [f"set {n // 1000:05d}" for n in numbers]
        columns["prompt_id"] = [f"p{n:08d}" for n in numbers]
        columns["prompt"] = list(prompts)
        columns["request"] = [json.dumps({"prompt": prompt, "seed": 1}) for prompt in prompts]
        columns["image_sha256"] = [
            hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts
        ]
        table = pa.table(columns, schema=shard_schema())
        path = f"{start:08d}.parquet"
        pq.write_table(table, folder / version / path, row_group_size=100, compression="zstd")
        sha256 = hashlib.sha256((folder / version / path).read_bytes()).hexdigest()
        files.append(ReleaseFile(path=path, sha256=sha256, size=0, rows=len(numbers)))
    return Release(
        name="bench",
        version=version,
        path=version,
        fingerprint=version,
        created_at=_NOW,
        run_id="bench",
        emulated=0,
        counts=summarise([]),
        prompt_sets={},
        files=tuple(files),
    )


def _differ(folder: Path, former: Release, newer: Release, expected: int) -> None:
    changes = ChangesTable(changes_of(LocalFolder(folder), former, newer))
    assert changes.by_cause == {"changed: prompt_changed": expected}  # noqa: S101


def measure_differences(folder: Path, rows: int) -> list[Figure]:
    """Compare two releases of so many rows, of which 1 % differ, all over the files."""
    former, newer = (
        _compared_release(folder, version, rows, edited=edited)
        for version, edited in (("v0001", False), ("v0002", True))
    )
    spent = _apart(_timed, _differ, folder, former, newer, -(-rows // 100))
    what = f"diff of {rows:,} rows"
    return [
        Figure(what=what, measured=spent.seconds, unit="s", at_most=30),
        Figure(what=f"{what}, peak", measured=spent.peak_mib, unit="MiB", at_most=300),
    ]


def measure_sets(folder: Path, sets: int) -> list[Figure]:
    """Materialize the release of so many sets of ten prompts, in all that can happen to it."""
    # Not above: Dagster's memory would count among that of the releases without it.
    from benchmarks.released_sets import change_sets, write_sets

    write_sets(folder, sets)
    shuffled = {"splits": {"train": 0.9, "test": 0.1}, "order": "shuffled"}
    lines: list[Figure] = []
    for what, policy in (
        ("first", {}),
        ("unchanged", {}),
        ("split and shuffled", shuffled),
        ("so, and 1 % changed", shuffled),
    ):
        if "changed" in what.split():
            change_sets(folder, sets)
        is_new, seconds, peak_mib = _apart(_materialize, folder, sets, policy)
        assert is_new is (what != "unchanged")  # noqa: S101
        name = f"{sets:,} sets of 10, {what}"
        lines += [
            Figure(what=name, measured=seconds, unit="s", at_most=None if is_new else 10),
            Figure(what=f"{name}, peak", measured=peak_mib, unit="MiB", at_most=400),
        ]
    return lines


def _materialize(
    folder: Path, sets: int, policy: Mapping[str, object]
) -> tuple[bool, float, float]:
    from benchmarks.released_sets import materialize_release

    return *materialize_release(folder, sets, **policy), _peak_mib()


@click.command()
@click.option("--pictures", default=10_000, show_default=True, help="Of 100 kB each.")
@click.option("--rows", default=1_000_000, show_default=True, help="Of two compared releases.")
@click.option("--sets", default=10_000, show_default=True, help="Of ten prompts.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def main(pictures: int, rows: int, sets: int, json_path: Path | None) -> None:
    """Measure releases and differences, and judge what is promised of them."""
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="releases-") as folder:
        lines = measure_releases(Path(folder, "releases"), pictures)
        lines += measure_stamping(pictures)
        lines += measure_differences(Path(folder, "differences"), rows)
        lines += measure_sets(Path(folder, "sets"), sets)
    console = Console(width=110)
    console.print(table_of(lines))
    console.print(f"Load before: {load_before:.1f} on {os.cpu_count()} cores.")
    if json_path:
        told = {"load_before": load_before, "lines": as_json(lines)}
        json_path.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
