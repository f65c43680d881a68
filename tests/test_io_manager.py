# No postponed annotations here: Dagster reads the assets' types themselves.
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster_aws.s3 import S3Resource

from imagepipeline_dagster.io_manager import ParquetIOManager
from imagepipeline_dagster.resources import StorageResource
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage
from imagepipeline_dagster.storage.opening import open_storage

pytest_plugins = ["tests.s3"]

# Dagster 1.13 asks its own context for a deprecated property when a resource holds another one.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:InitResourceContext\.dagster_run is deprecated:DeprecationWarning"
)

HOSTILE_KEYS = [
    "../../etc",
    "a/b",
    "a%2Fb",
    "..",
    ".",
    ".tmp-x",
    "a\\b",
    "~",
    "C:",
    "\N{SNOWMAN}" * 300,
    "\N{SNOWMAN}" * 301,
]

prompt_set = dg.DynamicPartitionsDefinition(name="prompt_set")


@pytest.fixture(params=["folder", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URI of an empty storage of each kind."""
    if request.param == "folder":
        return str(tmp_path / "root/data")
    return f"s3://{request.getfixturevalue('s3_bucket')}/data"


in_a_folder = pytest.mark.parametrize("uri", ["folder"], indirect=True)


@pytest.fixture
def storage(uri: str) -> Storage:
    """Return the storage itself."""
    return open_storage(uri)


@pytest.fixture
def resources(uri: str) -> dict[str, Any]:
    """Return the IO manager on the storage, as a code location has it."""
    return {"io_manager": ParquetIOManager(storage=StorageResource(uri=uri, s3=S3Resource()))}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Return an instance that knows no partition."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@dg.asset(partitions_def=prompt_set)
def rows(context: dg.AssetExecutionContext) -> pd.DataFrame:
    """Return a row that names its partition, and a null of each kind."""
    return pd.DataFrame(
        {
            "prompt_set": pd.array([context.partition_key, None], dtype="string"),
            "seed": pd.array([2**53 + 1, None], dtype="Int64"),
            "kept": pd.array([True, None], dtype="boolean"),
            "at": pd.array([dt.datetime(2025, 6, 1, tzinfo=dt.UTC), None], "datetime64[us, UTC]"),
        },
        index=[7, 9],
    )


@dg.asset(partitions_def=prompt_set)
def same_partition(rows: pd.DataFrame) -> pd.DataFrame:
    """Hand on the table of the same partition."""
    return rows


@dg.asset
def every_partition(rows: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Count the rows of each partition."""
    return pd.DataFrame({"key": list(rows), "count": [len(frame) for frame in rows.values()]})


@dg.asset
def after_every_partition(every_partition: pd.DataFrame) -> pd.DataFrame:
    """Hand on a table without partitions."""
    return every_partition


STAGES = [rows, same_partition, every_partition, after_every_partition]


def _materialize(
    instance: dg.DagsterInstance,
    resources: dict[str, Any],
    *assets: dg.AssetsDefinition,
    partition: str | None = None,
) -> dg.ExecuteInProcessResult:
    if partition is not None:
        instance.add_dynamic_partitions("prompt_set", [partition])
    return dg.materialize(
        STAGES,
        selection=list(assets),
        instance=instance,
        resources=resources,
        partition_key=partition,
    )


def test_a_partition_reaches_the_next_asset(
    instance: dg.DagsterInstance, resources: dict[str, Any], storage: Storage
) -> None:
    """A table arrives with its types, nulls and UTC times, without its index, in one file."""
    _materialize(instance, resources, rows, partition="spring")
    result = _materialize(instance, resources, same_partition, partition="spring")

    frame = result.output_for_node("same_partition")
    assert frame.dtypes.astype(str).to_dict() == {
        "prompt_set": "string",
        "seed": "Int64",
        "kept": "boolean",
        "at": "datetime64[us, UTC]",
    }
    assert frame["prompt_set"].tolist() == ["spring", pd.NA]
    assert frame["seed"].tolist() == [2**53 + 1, pd.NA]
    assert frame["at"][0] == pd.Timestamp("2025-06-01", tz="UTC")
    assert frame.index.tolist() == [0, 1]
    assert list(storage.list("")) == ["rows/spring.parquet", "same_partition/spring.parquet"]


def test_an_asset_without_partitions_gets_all_that_exist(
    instance: dg.DagsterInstance, resources: dict[str, Any], storage: Storage
) -> None:
    """It gets a table a partition by its key; a partition not materialized yet is left out."""
    for key in ("spring", "a/b"):
        _materialize(instance, resources, rows, partition=key)
    instance.add_dynamic_partitions("prompt_set", ["not yet"])

    result = _materialize(instance, resources, every_partition, after_every_partition)

    frame = result.output_for_node("after_every_partition")
    assert dict(zip(frame["key"], frame["count"], strict=True)) == {"spring": 2, "a/b": 2}
    assert storage.exists("every_partition.parquet")


@in_a_folder
def test_a_single_partition_is_still_a_dict(
    instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    """With one partition, or none, an asset without partitions gets a dict all the same."""
    assert (
        _materialize(instance, resources, every_partition).output_for_node("every_partition").empty
    )
    _materialize(instance, resources, rows, partition="only")

    result = _materialize(instance, resources, every_partition)
    assert result.output_for_node("every_partition")["key"].tolist() == ["only"]


@dg.asset(
    partitions_def=dg.StaticPartitionsDefinition(["monday"]),
    ins={"rows": dg.AssetIn(partition_mapping=dg.AllPartitionMapping())},
)
def of_a_day(rows: dict[str, pa.Table] | None) -> None:
    """Look at each set on a day."""
    assert rows is not None
    assert [table.num_rows for table in rows.values()] == [2] * len(rows)


@dg.asset(
    ins={"rows": dg.AssetIn(partition_mapping=dg.SpecificPartitionsPartitionMapping(["spring"]))}
)
def of_spring(rows: pd.DataFrame) -> None:
    """Look at one set alone."""
    assert rows["prompt_set"][0] == "spring"


@dg.asset
def without_partitions(every_partition: pa.Table) -> None:
    """Look at a table that is in no partition."""
    assert every_partition.column_names == ["key", "count"]


@dg.asset
def of_all_in_one(rows: pd.DataFrame) -> None:
    """Want one table of all sets."""


@in_a_folder
def test_an_input_comes_as_it_is_annotated(
    instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    """A dict for all partitions, also of one; one table where a mapping chooses one; its kind."""
    mine = [of_a_day, of_spring, without_partitions]
    for partition in ("spring", "autumn"):
        _materialize(instance, resources, rows, partition=partition)
        _materialize(instance, resources, every_partition)
        for asset in mine:
            day = "monday" if asset is of_a_day else None
            assert dg.materialize(
                [*STAGES, asset],
                selection=[asset],
                instance=instance,
                resources=resources,
                partition_key=day,
            ).success


@in_a_folder
def test_one_table_of_several_partitions_says_what_to_write(
    instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    """The error names the asset, the input and the annotation that takes all of them."""
    for partition in ("spring", "autumn"):
        _materialize(instance, resources, rows, partition=partition)

    with pytest.raises(
        TypeError,
        match=r"rows has 2 partitions for the input rows, which is annotated as DataFrame: "
        r"annotate it as dict\[str, DataFrame\]",
    ):
        dg.materialize(
            [*STAGES, of_all_in_one],
            selection=[of_all_in_one],
            instance=instance,
            resources=resources,
        )


@in_a_folder
def test_a_second_materialization_replaces_the_first(
    instance: dg.DagsterInstance, resources: dict[str, Any], storage: Storage
) -> None:
    """Materializing again leaves one file."""
    for _ in range(2):
        _materialize(instance, resources, rows, partition="spring")

    assert list(storage.list("")) == ["rows/spring.parquet"]


def test_the_materialization_says_where_the_table_is(
    instance: dg.DagsterInstance, resources: dict[str, Any], storage: Storage
) -> None:
    """The event has the URI of the file under Dagster's own key."""
    result = _materialize(instance, resources, rows, partition="spring")

    (event,) = result.asset_materializations_for_node("rows")
    assert event.metadata["dagster/uri"].value == storage.uri_of("rows/spring.parquet")


@pytest.mark.parametrize("partition", ["spring", None])
@in_a_folder
def test_a_missing_table_says_what_to_do(
    instance: dg.DagsterInstance,
    resources: dict[str, Any],
    storage: Storage,
    partition: str | None,
) -> None:
    """The error names asset, partition and URI, and says to materialize it first."""
    downstream = after_every_partition if partition is None else same_partition
    with pytest.raises(ObjectMissing) as raised:
        _materialize(instance, resources, downstream, partition=partition)

    upstream, uri = (
        ("every_partition", storage.uri_of("every_partition.parquet"))
        if partition is None
        else ("rows, partition 'spring',", storage.uri_of("rows/spring.parquet"))
    )
    assert str(raised.value) == f"{upstream} has no table at {uri}: materialize it first"


def test_hostile_partition_keys_stay_inside(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Whatever the keys, each table is one file in the asset's folder, and is found again."""
    resource = StorageResource(uri=str(tmp_path / "root/data"), s3=S3Resource())
    resources = {"io_manager": ParquetIOManager(storage=resource)}
    for key in HOSTILE_KEYS:
        _materialize(instance, resources, rows, partition=key)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    result = _materialize(instance, resources, every_partition)

    assert len(files) == len(HOSTILE_KEYS)
    assert {file.parent for file in files} == {tmp_path / "root/data/rows"}
    assert sorted(result.output_for_node("every_partition")["key"]) == sorted(HOSTILE_KEYS)


@in_a_folder
def test_a_person_can_load_a_table(instance: dg.DagsterInstance, resources: dict[str, Any]) -> None:
    """A notebook gets a partition's table from the definitions, by asset and partition."""
    _materialize(instance, resources, rows, partition="spring")
    definitions = dg.Definitions(assets=STAGES, resources=resources)

    with definitions.get_asset_value_loader(instance) as loader:
        frame = loader.load_asset_value("rows", partition_key="spring")
    assert isinstance(frame, pd.DataFrame)
    assert frame["prompt_set"][0] == "spring"


@in_a_folder
def test_an_arrow_table_keeps_its_descriptions(
    instance: dg.DagsterInstance, resources: dict[str, Any], storage: Storage
) -> None:
    """A stage that returns an Arrow table stores its schema as it is."""
    schema = pa.schema([pa.field("a", pa.int64(), metadata={"description": "A number"})])

    @dg.asset
    def described() -> pa.Table:
        return pa.table({"a": [1, None]}, schema=schema)

    @dg.asset
    def after(described: pd.DataFrame) -> None:
        assert described["a"].tolist() == [1, pd.NA]

    dg.materialize([described, after], instance=instance, resources=resources)

    stored = pq.read_schema(pa.BufferReader(storage.read("described.parquet")))
    assert stored.field("a").metadata == {b"description": b"A number"}


@in_a_folder
def test_an_asset_with_a_key_prefix_has_a_folder_of_its_own(
    instance: dg.DagsterInstance, resources: dict[str, Any], storage: Storage
) -> None:
    """The parts of the asset's key are the folders."""

    @dg.asset(key_prefix=["shop", "images"])
    def table() -> pd.DataFrame:
        return pd.DataFrame({"a": []})

    dg.materialize([table], instance=instance, resources=resources)

    assert list(storage.list("")) == ["shop/images/table.parquet"]


@in_a_folder
def test_nothing_stores_nothing(
    instance: dg.DagsterInstance, resources: dict[str, Any], storage: Storage
) -> None:
    """An asset that returns None leaves no file and is materialized all the same."""

    @dg.asset
    def without_type():  # type: ignore[no-untyped-def]  # noqa: ANN202 - the case tested
        return None

    @dg.asset
    def with_type() -> None:
        pass

    result = dg.materialize([without_type, with_type], instance=instance, resources=resources)

    assert result.success
    assert list(storage.list("")) == []


@in_a_folder
def test_what_is_no_table_is_refused(
    instance: dg.DagsterInstance, resources: dict[str, Any], storage: Storage
) -> None:
    """An asset that returns anything else fails with an error that says what to return."""

    @dg.asset
    def words() -> list[str]:
        return ["a"]

    with pytest.raises(TypeError, match=r"words returned a list: return a pandas\.DataFrame"):
        dg.materialize([words], instance=instance, resources=resources)
    assert list(storage.list("")) == []
