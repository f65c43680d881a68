"""The Dagster resources: the API, the tables, the ledger and the storage.

`environment` makes all of them, with the io manager, from the documented variables.
"""

# No postponed annotations here: Dagster reads a resource's fields from the types themselves.
import asyncio
import atexit
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import dagster as dg
from pydantic import Field, ModelWrapValidatorHandler, field_validator, model_validator
from sqlalchemy.exc import SQLAlchemyError

from imagepipeline_dagster.api.address import origin_of
from imagepipeline_dagster.api.client import ImagePipelineClient, poll_delays
from imagepipeline_dagster.api.contract import RequestInvalid, Task, request_for
from imagepipeline_dagster.api.errors import ImagePipelineError, JobNotFound
from imagepipeline_dagster.api.jobs import Job
from imagepipeline_dagster.databases import cause_of, parsed_url, shown_url, what_to_check
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.opening import LedgerTooNew, LedgerTooOld
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.planning.prompts import token_problems
from imagepipeline_dagster.storage.bucket import S3Opener
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.storage.opening import folder_at, open_storage
from imagepipeline_dagster.tables.overrides import Override, count_overrides, read_overrides
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.schema import TableMapping

if TYPE_CHECKING:
    # It loads all of dagster-aws, and boto3: who gives one has loaded them.
    from dagster_aws.s3 import S3Resource

    from imagepipeline_dagster.emulator.server import EmulatorServer

T = TypeVar("T")

DEFAULT_BASE_URL = "https://api.imagepipeline.io"

EMULATOR_ORIGIN = "emulator"
"""The origin of the embedded emulator, whatever its port: part of its requests' keys."""

_SECRET: dict[str, Any] = {"dagster__is_secret": True}
_EMULATOR_KEY = "emulator"
_starting_emulator = threading.Lock()
_opening_tables = threading.Lock()
_watched_tables: dict[tuple[str, str, str], SourceTables] = {}


@atexit.register
def _close_watched_tables() -> None:
    for tables in _watched_tables.values():
        tables.close()


@dataclass(frozen=True, slots=True)
class GeneratedPictures:
    """The outcome of a direct call of the resource: the finished job, and its pictures' bytes."""

    job: Job
    images: tuple[bytes, ...]


