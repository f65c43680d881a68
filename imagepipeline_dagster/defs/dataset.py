"""What one image dataset is called and how it is made: everything that its stages share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

import dagster as dg
from pydantic import Field, model_validator

from imagepipeline_dagster.ledger.budget import SMALLEST_PRICE, Allowance, Budget
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.options import Options, bounded
from imagepipeline_dagster.planning.approval import Approval
from imagepipeline_dagster.planning.prompts import GenerationDefaults
from imagepipeline_dagster.purchase.canaries import Canaries
from imagepipeline_dagster.purchase.means import Means, PurchaseSettings
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.resources import ImagePipelineResource
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.mapped import check_mapping
from imagepipeline_dagster.tables.overrides import OVERRIDES
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, TableMapping, columns_of
from imagepipeline_dagster.watching.options import Watching

_PREFIX = re.compile(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*")


def _columns(row_type: type[PromptRow | EmbeddingRow]) -> dict[str, Any]:
    """Return the JSON schema of a table's mapping that names no column which is not ours."""
    return {"properties": {"columns": {"propertyNames": {"enum": list(columns_of(row_type))}}}}


class ImageDataset(Options):
    """A dataset: two of them fit into one code location if their `key_prefix` differs."""

    key_prefix: tuple[str, ...] = Field(
        (),
        description="Put before every asset key, and before the names of jobs, sensors and "
        "schedules; also the folder of its tables and releases.",
    )
    title: str = Field("Image dataset", description="Title of the release's card.")
    prompts: TableMapping = Field(
        TableMapping("prompts"),
        description="Your prompts table.",
        json_schema_extra=_columns(PromptRow),
    )
    embeddings: TableMapping = Field(
        TableMapping("embeddings"),
        description="Your embeddings table.",
        json_schema_extra=_columns(EmbeddingRow),
    )
    defaults: GenerationDefaults = Field(
        GenerationDefaults(), description="What a null in the prompts table stands for."
    )
    refuse_prompt_syntax: bool = Field(
        default=False,
        description="Refuse prompts with the syntax of other tools, as (word:1.3) or <lora:…>. The "
        "API takes it as words; a check warns of it.",
    )
    samples_per_call: int = bounded(
        1,
        "Pictures of one API call. With more than 1, a sample cannot be made again alone.",
        low=1,
        high=4,
    )
    shard_rows: int = bounded(
        1000,
        "A set of more prompts is bought and looked at in shards of so many at most; a process "
        "holds the rows of one. An executor of several processes gets each as a step.",
        low=1,
    )
    price_per_image: float | None = bounded(
        None,
        "Money for one image, for the plan's cost and a budget of money.",
        low=SMALLEST_PRICE,
    )
    currency: str = Field("", description="Label of the price's money, as EUR.")
    budget: Budget | None = Field(
        None, description="The most that may be spent in a period, reserved before each request."
    )
    approval: Approval = Field(
        Approval(), description="Which purchases wait until a person approves their plan."
    )
    max_failure_ratio: float = bounded(
        0.5, "A purchase stops once more of its samples than this have failed.", low=0, high=1
    )
    keep_source_pictures: bool = Field(
        default=False,
        description="Keep the pictures that the links init_image and mask_image of bought requests "
        "lead to, for releases to have beside the results; they are not moderated. Off, since a "
        "run then opens links from inside your network that whoever writes the table chose: "
        "without the key, and to public addresses alone, unless the API is at a private one.",
    )
    moderation: ModerationPolicy = Field(
        ModerationPolicy(),
        description="What is kept, rejected and set aside; another policy buys nothing.",
    )
    release: ReleasePolicy = Field(ReleasePolicy(), description="How it is released.")
    canaries: Canaries = Field(
        Canaries(), description="Pictures that are bought again, to see whether the model drifted."
    )
    overrides: str = Field(
        OVERRIDES,
        description="The table of people's decisions, in the database of the prompts. Datasets "
        "that name the same one share them: with other prompts, give each its own.",
    )
    pool: str | None = Field(
        None,
        description="The concurrency pool of the paid stage; unset: imagepipeline_api, behind the "
        "prefix.",
    )
    owners: tuple[str, ...] = Field(
        (), description="Owners of every asset: a mail address each, or team:name."
    )
    tags: Mapping[str, str] = Field(default_factory=dict, description="Tags of every asset.")
    group_name: str | None = Field(
        None, description="Group of the assets; unset: image_dataset, behind the prefix."
    )
    release_cron: str = Field("0 6 * * *", description="When a release is published, as cron, UTC.")
    freshness_hours: float | None = bounded(
        None, "Hours after which a release counts as stale in the UI; unset: never.", low=1
    )
    watching: Watching = Field(Watching(), description="How the sensors watch the tables.")

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        for part in self.key_prefix:
            # Two underscores stand between the parts in the names of Dagster.
            if not _PREFIX.fullmatch(part):
                raise ValueError(
                    f"key_prefix: {part!r} is not letters and digits, with single underscores "
                    "between them"
                )
        check_mapping(self.prompts, PromptRow)
        check_mapping(self.embeddings, EmbeddingRow)
        self.allowance("")  # a budget of money needs a price
        return self

    @property
    def name(self) -> str:
        """The dataset's name in the ledger: the key of its last asset."""
        return "/".join([*self.key_prefix, "image_dataset"])

    @property
    def partitions(self) -> dg.DynamicPartitionsDefinition:
        """One partition for each prompt set."""
        return dg.DynamicPartitionsDefinition(name=self.named("prompt_set"))

    def partitions_in(self, instance: dg.DagsterInstance) -> set[str]:
        """Return the keys of the partitions that there are."""
        return set(instance.get_dynamic_partitions(self.named("prompt_set")))

    def key(self, asset: str) -> dg.AssetKey:
        """Return the key of one of the seven assets."""
        return dg.AssetKey([*self.key_prefix, asset])

    def named(self, name: str) -> str:
        """Return the name of a job, sensor or schedule of this dataset."""
        return "_".join(["__".join(self.key_prefix), name]) if self.key_prefix else name

    def resource(self, name: str) -> str:
        """Return the Dagster key of one of its resources, which no other project has."""
        return self.named(f"image_dataset_{name}")

    @property
    def api_pool(self) -> str:
        """The concurrency pool of what buys."""
        return self.pool or self.named("imagepipeline_api")

    def allowance(self, origin: str) -> Allowance:
        """Return what this dataset may spend at one API."""
        return Allowance(
            scope=f"{self.name}@{origin}",
            price_per_image=self.price_per_image,
            budget=self.budget,
            currency=self.currency,
        )

    def means(
        self, api: ImagePipelineResource, ledger: Ledger, storage: Storage, *, run_id: str
    ) -> Means:
        """Return what a run of this dataset buys with."""
        return Means(
            ledger=ledger,
            storage=storage,
            open_client=api.open,
            origin=api.origin,
            emulated=api.emulated,
            allowance=self.allowance(api.origin),
            settings=PurchaseSettings(
                max_in_flight=api.max_in_flight,
                requests_per_second=api.requests_per_second,
                account_max_in_flight=api.account_max_in_flight,
                account_requests_per_second=api.account_requests_per_second,
                job_timeout_seconds=api.job_timeout_seconds,
                poll_min_seconds=api.poll_min_seconds,
                poll_max_seconds=api.poll_max_seconds,
                link_lifetime_hours=api.link_lifetime_hours,
                max_failure_ratio=self.max_failure_ratio,
                keep_source_pictures=self.keep_source_pictures,
            ),
            run_id=run_id,
        )

    def canaries_price(self, allowance: Allowance) -> str | None:
        """Return what the canaries cost and when; None where none is pinned."""
        return self.canaries.price_text(allowance, samples_per_call=self.samples_per_call)

    @property
    def releases(self) -> str:
        """The folder of its releases on the storage."""
        return "/".join([*self.key_prefix, "releases"])
