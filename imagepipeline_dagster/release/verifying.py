"""A release read again, every byte of it, against what its manifest says.

A file is fetched once, a megabyte at a time, and its pictures a row group at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.release.card import Release, ReleaseFile
from imagepipeline_dagster.release.reading import shard_source
from imagepipeline_dagster.release.signing import SIGNATURE
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

_MANIFEST = "manifest.json"
_CHUNK = 2**20


class FileChanged(CorrectableError, ValueError):
    """A file of a release has other bytes than its manifest says."""


def problems_of(storage: Storage, release: Release) -> list[str]:
    """Return a sentence for each file that is missing, is another, or should not be there."""
    listed = {file.path for file in release.files} | {_MANIFEST, SIGNATURE}
    there = {path.removeprefix(f"{release.path}/") for path in storage.list(release.path)}
    strangers = [f"{path} is not in the manifest." for path in sorted(there - listed)]
    return [*(p for file in release.files for p in _problems(storage, release, file)), *strangers]


def _problems(storage: Storage, release: Release, file: ReleaseFile) -> Iterator[str]:
    path = f"{release.path}/{file.path}"
    digest = hashlib.sha256()
    try:
        shard = None if file.rows is None else shard_source(storage, path)
        chunks = storage.chunks(path) if shard is None else iter(partial(shard.read, _CHUNK), b"")
        for chunk in chunks:
            digest.update(chunk)
    except ObjectMissing:
        yield f"{file.path} is missing."
        return
    if digest.hexdigest() != file.sha256:
        yield f"{file.path} is not the file that was released: its SHA-256 differs."
    elif shard is not None:
        shard.seek(0)
        yield from _problems_of_pictures(shard, file.path)


def _problems_of_pictures(opened: pa.NativeFile, path: str) -> Iterator[str]:
    shard = pq.ParquetFile(opened)
    names = shard.schema_arrow.names
    sum_column = "file_sha256" if "file_sha256" in names else "image_sha256"
    if "image" not in names:
        return  # each picture is a file, with a sum of its own
    columns = ["image", "prompt_set", "prompt_id", sum_column]
    # A row group at a time: batches that span several take some times their own memory.
    for group in range(shard.num_row_groups):
        rows = shard.read_row_group(group, columns, use_threads=False)
        images = pc.struct_field(rows["image"], "bytes")
        for image, prompt_set, prompt_id, sha256 in zip(
            images, *(rows[name].to_pylist() for name in columns[1:]), strict=True
        ):
            if hashlib.sha256(image.as_buffer()).hexdigest() != sha256:
                yield (
                    f"{path}: the picture of {prompt_set!r}, prompt {prompt_id!r} is not the one "
                    "that its row names."
                )


def export_release(storage: Storage, release: Release, folder: Path) -> int:
    """Copy a release's files to a local folder, and return how many they are.

    Raises:
        FileChanged: a file is not the one that was released; nothing more is copied.
        ObjectMissing: a file is gone.
    """
    for file in release.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("wb") as copy:
            for chunk in storage.chunks(f"{release.path}/{file.path}"):
                digest.update(chunk)
                copy.write(chunk)
        if digest.hexdigest() != file.sha256:
            target.unlink()
            raise FileChanged(
                f"{file.path} of {release.version} is not the file that was released: its SHA-256 "
                "differs. Restore it from a backup, or release anew"
            )
    beside = [name for name in (_MANIFEST, SIGNATURE) if storage.exists(f"{release.path}/{name}")]
    for name in beside:
        (folder / name).write_bytes(storage.read(f"{release.path}/{name}"))
    return len(release.files) + len(beside)
