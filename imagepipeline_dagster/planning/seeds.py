"""Seeds that name a picture: the same call has the same seed on every machine, in every version."""

from __future__ import annotations

import hashlib
import json

SEED_LIMIT = 2**31
"""One more than the largest derived seed: what every sampler's 32-bit signed seed can hold."""


def seed_for(prompt_set: str, prompt_id: str, call_index: int) -> int:
    """Return the seed of a prompt's call, in 0 … 2³¹-1.

    It comes from the names alone, so that neither an edited text nor another row moves it; the
    JSON list keeps ("a", "bc") apart from ("ab", "c").
    """
    name = json.dumps([prompt_set, prompt_id, call_index], ensure_ascii=True)
    digest = hashlib.blake2b(name.encode("ascii"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % SEED_LIMIT
