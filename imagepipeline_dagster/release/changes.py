"""What differs between two releases, and why: each sample that was added, removed or changed.

A sample is known by its prompt set, prompt, call and place. The cause is the change in its lineage:
its prompt, its parameters, its embedding, a person's decision. A sample that is gone from a release
is still a row of the moderated images, whose verdict tells why.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.markup import template
from imagepipeline_dagster.moderation.verdicts import OVERRIDDEN, ModeratedImage, ModerationReason
from imagepipeline_dagster.rows import StoredTable, column

PLACE = ("prompt_set", "prompt_id", "call_index", "sample_index")
"""The columns that tell a sample from every other."""

COMPARED = (
    *PLACE,
    *("prompt", "negative_prompt", "embeddings", "embedding_version", "request"),
    *("image_sha256", "moderation_reason", "overridden_by", "split"),
)
"""The columns of a release that make a sample another one."""

READ = (*COMPARED, "completed_at")
"""Those that a comparison reads of a sample that is another one."""

CHANGES = "changes.parquet"
"""The file of a release that has all its changes."""

_LISTED = 100  # a page of ten thousand lines is read by nobody; the Parquet file has them all

Lineage = Mapping[str, Any]
_NO_ROW: Lineage = {}


class Cause(StrEnum):
    """Why a sample differs."""

    NEW_PROMPT = "new_prompt"
    NEW_SAMPLE = "new_sample"
    PROMPT_CHANGED = "prompt_changed"
    PARAMETERS_CHANGED = "parameters_changed"
    EMBEDDING_CHANGED = "embedding_changed"
    BOUGHT_AGAIN = "bought_again"
    OVERRIDE = "override"
    POLICY = "policy"
    VENDOR_FILTERED = "vendor_filtered"
    NOT_BOUGHT = "not_bought"
    PROMPT_REMOVED = "prompt_removed"
    SET_REMOVED = "set_removed"
    LEFT_OUT = "left_out"
    WITHDRAWN = "withdrawn"
    SPLIT_CHANGED = "split_changed"


PASSING = frozenset({Cause.OVERRIDE, Cause.POLICY, Cause.LEFT_OUT})
"""Why a picture goes that may be there again: then that is over."""

_DELIBERATE = frozenset({Cause.OVERRIDE, Cause.POLICY, Cause.WITHDRAWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One sample that is another than in the former release."""

    change: str = column("added, removed or changed")
    cause: str = column("Why")
    prompt_set: str = column("Prompt set")
    prompt_id: str = column("Prompt id")
    call_index: int | None = column("API call of the prompt", default=None)
    sample_index: int | None = column("Place in the call's answer", default=None)
    before: str | None = column("What it was", default=None)
    after: str | None = column("What it is", default=None)
    image_before: str | None = column("SHA-256 of the former picture", default=None)
    image_after: str | None = column("SHA-256 of the picture", default=None)

    @property
    def images(self) -> tuple[str | None, str | None]:
        """The picture that it was and the one that it is, by SHA-256."""
        return self.image_before, self.image_after

    @property
    def shown_before(self) -> str:
        """What it was, for a person to read: a decision is told with who decided."""
        is_decision = self.cause == Cause.OVERRIDE and self.change != "removed"
        return f"decided by {self.before}" if is_decision and self.before else self.before or ""

    @property
    def shown_after(self) -> str:
        """What it is, for a person to read."""
        if self.change == "added" and self.before and not self.after:
            return "no longer so"
        is_decision = self.cause == Cause.OVERRIDE
        return f"decided by {self.after}" if is_decision and self.after else self.after or ""


