"""The syntax of other tools in a prompt: this API takes text, and would send it as words."""

from __future__ import annotations

import re

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

_SIGNS = re.compile(r"[(<{]|__|embedding:|BREAK")


def foreign_syntax(text: str | None) -> list[str]:
    """Return the parts of a prompt that another tool would not take as words."""
    # Most prompts have none of its signs, and are looked at a million at a time.
    return _FOREIGN.findall(text) if text and _SIGNS.search(text) else []
