"""What one image dataset is called and how it is made: everything that its stages share."""

from __future__ import annotations

from dataclasses import dataclass, field

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from imagepipeline_dagster.ledger.budget import Allowance, Budget
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.planning.approval import Approval
from imagepipeline_dagster.planning.prompts import GenerationDefaults
from imagepipeline_dagster.tables.found import check_mapping
from imagepipeline_dagster.tables.overrides import OVERRIDES
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, TableMapping
from imagepipeline_dagster.watching.looking import Tiers

__all__ = ["ImageDataset", "UnresolvedJob"]

UnresolvedJob = UnresolvedAssetJobDefinition
"""What `define_asset_job` returns; Dagster exports no name for it."""


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """A dataset: two of them fit into one code location if their `key_prefix` differs.

    Args:
        key_prefix: put before every asset key, and before the names of the job, the sensors and
            the schedules; also the folder of its tables and releases.
        title: of the release's card.
        prompts: the user's prompts table, and its columns where their names differ.
        embeddings: the same for the embeddings table.
        defaults: what a null in the prompts table stands for.
        samples_per_call: 1 to 4. With more than 1, a sample cannot be made again alone.
        price_per_image: money for one image, for the plan's cost and a budget of money.
        currency: label of the price's money.
        budget: the most that may be spent in a period, reserved before each request.
        approval: which purchases wait until a person approves their plan.
        max_failure_ratio: a purchase stops once more of its samples than this have failed.
        moderation: what is kept, rejected and set aside; another policy buys nothing.
        overrides: the table of people's decisions, in the database of the prompts.
        pool: the concurrency pool of the paid stage.
        on_removed: what becomes of the partition of a set that left the tables: "remove" or "keep".
        max_removed_share: a tick that would remove more of the partitions than this refuses.
        max_runs_per_tick: runs that one tick of a sensor asks for at the most.
        sensor_seconds: least time between two ticks of a sensor.
        audit_seconds: time between two counts of each set's rows, which show deletions and rows
            that were committed late. Each tick looks at the newest `updated_at`.
        verify_seconds: time between two comparisons of every row, which show what changed without
            a new `updated_at`.
        small_table_rows: a table of at most so many rows is compared whole at each tick.
    """

    key_prefix: tuple[str, ...] = ()
    title: str = "Image dataset"
    prompts: TableMapping = TableMapping("prompts")
    embeddings: TableMapping = TableMapping("embeddings")
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    samples_per_call: int = 1
    price_per_image: float | None = None
    currency: str = ""
    budget: Budget | None = None
    approval: Approval = field(default_factory=Approval)
    max_failure_ratio: float = 0.5
    moderation: ModerationPolicy = field(default_factory=ModerationPolicy)
    overrides: str = OVERRIDES
    pool: str = "imagepipeline_api"
    on_removed: str = "remove"
    max_removed_share: float = 0.5
    max_runs_per_tick: int = 25
    sensor_seconds: int = 30
    audit_seconds: float = 300
    verify_seconds: float = 3600
    small_table_rows: int = 10_000

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: names the option and what it takes.
            ColumnMissing: a mapping names a column that is not ours; with those that are.
        """
        if not 1 <= self.samples_per_call <= 4:
            raise ValueError(f"samples_per_call: {self.samples_per_call} is outside 1 to 4")
        if self.on_removed not in ("remove", "keep"):
            raise ValueError(f"on_removed: {self.on_removed!r} is neither 'remove' nor 'keep'")
        if not 0 <= self.max_failure_ratio <= 1:
            raise ValueError(f"max_failure_ratio: {self.max_failure_ratio} is outside 0 to 1")
        for option in ("audit_seconds", "verify_seconds", "small_table_rows"):
            if getattr(self, option) < 0:
                raise ValueError(f"{option}: {getattr(self, option)} is below 0")
        if self.max_runs_per_tick < 1:
            raise ValueError(f"max_runs_per_tick: {self.max_runs_per_tick} is below 1")
        check_mapping(self.prompts, PromptRow)
        check_mapping(self.embeddings, EmbeddingRow)
        self.allowance("")  # a budget of money needs a price

    @property
    def name(self) -> str:
        """The dataset's name in the ledger: the key of its last asset."""
        return "/".join([*self.key_prefix, "image_dataset"])

    @property
    def partitions(self) -> dg.DynamicPartitionsDefinition:
        """One partition for each prompt set."""
        return dg.DynamicPartitionsDefinition(name=self.named("prompt_set"))

    def key(self, asset: str) -> dg.AssetKey:
        """Return the key of one of the seven assets."""
        return dg.AssetKey([*self.key_prefix, asset])

    def named(self, name: str) -> str:
        """Return the name of a job, sensor or schedule of this dataset."""
        return "_".join([*self.key_prefix, name])

    @property
    def tiers(self) -> Tiers:
        """How often its tables are looked at how closely."""
        return Tiers(
            audit_seconds=self.audit_seconds,
            verify_seconds=self.verify_seconds,
            small_table_rows=self.small_table_rows,
        )

    def allowance(self, origin: str) -> Allowance:
        """Return what this dataset may spend at one API."""
        return Allowance(
            scope=f"{self.name}@{origin}",
            price_per_image=self.price_per_image,
            budget=self.budget,
            currency=self.currency,
        )

    @property
    def releases(self) -> str:
        """The folder of its releases on the storage."""
        return "/".join([*self.key_prefix, "releases"])
