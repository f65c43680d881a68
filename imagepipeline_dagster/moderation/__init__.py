"""Verdicts with their evidence: which samples are kept, and why the others are not.

- `policy`: what a dataset keeps, rejects and sets aside, and the sets that differ.
- `classifier`, `opennsfw`: the independent classifier, and the one of the extra [moderation].
- `duplicates`: pictures that repeat another of their set.
- `evidence`: scores and hashes, computed once and kept.
- `verdicts`: a verdict and a reason for each requested sample, and their counts.
- `moderating`: all of it for one prompt set. `checks`: what the checks of its verdicts ask.
- `states`: what each set's verdicts were made from. `ticks`: which are to be made anew.
- `review`: the sheet and the page that a person reviews pictures on.
- `decisions`: what people decide, read and checked.
"""
