"""`dg`, as its users know it: what it checks and scaffolds, through the real command."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from dagster.components.resolved.form_schema import split_form_schema

from imagepipeline_dagster.component import ImageDatasetComponent
from tests.processes import PROJECT, dg_project, run

TYPE = "imagepipeline_dagster.ImageDatasetComponent"

_DEFINITIONS = """
from pathlib import Path
import dagster as dg
@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
_KEY = "sk-written-into-the-file"
_WRONG = f"""\
type: {TYPE}
attributes:
  samples_per_call: nine
  price_per_image: -1
  defaults:
    stepz: 30
  moderation:
    unchecked: drop
  budget:
    money: 5
    period: week
  prompts:
    table: briefs
    columns:
      promptset: campaign
  watching:
    on_removed: delete
  colour: red
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project as `dg` lays it out, without a component."""
    dg_project(tmp_path, "shop")
    return tmp_path


def _dg(project: Path, *arguments: str, ok: bool = True) -> str:
    command = [str(Path(sys.executable).with_name("dg")), *arguments]
    path = f"{PROJECT}:{project / 'src'}"
    variables = {"PYTHONPATH": path, "COLUMNS": "200", "NO_COLOR": "1"}
    done = run(command, cwd=project, variables={**variables, "DAGSTER_HOME": str(project)})
    output = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    assert (done.returncode == 0) is ok, output
    return output


@pytest.mark.slow
def test_check_yaml_names_file_and_line_of_what_is_wrong(project: Path) -> None:
    """Each wrong value, unknown key and unknown column is refused at its line."""
    folder = project / "src/shop/defs/spring"
    folder.mkdir()
    (folder / "defs.yaml").write_text(_WRONG)
    output = _dg(project, "check", "yaml", ok=False)

    lines = {int(line) for line in re.findall(r"defs\.yaml:(\d+)", output)}
    wrong = (
        *("samples_per_call", "price_per_image", "stepz", "unchecked", "period"),
        *("on_removed", "colour"),
    )
    numbered = dict(enumerate(_WRONG.splitlines(), start=1))
    for option in wrong:
        assert any(option in numbered[line] for line in lines), (option, output)
    assert "promptset" in output


@pytest.mark.slow
def test_a_written_key_is_refused_and_not_shown(project: Path) -> None:
    """A key in the YAML is refused with its file and line, and no output of `dg` repeats it."""
    folder = project / "src/shop/defs/spring"
    folder.mkdir()
    (folder / "defs.yaml").write_text(f"type: {TYPE}\nattributes:\n  api_key: {_KEY}\n")
    (project / "src/shop/definitions.py").write_text(_DEFINITIONS)
    yaml = _dg(project, "check", "yaml")
    defs = _dg(project, "check", "defs", ok=False)

    assert _KEY not in yaml + defs
    assert re.search(r"defs\.yaml.{0,20}\b3\b", defs), defs
    assert "put the key into the environment" in defs


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--real", "true"]])
def test_what_is_scaffolded_is_valid_and_loads(project: Path, options: list[str]) -> None:
    """A scaffolded component is commented, passes both checks, and twice do not collide."""
    for name in ("spring", "autumn"):
        _dg(project, "scaffold", "defs", TYPE, name, *options)
    text = (project / "src/shop/defs/spring/defs.yaml").read_text()
    assert "key_prefix: [spring]" in text
    assert text.count("#") > 3
    _dg(project, "check", "yaml")
    if not options:
        (project / "src/shop/definitions.py").write_text(_DEFINITIONS)
        assert "autumn" in _dg(project, "list", "defs", "--json")


def test_every_option_is_described_and_the_example_is_valid() -> None:
    """The component's page shows a sentence for each option, and an example that validates."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    attributes = ImageDatasetComponent.get_model_cls()
    schema = attributes.model_json_schema()
    models = [schema, *(one for one in schema["$defs"].values() if "properties" in one)]
    for model in models:
        for name, option in model["properties"].items():
            assert option.get("description"), (model["title"], name)
    (example,) = schema["examples"]
    Draft202012Validator(schema).validate(example)


def test_the_form_asks_for_each_option_as_it_is_meant() -> None:
    """Dagster's form masks secrets, edits a cron, tucks rare options away, and is a valid one."""
    from jsonschema import Draft202012Validator  # untyped, as above

    raw = ImageDatasetComponent.get_model_cls().model_json_schema()
    schema, form = split_form_schema(raw)

    Draft202012Validator.check_schema(schema)
    assert raw["x-app-managed"]
    assert schema["title"] == "Image dataset"
    form = {name: form[name] for name in schema["properties"].keys() & form.keys()}
    secrets = {name for name, shown in form.items() if "secret" in shown.values()}
    assert secrets == {"api_key", "tables_url", "ledger_url"}
    assert form["release_cron"] == {"ui:widget": "cron"}
    advanced = {name for name, shown in form.items() if "ui:advanced" in shown}
    assert advanced >= {"poll_min_seconds", "watching", "pool"}
    assert not advanced & {"title", "prompts", "base_url", "budget", "storage"}
    # A control of its own kind for each: none is left to a text, nor to a choice of types.
    for name, kind in {"samples_per_call": "integer", "price_per_image": "number"}.items():
        assert schema["properties"][name]["type"] == kind
