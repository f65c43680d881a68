"""Verdicts with their evidence: which samples are kept, and why the others are not.

- `blank`: whether a decoded picture is one flat colour.
- `verdicts`: a verdict and a reason for each requested sample, and their counts.
"""
