"""Rows of the prompts table, validated."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagepipeline_dagster.api.contract import request_for
from imagepipeline_dagster.planning.prompts import (
    GenerationDefaults,
    Prompt,
    token_problems,
    validated_prompts,
)
from imagepipeline_dagster.planning.requests import unplanned_requests
from imagepipeline_dagster.planning.tokens import MAX_TOKENS, TOKENS_ARE_ESTIMATED, count_tokens
from imagepipeline_dagster.rows import StoredTable
from imagepipeline_dagster.tables.prompt_syntax import foreign_syntax
from imagepipeline_dagster.tables.schema import (
    MAX_SAMPLES,
    PLACEMENTS,
    EmbeddingRow,
    PromptRow,
    row_reader,
)

DEFAULTS = GenerationDefaults()
ROW = PromptRow(prompt_set="spring", prompt_id="p1", prompt="a boat at sea")
EMBEDDING = EmbeddingRow(
    embedding_id="e1", trigger_words=("sks style", "soft"), placement="positive", version="v1"
)
EMBEDDINGS = {"e1": EMBEDDING}


def validated(row: PromptRow, embedding: EmbeddingRow = EMBEDDING) -> Prompt:
    """Return one row validated, with one embedding in its table."""
    [prompt] = validated_prompts([row], {embedding.embedding_id: embedding}, defaults=DEFAULTS)
    return prompt


def changed(**values: object) -> Prompt:
    """Return the usual row with these values, validated."""
    return validated(dataclasses.replace(ROW, **values))  # type: ignore[arg-type] # any columns


def test_a_row_takes_its_nulls_from_the_defaults() -> None:
    """What a row leaves open is the dataset's choice; what it says is its own."""
    prompt = changed(num_inference_steps=12, safety_checker=False)

    assert prompt.valid
    assert prompt.problems is None
    assert (prompt.task, prompt.model_id, prompt.samples) == ("text2image", "sdxl", 1)
    assert (prompt.num_inference_steps, prompt.guidance_scale) == (12, 7.5)
    assert prompt.safety_checker is False
    assert prompt.seed is None


@pytest.mark.parametrize(
    ("placement", "prompt", "negative", "effective", "effective_negative"),
    [
        ("positive", "a boat", None, "a boat, sks style, soft", None),
        ("positive", "a SOFT boat", "sks style", "a SOFT boat, sks style", "sks style"),
        ("positive", "sks style, soft, a boat", None, "sks style, soft, a boat", None),
        ("positive", "a softer boat", None, "a softer boat, sks style, soft", None),
        ("negative", "a boat", None, "a boat", "sks style, soft"),
        ("negative", "a boat", "blurry, soft", "a boat", "blurry, soft, sks style"),
        ("negative", "soft sks style", None, "soft sks style", "sks style, soft"),
        ("either", "a boat", None, "a boat, sks style, soft", None),
        ("either", "a boat", "soft", "a boat, sks style", "soft"),
        (None, "a boat", "soft", "a boat, sks style", "soft"),
    ],
)
def test_missing_trigger_words_are_put_where_their_embedding_wants_them(
    placement: str | None,
    prompt: str,
    negative: str | None,
    effective: str,
    effective_negative: str | None,
) -> None:
    """Each trigger word is added once, as a whole word, in any letter case, to the right prompt."""
    row = dataclasses.replace(ROW, prompt=prompt, negative_prompt=negative, embeddings="e1")

    checked = validated(row, dataclasses.replace(EMBEDDING, placement=placement))

    assert checked.valid, checked.problems
    assert checked.effective_prompt == effective
    assert checked.effective_negative_prompt == effective_negative
    assert (checked.prompt, checked.negative_prompt) == (prompt, negative)
    assert checked.embedding_version == "v1"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prompt": ""}, "prompt: is empty"),
        ({"prompt": " \n"}, "prompt: is blank"),
        ({"prompt": "", "embeddings": "e1"}, "prompt: is empty"),
        ({"prompt_id": " "}, "prompt_id: is missing"),
        ({"task": "text2video"}, "task: 'text2video' is not one of text2image"),
        ({"task": "image2image"}, "init_image: is missing, and image2image needs it"),
        (
            {"task": "inpainting", "init_image": "http://a.example/b.png"},
            "mask_image: is missing, and inpainting needs it",
        ),
        ({"task": "image2image", "init_image": "C:/boat.png"}, "init_image: 'C:/boat.png'"),
        ({"embeddings": "e9"}, "embeddings: 'e9' is not in the embeddings table"),
        ({"samples": 0}, "samples: 0 is not a whole number in 1 to 10,000"),
        ({"samples": MAX_SAMPLES + 1}, "samples: 10001 is not"),
        ({"samples": 1.5}, "samples: 1.5 is not a whole number"),
        ({"samples": "many"}, "samples: 'many' is not a whole number"),
        ({"seed": -2}, "seed: -2 is outside 0 to"),
        ({"seed": 2**70}, f"seed: {2**70} is outside 0 to"),
        ({"num_inference_steps": 101}, "num_inference_steps: 101 is outside 1 to 100"),
        ({"num_inference_steps": 1.5}, "num_inference_steps: 1.5 is not a whole number"),
        ({"guidance_scale": 0.5}, "guidance_scale: 0.5 is outside 1 to 20"),
        ({"strength": "strong"}, "strength: 'strong' is not a number"),
        ({"width": 0}, "width: 0 is outside 1 to 8192"),
        ({"refiner": "maybe"}, "refiner: 'maybe' is not true or false"),
        ({"prompt": "boat " * 76}, f"prompt: has {'' if not TOKENS_ARE_ESTIMATED else 'an esti'}"),
        ({"negative_prompt": "blur " * 76}, "negative_prompt: has "),
        ({"prompt": "boat " * 74, "embeddings": "e1"}, "with its embedding's trigger words"),
    ],
)
def test_a_row_that_cannot_be_bought_says_why(values: dict[str, object], said: str) -> None:
    """Each problem names its column and the value, and the row still fits in its table."""
    prompt = changed(**values)

    assert not prompt.valid
    assert said in (prompt.problems or "")
    assert list(unplanned_requests([prompt], origin="o", samples_per_call=1)) == []
    assert next(iter(StoredTable.of([prompt], Prompt).rows(Prompt))).problems == prompt.problems


