"""How many CLIP tokens a text has: SDXL's text encoders cut off silently after 75."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

MAX_TOKENS = 75
"""The longest text that the API's page allows, start and end marks not counted."""

_SURELY_TOO_LONG = 7_500  # letters; no token of CLIP has a hundred
_PLAIN_QUOTES = str.maketrans("\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f", "''''\"\"\"\"")

try:
    from instant_clip_tokenizer import Tokenizer  # type: ignore[import-untyped] # has no stubs

    TOKENS_ARE_ESTIMATED = False
except ImportError:  # no wheels for this Python
    TOKENS_ARE_ESTIMATED = True


def count_tokens(text: str) -> int:
    """Return the text's CLIP tokens, without the start and end marks.

    Where no tokenizer is installed (`TOKENS_ARE_ESTIMATED`), and for a text that is far too long,
    the count is an estimate that errs on the high side, so that a text that passes is never cut.
    Some models make typographic quotes plain before they count, and others do not: the higher of
    both counts is returned.
    """
    plain = " ".join(text.split())
    if len(plain) > _SURELY_TOO_LONG:
        # A tokenizer's time grows with the square of a word's length.
        return estimate_tokens(plain)
    count = _counter()
    if plain.isascii():
        return count(plain)
    return max(count(plain), count(plain.translate(_PLAIN_QUOTES)))


@cache
def _counter() -> Callable[[str], int]:
    if TOKENS_ARE_ESTIMATED:
        return estimate_tokens
    tokenizer = Tokenizer()
    return lambda text: len(tokenizer.encode(text))


def estimate_tokens(text: str) -> int:
    """Return an estimate of CLIP tokens from above.

    CLIP's vocabulary knows common words whole and splits others into pieces of mostly three or
    more letters; digits and punctuation stand alone; other scripts take up to three tokens a
    character.
    """
    pieces = re.findall(r"[a-z]+|[^\sa-z]", text.lower())
    return sum(_pieces_of(piece) for piece in pieces)


def _pieces_of(piece: str) -> int:
    if len(piece) == 1:
        return len(piece.encode())
    return 1 if len(piece) <= 7 else -(-len(piece) // 3)
