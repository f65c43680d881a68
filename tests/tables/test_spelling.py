from __future__ import annotations

import pytest

from imagepipeline_dagster.tables.spelling import did_you_mean


@pytest.mark.parametrize(
    ("written", "there", "asked"),
    [
        ("promptset", ["prompt", "prompt_set", "seed"], " Did you mean 'prompt_set' or 'prompt'?"),
        ("SPRING", ["autumn", "spring"], " Did you mean 'spring'?"),
        ("Spring catalog", ["spring_catalogue"], " Did you mean 'spring_catalogue'?"),
        ("winter", ["spring"], ""),
        ("winter", [], ""),
    ],
)
def test_what_is_spelled_alike_is_asked_about(written: str, there: list[str], asked: str) -> None:
    """Names that differ by a letter or two, by case or by signs are suggested, others are not."""
    assert did_you_mean(written, there) == asked
