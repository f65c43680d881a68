"""`image_dataset`: the kept images of all prompt sets as a versioned release."""

import datetime as dt
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import dagster as dg
from pydantic import Field

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import (
    column_metadata,
    contact_sheet_of,
    found_table,
    seconds_since,
    shown_table,
)
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.stopped_sets import stopped_sets
from imagepipeline_dagster.defs.stored_sets import data_versions, stored_sets
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.checks import objections
from imagepipeline_dagster.moderation.verdicts import ModeratedImage, Verdict
from imagepipeline_dagster.previews import markdown_picture
from imagepipeline_dagster.purchase.canaries import drift_of, look_at_canaries
from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.release.changes_sheet import changes_sheet
from imagepipeline_dagster.release.columns import shard_schema
from imagepipeline_dagster.release.content import NothingToRelease, Publication
from imagepipeline_dagster.release.dataset_release import DatasetRelease, latest_release
from imagepipeline_dagster.release.last_look import basis_of_release, record_look, unchanged_release
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.publish import TooMuchLost, publish
from imagepipeline_dagster.release.readiness import ReadySets, Today, alike_pictures, ready_sets
from imagepipeline_dagster.release.reading import leaks_in, stored_changes
from imagepipeline_dagster.release.splits import SplitsLeak
from imagepipeline_dagster.resources import LedgerResource, StorageResource, TablesResource
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.overrides import Override

RELEASE_IO_MANAGER = "release_io_manager"
"""The resource that hands a release on, before its dataset's prefix."""

_CHECKS = {
    "nothing_unchecked": "Every released image was checked for safety, or a person decided.",
    "only_kept_is_released": "The release holds the images kept by today's rules, and no others.",
    "splits_do_not_leak": "Pictures that tell of each other are in one split.",
    "every_set_is_released": "No set and no picture had to be left out.",
}
_WARNS = {"every_set_is_released"}  # the others are blocking

_SHOWN = 20
# Beside a contact sheet there is no room for every set of a large dataset.
_COUNTS_BYTES = 4_000
_LEFT_OUT_BYTES = 2_000
_SHEET_BYTES = 13_000
_CHANGES_BYTES = 6_000


class ReleaseConfig(dg.Config):
    """What one run says of its release."""

    max_lost_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="In place of the ReleasePolicy's: 1 where a release may lose what it likes.",
    )

    def applied_to(self, policy: ReleasePolicy) -> ReleasePolicy:
        """Return the policy of this run."""
        if self.max_lost_share is None:
            return policy
        return policy.model_copy(update={"max_lost_share": self.max_lost_share})


