from __future__ import annotations

import time

import pytest

from imagepipeline_dagster.planning.prompts import GenerationDefaults, validated_prompts
from imagepipeline_dagster.planning.tokens import MAX_TOKENS, count_tokens
from imagepipeline_dagster.tables.prompt_syntax import foreign_syntax
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow

DEFAULTS = GenerationDefaults()


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a (red:1.3) kite", ["(red:1.3)"]),
        ("<lora:detail:0.8> kite", ["<lora:detail:0.8>"]),
        ("embedding:cine, kite", ["embedding:cine"]),
        ("{dawn|dusk} kite", ["{dawn|dusk}"]),
        ("{prompt}, film still", ["{prompt}"]),
        ("__place__ kite", ["__place__"]),
        ("kite BREAK sky", ["BREAK"]),
        ("a kite (red, 12:30), at day_break", []),
    ],
)
def test_syntax_of_other_tools(prompt: str, parts: list[str]) -> None:
    """What another tool would act on is found, and refused where a dataset says so."""
    row = PromptRow(prompt_set="s", prompt_id="a", prompt=prompt)
    assert foreign_syntax(prompt) == parts
    (kept,) = validated_prompts([row], {}, defaults=DEFAULTS)
    assert kept.valid
    (judged,) = validated_prompts([row], {}, defaults=DEFAULTS, refuses_syntax=True)
    assert judged.valid is not bool(parts)


def test_any_seed_is_derived_and_noted() -> None:
    """A seed of -1 stands for none, and the row says so."""
    row = PromptRow(prompt_set="s", prompt_id="a", prompt="p", seed=-1)
    (prompt,) = validated_prompts([row], {}, defaults=DEFAULTS)
    assert (prompt.valid, prompt.seed) == (True, None)
    assert "-1 means any" in str(prompt.notes)


@pytest.mark.parametrize(
    ("embedding", "problem"),
    [
        ("e1, e2", "names 2 embeddings"),
        ("e1 e2", "names 2 embeddings"),
        ("E1;x\ny", "names 3 embeddings"),
        ("E1 ", "differs from 'e1'"),
        ("e 1", "differs from 'e1'"),
        ("x", "is not in the"),
    ],
)
def test_embeddings_are_named_as_what_they_are(embedding: str, problem: str) -> None:
    """Two ids in one cell, and an id written otherwise, are told apart from an unknown one."""
    known = {name: EmbeddingRow(embedding_id=name) for name in ("e1", "e2")}
    row = PromptRow(prompt_set="s", prompt_id="a", prompt="p", embeddings=embedding)
    (prompt,) = validated_prompts([row], known, defaults=DEFAULTS)
    assert problem in str(prompt.problems)


def test_long_words_and_quotes_are_counted_on_the_safe_side() -> None:
    """A word of any length is counted at once; a typographic quote counts as its dearer reading."""
    started = time.monotonic()
    assert count_tokens("a" * 3_000_000) > MAX_TOKENS
    assert time.monotonic() - started < 5
    assert count_tokens("don\u2019t") >= max(count_tokens("don't"), 2)
