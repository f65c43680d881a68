"""The files of `deploy/`: what they set is what Dagster takes."""

from __future__ import annotations

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
    """It installs by the lock's hashes, copies what there is, and runs as a user."""
    lines = (DEPLOY / "Dockerfile").read_text()
    assert "--require-hashes --requirement requirements.lock" in lines
    assert lines.index("USER dagster") < lines.index("CMD")
    copied = [
        source
        for line in lines.splitlines()
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
        if not source.startswith("--")
    ]
    assert all(Path(PROJECT, source).exists() for source in copied), copied


def test_helm_starts_a_job_of_kubernetes_for_each_run() -> None:
    """The values keep what `dagster.yaml` says, and give no secret away."""
    values, instance = read("helm-values.yaml"), read("dagster.yaml")
    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    assert values["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"
    daemon = values["dagsterDaemon"]
    runs = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]["maxConcurrentRuns"]
    assert runs == instance["concurrency"]["runs"]["max_concurrent_runs"]
    monitoring = instance["run_monitoring"]
    assert daemon["runMonitoring"]["maxResumeRunAttempts"] == monitoring["max_resume_run_attempts"]
    assert "password" not in (DEPLOY / "helm-values.yaml").read_text().replace("PasswordSecret", "")