class ImagePipelineResource(dg.ConfigurableResource[Any]):
    """ImagePipeline's SDXL API, or its emulator where no key is given.

    In an asset of your own, call `text2image`, `image2image` or `inpainting`: each blocks until its
    pictures are there. The ledger knows nothing of them. `open()` gives the async client.
    """

    api_key: str | None = Field(
        default=None,
        description="API key. Without one an emulator inside this process serves the API.",
        json_schema_extra=_SECRET,
        repr=False,
    )
    base_url: str = Field(
        default=DEFAULT_BASE_URL, description="Base URL of the API; the emulator does not use it."
    )
    max_in_flight: int = Field(default=16, ge=1, description="Jobs in flight at once, per run.")
    requests_per_second: float | None = Field(
        default=None, gt=0, description="Limit over all API requests of a run; none by default."
    )
    account_max_in_flight: int | None = Field(
        default=None,
        ge=1,
        description="Jobs in flight at once, of all runs together, whatever machine they run on; "
        "the ledger divides them. None by default.",
    )
    account_requests_per_second: float | None = Field(
        default=None,
        gt=0,
        description="Limit over the API requests of all runs together; none by default.",
    )
    poll_min_seconds: float = Field(
        default=0.5, gt=0, description="Seconds before the first status request of a job."
    )
    poll_max_seconds: float = Field(
        default=10.0, gt=0, description="Longest pause between status requests, seconds."
    )
    job_timeout_seconds: float = Field(
        default=900.0, gt=0, description="Seconds until a pending job is left for the next run."
    )
    request_timeout_seconds: float = Field(
        default=30.0, gt=0, description="Seconds for one HTTP request."
    )
    max_attempts: int = Field(
        default=5, ge=1, description="Attempts of a request that is safe to repeat."
    )
    max_image_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1, description="A larger download is refused, bytes."
    )
    link_lifetime_hours: float = Field(
        default=24.0,
        ge=0,
        description="Hours after its job's success in which a link that does not work may come to "
        "work: until then a paid picture stays open.",
    )
    refusing_statuses: list[int] = Field(
        default=[429],
        description="HTTP statuses by which the API says that it took nothing for now, so that the "
        "request is sent again. Add one only where the API promises that it bought nothing.",
    )
    allow_insecure: bool = Field(
        default=False, description="Let the key go to another machine over plain http."
    )

    @field_validator("api_key")
    @classmethod
    def _blank_is_none(cls, value: str | None) -> str | None:
        return (value if isinstance(value, dg.EnvVar) else value and value.strip()) or None

    @model_validator(mode="wrap")
    @classmethod
    def _address_can_be_used(cls, given: Any, made_of: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401 - as the caller gives it
        made = made_of(given)
        # A variable's value is known when a run needs it: the resource is then made anew.
        if not isinstance(given.get("base_url"), dg.EnvVar):
            origin_of(made.base_url, allow_insecure=made.allow_insecure or made.emulated)
        return made

    @property
    def emulated(self) -> bool:
        """Whether the embedded emulator answers instead of the API."""
        return self.api_key is None

    @property
    def origin(self) -> str:
        """The name of the API in a request's key."""
        return EMULATOR_ORIGIN if self.emulated else origin_of(self.base_url)

    @property
    def served_by(self) -> str:
        """The name that people read of who answers: the emulator, or the API's address."""
        if self.emulated:
            return "the emulator inside this process"
        if isinstance(self.base_url, dg.EnvVar):  # which not every process knows
            return f"the address in {self.base_url.env_var_name}"
        return self.base_url

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ImagePipelineClient]:
        """Open the asynchronous client."""
        base_url = _embedded_emulator() if self.emulated else self.base_url
        async with ImagePipelineClient(
            api_key=self.api_key or _EMULATOR_KEY,
            base_url=base_url,
            request_timeout=self.request_timeout_seconds,
            max_attempts=self.max_attempts,
            requests_per_second=self.requests_per_second,
            max_image_bytes=self.max_image_bytes,
            refusing_statuses=self.refusing_statuses,
            allow_insecure=self.allow_insecure,
        ) as client:
            yield client

    def text2image(self, **parameters: Any) -> GeneratedPictures:  # noqa: ANN401 - the API's parameters
        """Buy pictures from words, and return them; parameters as on the API's page.

        Raises:
            RequestInvalid: before anything is sent; names every field that is wrong.
            ImagePipelineError: what went wrong at the API; `AnswerLost` may have been bought.
        """
        return self._generate(Task.TEXT2IMAGE, parameters)

    def image2image(self, **parameters: Any) -> GeneratedPictures:  # noqa: ANN401
        """Buy pictures from words and `init_image`, a public link; otherwise as `text2image`."""
        return self._generate(Task.IMAGE2IMAGE, parameters)

    def inpainting(self, **parameters: Any) -> GeneratedPictures:  # noqa: ANN401
        """Buy pictures painted anew where `mask_image` is white; otherwise as `image2image`."""
        return self._generate(Task.INPAINTING, parameters)

    def status(self, *, task: str, job_id: str) -> Job:
        """Return where a job stands, with links where it has succeeded."""

        async def ask() -> Job:
            async with self.open() as client:
                return await client.status(task, job_id)

        return _run(ask())

    def why_unusable(self) -> str | None:
        """Ask for a job that there is not, which needs the key and is free; None where all is well.

        Returns what is wrong with the key, the address or the network.
        """
        try:
            self.status(task=Task.TEXT2IMAGE, job_id=uuid.uuid4().hex)
        except JobNotFound:
            return None
        except ImagePipelineError as error:
            return str(error)
        return None

    def _generate(self, task: Task, parameters: Mapping[str, object]) -> GeneratedPictures:
        request = request_for(task, {"model_id": "sdxl", **parameters})
        if problems := token_problems(request.prompt, request.negative_prompt):
            raise RequestInvalid(tuple(problems))

        async def generate() -> GeneratedPictures:
            async with self.open() as client:
                delays = poll_delays(self.poll_min_seconds, self.poll_max_seconds)
                submitted = await client.submit(request)
                job = await client.wait(
                    submitted, timeout=self.job_timeout_seconds, delays=delays, request=request
                )
                return GeneratedPictures(
                    job, tuple([await client.download(link) for link in job.download_urls])
                )

        return _run(generate())


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where the caller's thread has an event loop already."""
    with ThreadPoolExecutor(1, "imagepipeline") as executor:
        return executor.submit(asyncio.run, work).result()


def _embedded_emulator() -> str:
    """Return the URL of this process's emulator, started at the first call."""
    with _starting_emulator:
        return _started_emulator().url


@cache
def _started_emulator() -> "EmulatorServer":
    from imagepipeline_dagster.emulator.server import EmulatorServer
    from imagepipeline_dagster.emulator.settings import EmulatorSettings

    # Kept, it lives as long as the process: its thread is a daemon.
    return EmulatorServer(EmulatorSettings(api_key=_EMULATOR_KEY)).__enter__()


