from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.testing import create_defs_folder_sandbox

from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.component import ImageDatasetComponent
from imagepipeline_dagster.environment import resources_for
from imagepipeline_dagster.resources import ImagePipelineResource
from tests.pipeline import figures, open_pipeline
from tests.processes import files_with

# Dagster 1.13 reads YAML by a function that pydantic has deprecated, and by its own beta classes.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`parse_obj_as` is deprecated"),
    pytest.mark.filterwarnings(r"ignore:.* is currently in beta"),
]

TYPE = "imagepipeline_dagster.component.ImageDatasetComponent"
KEY = "sk-component-93be11f0aa"


@contextmanager
def _built(**attributes: Any) -> Iterator[dg.Definitions]:  # noqa: ANN401 - YAML's own values
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            component_cls=ImageDatasetComponent,
            defs_yaml_contents={"type": TYPE, "attributes": attributes},
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (component, definitions):
            assert isinstance(component, ImageDatasetComponent)
            yield definitions


def _refusal(**attributes: Any) -> str:  # noqa: ANN401 - YAML's own values
    """Return why a component with these attributes does not load."""
    with pytest.raises(ComponentTreeException) as raised, _built(**attributes):
        pass
    return str(raised.value.__cause__)


def _shape(definitions: dg.Definitions) -> dict[str, object]:
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    return {
        "assets": {key: graph.get(key).parent_keys for key in graph.get_all_asset_keys()},
        "checks": graph.asset_check_keys,
        "jobs": set(repository.job_names),
        "sensors": {found.name: found.default_status for found in repository.sensor_defs},
        "schedules": {found.name: found.default_status for found in repository.schedule_defs},
        "resources": set(definitions.resources or {}),
    }


def test_yaml_builds_what_python_builds(tmp_path: Path) -> None:
    """A component without attributes is the same pipeline as definitions.py makes."""
    resources = resources_for(storage_uri=str(tmp_path))
    with _built(storage=str(tmp_path)) as definitions:
        assert _shape(definitions) == _shape(
            build_definitions(ImageDataset(), resources, start=True)
        )


def test_yaml_knows_every_option() -> None:
    """Each option of a dataset can be set from YAML, and has the same default there."""
    component = ImageDatasetComponent()
    assert {name: getattr(component, name) for name in ImageDataset.model_fields} == dict(
        ImageDataset()
    )


def test_yaml_knows_every_option_of_the_api() -> None:
    """Each option of the API's resource can be set from YAML, and has the same default there."""
    component, api = ImageDatasetComponent(), ImagePipelineResource()
    for name in ImagePipelineResource.model_fields:
        assert getattr(component, name) == getattr(api, name), name


def test_what_yaml_says_of_the_api_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key goes over plain http where YAML allows it; a wrong value is refused as in Python."""
    monkeypatch.setenv("OURS", KEY)
    address = {
        "api_key": "{{ env.OURS }}",
        "base_url": "http://gpu.intern",
        "storage": str(tmp_path),
    }
    with _built(**address, allow_insecure=True, refusing_statuses=[429, 503]) as definitions:
        assert definitions.sensors
    assert "would carry the API key in the clear" in _refusal(**address)
    assert "max_attempts" in _refusal(storage=str(tmp_path), max_attempts=0)


def test_a_number_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number may be a reference to a variable, also where the API's resource limits it."""
    monkeypatch.setenv("OURS", "7")
    component = ImageDatasetComponent.resolve_from_yaml('max_in_flight: "{{ env.OURS }}"')
    assert component.max_in_flight == 7


@pytest.mark.slow
def test_attributes_reach_the_dataset(tmp_path: Path) -> None:
    """Prefix, mapped tables and defaults from YAML make a dataset that materializes."""
    dataset = ImageDataset(key_prefix=("art",))
    with (
        open_pipeline(tmp_path, dataset=dataset) as pipeline,
        _built(
            key_prefix=["art"],
            title="Boats",
            prompts={"table": "texts", "columns": {"prompt": "words"}},
            defaults={"width": 64, "height": 64, "samples": 2},
            samples_per_call=2,
            storage=str(tmp_path / "data"),
            start=False,
        ) as definitions,
    ):
        pipeline.sql("CREATE TABLE texts (prompt_set TEXT, prompt_id TEXT, words TEXT)")
        pipeline.sql("INSERT INTO texts VALUES ('boats', 'one', 'a boat')")
        ours = dataclasses.replace(pipeline, definitions=definitions)
        told = figures(ours.sync()["boats"])
        statuses = {found.default_status.value for found in ours.repository.sensor_defs}

    assert (told["requested"], told["kept"], told["api_calls"]) == (2, 2, 1)
    assert statuses == {"STOPPED"}


