"""A request bought again, and what its pictures say about the model behind the API."""

from __future__ import annotations

import dataclasses
import io

import pytest
from PIL import Image, ImageEnhance
from sqlalchemy import select, update

from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind, Operation
from imagepipeline_dagster.emulator.drawing import draw_png
from imagepipeline_dagster.ledger.budget import Allowance, Budget, BudgetReached
from imagepipeline_dagster.ledger.decisions import unknown_requests
from imagepipeline_dagster.ledger.lineage import lineage_of
from imagepipeline_dagster.ledger.schema import requests
from imagepipeline_dagster.ledger.uses import sets_using
from imagepipeline_dagster.purchase.likeness import Likeness, compare_pictures, difference_hash
from imagepipeline_dagster.purchase.replay import OtherOrigin, Replay, ReplayFailed, ReplayReport
from tests.buying import (
    ALLOWANCE,
    Bought,
    Buyer,
    ForgetfulBuyer,
    numbered_rows,
    prompts_of,
    request_of,
)
from tests.conftest import StartEmulator


def replayed(buyer: Buyer, image: str | None, *, allowance: Allowance = ALLOWANCE) -> ReplayReport:
    """Replay an image at the buyer's API."""
    with buyer.open_ledger() as ledger:
        means = buyer.means(ledger, run_id="replay", allowance=allowance)
        return Replay(lineage_of(ledger, str(image)), means).carry_out()


def entry_and_uses(buyer: Buyer, bought: Bought) -> object:
    """Return all that the ledger knows of what was bought."""
    with buyer.open_ledger() as ledger:
        return ledger.entries(bought.entries), ledger.latest_uses("images", "spring")


@pytest.fixture
def bought(buyer: Buyer) -> Bought:
    """One picture, bought."""
    return buyer.buy(prompts_of(numbered_rows(1)))


def test_the_same_model_gives_the_same_bytes(
    buyer: Buyer, bought: Bought, emulator: EmulatorServer
) -> None:
    """A replay costs one POST, reports identical bytes, and changes nothing of the original."""
    before = entry_and_uses(buyer, bought)

    report = replayed(buyer, bought.images[0].image_sha256)

    assert report.likeness is Likeness.IDENTICAL_BYTES
    (sample,) = report.comparisons
    assert (sample.mean_difference, sample.hash_distance) == (0.0, 0)
    assert emulator.stats.posts_accepted == 2
    assert entry_and_uses(buyer, bought) == before
    with buyer.open_ledger() as ledger:
        lineage = lineage_of(ledger, str(bought.images[0].image_sha256))
    datasets = [use.dataset for sample in lineage.samples for use in sample.uses]
    assert datasets == ["images", "replay"]
    assert lineage.samples[0].entry.request == lineage.samples[1].entry.request
    assert lineage.samples[0].uses[0].prompt_row == lineage.samples[1].uses[0].prompt_row


def test_another_model_has_drifted(
    buyer: Buyer, bought: Bought, start_emulator: StartEmulator
) -> None:
    """An API that draws another picture for the same request is reported as drifted."""
    other = start_emulator(image_bytes=20_000)
    report = replayed(dataclasses.replace(buyer, base_url=other.url), bought.images[0].image_sha256)
    assert report.likeness is Likeness.DRIFTED
    (sample,) = report.comparisons
    assert sample.original_sha256 == bought.images[0].image_sha256 != sample.image_sha256
    assert sample.size == sample.original_size == (64, 64)
    assert sample.mean_difference is not None
    assert sample.mean_difference > 6


def test_all_samples_of_a_call_are_compared(buyer: Buyer, emulator: EmulatorServer) -> None:
    """A call of two samples is made again as one call, and each sample compared with its own."""
    buyer = dataclasses.replace(buyer, samples_per_call=2)
    bought = buyer.buy(prompts_of(numbered_rows(1, samples=2)))
    report = replayed(buyer, bought.images[1].image_sha256)
    assert [each.likeness for each in report.comparisons] == [Likeness.IDENTICAL_BYTES] * 2
    assert emulator.stats.posts_accepted == 2

    emulator.set_faults(Fault(kind=FaultKind.FEWER_LINKS))
    report = replayed(buyer, bought.images[1].image_sha256)
    assert Likeness.IDENTICAL_BYTES in [each.likeness for each in report.comparisons]

    emulator.set_faults(Fault(kind=FaultKind.FEWER_LINKS, missing=2))
    report = replayed(buyer, bought.images[1].image_sha256)
    assert report.likeness is Likeness.NOT_COMPARABLE
    assert [each.outcome for each in report.comparisons] == ["vendor_filtered"] * 2


def test_each_replay_buys_anew(buyer: Buyer, bought: Bought, emulator: EmulatorServer) -> None:
    """Replaying twice buys twice: each replay is a request of its own."""
    first = replayed(buyer, bought.images[0].image_sha256)
    second = replayed(buyer, bought.images[0].image_sha256)
    assert first.request_key != second.request_key
    assert first.original_request_key == second.original_request_key
    assert emulator.stats.posts_accepted == 3


def test_an_unfinished_replay_is_brought_to_its_end(
    buyer: Buyer, bought: Bought, emulator: EmulatorServer
) -> None:
    """A replay whose picture could not be fetched is resumed by its job, not bought again."""
    emulator.set_faults(Fault(kind=FaultKind.SERVER_ERROR, operation=Operation.DOWNLOAD))
    with pytest.raises(ReplayFailed, match=r"is submitted.*nothing is bought"):
        replayed(buyer, bought.images[0].image_sha256)
    emulator.set_faults()

    report = replayed(buyer, bought.images[0].image_sha256)

    assert report.likeness is Likeness.IDENTICAL_BYTES
    assert report.posts == 0
    assert emulator.stats.posts_accepted == 2


