"""The API's contract served on loopback, so that nothing has to be bought to try or to test.

    with EmulatorServer(EmulatorSettings()) as emulator:
        httpx.post(f"{emulator.url}/sdxl/text2image/v1", headers={"API-Key": "emulator"}, ...)

- `settings`: how the emulated vendor behaves: latency, concurrency, links, the safety checker.
- `faults`: what goes wrong, where, how often and for which prompts.
- `jobs`: ids and links that any later process can answer for, and the queue.
- `stats`: what was asked, accepted and delivered; `bought_twice` is the one to assert on.
- `intake`, `answers`: what becomes of a POST, and how the vendor, or a fault, words an answer.
- `app`: the routes. `server`: the same in a thread, or in the foreground.
- `sources`: the pictures that `init_image` and `mask_image` point to.
- `drawing`: a picture of a text, or of a request and marked EMULATED.
"""

from imagepipeline_dagster.emulator.app import Emulator
from imagepipeline_dagster.emulator.faults import Fault, FaultKind, Operation
from imagepipeline_dagster.emulator.server import EmulatorServer, serve
from imagepipeline_dagster.emulator.settings import EmulatorSettings, FilterSignal
from imagepipeline_dagster.emulator.stats import EmulatorStats, request_hash

__all__ = [
    "Emulator",
    "EmulatorServer",
    "EmulatorSettings",
    "EmulatorStats",
    "Fault",
    "FaultKind",
    "FilterSignal",
    "Operation",
    "request_hash",
    "serve",
]
