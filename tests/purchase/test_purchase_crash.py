"""Purchases in real processes: killed at each step, interrupted, and two at a time.

The emulator is a process of its own too, and its count of accepted requests is the proof.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from imagepipeline_dagster.databases import copy_sqlite
from imagepipeline_dagster.emulator import EmulatorStats, Fault, FaultKind, Operation
from imagepipeline_dagster.ledger.decisions import LedgerDecision, decide
from imagepipeline_dagster.ledger.identity import LedgerMismatch, check_ledger
from imagepipeline_dagster.ledger.records import Failure, Outcome, State
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.planning.prompts import Prompt
from tests.api.servers import Reply, serving
from tests.buying import (
    API_KEY,
    Buyer,
    assert_bytes_are_the_vendors,
    assert_each_sample_has_one_outcome,
    times_accepted,
)
from tests.purchase.forking import INTERRUPTED, Order, Orders
from tests.release.samples import picture
from tests.waiting import until

_REPOSITORY = Path(__file__).parents[2]
_EMULATOR = """
import sys
from imagepipeline_dagster.emulator import EmulatorSettings, serve
serve(
    EmulatorSettings(api_key=sys.argv[1], latency_seconds=float(sys.argv[2])),
    port=0,
    on_ready=lambda url: print(url, flush=True),
)
"""


class Vendor:
    """An emulator in a process of its own."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def stats(self) -> EmulatorStats:
        """What it was asked so far."""
        answer = httpx.get(f"{self.url}/_emulator/stats", timeout=10)
        return EmulatorStats.model_validate_json(answer.content)

    def set_faults(self, *faults: Fault) -> None:
        """Put these faults in force."""
        body = {"faults": [fault.model_dump(mode="json") for fault in faults]}
        httpx.put(f"{self.url}/_emulator/faults", json=body, timeout=10).raise_for_status()