def build_image_dataset(dataset: ImageDataset) -> list[dg.AssetsDefinition]:
    """Return the asset. Its checks are part of it: they are about the very rows that it judged."""
    key, hours = dataset.key("image_dataset"), dataset.freshness_hours
    stale = None if hours is None else dg.FreshnessPolicy.time_window(dt.timedelta(hours=hours))

    @dg.asset(
        key=key,
        # Their tables are read one after the other: all at once they take gigabytes.
        deps=[dataset.key(name) for name in ("prompt_sets", "moderated_images")],
        check_specs=[
            dg.AssetCheckSpec(name, asset=key, blocking=name not in _WARNS, description=meaning)
            for name, meaning in _CHECKS.items()
        ],
        io_manager_key=dataset.resource(RELEASE_IO_MANAGER),
        kinds={"parquet", "huggingface"},
        freshness_policy=stale,
        description="The release: the kept images of all prompt sets with their lineage, as an "
        "immutable version. Published once a day, or when materialized here.",
    )
    @with_resources_of(dataset)
    def image_dataset(
        context: dg.AssetExecutionContext,
        config: ReleaseConfig,
        storage: StorageResource,
        ledger: LedgerResource,
        tables: TablesResource,
    ) -> Iterator[dg.MaterializeResult[DatasetRelease]]:
        started, home = time.monotonic(), storage.open()
        policy = config.applied_to(dataset.release)
        seen = _Seen.now(context, dataset, tables, policy)
        basis = basis_of_release(home, seen.basis)
        if unchanged := unchanged_release(home, dataset.releases, basis):
            value = DatasetRelease(unchanged, home)
            checked = _check_results(unchanged, unchanged.counts.kept)
            yield _result(value, checked, _metadata(dataset, value, started=started))
            return
        with ledger.open() as opened:
            today = seen.today(opened, home)
            ready = ready_sets(stored_sets(dataset, context.instance, home), today)
            alike = alike_pictures(ready.images, today) if len(policy.splits) > 1 else []
            looks = look_at_canaries(dataset.canaries.images, opened, home)
        del seen, today  # they name every prompt: not held while pictures are packed
        publication = Publication(
            storage=home,
            name=dataset.title,
            images=ready.images,
            run_id=context.run.run_id,
            created_at=dt.datetime.now(dt.UTC),
            folder=dataset.releases,
            stopped=ready.stopped,
            left_out=ready.left_out,
            policy=policy,
            alike=alike,
            drift=drift_of(looks),
        )
        release = _published(publication)
        if not ready.judged_anew:  # what is judged now follows from more than the tables
            left_out = publication.all_left_out
            record_look(home, dataset.releases, release, basis, left_out=left_out)
        for sentence in release.left_out[:_SHOWN]:
            context.log.warning(f"Left out: {sentence}")  # noqa: G004 - Dagster's own is no format
        kept, unchecked = 0, list[str]()
        for image in _kept(ready):  # decoded anew each time: gone through once
            kept += 1
            unchecked += objections([image])
        value = DatasetRelease(release, home)
        checked = _check_results(
            release,
            kept,
            unchecked=unchecked,
            leaks=leaks_in(home, release, policy, alike=alike),
        )
        metadata = _metadata(dataset, value, started=started, judged_anew=len(ready.judged_anew))
        shown = ((image, None) for image in _kept(ready))
        sheet = contact_sheet_of(shown, home, count=kept, byte_budget=_SHEET_BYTES)
        pictures = {"contact_sheet": sheet, **_before_and_after(home, release)}
        yield _result(value, checked, metadata | pictures)

    return [image_dataset]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a release follows from, as the run found it."""

    dataset: ImageDataset
    policy: ReleasePolicy
    versions: Mapping[str, object]
    stopped: Mapping[str, Sequence[str]]
    present: Mapping[str, Collection[str]]
    overrides: Sequence[Override]

    @classmethod
    def now(
        cls,
        context: dg.AssetExecutionContext,
        dataset: ImageDataset,
        tables: TablesResource,
        policy: ReleasePolicy,
    ) -> Self:
        """Look all of it up, before a set is read: later changes are the next release's."""
        with tables.open(dataset.prompts, dataset.embeddings) as source:
            return cls(
                dataset=dataset,
                policy=policy,
                versions=data_versions(dataset, context.instance),
                stopped=stopped_sets(context, dataset),
                present=source.prompt_ids(),
                overrides=tables.overrides(dataset.overrides),
            )

    @property
    def basis(self) -> dict[str, object]:
        """The same as JSON has it: a release with the same basis has the same content."""
        return {
            "tables": self.versions,
            "stopped": self.stopped,
            "prompts": {name: sorted(ids) for name, ids in self.present.items()},
            "overrides": [str(override) for override in self.overrides],
            "rules": self.dataset.moderation.model_dump(mode="json"),
            "on_removed": self.dataset.watching.on_removed,
            "packing": self.policy.packing,
            "title": self.dataset.title,
        }

    def today(self, ledger: Ledger, storage: Storage) -> Today:
        """Return what the stored verdicts are looked at with."""
        return Today(
            present=self.present,
            stopped=self.stopped,
            keep_removed=self.dataset.watching.on_removed == "keep",
            dataset=self.dataset.name,
            policy=self.dataset.moderation,
            overrides=self.overrides,
            ledger=ledger,
            storage=storage,
        )


def _published(publication: Publication) -> Release:
    try:
        return publish(publication)
    except (NothingToRelease, SplitsLeak, TooMuchLost) as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _kept(ready: ReadySets) -> Iterator[ModeratedImage]:
    return (image for image in ready.images if image.verdict == Verdict.KEPT)


