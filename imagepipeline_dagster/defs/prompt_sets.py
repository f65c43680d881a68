"""`prompt_sets`: the rows of one prompt set, validated and ready to plan."""

import time

import dagster as dg
import pyarrow.compute as pc

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import column_metadata, found_table, table_metadata
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.stage import Made, StageCheck, build_checks
from imagepipeline_dagster.partition_names import prompt_set_of
from imagepipeline_dagster.planning.prompts import Prompt, validated_prompts
from imagepipeline_dagster.planning.tokens import TOKENS_ARE_ESTIMATED
from imagepipeline_dagster.resources import TablesResource
from imagepipeline_dagster.rows import StoredTable, content_hash
from imagepipeline_dagster.tables.prompt_syntax import foreign_syntax
from imagepipeline_dagster.tables.reading import SourceTables

_PROBLEMS_SHOWN = 50
# The source rows tell when they were last touched, which is no content.
_AS_THEY_STAND = frozenset({"prompt_row", "embedding_row", "notes"})


def make_prompt_set(dataset: ImageDataset, prompt_set: str, source: SourceTables) -> Made:
    """Read and validate the rows of one prompt set."""
    started = time.monotonic()
    rows = source.prompts(prompt_set)
    if not rows:
        raise dg.Failure(
            f"the table {dataset.prompts.table!r} has no row of prompt set {prompt_set!r}; "
            "the prompts sensor removes its partition at its next tick",
            allow_retries=False,
        )
    table = StoredTable.of(
        validated_prompts(
            rows,
            source.embeddings(),
            defaults=dataset.defaults,
            refuses_syntax=dataset.refuse_prompt_syntax,
        ),
        Prompt,
    )
    prompts = table.rows(Prompt)
    refused = sum(not prompt.valid for prompt in prompts)
    return Made(
        table=table,
        data_version=content_hash(prompts, leave_out=_AS_THEY_STAND),
        metadata={
            **table_metadata(len(prompts), started=started),
            "valid": len(prompts) - refused,
            "refused": refused,
            "images_wanted": sum(prompt.samples for prompt in prompts),
            "tokens_are_estimated": TOKENS_ARE_ESTIMATED,
        },
    )


@StageCheck.of()
def every_row_is_valid(prompt_sets: StoredTable) -> dg.AssetCheckResult:
    """No row was refused. Refused rows are not bought; the others are."""
    columns = prompt_sets.columns("prompt_id", "problems", "valid")
    refused = columns.filter(pc.invert(columns.column("valid")))
    problems = [
        [row["prompt_id"], row["problems"]] for row in refused.slice(0, _PROBLEMS_SHOWN).to_pylist()
    ]
    return dg.AssetCheckResult(
        passed=not refused.num_rows,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{refused.num_rows} of {prompt_sets.num_rows} rows are refused",
        metadata={
            "refused": refused.num_rows,
            **found_table("problems", ["prompt_id", "problems"], problems),
        },
    )


@StageCheck.of()
def prompts_are_plain_text(prompt_sets: StoredTable) -> dg.AssetCheckResult:
    """No prompt has the syntax of another tool, which would be sent as words.

    `refuse_prompt_syntax` refuses such rows.
    """
    names = ("prompt_id", "effective_prompt", "effective_negative_prompt")
    parts = (
        (prompt_id, ", ".join(foreign_syntax(prompt or "") + foreign_syntax(negative or "")))
        for prompt_id, prompt, negative in prompt_sets.values(*names)
    )
    rows = [(prompt_id, syntax) for prompt_id, syntax in parts if syntax]
    return dg.AssetCheckResult(
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(rows)} of {prompt_sets.num_rows} rows have the syntax of other tools",
        metadata=found_table("syntax", ["prompt_id", "syntax"], rows[:_PROBLEMS_SHOWN]),
    )


PROMPT_SETS_CHECKS = (every_row_is_valid, prompts_are_plain_text)


def build_prompt_sets(dataset: ImageDataset) -> list[dg.AssetsDefinition]:
    """Return the asset and its checks."""

    @dg.asset(
        key=dataset.key("prompt_sets"),
        deps=[dataset.key("prompts"), dataset.key("embeddings")],
        partitions_def=dataset.partitions,
        io_manager_key=dataset.resource("io_manager"),
        kinds={"arrow", "parquet"},
        metadata=column_metadata(dataset, "prompt_sets"),
        description="The rows of one prompt set, validated: defaults and trigger words filled in, "
        "tokens counted. A refused row stays here, with its problems, and is never bought.",
    )
    @with_resources_of(dataset)
    def prompt_sets(
        context: dg.AssetExecutionContext, tables: TablesResource
    ) -> dg.Output[StoredTable]:
        with tables.open(dataset.prompts, dataset.embeddings) as source:
            made = make_prompt_set(dataset, prompt_set_of(context.partition_key), source)
        return made.output(context)

    return [prompt_sets, build_checks(dataset, "prompt_sets", PROMPT_SETS_CHECKS)]
