"""Paid pictures that cannot be had at once: a bad moment ends nothing, and buys nothing again."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import update
from typing_extensions import override

from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind, Operation
from imagepipeline_dagster.ledger.schema import requests
from imagepipeline_dagster.purchase.landing import CALLED_UNSAFE
from imagepipeline_dagster.rows import fields_of
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.buying import Buyer, FlaggingBuyer, numbered_rows, prompts_of

DOWNLOAD, STATUS = Operation.DOWNLOAD, Operation.STATUS

MOMENTS: dict[str, Fault] = {
    "the link says 403": Fault(kind=FaultKind.EXPIRED_LINK, seconds=0.4),
    "the link says 404": Fault(kind=FaultKind.LATE_LINK, seconds=0.4),
    "the link says 401": Fault(kind="refused", operation=DOWNLOAD, status=401, seconds=0.4),
    "the link says 425": Fault(kind="refused", operation=DOWNLOAD, status=425, seconds=0.4),
    "a page in place of the picture": Fault(kind="html_page", operation=DOWNLOAD, seconds=0.4),
    "half of the picture": Fault(kind=FaultKind.TRUNCATED_BYTES, seconds=0.4),
    "no links": Fault(kind=FaultKind.MISSING_LINKS, seconds=0.4),
    "a relative link": Fault(kind=FaultKind.USELESS_LINKS, link="pictures/1.png", seconds=0.4),
    "a link to a file": Fault(kind=FaultKind.USELESS_LINKS, seconds=0.4),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_a_passing_trouble_is_no_end(name: str, buyer: Buyer, emulator: EmulatorServer) -> None:
    """What cannot be had for a moment after SUCCESS is there a moment later, in the same run."""
    emulator.set_faults(MOMENTS[name])

    bought = buyer.buy(prompts_of(numbered_rows(2)), link_patience_seconds=5)

    assert bought.outcomes == {"generated": 2}
    assert emulator.stats.posts_received == 2


@pytest.mark.parametrize("name", MOMENTS)
def test_a_longer_trouble_is_left_to_later_runs(
    name: str, buyer: Buyer, emulator: EmulatorServer
) -> None:
    """While its links live, a paid picture stays open; a later run brings it home for nothing."""
    fault = MOMENTS[name].model_copy(update={"seconds": None})
    prompts = prompts_of(numbered_rows(2))
    emulator.set_faults(fault)
    troubled = buyer.buy(prompts, link_patience_seconds=0.1)
    still = buyer.buy(prompts, link_patience_seconds=0.1)
    emulator.set_faults()
    bought = buyer.buy(prompts)

    assert troubled.outcomes == still.outcomes == {"pending": 2}
    assert all(image.error for image in still.images)
    assert bought.outcomes == {"generated": 2}
    assert emulator.stats.posts_received == 2


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("the link says 403", "expired"),
        ("a page in place of the picture", "undecodable"),
        ("no links", "expired"),
        ("a relative link", "expired"),
        ("a link to a file", "expired"),
    ],
)
def test_when_its_links_are_over_a_picture_is_lost(
    name: str, outcome: str, buyer: Buyer, emulator: EmulatorServer
) -> None:
    """After `link_lifetime_hours` the outcome is final, with its reason, and not bought again."""
    prompts = prompts_of(numbered_rows(1))
    emulator.set_faults(MOMENTS[name].model_copy(update={"seconds": None}))
    buyer.buy(prompts, link_patience_seconds=0.1)
    lost = buyer.buy(prompts, link_lifetime_hours=0)
    emulator.set_faults()

    assert buyer.buy(prompts).outcomes == lost.outcomes == {outcome: 1}
    assert lost.images[0].error
    assert emulator.stats.posts_received == 1


def test_links_live_from_the_success_on(buyer: Buyer, emulator: EmulatorServer) -> None:
    """A job that was pending for days has the whole lifetime of its links still before it."""
    prompts = prompts_of(numbered_rows(1))
    emulator.set_faults(Fault(kind=FaultKind.STUCK))
    waiting = buyer.buy(prompts, job_timeout_seconds=0.1)
    with buyer.open_ledger() as ledger, ledger.engine.begin() as connection:
        days_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=3)
        connection.execute(update(requests).values(submitted_at=days_ago))
    emulator.set_faults(Fault(kind=FaultKind.LATE_LINK))
    troubled = buyer.buy(prompts, link_patience_seconds=0.1)
    [entry] = troubled.entries.values()
    still = buyer.buy(prompts, link_patience_seconds=0.1)

    assert waiting.outcomes == troubled.outcomes == still.outcomes == {"pending": 1}
    assert entry.links_since is not None
    assert [it.links_since for it in still.entries.values()] == [entry.links_since]
    assert buyer.buy(prompts, link_lifetime_hours=0).outcomes == {"expired": 1}


def test_of_a_call_what_can_be_had_is_kept(buyer: Buyer, emulator: EmulatorServer) -> None:
    """A sample that cannot be had keeps no other from coming, and none is downloaded twice."""
    pair = dataclasses.replace(buyer, samples_per_call=2)
    prompts = prompts_of(numbered_rows(1, samples=2))
    emulator.set_faults(Fault(kind=FaultKind.LATE_LINK, times=1))
    half = pair.buy(prompts, link_patience_seconds=0)
    emulator.set_faults(Fault(kind=FaultKind.EXPIRED_LINK))
    troubled = pair.buy(prompts, link_patience_seconds=0)
    emulator.set_faults()
    whole = pair.buy(prompts)

    assert half.outcomes == troubled.outcomes == {"generated": 2}
    assert whole.outcomes == {"generated": 2}
    assert emulator.stats.downloads == 3


def test_an_empty_list_is_asked_for_again(buyer: Buyer, emulator: EmulatorServer) -> None:
    """A list of links without any counts as filtered after some more looks alone."""
    prompts = prompts_of(numbered_rows(1))
    emulator.set_faults(Fault(kind=FaultKind.FEWER_LINKS))

    bought = buyer.buy(prompts)

    assert bought.outcomes == {"vendor_filtered": 1}
    assert emulator.stats.status_requests >= 3


def test_links_that_come_some_looks_later_are_followed(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """A store that is slower than the status costs no picture, though the API was to check it."""
    emulator.set_faults(Fault(kind=FaultKind.EMPTY_LINKS, times=3))

    assert buyer.buy(prompts_of(numbered_rows(1))).outcomes == {"generated": 1}


def test_a_job_that_is_pending_once_more_is_waited_for(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """A status that falls behind its own SUCCESS says nothing of the links, and ends no run."""
    emulator.set_faults(
        Fault(kind=FaultKind.EMPTY_LINKS, times=1), Fault(kind=FaultKind.STUCK, times=2)
    )

    assert buyer.buy(prompts_of(numbered_rows(1))).outcomes == {"generated": 1}


def test_without_a_checker_a_short_list_is_no_filter(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """Where the API was not to check, missing links are late: what came is kept, the rest open."""
    pair = dataclasses.replace(buyer, samples_per_call=2)
    prompts = prompts_of(numbered_rows(1, samples=2, safety_checker=False))
    emulator.set_faults(Fault(kind=FaultKind.EMPTY_LINKS))
    empty = pair.buy(prompts, link_patience_seconds=0.1)
    emulator.set_faults()

    assert empty.outcomes == {"pending": 2}
    assert pair.buy(prompts).outcomes == {"generated": 2}

    shorter = prompts_of(numbered_rows(1, samples=2, safety_checker=False, seed=7))
    emulator.set_faults(Fault(kind=FaultKind.FEWER_LINKS))
    half = pair.buy(shorter, link_patience_seconds=0.1)
    over = pair.buy(shorter, link_lifetime_hours=0)

    assert half.outcomes == {"generated": 1, "pending": 1}
    assert over.outcomes == {"generated": 1, "expired": 1}
    assert emulator.stats.posts_accepted == 2


def test_what_the_api_calls_unsafe_is_filtered(buyer: Buyer, emulator: EmulatorServer) -> None:
    """A picture that its answer calls unsafe is not fetched; where nothing was to check, it is."""
    pair = FlaggingBuyer(**fields_of(buyer) | {"samples_per_call": 2})
    checked = pair.buy(prompts_of(numbered_rows(1, samples=2)))
    unchecked = pair.buy(prompts_of(numbered_rows(1, samples=2, safety_checker=False)))

    assert [(image.sample_index, image.outcome) for image in checked.images] == [
        (0, "vendor_filtered"),
        (1, "generated"),
    ]
    assert checked.images[0].error == CALLED_UNSAFE
    assert unchecked.outcomes == {"generated": 2}
    assert emulator.stats.downloads == 3


USELESS: dict[str, Fault] = {
    "undecodable": Fault(kind="html_page", operation=DOWNLOAD),
    "dead links": Fault(kind=FaultKind.EXPIRED_LINK),
    "no links": Fault(kind=FaultKind.MISSING_LINKS),
    "refused links": Fault(kind=FaultKind.USELESS_LINKS),
    "blank": Fault(kind=FaultKind.BLACK_IMAGE),
    "unreadable answers": Fault(kind="html_page", after_accepting=True),
    "lost answers": Fault(kind=FaultKind.DROPPED_ANSWER),
    "jobs without an end": Fault(kind=FaultKind.UNKNOWN_STATUS),
    "no status": Fault(kind=FaultKind.SERVER_ERROR, operation=Operation.STATUS),
}


@pytest.mark.parametrize("name", USELESS)
def test_a_run_that_buys_nothing_useful_stops(
    name: str, buyer: Buyer, emulator: EmulatorServer
) -> None:
    """`max_failure_ratio` judges whatever is of no use, and stops long before the plan's end."""
    emulator.set_faults(USELESS[name])

    bought = buyer.buy(
        prompts_of(numbered_rows(80)), link_patience_seconds=0, job_timeout_seconds=1
    )

    assert "samples failed, the last since " in str(bought.report.stopper)
    assert emulator.stats.posts_accepted < 60


