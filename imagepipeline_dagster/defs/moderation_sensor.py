"""Verdicts made anew without buying: after people's decisions, or under another policy."""

import datetime as dt
from itertools import islice
from typing import Any

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.sensor_resources import ledger_of, tables_of
from imagepipeline_dagster.defs.under_way import partitions_in_use
from imagepipeline_dagster.moderation.decisions import decisions_about_nothing
from imagepipeline_dagster.moderation.ticks import looked_at, watch_verdicts
from imagepipeline_dagster.partition_names import partition_key, prompt_set_of

_TOLD = 5  # decisions about nothing, the newest, in the log of a tick: each has a search behind it


def build_moderation_overrides(
    dataset: ImageDataset, *, status: dg.DefaultSensorStatus
) -> tuple[Any, dg.SensorDefinition]:
    """Return the job that moderates a set anew, and the sensor that asks for its runs."""
    job = dg.define_asset_job(
        dataset.named("moderate_prompt_set"),
        selection=dg.AssetSelection.assets(dataset.key("moderated_images")),
        executor_def=dg.in_process_executor,
        description="Moderates one prompt set anew, from the images that are there. Buys nothing.",
    )

    @dg.sensor(
        name=dataset.named("moderation_overrides_sensor"),
        job=job,
        minimum_interval_seconds=dataset.watching.sensor_seconds,
        default_status=status,
        description="Asks for new verdicts on the sets that an override, or another policy, is "
        "about. Buys nothing.",
    )
    def moderation_overrides_sensor(
        context: dg.SensorEvaluationContext,
    ) -> dg.SensorResult | dg.SkipReason:
        tables = tables_of(context, dataset)
        decisions = tables.count_overrides(dataset.overrides)
        cursor = looked_at(dataset.moderation, decisions=decisions)
        if context.cursor == cursor:
            return dg.SkipReason("no override and no rule changed")
        keys = dataset.partitions_in(context.instance)
        # Looked up first: a run that ends meanwhile has said by then what it was made from.
        in_use = partitions_in_use(context.instance, keys)
        now = dt.datetime.now(dt.UTC)
        overrides = tables.overrides(dataset.overrides)
        with ledger_of(context, dataset).open() as opened:
            with opened.reading() as connection:
                for decided, why in islice(decisions_about_nothing(connection, overrides), _TOLD):
                    context.log.warning(
                        "the %s of row %d of %s is about nothing: %s",
                        *(decided.decision, decided.number, dataset.overrides, why),
                    )
            tick = watch_verdicts(
                opened,
                dataset.moderation,
                overrides,
                dataset=dataset.name,
                present=set(map(prompt_set_of, keys)),
                max_runs=dataset.watching.max_runs_per_tick,
                now=now,
            )
        asked_at = now.isoformat(timespec="milliseconds")
        return dg.SensorResult(
            skip_reason=None if tick.runs else "no verdict is to be made anew",
            run_requests=[
                dg.RunRequest(
                    run_key=f"{dataset.name}/moderation/{key}/{basis}/{asked_at}", partition_key=key
                )
                for name, basis in tick.runs.items()
                for key in [partition_key(name)]
            ],
            # Until every set is as it should be, each tick looks again. A run under way may have
            # begun before the last decision, and end with verdicts that do not know of it.
            cursor=cursor if tick.settled and not in_use else "",
        )

    return job, moderation_overrides_sensor
