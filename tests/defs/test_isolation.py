"""A dataset in a team's own project: nothing of the team's is touched, and nothing collides."""

from __future__ import annotations

import datetime as dt
import traceback
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imagepipeline_dagster import ImageDataset, ImagePipelineResource, build_definitions
from imagepipeline_dagster.defs.batches import run_config_of
from imagepipeline_dagster.defs.resource_keys import bound_resources, given_resources
from imagepipeline_dagster.environment import EnvironmentInvalid, resources_for
from imagepipeline_dagster.release.columns import FORMAT_VERSION
from imagepipeline_dagster.tables.schema import TableMapping
from tests.pipeline import STAGES, figures, open_pipeline

THEIRS: dict[str, Any] = {
    "io_manager": dg.FilesystemIOManager(),
    "storage": "our storage",
    "ledger": "our ledger",
    "tables": "our tables",
    "imagepipeline": "a client of our own",
}


LONG = f"https://{'a' * 63}.elb.amazonaws.com"


@dg.asset
def prices() -> dict[str, float]:
    """An asset that has nothing to do with pictures."""
    return {"boat": 3.5}


@dg.asset
def most(prices: dict[str, float]) -> float:
    """Another, which reads it."""
    return max(prices.values())


def _dataset(
    folder: Path, *prefix: str, executor: dg.ExecutorDefinition = dg.in_process_executor
) -> dg.Definitions:
    resources = resources_for(storage_uri=str(folder / "data"))
    dataset = ImageDataset(key_prefix=prefix)
    return build_definitions(dataset, resources, start=True, executor=executor)


@pytest.mark.parametrize("theirs", [{}, THEIRS])
def test_a_project_keeps_what_is_its_own(tmp_path: Path, theirs: dict[str, Any]) -> None:
    """A team's resources, whatever their names, and its assets' values stay the team's."""
    definitions = dg.Definitions.merge(
        dg.Definitions(
            assets=[prices, most],
            jobs=[dg.define_asset_job("theirs", [prices, most])],
            resources=theirs,
        ),
        _dataset(tmp_path),
        _dataset(tmp_path, "art"),
    )
    dg.Definitions.validate_loadable(definitions)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        result = definitions.resolve_job_def("theirs").execute_in_process(instance=instance)

    assert result.output_for_node("most") == 3.5
    assert not list((tmp_path / "data").rglob("*.parquet"))


@dg.io_manager
def unreachable() -> dg.IOManager:
    """A team's IO manager, which cannot be set up where our runs are."""
    raise RuntimeError("the team's warehouse is not reachable from here")


def test_no_resource_of_the_teams_is_set_up(tmp_path: Path) -> None:
    """Each job and each selection of our assets and checks runs, whatever the team's resources."""
    with open_pipeline(tmp_path) as pipeline:
        pipeline.add("boats", "one")
        definitions = dg.Definitions.merge(
            dg.Definitions(resources=dict.fromkeys(THEIRS, unreachable)), pipeline.definitions
        )
        approval = {"ops": {"approve_sets": {"config": {"who": "ana", "why": "a test"}}}}
        runs: list[tuple[str, dict[str, Any]]] = [
            ("register_prompt_sets", {}),
            ("plan_prompt_sets", {}),
            ("approve_plan", {"run_config": approval}),
            ("materialize_prompt_set", {"partition_key": "boats"}),
            ("moderate_prompt_set", {"partition_key": "boats"}),
            ("materialize_batch", {"run_config": run_config_of(ImageDataset(), ["boats"])}),
            ("release_image_dataset", {}),
        ]
        assert {*dict(runs), "__ASSET_JOB"} == set(pipeline.repository.job_names)
        for job, options in runs:
            result = definitions.resolve_job_def(job).execute_in_process(
                instance=pipeline.instance, **options
            )
            assert result.success
        for chosen in (definitions, pipeline.definitions):
            of_assets = chosen.resolve_implicit_global_asset_job_def()
            keys = {dg.AssetKey(stage) for stage in STAGES}
            selected = of_assets.get_subset(asset_selection=keys)
            assert selected.execute_in_process(
                instance=pipeline.instance, partition_key="boats"
            ).success


def test_a_selection_of_assets_is_few_steps(tmp_path: Path) -> None:
    """Each step may be a process: a stage is one, and all checks of a stage are another."""
    graph = _dataset(tmp_path).resolve_implicit_global_asset_job_def()
    steps = {node.name for node in graph.nodes}
    assert steps == {
        *("prompt_sets", "generation_requests", "generated_images", "moderated_images"),
        *("check_prompt_sets", "check_generated_images", "check_moderated_images"),
        "image_dataset",
    }


