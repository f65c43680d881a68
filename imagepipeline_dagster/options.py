"""What a dataset's options are made of: frozen models with one place for each field's rule."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.config import JsonDict


def bounded(
    default: float | None, description: str, *, low: float, high: float | None = None
) -> Any:  # noqa: ANN401 - pydantic's Field is of any type
    """Return the field of a number that has a least and perhaps a greatest value.

    The bounds stand in the field's JSON schema, where `dg check yaml` and editors read them.
    Dagster takes no annotated bounds in a model inside of another.
    """
    bounds: JsonDict = {"minimum": low}
    if high is not None:
        bounds["maximum"] = high
    return Field(default, description=description, json_schema_extra=bounds)


class Options(BaseModel):
    """Options that are checked when they are made, and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _within_bounds(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - any field's
        bounds = cls.model_fields[str(info.field_name)].json_schema_extra
        if not isinstance(bounds, dict) or not isinstance(value, int | float):
            return value
        low, high = bounds.get("minimum"), bounds.get("maximum")
        too_low = isinstance(low, int | float) and value < low
        too_high = isinstance(high, int | float) and value > high
        if too_low or too_high:
            permitted = f"below {low}" if high is None else f"outside {low} to {high}"
            raise ValueError(f"{info.field_name}: {value} is {permitted}")
        return value

    def changed(self, **changes: object) -> Self:
        """Return the same with other values for some options, checked too."""
        return type(self)(**{**dict(self), **changes})
