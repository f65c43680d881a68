"""A cell's value made what its column means by it; each change is noted.

Each rule is one function from a raw value to a raw value and a note, which says what was done.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from imagepipeline_dagster.tables.schema import Column
from imagepipeline_dagster.tables.spelling import quoted, visible_name
from imagepipeline_dagster.tables.values import Kind, read_time, read_whole

_SEED_LIMIT = 2**64  # of ComfyUI
_WHOLE_AS_NUMBER = re.compile(r"([+-]?[0-9]+)\.0+")
_IDS = frozenset({"prompt_id", "embedding_id", "embeddings"})
_SAME = 1e-10  # of a number; of two that are near in single precision alone it is 1e-8
_SOON = dt.timedelta(days=1)


class Tidied(NamedTuple):
    """A raw value as its column means it.

    `note` says what was done, and `about` which of the rule's notes it is; `extra` fills other
    columns.
    """

    value: object
    note: str | None = None
    extra: Mapping[str, str] = MappingProxyType({})
    about: str = ""


Tidy = Callable[[object], Tidied]


def tidy_of(column: Column, *, decimal: str, seed_modulo: int | None) -> Tidy | None:
    """Return the rule of a column, or None where it has none of its own."""
    match column.name:
        case "prompt_set":
            return _set_name
        case "seed":
            return lambda raw: _seed(raw, seed_modulo)
        case "updated_at":
            return _time
        case name if name in _IDS:
            return _id
    if column.kind in {Kind.NUMBER, Kind.WHOLE}:
        return lambda raw: _number(raw, decimal)
    return None


def _set_name(raw: object) -> Tidied:
    if not isinstance(raw, str):
        return _id(raw)
    name = visible_name(raw)
    return Tidied(name) if name == raw else Tidied(name, f"{raw!a} is read as {quoted(name)}")


def _id(raw: object) -> Tidied:
    """Ids become 30.0, and days become midnights, where they went through a data frame."""
    if isinstance(raw, dt.datetime):
        text = str(raw)
        return Tidied(text.removesuffix(" 00:00:00"))
    if isinstance(raw, str) and (number := _WHOLE_AS_NUMBER.fullmatch(raw)):
        return Tidied(number[1], f"{raw!r} is read as {number[1]!r}")
    return Tidied(raw)


def _number(raw: object, decimal: str) -> Tidied:
    if isinstance(raw, str):
        return Tidied(raw.replace(decimal, ".") if "." not in raw else raw)
    if isinstance(raw, float | Decimal):
        # Half as precise, 7.1 is 7.099999904632568: formats spell that in different ways.
        value = float(raw)
        single = np.float32(value)
        if abs(float(single) - value) <= _SAME * abs(value):
            return Tidied(float(str(single)))
    return Tidied(raw)


def _seed(raw: object, modulo: int | None) -> Tidied:
    if modulo is None and isinstance(raw, str) and raw.isdecimal():
        return Tidied(raw)
    seed = read_whole(raw)
    if seed == -1:
        return Tidied(None, "-1 means any seed: it is derived from the row's names", about="any")
    if modulo is not None and isinstance(seed, int) and modulo <= seed < _SEED_LIMIT:
        mapped = seed % modulo
        return Tidied(mapped, f"{seed} becomes {mapped}", {"original_seed": str(seed)})
    return Tidied(raw)


def _time(raw: object) -> Tidied:
    time = read_time(raw)
    if isinstance(time, dt.datetime) and time > dt.datetime.now(dt.UTC) + _SOON:
        note = f"{time:%Y-%m-%d} is in the future: until then no change of other rows is noticed"
        return Tidied(raw, note)
    return Tidied(raw)
