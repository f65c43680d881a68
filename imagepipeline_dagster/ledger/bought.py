"""Whether a ledger knows pictures that were paid for."""

from __future__ import annotations

from sqlalchemy import func, select

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.records import State
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import requests


class EmulatorRefused(CorrectableError):
    """The emulator would draw in place of pictures that were paid for; says what to set."""


def refuse_emulator(ledger: Ledger) -> None:
    """Refuse a ledger that knows bought pictures.

    Raises:
        EmulatorRefused: says how many requests were bought, and what to do.
    """
    bought = select(func.count()).where(
        requests.c.state == State.SUCCEEDED, requests.c.emulated.is_(False)
    )
    with ledger.reading() as connection:
        count = connection.execute(bought).scalar_one()
    if count:
        raise EmulatorRefused(
            f"This dataset has pictures of {count} requests that were bought, and no API key is "
            "set: the emulator would draw others in their place. Set IMAGEPIPELINE_API_KEY, or "
            "api_key of the component or the resource; or give the emulator a storage and a ledger "
            "of its own (IMAGEPIPELINE_STORAGE)."
        )
