"""What a run buys with: a ledger, a storage, an API, and what may be spent there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.ledger.budget import Allowance
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.storage.contract import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseSettings:
    """How a purchase is carried out; times in seconds.

    Once more than `max_failure_ratio` of the samples that came to an end in this run failed, it
    stops submitting; a few failures among the first ones are not judged yet. A paid picture that
    cannot be had is asked for again for `link_patience_seconds` in this run, and by later runs
    until `link_lifetime_hours` after its job's success. The limits of the account hold for all runs
    with one ledger together. `keep_source_pictures`: what the links of bought requests lead to.
    """

    max_in_flight: int = 16
    requests_per_second: float | None = None
    account_max_in_flight: int | None = None
    account_requests_per_second: float | None = None
    job_timeout_seconds: float = 900.0
    poll_min_seconds: float = 0.5
    poll_max_seconds: float = 10.0
    lease_seconds: float = 60.0
    progress_seconds: float = 5.0
    max_failure_ratio: float = 0.5
    link_lifetime_hours: float = 24.0
    link_patience_seconds: float = 30.0
    keep_source_pictures: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a run buys with.

    Attributes:
        ledger: where each step is recorded.
        storage: where the pictures go.
        open_client: opens the API's client.
        origin: of the API, as in a request's key.
        emulated: whether the emulator answers.
        allowance: what may be spent; reserved before each POST.
        settings: how purchases are carried out.
        run_id: of the Dagster run.
    """

    ledger: Ledger
    storage: Storage
    open_client: Callable[[], AbstractAsyncContextManager[ImagePipelineClient]]
    origin: str
    emulated: bool
    allowance: Allowance
    settings: PurchaseSettings
    run_id: str
