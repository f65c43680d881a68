"""The prompt sets that a team's own blocking checks stop: a release leaves them out.

Our own checks are not asked for what they once said: a release looks at today's rows by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Set
from contextlib import suppress

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.generated_images import GENERATED_IMAGES_CHECKS
from imagepipeline_dagster.defs.internals import AssetCheckExecutionRecord, CheckError
from imagepipeline_dagster.defs.moderated_images import MODERATED_IMAGES_CHECKS
from imagepipeline_dagster.defs.prompt_sets import PROMPT_SETS_CHECKS
from imagepipeline_dagster.partition_names import prompt_set_of

_PAGE = 1_000  # executions of a check in memory at a time
_LONGEST_REASON = 300  # characters: it stands in a release's card
_PARTITION = "dagster/partition"
_CHECKS = {
    "prompt_sets": PROMPT_SETS_CHECKS,
    "generated_images": GENERATED_IMAGES_CHECKS,
    "moderated_images": MODERATED_IMAGES_CHECKS,
}


def stopped_sets(context: dg.AssetExecutionContext, dataset: ImageDataset) -> dict[str, list[str]]:
    """Return why a team's checks stop prompt sets, by name; the others are not in it.

    A check stops a set where it is blocking, is of an asset that the release is made from, and
    failed for the set when it last looked. A check of what has no sets stops them all. A run
    without a code location, as a test has, knows no checks of a team.
    """
    stopped: defaultdict[str, list[str]] = defaultdict(list)
    partitions = dataset.partitions_in(context.instance)
    for check, by_set in _blocking_checks(context, dataset):
        last = _last_executions(context.instance, check, by_set=by_set, partitions=partitions)
        for partition, record in last:
            problem = _problem_of(record)
            if problem is None:
                continue
            sentence = f"the check {check.name!r} of {check.asset_key.to_user_string()} {problem}"
            stopped[prompt_set_of(partition)].append(sentence)
    return dict(stopped)


def _blocking_checks(
    context: dg.AssetExecutionContext, dataset: ImageDataset
) -> Iterator[tuple[dg.AssetCheckKey, bool]]:
    """Yield the team's checks, and whether what they check is partitioned by prompt set."""
    with suppress(CheckError):
        graph = context.repository_def.asset_graph
        ours = {
            dg.AssetCheckKey(dataset.key(stage), check.name)
            for stage, checks in _CHECKS.items()
            for check in checks
        }
        above = graph.get_ancestor_asset_keys(context.asset_key)
        for key in sorted(graph.get_check_keys_for_assets(above) - ours, key=str):
            if graph.get(key).blocking:
                yield key, graph.get(key.asset_key).partitions_def == dataset.partitions


def _last_executions(
    instance: dg.DagsterInstance,
    check: dg.AssetCheckKey,
    *,
    by_set: bool,
    partitions: Set[str],
) -> Iterator[tuple[str, AssetCheckExecutionRecord]]:
    """Yield the last execution of a check for each partition that it looked at.

    Where it looked at all of them at once, nothing before counts.
    """
    unseen = set(partitions)
    cursor: int | None = None
    while unseen:
        records = instance.event_log_storage.get_asset_check_execution_history(
            check, limit=_PAGE, cursor=cursor
        )
        if not records:
            return
        cursor = records[-1].id
        runs = {
            run.run_id: run
            for run in instance.get_runs(dg.RunsFilter(run_ids=[r.run_id for r in records]))
        }
        for record in records:
            run = runs.get(record.run_id)
            # A check without partitions of its own looks at the one that its run made.
            partition = record.partition or (run.tags.get(_PARTITION) if run and by_set else None)
            if partition is not None and partition not in unseen:
                continue
            if not _came_to_an_end(instance, record, run):
                continue
            if partition is None:
                for each in sorted(unseen):
                    yield each, record
                return
            unseen.discard(partition)
            yield partition, record


def _came_to_an_end(
    instance: dg.DagsterInstance, record: AssetCheckExecutionRecord, run: dg.DagsterRun | None
) -> bool:
    """Tell whether a check was executed: one that its run passed over says nothing."""
    if _evaluation_of(record) is not None:
        return True
    if record.event is None or run is None or not run.is_finished:
        return False
    failures = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return any(failure.step_key == record.event.step_key for failure in failures)


def _evaluation_of(record: AssetCheckExecutionRecord) -> dg.AssetCheckEvaluation | None:
    evaluation = record.evaluation
    return evaluation if isinstance(evaluation, dg.AssetCheckEvaluation) else None


def _problem_of(record: AssetCheckExecutionRecord) -> str | None:
    evaluation = _evaluation_of(record)
    if evaluation is None:
        return f"raised an error in run {record.run_id}."
    if evaluation.passed or evaluation.severity is not dg.AssetCheckSeverity.ERROR:
        return None
    why = f": {evaluation.description[:_LONGEST_REASON]}" if evaluation.description else ""
    return f"failed in run {record.run_id}{why}."
