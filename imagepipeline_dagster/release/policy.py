"""How a dataset is released."""

from __future__ import annotations

from imagepipeline_dagster.options import Options, bounded

__all__ = ["ReleasePolicy"]


class ReleasePolicy(Options):
    """How a dataset is released."""

    max_lost_share: float = bounded(
        0.2,
        "A release is refused that loses a larger share of the former one's pictures without a "
        "person's decision or another moderation policy; 1 allows every loss.",
        low=0,
        high=1,
    )
