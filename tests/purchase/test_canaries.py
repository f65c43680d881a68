"""Canaries: bought once a day at most, and compared by what is there."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind, Operation
from imagepipeline_dagster.ledger.budget import Allowance, Budget, BudgetReached
from imagepipeline_dagster.planning.approval import Approval, NotApproved
from imagepipeline_dagster.purchase.canaries import (
    Canaries,
    CanaryLook,
    buy_canaries,
    drift_of,
    look_at_canaries,
)
from imagepipeline_dagster.purchase.likeness import Likeness
from imagepipeline_dagster.purchase.replay import ReplayFailed
from tests.buying import ALLOWANCE, Buyer, numbered_rows, prompts_of
from tests.conftest import StartEmulator

MONDAY = dt.date(2026, 3, 2)


@pytest.fixture
def pinned(buyer: Buyer) -> list[str]:
    """Two pictures, bought, by the first digits of their hashes."""
    images = buyer.buy(prompts_of(numbered_rows(2))).images
    return [str(image.image_sha256)[:12] for image in images]


def buy(
    buyer: Buyer,
    pinned: list[str],
    *,
    weeks: int = 0,
    allowance: Allowance = ALLOWANCE,
    approval: Approval = Approval(),  # noqa: B008 - frozen
) -> None:
    """Buy the canaries so many weeks after the first Monday."""
    with buyer.open_ledger() as ledger:
        means = buyer.means(ledger, run_id=f"canaries {weeks}", allowance=allowance)
        today = MONDAY + dt.timedelta(weeks=weeks)
        buy_canaries(pinned, means, approval=approval, today=today)


def look(buyer: Buyer, pinned: list[str]) -> list[CanaryLook]:
    """Look at the canaries as they stand."""
    with buyer.open_ledger() as ledger:
        return look_at_canaries(pinned, ledger, buyer.storage)


def test_a_canary_is_bought_once_a_day(
    buyer: Buyer, pinned: list[str], emulator: EmulatorServer
) -> None:
    """However often a run is started on a day, each canary is one POST; another day is another."""
    assert {each.likeness for each in look(buyer, pinned)} == {Likeness.NOT_COMPARABLE}
    for _ in range(2):
        buy(buyer, pinned)
    assert emulator.stats.posts_accepted == 4
    buy(buyer, pinned, weeks=1)
    assert emulator.stats.posts_accepted == 6
    looks = look(buyer, pinned)
    assert {each.likeness for each in looks} == {Likeness.IDENTICAL_BYTES}
    assert drift_of(looks) is None


def test_the_day_of_the_drift_is_known(
    buyer: Buyer, pinned: list[str], start_emulator: StartEmulator
) -> None:
    """The model drifted between the last picture that was the same and the first other one."""
    other = dataclasses.replace(buyer, base_url=start_emulator(image_bytes=20_000).url)
    buy(buyer, pinned)
    same = look(buyer, pinned)
    buy(other, pinned, weeks=1)
    first = drift_of(look(buyer, pinned))
    buy(other, pinned, weeks=2)

    drift = drift_of(look(buyer, pinned))
    assert drift == first
    assert drift is not None
    assert (drift.canaries, drift.drifted) == (2, 2)
    assert drift.same_until == same[0].looked_at
    assert drift.same_until is not None
    assert drift.same_until < drift.since

    buy(buyer, pinned, weeks=3)
    assert drift_of(look(buyer, pinned)) is None
    assert look(buyer, ["f" * 12]) == [CanaryLook(image="f" * 12)]


def test_what_is_not_allowed_is_not_bought(
    buyer: Buyer, pinned: list[str], emulator: EmulatorServer
) -> None:
    """The budget, and what the dataset lets wait for a person, hold for canaries too."""
    little = dataclasses.replace(ALLOWANCE, budget=Budget(images=1))
    with pytest.raises(BudgetReached):
        buy(buyer, pinned, allowance=little)
    for approval in (Approval(required="always"), Approval(required="above", images=1)):
        with pytest.raises(NotApproved, match="canaries of 2 images"):
            buy(buyer, pinned, approval=approval)
    assert emulator.stats.posts_accepted == 2
    buy(buyer, pinned, approval=Approval(required="above", images=2))
    assert emulator.stats.posts_accepted == 4


def test_a_canary_that_was_left_over_is_brought_to_its_end(
    buyer: Buyer, pinned: list[str], emulator: EmulatorServer
) -> None:
    """A picture that was paid and not fetched is fetched on another day, and not bought again."""
    emulator.set_faults(Fault(kind=FaultKind.SERVER_ERROR, operation=Operation.DOWNLOAD))
    with pytest.raises(ReplayFailed):
        buy(buyer, pinned[:1])
    emulator.set_faults()
    buy(buyer, pinned[:1], weeks=1)
    assert emulator.stats.posts_accepted == 3
    assert look(buyer, pinned[:1])[0].likeness is Likeness.IDENTICAL_BYTES


def test_canaries_are_priced() -> None:
    """A plan says what they cost each time, and nothing where none is pinned."""
    priced = dataclasses.replace(ALLOWANCE, price_per_image=0.02, currency="EUR")
    pinned = Canaries(images=("0" * 8, "1" * 8))
    text = pinned.price_text(priced, samples_per_call=2)
    assert text == "4 images for 0.08 EUR, each time of 0 5 * * 1"
    assert Canaries().price_text(priced, samples_per_call=2) is None


def test_what_is_no_hash_is_no_canary() -> None:
    """A name, too few digits and capitals are refused where they are written."""
    for image in ("boat", "abcdef0", "ABCDEF012345"):
        with pytest.raises(ValueError, match="8 or more digits"):
            Canaries(images=(image,))
