"""The documents' commands and code run in a project of the demo; their components load."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from imagepipeline_dagster import ImageDataset, ImageDatasetComponent, build_definitions
from imagepipeline_dagster.environment import resources_for
from tests.processes import PROJECT, run_script

PAGES = sorted([PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")])

pytestmark = [
    pytest.mark.slow,
    # Dagster 1.13 reads YAML by a function that pydantic has deprecated, and by its beta classes.
    pytest.mark.filterwarnings(r"ignore:`parse_obj_as` is deprecated"),
    pytest.mark.filterwarnings(r"ignore:.* is currently in beta"),
]


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the demo was made."""
    folder = tmp_path_factory.mktemp("demonstrated")
    shutil.copy(PROJECT / "definitions.py", folder)
    shutil.copy(PROJECT / "dagster.yaml", folder)
    _run_commands("imagepipeline-dagster demo", folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_what_a_page_shows_works(
    page: Path, demonstrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each console block runs, each Python block runs, each component of YAML loads."""
    project = shutil.copytree(demonstrated, tmp_path / "project")
    monkeypatch.chdir(project)
    document = Document.parse(
        str(page),
        SkipParser(),
        PythonCodeBlockParser(),
        CodeBlockParser("console", lambda example: _run_commands(example.parsed, project)),
        CodeBlockParser("yaml", _load),
    )
    for example in document.examples():
        example.evaluate()


def _run_commands(commands: str, project: Path) -> None:
    """Run a block by bash; of `make`, which would install, only see that the target is there."""
    made = re.findall(r"^make (\S+)", commands, re.MULTILINE)
    targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert set(made) <= targets
    rest = re.sub(r"^make .*$", "", commands, flags=re.MULTILINE)
    if rest.strip():
        ran = run_script(rest, cwd=project, DAGSTER_HOME=str(project))
        assert ran.returncode == 0, f"{rest}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"


def _load(example: Example) -> None:
    """Load a component, or see that a job or a selection of assets takes a run configuration."""
    content = yaml.safe_load(example.parsed)
    if content.keys() <= {"ops", "execution"}:
        definitions = build_definitions(
            ImageDataset(), resources_for(storage_uri="data"), start=False
        )
        job = (
            definitions.resolve_job_def("approve_plan")
            if "ops" in content
            else definitions.resolve_implicit_global_asset_job_def()
        )
        dg.validate_run_config(job, content)
        return
    with pytest.MonkeyPatch.context() as environment, create_defs_folder_sandbox() as sandbox:
        environment.setenv("IMAGEPIPELINE_API_KEY", "sk-of-the-documents")
        for variable in ("IMAGEPIPELINE_TABLES_URL", "IMAGEPIPELINE_LEDGER_URL"):
            environment.setenv(variable, "sqlite:///documented.db")
        path = sandbox.scaffold_component(
            component_cls=ImageDatasetComponent, defs_yaml_contents=content
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (_, definitions):
            dg.Definitions.validate_loadable(definitions)
