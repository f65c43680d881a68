"""The wheel in another team's project, which `create-dagster` made."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.processes import built_wheel, environment, run

TYPE = "imagepipeline_dagster.ImageDatasetComponent"

_COMMANDS = {
    "create-dagster": "create_dagster.cli",
    "dagster": "dagster._cli",
    "dg": "dagster_dg_cli.cli",
}
# What the team had before: values of its own kind, and resources by the names that anybody takes.
_PRICES = """
import dagster as dg


@dg.asset
def prices() -> dict[str, float]:
    return {"boat": 3.5}


@dg.asset
def dearest(prices: dict[str, float]) -> float:
    return max(prices.values())
"""
_RESOURCES = """
import dagster as dg


@dg.definitions
def resources():
    theirs = {name: f"the {name} of a team" for name in ("storage", "ledger", "tables")}
    io_manager = dg.FilesystemIOManager(base_dir="values")
    return dg.Definitions(resources={**theirs, "io_manager": io_manager})
"""
_TESTS = """
import dagster as dg
from shop.definitions import defs


def test_what_the_team_had_is_as_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = dg.define_asset_job("theirs", ["prices", "dearest"])
    theirs = dg.Definitions.merge(defs(), dg.Definitions(jobs=[job])).resolve_job_def("theirs")

    with dg.DagsterInstance.ephemeral() as instance:
        assert theirs.execute_in_process(instance=instance).output_for_node("dearest") == 3.5
    assert sorted(file.name for file in (tmp_path / "values").iterdir()) == ["dearest", "prices"]


def test_a_boat_is_bought_once(imagepipeline_emulator, image_dataset_in, tmp_path):
    boats = image_dataset_in(tmp_path)
    boats.add_prompt("spring", "boat_1", "a red boat")
    imagepipeline_emulator.faults("rate_limited:times=1")

    boats.materialize("spring")

    assert list(boats.table("moderated_images", "spring")["verdict"]) == ["kept"]
    assert imagepipeline_emulator.stats.posts_accepted == 1
"""


class _Installation:
    """An environment with the wheel in it, over the libraries of this one."""

    def __init__(self, folder: Path) -> None:
        self._home = folder / "home"
        self._home.mkdir()
        self._bin = folder / "venv/bin"
        venv.create(folder / "venv")
        libraries = sysconfig.get_path("purelib")
        (own,) = (folder / "venv/lib").glob("python*/site-packages")
        # Of the paths below it, the file that makes the sources importable is not read again.
        (own / "libraries.pth").write_text(libraries)
        wheel = built_wheel(folder / "wheels")
        python = str(self._bin / "python")
        install = ["pip", "--python", python, "install", "--ignore-installed", "--no-deps"]
        offline = ["--no-index", "--disable-pip-version-check", str(wheel)]
        subprocess.run([sys.executable, "-m", *install, *offline], check=True, capture_output=True)  # noqa: S603
        for name, module in _COMMANDS.items():
            command = self._bin / name
            command.write_text(f"#!{python}\nfrom {module} import main\nmain()\n")
            command.chmod(0o755)

    def run(self, folder: Path, *arguments: str, ok: bool = True) -> str:
        """Run a command of the installation in a folder, and return what it says."""
        variables = {
            "PATH": f"{self._bin}:{environment()['PATH']}",
            "VIRTUAL_ENV": str(self._bin.parent),
            "PYTHONPATH": str(folder / "src"),
            "DAGSTER_HOME": str(self._home),
            "DAGSTER_DG_UPDATE_CHECK_ENABLED": "0",
            "SHOP_TABLES_URL": f"sqlite:///{folder}/tables.db",
        }
        command = [str(self._bin / arguments[0]), *arguments[1:]]
        done = run(command, cwd=folder, variables=variables)
        assert (done.returncode == 0) is ok, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.mark.slow
def test_a_project_elsewhere_takes_the_wheel(tmp_path: Path) -> None:
    """Two datasets are scaffolded, edited, checked, made and tested, by the wheel alone."""
    installation, shop = _Installation(tmp_path), tmp_path / "shop"
    installation.run(tmp_path, "create-dagster", "project", "shop", "--no-uv-sync")
    defs = shop / "src/shop/defs"
    (defs / "prices.py").write_text(_PRICES)
    (defs / "resources.py").write_text(_RESOURCES)
    (shop / "tests/test_shop.py").write_text(_TESTS)
    where = "import imagepipeline_dagster; print(imagepipeline_dagster.__file__)"
    assert str(tmp_path / "venv") in installation.run(shop, "python", "-c", where)

    installation.run(shop, "dg", "scaffold", "defs", TYPE, "spring")
    tables = ("--tables-url", "SHOP_TABLES_URL")
    installation.run(shop, "dg", "scaffold", "defs", TYPE, "autumn", *tables)
    spring = defs / "spring/defs.yaml"
    small = "  defaults: {width: 64, height: 64}\n  owners: [team:art]\n"
    spring.write_text(spring.read_text() + small)
    installation.run(shop, "dg", "check", "yaml")
    installation.run(shop, "dg", "check", "defs")
    installation.run(shop, "dg", "launch", "--job", "spring_register_prompt_sets")
    one_set = ("--job", "spring_materialize_prompt_set", "--partition", "portraits")
    installation.run(shop, "dg", "launch", *one_set)

    assert (shop / "data/spring/spring/moderated_images/portraits.parquet").exists()
    assert not (shop / "data/autumn").exists()
    assert "2 passed" in installation.run(
        shop, "python", "-m", "pytest", "-W", "error::UserWarning"
    )