def test_a_run_that_stops_says_what_failed(buyer: Buyer, emulator: EmulatorServer) -> None:
    """Who reads a failed run's message knows the API's own reason without the ledger, in a line.

    It opens no link: a message goes into events, and to whoever is alerted.
    """
    reason = "init_image:\n https://host.example/a.png?sig=5ec7e7 does not answer " + "x" * 9_999
    emulator.set_faults(Fault(kind=FaultKind.JOB_FAILURE, message=reason))

    bought = buyer.buy(prompts_of(numbered_rows(40)))

    told = "the last since init_image: https://host.example/a.png does not answer xxx"
    assert told in str(bought.report.stopper)
    assert len(str(bought.report.stopper)) < 400


def test_a_request_is_sent_max_attempts_times_in_a_run(
    buyer: Buyer, emulator: EmulatorServer
) -> None:
    """Repeats of one request count together, and what was never bought can be bought later."""
    emulator.set_faults(Fault(kind=FaultKind.RATE_LIMITED, retry_after_seconds=0))
    prompts = prompts_of(numbered_rows(1))

    assert dataclasses.replace(buyer, max_attempts=3).buy(prompts).outcomes == {"pending": 1}
    assert emulator.stats.posts_received == 3
    emulator.set_faults()
    assert buyer.buy(prompts).outcomes == {"generated": 1}
    assert emulator.stats.posts_accepted == 1


