from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_aws.s3 import S3Resource
from PIL import Image
from pydantic import ValidationError

from imagepipeline_dagster.api.contract import RequestInvalid
from imagepipeline_dagster.api.errors import AccessRefused
from imagepipeline_dagster.api.jobs import JobStatus
from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings
from imagepipeline_dagster.resources import (
    GeneratedPictures,
    ImagePipelineResource,
    LedgerResource,
    LedgerUnavailable,
    StorageResource,
    TablesResource,
)

KEY = "a-key-of-its-own"
PASSWORD = "hush-hush"
BOAT: dict[str, Any] = {"prompt": "a boat", "width": 64, "height": 64}
LINKS: dict[str, Any] = {
    "image2image": {"init_image": "https://pictures.example/rowboat.png"},
    "inpainting": {
        "init_image": "https://pictures.example/rowboat.png",
        "mask_image": "https://pictures.example/masks/sky.png",
    },
}


@pytest.mark.parametrize(
    "resource",
    [
        ImagePipelineResource(api_key="hunter2"),
        TablesResource(url="postgresql://ana:hunter2@host/tables"),
        LedgerResource(url="postgresql://ana:hunter2@host/ledger"),
        StorageResource(uri="s3://bucket", s3=S3Resource(aws_secret_access_key="hunter2")),
    ],
)
def test_no_log_of_a_resource_holds_a_secret(resource: object) -> None:
    """A library that logs what it was called with, as on a retry, shows no key and no password."""
    assert "hunter2" not in repr(resource)


@pytest.fixture(scope="module")
def server() -> Iterator[EmulatorServer]:
    """An emulator with a key of its own."""
    with EmulatorServer(EmulatorSettings(api_key=KEY, latency_seconds=0)) as started:
        yield started


@pytest.fixture
def resource(server: EmulatorServer) -> ImagePipelineResource:
    """The resource, pointed at that emulator."""
    return ImagePipelineResource(api_key=KEY, base_url=server.url, poll_min_seconds=0.01)


def test_fields_and_defaults() -> None:
    """The fields are the documented ones, each with its default and a description."""
    fields = ImagePipelineResource.model_fields
    assert {name: field.default for name, field in fields.items()} == {
        "api_key": None,
        "base_url": "https://api.imagepipeline.io",
        "max_in_flight": 16,
        "account_max_in_flight": None,
        "account_requests_per_second": None,
        "requests_per_second": None,
        "poll_min_seconds": 0.5,
        "poll_max_seconds": 10,
        "job_timeout_seconds": 900,
        "request_timeout_seconds": 30,
        "max_attempts": 5,
        "max_image_bytes": 64 * 1024**2,
        "link_lifetime_hours": 24,
        "refusing_statuses": [429],
        "allow_insecure": False,
    }
    assert all(field.description for field in fields.values())


@pytest.mark.parametrize(
    ("resource_type", "secret"),
    [
        (ImagePipelineResource, {"api_key"}),
        (TablesResource, {"url"}),
        (LedgerResource, {"url"}),
    ],
)
def test_secret_fields_are_marked(resource_type: Any, secret: set[str]) -> None:  # noqa: ANN401
    """The key and the databases' URLs are secrets in the schema that the UI reads."""
    schema = resource_type.to_config_schema().as_field()
    found = {name for name, field in schema.config_type.fields.items() if field.is_secret}
    assert found == secret


@pytest.mark.parametrize("task", ["text2image", "image2image", "inpainting"])
def test_an_asset_of_ones_own_buys_pictures(resource: ImagePipelineResource, task: str) -> None:
    """An asset calls one method and has the job and its pictures' bytes."""

    @dg.asset
    def cover(imagepipeline: ImagePipelineResource) -> None:
        pictures = getattr(imagepipeline, task)(**BOAT, samples=2, seed=7, **LINKS.get(task, {}))
        assert isinstance(pictures, GeneratedPictures)
        assert pictures.job.status is JobStatus.SUCCESS
        assert len(pictures.images) == 2
        for data in pictures.images:
            with Image.open(io.BytesIO(data)) as picture:
                assert picture.size == (64, 64)

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(
            [cover], resources={"imagepipeline": resource}, instance=instance
        ).success


def test_a_job_can_be_asked_for_again(resource: ImagePipelineResource) -> None:
    """`status` returns a finished job with its links, by task and id."""
    made = resource.text2image(**BOAT)
    assert made.job.id is not None

    found = resource.status(task="text2image", job_id=made.job.id)

    assert found.status is JobStatus.SUCCESS
    assert len(found.download_urls) == 1


def test_it_works_inside_a_running_event_loop(resource: ImagePipelineResource) -> None:
    """A caller on an event loop, as in a notebook, gets pictures too."""

    async def cell() -> GeneratedPictures:
        return resource.text2image(**BOAT, seed=3)

    assert len(asyncio.run(cell()).images) == 1


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps: 0 is outside 1 to 100"),
        ({"guidance_scale": 20.5}, "guidance_scale: 20.5 is outside 1 to 20"),
        ({"samples": 5}, "samples: 5 is outside 1 to 4"),
        ({"seed": -1}, "seed: -1 is outside"),
        ({"prompt": "harbour " * 76}, "prompt: has 76 tokens, and the model reads 75"),
        ({"negative_prompt": "blurry " * 76}, "negative_prompt: has 76 tokens"),
        ({"colour": "red"}, "colour: is not a parameter of text2image"),
    ],
)
def test_what_is_wrong_is_said_before_paying(
    server: EmulatorServer,
    resource: ImagePipelineResource,
    parameters: dict[str, object],
    problem: str,
) -> None:
    """A request that breaks the contract is refused by its field, and never sent."""
    received = server.stats.posts_received
    with pytest.raises(RequestInvalid) as raised:
        resource.text2image(**{**BOAT, **parameters})
    assert problem in str(raised.value)
    assert server.stats.posts_received == received


