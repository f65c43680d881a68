from __future__ import annotations

import io
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from imagepipeline_dagster.moderation.duplicates import near_pairs, perceptual_hash, repeated
from imagepipeline_dagster.moderation.policy import Rules
from imagepipeline_dagster.moderation.verdicts import Evidence, ModeratedImage
from imagepipeline_dagster.previews import thumbnail
from imagepipeline_dagster.tables.overrides import Override
from tests.moderation.judging import decided, moderate, sample

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
HASHES = {A: 0b0000, B: 0b0011, C: 0b1111_1111, D: 0b0001}


def drawn(shift: int) -> Image.Image:
    """Return a picture of rings whose place and shade follow from the number."""
    rings = Image.radial_gradient("L").rotate(shift)
    return rings.transform((256, 256), Image.Transform.AFFINE, (1, 0, shift, 0, 1, -shift))


def moderated(
    pictures: list[str], rules: Rules, *overrides: Override, unchecked: str = ""
) -> list[ModeratedImage]:
    """Return the verdicts on samples with these pictures."""
    images = [
        sample(f"p{place}", safety_checker=picture not in unchecked, image_sha256=picture)
        for place, picture in enumerate(pictures)
    ]
    return moderate(images, rules, Evidence(hashes=HASHES, overrides=overrides))


def test_equal_bytes_repeat_the_first_and_near_ones_if_asked() -> None:
    """Equal bytes are always found; pictures whose hashes are near, within the given distance."""
    assert repeated([A, B, A, None, C], HASHES, distance=None) == [None, None, A, None, None]
    assert repeated([A, B, A, C, D], HASHES, distance=2) == [None, A, A, None, A]
    assert repeated([B, D, B, C], HASHES, distance=0) == [None, None, B, None]
    assert repeated([A, B], {}, distance=4) == [None, None]


def test_duplicates_are_marked_and_kept_once_if_the_policy_says_so() -> None:
    """Marking leaves the verdicts alone; keeping once rejects all but the first."""
    marked = moderated([A, A, B], Rules(near_duplicate_distance=2))
    assert [row.duplicate_of for row in marked] == [None, A, A]
    assert {row.verdict for row in marked} == {"kept"}

    once = moderated([A, A, B, C], Rules(near_duplicate_distance=2, duplicates="keep_once"))
    told = [(row.verdict, row.moderation_reason) for row in once]
    assert told == [("kept", "ok"), *[("rejected", "duplicate")] * 2, ("kept", "ok")]


def test_the_one_that_stays_is_one_that_is_kept() -> None:
    """A kept picture is never dropped in favour of one that is set aside."""
    rules = Rules(duplicates="keep_once", near_duplicate_distance=2)
    rows = moderated([A, B], rules, unchecked=A)
    assert [(row.verdict, row.duplicate_of) for row in rows] == [("quarantined", B), ("kept", None)]


def test_a_person_may_keep_a_duplicate() -> None:
    """What a person kept stays, marked, and the others give way to it."""
    keep = decided("keep", image_sha256=B, prompt_set="spring")
    rules = Rules(duplicates="keep_once", near_duplicate_distance=2)
    rows = moderated([A, B], rules, keep)
    assert [(row.verdict, row.moderation_reason) for row in rows] == [
        ("rejected", "duplicate"),
        ("kept", "override:ok"),
    ]


def test_perceptual_hashes_survive_what_people_do_not_see() -> None:
    """Another brightness or encoding stays near, another picture does not."""
    first = drawn(10)
    brighter = ImageEnhance.Brightness(first).enhance(1.1)
    jpeg = io.BytesIO()
    first.save(jpeg, "JPEG", quality=60)
    own = perceptual_hash(thumbnail(first))
    near = [perceptual_hash(thumbnail(brighter)), perceptual_hash(jpeg.getvalue())]
    other = perceptual_hash(thumbnail(drawn(80)))
    assert all((own ^ each).bit_count() <= 4 for each in near)
    assert (own ^ other).bit_count() > 8


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=8),
    st.lists(st.sets(st.integers(0, 63), max_size=6), max_size=6),
    st.integers(0, 32),
)
def test_all_near_pairs_are_found(hashes: list[int], flips: list[set[int]], distance: int) -> None:
    """Of distinct hashes just those are paired that differ in few bits; equal ones are joined."""
    flipped = (own ^ sum(1 << bit for bit in bits) for own in hashes[:1] for bits in flips)
    by_picture = {f"{number:02d}": own for number, own in enumerate([*hashes, *flipped])}
    firsts = {own: name for name, own in reversed(by_picture.items())}
    expected = {(name, firsts[own]) for name, own in by_picture.items() if firsts[own] != name} | {
        (one, other)
        for (first, one), (second, other) in combinations(firsts.items(), 2)
        if (first ^ second).bit_count() <= distance
    }
    found = near_pairs(by_picture, distance=distance)
    assert {frozenset(pair) for pair in found} == {frozenset(pair) for pair in expected}
