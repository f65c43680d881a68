"""Text from the tables inside Markdown, HTML and YAML: shown as it is, never read as markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_MEANINGFUL = re.compile(r"""[!"#$&'()*+./:<>?@[\\\]^`{|}~]|(?<![^\W_])_|_(?![^\W_])""")
# Every sign that means something inside a line of Markdown; not the underscore inside a word.

_JOINERS = "\u200c\u200d"
_LONGEST_TEXT = 200  # characters of a value in a Markdown template


def is_shown(sign: str) -> bool:
    """Tell whether a text may be shown with this sign: it is seen, or joins signs that are.

    Emoji, Persian and Hindi need the two joiners; they turn no reading direction round.
    """
    return sign.isprintable() or sign in _JOINERS


def visible(text: str) -> str:
    """Return the text with a box for each sign that cannot be shown, but line ends.

    Such a sign could turn the reading direction round, or be an order to a terminal.
    """
    if text.isprintable():
        return text
    return "".join(sign if is_shown(sign) or sign == "\n" else "\ufffd" for sign in text)


def markdown_text(value: object, *, longest: int | None = None) -> str:
    """Return a value as one line that Markdown and HTML show as its text.

    `longest` cuts it, in characters.
    """
    if isinstance(value, int | float):
        return str(value)
    line = " ".join(str(value).split())
    if longest is not None and len(line) > longest:
        line = line[: longest - 1] + "…"
    # An entity is shown as its sign and does nothing: it ends no cell, and begins no tag or link.
    return _MEANINGFUL.sub(lambda sign: f"&#{ord(sign[0])};", visible(line))


def yaml_text(text: str) -> str:
    """Return the text as a quoted YAML scalar on one line."""
    plain = "".join(
        sign if sign.isprintable() and sign not in '"\\' else f"\\U{ord(sign):08X}" for sign in text
    )
    return f'"{plain}"'


@cache
def template(name: str) -> Template:
    """Return a template of this package, as `release/card.md.jinja`; it escapes what it is given.

    What is None is shown as nothing. The ending before `.jinja` tells how the rest is: for Markdown
    (`md`) or for HTML (`html`).
    """
    return _environment(_FINALIZERS[name.split(".")[-2]]).get_template(name)


@cache
def _environment(finalize: Callable[[object], Markup]) -> Environment:
    # The command line needs the rest of this module alone, and starts quickly.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("imagepipeline_dagster", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # A quoted scalar needs no escapes.
    environment.filters["yaml"] = lambda text: Markup(yaml_text(text))  # noqa: S704
    return environment


def _in_markdown(value: object) -> Markup:
    if isinstance(value, Markup):
        return value
    text = "" if value is None else markdown_text(value, longest=_LONGEST_TEXT)
    return Markup(text)  # noqa: S704 - escaped just now


def _in_html(value: object) -> Markup:
    if isinstance(value, Markup):
        return value
    return Markup.escape("" if value is None else visible(str(value)))


_FINALIZERS = {"md": _in_markdown, "html": _in_html}
