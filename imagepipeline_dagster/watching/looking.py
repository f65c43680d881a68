"""The prompts table watched in three tiers, each rarer and dearer than the one before.

1. At each tick the newest `updated_at`. Where it moved on, the sets with rows since then are
   suspect; where it went back, everything is.
2. At an interval the number of rows and the newest `updated_at` of each set: deletions, and rows
   that were committed late with an older time.
3. At a longer interval the rows of every set, in slices that leave a tick time: what changed
   without a new `updated_at`. A small table, and one without times, is verified at each tick.

Suspect sets are compared by their checksums, and read only where these differ. A `Watch` is what
one tick leaves to the next. It only moves on with what was looked at to the end.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from imagepipeline_dagster.tables.fingerprints import digest_of
from imagepipeline_dagster.tables.reading import PromptsTable
from imagepipeline_dagster.tables.summaries import (
    SetSummary,
    is_later,
    lasts_seconds,
    sets_since,
    summarise_sets,
)
from imagepipeline_dagster.watching.contents import SetContents
from imagepipeline_dagster.watching.options import Watching

FIRST_TICK = "first"
"""The name of a sensor's tick that has no watch to go by, so that it too can be repeated."""

# Another row may get the newest time until the clock has gone on, and is committed a little later:
# the set is looked at once more.
_COMMIT_SECONDS = 1.0


