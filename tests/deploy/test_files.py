"""The files of `deploy/`: what they set is what Dagster takes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster_aws.ecs import EcsRunLauncher
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager

from tests.processes import PROJECT

DEPLOY = PROJECT / "deploy"


def read(name: str) -> Any:  # noqa: ANN401 - any YAML
    """Return a file as YAML reads it."""
    return yaml.safe_load((DEPLOY / name).read_text())


def _in_snake_case(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of the chart by the names that they have in `dagster.yaml`."""
    return {
        re.sub("([A-Z])", r"_\1", name).lower(): (
            _in_snake_case(value) if isinstance(value, dict) else value
        )
        for name, value in settings.items()
    }


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that the files name."""
    for name in ("DAGSTER_POSTGRES_URL", "DAGSTER_LOGS_BUCKET"):
        monkeypatch.setenv(name, "anything")


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("name", ["dagster.yaml", "dagster-ecs.yaml"])
def test_instances_are_as_dagster_reads_them(name: str) -> None:
    """Each setting is one of this Dagster's, with a value that it takes."""
    read_in = process_config(dagster_instance_config_schema(), read(name))
    assert read_in.success, read_in.errors
    for setting, kind in (("compute_logs", S3ComputeLogManager), ("run_launcher", EcsRunLauncher)):
        if setting in read(name):
            taken: Any = kind
            config = process_config(taken.config_type(), read(name)[setting]["config"])
            assert config.success, config.errors


def test_compose_is_what_compose_takes() -> None:
    """Each key and value is one of Compose's own schema."""
    checked = subprocess.run(  # noqa: S603 - this environment's own program
        [
            Path(sys.executable).with_name("check-jsonschema"),
            "--builtin-schema=vendor.compose-spec",
            DEPLOY / "compose.yaml",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_compose_starts_one_image_as_every_service() -> None:
    """Secrets come from who starts it, each service waits for what it needs, the UI is local."""
    services = read("compose.yaml")["services"]
    ours = {name for name, service in services.items() if "build" in service}
    assert ours == {"prepared", "code", "webserver", "daemon"}
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
    environment = services["daemon"]["environment"]
    assert environment["DAGSTER_POSTGRES_URL"].startswith("postgresql+psycopg2://")
    text = (DEPLOY / "compose.yaml").read_text()
    for secret in ("POSTGRES_PASSWORD", "MINIO_PASSWORD", "IMAGEPIPELINE_API_KEY"):
        assert f"${{{secret}" in text
    assert services["webserver"]["ports"] == ["127.0.0.1:3000:3000"]


def test_the_image_is_nobodys_root_and_pinned() -> None:
    """It installs by the lock's hashes, and runs as a user whom Kubernetes knows for no root."""
    text = (DEPLOY / "Dockerfile").read_text()
    assert "--require-hashes --requirement requirements.lock" in text
    [user] = re.findall(r"^USER (\d+)$", text, re.MULTILINE)
    assert f"useradd --uid {user} " in text


def test_what_the_image_copies_is_enough_to_install(tmp_path: Path) -> None:
    """The package is built from the files that the Dockerfile copies, and from no others."""
    stage = (DEPLOY / "Dockerfile").read_text().rpartition("\nFROM ")[0]
    for line in re.findall(r"^COPY (.+) \S+$", stage, re.MULTILINE):
        for source in map(PROJECT.joinpath, line.split()):
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, tmp_path / source.name)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    built = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603
    assert built.returncode == 0, built.stderr


def test_helm_starts_a_job_of_kubernetes_for_each_run() -> None:
    """The values keep what `dagster.yaml` says, and give no secret away."""
    values, instance = read("helm-values.yaml"), read("dagster.yaml")
    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    assert values["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"
    concurrency = values["concurrency"]
    assert concurrency.pop("enabled")
    assert _in_snake_case(concurrency) == instance["concurrency"]
    daemon = values["dagsterDaemon"]
    # Dagster refuses an instance that says it in both places.
    assert "runCoordinator" not in daemon
    assert _in_snake_case(daemon["runMonitoring"]) == instance["run_monitoring"]
    assert "password" not in (DEPLOY / "helm-values.yaml").read_text().replace("PasswordSecret", "")
