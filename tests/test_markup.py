from __future__ import annotations

import html

import pytest
import yaml

from imagepipeline_dagster.markup import markdown_text, visible, yaml_text

TEXTS = ["<b> | `x` *y* [z](u) !", "a\u202eb\x1b[31m", '"quoted"\\ \U0001f98a', "snake_case _it_"]


@pytest.mark.parametrize("text", TEXTS)
def test_markdown_shows_the_text_and_reads_no_markup(text: str) -> None:
    """No sign of Markdown or HTML stays, and a browser shows what was written."""
    shown = markdown_text(text)
    assert not set(shown) & set("<>|`*[]()!\\\"'\u202e\x1b")
    assert html.unescape(shown) == visible(text)


def test_markdown_is_one_line_of_the_length_asked_for() -> None:
    """Line ends become blanks, a long text ends in an ellipsis, and a number is left as it is."""
    assert markdown_text("a\n\nb") == "a b"
    assert markdown_text("x" * 30, longest=10) == "x" * 9 + "…"
    assert markdown_text(-0.5) == "-0.5"


@pytest.mark.parametrize("text", [*TEXTS, "two\nlines", "---", ""])
def test_yaml_reads_the_text_back(text: str) -> None:
    """A quoted scalar is one line, and a YAML reader gives back the text."""
    assert "\n" not in yaml_text(text)
    assert yaml.safe_load(yaml_text(text)) == text