def test_503_after_taking_is_bought_once(buyer: Buyer, emulator: EmulatorServer) -> None:
    """A 503 that does not say when to come again is no proof: it is not sent a second time."""
    emulator.set_faults(Fault(kind="server_error", status=503, after_accepting=True))
    prompts = prompts_of(numbered_rows(2))

    assert buyer.buy(prompts).outcomes == buyer.buy(prompts).outcomes == {"unknown": 2}
    assert emulator.stats.posts_received == 2


def test_303_to_the_job_is_the_job(buyer: Buyer, emulator: EmulatorServer) -> None:
    """A redirect to its status names a job, which is waited for."""
    emulator.set_faults(Fault(kind=FaultKind.REDIRECT_TO_JOB))

    assert buyer.buy(prompts_of(numbered_rows(2))).outcomes == {"generated": 2}
    assert emulator.stats.posts_received == 2


def test_no_quota_stops_the_run_at_once(buyer: Buyer, emulator: EmulatorServer) -> None:
    """429 that means that the account cannot pay is not repeated; later the rows are bought."""
    emulator.set_faults(Fault(kind=FaultKind.OUT_OF_QUOTA))
    prompts = prompts_of(numbered_rows(20))
    stopped = buyer.buy(prompts)
    posts = emulator.stats.posts_received
    emulator.set_faults()

    assert stopped.outcomes == {"pending": 20}
    assert "cannot pay" in str(stopped.report.stopper)
    assert posts <= 4
    assert buyer.buy(prompts).outcomes == {"generated": 20}