def test_a_batch_may_run_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Dagster plans the job for an executor of several processes: no output stays in memory."""
    definitions = _dataset(tmp_path, executor=dg.multiprocess_executor)
    job = definitions.resolve_job_def("materialize_batch")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run = instance.create_run_for_job(job, run_config=run_config_of(ImageDataset(), ["spring"]))

    assert run.step_keys_to_execute == ["make_prompt_sets"]


def _names(definitions: dg.Definitions) -> set[str]:
    repository = definitions.get_repository_def()
    assets = repository.assets_defs_by_key.values()
    return {
        *(definitions.resources or {}),
        *repository.job_names,
        *(sensor.name for sensor in repository.sensor_defs),
        *(schedule.name for schedule in repository.schedule_defs),
        *(
            op.pool or ""
            for one in assets
            if one.is_executable
            for op in one.node_def.iterate_op_defs()
        ),
        *(
            str(one.partitions_def.name)
            for one in assets
            if isinstance(one.partitions_def, dg.DynamicPartitionsDefinition)
        ),
    } - {"__ASSET_JOB", ""}


def test_names_follow_from_the_prefix_alone(tmp_path: Path) -> None:
    """Whatever else is in a project, a dataset's names are the same, and all its own."""
    plain, art = _names(_dataset(tmp_path)), _names(_dataset(tmp_path, "art"))
    assert {f"art_{name}" for name in plain} == art
    both = dg.Definitions.merge(_dataset(tmp_path), _dataset(tmp_path, "art"))
    assert _names(both) == plain | art
    assert {"image_dataset_ledger", "materialize_prompt_set", "imagepipeline_api"} <= plain


def test_prefixes_that_read_alike_share_no_name(tmp_path: Path) -> None:
    """A prefix of two parts, and one part of the same letters, load beside each other."""
    nested, flat = _dataset(tmp_path, "a", "b"), _dataset(tmp_path, "a_b")
    assert not _names(nested) & _names(flat)
    dg.Definitions.validate_loadable(dg.Definitions.merge(nested, flat))


@pytest.mark.parametrize("part", ["", "a__b", "a_", "_b", "a b", "a/b", "ä"])
def test_a_prefix_that_could_be_mistaken_is_refused(part: str) -> None:
    """What Dagster takes for no name, or what could be two parts, is refused at once."""
    with pytest.raises(ValueError, match="key_prefix"):
        ImageDataset(key_prefix=("art", part))


@pytest.mark.parametrize("key", ["marts/briefs", "prompts"])
def test_a_teams_asset_makes_the_table(tmp_path: Path, key: str) -> None:
    """The team's own asset is above the prompt sets, also where it has the key of our table."""

    @dg.asset(key=dg.AssetKey.from_user_string(key))
    def briefs() -> None:
        """Stands for a dbt model."""

    dataset = ImageDataset(prompts=TableMapping("marts.briefs", asset_key=key))
    ours = build_definitions(dataset, resources_for(storage_uri=str(tmp_path)), start=False)
    definitions = dg.Definitions.merge(dg.Definitions(assets=[briefs]), ours)
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.get_repository_def().asset_graph
    assert dg.AssetKey.from_user_string(key) in graph.get_ancestor_asset_keys(
        dg.AssetKey("prompt_sets")
    )


def test_a_release_has_a_freshness_policy(tmp_path: Path) -> None:
    """The hours after which a release is stale are Dagster's freshness policy of the asset."""
    resources = resources_for(storage_uri=str(tmp_path))
    definitions = build_definitions(ImageDataset(freshness_hours=36), resources, start=False)
    policy = definitions.resolve_assets_def("image_dataset").specs_by_key
    (spec,) = policy.values()
    assert spec.freshness_policy == dg.FreshnessPolicy.time_window(dt.timedelta(hours=36))


