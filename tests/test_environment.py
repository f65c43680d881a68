from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from imagepipeline_dagster.environment import (
    EnvironmentInvalid,
    resources_for,
    resources_from_environment,
)

KEY = "a-key-that-nobody-may-see"


def test_defaults() -> None:
    """Without a variable: the emulator, and everything in the folder data."""
    resources = resources_from_environment({})

    assert set(resources) == {"imagepipeline", "tables", "ledger", "storage", "io_manager"}
    assert resources["imagepipeline"].emulated
    assert resources["imagepipeline"].base_url == "https://api.imagepipeline.io"
    assert resources["imagepipeline"].max_in_flight == 16
    assert resources["storage"].uri == "data"
    assert resources["tables"].url == f"sqlite:///{Path('data/tables.db')}"
    assert resources["tables"].create_samples
    assert resources["ledger"].url == f"sqlite:///{Path('data/ledger.db')}"


def test_secrets_stay_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key and the databases' URLs are names of variables until a run needs them."""
    variables = {
        "IMAGEPIPELINE_API_KEY": KEY,
        "IMAGEPIPELINE_TABLES_URL": "postgresql://me:secret@db/shop",
        "IMAGEPIPELINE_LEDGER_URL": "postgresql://me:secret@db/ledger",
        "IMAGEPIPELINE_BASE_URL": "https://api.example",
        "IMAGEPIPELINE_MAX_IN_FLIGHT": "3",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    resources = resources_from_environment(variables)

    for resource in resources.values():
        assert KEY not in repr(resource)
        assert "secret" not in repr(resource)
        assert KEY not in str(resource.model_dump())
    assert not resources["imagepipeline"].emulated
    assert not resources["tables"].create_samples
    assert resources["imagepipeline"].base_url == "https://api.example"
    assert resources["imagepipeline"].max_in_flight == 3

    ready = resources["imagepipeline"].process_config_and_initialize()
    assert ready.api_key == KEY
    assert ready.origin == "https://api.example"


def test_given_values_count_before_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second dataset has the key and databases that it is given, not those of the first."""
    monkeypatch.setenv("IMAGEPIPELINE_TABLES_URL", "sqlite:///first.db")
    monkeypatch.delenv("IMAGEPIPELINE_LEDGER_URL", raising=False)
    monkeypatch.setenv("SHOES_KEY", KEY)
    second = {
        "IMAGEPIPELINE_API_KEY": KEY,
        "IMAGEPIPELINE_TABLES_URL": "sqlite:///second.db",
        "IMAGEPIPELINE_LEDGER_URL": "sqlite:///second_ledger.db",
    }

    resources = resources_from_environment(second)

    assert KEY not in str(resources["imagepipeline"].model_dump())
    assert resources["imagepipeline"].process_config_and_initialize().api_key == KEY
    assert resources["tables"].process_config_and_initialize().url == "sqlite:///second.db"
    assert resources["ledger"].process_config_and_initialize().url == "sqlite:///second_ledger.db"


@pytest.mark.parametrize("blank", ["", "   "])
def test_a_blank_variable_is_unset(blank: str) -> None:
    """An empty or blank value counts as none, as people write it in .env files."""
    names = ("API_KEY", "BASE_URL", "MAX_IN_FLIGHT", "STORAGE", "TABLES_URL", "LEDGER_URL")
    resources = resources_from_environment({f"IMAGEPIPELINE_{name}": blank for name in names})

    assert resources["imagepipeline"].emulated
    assert resources["storage"].uri == "data"
    assert resources["ledger"].url == "sqlite:///data/ledger.db"


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "²"])
def test_a_wrong_number_is_named(value: str) -> None:
    """A number that cannot be meant is refused by the name of its variable."""
    with pytest.raises(EnvironmentInvalid, match=r"MAX_IN_FLIGHT: '.*' is not a whole"):
        resources_from_environment({"IMAGEPIPELINE_MAX_IN_FLIGHT": value})


@pytest.mark.parametrize(
    "value",
    ["api.imagepipeline.io", "ftp://h", "https://", "http://[", "https://h\n", "https://h/?a=b"],
)
def test_a_base_url_that_is_none_is_refused_at_once(value: str) -> None:
    """What is no http URL is refused when the location loads, not by the first purchase."""
    with pytest.raises(EnvironmentInvalid, match=r"BASE_URL: .*; it is a URL such as https://"):
        resources_from_environment({"IMAGEPIPELINE_BASE_URL": value})


def test_a_storage_of_another_kind_is_refused_at_once() -> None:
    """Another bucket's scheme is refused when the location loads, and makes no folder."""
    with pytest.raises(EnvironmentInvalid, match=r"STORAGE: .* nor s3://bucket.* starts with gs:"):
        resources_from_environment({"IMAGEPIPELINE_STORAGE": "gs://bucket/prefix"})


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "IMAGEPIPELINE_TABLES_URL"),
        ({"IMAGEPIPELINE_TABLES_URL": "sqlite:///t.db"}, "IMAGEPIPELINE_LEDGER_URL"),
    ],
)
def test_a_bucket_needs_databases(given: dict[str, str], missing: str) -> None:
    """With a bucket, a missing database URL is named, with an example of what to set."""
    with pytest.raises(EnvironmentInvalid, match=f"{missing}: is required when") as raised:
        resources_from_environment({"IMAGEPIPELINE_STORAGE": "s3://bucket/prefix", **given})
    assert "postgresql://user:password@host/database" in str(raised.value)


def test_io_manager_uses_the_storage() -> None:
    """Tables and images go to the same storage."""
    found = resources_for(storage_uri="elsewhere")
    assert found["io_manager"].storage.uri == "elsewhere"
    assert isinstance(found["io_manager"], dg.ConfigurableIOManager)