_Place = tuple[str, str, int | None, int | None, int]
_Why = tuple[Cause, str | None, str | None]  # with what was, and what is now


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The reasons why samples come and go: the verdicts, and what either release has.

    Attributes:
        judged: the samples that were not kept for the newer release, by their places.
        old_prompts: set and id of each prompt of the former release.
        new_sets: the prompt sets of the newer one.
        stopped: the sets that exist and are not in it, with why.
        kept_out: tells what kept a row out of the former release though it was there then.
    """

    judged: Mapping[tuple[str, str, int | None, int | None], ModeratedImage]
    old_prompts: Container[tuple[str, str]]
    new_sets: Container[str]
    stopped: Mapping[str, str]
    kept_out: Callable[[Lineage], tuple[str, str | None] | None]


def changes_between(
    before: Iterable[Lineage], after: Iterable[Lineage], known: Known
) -> list[Change]:
    """Return what differs, in the order of the samples.

    Args:
        before: the former release's rows, with the columns of `READ`.
        after: this one's.
        known: what else there is to know.
    """
    old, new = _by_place(before), _by_place(after)
    return [
        change
        for place in sorted(old.keys() | new.keys(), key=_sortable)
        if (change := _change(place, old.get(place, _NO_ROW), new.get(place, _NO_ROW), known))
    ]


def _by_place(rows: Iterable[Lineage]) -> dict[_Place, Lineage]:
    """Return the rows by their place; where no sample index is known, they are numbered."""
    numbers: Counter[tuple[Any, ...]] = Counter()
    places: dict[_Place, Lineage] = {}
    for row in rows:
        place = (row["prompt_set"], row["prompt_id"], row["call_index"], row["sample_index"])
        places[(*place, numbers[place])] = row
        numbers[place] += 1
    return places


def _sortable(place: _Place) -> tuple[Any, ...]:
    return tuple(-1 if part is None else part for part in place)


def _change(place: _Place, old: Lineage, new: Lineage, known: Known) -> Change | None:
    if not old:
        kind, why = "added", _why_added(place, new, known)
    elif not new:
        kind, why = "removed", _why_removed(place, old, known)
    elif difference := _difference(old, new):
        kind, why = "changed", difference
    else:
        return None
    cause, before, after = why
    named: dict[str, Any] = dict(zip(PLACE, place, strict=False))
    return Change(
        change=kind,
        cause=cause,
        before=before,
        after=after,
        image_before=old.get("image_sha256"),
        image_after=new.get("image_sha256"),
        **named,
    )


def _difference(old: Lineage, new: Lineage) -> _Why | None:
    for name in ("prompt", "negative_prompt"):
        if old[name] != new[name]:
            return Cause.PROMPT_CHANGED, old[name], new[name]
    embeddings = [
        " version ".join(filter(None, (row["embeddings"], row["embedding_version"])))
        for row in (old, new)
    ]
    if embeddings[0] != embeddings[1]:
        return Cause.EMBEDDING_CHANGED, embeddings[0], embeddings[1]
    if old["request"] != new["request"]:
        was, is_now = _parameters(old["request"], new["request"])
        return Cause.PARAMETERS_CHANGED, was, is_now
    if old["image_sha256"] != new["image_sha256"]:
        return Cause.BOUGHT_AGAIN, None, None
    if old["overridden_by"] != new["overridden_by"]:
        return Cause.OVERRIDE, old["overridden_by"], new["overridden_by"]
    if old["moderation_reason"] != new["moderation_reason"]:
        return Cause.POLICY, old["moderation_reason"], new["moderation_reason"]
    # The first releases had one split, and did not say so.
    if None not in (old["split"], new["split"]) and old["split"] != new["split"]:
        return Cause.SPLIT_CHANGED, old["split"], new["split"]
    return None


def _parameters(old: str | None, new: str | None) -> tuple[str, str]:
    """Return the parameters of two requests that differ."""
    requests = [json.loads(text or "{}") for text in (old, new)]
    names = [
        name
        for name in sorted(requests[0].keys() | requests[1].keys())
        if requests[0].get(name) != requests[1].get(name)
    ]
    was, is_now = (
        ", ".join(f"{name}={request.get(name)}" for name in names) for request in requests
    )
    return was, is_now


def _why_added(place: _Place, new: Lineage, known: Known) -> _Why:
    is_new = place[:2] not in known.old_prompts
    # A new one that would be kept anyway does not owe it to who confirmed that.
    confirmed = is_new and new["moderation_reason"] == f"{OVERRIDDEN}{ModerationReason.OK}"
    if new["overridden_by"] is not None and not confirmed:
        return Cause.OVERRIDE, None, new["overridden_by"]
    match known.kept_out(new):  # that is over
        case (Cause.OVERRIDE | Cause.LEFT_OUT as cause, why):
            return Cause(cause), why, None
        case (Cause.POLICY as cause, why):
            return Cause(cause), why, new["moderation_reason"]
    if is_new:
        return Cause.NEW_PROMPT, None, new["prompt"]
    return Cause.NEW_SAMPLE, None, new["prompt"]


def _why_removed(place: _Place, old: Lineage, known: Known) -> _Why:
    row = known.judged.get(place[:4])
    if place[0] in known.stopped:
        cause, now = Cause.LEFT_OUT, known.stopped[place[0]]
    elif row is None:
        cause, now = Cause.PROMPT_REMOVED if place[0] in known.new_sets else Cause.SET_REMOVED, None
    elif row.moderation_reason == Outcome.WITHDRAWN:
        cause, now = Cause.WITHDRAWN, row.error
    elif row.overridden_by is not None:
        cause, now = Cause.OVERRIDE, row.overridden_by
    elif row.outcome == Outcome.VENDOR_FILTERED:
        cause, now = Cause.VENDOR_FILTERED, row.error
    elif row.outcome != Outcome.GENERATED:
        cause, now = Cause.NOT_BOUGHT, row.moderation_reason
    else:
        cause, now = cause_of_reason(row.moderation_reason), row.moderation_reason
    return cause, old["prompt"], now


def cause_of_reason(reason: str) -> Cause:
    """Return what a sample that has a picture is not kept for, by its reason."""
    if reason.startswith(OVERRIDDEN):
        return Cause.OVERRIDE
    return Cause.LEFT_OUT if reason == "lost" else Cause.POLICY


class ChangesTable:
    """Changes as they are stored, with what they come to: as many as there are, none held.

    Attributes:
        counts: how many there are, by kind and cause.
        listed: the first hundred.
    """

    def __init__(self, changes: Iterable[Change]) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.listed: list[Change] = []
        self.parquet = StoredTable.of(map(self._counted, changes), Change).encoded

    def _counted(self, change: Change) -> Change:
        self.counts[change.change, change.cause] += 1
        if len(self.listed) < _LISTED:
            self.listed.append(change)
        return change

    @property
    def by_cause(self) -> dict[str, int]:
        """How many there are, by a text for each kind and cause."""
        return {f"{kind}: {cause}": self.counts[kind, cause] for kind, cause in sorted(self.counts)}

    @property
    def kinds(self) -> set[str]:
        """What became of the samples; one in another split is the same, packed anew."""
        return {kind for kind, cause in self.counts if cause != Cause.SPLIT_CHANGED}

    @property
    def accidental_losses(self) -> dict[str, int]:
        """The pictures that are gone without a person's decision or another policy, by cause."""
        return {
            cause: number
            for (kind, cause), number in self.counts.most_common()
            if kind == "removed" and cause not in _DELIBERATE
        }


def next_semantic_version(former: str | None, kinds: Collection[str]) -> str:
    """Return the version that follows, by the meaning that Croissant 1.1 gives its parts.

    Major where something was removed or changed, minor where all that happened was added, patch
    where the same data are packed anew.
    """
    if former is None:
        return "1.0.0"
    major, minor, patch = map(int, former.split("."))
    if not {"changed", "removed"}.isdisjoint(kinds):
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if kinds else f"{major}.{minor}.{patch + 1}"


def changes_page(version: str, former: str | None, changes: ChangesTable) -> str:
    """Return `CHANGES.md`: counts by cause, and the first hundred samples."""
    return template("release/changes.md.jinja").render(
        version=version,
        former=former,
        causes=[(*key, number) for key, number in sorted(changes.counts.items())],
        listed=changes.listed,
        further=changes.counts.total() - len(changes.listed),
    )
