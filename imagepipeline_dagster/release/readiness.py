"""Which prompt sets a release may take as they are now, and why the others are left out.

A stored verdict may be older than the policy, a person's decision, or the prompts table. So each
set is compared with all three, and judged anew where they differ, which costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

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
from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.splits import Joined
from imagepipeline_dagster.rows import column
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.overrides import Override

_HASHED_AT_ONCE = 1_000  # pictures


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Today:
    """What a release goes by, as it is now.

    Attributes:
        present: the prompt ids that the prompts table has, by set.
        stopped: why others stop sets, whatever is in them, by name.
        keep_removed: whether a set that left the table stays in the dataset.
        dataset: its name in the ledger.
        policy: of moderation.
        overrides: what people decided.
        ledger: knows the pictures' scores, and which sets a picture is in.
        storage: where pictures are that have no score yet.
    """

    present: Mapping[str, Collection[str]]
    stopped: Mapping[str, Sequence[str]] = field(default_factory=dict)
    keep_removed: bool
    dataset: str
    policy: ModerationPolicy
    overrides: Sequence[Override]
    ledger: Ledger
    storage: Storage


@dataclass(slots=True)
class ReadySets:
    """What a release may take.

    Attributes:
        images: the samples of every set that is not left out.
        judged_anew: the sets whose stored verdicts were out of date.
        stopped: of the sets that exist, those that are not released, with why.
        left_out: a sentence for each other set, or part of one, that is not released.
    """

    images: HeldRows = field(default_factory=HeldRows)
    judged_anew: list[str] = field(default_factory=list)
    stopped: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def ready_sets(stored: Iterable[StoredSet], today: Today) -> ReadySets:
    """Return the sets, which come sorted by name, that may be released, judged by today's rules."""
    ready = ReadySets()
    decisions = overrides_by_set(
        today.ledger, today.overrides, dataset=today.dataset, storage=today.storage
    )
    drawn: Counter[str] = Counter()
    bought = 0

    def rows() -> Iterator[ModeratedImage]:
        nonlocal bought
        for of_set in stored:
            for row in _ready_rows(of_set, today, decisions.get(of_set.name, ()), ready):
                if row.image_sha256:
                    drawn[row.prompt_set] += row.emulated
                    bought += not row.emulated
                yield row

    ready.images = HeldRows(rows())
    if bought and drawn.total():  # no release has both
        ready.images = HeldRows(row for row in ready.images if not row.emulated)
        ready.left_out += [
            f"{name!r}: {number} pictures that the emulator drew, beside others that were bought."
            for name, number in sorted(drawn.items())
            if number
        ]
    return ready


def _ready_rows(
    stored: StoredSet, today: Today, decisions: Sequence[Override], ready: ReadySets
) -> Sequence[ModeratedImage]:
    """Return the samples of a set that may be released, and note what else there is to say."""
    name = stored.name
    if name not in today.present and not today.keep_removed:
        ready.left_out.append(f"{name!r}: the prompt set left the prompts table.")
        return ()
    if name in today.stopped:
        ready.stopped[name] = " ".join(today.stopped[name])
        return ()
    present = today.present.get(name)
    rows = [row for row in stored.samples if present is None or row.prompt_id in present]
    if gone := {row.prompt_id for row in stored.samples} - {row.prompt_id for row in rows}:
        ready.left_out.append(
            f"{name!r}: prompts that left the prompts table: {len(gone)}, as {min(gone)!r}."
        )
    problem = _accounting_problem(stored)
    basis = basis_of(today.policy, name, decisions)
    if any(row.moderation_basis != basis for row in rows):
        ready.judged_anew.append(name)
        try:
            rows = list(_judged_anew(rows, name, today))
        except CorrectableError as error:
            problem = f"it cannot be judged: {error}"
    if problem := problem or _objection(rows, today.policy, name):
        ready.stopped[name] = problem
        return ()
    return rows


def _judged_anew(
    rows: Sequence[ModeratedImage], name: str, today: Today
) -> Iterator[ModeratedImage]:
    return moderate_set(
        rows,
        prompt_set=name,
        dataset=today.dataset,
        policy=today.policy,
        overrides=today.overrides,
        ledger=today.ledger,
        storage=today.storage,
    ).images


def alike_pictures(images: Iterable[ModeratedImage], today: Today) -> list[tuple[str, str]]:
    """Return the near-duplicates among the kept pictures of all sets that look for them.

    Of pictures that are alike through others, so many pairs as join them: of thousands that are
    alike all pairs would be millions.
    """
    of_set: dict[str, int | None] = {}

    def looked_at() -> Iterator[ModeratedImage]:
        for row in images:
            if row.prompt_set not in of_set:
                rules = today.policy.rules_for(row.prompt_set)
                of_set[row.prompt_set] = rules.near_duplicate_distance
            if row.verdict == Verdict.KEPT and of_set[row.prompt_set] is not None:
                yield row

    pictures, hashes = looked_at(), dict[str, int]()
    while some := list(islice(pictures, _HASHED_AT_ONCE)):
        hashes |= hashes_of(some, ledger=today.ledger, storage=today.storage)
    distance = max((own for own in of_set.values() if own is not None), default=0)
    joined = Joined[str]()
    return [pair for pair in near_pairs(hashes, distance=distance) if joined.join(*pair)]


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