def test_a_replay_whose_job_the_api_lost_is_asked_for_again(
    buyer: Buyer, bought: Bought, emulator: EmulatorServer
) -> None:
    """It is brought to its end as soon as the API knows the job again; nothing is bought anew."""
    forgetful = ForgetfulBuyer(
        ledger_url=buyer.ledger_url, folder=buyer.folder, base_url=buyer.base_url
    )
    with pytest.raises(ReplayFailed, match="is unknown"):
        replayed(forgetful, bought.images[0].image_sha256)

    report = replayed(buyer, bought.images[0].image_sha256)

    assert report.likeness is Likeness.IDENTICAL_BYTES
    assert emulator.stats.posts_accepted == 2


def test_a_replay_whose_answer_is_lost_is_unknown(
    buyer: Buyer, bought: Bought, emulator: EmulatorServer
) -> None:
    """A lost answer leaves the replay unknown and listed; the original stays as it was."""
    emulator.set_faults(Fault(kind=FaultKind.DROPPED_ANSWER, times=1))
    with pytest.raises(ReplayFailed, match="ledger unknown"):
        replayed(buyer, bought.images[0].image_sha256)
    with buyer.open_ledger() as ledger, ledger.reading() as connection:
        (lost,) = unknown_requests(ledger)
        assert sets_using(connection, [lost.request_key]) == [("replay", "spring")]
    assert buyer.buy(prompts_of(numbered_rows(1))).outcomes == {"generated": 1}
    assert emulator.stats.posts_accepted == 2


def test_a_budget_holds_for_replays(buyer: Buyer, bought: Bought, emulator: EmulatorServer) -> None:
    """A replay that would pass the dataset's budget is not sent."""
    spent = dataclasses.replace(ALLOWANCE, budget=Budget(images=1))
    with pytest.raises(BudgetReached):
        replayed(buyer, bought.images[0].image_sha256, allowance=spent)
    assert emulator.stats.posts_accepted == 1


def test_another_api_is_refused_unless_allowed(buyer: Buyer, bought: Bought) -> None:
    """What one API made is not replayed at another without a word that says so."""
    with buyer.open_ledger() as ledger:
        lineage = lineage_of(ledger, str(bought.images[0].image_sha256))
        here = buyer.means(ledger)
        there = dataclasses.replace(here, origin="https://api.example", emulated=False)
        with pytest.raises(OtherOrigin, match=r"the emulator, and https://api\.example would"):
            Replay(lineage, there)
        Replay(lineage, there, elsewhere=True)
        with ledger.engine.begin() as connection:
            connection.execute(
                update(requests).values(
                    emulated=False, endpoint="https://api.example/sdxl/text2image/v1"
                )
            )
        lineage = lineage_of(ledger, str(bought.images[0].image_sha256))
        Replay(lineage, there)
        for means in (dataclasses.replace(there, origin="https://other.example"), here):
            with pytest.raises(OtherOrigin, match=r"was made by https://api\.example"):
                Replay(lineage, means)
        with ledger.reading() as connection:
            assert len(connection.scalars(select(requests.c.request_key)).all()) == 1


def encoded(image: Image.Image, **options: object) -> bytes:
    """Return a picture encoded, as PNG unless told otherwise."""
    file = io.BytesIO()
    image.save(file, **{"format": "PNG", **options})  # type: ignore[arg-type] # Pillow's options
    return file.getvalue()


def test_pictures_are_compared_by_bytes_pixels_and_eye(buyer: Buyer) -> None:
    """The same bytes, the same pixels, a lossy copy, and another picture are told apart."""
    row = prompts_of(numbered_rows(2))
    request, other = (request_of(call) for call in buyer.plan(row))
    picture = draw_png(request, seed=1, sample_index=0)
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    noisy = ImageEnhance.Brightness(image).enhance(1.02)
    cases = {
        Likeness.IDENTICAL_BYTES: [picture],
        Likeness.IDENTICAL_PIXELS: [
            encoded(image, compress_level=0),
            encoded(image.convert("RGBA")),
        ],
        Likeness.VISUALLY_SAME: [encoded(image, format="JPEG", quality=92), encoded(noisy)],
        Likeness.DRIFTED: [
            draw_png(other, seed=2, sample_index=0),
            encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
            encoded(image.resize((128, 128))),
        ],
    }
    for likeness, pictures in cases.items():
        for candidate in pictures:
            found = compare_pictures(picture, candidate)
            assert found.likeness is likeness, found
    assert compare_pictures(picture, cases[Likeness.DRIFTED][2]).mean_difference is None


def test_grey_pictures_of_16_bits_are_compared_by_their_shades() -> None:
    """Shades that only 16 bits can hold count: cut off at 255 any two pictures would be white."""
    ramp = Image.linear_gradient("L")
    fine, turned = (
        image.convert("I;16").point(lambda value: value * 200 + 1000)
        for image in (ramp, ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    )

    assert compare_pictures(encoded(fine), encoded(turned)).likeness is Likeness.DRIFTED


def test_the_difference_hash_sees_structure_only() -> None:
    """A flat picture hashes to 0, falling brightness to 64 ones, whatever the sizes."""
    assert difference_hash(Image.new("RGB", (200, 100), "grey")) == 0
    falling = Image.linear_gradient("L").rotate(90)
    assert difference_hash(falling).bit_count() in (0, 64)
    assert (difference_hash(falling) ^ difference_hash(falling.rotate(180))).bit_count() == 64
    assert difference_hash(falling.resize((900, 77))) == difference_hash(falling)
