"""The pictures that requests start from, in an image folder: a file for all rows that share one.

They are as they came: no model made them, so they have no mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from imagepipeline_dagster.release.card import ReleaseFile
from imagepipeline_dagster.release.columns import sources_of
from imagepipeline_dagster.release.containers import readable
from imagepipeline_dagster.release.formats.files import PackedFiles
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import read_each
from imagepipeline_dagster.storage.contract import image_path

_AT_ONCE = 16  # pictures, which are held until they are written


def put_sources(split: str, parts: Sequence[Part], packed: PackedFiles) -> dict[str, str]:
    """Put the files, and return their names below the split's folder, by SHA-256."""
    rows = (row for part in parts if part.rows.sources for row in part.rows)
    formats = dict(picture for row in rows for picture in sources_of(row).values())
    names = {sha256: _name(sha256, formats[sha256]) for sha256 in sorted(formats)}
    paths = {sha256: f"imagefolder/{split}/{name}" for sha256, name in names.items()}
    same = {
        paths[sha256]: former[0]
        for sha256 in names
        if (former := packed.former_files("imagefolder", sha256))
    }
    if not packed.take_over(same):
        same = {}
    missing = [sha256 for sha256 in names if paths[sha256] not in same]
    for start in range(0, len(missing), _AT_ONCE):
        some = [(sha256, formats[sha256]) for sha256 in missing[start : start + _AT_ONCE]]
        files: list[tuple[ReleaseFile, bytes]] = []
        for (sha256, picture_format), data in zip(
            some, read_each(packed.storage, some), strict=True
        ):
            if isinstance(data, str):
                packed.left_out.append(f"A picture in {split!r} that requests start from: {data}.")
                del names[sha256]
            else:
                shown = readable(data, picture_format)
                files.append((ReleaseFile.of(paths[sha256], shown, part=sha256), shown))
        packed.put(files)
    return names


def _name(sha256: str, picture_format: str) -> str:
    # A picture that was generated may be a source too: its own file is stamped.
    path = PurePosixPath(image_path(sha256, picture_format))
    return f"{sha256[:2]}/{sha256}-source{path.suffix}"
