"""A release on the Hugging Face Hub: its files as one commit, then its version as a tag.

With the tag a version is there, and a version that is there is never written again. A publisher
that died is followed by the next one: the Hub knows the bytes that it has, the library makes no
commit that changes nothing, and then the tag is still to be made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import ValidationError

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.release.scratch import scratch_folder
from imagepipeline_dagster.release.verifying import export_release
from imagepipeline_dagster.storage.contract import Storage

if TYPE_CHECKING:
    from huggingface_hub import HfApi


_TOKEN = "HF_TOKEN"  # noqa: S105 - the name of a variable
_MANIFEST = "manifest.json"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class HubRefused(CorrectableError):
    """A release cannot be published; says why, and what to do. Neither token nor link is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRelease:
    """A version on the Hub; `created` says whether it was published just now."""

    version: str
    repo: str
    url: str
    created: bool


def publish_to_hub(storage: Storage, release: Release, repo: str) -> PublishedRelease:
    """Publish a release to a dataset repository, which is made private where there is none.

    The token is the environment's HF_TOKEN, the Hub's address the one of HF_ENDPOINT.

    Args:
        storage: where the release is.
        release: its manifest; each file is compared with it on its way.
        repo: ORG/NAME.

    Raises:
        HubRefused: there is no token, the Hub refuses, or it has another release of this version.
        FileChanged, ObjectMissing: the release is not whole.
    """
    token = os.environ.get(_TOKEN)
    if not token:
        raise HubRefused(f"{_TOKEN} is not set: put a token that may write {repo} there.")
    if not _REPOSITORY.fullmatch(repo):
        raise HubRefused(f"{repo!r} is no repository of the Hub: write ORG/NAME.")
    if release.emulated:
        raise HubRefused(f"{release.version} has pictures that the emulator drew: publish others.")
    api = _api(token)
    with scratch_folder(storage.scratch) as scratch, _plain_errors(repo):
        api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        refs = api.list_repo_refs(repo, repo_type="dataset")
        created = release.version not in {tag.name for tag in refs.tags}
        there = _manifest_at(api, repo, "main" if created else release.version, scratch / "former")
        if created:
            _refuse_to_replace(there, release, repo)
            export_release(storage, release, scratch / "files")
            _commit(api, repo, release, there, scratch / "files")
        elif there != storage.read(f"{release.path}/{_MANIFEST}"):
            raise HubRefused(
                f"{repo} has another {release.version}, as after a withdrawal. Nothing is written. "
                "Delete the tag there if this one is to take its place."
            )
    url = f"{api.endpoint}/datasets/{repo}/tree/{release.version}"
    return PublishedRelease(version=release.version, repo=repo, url=url, created=created)


def _api(token: str) -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as error:
        raise HubRefused(
            "huggingface_hub is not installed: pip install 'imagepipeline-dagster[hub]'"
        ) from error
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)


def _commit(api: HfApi, repo: str, release: Release, there: bytes | None, folder: Path) -> None:
    """Make the repository's files those of the release, in one commit, and tag it."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    # Files that others put into the repository stay.
    ours = {file.path for file in Release.model_validate_json(there).files} if there else set()
    head = api.dataset_info(repo).sha
    gone = ours.intersection(api.list_repo_files(repo, repo_type="dataset", revision=head))
    commit = api.create_commit(
        repo,
        [
            *(CommitOperationAdd(name, path) for name, path in sorted(files.items())),
            *(CommitOperationDelete(name) for name in sorted(gone.difference(files))),
        ],
        commit_message=f"{release.version} ({release.semantic_version})",
        repo_type="dataset",
        parent_commit=head,  # whoever commits meanwhile is not undone: the Hub refuses
    )
    api.create_tag(repo, tag=release.version, revision=commit.oid, repo_type="dataset")


def _manifest_at(api: HfApi, repo: str, revision: str, folder: Path) -> bytes | None:
    """Return the manifest at a branch or a tag, None where there is none."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        file = api.hf_hub_download(
            repo, _MANIFEST, repo_type="dataset", revision=revision, local_dir=folder
        )
    except EntryNotFoundError:
        return None
    return Path(file).read_bytes()


def _refuse_to_replace(there: bytes | None, release: Release, repo: str) -> None:
    """Refuse where the repository holds what this release must not take the place of."""
    if there is None:
        return
    try:
        newest = Release.model_validate_json(there)
    except ValidationError:
        raise HubRefused(f"{repo} has a {_MANIFEST} that is no release's: name another.") from None
    if PurePosixPath(newest.path).parent != PurePosixPath(release.path).parent:
        raise HubRefused(f"{repo} has releases of another dataset, {newest.name}: name another.")
    if int(newest.version[1:]) > int(release.version[1:]):
        raise HubRefused(
            f"{repo} is at {newest.version}, and {release.version} is older: publish that one or "
            "a later one."
        )


@contextmanager
def _plain_errors(repo: str) -> Iterator[None]:
    """Tell what the Hub said; the library's own errors hold signed links."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        why = error.server_message or error.response.reason_phrase
        problem = f"status {error.response.status_code}, {why}"
    # Its HTTPError is httpx's or httpx2's, by its version.
    except (errors.HTTPError, RuntimeError) as error:  # type: ignore[attr-defined]
        cause = error.__cause__ or error
        problem = type(cause).__name__
    else:
        return
    raise HubRefused(
        f"{repo}: the Hub stopped the publication ({problem}). Nothing of it is visible before it "
        "is whole; once the cause is mended, publish again: it goes on where it was."
    ) from None