TROUBLE_OF_THE_ACCOUNT = {
    "400 for the key": Fault(kind="refused", status=400, message="API key not valid"),
    "410": Fault(kind="refused", status=410, message="this version is retired"),
    "425": Fault(kind="refused", status=425, message="too early"),
    "403 for the rate": Fault(kind="refused", status=403, message="rate limit exceeded"),
}


@pytest.mark.parametrize("name", TROUBLE_OF_THE_ACCOUNT)
def test_account_trouble_is_no_rows_fault(
    name: str, buyer: Buyer, emulator: EmulatorServer
) -> None:
    """Rows that met a refused key, a rate or a wrong address are bought once it is put right."""
    prompts = prompts_of(numbered_rows(2))
    emulator.set_faults(TROUBLE_OF_THE_ACCOUNT[name])

    assert dataclasses.replace(buyer, max_attempts=2).buy(prompts).outcomes == {"pending": 2}
    emulator.set_faults()
    assert buyer.buy(prompts).outcomes == {"generated": 2}


def test_another_jobs_picture_is_not_stored(buyer: Buyer, emulator: EmulatorServer) -> None:
    """An answer about another job leaves its request open, and says what came."""
    prompts = prompts_of(numbered_rows(1))
    emulator.set_faults(Fault(kind=FaultKind.OTHER_JOB))
    confused = buyer.buy(prompts, job_timeout_seconds=1)
    emulator.set_faults()

    assert confused.outcomes == {"pending": 1}
    assert "another-job" in str(confused.images[0].error)
    assert buyer.buy(prompts).outcomes == {"generated": 1}
    assert emulator.stats.posts_received == 1


class SlowFolder(LocalFolder):
    """A folder as slow as a bucket; `most` is how many objects were on their way at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._lock = threading.Lock()
        self._under_way = 0
        self.most = 0

    @override
    def write(self, path: str, data: bytes, *, derived: bool = False) -> str:
        with self._lock:
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        time.sleep(0.5)
        with self._lock:
            self._under_way -= 1
        return super().write(path, data, derived=derived)


def test_many_objects_are_written_at_once(buyer: Buyer) -> None:
    """Pictures and their thumbnails wait for a slow storage side by side, on any machine."""
    storage = SlowFolder(buyer.folder)

    bought = buyer.buy(prompts_of(numbered_rows(24)), storage=storage, max_in_flight=24)

    assert bought.outcomes == {"generated": 24}
    # A slow run writes its count of purchases meanwhile.
    assert 16 < storage.most <= 32 + 1
