"""Paid pictures asked for again by a person: at no cost, and also where their outcome is final."""

from __future__ import annotations

import dataclasses

import pytest

from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind, Operation
from imagepipeline_dagster.ledger.decisions import entries_named
from imagepipeline_dagster.purchase.landing import CALLED_UNSAFE
from imagepipeline_dagster.purchase.refetching import Refetched, refetch
from imagepipeline_dagster.rows import fields_of
from imagepipeline_dagster.storage.contract import image_path
from tests.buying import (
    Bought,
    Buyer,
    FlaggingBuyer,
    assert_bytes_are_the_vendors,
    numbered_rows,
    prompts_of,
)

FINAL: dict[str, tuple[Fault, str]] = {
    "expired": (Fault(kind=FaultKind.EXPIRED_LINK), "expired"),
    "a page": (Fault(kind="html_page", operation=Operation.DOWNLOAD), "undecodable"),
    "no links": (Fault(kind=FaultKind.MISSING_LINKS), "expired"),
    "a link to a file": (Fault(kind=FaultKind.USELESS_LINKS), "expired"),
    "held back": (Fault(kind=FaultKind.EMPTY_LINKS), "vendor_filtered"),
}


def asked_again(buyer: Buyer, bought: Bought, *, origin: str = "x") -> list[Refetched]:
    """Ask for the pictures of all that was bought."""
    with buyer.open_ledger() as ledger:
        means = dataclasses.replace(buyer.means(ledger), origin=origin, emulated=origin == "x")
        return refetch(entries_named(ledger, list(bought.entries)), means)


@pytest.mark.parametrize("name", FINAL)
def test_a_final_outcome_is_revived(name: str, buyer: Buyer, emulator: EmulatorServer) -> None:
    """A paid picture whose links were over comes home when its job gives it after all."""
    fault, outcome = FINAL[name]
    prompts = prompts_of(numbered_rows(2))
    emulator.set_faults(fault)
    lost = buyer.buy(prompts, link_patience_seconds=0, link_lifetime_hours=0)
    still = asked_again(buyer, lost)
    emulator.set_faults()
    answers = asked_again(buyer, lost)
    bought = buyer.buy(prompts)

    assert lost.outcomes == {outcome: 2}
    assert [(answer.came, answer.missing) for answer in still] == [(0, 1), (0, 1)]
    assert all(answer.trouble for answer in still)
    assert [(answer.came, answer.missing, answer.trouble) for answer in answers] == [
        (1, 0, None),
        (1, 0, None),
    ]
    assert bought.outcomes == {"generated": 2}
    assert emulator.stats.posts_received == 2
    assert_bytes_are_the_vendors(bought, buyer.storage)


def test_what_the_api_calls_unsafe_is_not_fetched(buyer: Buyer) -> None:
    """Whoever asks for a request's pictures gets none that its answer calls unsafe."""
    flagging = FlaggingBuyer(**fields_of(buyer))
    prompts = prompts_of(numbered_rows(1))
    bought = flagging.buy(prompts)

    [answer] = asked_again(flagging, bought)

    assert (answer.came, answer.missing) == (0, 1)
    assert CALLED_UNSAFE in str(answer.trouble)
    assert flagging.buy(prompts).outcomes == {"vendor_filtered": 1}


@pytest.mark.parametrize("left", [None, b"", b"something else"])
def test_a_picture_that_the_storage_lost_is_fetched_again(
    left: bytes | None, buyer: Buyer, emulator: EmulatorServer
) -> None:
    """What the storage lacks, or holds in other bytes, is fetched; what is whole is left alone."""
    pair = dataclasses.replace(buyer, samples_per_call=2)
    prompts = prompts_of(numbered_rows(1, samples=2))
    bought = pair.buy(prompts)
    path = image_path(str(bought.images[0].image_sha256), str(bought.images[0].format))
    buyer.storage.delete(path)
    if left is not None:
        buyer.storage.write(path, left)
    before = emulator.stats.downloads

    [answer] = asked_again(buyer, bought)

    assert (answer.came, answer.missing, answer.trouble) == (1, 0, None)
    assert emulator.stats.downloads == before + 1
    assert_bytes_are_the_vendors(pair.buy(prompts), buyer.storage)


def test_the_jobs_of_another_api_are_left_alone(buyer: Buyer, emulator: EmulatorServer) -> None:
    """A job is asked for where it was made, and nowhere else."""
    emulator.set_faults(Fault(kind=FaultKind.EXPIRED_LINK))
    lost = buyer.buy(prompts_of(numbered_rows(1)), link_patience_seconds=0, link_lifetime_hours=0)
    asked = emulator.stats.status_requests
    [answer] = asked_again(buyer, lost, origin="https://api.example.com")
    assert answer.trouble == "its job is at the emulator"
    assert emulator.stats.status_requests == asked