def test_all_problems_of_a_row_are_said_at_once() -> None:
    """One look is enough to mend a row."""
    problems = changed(width=0, strength=7.0, samples=0, embeddings="e9").problems or ""
    for column in ("width", "strength", "samples", "embeddings"):
        assert f"{column}: " in problems


def test_an_unusable_placement_is_a_problem_of_the_rows_that_use_it() -> None:
    """An embedding that says something else than the three placements is not guessed at."""
    row = dataclasses.replace(ROW, embeddings="e1")
    prompt = validated(row, dataclasses.replace(EMBEDDING, placement="nowhere"))
    assert "placement 'nowhere' of 'e1'" in (prompt.problems or "")
    assert prompt.effective_prompt == ROW.prompt


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
    row = dataclasses.replace(ROW, prompt=prompt)
    assert foreign_syntax(prompt) == parts
    (kept,) = validated_prompts([row], {}, defaults=DEFAULTS)
    assert kept.valid
    (judged,) = validated_prompts([row], {}, defaults=DEFAULTS, refuses_syntax=True)
    assert judged.valid is not bool(parts)


def test_any_seed_is_derived_and_noted() -> None:
    """A seed of -1 stands for none, and the row says so."""
    prompt = changed(seed=-1)
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
    ],
)
def test_embeddings_are_named_as_what_they_are(embedding: str, problem: str) -> None:
    """Two ids in one cell, and an id written otherwise, are told apart from an unknown one."""
    known = {name: EmbeddingRow(embedding_id=name) for name in ("e1", "e2")}
    row = dataclasses.replace(ROW, embeddings=embedding)
    (prompt,) = validated_prompts([row], known, defaults=DEFAULTS)
    assert problem in str(prompt.problems)


def test_rows_that_share_an_id_are_all_refused() -> None:
    """Nobody can tell which of two rows is meant, so neither is bought, and the rest goes on."""
    other = dataclasses.replace(ROW, prompt_id="p2")
    prompts = list(validated_prompts([ROW, other, ROW], {}, defaults=DEFAULTS))
    assert [prompt.valid for prompt in prompts] == [False, True, False]
    assert "'p1' stands in several rows" in (prompts[0].problems or "")


def test_columns_of_another_task_do_not_stop_a_row() -> None:
    """A link in a column that its task does not read is left out of the request."""
    prompt = changed(init_image="left over", mask_image="left over")
    assert prompt.valid
    assert "init_image" not in prompt.request_parameters() or prompt.init_image is None