@pytest.mark.parametrize(
    ("api", "tag", "page"),
    [
        ({}, "emulator", "the emulator inside this process"),
        ({"api_key": "k"}, "api.imagepipeline.io", "https://api.imagepipeline.io"),
        # What Dagster takes for no tag.
        ({"api_key": "k", "base_url": "https://[::1]"}, "_1", "https://[::1]"),
        ({"api_key": "k", "base_url": LONG}, "a" * 63, LONG),
    ],
)
def test_every_asset_says_which_api_serves_it(
    tmp_path: Path, api: dict[str, Any], tag: str, page: str
) -> None:
    """Each asset's tag and description, and the resource's page, name the emulator or the API."""
    resources = resources_for(storage_uri=str(tmp_path), **api)
    dataset = ImageDataset(tags={"team": "art"}, owners=("team:art",), group_name="pictures")
    definitions = build_definitions(dataset, resources, start=False)
    for spec in definitions.resolve_all_asset_specs():
        assert spec.tags["imagepipeline/api"] == tag
        assert (spec.tags["team"], spec.owners) == ("art", ["team:art"])
        assert spec.group_name == "pictures"
        if spec.key.path[-1] not in ("prompts", "embeddings"):
            # An upgrade of the package alone shows nothing as out of date.
            released = spec.key.path[-1] == "image_dataset"
            assert spec.code_version == (str(FORMAT_VERSION) if released else "1")
            assert f"Pictures come from {page}." in str(spec.description)
    resource = (definitions.resources or {})["image_dataset_imagepipeline"]
    assert f"Served by: {page}." in str(resource.description)


def test_the_emulator_never_takes_over(tmp_path: Path) -> None:
    """Where pictures were bought, a run without a key fails before it draws any, and says why."""
    with open_pipeline(tmp_path) as pipeline:
        pipeline.add("boats", "one")
        assert figures(pipeline.sync()["boats"])["bought"] == 1
        pipeline.ledger_sql("UPDATE ledger_requests SET emulated = 0")
        pipeline.add("boats", "two")
        refused = pipeline.run("boats", ok=False)
        rows = pipeline.ledger_rows()

    (failure,) = [event for event in refused.all_events if event.is_step_failure]
    assert failure.step_key == "generation_requests"
    why = failure.step_failure_data.error_display_string
    assert "were bought, and no API key is set" in why
    assert "IMAGEPIPELINE_API_KEY" in why
    assert len(rows) == 1


@pytest.mark.parametrize("held", [None, " "])
def test_no_emulator_takes_the_place_of_a_key(
    held: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run or a command in a process that lacks the key's variable fails, and names it."""
    if held is not None:
        monkeypatch.setenv("KEY_OF_SHOES", held)
    resources = resources_for(storage_uri=str(tmp_path), api_key=dg.EnvVar("KEY_OF_SHOES"))
    bound = bound_resources(ImageDataset(), resources)

    with pytest.raises(dg.DagsterResourceFunctionError) as raised, dg.build_resources(bound):
        pytest.fail("it is set up")
    assert isinstance(raised.value.__cause__, EnvironmentInvalid)
    assert "KEY_OF_SHOES: api_key is read from it" in str(raised.value.__cause__)
    definitions = build_definitions(ImageDataset(), resources, start=False)
    with pytest.raises(EnvironmentInvalid, match="KEY_OF_SHOES"):
        given_resources(ImageDataset(), [definitions])


def test_what_variables_hold_is_in_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that cannot be used is told without the key beside it; one that can is used."""
    monkeypatch.setenv("KEY_OF_SHOES", "sk-secret-of-shoes")
    monkeypatch.setenv("URL_OF_SHOES", "http://far.example")
    key, url = dg.EnvVar("KEY_OF_SHOES"), dg.EnvVar("URL_OF_SHOES")
    resources = resources_for(storage_uri=str(tmp_path))
    resources["imagepipeline"] = ImagePipelineResource(api_key=key, base_url=url)
    definitions = build_definitions(ImageDataset(), resources, start=False)
    about = (definitions.resources or {})["image_dataset_imagepipeline"].description
    assert "Served by: the address in URL_OF_SHOES." in str(about)

    with pytest.raises(EnvironmentInvalid, match=r"PipelineResource: .*far\.example") as raised:
        given_resources(ImageDataset(), [definitions])
    assert "sk-" not in "".join(traceback.format_exception(raised.value))
    monkeypatch.setenv("URL_OF_SHOES", "https://far.example")
    api = given_resources(ImageDataset(), [definitions])["imagepipeline"]
    assert (api.api_key, api.origin) == ("sk-secret-of-shoes", "https://far.example")


def test_commands_say_which_resource_they_cannot_open(tmp_path: Path) -> None:
    """An object of the team's own is taken as it is; a definition of Dagster's is named."""
    resources = resources_for(storage_uri=str(tmp_path)) | {"storage": object()}
    definitions = build_definitions(ImageDataset(), resources, start=False)
    assert given_resources(ImageDataset(), [definitions])["storage"] is resources["storage"]

    resources["storage"] = dg.ResourceDefinition.hardcoded_resource(object())
    definitions = build_definitions(ImageDataset(), resources, start=False)
    with pytest.raises(EnvironmentInvalid, match=r"storage: .* ResourceDefinition"):
        given_resources(ImageDataset(), [definitions])
