"""The root of every error that a person can put right."""

from __future__ import annotations


class CorrectableError(Exception):
    """A person can put it right: the message says what is wrong, where, and what to do.

    The command line shows the message alone. Every other error is a defect, and keeps its
    traceback.
    """
