"""A file's headers as columns of ours: written otherwise, or other words for them."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache

from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, RowType, columns_of
from imagepipeline_dagster.tables.spelling import listed, visible_name

_SYNONYMS: Mapping[RowType, Mapping[str, str]] = {
    PromptRow: {
        "prompt_set": "category set collection batch group campaign",
        "prompt_id": "id name key row_id",
        "prompt": "prompts text caption positive positive_prompt",
        "negative_prompt": "neg_prompt negative neg negative_prompts",
        "task": "mode",
        "model_id": "model checkpoint",
        "embeddings": "embedding embedding_id textual_inversion",
        "samples": "n num_images n_samples images num_samples",
        "seed": "seeds noise_seed",
        "num_inference_steps": "steps num_steps inference_steps sampling_steps",
        "guidance_scale": "cfg cfgs cfg_scale guidance",
        "strength": "denoise denoising denoising_strength",
        "scheduler": "sampler sampler_name sampler_index",
        "init_image": "init init_images",
        "mask_image": "mask",
        "updated_at": "updated modified modified_at last_modified",
    },
    EmbeddingRow: {
        "embedding_id": "id uuid model_id",
        "trigger_words": "trigger triggers trigger_word",
        "base_model": "base",
        "version": "revision",
    },
}
_ALIKE = 0.85  # difflib's ratio: one letter of seven


class HeadersRefused(ValueError):
    """The headers do not say what to read; `problems` has a sentence for each trouble."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


def plain_name(header: str) -> str:
    """Return a header without what people write in different ways."""
    return "".join(filter(str.isalnum, visible_name(header).casefold()))


@cache
def known_names() -> frozenset[str]:
    """Return every header that means one of our columns, as `plain_name` has it."""
    ours = {name for row_type in _SYNONYMS for name in columns_of(row_type)}
    words = {word for of in _SYNONYMS.values() for text in of.values() for word in text.split()}
    return frozenset(map(plain_name, ours | words))


def resolved_headers(
    headers: Sequence[str],
    row_type: RowType,
    *,
    column_map: Mapping[str, str],
    given: Collection[str],
    ignored: Collection[str] = (),
    guess: bool = False,
) -> tuple[dict[str, str], dict[str, str]]:
    """Return which header each of our columns is read from, and which of them were guessed.

    `given` are columns that need none; `ignored` are headers that a person leaves out.

    Raises:
        HeadersRefused: when a column is missing, stands twice, or has another name by the look of
            it; says the options that settle it.
    """
    ours = columns_of(row_type)
    column_map = {name: _meant(header, headers) for name, header in column_map.items()}
    ignored = [_meant(header, headers) for header in ignored]
    other = None if column_map else _columns_of_the_other(headers, row_type)
    if other is not None:
        raise HeadersRefused([other])
    problems = [
        f"{name!r} is no column of ours; those are {listed(ours)}"
        for name in (*column_map, *given)
        if name not in ours
    ]
    problems += _not_there(headers, column_map, ignored)
    chosen = {name: header for name, header in column_map.items() if header in headers}
    free = [h for h in headers if h and h not in chosen.values() and h not in ignored]
    for name in ours:
        if name not in column_map and (same := _written_alike(name, free)):
            chosen[name] = name if name in same else same[0]
            problems += _several(name, same)
    problems += [
        f"the file has the column {header!r} {headers.count(header)} times"
        for header in dict.fromkeys(chosen.values())
        if headers.count(header) > 1
    ]
    guesses = _guesses([h for h in free if h not in chosen.values()], row_type, {*chosen, *given})
    if guess:
        chosen |= guesses
    elif guesses:
        problems.append(_proposal(guesses))
    missing = [
        name
        for name, column in ours.items()
        if column.required and name != "prompt_id" and name not in {*chosen, *given, *column_map}
    ]
    if lacking := [name for name in missing if guess or name not in guesses]:
        problems.append(_without(lacking, headers))
    if problems:
        raise HeadersRefused(problems)
    return {n: chosen[n] for n in ours if n in chosen}, guesses if guess else {}


def _not_there(
    headers: Sequence[str], column_map: Mapping[str, str], ignored: Sequence[str]
) -> list[str]:
    """Return a sentence for each header that a person names and the file does not have."""
    named = [(header, f"{name} is mapped to") for name, header in column_map.items()]
    named += [(header, "is to be ignored") for header in ignored]
    return [
        f"the file has no column {header!r}, which {why}; it has {listed(headers) or 'none'}"
        for header, why in named
        if header not in headers
    ]


def _written_alike(name: str, headers: Sequence[str]) -> list[str]:
    return [header for header in headers if plain_name(header) == plain_name(name)]


def _several(name: str, same: Sequence[str]) -> Iterator[str]:
    """Yield a sentence where different headers are a column's name."""
    if len(set(same)) > 1:
        other = next(header for header in same if header != name)
        yield (
            f"{' and '.join(map(repr, same))} may both be {name}; leave one out: "
            f"--ignore {shlex.quote(other)}"
        )


def _meant(written: str, headers: Sequence[str]) -> str:
    """Return the header that a person wrote, perhaps otherwise than the file does."""
    alike = _written_alike(written, headers)
    return alike[0] if len(alike) == 1 and written not in headers else written


def _guesses(headers: Sequence[str], row_type: RowType, taken: Collection[str]) -> dict[str, str]:
    """Return the columns that nothing fills yet, and the header that is another word for each."""
    guesses: dict[str, str] = {}
    for name in columns_of(row_type):
        words = map(plain_name, (name, *_SYNONYMS[row_type].get(name, "").split()))
        if name in taken:
            continue
        ranked = [header for word in words for header in headers if _without_remark(header) == word]
        ranked += [
            header
            for header in headers
            if plain_name(header) not in known_names()
            and difflib.SequenceMatcher(None, plain_name(header), plain_name(name)).ratio()
            >= _ALIKE
        ]
        free = [header for header in ranked if header not in guesses.values()]
        if free:
            guesses[name] = free[0]
    return guesses


def _without_remark(header: str) -> str:
    """Return the plain name of a header such as "prompt (in English)"."""
    return plain_name(re.split(r"[(\[]", header, maxsplit=1)[0])


def _columns_of_the_other(headers: Sequence[str], row_type: RowType) -> str | None:
    """Return that a file is one for the other table, where it has its keys and not ours."""
    names = set(map(plain_name, headers))
    prompts, embeddings = "prompt" in names, "embeddingid" in names
    if row_type is PromptRow and embeddings and not prompts:
        return "the file has embeddings, which import-embeddings takes"
    if row_type is EmbeddingRow and prompts and not embeddings:
        return "the file has prompts, which import-prompts takes"
    return None


def _proposal(guesses: Mapping[str, str]) -> str:
    maps = " ".join(f"--map {shlex.quote(f'{name}={h}')}" for name, h in guesses.items())
    means = ", ".join(f"{header!r} ({name})" for name, header in guesses.items())
    return (
        f"these headers look like columns of ours: {means}. Take them with --guess, or with {maps}"
        f"; or leave one out: --ignore {shlex.quote(next(iter(guesses.values())))}"
    )


def _without(missing: Sequence[str], headers: Sequence[str]) -> str:
    ways = [f"--map {name}=HEADER" for name in missing if name != "prompt_set"]
    if "prompt_set" in missing:
        ways.append("--set NAME for all rows, --set-from FILENAME, or --map prompt_set=HEADER")
    return (
        f"no column is called {' or '.join(map(repr, missing))}; the file has "
        f"{listed(headers) or 'none'}. Say what to take: {'; '.join(ways)}"
    )
