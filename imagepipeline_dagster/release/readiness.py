"""Which prompt sets a release may take as they are now, and why the others are left out.

A stored verdict may be older than the policy, a person's decision, or the prompts table. So each
set is compared with all three, and judged anew where they differ, which costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.checks import (
    accounting_problems,
    objections,
    too_many_are_rejected,
)
from imagepipeline_dagster.moderation.duplicates import near_pairs
from imagepipeline_dagster.moderation.evidence import hashes_of
from imagepipeline_dagster.moderation.moderating import moderate_set
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.moderation.states import basis_of, overrides_by_set
from imagepipeline_dagster.moderation.verdicts import ModeratedImage, Verdict
from imagepipeline_dagster.rows import column
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.overrides import Override


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedFor:
    """What a row of a prompt set asks for."""

    prompt_id: str = column("Prompt id, unique within the set")
    samples: int = column("Images wanted")
    content_version: str = column("Version of the whole set's content")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSet:
    """One prompt set: its moderated samples, and the rows that it was last planned from."""

    name: str
    samples: Sequence[ModeratedImage]
    prompts: Sequence[AskedFor] = ()


@dataclass(slots=True)
class ReadySets:
    """What a release may take.

    Attributes:
        images: the samples of every set that is not left out.
        judged_anew: the sets whose stored verdicts were out of date.
        left_out: a sentence for each set, or part of one, that is not released.
    """

    images: list[ModeratedImage] = field(default_factory=list)
    judged_anew: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def ready_sets(
    stored: Iterable[StoredSet],
    *,
    present: Mapping[str, Collection[str]],
    stopped: Mapping[str, Sequence[str]] | None = None,
    keep_removed: bool,
    dataset: str,
    policy: ModerationPolicy,
    overrides: Sequence[Override],
    ledger: Ledger,
    storage: Storage,
) -> ReadySets:
    """Return the sets that may be released, judged by today's rules.

    Args:
        stored: the sets, sorted by name.
        present: the prompt ids that the prompts table has now, by set.
        stopped: why others stop sets, whatever is in them, by name.
        keep_removed: whether a set that left the table stays in the dataset.
        dataset: its name in the ledger.
        policy: today's.
        overrides: what people decided until now.
        ledger: knows the pictures' scores, and which sets a picture is in.
        storage: where pictures are that have no score yet.
    """
    ready = ReadySets()
    decisions = overrides_by_set(ledger, overrides, dataset=dataset)
    for of_set in stored:
        name, samples = of_set.name, of_set.samples
        if name not in present and not keep_removed:
            ready.left_out.append(f"{name!r}: the prompt set left the prompts table.")
            continue
        if stopped and name in stopped:
            ready.left_out.append(f"{name!r}: {' '.join(stopped[name])}")
            continue
        problem = _accounting_problem(of_set)
        rows = [row for row in samples if row.prompt_id in present.get(name, {row.prompt_id})]
        if gone := {row.prompt_id for row in samples} - {row.prompt_id for row in rows}:
            ready.left_out.append(
                f"{name!r}: prompts that left the prompts table: {len(gone)}, as {min(gone)!r}."
            )
        basis = basis_of(policy, name, decisions.get(name, ()))
        if any(row.moderation_basis != basis for row in rows):
            ready.judged_anew.append(name)
            try:
                moderation = moderate_set(
                    rows,
                    prompt_set=name,
                    dataset=dataset,
                    policy=policy,
                    overrides=overrides,
                    ledger=ledger,
                    storage=storage,
                )
                rows = list(moderation.images)
            except CorrectableError as error:
                problem = f"it cannot be judged: {error}"
        problem = problem or _objection(rows, policy, name)
        if problem:
            ready.left_out.append(f"{name!r}: {problem}")
        else:
            ready.images += rows
    _leave_out_emulated(ready)
    return ready


def alike_pictures(
    images: Iterable[ModeratedImage],
    *,
    policy: ModerationPolicy,
    ledger: Ledger,
    storage: Storage,
) -> list[tuple[str, str]]:
    """Return the near-duplicates among the kept pictures of all sets that look for them."""
    of_set: dict[str, int | None] = {}
    looked_at: list[ModeratedImage] = []
    for row in images:
        if row.prompt_set not in of_set:
            of_set[row.prompt_set] = policy.rules_for(row.prompt_set).near_duplicate_distance
        if row.verdict == Verdict.KEPT and of_set[row.prompt_set] is not None:
            looked_at.append(row)
    if not looked_at:
        return []
    distance = max(own for own in of_set.values() if own is not None)
    hashes = hashes_of(looked_at, ledger=ledger, storage=storage)
    return list(near_pairs(hashes, distance=distance))


def _leave_out_emulated(ready: ReadySets) -> None:
    """Take out what the emulator drew where anything was bought: no release has both."""
    drawn = Counter(row.prompt_set for row in ready.images if row.emulated and row.image_sha256)
    if not drawn or not any(row.image_sha256 and not row.emulated for row in ready.images):
        return
    ready.images = [row for row in ready.images if not row.emulated]
    ready.left_out += [
        f"{name!r}: {number} pictures that the emulator drew, beside others that were bought."
        for name, number in sorted(drawn.items())
    ]


def _accounting_problem(stored: StoredSet) -> str | None:
    # After an edit that was not bought yet, the samples are whole by the rows they come from.
    moderated = {row.content_version for row in stored.samples}
    if moderated != {prompt.content_version for prompt in stored.prompts}:
        return None
    asked: Counter[str] = Counter()
    for prompt in stored.prompts:  # several rows may have one id: none of them is bought
        asked[prompt.prompt_id] += prompt.samples
    return next(iter(accounting_problems(asked, stored.samples)), None)


def _objection(rows: Sequence[ModeratedImage], policy: ModerationPolicy, name: str) -> str | None:
    """Return why the checks of the set's verdicts stop it, None where they do not."""
    if unchecked := objections(row for row in rows if row.verdict == Verdict.KEPT):
        return unchecked[0]
    if too_many_are_rejected(rows, policy.rules_for(name)):
        return "more of its pictures are rejected than the policy's max_rejected_share allows."
    return None
