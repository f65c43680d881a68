"""Purchases in processes of their own, which kill themselves at a given step.

Run as a program, it reads one order a line from its input and forks a process for each purchase in
it: forking costs hundredths of a second, a new interpreter with every import one or two seconds.
The answers are a line with the process ids, and one with how each ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import stamina
from pydantic import BaseModel

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.ledger import steps
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.purchase import endings, landing, purchase, rounds, submission
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.buying import Buyer, numbered_rows, prompts_of

INTERRUPTED = 3
"""The exit code of a purchase that was interrupted and said so."""


_ALIKE = {"claims": "claim", "jobs": "submitted"}
"""Steps that are written for many requests together, by what they are for one."""


_SETTINGS = {
    *("max_in_flight", "account_max_in_flight", "account_requests_per_second"),
    *("requests_per_second", "lease_seconds"),
}
"""What of an order are settings of the purchase."""


class Order(BaseModel):
    """One purchase: how much of what, where, and at which step to die (`step:moment:occurrence`).

    Moments of the ledger's steps: `before` it, `uncommitted` after it inside its transaction, and
    `committed`; of the others `before` and `after`.
    """

    ledger_url: str
    folder: Path
    base_url: str
    prompt_set: str
    calls: int
    samples_per_call: int = 1
    max_in_flight: int = 1
    account_max_in_flight: int | None = None
    account_requests_per_second: float | None = None
    requests_per_second: float | None = None
    beside_others: bool = False
    lease_seconds: float = 30.0
    init_image: str | None = None
    dies_at: str | None = None

    def buyer(self) -> Buyer:
        """Return the buyer of this order."""
        return Buyer(
            ledger_url=self.ledger_url,
            folder=self.folder,
            base_url=self.base_url,
            samples_per_call=self.samples_per_call,
        )

    def prompts(self) -> list[Prompt]:
        """Return the prompts of this order, a call each."""
        start: dict[str, Any] = {}
        if self.init_image:
            start = {"task": "image2image", "init_image": self.init_image}
        return prompts_of(
            numbered_rows(
                self.calls, prompt_set=self.prompt_set, samples=self.samples_per_call, **start
            )
        )


class Orders(BaseModel):
    """Purchases that are to run at the same time."""

    orders: list[Order]


class _Death:
    """Kills this process when a step comes to its moment the given time."""

    def __init__(self, dies_at: str) -> None:
        self._point, _, occurrence = dies_at.rpartition(":")
        self._occurrence = int(occurrence)
        self._seen: Counter[str] = Counter()

    def at(self, step: str, moment: str) -> None:
        point = f"{step}:{moment}"
        self._seen[point] += 1
        if point == self._point and self._seen[point] == self._occurrence:
            os.kill(os.getpid(), signal.SIGKILL)


def _arm(death: _Death) -> None:
    """Put the death around every step of the ledger, the client and the storage."""
    for step in ("claim", "submitted", "stored", "succeeded", "failed", "release"):
        name = "record_successes" if step == "succeeded" else f"record_{step}"
        deadly = _deadly(getattr(steps, name), step, death)
        for module in (steps, endings, landing, purchase, rounds, submission):
            if hasattr(module, name):
                setattr(module, name, deadly)
    LedgerWriter.write = _deadly_write(LedgerWriter.write, death)  # type: ignore[method-assign]
    LedgerWriter.write_together = _deadly_write(  # type: ignore[method-assign]
        LedgerWriter.write_together, death
    )
    for step in ("submit", "status", "download"):
        method = getattr(ImagePipelineClient, step)
        setattr(ImagePipelineClient, step, _deadly_request(method, step, death))
    written = LocalFolder.write

    def write(self: LocalFolder, path: str, data: bytes, *, derived: bool = False) -> str:
        step = path.partition("/")[0]
        death.at(step, "before")
        uri = written(self, path, data, derived=derived)
        death.at(step, "after")
        return uri

    LocalFolder.write = write  # type: ignore[method-assign]


def _deadly(function: Callable[..., Any], step: str, death: _Death) -> Callable[..., Any]:
    def stepping(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever the step takes
        death.at(step, "before")
        result = function(*arguments, **options)
        death.at(step, "uncommitted")
        return result

    stepping.__name__ = step
    return stepping


def _deadly_write(write: Callable[..., Any], death: _Death) -> Callable[..., Any]:
    async def writing(
        self: LedgerWriter,
        change: Any,  # noqa: ANN401
        *arguments: Any,  # noqa: ANN401
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        result = await write(self, change, *arguments, **options)
        name = change.__name__.strip("_").removeprefix("record_")
        death.at(_ALIKE.get(name, name), "committed")
        return result

    return writing


def _deadly_request(method: Callable[..., Any], step: str, death: _Death) -> Callable[..., Any]:
    async def requesting(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        death.at(step, "before")
        result = await method(*arguments, **options)
        death.at(step, "after")
        return result

    return requesting


def _carry_out(order: Order) -> NoReturn:
    """Buy what was ordered, and leave without any of the parent's own ending."""
    # Not handled in the parent, where a Ctrl-C in the terminal must end everything.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Retries are announced on standard output, which is for exit codes here.
    stamina.instrumentation.set_on_retry_hooks([])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if order.dies_at:
        _arm(_Death(order.dies_at))
    try:
        order.buyer().buy(
            order.prompts(),
            beside_others=order.beside_others,
            keep_source_pictures=order.init_image is not None,
            **order.model_dump(include=_SETTINGS),
        )
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except BaseException:  # noqa: BLE001 - shown, and never let loose in the parent's loop
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _serve() -> None:
    for line in sys.stdin:
        pids = []
        for order in Orders.model_validate_json(line).orders:
            pid = os.fork()
            if pid == 0:
                _carry_out(order)
            pids.append(pid)
        _say(pids)
        _say([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])


def _say(numbers: list[int]) -> None:
    sys.stdout.write(json.dumps(numbers) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve()
