"""Whether a picture is blank: one flat colour, as filters put it in place of what they took out."""

from __future__ import annotations

BLANK_VALUE_RANGE = 12
"""The largest difference within a channel, of 255, that still counts as one flat colour.

Lossy formats bend a flat picture: one of any colour spans up to 12 after WebP at quality 75 (black,
grey and white at most 1), and up to 9 after JPEG at 95 when each value had noise of 2. A picture of
anything spans more, however dark: one star in a night sky is enough, because the range is that of
the extremes and not an average.
"""


def is_blank(value_range: int) -> bool:
    """Tell whether a picture whose channels span at most `value_range` (0 to 255) is flat."""
    return value_range <= BLANK_VALUE_RANGE