def new_tick() -> str:
    """Return a name for a tick that no other has."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watch:
    """What a sensor's next tick has to know; as text it is the sensor's cursor, under 1 kB.

    Times are seconds since 1970. `tick` names the next tick: repeated, it has the same name.
    `waiting` says that sets are left which want a run.
    """

    tick: str = FIRST_TICK
    waiting: bool = False

    @classmethod
    def read(cls, text: str | None) -> Self:
        """Return the watch of a cursor; a new one where there is none, or none that is known."""
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return cls()

    def text(self) -> str:
        """Return the watch as a cursor."""
        return json.dumps(dataclasses.asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch(_Watch):
    """What the next tick has to know of the prompts table.

    `newest_since` is when the newest time was first seen, until it is certain that no other row
    gets it; `position` is a digest of the last set that a verification under way has come to.
    """

    newest: str | None = None
    newest_since: float | None = None
    rows: int = 0
    audited_at: float = 0
    verified_at: float = 0
    verifying_since: float | None = None
    position: str | None = None

    def is_quiet(self, newest: str | None, *, now: float, options: Watching) -> bool:
        """Tell whether a tick that sees this newest time has nothing more to look at."""
        return (
            newest is not None
            and newest == self.newest
            and not self.waiting
            and self.newest_since is None
            and not self.audit_is_due(now=now, options=options)
            and not self.verification_is_due(now=now, options=options)
        )

    def audit_is_due(self, *, now: float, options: Watching) -> bool:
        """Tell whether it is time to count."""
        return now >= self.audited_at + options.audit_seconds

    def verification_is_due(self, *, now: float, options: Watching) -> bool:
        """Tell whether it is time to compare every row, or to go on with that."""
        return (
            self.newest is None
            or self.rows <= options.small_table_rows
            or self.verifying_since is not None
            or now >= self.verified_at + options.verify_seconds
        )

    def having_seen(self, newest: str | None, *, now: float) -> Watch:
        """Return the watch with this newest time, and since when it is seen until it is certain."""
        lasts = _COMMIT_SECONDS + (lasts_seconds(newest) if newest is not None else 0)
        settled = self.newest_since is not None and now >= self.newest_since + lasts
        since = None if settled else self.newest_since
        since = now if newest != self.newest else since
        return dataclasses.replace(self, newest=newest, newest_since=since)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsWatch(_Watch):
    """The same of the embeddings table, which is small and read at each tick."""

    version: str | None = None
    looked_at: float = 0

    def is_quiet(self, version: str, *, now: float, options: Watching) -> bool:
        """Tell whether a tick that sees this version has nothing more to look at."""
        audited = now < self.looked_at + options.audit_seconds
        return version == self.version and not self.waiting and audited


@dataclass(frozen=True, slots=True)
class Observation:
    """What a tick saw: the watch it leaves, and the names of all sets, or of the new ones alone."""

    watch: Watch
    sets: tuple[str, ...]
    all_sets: bool


def observe(
    prompts: PromptsTable,
    contents: SetContents,
    watch: Watch,
    *,
    newest: str | None,
    now: float,
    options: Watching,
) -> Observation:
    """Look at the prompts table as closely as is due, and bring what is kept of it up to date.

    `newest` is its newest time, asked for before. Errors as of `SourceTables`.
    """
    deadline = time.monotonic() + options.tick_seconds
    changed_since = _sets_changed_since(prompts, watch, newest, at_most=options.few_sets + 1)
    suspects = changed_since or set()
    many = len(suspects) > options.few_sets
    verify = many or watch.verification_is_due(now=now, options=options)
    audit = verify or changed_since is None or watch.audit_is_due(now=now, options=options)

    if audit:
        prompts = prompts.looked_up_again()
        summaries = summarise_sets(prompts)
        differing = contents.differing(summaries)
        few_differ = len(differing) <= options.few_sets
        verify = verify or not few_differ
        suspects.update(summary.prompt_set for summary in differing)
        watch = dataclasses.replace(
            watch,
            rows=sum(summary.rows for summary in summaries),
            audited_at=now if few_differ else watch.audited_at,
        )
    else:
        summaries = summarise_sets(prompts, suspects) if suspects else []
    begins = verify and watch.verifying_since is None
    if begins:
        watch = dataclasses.replace(watch, verifying_since=now, position=None)

    listed = tuple(summary.prompt_set for summary in summaries)
    new_sets = () if audit else tuple(contents.unknown(listed))
    if len(suspects) <= options.few_sets and not (begins and watch.rows <= options.slice_rows):
        contents.examine(
            prompts, [summary for summary in summaries if summary.prompt_set in suspects]
        )
    if verify:
        watch = _verify(prompts, contents, watch, summaries, options, deadline)

    # A verification that began earlier may have passed sets which changed since: then it has to
    # begin again, and the newest time stays to be seen until it does.
    if not many or begins:
        watch = watch.having_seen(newest, now=now)
    return Observation(watch, listed if audit else new_sets, all_sets=audit)


def _sets_changed_since(
    prompts: PromptsTable, watch: Watch, newest: str | None, *, at_most: int
) -> set[str] | None:
    """Return the sets with rows since the watch's newest time; None where times do not tell."""
    if newest is None or watch.newest is None:
        return None
    if newest != watch.newest and not is_later(newest, watch.newest):
        return None  # the row with the newest time is gone
    if newest == watch.newest and watch.newest_since is None:
        return set()
    return set(sets_since(prompts, watch.newest, at_most=at_most))


def _verify(
    prompts: PromptsTable,
    contents: SetContents,
    watch: Watch,
    sets: Sequence[SetSummary],
    options: Watching,
    deadline: float,
) -> Watch:
    """Compare slice after slice of the sets, from where the watch has come to."""
    digests = [digest_of(summary.prompt_set).hex() for summary in sets]
    start = digests.index(watch.position) + 1 if watch.position in digests else 0
    for end in _slice_ends(sets, start, options.slice_rows):
        contents.examine(prompts, sets[start:end], neighbours=True)
        start = end
        if time.monotonic() >= deadline and end < len(sets):
            return dataclasses.replace(watch, position=digests[end - 1])
    began = watch.verifying_since or 0
    return dataclasses.replace(watch, verified_at=began, verifying_since=None, position=None)


def _slice_ends(sets: Sequence[SetSummary], start: int, rows: int) -> Iterator[int]:
    size = 0
    for index in range(start, len(sets)):
        size += sets[index].rows
        if size >= rows or index == len(sets) - 1:
            yield index + 1
            size = 0
