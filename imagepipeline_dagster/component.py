"""`ImageDatasetComponent`: the same pipeline from YAML, for projects laid out by Dagster's `dg`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import dagster as dg
from pydantic import Field

from imagepipeline_dagster.defs import ImageDataset, build_definitions
from imagepipeline_dagster.environment import resources_for
from imagepipeline_dagster.ledger.budget import Budget
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.planning.approval import Approval
from imagepipeline_dagster.planning.prompts import GenerationDefaults
from imagepipeline_dagster.resources import DEFAULT_BASE_URL
from imagepipeline_dagster.tables.overrides import OVERRIDES
from imagepipeline_dagster.tables.schema import TableMapping

__all__ = ["ImageDatasetComponent", "TableModel"]


_Resolve = Callable[[dg.ResolutionContext, str | None], "str | Variable | None"]
_REFERENCE = re.compile(r"\s*\{\{\s*env(?:\.(\w+)|\(\s*['\"](\w+)['\"]\s*\))\s*\}\}\s*")


@dataclass(frozen=True)
class Variable:
    """A variable of the environment, whose value is read when a run needs it."""

    name: str


def _resolve_secret(context: dg.ResolutionContext, raw: str | None) -> str | Variable | None:
    # As a value it would stand in the snapshots that Dagster keeps of each run.
    found = _REFERENCE.fullmatch(raw) if raw else None
    value = context.resolve_value(raw, as_type=str) if raw else None
    return Variable(found[1] or found[2]) if found and value else value or None


def _resolve_key(context: dg.ResolutionContext, raw: str | None) -> str | Variable | None:
    found = _resolve_secret(context, raw)
    if isinstance(found, str):
        raise ValueError(
            "api_key: would be stored with every run; put the key into the environment and write "
            'api_key: "{{ env.IMAGEPIPELINE_API_KEY }}"'
        )
    return found


def _unrendered(resolve: _Resolve) -> dg.Resolver:
    return dg.Resolver(resolve, model_field_type=str, inject_before_resolve=False)


_Key = Annotated[str | Variable | None, _unrendered(_resolve_key)]
_Secret = Annotated[str | Variable | None, _unrendered(_resolve_secret)]


class TableModel(dg.Model, dg.Resolvable):
    """A table of the user's, and its columns where their names differ from ours."""

    table: str
    columns: Mapping[str, str] = Field(default_factory=dict)

    def mapping(self) -> TableMapping:
        """Return the same for the tables package."""
        return TableMapping(self.table, dict(self.columns))


# The options of an `ImageDataset` that YAML spells as Python does.
_AS_THEY_ARE = (
    "title",
    "samples_per_call",
    "price_per_image",
    "currency",
    "max_failure_ratio",
    "overrides",
    "pool",
    "on_removed",
    "max_removed_share",
    "max_runs_per_tick",
    "sensor_seconds",
    "audit_seconds",
    "verify_seconds",
    "small_table_rows",
)


class ImageDatasetComponent(dg.Component, dg.Model, dg.Resolvable):
    """Prompt tables in, a moderated image dataset out.

    Secrets belong in the environment: write `api_key: "{{ env.IMAGEPIPELINE_API_KEY }}"`.
    """

    key_prefix: list[str] = Field(default_factory=list, description="Put before every asset key.")
    title: str = Field(default="Image dataset", description="Title of the release's card.")
    prompts: TableModel = Field(default=TableModel(table="prompts"))
    embeddings: TableModel = Field(default=TableModel(table="embeddings"))
    defaults: Mapping[str, Any] = Field(
        default_factory=dict, description="What a null in the prompts table stands for."
    )
    moderation: Mapping[str, Any] = Field(
        default_factory=dict, description="The moderation policy, as ModerationPolicy takes it."
    )
    samples_per_call: int = 1
    price_per_image: float | None = Field(default=None, description="Money for one image.")
    currency: str = Field(default="", description="Label of the price's money, as EUR.")
    approval: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Which purchases wait for a person, as {required: above, money: 50}.",
    )
    budget: Mapping[str, Any] | None = Field(
        default=None, description="The most that may be spent, as {money: 50, period: day}."
    )
    max_failure_ratio: float = Field(
        default=0.5, description="A purchase stops once more of its samples than this have failed."
    )
    overrides: str = Field(default=OVERRIDES, description="The table of people's decisions.")
    pool: str = Field(
        default="imagepipeline_api", description="Concurrency pool of the paid stage."
    )
    on_removed: str = Field(
        default="remove", description="What becomes of a set that left the tables: remove or keep."
    )
    max_removed_share: float = Field(
        default=0.5, description="A tick that would remove more of the prompt sets refuses."
    )
    max_runs_per_tick: int = Field(default=25, description="Runs that one tick asks for at most.")
    sensor_seconds: int = Field(default=30, description="Least time between two ticks.")
    audit_seconds: float = Field(
        default=300, description="Seconds between two counts of each set's rows."
    )
    verify_seconds: float = Field(
        default=3600, description="Seconds between two comparisons of every row."
    )
    small_table_rows: int = Field(
        default=10_000, description="A table of so many rows is compared whole at each tick."
    )
    api_key: _Key = Field(default=None, description="Unset: the emulator serves the API.")
    base_url: str = DEFAULT_BASE_URL
    max_in_flight: int = 16
    storage: str = Field(default="data", description="A folder, or s3://bucket/prefix.")
    tables_url: _Secret = Field(default=None, description="SQLAlchemy URL of the tables.")
    ledger_url: _Secret = Field(default=None, description="SQLAlchemy URL of the ledger.")
    start: Annotated[
        bool | None,
        Field(description="Whether sensors and schedules run at first; unset: on the emulator."),
    ] = None

    def dataset(self) -> ImageDataset:
        """Return the dataset that the attributes describe.

        Raises:
            ValueError: names an option that cannot be meant.
        """
        return ImageDataset(
            key_prefix=tuple(self.key_prefix),
            prompts=self.prompts.mapping(),
            embeddings=self.embeddings.mapping(),
            defaults=GenerationDefaults(**self.defaults),
            moderation=ModerationPolicy(**self.moderation),
            approval=Approval(**self.approval),
            budget=Budget(**self.budget) if self.budget else None,
            **{name: getattr(self, name) for name in _AS_THEY_ARE},
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the dataset's definitions."""
        del context  # everything is in the attributes
        resources = resources_for(
            api_key=_referred(self.api_key),
            base_url=self.base_url,
            max_in_flight=self.max_in_flight,
            storage_uri=self.storage,
            tables_url=_referred(self.tables_url),
            ledger_url=_referred(self.ledger_url),
        )
        start = resources["imagepipeline"].emulated if self.start is None else self.start
        return build_definitions(self.dataset(), resources, start=start)


def _referred(value: str | Variable | None) -> str | None:
    return dg.EnvVar(value.name) if isinstance(value, Variable) else value
