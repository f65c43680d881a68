"""A prompt set bought from an emulator: its rows, plan and purchase, and what must be true."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.contract import GenerationRequest, request_for
from imagepipeline_dagster.api.jobs import Job
from imagepipeline_dagster.emulator.drawing import draw_png
from imagepipeline_dagster.emulator.stats import EmulatorStats, request_hash
from imagepipeline_dagster.ledger.budget import Allowance
from imagepipeline_dagster.ledger.records import MAX_JOBS_PER_REQUEST, Entry, Failure, Outcome
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import attempts
from imagepipeline_dagster.planning.prompts import GenerationDefaults, Prompt, validated_prompts
from imagepipeline_dagster.planning.requests import PlannedRequest, plan_prompt_set, uses_of_plan
from imagepipeline_dagster.purchase.images import GeneratedImage, images_of_plan
from imagepipeline_dagster.purchase.means import Means, PurchaseSettings
from imagepipeline_dagster.purchase.purchase import Purchase, PurchaseReport
from imagepipeline_dagster.purchase.state import PurchaseProgress
from imagepipeline_dagster.storage.contract import Storage, image_path
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow

API_KEY = "a-key-for-tests"
ALLOWANCE = Allowance(scope="images@emulator")
SMALL = GenerationDefaults(width=64, height=64)
QUICK = PurchaseSettings(
    max_in_flight=4,
    job_timeout_seconds=20,
    poll_min_seconds=0.02,
    poll_max_seconds=0.2,
    lease_seconds=30,
    progress_seconds=0.05,
    link_patience_seconds=0.5,
)

OpenClient = Callable[[], AbstractAsyncContextManager[ImagePipelineClient]]


def numbered_rows(count: int, *, prompt_set: str = "spring", **values: object) -> list[PromptRow]:
    """Return so many rows of one set, each with a prompt of its own."""
    return [
        PromptRow(
            prompt_set=prompt_set,
            prompt_id=f"p{number:04}",
            prompt=f"boat number {number}",
            **values,  # type: ignore[arg-type] # whichever columns a test sets
        )
        for number in range(count)
    ]


def prompts_of(
    rows: Sequence[PromptRow], embeddings: Mapping[str, EmbeddingRow] | None = None
) -> list[Prompt]:
    """Return the rows validated, for small pictures."""
    return list(validated_prompts(rows, embeddings or {}, defaults=SMALL))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """What one purchase came to."""

    report: PurchaseReport
    plan: list[PlannedRequest]
    entries: dict[str, Entry]
    images: list[GeneratedImage]

    @property
    def outcomes(self) -> Counter[str]:
        """How many samples have which outcome."""
        return Counter(str(image.outcome) for image in self.images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buyer:
    """A ledger, a storage and an API, used by one purchase after another."""

    ledger_url: str
    folder: Path
    base_url: str
    api_key: str = API_KEY
    samples_per_call: int = 1
    max_attempts: int = 3
    request_timeout: float = 5.0
    settings: PurchaseSettings = QUICK

    @property
    def storage(self) -> Storage:
        """The storage."""
        return LocalFolder(self.folder)

    def open_ledger(self) -> closing[Ledger]:
        """Open the ledger, for a `with` block."""
        return closing(Ledger(self.ledger_url))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ImagePipelineClient]:
        """Open a client that repeats quickly."""
        async with ImagePipelineClient(
            api_key=self.api_key,
            base_url=self.base_url,
            max_attempts=self.max_attempts,
            request_timeout=self.request_timeout,
            wait_initial=0.01,
        ) as client:
            yield client

    def means(
        self, ledger: Ledger, *, run_id: str = "run", allowance: Allowance = ALLOWANCE
    ) -> Means:
        """Return what this buyer buys with."""
        return Means(
            ledger=ledger,
            storage=self.storage,
            open_client=self.client,
            origin="emulator",
            emulated=True,
            allowance=allowance,
            settings=self.settings,
            run_id=run_id,
        )

    def plan(self, prompts: Sequence[Prompt]) -> list[PlannedRequest]:
        """Return the set's plan as the ledger stands."""
        with self.open_ledger() as ledger:
            return plan_prompt_set(
                prompts,
                prompt_set=prompts[0].prompt_set,
                dataset="images",
                ledger=ledger,
                origin="emulator",
                samples_per_call=self.samples_per_call,
            )

    def buy(
        self,
        prompts: Sequence[Prompt],
        *,
        run_id: str = "run",
        storage: Storage | None = None,
        open_client: OpenClient | None = None,
        allowance: Allowance = ALLOWANCE,
        on_progress: Callable[[PurchaseProgress], None] = lambda _: None,
        beside_others: bool = False,
        withheld: Exception | None = None,
        **settings: float | None,
    ) -> Bought:
        """Plan the set, carry the plan out, and return what came of it."""
        plan = self.plan(prompts)
        with self.open_ledger() as ledger:
            means = dataclasses.replace(
                self.means(ledger, run_id=run_id, allowance=allowance),
                storage=storage or self.storage,
                open_client=open_client or self.client,
                settings=dataclasses.replace(
                    self.settings,
                    **settings,  # type: ignore[arg-type] # whole and other numbers alike
                ),
            )
            uses = uses_of_plan(plan, prompts, dataset="images", run_id=run_id)
            report = Purchase(
                plan=plan,
                uses=uses,
                means=means,
                on_progress=on_progress,
                beside_others=beside_others,
            ).carry_out(withheld=withheld)
            entries = ledger.entries(call.request_key for call in plan)
        images = images_of_plan(prompts, plan, entries, report.sources)
        return Bought(report=report, plan=plan, entries=entries, images=images)

    def entries(self, plan: Iterable[PlannedRequest]) -> dict[str, Entry]:
        """Return what the ledger says of a plan's requests."""
        with self.open_ledger() as ledger:
            return ledger.entries(call.request_key for call in plan)

    def failures_counted(self) -> int:
        """Return how many jobs the ledger counts as failed by the model, each worth one more."""
        with self.open_ledger() as ledger, ledger.reading() as connection:
            query = select(func.count()).where(attempts.c.failure == Failure.MODEL_ERROR)
            return int(connection.execute(query).scalar_one())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetfulBuyer(Buyer):
    """A buyer whose API knows no job; `asked` are the ids that it was asked for."""

    asked: list[str] = dataclasses.field(default_factory=list)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ImagePipelineClient]:
        """Open a client that soon believes it."""
        asked = self.asked

        class Forgetful(ImagePipelineClient):
            async def status(self, task: str, job_id: str) -> Job:
                asked.append(job_id)
                return await super().status(task, "never-heard-of")

        async with Forgetful(
            api_key=self.api_key,
            base_url=self.base_url,
            wait_initial=0.01,
            not_found_patience=0.1,
        ) as client:
            yield client


