"""A stage's rows as the next stage gets them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from imagepipeline_dagster.rows import StoredTable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RowT = TypeVar("RowT", bound="DataclassInstance")


def frame_of(rows: Iterable[RowT], row_type: type[RowT]) -> pd.DataFrame:
    """Return the rows as a data frame, written and read as the IO manager does."""
    encoded = io.BytesIO(StoredTable.of(rows, row_type).encoded)
    return pd.read_parquet(encoded, dtype_backend="numpy_nullable")