def test_a_wrong_key_is_not_repeated_to_the_reader(server: EmulatorServer) -> None:
    """A refused key says so without showing the key."""
    wrong = ImagePipelineResource(api_key="a-wrong-key", base_url=server.url)
    with pytest.raises(AccessRefused) as raised:
        wrong.text2image(**BOAT)
    assert "a-wrong-key" not in str(raised.value)
    assert "a-wrong-key" not in repr(raised.value)


def test_without_a_key_the_emulator_answers() -> None:
    """No key, or a blank one, means the embedded emulator, whatever the base URL."""
    for key in (None, ""):
        resource = ImagePipelineResource(api_key=key, poll_min_seconds=0.1)
        assert (resource.emulated, resource.origin) == (True, "emulator")
    assert len(resource.text2image(**BOAT).images) == 1


def test_the_origin_is_that_of_the_api() -> None:
    """Spellings of one address are one origin; another path at it is another API."""
    spellings = ("https://API.example", "https://api.example/", "https://api.example:443")
    origins = {ImagePipelineResource(api_key="k", base_url=url).origin for url in spellings}
    assert origins == {"https://api.example"}
    gateway = ("https://gateway.example/staging", "https://gateway.example/prod/")
    origins = {ImagePipelineResource(api_key="k", base_url=url).origin for url in gateway}
    assert origins == {"https://gateway.example/staging", "https://gateway.example/prod"}


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ({"base_url": "https://api.example"}, True),
        ({"base_url": "http://127.0.0.1:8188"}, True),
        ({"base_url": "http://localhost:8188"}, True),
        ({"base_url": "http://[::1]:8188"}, True),
        ({"base_url": "http://api.example"}, False),
        ({"base_url": "http://10.0.0.7"}, False),
        ({"base_url": "http://api.example", "allow_insecure": True}, True),
        ({"base_url": "http://api.example", "api_key": None}, True),
    ],
)
def test_a_key_goes_over_plain_http_to_this_machine_alone(
    given: dict[str, Any], *, safe: bool
) -> None:
    """A key that anyone on the way could read is refused at load, unless `allow_insecure`."""
    refused: AbstractContextManager[Any] = nullcontext()
    if not safe:
        refused = pytest.raises(ValueError, match="in the clear; use https")
    with refused:
        ImagePipelineResource(**{"api_key": "a-key", **given})


@pytest.mark.parametrize("key", ["a-key\n", " a-key "])
def test_blanks_around_a_key_are_cut_off(key: str) -> None:
    """A line's end that came with a key out of a file is not sent."""
    assert ImagePipelineResource(api_key=key).api_key == "a-key"


@pytest.mark.parametrize(
    "wrong",
    [{"max_in_flight": 0}, {"poll_min_seconds": 0}, {"max_attempts": 0}, {"max_image_bytes": 0}],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    """A setting outside of its range is named."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImagePipelineResource(**wrong)


def test_a_ledger_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """An unusable ledger is told on one line, without its password, with its variable."""
    file = tmp_path / "ledger.db"
    file.write_bytes(b"no database, but a text of some length" * 100)
    for url, where, what in (
        (f"sqlite:///{file}", str(file), "has room"),
        (f"postgresql://me:{PASSWORD}@127.0.0.1:9/ledger", "me:***@127.0.0.1:9/ledger", "runs"),
    ):
        with (
            pytest.raises(LedgerUnavailable, match="IMAGEPIPELINE_LEDGER_URL") as raised,
            LedgerResource(url=url).open(),
        ):
            pass
        assert where in str(raised.value)
        assert what in str(raised.value)
        assert str(raised.value).split() == str(raised.value).split(" ")
        assert PASSWORD not in str(raised.value)
        assert PASSWORD not in str(raised.value.__cause__)


def test_sample_tables_are_made_for_the_default_file_alone(tmp_path: Path) -> None:
    """The default file is created with samples once; a file named by a person never is."""
    from imagepipeline_dagster.tables.schema import TableMapping

    mappings = TableMapping("prompts"), TableMapping("embeddings")
    url = f"sqlite:///{tmp_path}/tables.db"
    with (
        pytest.raises(Exception, match="There is no SQLite file"),
        TablesResource(url=url).open(*mappings),
    ):
        pass
    with TablesResource(url=url, create_samples=True).open(*mappings) as tables:
        assert len(tables.prompt_sets()) == 3
    with TablesResource(url=url).open(*mappings) as tables:
        assert len(list(tables.iter_prompts())) == 28


@pytest.mark.parametrize("given", ["eu-west-1", {"region_name": "eu-west-1"}])
def test_a_bucket_is_opened_by_what_makes_clients(given: Any) -> None:  # noqa: ANN401 - as from YAML
    """What is no S3Resource is refused where it is given, and not by the first run."""
    with pytest.raises(ValidationError, match="give an S3Resource of dagster-aws, not a"):
        StorageResource(uri="s3://bucket", s3=given)
