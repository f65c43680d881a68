"""What became of a picture: its verdicts, and the releases that hold it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from imagepipeline_dagster.release.dataset_release import releases_in
from imagepipeline_dagster.rows import arrow_schema, parquet_table, rows_of
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleVerdict:
    """The verdict on one sample with a picture, as a set's newest table has it.

    A person who decided in place of the evidence is named, with why.
    """

    prompt_set: str
    prompt_id: str
    image_sha256: str
    verdict: str
    moderation_reason: str
    overridden_by: str | None = None
    override_reason: str | None = None


def verdicts_in(
    storage: Storage, tables: Iterable[str], images: Collection[str]
) -> list[SampleVerdict]:
    """Return the verdicts on these pictures in the tables at these paths, where there is one."""
    import pyarrow.compute as pc

    verdicts: list[SampleVerdict] = []
    for path in tables:
        try:
            data = storage.read(path)
        except ObjectMissing:
            continue
        table = parquet_table(data, arrow_schema(SampleVerdict).names)
        wanted = table.filter(pc.field("image_sha256").isin(sorted(images)))
        verdicts += rows_of(wanted, SampleVerdict)
    return verdicts


def releases_with(storage: Storage, folder: str, images: Collection[str]) -> dict[str, list[str]]:
    """Return the versions that hold each of these pictures, the oldest first."""
    versions: dict[str, list[str]] = {image: [] for image in images}
    for release in releases_in(storage, folder):
        held = set(release.as_arrow(["image_sha256"]).column("image_sha256").to_pylist())
        for image in images:
            if image in held:
                versions[image].append(release.version)
    return versions
