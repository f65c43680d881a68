"""Stage tables between assets: Parquet on the storage, a file a partition."""

# No postponed annotations here: Dagster reads a resource's dependencies from the types themselves.
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, get_args, get_origin

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from imagepipeline_dagster.partition_names import path_part
from imagepipeline_dagster.resources import StorageResource
from imagepipeline_dagster.rows import StoredTable, parquet_table
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

if TYPE_CHECKING:
    # Our own assets give tables: only who has data frames has use for it.
    import pandas as pd

    _Loaded = pd.DataFrame | pa.Table | StoredTable


class ParquetIOManager(dg.ConfigurableIOManager):
    """Stores data frames and tables as Parquet, and hands them on as data frames.

    A table is at `<asset key>/<partition>.parquet`, or `<asset key>.parquet` without partitions,
    with the partition quoted into one safe path part. An Arrow table keeps its schema and the
    descriptions of its columns; a data frame's index is not stored. A data frame that comes back
    has nullable column types, and UTC where a timestamp was stored so. An input that is annotated
    as a `pyarrow.Table` comes as one, in a fraction of the memory, and as a `StoredTable` in less;
    so do those of several partitions, as in `dict[str, pyarrow.Table]`.
    """

    storage: dg.ResourceDependency[StorageResource]

    def handle_output(
        self, context: dg.OutputContext, obj: "pd.DataFrame | pa.Table | StoredTable | None"
    ) -> None:
        """Store an asset's table in place of the former one; None stores nothing.

        Raises:
            TypeError: when the asset returned neither a table nor None.
        """
        if obj is None:
            return
        if not isinstance(obj, pa.Table | StoredTable):
            obj = _table_of(obj, context.asset_key)
        partition = context.partition_key if context.has_partition_key else None
        uri = self.storage.open().write(
            table_path(context.asset_key, partition),
            obj.encoded if isinstance(obj, StoredTable) else _encoded(obj),
        )
        context.add_output_metadata({"dagster/uri": uri})

    def load_input(self, context: dg.InputContext) -> "_Loaded | dict[str, _Loaded]":
        """Return the table that an asset stored.

        An input that is annotated as a dict gets a table for each partition that has been
        materialized, by its key, also where there is one; any other annotation gets one table.
        Without an annotation it is one in a run of one partition, and a dict in a run without.

        Raises:
            ObjectMissing: when the table was not materialized yet.
            TypeError: when one table is wanted of several partitions, or of none.
        """
        storage, key = self.storage.open(), context.asset_key
        wanted = _without_none(context.dagster_type.typing_type)
        if not context.has_asset_partitions:
            return _loaded(_stored(storage, key, None), wanted)
        partitions = context.asset_partition_keys
        one = context.has_partition_key and len(partitions) == 1
        if get_origin(wanted) is dict or wanted is dict or (wanted is Any and not one):
            _, each = get_args(wanted) or (str, Any)
            return _load_materialized(storage, key, partitions, each)
        if len(partitions) != 1:
            name = getattr(wanted, "__name__", str(wanted))
            raise TypeError(
                f"{key.to_user_string()} has {len(partitions)} partitions for the input "
                f"{context.name}, which is annotated as {name}: annotate it as dict[str, {name}], "
                "or let a partition mapping choose one"
            )
        return _loaded(_stored(storage, key, partitions[0]), wanted)


def table_path(asset_key: dg.AssetKey, partition: str | None) -> str:
    """Return where the table of an asset is on the storage."""
    folder = "/".join(asset_key.path)
    return f"{folder}.parquet" if partition is None else f"{folder}/{path_part(partition)}.parquet"


def _table_of(obj: object, asset_key: dg.AssetKey) -> pa.Table:
    import pandas as pd

    if not isinstance(obj, pd.DataFrame):
        raise TypeError(
            f"{asset_key.to_user_string()} returned a {type(obj).__name__}: "
            "return a pandas.DataFrame or a pyarrow.Table"
        )
    return pa.Table.from_pandas(obj, preserve_index=False)


def _encoded(table: pa.Table) -> bytes:
    encoded = io.BytesIO()
    pq.write_table(table, encoded, compression="zstd")
    return encoded.getvalue()


def _without_none(annotated: object) -> object:
    """Return what an annotation names beside None."""
    others = [each for each in get_args(annotated) if each is not type(None)]
    return others[0] if type(None) in get_args(annotated) and len(others) == 1 else annotated


def _loaded(stored: bytes, wanted: object) -> "_Loaded":
    if wanted is StoredTable:
        return StoredTable(stored)
    if wanted is pa.Table:
        return parquet_table(stored)
    import pandas as pd

    return pd.read_parquet(pa.BufferReader(stored), dtype_backend="numpy_nullable")


def _stored(storage: Storage, asset_key: dg.AssetKey, partition: str | None) -> bytes:
    path = table_path(asset_key, partition)
    try:
        return storage.read(path)
    except ObjectMissing:
        which = "" if partition is None else f", partition {partition!r},"
        raise ObjectMissing(
            f"{asset_key.to_user_string()}{which} has no table at {storage.uri_of(path)}: "
            "materialize it first"
        ) from None


def _load_materialized(
    storage: Storage, asset_key: dg.AssetKey, partitions: Sequence[str], wanted: object
) -> "dict[str, _Loaded]":
    def load(partition: str) -> "_Loaded | None":
        try:
            return _loaded(_stored(storage, asset_key, partition), wanted)
        except ObjectMissing:
            return None

    # A bucket answers each read after tens of milliseconds: ask for many at once.
    with ThreadPoolExecutor(8) as threads:
        tables = threads.map(load, partitions)
        return {
            partition: table
            for partition, table in zip(partitions, tables, strict=True)
            if table is not None
        }
