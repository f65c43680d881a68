"""A stage's rows as the next stage gets them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import pandas as pd
import pyarrow.parquet as pq

from imagepipeline_dagster.rows import arrow_table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RowT = TypeVar("RowT", bound="DataclassInstance")


def frame_of(rows: Iterable[RowT], row_type: type[RowT]) -> pd.DataFrame:
    """Return the rows as a data frame, written and read as the IO manager does."""
    file = io.BytesIO()
    pq.write_table(arrow_table(rows, row_type), file)
    return pd.read_parquet(file, dtype_backend="numpy_nullable")
