from __future__ import annotations

import io

from PIL import Image, ImageColor

from imagepipeline_dagster.moderation.charts import bar_chart, histogram

KEPT, REJECTED, QUARANTINED = (
    ImageColor.getrgb(colour) for colour in ("#1f7a4d", "#b3261e", "#9a5b00")
)


def pixels_like(webp: bytes, colour: tuple[int, ...]) -> int:
    """Return how many pixels of the picture have about this colour."""
    picture = Image.open(io.BytesIO(webp)).convert("RGB")
    return sum(
        number
        for number, found in picture.getcolors(picture.width * picture.height) or ()
        if isinstance(found, tuple)
        and all(abs(a - b) < 12 for a, b in zip(found, colour, strict=True))
    )


def test_a_bar_is_as_long_as_its_number_and_has_its_verdicts_colour() -> None:
    """Bars of verdicts are told apart by colour, and compared by length."""
    counts = {("kept", "ok"): 300, ("rejected", "nsfw"): 100, ("quarantined", "unchecked"): 200}
    chart = bar_chart(counts)
    kept, rejected, quarantined = (
        pixels_like(chart, colour) for colour in (KEPT, REJECTED, QUARANTINED)
    )
    assert 2.5 * rejected < kept < 3.5 * rejected
    assert rejected < quarantined < kept


def test_thresholds_stand_in_the_histogram() -> None:
    """Scores are bars, and each threshold is a line among them."""
    without = pixels_like(histogram([0.1, 0.1, 0.7], marks=[]), REJECTED)
    chart = histogram([0.1, 0.1, 0.7], marks=[0.4, 0.8])
    assert pixels_like(chart, REJECTED) > without + 100
    assert pixels_like(chart, KEPT) > 1000


def test_charts_stay_small_and_take_what_comes() -> None:
    """A chart of nothing, and one of a hundred reasons, take 4 kB at most."""
    many = {("rejected", f"reason number {number}"): number for number in range(100)}
    scores = [number / 9_999 for number in range(10_000)]
    charts = [bar_chart({}), bar_chart(many), histogram([], marks=[]), histogram(scores, marks=[1])]
    assert all(len(chart) < 4_000 for chart in charts)