@pytest.mark.slow
def test_a_key_stops_the_sensors_and_stays_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key from the environment stops the sensors, and no snapshot of the location holds it."""
    monkeypatch.setenv("IMAGEPIPELINE_API_KEY", KEY)
    with (
        open_pipeline(tmp_path) as pipeline,
        _built(
            api_key="{{ env.IMAGEPIPELINE_API_KEY }}",
            base_url="http://127.0.0.1:9",
            storage=str(tmp_path / "data"),
        ) as definitions,
    ):
        shape = _shape(definitions)
        ours = dataclasses.replace(pipeline, definitions=definitions)
        ours.add("boats", "one")
        (request,) = ours.tick()
        ours.run(str(request.partition_key), ok=False)
        leaks = files_with(tmp_path, KEY)

    assert set(dict(shape["sensors"]).values()) == {dg.DefaultSensorStatus.STOPPED}  # type: ignore[call-overload]
    assert leaks == []


REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"api_key": KEY},  # it would be stored with each run
        ["api_key: would be stored with every run", 'api_key: "{{ env.IMAGEPIPELINE_API_KEY }}"'],
    ),
    ({"budget": {"money": 50, "period": "day"}}, ["needs price_per_image"]),
    *(
        ({name: "{{ env.OURS }}"}, [f"attributes.{name}", "the variable OURS is not set"])
        for name in ("api_key", "tables_url", "ledger_url")
    ),
    *(
        ({"executor": name}, [f"executor: {name}"])
        for name in ("celery", "dagster_celery.nothing", "dagster.asset")
    ),
]


@pytest.mark.parametrize(("attributes", "words"), REFUSED)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attributes: dict[str, Any], words: list[str]
) -> None:
    """The error names the option, and says what is wrong and what to write instead.

    A reference to a variable that is empty never means the emulator, or sample tables.
    """
    monkeypatch.setenv("OURS", "")
    why = _refusal(**attributes, storage=str(tmp_path))
    assert [word for word in words if word not in why] == []


def test_two_datasets_of_one_prefix_are_refused(tmp_path: Path) -> None:
    """The error names both titles, and says what to give each."""
    with create_defs_folder_sandbox() as sandbox:
        for title in ("Spring", "Autumn"):
            sandbox.scaffold_component(
                component_cls=ImageDatasetComponent,
                defs_path=title.lower(),
                defs_yaml_contents={
                    "type": TYPE,
                    "attributes": {"title": title, "storage": str(tmp_path / title)},
                },
            )
        with pytest.raises(ComponentTreeException) as raised, sandbox.build_all_defs():
            pass
    why = str(raised.value.__cause__ or raised.value)
    assert "is that of 2 datasets" in why
    assert "'Spring'" in why
    assert "'Autumn'" in why


@pytest.mark.parametrize("price", [-0.02, 0, 1e-9, float("nan"), float("inf")])
def test_a_price_that_binds_no_budget_is_refused(price: float) -> None:
    """A price is a finite number, and enough to be counted in millionths."""
    with pytest.raises(ValueError, match="price_per_image"):
        ImageDataset(price_per_image=price)


def test_options_of_options_come_from_yaml() -> None:
    """A price, a budget, and how it is released are written in YAML as in Python."""
    release = {
        "formats": ["parquet", "webdataset"],
        "splits": {"train": 0.9, "test": 0.1},
        "license": "cc-by-4.0",
    }
    budget = {"money": 50, "period": "day"}
    with _built(price_per_image=0.02, budget=budget, release=release, start=False) as definitions:
        assert definitions.resolve_job_def("release_image_dataset").name == "release_image_dataset"


@pytest.mark.parametrize(
    ("executor", "name"),
    [
        ("in_process", "in_process"),
        ("multiprocess", "multiprocess"),
        ("dagster_celery.celery_executor", "celery"),
    ],
)
def test_the_executor_is_the_users(tmp_path: Path, executor: str, name: str) -> None:
    """The jobs of a set, of many sets and of the release run by the executor that is named."""
    with _built(storage=str(tmp_path), executor=executor) as definitions:
        for job in ("materialize_prompt_set", "materialize_batch", "release_image_dataset"):
            assert definitions.resolve_job_def(job).executor_def.name == name