class FlaggingBuyer(Buyer):
    """A buyer whose API calls the first picture of each job unsafe."""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ImagePipelineClient]:
        """Open a client that hears so."""

        class Flagging(ImagePipelineClient):
            async def status(self, task: str, job_id: str) -> Job:
                job = await super().status(task, job_id)
                return job.model_copy(update={"unsafe": frozenset({0})})

        async with Flagging(api_key=self.api_key, base_url=self.base_url) as client:
            yield client


def request_of(call: PlannedRequest) -> GenerationRequest:
    """Return a planned call as the API's request."""
    return request_for(call.task, json.loads(call.request))


def times_accepted(plan: Iterable[PlannedRequest], stats: EmulatorStats) -> dict[str, int]:
    """Return how often the API took each request of a plan, by request key."""
    return {
        call.request_key: stats.accepted_requests.get(request_hash(request_of(call)), 0)
        for call in plan
    }


def assert_each_sample_has_one_outcome(prompts: Sequence[Prompt], bought: Bought) -> None:
    """Check that every sample asked for is one row, and that none is still open."""
    assert len(bought.images) == sum(prompt.samples for prompt in prompts)
    assert Outcome.PENDING not in bought.outcomes
    places = Counter((i.prompt_id, i.call_index, i.sample_index) for i in bought.images)
    known = {place: n for place, n in places.items() if place[2] is not None}
    assert set(known.values()) <= {1}


def assert_bytes_are_the_vendors(
    bought: Bought, storage: Storage, *, black_too: bool = False
) -> None:
    """Check that what is stored is byte for byte what the emulator draws for its request."""
    calls = {call.request_key: call for call in bought.plan}
    for image in bought.images:
        if image.outcome != Outcome.GENERATED:
            assert image.image_sha256 is None
            continue
        assert image.request_key is not None
        assert image.image_sha256 is not None
        assert image.format is not None
        data = storage.read(image_path(image.image_sha256, image.format))
        assert hashlib.sha256(data).hexdigest() == image.image_sha256
        assert len(data) == image.bytes
        if black_too and image.value_range == 0:
            continue
        call = calls[image.request_key]
        indices = range(call.samples) if image.sample_index is None else [image.sample_index]
        drawn = [draw_png(request_of(call), seed=call.seed, sample_index=k) for k in indices]
        assert data in drawn


def assert_nothing_bought_twice(buyer: Buyer, bought: Bought, stats: EmulatorStats) -> None:
    """Check the emulator's own count: a second job only for a FAILURE that the ledger counts."""
    accepted = times_accepted(bought.plan, stats)
    assert all(count <= MAX_JOBS_PER_REQUEST for count in accepted.values())
    assert stats.posts_accepted <= len(accepted) + buyer.failures_counted()


class ListeningClient(ImagePipelineClient):
    """A client that notes what it was asked, and how many jobs are in flight."""

    def __init__(self, base_url: str, heard: list[str]) -> None:
        super().__init__(api_key=API_KEY, base_url=base_url, wait_initial=0.01)
        self._heard = heard
        self._jobs = 0
        self.most_jobs = 0
        self.patience: list[float] = []

    async def submit(self, request: GenerationRequest, **options: Any) -> Job:  # noqa: ANN401
        """Note the POST."""
        self._heard.append(f"submit {request.prompt}")
        self._jobs += 1
        self.most_jobs = max(self.most_jobs, self._jobs)
        return await super().submit(request, **options)

    async def wait(self, job: Job, **options: Any) -> Job:  # noqa: ANN401 - the client's own
        """Note the end of a job."""
        self._heard.append(f"wait {job.word}")
        self.patience.append(options["timeout"])
        try:
            return await super().wait(job, **options)
        finally:
            self._jobs -= 1