def _result(
    value: DatasetRelease, checked: Sequence[dg.AssetCheckResult], metadata: Mapping[str, Any]
) -> dg.MaterializeResult[DatasetRelease]:
    return dg.MaterializeResult(
        value=value,
        data_version=dg.DataVersion(value.manifest.fingerprint),
        check_results=checked,
        metadata=metadata,
    )


def _check_results(
    release: Release, kept: int, *, unchecked: Sequence[str] = (), leaks: Sequence[str] = ()
) -> list[dg.AssetCheckResult]:
    """Return the results, where so many images are kept by today's rules."""
    return [
        dg.AssetCheckResult(
            check_name="nothing_unchecked",
            passed=not unchecked,
            description=f"{len(unchecked)} of {kept} images are unchecked",
        ),
        dg.AssetCheckResult(
            check_name="only_kept_is_released",
            passed=release.counts.kept <= kept,
            description=f"{release.version}: {release.counts.kept} of {kept} images kept",
        ),
        dg.AssetCheckResult(
            check_name="every_set_is_released",
            passed=not release.left_out,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"sets or pictures that are left out: {len(release.left_out)}",
            metadata=_left_out(release),
        ),
        dg.AssetCheckResult(
            check_name="splits_do_not_leak",
            passed=not leaks,
            description=f"pictures that have their like in another split: {len(leaks)}",
            metadata=found_table("leaks", ["leak"], [[sentence] for sentence in leaks[:_SHOWN]]),
        ),
    ]


def _metadata(
    dataset: ImageDataset, value: DatasetRelease, *, started: float, judged_anew: int = 0
) -> dict[str, Any]:
    release = value.manifest
    return {
        "dagster/uri": value.uri,
        "dagster/row_count": release.counts.kept,
        **column_metadata(dataset, "image_dataset", shard_schema()),
        "seconds": seconds_since(started),
        "version": release.version,
        "new_version": release.created,
        "semantic_version": release.semantic_version,
        **found_table("changes", ["cause", "samples"], list(release.changes.items())),
        "emulated": bool(release.emulated),
        "judged_anew": judged_anew,
        **_left_out(release),
        "prompt_sets": shown_table(
            ["prompt set", "requested", "kept", "rejected", "quarantined"],
            [
                (name, c.requested, c.kept, c.rejected, c.quarantined)
                for name, c in release.prompt_sets.items()
            ],
            most_bytes=_COUNTS_BYTES,
        ),
    }


def _before_and_after(storage: Storage, release: Release) -> dict[str, dg.MarkdownMetadataValue]:
    changes = stored_changes(storage, release) or ()
    sheet = changes_sheet(changes, storage, byte_budget=_CHANGES_BYTES)
    if sheet is None:
        return {}
    picture = markdown_picture(sheet, f"before and after, since {release.previous}")
    return {"before_and_after": dg.MetadataValue.md(picture)}


def _left_out(release: Release) -> dict[str, dg.MarkdownMetadataValue]:
    sentences = [[sentence] for sentence in release.left_out]
    return found_table("left_out", ["left out"], sentences, most_bytes=_LEFT_OUT_BYTES)


class _Releases(dg.IOManager):
    """Hands the newest release on; with its manifest it is stored already."""

    def __init__(self, dataset: ImageDataset, storage: StorageResource) -> None:
        self._dataset = dataset
        self._storage = storage

    def handle_output(self, context: dg.OutputContext, obj: DatasetRelease) -> None:
        """Store nothing."""

    def load_input(self, context: dg.InputContext) -> DatasetRelease:
        """Return the newest release."""
        del context  # there is one dataset
        return latest_release(self._storage.open(), folder=self._dataset.releases)


def release_io_manager(dataset: ImageDataset) -> dg.IOManagerDefinition:
    """Return what hands the release to downstream assets, as a `DatasetRelease`."""

    @dg.io_manager(required_resource_keys={dataset.resource("storage")})
    def releases(context: dg.InitResourceContext) -> _Releases:
        return _Releases(dataset, getattr(context.resources, dataset.resource("storage")))

    return releases
