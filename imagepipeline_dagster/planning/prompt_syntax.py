"""The syntax of other tools in a prompt: this API takes text, and would send it as words."""

from __future__ import annotations

import re

__all__ = ["foreign_syntax"]

_FOREIGN = re.compile(
    r"""
    \([^()]*[^()\d\s]\s*:\s*[0-9.]+\)  # a weight: (word:1.3)
    | <(?:lora|lyco|hypernet):[^<>]*>   # a network: <lora:name:0.8>
    | \bembedding:[^\s,]+               # an embedding by name
    | \{[^{}]*\|[^{}]*\}                # alternatives: {a|b}
    | \{\w+\}                           # a placeholder of a styles file: {prompt}
    | __[\w/-]+__                       # a wildcard
    | \bBREAK\b
    """,
    re.VERBOSE,
)


def foreign_syntax(text: str | None) -> list[str]:
    """Return the parts of a prompt that another tool would not take as words."""
    return _FOREIGN.findall(text or "")
