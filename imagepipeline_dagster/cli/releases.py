"""`imagepipeline-dagster releases …`: what was released, what differs, and whether it is whole."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagepipeline_dagster.cli.configured import (
    configured_ledger,
    decider,
    on_dataset,
    present_ledger,
    resources_of,
    who_option,
)
from imagepipeline_dagster.cli.lineage import uses_named
from imagepipeline_dagster.cli.terminal import (
    Answer,
    agree,
    count_of,
    field_lines,
    printable,
    wants_json,
    why_option,
    yes_option,
)
from imagepipeline_dagster.ledger import lineage
from imagepipeline_dagster.release import (
    changes_sheet,
    dataset_release,
    hub,
    reading,
    signing,
    verifying,
    withdrawal,
)
from imagepipeline_dagster.tables.spelling import quoted

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.release.changes import Change
    from imagepipeline_dagster.release.dataset_release import DatasetRelease

_SHOWN = 50  # samples of a difference


@click.group("releases")
def releases_group() -> None:
    """Look at releases, compare, verify, publish and prune them, and take pictures back."""


def _all(dataset: ImageDataset) -> list[DatasetRelease]:
    return dataset_release.releases_in(resources_of(dataset)["storage"].open(), dataset.releases)


def _release(dataset: ImageDataset, version: str) -> DatasetRelease:
    releases = _all(dataset)
    versions = [release.version for release in releases]
    if version == "latest" and releases:
        return releases[-1]
    if version not in versions:
        there = f"{version}: there are {', '.join(versions[-5:])}" if versions else "yet"
        raise click.ClickException(f"There is no release {there}.")
    return releases[versions.index(version)]


@releases_group.command("list")
@on_dataset
def list_releases(*, dataset: ImageDataset) -> Answer:
    """List the releases, oldest first."""
    releases = _all(dataset)
    facts = [
        {
            "version": r.version,
            "semantic_version": r.manifest.semantic_version,
            "created_at": r.manifest.created_at,
            "images": r.counts.kept,
            "emulated": r.manifest.emulated,
            "uri": r.uri,
        }
        for r in releases
    ]
    lines = [
        f"{r.version}  {r.manifest.semantic_version}  {r.manifest.created_at:%Y-%m-%d %H:%M} UTC  "
        f"{count_of(r.counts.kept, 'image')}"
        for r in releases
    ]
    return Answer(facts, lines or "There is no release yet.")


@releases_group.command("show")
@click.argument("version", default="latest")
@on_dataset
def show(*, version: str, dataset: ImageDataset) -> Answer:
    """Show what the manifest of VERSION (the latest, unless named) says."""
    release = _release(dataset, version)
    manifest = release.manifest
    return Answer(
        manifest.model_dump(mode="json"),
        field_lines(
            {
                "version": f"{manifest.version} ({manifest.semantic_version})",
                "of": manifest.name,
                "made": f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC in run {manifest.run_id}",
                "where": release.uri,
                "images": f"{manifest.counts.kept:,} of {manifest.counts.requested:,} asked for",
                "emulated": f"{manifest.emulated:,}",
                "former": manifest.previous,
                "changes": [f"{name}: {number:,}" for name, number in manifest.changes.items()],
                "left out": list(manifest.left_out[:_SHOWN]),
            }
        ),
    )


@releases_group.command("diff")
@click.argument("former")
@click.argument("version")
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A WebP file to write: the first changed pictures, before and after.",
)
@on_dataset
def diff(*, former: str, version: str, sheet: Path | None, dataset: ImageDataset) -> Answer:
    """Show which samples differ between two releases, and why."""
    older, release = _release(dataset, former), _release(dataset, version)
    changes = release.changes_since(older)
    if sheet is not None:
        _write_sheet(sheet, changes, release)
    lines = [*release.packing_since(older), *_change_lines(changes)]
    return Answer([dataclasses.asdict(change) for change in changes], lines)


def _change_lines(changes: Sequence[Change]) -> Iterator[str]:
    counts = Counter((change.change, change.cause) for change in changes)
    for (change_kind, cause), number in sorted(counts.items()):
        yield f"{change_kind}, {cause}: {number:,}"
    for change in changes[:_SHOWN]:
        before_and_after = " -> ".join(filter(None, (change.shown_before, change.shown_after)))
        yield f"  {change.change} {_place(change)} ({change.cause}) {before_and_after}".rstrip()
    if len(changes) > _SHOWN:
        yield f"  and {len(changes) - _SHOWN:,} more: --json has them all"
    if not changes:
        yield "No sample differs."


def _place(change: Change) -> str:
    numbers = {"call": change.call_index, "sample": change.sample_index}
    known = (f"{name} {number}" for name, number in numbers.items() if number is not None)
    return ", ".join((quoted(change.prompt_set, change.prompt_id), *known))


def _write_sheet(file: Path, changes: list[Change], release: DatasetRelease) -> None:
    picture = changes_sheet.changes_sheet(changes, release.storage)
    if picture is None:
        click.echo("No picture differs: there is nothing to draw.", err=True)
        return
    file.write_bytes(picture)
    click.echo(f"Before and after: {printable(str(file))}", err=True)


@releases_group.command("verify")
@click.argument("version", default="latest")
@click.option(
    "--public-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Demand the signature of this Ed25519 key, a PEM file.",
)
@on_dataset
def verify(*, version: str, public_key: Path | None, dataset: ImageDataset) -> Answer:
    """Read every byte of VERSION again, and compare it with the manifest."""
    release = _release(dataset, version)
    problems = verifying.problems_of(release.storage, release.manifest)
    if public_key and (
        unsigned := signing.signature_problem(release.storage, release.manifest, public_key)
    ):
        problems.append(f"{unsigned}.")
    number = len(release.manifest.files)
    if problems and not wants_json():
        for problem in problems:
            click.echo(printable(problem), err=True)
        raise click.ClickException(f"{release.version} is not whole: {len(problems)} problems.")
    return Answer(
        {"version": release.version, "files": number, "problems": problems},
        f"{release.version} is whole: {count_of(number, 'file')}, each with its SHA-256.",
        failed=bool(problems),
    )


@releases_group.command("sign")
@click.argument("version", default="latest")
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Your Ed25519 private key, a PEM file that nobody else can read.",
)
@on_dataset
def sign(*, version: str, key: Path, dataset: ImageDataset) -> Answer:
    """Sign the manifest of VERSION, which names every file with its SHA-256."""
    release = _release(dataset, version)
    signing.sign(release.storage, release.manifest, key)
    facts = {"version": release.version, "signed": True}
    return Answer(facts, f"{release.version} is signed.")


@releases_group.command("prune")
@click.option("--keep", type=click.IntRange(min=1), required=True, help="Newest releases to keep.")
@yes_option
@on_dataset
def prune(*, keep: int, yes: bool, dataset: ImageDataset) -> Answer:
    """Delete all but the newest releases; their numbers are not used again."""
    old = _all(dataset)[:-keep]
    versions = [release.version for release in old]
    if old:
        agree(f"Delete {', '.join(versions)}, for good?", yes=yes)
        # A withdrawal that writes one of them anew would bring it back, and not whole.
        with configured_ledger(dataset, create=False) as ledger, ledger.changing_releases():
            for release in old:
                reading.delete_release(release.storage, release.manifest)
    deleted = f"Deleted: {', '.join(versions)}."
    said = deleted if old else f"There are no more than {count_of(keep, 'release')}."
    return Answer({"deleted": versions}, said)


@releases_group.command("withdraw")
@click.option("--image", metavar="SHA256", help="A picture, by the first digits of its SHA-256.")
@click.option("--prompt", metavar="SET/ID", help="All pictures of a row of the prompts table.")
@click.option("--embedding", metavar="ID", help="All pictures made with an embedding.")
@why_option(required=True, help="Kept with the decision.")
@who_option
@yes_option
@on_dataset
def withdraw(
    *,
    image: str | None,
    prompt: str | None,
    embedding: str | None,
    why: str,
    who: str | None,
    yes: bool,
    dataset: ImageDataset,
) -> Answer:
    """Take pictures back: out of the store, and out of every release that holds them.

    Releases are rewritten without them and verified. The ledger keeps that they were bought, and no
    run buys them again. If the command is killed, the next one finishes its work.
    """
    if [image, prompt, embedding].count(None) != 2:
        raise click.UsageError("Give --image, --prompt or --embedding.")
    who = decider(who, why)

    storage = resources_of(dataset)["storage"].open()
    # Read first: a ledger that is not there must not be made by a decision about it.
    with present_ledger(dataset) as ledger:
        if image is not None:
            images = {lineage.picture_named(ledger, image)}
        else:
            uses = uses_named(ledger, prompt, embedding)
            images = {sha256 for of in uses for sha256 in of.images}
    if not images:
        named = f"prompt {prompt}" if prompt else f"embedding {embedding}"
        raise click.ClickException(
            f"The ledger knows no picture of the {named}: nothing to delete."
        )
    pictures = count_of(len(images), "picture")
    agree(f"Delete {pictures}, here and in every release, for good?", yes=yes)
    now = dt.datetime.now(dt.UTC)
    with configured_ledger(dataset, create=True) as ledger:
        withdrawn = withdrawal.withdraw(storage, ledger, images, who=who, why=why, at=now)
    lines = [f"{pictures} withdrawn."]
    for folder, versions in withdrawn.rewritten.items():
        lines.append(f"Rewritten in {folder}: {', '.join(versions)}.")
    for folder, versions in withdrawn.unsigned.items():
        lines.append(
            f"No longer signed in {folder}: {', '.join(versions)}. Sign each again: "
            "imagepipeline-dagster releases sign VERSION --key KEY_FILE"
        )
    return Answer({"images": sorted(images), **dataclasses.asdict(withdrawn)}, lines)


@releases_group.command("export")
@click.argument("version")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@on_dataset
def export(*, version: str, folder: Path, dataset: ImageDataset) -> Answer:
    """Copy VERSION to a local FOLDER, comparing each file with the manifest."""
    release = _release(dataset, version)
    if folder.exists() and any(folder.iterdir()):
        raise click.ClickException(f"{folder} is not empty.")
    copied = verifying.export_release(release.storage, release.manifest, folder)
    return Answer(
        {"version": release.version, "folder": folder, "files": copied},
        f"{count_of(copied, 'file')} copied to {folder}.",
    )


@releases_group.command("publish")
@click.argument("version", default="latest")
@click.option("--repo", metavar="ORG/NAME", required=True, help="A dataset of the Hub.")
@yes_option
@on_dataset
def publish(*, version: str, repo: str, yes: bool, dataset: ImageDataset) -> Answer:
    """Publish VERSION to the Hugging Face Hub: all files in one commit, then a tag.

    The token is HF_TOKEN of the environment. A repository that is not there is made, private. If
    the command is killed, the next one goes on where it was.
    """
    release = _release(dataset, version)
    agree(f"Publish {release.version} to {printable(repo)}?", yes=yes)
    published = hub.publish_to_hub(release.storage, release.manifest, repo)
    state = "is published" if published.created else "was there already"
    told = f"{published.version} {state}: {published.url}"
    return Answer(dataclasses.asdict(published), told)