class StorageResource(dg.ConfigurableResource[Any]):
    """Where images, tables and releases are kept."""

    uri: str = Field(description="A folder, or s3://bucket/prefix.")
    s3: dg.ResourceDependency["S3Resource | None"] = Field(
        default=None,  # type: ignore[arg-type] # of what is read, not of the descriptor
        repr=False,  # it may hold keys
        description="Opens the bucket; without it boto3's own environment and profiles count.",
    )

    write_options: dict[str, str] = Field(
        default={},
        description="What S3 is told with each object: ACL, ServerSideEncryption, SSEKMSKeyId, "
        "StorageClass, Tagging.",
    )

    @field_validator("s3")
    @classmethod
    def _makes_clients(cls, s3: object) -> object:
        if not isinstance(s3, S3Opener | None):
            raise ValueError(f"give an S3Resource of dagster-aws, not a {type(s3).__name__}")
        return s3

    def open(self) -> Storage:
        """Open the storage."""
        if self.s3 is not None or folder_at(self.uri) is not None:
            return open_storage(self.uri, s3=self.s3, write_options=self.write_options)
        return _opened_bucket(self.uri, tuple(self.write_options.items()))


@cache
def _opened_bucket(uri: str, write_options: tuple[tuple[str, str], ...]) -> Storage:
    # Opened once: a bucket's client costs tenths of a second.
    return open_storage(uri, write_options=dict(write_options))


class TablesResource(dg.ConfigurableResource[Any]):
    """The database with the prompts and embeddings tables; only ever read."""

    url: str = Field(description="SQLAlchemy URL.", json_schema_extra=_SECRET, repr=False)
    create_samples: bool = Field(
        default=False, description="Create the tables with samples where there is no such file."
    )

    def open(self, prompts: TableMapping, embeddings: TableMapping) -> SourceTables:
        """Open the two tables for reading; close them, or use them in a `with` block."""
        return SourceTables(self._ready_url(), prompts=prompts, embeddings=embeddings)

    def watched(self, prompts: TableMapping, embeddings: TableMapping) -> SourceTables:
        """Return the two tables, open as long as the process lives: for who asks again and again.

        Opening a connection and looking up the tables would cost more than what a tick asks.
        """
        key = (self._ready_url(), repr(prompts), repr(embeddings))
        with _opening_tables:
            if key not in _watched_tables:
                _watched_tables[key] = self.open(prompts, embeddings)
            return _watched_tables[key]

    def overrides(self, table: str) -> list[Override]:
        """Return what people decided about pictures, oldest first."""
        return read_overrides(self._ready_url(), table=table)

    def count_overrides(self, table: str) -> int:
        """Return how many decisions there are."""
        return count_overrides(self._ready_url(), table=table)

    def _ready_url(self) -> str:
        """Return the URL, where samples were made if they are wanted and there was no such file."""
        file = parsed_url(self.url).database if self.create_samples else None
        if file is not None and not Path(file).exists():
            from imagepipeline_dagster.tables.samples import create_sample_tables

            create_sample_tables(self.url)
        return self.url


class LedgerUnavailable(CorrectableError):
    """The ledger's database cannot be reached or used; names its URL without the password."""


class LedgerResource(dg.ConfigurableResource[Any]):
    """The ledger of what was claimed, bought and stored."""

    url: str = Field(
        description="SQLAlchemy URL, SQLite or PostgreSQL.", json_schema_extra=_SECRET, repr=False
    )

    @contextmanager
    def open(self, *, create: bool = True) -> Iterator[Ledger]:
        """Open the ledger, which is made at its first use.

        Without `create` it is only read, and where there is none, it reads as an empty one.

        Raises:
            LedgerUnavailable: when the database cannot be used.
        """
        with closing(self._ledger(create=create)) as ledger:
            try:
                yield ledger
            except SQLAlchemyError as error:
                raise self._unavailable(error) from error

    def _ledger(self, *, create: bool) -> Ledger:
        try:
            ledger = Ledger(self.url, create=create)
        except ValueError as error:
            raise LedgerUnavailable(f"The ledger's database: {error}") from error
        try:
            ledger.engine  # noqa: B018 - made at the first use
        except (LedgerTooNew, LedgerTooOld) as error:
            raise LedgerUnavailable(f"{shown_url(self.url)}: {error}") from error
        except (SQLAlchemyError, OSError) as error:
            raise self._unavailable(error) from error
        return ledger

    def _unavailable(self, error: SQLAlchemyError | OSError) -> LedgerUnavailable:
        return LedgerUnavailable(
            f"The ledger at {shown_url(self.url)} cannot be used: {cause_of(error)} "
            f"{what_to_check(self.url)}, and the URL in IMAGEPIPELINE_LEDGER_URL. "
            "Nothing is bought without it."
        )
