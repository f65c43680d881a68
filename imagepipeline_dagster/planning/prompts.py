"""Prompt rows validated: defaults filled in, trigger words in, tokens counted, problems named.

A row with a problem is left out of the plan and reported; the rest of its set goes on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field, model_validator

from imagepipeline_dagster.api.contract import RANGES, TASKS, RequestInvalid, Task, request_for
from imagepipeline_dagster.options import Options, bounded
from imagepipeline_dagster.planning.tokens import MAX_TOKENS, TOKENS_ARE_ESTIMATED, count_tokens
from imagepipeline_dagster.rows import column, fields_of
from imagepipeline_dagster.tables.fingerprints import fingerprint_set
from imagepipeline_dagster.tables.prompt_syntax import foreign_syntax
from imagepipeline_dagster.tables.schema import (
    MAX_SAMPLES,
    PLACEMENTS,
    EmbeddingRow,
    PromptRow,
    columns_of,
    source_json,
)
from imagepipeline_dagster.tables.spelling import is_blank, look_alike


def _of_column(name: str, default: object) -> Any:  # noqa: ANN401 - pydantic's Field is of any type
    return Field(default, description=f"{columns_of(PromptRow)[name].description}.")


def _of_parameter(name: str, default: float | None) -> Any:  # noqa: ANN401
    description = f"{columns_of(PromptRow)[name].description}."
    return bounded(default, description, low=RANGES[name].low, high=RANGES[name].high)


class GenerationDefaults(Options):
    """The values that a null in the prompts table stands for. None leaves the choice to the API."""

    task: Task = _of_column("task", Task.TEXT2IMAGE)
    model_id: str = _of_column("model_id", "sdxl")
    negative_prompt: str | None = _of_column("negative_prompt", None)
    samples: int = bounded(1, "Images wanted.", low=1, high=MAX_SAMPLES)
    num_inference_steps: int | None = _of_parameter("num_inference_steps", 30)
    guidance_scale: float | None = _of_parameter("guidance_scale", 7.5)
    strength: float | None = _of_parameter("strength", None)
    width: int | None = _of_parameter("width", 768)
    height: int | None = _of_parameter("height", 768)
    refiner: bool | None = _of_column("refiner", None)
    scheduler: str | None = _of_column("scheduler", None)
    safety_checker: bool = _of_column("safety_checker", default=True)

    @model_validator(mode="after")
    def _can_be_asked_for(self) -> Self:
        values = {name: getattr(self, name) for name in _DEFAULTED if name not in _NO_PARAMETER}
        # Prompt and links are the rows' own.
        values |= {"prompt": "a", **dict.fromkeys(LINKS.get(self.task, ()), "https://host/a.png")}
        problems = [*_samples(self.samples)[1], *_request_problems(self.task, values)]
        if problems:
            raise ValueError(f"defaults: {'; '.join(problems)}")
        return self


_NO_PARAMETER = frozenset({"task", "samples"})
_ALL_LINKS = frozenset({"init_image", "mask_image"})
LINKS: Mapping[str, Collection[str]] = {
    Task.TEXT2IMAGE: (),
    Task.IMAGE2IMAGE: ("init_image",),
    Task.INPAINTING: _ALL_LINKS,
}
"""By task, the parameters that are links to the pictures that a request starts from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A row of `prompt_sets`: one row of the prompts table, ready to plan or refused.

    In a refused row a value that its column cannot hold is null; `prompt_row` has it as it was.
    """

    prompt_set: str = column("Prompt set, as in the prompts table")
    prompt_id: str = column("Prompt id, unique within the set")
    prompt: str | None = column("Prompt, as in the table")
    negative_prompt: str | None = column("Negative prompt, as in the table")
    effective_prompt: str | None = column("Prompt as it is sent, trigger words included")
    effective_negative_prompt: str | None = column("Negative prompt as it is sent")
    prompt_tokens: int = column("CLIP tokens of the effective prompt; 75 at most")
    negative_prompt_tokens: int = column("CLIP tokens of the effective negative prompt")
    task: str | None = column("text2image, image2image or inpainting")
    model_id: str | None = column("Model at the API")
    embeddings: str | None = column("Embedding's model id at the API")
    embedding_version: str | None = column("Version of the embedding")
    samples: int = column("Images wanted; 1 where the table's value cannot be read")
    seed: int | None = column("Seed of the first call; null: derived from the names")
    num_inference_steps: int | None = column("Denoising steps, 1 to 100")
    guidance_scale: float | None = column("Weight of the prompt, 1 to 20")
    strength: float | None = column("Denoising strength, 0 to 1")
    width: int | None = column("Width in pixels")
    height: int | None = column("Height in pixels")
    refiner: bool | None = column("Whether the refiner runs")
    scheduler: str | None = column("Scheduler at the API")
    safety_checker: bool | None = column("Whether the API checks the images")
    init_image: str | None = column("Public link of the first picture")
    mask_image: str | None = column("Public link of the mask")
    valid: bool = column("Whether the row can be bought")
    problems: str | None = column("What is wrong with the row, one sentence each")
    notes: str | None = column("What of the row is read otherwise than it stands")
    prompt_row: str = column("The row of the prompts table as it was, JSON")
    embedding_row: str | None = column("The row of the embeddings table as it was, JSON")
    content_version: str = column("Version of the whole set's content")

    def request_parameters(self) -> dict[str, Any]:
        """Return what a request takes from this row; its call adds `samples` and `seed`."""
        return {
            **fields_of(self, *PARAMETERS),
            "prompt": self.effective_prompt,
            "negative_prompt": self.effective_negative_prompt,
        }


PARAMETERS = (
    *("model_id", "num_inference_steps", "guidance_scale", "strength", "width", "height"),
    *("embeddings", "safety_checker", "refiner", "scheduler", "init_image", "mask_image"),
)
"""What a request takes from a row as it stands there."""

_AS_WRITTEN = (
    *("negative_prompt", "task", "model_id", "embeddings", "scheduler"),
    *("init_image", "mask_image"),
)
_DEFAULTED = tuple(GenerationDefaults.model_fields)
_COLUMN_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("seed", "num_inference_steps", "width", "height"), int),
    **dict.fromkeys(("guidance_scale", "strength"), (int, float)),
    **dict.fromkeys(("refiner", "safety_checker"), bool),
}


def validated_prompts(
    rows: Sequence[PromptRow],
    embeddings: Mapping[str, EmbeddingRow],
    *,
    defaults: GenerationDefaults,
    refuses_syntax: bool = False,
) -> Iterator[Prompt]:
    """Yield a prompt for each row of one set, in order, each valid or with its problems.

    `refuses_syntax` says whether the syntax of other tools in a prompt is a problem.
    """
    counts = Counter(row.prompt_id for row in rows)
    content_version = fingerprint_set(rows, embeddings).content
    for row in rows:
        yield _validated(
            row,
            embeddings,
            defaults,
            is_repeated=counts[row.prompt_id] > 1,
            content_version=content_version,
            refuses_syntax=refuses_syntax,
        )


def _meant_values(
    row: PromptRow, defaults: GenerationDefaults
) -> tuple[dict[str, Any], str | None]:
    """Return a row's values as its author meant them, and a note where they stand otherwise."""
    values = fields_of(row)
    for name in _DEFAULTED:
        if values[name] is None:
            values[name] = getattr(defaults, name)
    # A link that its task does not read means nothing: no value of it may stop the row.
    values |= dict.fromkeys(_ALL_LINKS - set(LINKS.get(values["task"], _ALL_LINKS)))
    if values["seed"] != -1:
        return values, None
    values["seed"] = None
    return values, "seed: -1 means any, so that it is derived from the row's names"


