"""Pictures taken back: out of the store, and out of every release that holds them.

    withdrawn/<sha256>.json      who took it back, when and why, and whether all of it is done

The tombstone is written first, and says at the end that it is finished. Between, any call does all
steps again: a killed one leaves nothing half. A release is rewritten in its folder. Its shards have
new names where their content is new; what is beside them is replaced, and the manifest last.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ValidationError

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.decisions import withdraw_images
from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.verdicts import Counts, ModeratedImage, summarise
from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.release.changes import CHANGES, Cause, Change, ChangesTable
from imagepipeline_dagster.release.claims import clear_leftovers
from imagepipeline_dagster.release.columns import fingerprint, without_sources
from imagepipeline_dagster.release.content import taken_back
from imagepipeline_dagster.release.held_rows import HeldRows, joined
from imagepipeline_dagster.release.packing import pack
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import Released
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.publish import point_to_latest, write_beside, write_contact_sheet
from imagepipeline_dagster.release.reading import (
    VERSION,
    ManifestBroken,
    ReleasedFiles,
    delete_release,
    lineage_in,
    listed_sha256,
    manifest_at,
    number_of,
    read_rows,
    versions_in,
)
from imagepipeline_dagster.release.scratch import scratch_folder
from imagepipeline_dagster.release.signing import SIGNATURE
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.rows import StoredTable
from imagepipeline_dagster.storage.contract import (
    ObjectMissing,
    Storage,
    StorageUnavailable,
    thumbnail_path,
    tombstone_path,
)

_PICTURES = ("image_sha256", "init_image_sha256", "mask_image_sha256")


class NotRewritten(CorrectableError):
    """A release could not be written without a picture, or is not whole; the message says which."""


class Withdrawal(BaseModel, frozen=True):
    """A picture that was taken back: who decided so, when and why."""

    image_sha256: str
    who: str
    why: str
    at: dt.datetime
    finished: bool = False
    unsigned: tuple[str, ...] = ()  # paths of releases, to be told by whoever finishes it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """What a withdrawal did to releases: versions by their folder.

    Attributes:
        rewritten: written without the pictures or, where nothing else was in them, deleted.
        unsigned: those of them that were signed, and are not any more.
    """

    rewritten: dict[str, list[str]]
    unsigned: dict[str, list[str]]


def withdraw(
    storage: Storage,
    ledger: Ledger,
    images: Collection[str],
    *,
    who: str,
    why: str,
    at: dt.datetime,
) -> Withdrawn:
    """Take these pictures back, and all that an earlier call did not finish.

    Raises:
        NotRewritten: a release is not whole, and cannot be written anew; all else is done.
    """
    # Two that write a release anew at once would delete each other's files.
    with ledger.changing_releases():
        begun = {each.image_sha256 for each in _all(storage) if not each.finished}
        for image in sorted(set(images) - begun):
            _write(storage, Withdrawal(image_sha256=image, who=who, why=why, at=at))
        return _finish(storage, ledger)


def _finish(storage: Storage, ledger: Ledger) -> Withdrawn:
    """Take back all pictures that are named and still somewhere."""
    open_ones = [withdrawal for withdrawal in _all(storage) if not withdrawal.finished]
    _tell(ledger, open_ones)
    reasons = {withdrawal.image_sha256: withdrawal for withdrawal in open_ones}
    withdrawn = Withdrawn(rewritten={}, unsigned={})
    problems = [
        problem
        for folder in _folders(storage)
        for problem in _rewrite_all(storage, folder, reasons, withdrawn)
    ]
    for path in sorted({path for withdrawal in reasons.values() for path in withdrawal.unsigned}):
        if storage.exists(f"{path}/manifest.json") and not storage.exists(f"{path}/{SIGNATURE}"):
            folder, _, version = path.rpartition("/")
            withdrawn.unsigned.setdefault(folder, []).append(version)
    for withdrawal in reasons.values():
        for path in list(storage.list(f"images/{withdrawal.image_sha256[:2]}")):
            if Path(path).stem == withdrawal.image_sha256:
                storage.delete(path)
        storage.delete(thumbnail_path(withdrawal.image_sha256))
        if not problems:
            _write(storage, withdrawal.model_copy(update={"finished": True, "unsigned": ()}))
    if problems:
        raise NotRewritten("\n".join(problems))
    return withdrawn


def tell_ledger(storage: Storage, ledger: Ledger) -> None:
    """Let a ledger know what was withdrawn: one that is made anew, or an older copy, may not.

    It would take the pictures for lost ones, and have them fetched again.
    """
    _tell(ledger, _all(storage))


def _tell(ledger: Ledger, withdrawals: Iterable[Withdrawal]) -> None:
    for taken in withdrawals:
        withdraw_images(ledger, [taken.image_sha256], who=taken.who, why=taken.why, at=taken.at)


def _write(storage: Storage, withdrawal: Withdrawal) -> None:
    path = tombstone_path(withdrawal.image_sha256)
    storage.write(path, f"{withdrawal.model_dump_json(indent=2)}\n".encode())


def _all(storage: Storage) -> Iterator[Withdrawal]:
    for path in list(storage.list("withdrawn")):
        yield Withdrawal.model_validate_json(storage.read(path))


def _folders(storage: Storage, below: str = "") -> Iterator[str]:
    """Yield the folders of releases, of datasets with and without a key prefix."""
    for name in storage.folders(below):
        path = f"{below}/{name}" if below else name
        if any(map(VERSION.fullmatch, inside := storage.folders(path))):
            yield path
        elif inside and path not in ("images", "thumbnails"):
            yield from _folders(storage, path)


def _rewrite_all(
    storage: Storage, folder: str, withdrawals: dict[str, Withdrawal], withdrawn: Withdrawn
) -> Iterator[str]:
    """Write all releases in a folder without the pictures; yield why where that cannot be."""
    with scratch_folder(storage.scratch) as scratch:
        clear_leftovers(storage, folder, scratch)  # a version that was never made may hold them too
    for version in sorted(versions_in(storage, folder), key=number_of):
        try:
            release = manifest_at(storage, f"{folder}/{version}")
        except ObjectMissing:
            continue
        except ManifestBroken as error:
            yield f"{error} Then withdraw again."
            continue
        try:
            _rewrite(storage, release, withdrawals, withdrawn)
        except NotRewritten as error:
            yield str(error)
        except Exception as error:
            if not storage.exists(f"{release.path}/manifest.json"):
                # Its publisher saw the withdrawal too, and deletes it, unfinished uploads as well.
                storage.delete_folder(release.path)
                continue
            if isinstance(error, StorageUnavailable) or getattr(error, "errno", None) is not None:
                raise  # as of a full disk, which says nothing of the release
            release = manifest_at(storage, release.path)  # the new one, if that is written
            _clear_strangers(storage, release)
            if not (problems := problems_of(storage, release)):
                raise
            yield (
                f"{storage.uri_of(release.path)} is not whole: {problems[0]} Restore the file from "
                "a backup, or delete that folder, and withdraw again."
            )
    point_to_latest(storage, folder)


def _rewrite(
    storage: Storage,
    release: Release,
    withdrawals: dict[str, Withdrawal],
    withdrawn: Withdrawn,
) -> None:
    """Write a release without the pictures, where it has any or tells of one that went."""
    # The first releases lack the columns of pictures that requests start from.
    columns = read_rows(storage, release, _PICTURES).itercolumns()
    pictures = chain.from_iterable(column.to_pylist() for column in columns)
    concerned = withdrawals.keys() & set(pictures)
    changes, is_half = _changes(storage, release)
    told = withdrawals.keys() & {image for change in changes for image in change.images}
    tells = concerned or told or is_half or _names_any(release.left_out, withdrawals)
    if not (withdrawals and tells):
        _clear_strangers(storage, release)
        return
    if storage.exists(f"{release.path}/{SIGNATURE}"):
        *_, image = withdrawals  # that which is finished last
        unsigned = (*withdrawals[image].unsigned, release.path)
        withdrawals[image] = withdrawals[image].model_copy(update={"unsigned": unsigned})
        _write(storage, withdrawals[image])
    with scratch_folder(storage.scratch) as scratch:
        _write_anew(storage, release, withdrawals, concerned, changes, scratch)
    folder = str(PurePosixPath(release.path).parent)
    withdrawn.rewritten.setdefault(folder, []).append(release.version)


def _write_anew(
    storage: Storage,
    release: Release,
    withdrawals: Mapping[str, Withdrawal],
    concerned: Collection[str],
    stored: Iterable[Change],
    scratch: Path,
) -> None:
    """Write a release that some of the pictures concern without them, or delete it with them."""
    policy = _policy_of(storage, release)
    parts, gone, released = _parts(storage, release, withdrawals, shaping=policy.shaping)
    held = list(chain.from_iterable(parts.values()))
    kept = joined(part.rows for part in held)
    splits = [part.split for part in held for _ in range(len(part.rows))]
    if not kept:
        delete_release(storage, release)
        return
    files, lost, _ = pack(
        storage,
        release.path,
        parts,
        policy=policy,
        scratch=scratch,
        former=release,
        released=released,
    )
    if lost:
        raise NotRewritten(
            f"{storage.uri_of(release.path)} cannot be written anew: {lost[0].why}. Then withdraw "
            "again, or delete the release"
        )
    by_set = {
        name: _counts_without(counts, [row for row in gone if row.prompt_set == name])
        for name, counts in release.prompt_sets.items()
    }
    left_out = (it for it in release.left_out if not _names_any([it], withdrawals))
    changes = ChangesTable(left for change in stored if (left := _without(change, withdrawals)))
    changed = release.model_copy(
        update={
            "changes": changes.by_cause,
            "files": (*files, write_contact_sheet(storage, release.path, kept)),
            "fingerprint": fingerprint(kept.digests, splits, packing=policy.packing),
            "splits": dict(Counter(splits)),
            "emulated": kept.emulated,
            "counts": _counts_without(release.counts, gone),
            "prompt_sets": by_set,
            "left_out": (*left_out, *_told(gone, concerned, withdrawals)),
        }
    )
    _replace(storage, write_beside(storage, changed, kept, changes, policy))


def _replace(storage: Storage, changed: Release) -> None:
    """Let a release whose files are written take the place of the former one, and verify it."""
    manifest = f"{changed.path}/manifest.json"
    if not storage.exists(manifest):
        # Its publisher saw the withdrawal too, deleted it, and makes another one.
        storage.delete_folder(changed.path)
        return
    signature = f"{changed.path}/{SIGNATURE}"
    storage.delete(signature)  # of the former manifest
    storage.write(manifest, f"{changed.model_dump_json(indent=2)}\n".encode())
    storage.delete(signature)  # of whoever read the former manifest, and signed it since
    _clear_strangers(storage, changed)
    if problems := problems_of(storage, changed):
        raise NotRewritten(f"{storage.uri_of(changed.path)} is not whole: {problems[0]}")


def _changes(storage: Storage, release: Release) -> tuple[Collection[Change], bool]:
    """Return a release's changes, and whether a killed call wrote them: its manifest lists others.

    Then they name no picture any more, but the manifest is still to be written.
    """
    if (listed := listed_sha256(release, CHANGES)) is None:
        return (), False
    stored = storage.read(f"{release.path}/{CHANGES}")
    return StoredTable(stored).rows(Change), hashlib.sha256(stored).hexdigest() != listed


def _names_any(sentences: Iterable[str], withdrawals: Collection[str]) -> bool:
    """Tell whether one names a picture, as those do that the store had lost."""
    return any(image in sentence for sentence in sentences for image in withdrawals)


def _policy_of(storage: Storage, release: Release) -> ReleasePolicy:
    """Return how a release was made; what the first manifests do not say, its files and card do."""
    stated = json.loads(release.policy or "{}")
    if not stated:
        folders = {PurePosixPath(file.path).parts[0] for file in release.files}
        formats = [name for name in ("webdataset", "imagefolder") if name in folders]
        stated = {"formats": ["parquet", *formats]}
        card = storage.read(f"{release.path}/README.md").decode()
        if licence := re.search(r"^license: (.+)$", card.partition("\n---\n")[0], re.MULTILINE):
            stated["license"] = licence[1].strip("\"'")
    try:
        return ReleasePolicy.model_validate({"stamp": False, **stated})
    except ValidationError as error:  # an extra that its makers had, or options of later versions
        problems = "; ".join(problem["msg"] for problem in error.errors())
        where = storage.uri_of(release.path)
        raise NotRewritten(f"{where} cannot be written anew: {problems}") from None


def _parts(
    storage: Storage, release: Release, withdrawals: Collection[str], *, shaping: str
) -> tuple[dict[str, list[Part]], list[ModeratedImage], dict[Part, Callable[[], Released]]]:
    """Return the release's parts, cut as they were, without the pictures; and the rows of these.

    Last comes what opens the files of each part's pictures: those that the store lost are there.
    """
    parts: dict[str, list[Part]] = {split: [] for split in release.splits}
    gone: list[ModeratedImage] = []
    released: dict[Part, Callable[[], Released]] = {}
    for shard in release.shards:
        size = shard.size // max(1, shard.rows or 1)  # a row does not say it; tars are cut by it
        lineage = lineage_in(storage, release, shard)
        for split, of_split in groupby(lineage, key=lambda row: row.get("split", "train")):
            rows = [without_sources(_judged(row, size), withdrawals) for row in of_split]
            gone += [row for row in rows if row.image_sha256 in withdrawals]
            if kept := [row for row in rows if row.image_sha256 not in withdrawals]:
                number = len(parts[split])
                part = Part.of(split, number, HeldRows(kept), shaping=shaping)
                parts[split].append(part)
                released[part] = partial(ReleasedFiles, storage, release, shard)
    return parts, gone, released


def _judged(lineage: Mapping[str, object], size: int) -> ModeratedImage:
    names = {field.name for field in dataclasses.fields(ModeratedImage)}
    known = {name: value for name, value in lineage.items() if name in names}
    return ModeratedImage(**{**known, "outcome": Outcome.GENERATED.value, "bytes": size})  # type: ignore[arg-type] # the shards have its columns


def _counts_without(counts: Counts, gone: Sequence[ModeratedImage]) -> Counts:
    """Return the counts with these kept samples as withdrawn ones."""
    return counts - summarise(gone) + summarise(map(taken_back, gone))


def _without(change: Change, withdrawals: Mapping[str, Withdrawal]) -> Change | None:
    """Return what a change is once such pictures were never there; None where it is none."""
    before, after = (
        None if image in withdrawals else image
        for image in (change.image_before, change.image_after)
    )
    if (before, after) == (change.image_before, change.image_after):
        return change
    if after:
        return dataclasses.replace(change, change="added", before=None, image_before=None)
    if before:
        why = _by_whom(withdrawals[change.image_after or ""])
        gone = dataclasses.replace(change, change="removed", cause=Cause.WITHDRAWN, after=why)
        # What stood there was of the other cause.
        return dataclasses.replace(gone, before=None, image_after=None)
    return None


def _told(
    gone: Iterable[ModeratedImage],
    concerned: Collection[str],
    withdrawals: Mapping[str, Withdrawal],
) -> Iterator[str]:
    """Yield a sentence for each row that went, and each other picture that rows start from."""
    others = set(concerned)
    for row in gone:
        image = row.image_sha256 or ""
        others.discard(image)
        yield (
            f"{row.prompt_set!r}, prompt {row.prompt_id!r}: its picture {image[:12]} "
            f"{_by_whom(withdrawals[image])}"
        )
    for image in sorted(others):
        by_whom = _by_whom(withdrawals[image])
        yield f"The picture {image[:12]} that requests start from {by_whom}"


def _by_whom(withdrawal: Withdrawal) -> str:
    return f"was withdrawn by {withdrawal.who} on {withdrawal.at:%Y-%m-%d}: {withdrawal.why}"


def _clear_strangers(storage: Storage, release: Release) -> None:
    """Delete what the manifest does not list: the files before, also of a call that was killed."""
    listed = {"manifest.json", SIGNATURE, *(file.path for file in release.files)}
    for path in list(storage.list(release.path)):
        if path.removeprefix(f"{release.path}/") not in listed:
            storage.delete(path)
