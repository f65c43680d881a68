"""What `--dry-run` shows: the changes of an import, and what a purchase would buy after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from rich.table import Table

from imagepipeline_dagster.cli.configured import configured_ledger, resources_of
from imagepipeline_dagster.cli.plan import refusal_lines, to_buy_text
from imagepipeline_dagster.cli.terminal import Answer, counts_table, printable, shown_number
from imagepipeline_dagster.defs import plans
from imagepipeline_dagster.tables.spelling import quoted
from imagepipeline_dagster.tables.transfer.progress import OnProgress, counted

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.planning.forecast import Forecast
    from imagepipeline_dagster.tables.reading import SourceTables
    from imagepipeline_dagster.tables.transfer.changes import Changes, RowChange, RowCounts
    from imagepipeline_dagster.tables.transfer.merge import Merge

_KINDS = ("inserted", "updated", "unchanged", "deleted")
_NAMES = ("prompt_set", "prompt_id", "embedding_id")
_SETS = 20
_VALUE = 40  # characters
_FIRST_ROWS = 3


def change_lines(changes: Changes) -> Iterator[str | Table]:
    """Yield how many rows would change, by prompt set if they have one, and some of them."""
    rows = [(name, _numbers(counts)) for name, counts in islice(changes.by_set.items(), _SETS)]
    if len(changes.by_set) > _SETS:
        rows.append((f"… {len(changes.by_set) - _SETS:,} more", []))
    rows.append(("total", _numbers(changes.total)))
    yield counts_table("Rows", _KINDS, rows)
    for change in changes.sample:
        yield f"  {_row_text(change)}"


def _numbers(counts: RowCounts) -> list[str]:
    return [shown_number(getattr(counts, kind)) for kind in _KINDS]


def _row_text(change: RowChange) -> str:
    keys = [name for name in _NAMES if name in change.values]
    row = " / ".join(_short_name(change.values[name]) for name in keys)
    fields = [
        f"{name}: {_short((change.before or {}).get(name))} → {_short(change.values[name])}"
        if change.before
        else f"{name}: {_short(change.values[name])}"
        for name in change.changed
        if name not in keys and (change.before or change.values[name])
    ]
    return f"{change.kind:<8}  {row}  {'; '.join(fields[:3])}".rstrip()


def _short_name(name: str) -> str:
    return quoted(name) if len(name) <= _VALUE else f"{quoted(name[:_VALUE])}…"


def _short(value: object) -> str:
    text = printable(", ".join(value) if isinstance(value, tuple) else str(value))
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}…"


def dry_run_answer(
    dataset: ImageDataset, merge: Merge, tables: SourceTables, *, on_progress: OnProgress
) -> Answer:
    """Return how a file is read, what its import would change, and what a purchase would then buy.

    `tables` are as they are.
    """
    api = resources_of(dataset)["imagepipeline"]
    changes = merge.changes()
    with configured_ledger(dataset, create=False) as ledger:
        planned = plans.forecast(
            counted(merge.sets_after(tables, changes), on_progress),
            merge.embeddings_after(tables),
            dataset,
            ledger,
            origin=api.origin,
        )
    total = planned.total
    cost = dataset.allowance(api.origin).cost(total.to_buy)
    facts = {
        "rows": dataclasses.asdict(changes.total),
        "rows_by_set": {name: dataclasses.asdict(of) for name, of in changes.by_set.items()},
        "guessed": merge.incoming.guessed,
        "ignored_columns": merge.incoming.ignored_columns,
        "notes": merge.notes(),
        "images_to_buy": total.to_buy,
        "cost": cost,
        "currency": dataset.currency,
        "to_buy_by_reason": dict(total.summary.to_buy_by_reason),
        "refused_rows": total.refused,
        "refusals": [dataclasses.asdict(refusal) for refusal in total.refusals],
        "emulated": api.emulated,
    }
    to_buy = to_buy_text(total.to_buy, cost, emulated=api.emulated)
    return Answer(
        facts,
        [
            *_first_row_lines(merge),
            *reading_lines(merge),
            *change_lines(changes),
            *_purchase_lines(planned, to_buy),
            "Nothing was changed.",
        ],
    )


def _purchase_lines(planned: Forecast, to_buy: str) -> Iterator[str]:
    """Yield what a purchase of the prompt sets concerned would buy after an import, and why."""
    total = planned.total
    if planned.sets:
        yield f"\nThe prompt sets concerned ({len(planned.sets):,}) would then have {to_buy}"
    for reason, images in total.summary.to_buy_by_reason.items():
        yield f"  {images:,} {reason.replace('_', ' ')}"
    yield from refusal_lines(total.refusals, total.refused)


def _first_row_lines(merge: Merge) -> Iterator[str]:
    """Yield the first rows of a file as they would be."""
    yield "First rows:"
    for row in next(merge.rows.chunks(_FIRST_ROWS), []):
        fields = (
            f"{name}={_short_name(value) if name in _NAMES else _short(value)}"
            for name, value in row.items()
            if value is not None
        )
        yield f"  {', '.join(fields)}"


def reading_lines(merge: Merge) -> Iterator[str]:
    """Yield how a file was read: what was guessed, ignored, and read otherwise than it stands."""
    incoming = merge.incoming
    for name, header in incoming.guessed.items():
        yield f"Guessed: {name} from the header {header!r}"
    if incoming.ignored_columns:
        yield f"Ignored columns: {', '.join(incoming.ignored_columns)}"
    for note in merge.notes():
        yield f"Note: {note}"