def _validated(
    row: PromptRow,
    embeddings: Mapping[str, EmbeddingRow],
    defaults: GenerationDefaults,
    *,
    is_repeated: bool,
    content_version: str,
    refuses_syntax: bool,
) -> Prompt:
    values, notes = _meant_values(row, defaults)
    problems = _identity_problems(row, is_repeated=is_repeated)
    samples, sample_problems = _samples(values["samples"])
    embedding, embedding_problems = _embedding(values["embeddings"], embeddings)
    prompt, negative_prompt = _with_trigger_words(
        row.prompt, values["negative_prompt"], embedding if not embedding_problems else None
    )
    parameters = {name: values[name] for name in PARAMETERS} | {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": values["seed"],
    }
    problems += [
        *sample_problems,
        *embedding_problems,
        *_request_problems(str(values["task"]), parameters),
        *(_syntax_problems(prompt, negative_prompt) if refuses_syntax else []),
        *(["prompt: is blank"] if row.prompt and is_blank(row.prompt) else []),
        *token_problems(
            prompt,
            negative_prompt,
            injected=(prompt != row.prompt, negative_prompt != values["negative_prompt"]),
        ),
    ]
    held: dict[str, Any] = {
        name: value if isinstance(value := values[name], kind) and _fits(value) else None
        for name, kind in _COLUMN_TYPES.items()
    }
    return Prompt(
        prompt_set=row.prompt_set,
        prompt_id=row.prompt_id,
        prompt=row.prompt,
        effective_prompt=prompt,
        effective_negative_prompt=negative_prompt,
        prompt_tokens=count_tokens(prompt),
        negative_prompt_tokens=count_tokens(negative_prompt or ""),
        embedding_version=embedding.version if embedding else None,
        samples=samples,
        valid=not problems,
        problems="; ".join(problems) or None,
        notes=notes,
        prompt_row=source_json(row),
        embedding_row=source_json(embedding) if embedding else None,
        content_version=content_version,
        **held,
        **{name: values[name] for name in _AS_WRITTEN},
    )


