"""A folder for unfinished files, which the next publisher clears if its own died."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagepipeline_dagster.storage.contract import TEMPORARY_PREFIX

_PREFIX = f"{TEMPORARY_PREFIX}imagepipeline-release-"
_LOCK = "lock"
_JUST_MADE = 60  # seconds: a folder this young may be about to get its lock


@contextmanager
def scratch_folder(beside: Path | None = None) -> Iterator[Path]:
    """Give a temporary folder; it is removed at the end, and so are those of killed publishers.

    A lock ends with its process, however that ends: nobody holds what a killed one left behind.

    Args:
        beside: the folder to make it in; without one, that of temporary files.
    """
    if beside is not None:
        beside.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=beside))
    try:
        with (folder / "unlocked").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "unlocked").rename(folder / _LOCK)  # nobody ever sees it without its holder
            for other in folder.parent.glob(f"{_PREFIX}*"):
                if other != folder and is_left_behind(other):
                    shutil.rmtree(other, ignore_errors=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_left_behind(folder: Path) -> bool:
    """Tell whether the process that a scratch folder was given to is dead."""
    if not folder.exists():
        return True
    try:
        stat = folder.stat()
        if stat.st_uid != os.getuid():
            return False
        lock = folder / _LOCK
        if not lock.exists():
            return time.time() - stat.st_mtime > _JUST_MADE
        with lock.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody holds the lock, or removed the folder just now
        return False
    return True
