"""The columns of the two tables, a user's names for them, and a row as it was read."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import Field, field_validator

from imagepipeline_dagster.api.contract import TASKS, Task, canonical_json
from imagepipeline_dagster.options import Options
from imagepipeline_dagster.tables.spelling import is_blank
from imagepipeline_dagster.tables.values import READERS, Kind

PLACEMENTS: tuple[str, ...] = ("positive", "negative", "either")
"""The prompt that an embedding's trigger words belong in."""

MAX_SAMPLES = 10_000
"""The most images that one row may ask for; more is taken for a slip of the hand."""

_OTHER_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("txt2img", "texttoimage", "t2i"), Task.TEXT2IMAGE.value),
    **dict.fromkeys(("img2img", "imagetoimage", "i2i"), Task.IMAGE2IMAGE.value),
    "inpaint": Task.INPAINTING.value,
}
"""How other tools call a choice; without blanks and hyphens."""


class TableMapping(Options):
    """The name of a user's table, and of its columns where they are not ours."""

    table: str = Field(description="The table's name, perhaps with its schema: schema.table.")
    columns: Mapping[str, str] = Field(
        default_factory=dict, description="From our name of a column to yours."
    )
    asset_key: str | None = Field(
        None, description="The asset of your own that makes the table, as marts/briefs."
    )

    def __init__(
        self, table: str = "", columns: Mapping[str, str] = MappingProxyType({}), **unknown: object
    ) -> None:
        """Take the name, and the columns, without their keywords too."""
        super().__init__(**{"table": table, "columns": columns, **unknown})

    @field_validator("table")
    @classmethod
    def _is_named(cls, table: str) -> str:
        if not table.strip():
            raise ValueError("table: is empty")
        return table

    @property
    def database_schema(self) -> str | None:
        """The database schema, or None where the database's own default is meant."""
        return self.table.rpartition(".")[0] or None

    @property
    def name(self) -> str:
        """The table's name without its schema."""
        return self.table.rpartition(".")[2]

    def column(self, name: str) -> str:
        """Return the user's name for our column."""
        return self.columns.get(name, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One of our columns; `choices` are the words that it takes, none where it takes any text."""

    name: str
    kind: Kind
    description: str
    required: bool
    choices: tuple[str, ...]
    reader: Callable[[object], object]

    def read(self, raw: object) -> Any:  # noqa: ANN401 - of the row's field, which mypy can't see
        """Return the raw value as this column's type, or as it was where it cannot be read."""
        value = self.reader(raw)
        if self.required:
            return "" if value is None else value
        if isinstance(value, str) and is_blank(value):
            return None
        if self.choices and isinstance(value, str):
            word = re.sub(r"[\s_-]", "", value.lower())
            word = _OTHER_WORDS.get(word, word)
            value = word if word in self.choices else value
        return value


def _column(
    kind: Kind, description: str, *, choices: tuple[str, ...] = (), **options: object
) -> Any:  # noqa: ANN401 - dataclasses.field's own types
    metadata = {"kind": kind, "description": description, "choices": choices}
    return dataclasses.field(metadata=metadata, **options)  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """A row of the prompts table as it was read.

    Text stands as it was written; a null in a required column is the empty text, and a text of
    white space in any other a null. A number, flag or time which cannot be read as one is kept as
    text, 1.5 for a whole number as a float.
    """

    prompt_set: str = _column(Kind.TEXT, "Batch that a person would name")
    prompt_id: str = _column(Kind.TEXT, "Unique within its set")
    prompt: str = _column(Kind.TEXT, "What the picture shows")
    negative_prompt: str | None = _column(Kind.TEXT, "What it must not show", default=None)
    task: str | None = _column(
        Kind.TEXT, "What the picture is made from", choices=TASKS, default=None
    )
    model_id: str | None = _column(Kind.TEXT, "Model at the API", default=None)
    embeddings: str | None = _column(Kind.TEXT, "Embedding's model id at the API", default=None)
    samples: int | float | str | None = _column(Kind.WHOLE, "Images wanted", default=None)
    seed: int | float | str | None = _column(
        Kind.WHOLE, "Seed of the first call; null: derived", default=None
    )
    num_inference_steps: int | float | str | None = _column(
        Kind.WHOLE, "Denoising steps", default=None
    )
    guidance_scale: float | str | None = _column(Kind.NUMBER, "Weight of the prompt", default=None)
    strength: float | str | None = _column(Kind.NUMBER, "Denoising strength, 0 to 1", default=None)
    width: int | float | str | None = _column(Kind.WHOLE, "Width in pixels", default=None)
    height: int | float | str | None = _column(Kind.WHOLE, "Height in pixels", default=None)
    refiner: bool | str | None = _column(Kind.FLAG, "Whether the refiner runs", default=None)
    scheduler: str | None = _column(Kind.TEXT, "Scheduler at the API", default=None)
    safety_checker: bool | str | None = _column(
        Kind.FLAG, "Whether the API checks images", default=None
    )
    init_image: str | None = _column(Kind.TEXT, "Public link of the first picture", default=None)
    mask_image: str | None = _column(Kind.TEXT, "Public link of the mask", default=None)
    original_seed: str | None = _column(
        Kind.TEXT, "Seed of another tool that `seed` was made from", default=None
    )
    updated_at: dt.datetime | str | None = _column(  # noqa: RUF009 - is dataclasses.field
        Kind.TIME, "When the row last changed, UTC", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRow:
    """A row of the embeddings table as it was read; see `PromptRow` for values of other types."""

    embedding_id: str = _column(Kind.TEXT, "Its model id at the API")
    name: str | None = _column(Kind.TEXT, "What people call it", default=None)
    base_model: str | None = _column(Kind.TEXT, "Model that it was trained for", default=None)
    trigger_words: tuple[str, ...] = _column(
        Kind.WORDS, "Words that must stand in the prompt, comma-separated", default=()
    )
    placement: str | None = _column(
        Kind.TEXT, "Prompt that the trigger words go in", choices=PLACEMENTS, default=None
    )
    version: str | None = _column(Kind.TEXT, "Version of its weights", default=None)
    updated_at: dt.datetime | str | None = _column(  # noqa: RUF009 - is dataclasses.field
        Kind.TIME, "When the row last changed, UTC", default=None
    )


RowT = TypeVar("RowT", PromptRow, EmbeddingRow)
RowType = type[PromptRow | EmbeddingRow]
"""One of the two tables, by the class of its rows."""


def _columns(row_type: RowType) -> Mapping[str, Column]:
    columns = {
        field.name: Column(
            name=field.name,
            required=field.default is dataclasses.MISSING,
            reader=READERS[field.metadata["kind"]],
            **field.metadata,
        )
        for field in dataclasses.fields(row_type)
    }
    return MappingProxyType(columns)


_COLUMNS = {row_type: _columns(row_type) for row_type in (PromptRow, EmbeddingRow)}


def columns_of(row_type: RowType) -> Mapping[str, Column]:
    """Return the table's columns by name, in their order."""
    return _COLUMNS[row_type]


def key_columns(row_type: RowType) -> tuple[str, ...]:
    """Return the columns which tell a table's rows apart."""
    return ("prompt_set", "prompt_id") if row_type is PromptRow else ("embedding_id",)


def row_reader(row_type: type[RowT], names: Sequence[str]) -> Callable[[Sequence[object]], RowT]:
    """Return a function from raw values, in the order of these columns, to a row."""
    columns = columns_of(row_type)
    readers = [(name, columns[name].required, columns[name].read) for name in names]

    def read(values: Sequence[object]) -> RowT:
        # Most optional columns are null in most rows: those cost no call.
        values_read = {
            name: read_value(raw)
            for (name, required, read_value), raw in zip(readers, values, strict=True)
            if required or raw is not None
        }
        return row_type(**values_read)

    return read


def source_json(row: PromptRow | EmbeddingRow) -> str:
    """Return the whole row as canonical JSON, times as ISO text: what lineage keeps."""
    return canonical_json({name: _json_value(getattr(row, name)) for name in columns_of(type(row))})


def content_json(row: PromptRow | EmbeddingRow) -> str:
    """Return what the row says, as canonical JSON: without nulls and what changes no picture.

    Nulls are left out so that a column which this package adds one day changes no row's content.
    """
    values = {name: getattr(row, name) for name in columns_of(type(row)) if name not in _NO_CONTENT}
    return canonical_json(
        {name: _json_value(value) for name, value in values.items() if value not in (None, ())}
    )


_NO_CONTENT = frozenset({"original_seed", "updated_at"})


def _json_value(value: object) -> object:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    # JSON has no infinities; the row that holds one is refused, not the reading of its set.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