def _fits(value: Any) -> bool:  # noqa: ANN401 - a number of either kind
    return bool(-(2**63) <= value < 2**63)


def _identity_problems(row: PromptRow, *, is_repeated: bool) -> list[str]:
    if not row.prompt_id.strip():
        return ["prompt_id: is missing; give each prompt of a set an id of its own"]
    if is_repeated:
        several = f"{row.prompt_id!r} stands in several rows of this set"
        return [f"prompt_id: {several}; none is bought until each has an id of its own"]
    return []


def _samples(value: object) -> tuple[int, list[str]]:
    """Return the images wanted; a value that cannot be meant counts as one refused image."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SAMPLES:
        return value, []
    return 1, [f"samples: {value!r} is not a whole number in 1 to {MAX_SAMPLES:,}"]


def _embedding(
    embedding_id: str | None, embeddings: Mapping[str, EmbeddingRow]
) -> tuple[EmbeddingRow | None, list[str]]:
    if embedding_id is None:
        return None, []
    embedding = embeddings.get(embedding_id)
    if embedding is None:
        return None, [f"embeddings: {_unknown_embedding(embedding_id, embeddings)}"]
    if embedding.placement not in (None, *PLACEMENTS):
        placements = ", ".join(PLACEMENTS)
        problem = (
            f"placement {embedding.placement!r} of {embedding_id!r} is not one of {placements}"
        )
        return embedding, [f"embeddings: {problem}"]
    return embedding, []


def _unknown_embedding(embedding_id: str, embeddings: Mapping[str, EmbeddingRow]) -> str:
    several = [part for part in re.split(r"[,;|\n]+", embedding_id) if part.strip()]
    if len(several) == 1:  # a blank may be part of a name
        several = [part for part in embedding_id.split() if part in embeddings]
    if len(several) > 1:
        return f"{embedding_id!r} names {len(several)} embeddings, and a call takes one"
    written = look_alike(embedding_id).replace(" ", "")
    alike = [known for known in embeddings if look_alike(known).replace(" ", "") == written]
    if alike:
        return f"{embedding_id!r} differs from {alike[0]!r} in case, blanks or signs"
    return f"{embedding_id!r} is not in the embeddings table"


def _with_trigger_words(
    prompt: str, negative_prompt: str | None, embedding: EmbeddingRow | None
) -> tuple[str, str | None]:
    """Return both prompts with the trigger words that they lack, each where its embedding wants it.

    An embedding without its trigger words does nothing (the API's page asks for them). `either`, or
    no placement, is content with a word in either prompt, and adds it to the prompt. A blank prompt
    stays blank: trigger words alone would make it look like one that can be bought.
    """
    for word in embedding.trigger_words if embedding else ():
        in_prompt = _stands_in(word, prompt)
        in_negative = _stands_in(word, negative_prompt or "")
        placement = embedding.placement if embedding else None
        if placement == "negative":
            if not in_negative:
                negative_prompt = f"{negative_prompt}, {word}" if negative_prompt else word
        elif prompt.strip() and not (in_prompt or (in_negative and placement != "positive")):
            prompt = f"{prompt}, {word}"
    return prompt, negative_prompt


def _stands_in(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _syntax_problems(prompt: str, negative_prompt: str | None) -> list[str]:
    texts = {"prompt": prompt, "negative_prompt": negative_prompt}
    return [
        f"{name}: {', '.join(parts)} would be sent as words"
        for name, text in texts.items()
        if (parts := foreign_syntax(text))
    ]


def _request_problems(task: str, parameters: Mapping[str, object]) -> list[str]:
    if task not in TASKS:
        return [f"task: {task!r} is not one of {', '.join(TASKS)}"]
    try:
        request_for(task, parameters)
    except RequestInvalid as error:
        return list(error.problems)
    return []


def token_problems(
    prompt: str, negative_prompt: str | None, *, injected: tuple[bool, bool] = (False, False)
) -> list[str]:
    """Return what is too long for the model: it would be cut off silently, after paying.

    `injected` says for each text whether trigger words were added to it.
    """
    problems = []
    texts = {"prompt": prompt, "negative_prompt": negative_prompt or ""}
    about = "an estimated " if TOKENS_ARE_ESTIMATED else ""
    for (name, text), added in zip(texts.items(), injected, strict=True):
        if (tokens := count_tokens(text)) > MAX_TOKENS:
            triggers = " with its embedding's trigger words" if added else ""
            count = f"{about}{tokens} tokens{triggers}"
            problems.append(f"{name}: has {count}, and the model reads {MAX_TOKENS}; shorten it")
    return problems