def test_the_row_as_it_was_is_kept() -> None:
    """Lineage has every column, its time too, also of values that the table cannot hold."""
    prompt = changed(width="wide", updated_at=dt.datetime(2030, 1, 2, tzinfo=dt.UTC))
    assert '"width":"wide"' in prompt.prompt_row
    assert '"updated_at":"2030-01-02T00:00:00+00:00"' in prompt.prompt_row
    assert prompt.width is None


def test_too_many_tokens_are_counted_in_each_prompt() -> None:
    """75 pass and 76 do not, in either prompt."""
    assert token_problems("boat " * 75, "blur " * 75) == []
    assert len(token_problems("boat " * 76, "blur " * 76)) == 2


WORDS = st.lists(
    st.sampled_from(["boat", "sea", "soft", "SKS style", "日本", "unbelievably-long", "42", "…"]),
    max_size=80,
).map(" ".join)
TEXTS = st.one_of(WORDS, st.text(max_size=40))
ODD = st.one_of(
    *(st.none(), st.integers(min_value=-5, max_value=200), st.floats()),
    *(st.integers(), st.text(max_size=4)),
)
COLUMNS = {
    "prompt_set": st.just("spring"),
    "prompt_id": st.sampled_from(["a", "b", "c", "d", "e", "", " "]),
    "prompt": TEXTS,
    "negative_prompt": st.one_of(st.none(), TEXTS),
    "task": st.sampled_from([None, "text2image", "image2image", "inpainting", "other"]),
    "embeddings": st.sampled_from([None, "e0", "e1", "e2", "e3", "e9"]),
    "samples": st.one_of(st.none(), st.integers(min_value=-1, max_value=9), ODD),
    "seed": ODD,
    "num_inference_steps": ODD,
    "guidance_scale": st.one_of(st.none(), st.floats(), st.text(max_size=3)),
    "strength": st.one_of(st.none(), st.floats(), st.text(max_size=3)),
    "width": ODD,
    "refiner": st.one_of(st.none(), st.booleans(), st.text(max_size=3)),
    "safety_checker": st.one_of(st.none(), st.booleans(), st.text(max_size=3)),
    "init_image": st.sampled_from([None, "http://a.example/b.png", "b.png"]),
    "mask_image": st.sampled_from([None, "https://a.example/m.png"]),
}
ROWS = st.tuples(*COLUMNS.values()).map(row_reader(PromptRow, list(COLUMNS)))
"""Rows as they are read from a table that holds just about anything."""
ALL_EMBEDDINGS = {
    f"e{number}": dataclasses.replace(EMBEDDING, embedding_id=f"e{number}", placement=placement)
    for number, placement in enumerate((*PLACEMENTS, None))
}


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=5))
def test_any_rows_are_judged_without_fail(rows: list[PromptRow]) -> None:
    """Whatever stands in a table, each row is valid and fits the model, or says what is wrong."""
    prompts = list(validated_prompts(rows, ALL_EMBEDDINGS, defaults=DEFAULTS))

    assert [(p.prompt_set, p.prompt_id) for p in prompts] == [
        (r.prompt_set, r.prompt_id) for r in rows
    ]
    StoredTable.of(prompts, Prompt)
    for prompt in prompts:
        assert prompt.valid == (prompt.problems is None)
        assert prompt.samples >= 1
        if not prompt.valid:
            continue
        assert prompt.prompt_tokens == count_tokens(prompt.effective_prompt or "") <= MAX_TOKENS
        assert prompt.negative_prompt_tokens <= MAX_TOKENS
        assert prompt.task is not None
        request_for(prompt.task, prompt.request_parameters())
        if prompt.embeddings is not None:
            both = f"{prompt.effective_prompt} {prompt.effective_negative_prompt}".lower()
            assert all(word in both for word in EMBEDDING.trigger_words)


@pytest.mark.parametrize(
    ("defaults", "problem"),
    [
        ({"num_inference_steps": 300}, "num_inference_steps: 300 is outside 1 to 100"),
        ({"samples": 0}, "samples: 0 is outside 1 to 10000"),
        ({"task": "painting"}, "task\n  Input should be 'text2image', 'image2image' or"),
    ],
)
def test_defaults_that_no_request_takes_are_refused_at_once(
    defaults: dict[str, Any], problem: str
) -> None:
    """A default outside the documented range is refused before it has every row refused."""
    with pytest.raises(ValueError, match=problem):
        GenerationDefaults(**defaults)


@pytest.mark.parametrize("task", ["text2image", "image2image", "inpainting"])
def test_defaults_may_name_any_task(task: str) -> None:
    """The links of a task are its rows' own: the defaults need none."""
    assert GenerationDefaults(task=task).task == task
