"""CLIP tokens, counted and estimated."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagepipeline_dagster.planning import tokens
from imagepipeline_dagster.planning.tokens import MAX_TOKENS, count_tokens, estimate_tokens

ENGLISH = (
    "a photograph of an astronaut riding a horse on the surface of mars, highly detailed, "
    "golden hour, 35mm film, trending, by an unknown watercolour painter; 8k (sharp focus) "
)

exactly = pytest.mark.skipif(tokens.TOKENS_ARE_ESTIMATED, reason="no CLIP tokenizer for Python")


@exactly
@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("a boat", 2),
        ("A Boat", 2),
        ("  a   boat  ", 2),
        ("A photograph of an astronaut riding a horse", 8),
        ("日本", 3),
    ],
)
def test_tokens_are_those_of_the_models_own_vocabulary(text: str, count: int) -> None:
    """Counts are CLIP's, without the start and end marks; letter case and blanks do not count."""
    assert count_tokens(text) == count


@exactly
@settings(deadline=None)
@given(st.lists(st.sampled_from(ENGLISH.split()), max_size=90).map(" ".join))
def test_the_estimate_of_common_words_errs_on_the_high_side(text: str) -> None:
    """Where no tokenizer is installed, a text that passes is not longer than the estimate."""
    assert count_tokens(text) <= estimate_tokens(text)


def test_long_words_and_quotes_are_counted_on_the_safe_side() -> None:
    """A word of any length is counted at once; a typographic quote counts as its dearer reading."""
    assert count_tokens("a" * 3_000_000) > MAX_TOKENS
    assert count_tokens("don\u2019t") >= max(count_tokens("don't"), 2)


@settings(deadline=None)
@given(st.text())
def test_any_text_has_a_count(text: str) -> None:
    """No text makes counting fail, and the estimate of none is below zero."""
    assert count_tokens(text) >= 0
    assert estimate_tokens(text) >= 0