@contextlib.contextmanager
def vendor_process(latency_seconds: float) -> Iterator[Vendor]:
    """Run an emulator until the block ends."""
    command = [sys.executable, "-c", _EMULATOR, API_KEY, str(latency_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            yield Vendor(process.stdout.readline().strip())
        finally:
            process.kill()


@pytest.fixture
def vendor(shared_vendor: Vendor) -> Iterator[Vendor]:
    """A quick emulator in another process, without a fault once the test has ended."""
    try:
        yield shared_vendor
    finally:
        shared_vendor.set_faults()


@pytest.fixture(scope="module")
def shared_vendor() -> Iterator[Vendor]:
    """The emulator of all tests here: each has prompts of its own."""
    with vendor_process(0.03) as started:
        yield started


class Workers:
    """Purchases in processes of their own; see `forking`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._under_way: list[int] = []

    def start(self, *orders: Order) -> list[int]:
        """Start the purchases and return their process ids."""
        assert self._process.stdin is not None
        self._process.stdin.write(Orders(orders=list(orders)).model_dump_json() + "\n")
        self._process.stdin.flush()
        self._under_way = self._line()
        return self._under_way

    def wait(self) -> list[int]:
        """Wait until all have ended, and return their exit codes; -9 is SIGKILL."""
        codes = self._line()
        self._under_way = []
        return codes

    def end(self) -> None:
        """End what a test that failed did not wait for: the next one would read of it."""
        for pid in self._under_way:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._under_way:
            self.wait()

    def run(self, *orders: Order) -> list[int]:
        """Carry the purchases out at the same time and return their exit codes."""
        self.start(*orders)
        return self.wait()

    def _line(self) -> list[int]:
        assert self._process.stdout is not None
        numbers: list[int] = json.loads(self._process.stdout.readline())
        return numbers


@pytest.fixture
def workers(forking: Workers) -> Iterator[Workers]:
    """The purchases of one test, which has none left at its end."""
    try:
        yield forking
    finally:
        forking.end()


@pytest.fixture(scope="module")
def forking() -> Iterator[Workers]:
    """A process that forks purchases."""
    command = [sys.executable, "-m", "tests.purchase.forking"]
    with subprocess.Popen(  # noqa: S603 - this very interpreter
        command, cwd=_REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Workers(process)
        finally:
            process.kill()


MakeOrder = Callable[..., Order]


@pytest.fixture
def make_order(tmp_path: Path) -> MakeOrder:
    """Return orders of three calls, with names that no other test uses."""
    name = f"set-{uuid.uuid4().hex[:8]}"

    def make(vendor: Vendor, **values: object) -> Order:
        usual = {
            "ledger_url": f"sqlite:///{tmp_path / 'ledger.db'}",
            "folder": tmp_path / "data",
            "base_url": vendor.url,
            "prompt_set": name,
            "calls": 3,
        }
        return Order.model_validate({**usual, **values})

    return make


LEDGER_STEPS = ("claim", "submitted", "stored", "succeeded")
POINTS = [
    *(f"{step}:{moment}" for step in LEDGER_STEPS for moment in ("before", "uncommitted")),
    *(f"{step}:committed" for step in LEDGER_STEPS),
    *(f"{step}:{moment}" for step in ("submit", "status") for moment in ("before", "after")),
    *(f"{step}:{moment}" for step in ("download", "images") for moment in ("before", "after")),
    *(f"thumbnails:{moment}" for moment in ("before", "after")),
    *(f"release:{moment}" for moment in ("before", "uncommitted", "committed")),
]
BESIDE = ("images:before:1", "images:after:1", "images:after:2", "source:committed:1")
CLAIM_WINDOW = (
    "claim:committed",
    "submit:before",
    "submit:after",
    "submitted:before",
    "submitted:uncommitted",
)
"""Where a claim is durable and its answer is not: nobody can tell afterwards what was bought."""


@pytest.mark.slow
@pytest.mark.parametrize("point", BESIDE)
def test_a_process_killed_beside_a_source_picture_loses_nothing(
    point: str, vendor: Vendor, workers: Workers, make_order: MakeOrder
) -> None:
    """After SIGKILL while both pictures land, the next run has both, and bought nothing more."""
    with serving(Reply(body=picture(1))) as server:
        order = make_order(vendor, calls=1, init_image=f"{server.url}/a.png", dies_at=point)
        assert workers.run(order) == [-signal.SIGKILL]
        bought = order.buyer().buy(order.prompts(), keep_source_pictures=True)

    [image] = bought.images
    assert image.outcome == Outcome.GENERATED
    assert image.init_image_sha256 == hashlib.sha256(picture(1)).hexdigest()
    assert set(times_accepted(bought.plan, vendor.stats).values()) == {1}
    assert len(list(order.buyer().storage.list("images"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_at_any_step_buys_nothing_twice(
    point: str, vendor: Vendor, workers: Workers, make_order: MakeOrder
) -> None:
    """After SIGKILL at a step, the next run buys just the rest; the claim's window is unknown."""
    occurrence = 1 if point.startswith("release") else 2
    # Of two samples a call: the first is recorded by itself, the last with the job's end.
    order = make_order(vendor, samples_per_call=2, dies_at=f"{point}:{occurrence}")
    buyer, prompts = order.buyer(), order.prompts()

    assert workers.run(order) == [-signal.SIGKILL]
    left = buyer.entries(buyer.plan(prompts))
    bought = buyer.buy(prompts, run_id="after")
    again = buyer.buy(prompts, run_id="again")

    in_window = {key for key, entry in left.items() if entry.state is State.CLAIMED}
    accepted = times_accepted(bought.plan, vendor.stats)
    assert in_window or point not in CLAIM_WINDOW
    for image in bought.images:
        assert image.request_key is not None
        lost = image.request_key in in_window
        assert image.outcome == (Outcome.UNKNOWN if lost else Outcome.GENERATED)
        assert accepted[image.request_key] <= 1
        assert lost or accepted[image.request_key] == 1
    assert again.outcomes == bought.outcomes
    assert times_accepted(bought.plan, vendor.stats) == accepted
    assert_each_sample_has_one_outcome(prompts, bought)
    assert_bytes_are_the_vendors(bought, buyer.storage)


AMBIGUOUS: dict[str, Fault] = {
    "503 after taking": Fault(kind="server_error", status=503, after_accepting=True, times=1),
    "303 to the job": Fault(kind=FaultKind.REDIRECT_TO_JOB),
    "links come late": Fault(kind=FaultKind.EMPTY_LINKS, times=3),
    "pictures come late": Fault(kind=FaultKind.LATE_LINK, times=4),
    "a page for a while": Fault(kind="html_page", operation=Operation.DOWNLOAD, seconds=1.0),
    "a page for a status": Fault(kind="html_page", operation=Operation.STATUS, seconds=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", ["submit:after:1", "submitted:committed:2", "status:after:3", "download:before:2"]
)
@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_process_killed_at_an_unclear_vendor_buys_nothing_twice(
    name: str, point: str, workers: Workers, make_order: MakeOrder
) -> None:
    """A death amid answers that leave open what they mean is as harmless as any other."""
    with vendor_process(0.03) as vendor:
        vendor.set_faults(AMBIGUOUS[name])
        order = make_order(vendor, dies_at=point)
        buyer, prompts = order.buyer(), order.prompts()
        workers.run(order)
        left = buyer.entries(buyer.plan(prompts))
        buyer.buy(prompts, run_id="after")
        vendor.set_faults()
        bought = buyer.buy(prompts, run_id="again")
        stats = vendor.stats

    lost = {i.request_key for i in bought.images if i.outcome == Outcome.UNKNOWN}
    in_window = {key for key, entry in left.items() if entry.state is not State.SUBMITTED}
    assert lost <= in_window
    assert len(lost) <= 2
    assert stats.bought_twice == ()
    assert bought.outcomes["generated"] == 3 - len(lost)
    assert_each_sample_has_one_outcome(prompts, bought)
    assert_bytes_are_the_vendors(bought, buyer.storage)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["failed:before", "failed:uncommitted", "failure:committed"])
def test_a_process_killed_at_a_failure_buys_one_more_job_and_not_two(
    point: str, vendor: Vendor, workers: Workers, make_order: MakeOrder
) -> None:
    """The failure of a paid job is counted once, wherever the process dies around noting it."""
    order = make_order(vendor, calls=1, dies_at=f"{point}:1")
    buyer, prompts = order.buyer(), order.prompts()
    vendor.set_faults(Fault(kind=FaultKind.JOB_FAILURE, times=1))

    assert workers.run(order) == [-signal.SIGKILL]
    bought = buyer.buy(prompts, run_id="after")

    assert bought.outcomes == {"generated": 1}
    assert list(times_accepted(bought.plan, vendor.stats).values()) == [2]
    assert [entry.attempt for entry in bought.entries.values()] == [2]
    assert buyer.failures_counted() == 1


@pytest.mark.slow
def test_a_busy_process_killed_again_and_again_buys_nothing_twice(
    vendor: Vendor, workers: Workers, make_order: MakeOrder
) -> None:
    """Deaths at random points of a purchase with many jobs in flight add up to no second purchase.

    Each run comes further than the one before, and what ends unknown was claimed when a run died.
    """
    # A death takes six claims with it at most, so there is work left for the last of the four.
    calls = 64
    order = make_order(vendor, calls=calls)
    buyer, prompts = order.buyer(), order.prompts()
    claimed: set[str] = set()
    for point in (
        "succeeded:before:3",
        "submitted:committed:4",
        "images:after:5",
        "status:after:2",
    ):
        order = make_order(vendor, calls=calls, max_in_flight=6, dies_at=point)
        assert workers.run(order) == [-signal.SIGKILL]
        left = buyer.entries(buyer.plan(prompts))
        claimed |= {key for key, entry in left.items() if entry.state is State.CLAIMED}
    bought = buyer.buy(prompts, run_id="after")

    lost = {image.request_key for image in bought.images if image.outcome == Outcome.UNKNOWN}
    assert lost <= claimed
    assert bought.outcomes["generated"] == calls - len(lost)
    assert max(times_accepted(bought.plan, vendor.stats).values()) == 1
    assert_each_sample_has_one_outcome(prompts, bought)
    assert_bytes_are_the_vendors(bought, buyer.storage)


def test_two_processes_on_one_set_buy_each_call_once(
    ledger_url: str, vendor: Vendor, workers: Workers, make_order: MakeOrder
) -> None:
    """Two runs of one set at once, on either database, send as many POSTs as the plan has calls."""
    order = make_order(vendor, ledger_url=ledger_url, calls=16, max_in_flight=4)
    posts = vendor.stats.posts_received

    assert workers.run(order, order) == [0, 0]
    now = vendor.stats.posts_received
    bought = order.buyer().buy(order.prompts(), run_id="after")

    assert now - posts == 16
    assert vendor.stats.posts_received == now
    assert set(times_accepted(bought.plan, vendor.stats).values()) == {1}
    assert bought.outcomes == {"generated": 16}
    assert_bytes_are_the_vendors(bought, order.buyer().storage)


def test_two_processes_share_the_failures_of_one_set(
    ledger_url: str, vendor: Vendor, workers: Workers, make_order: MakeOrder
) -> None:
    """Two runs of a set whose jobs all fail pay for the permitted jobs of each call, together."""
    order = make_order(vendor, ledger_url=ledger_url, calls=6, max_in_flight=3)
    vendor.set_faults(Fault(kind=FaultKind.JOB_FAILURE))

    codes = workers.run(order, order)
    vendor.set_faults()
    bought = order.buyer().buy(order.prompts(), run_id="after")

    assert codes == [0, 0]
    assert set(times_accepted(bought.plan, vendor.stats).values()) == {2}
    assert bought.outcomes == {"failed": 6}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_purchase_ends_soon_and_keeps_every_job(
    number: signal.Signals, workers: Workers, make_order: MakeOrder
) -> None:
    """An interruption stops the sending, keeps every job's id and waits for no job."""
    with vendor_process(0.5) as vendor:
        order = make_order(vendor, calls=40, max_in_flight=4)
        buyer, prompts = order.buyer(), order.prompts()
        [pid] = workers.start(order)
        until(lambda: vendor.stats.posts_accepted >= 6, what="six jobs")

        vendor.set_faults(Fault(kind=FaultKind.STUCK))
        os.kill(pid, number)
        codes = workers.wait()

        posts = vendor.stats.posts_accepted
        vendor.set_faults()
        left = buyer.entries(buyer.plan(prompts))
        bought = buyer.buy(prompts, run_id="after", max_in_flight=32)
        stats = vendor.stats
    assert codes == [INTERRUPTED]
    assert posts < 40
    assert not [entry for entry in left.values() if entry.state is State.CLAIMED]
    with_id = [entry for entry in left.values() if entry.job_id]
    assert len(with_id) == posts
    assert bought.outcomes == {"generated": 40}
    assert stats.posts_accepted == 40
    assert stats.bought_twice == ()


def test_an_interruption_while_throttled_leaves_nothing_unknown(
    workers: Workers, make_order: MakeOrder
) -> None:
    """A POST that waits for its turn is not sent any more, and is known not to have been."""
    with vendor_process(0.1) as vendor:
        vendor.set_faults(Fault(kind=FaultKind.RATE_LIMITED, retry_after_seconds=3600))
        order = make_order(vendor, calls=4, max_in_flight=4)
        buyer, prompts = order.buyer(), order.prompts()
        [pid] = workers.start(order)
        until(lambda: vendor.stats.posts_received >= 1, what="a POST")

        os.kill(pid, signal.SIGINT)
        codes = workers.wait()

        left = buyer.entries(buyer.plan(prompts))
        vendor.set_faults()
        bought = buyer.buy(prompts, run_id="after")
        stats = vendor.stats
    assert codes == [INTERRUPTED]
    assert {entry.failure for entry in left.values()} == {Failure.NOT_SENT}
    assert bought.outcomes == {"generated": 4}
    assert stats.posts_accepted == 4


def copy_of(ledger: Path) -> Path:
    """Return a copy of a ledger that is in use, as `ledger backup` makes it."""
    copied = ledger.with_name(f"{uuid.uuid4().hex}.db")
    copy_sqlite(ledger, copied)
    return copied


def knows_too_little(copied: Path, buyer: Buyer) -> bool:
    """Tell whether more was bought meanwhile than a copy of the ledger knows."""
    with contextlib.closing(Ledger(f"sqlite:///{copied}", create=False)) as ledger:
        try:
            check_ledger(ledger, buyer.storage)
        except LedgerMismatch:
            return True
    return False


def nobody_holds(buyer: Buyer, prompts: Sequence[Prompt]) -> bool:
    """Tell whether every lease of these requests is over."""
    entries = buyer.entries(buyer.plan(prompts)).values()
    return all(entry.lease_until < dt.datetime.now(dt.UTC) for entry in entries)


def put_in_place(ledger: Path, copied: Path | None) -> None:
    """Put a copy, or nothing, in a ledger's place."""
    for beside in ("", "-wal", "-shm"):
        ledger.with_name(ledger.name + beside).unlink(missing_ok=True)
    if copied is not None:
        copied.rename(ledger)


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["lost", "emptied", "put back from before", "put back from amid"])
def test_a_ledger_harmed_after_a_kill_buys_nothing(
    harm: str, workers: Workers, make_order: MakeOrder, tmp_path: Path
) -> None:
    """After SIGKILL another ledger than the one that bought is refused; the right one goes on."""
    ledger = tmp_path / "ledger.db"
    with vendor_process(0.4) as vendor:
        first = make_order(vendor, calls=1)
        order = make_order(vendor, calls=24, max_in_flight=2)
        buyer, prompts = order.buyer(), order.prompts()
        first.buyer().buy(first.prompts())
        copies = {"put back from before": copy_of(ledger)}
        [pid] = workers.start(order)
        until(lambda: vendor.stats.posts_accepted >= 4, what="four jobs")
        copies["put back from amid"] = copy_of(ledger)
        until(lambda: knows_too_little(copies["put back from amid"], buyer), what="the gap")
        os.kill(pid, signal.SIGKILL)
        workers.wait()
        paid = vendor.stats.posts_accepted
        right = copy_of(ledger)

        put_in_place(ledger, copies.get(harm))
        if harm == "emptied":
            ledger.touch()
        refused = buyer.buy(prompts, run_id="refused").report.stopper
        at_refusal = vendor.stats.posts_accepted
        put_in_place(ledger, right)
        bought = buyer.buy(prompts, run_id="after", max_in_flight=16)
        stats = vendor.stats

    assert isinstance(refused, LedgerMismatch)
    assert at_refusal == paid
    assert 4 <= paid < 24
    assert stats.bought_twice == ()
    assert bought.outcomes["generated"] + bought.outcomes["unknown"] == 24
    assert bought.outcomes["unknown"] <= 2


@pytest.mark.slow
@pytest.mark.parametrize("wakes", ["before the other ends", "after the other ended"])
def test_a_process_that_slept_with_a_job_leaves_it_to_the_other(
    wakes: str, workers: Workers, make_order: MakeOrder
) -> None:
    """Stopped beyond its lease with a paid job, it neither loses nor overwrites the picture."""
    with vendor_process(1.5 if wakes == "before the other ends" else 0.3) as vendor:
        order = make_order(vendor, calls=1, lease_seconds=0.6)
        buyer, prompts = order.buyer(), order.prompts()
        [pid] = workers.start(order)
        until(lambda: vendor.stats.posts_accepted >= 1, what="a job")
        until(
            lambda: all(entry.job_id for entry in buyer.entries(buyer.plan(prompts)).values()),
            what="the job's id",
        )
        os.kill(pid, signal.SIGSTOP)
        until(lambda: nobody_holds(buyer, prompts), what="the leases to end")
        wake = threading.Timer(
            0.3 if wakes == "before the other ends" else 60.0, os.kill, (pid, signal.SIGCONT)
        )
        wake.start()
        bought = buyer.buy(prompts, run_id="another")
        wake.cancel()
        with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
            os.kill(pid, signal.SIGCONT)
        codes = workers.wait()
        again = buyer.buy(prompts, run_id="again")
        stats = vendor.stats
    assert codes == [0]
    assert bought.outcomes == again.outcomes == {"generated": 1}
    assert bought.report.resumed == 1
    assert (stats.posts_accepted, again.report.posts) == (1, 0)
    assert_bytes_are_the_vendors(again, buyer.storage)


def test_a_process_that_slept_beyond_its_lease_sends_nothing(
    workers: Workers, make_order: MakeOrder
) -> None:
    """Stopped before its POST and woken after another bought the request, it sends it no more."""
    with vendor_process(0.1) as vendor:
        vendor.set_faults(Fault(kind=FaultKind.RATE_LIMITED, times=1, retry_after_seconds=2))
        order = make_order(vendor, calls=1, lease_seconds=1.0)
        buyer, prompts = order.buyer(), order.prompts()
        [pid] = workers.start(order)
        until(lambda: vendor.stats.posts_received >= 1, what="a POST")
        sent_again_at = time.monotonic() + 2
        os.kill(pid, signal.SIGSTOP)
        until(lambda: nobody_holds(buyer, prompts), what="the leases to end")
        lapsed = buyer.buy(prompts, run_id="another")
        with buyer.open_ledger() as ledger:
            decide(
                ledger,
                list(lapsed.entries),
                LedgerDecision.RESUBMIT,
                who="mira",
                why="that machine sleeps",
            )
        bought = buyer.buy(prompts, run_id="another")
        time.sleep(max(0.0, sent_again_at - time.monotonic()))
        os.kill(pid, signal.SIGCONT)
        codes = workers.wait()
        stats = vendor.stats
        [entry] = buyer.entries(bought.plan).values()
    assert lapsed.outcomes == {"unknown": 1}
    assert bought.outcomes == {"generated": 1}
    assert codes == [0]
    assert stats.posts_accepted == 1
    assert (entry.state, entry.run_id) == (State.SUCCEEDED, "another")
