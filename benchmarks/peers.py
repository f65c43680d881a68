"""What people write around the API: a loop, or a thread pool, that asks at a fixed pace.

They store what they download and nothing else: no ledger, no look at the picture, no fsync.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests

_THREADS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What a hand-written loop came to; `job_ids` in the order in which they were bought."""

    seconds: float
    cpu_seconds: float
    job_ids: list[str]


def buy_one_by_one(*, url: str, api_key: str, jobs: int, poll_seconds: float, folder: Path) -> Peer:
    """Buy as the API's page shows: POST, ask until it is done, download; then the next."""
    session = _session()
    began, began_cpu = time.perf_counter(), time.process_time()
    buy = partial(_buy, url=url, api_key=api_key, poll_seconds=poll_seconds, folder=folder)
    job_ids = [buy(lambda: session, number) for number in range(jobs)]
    return _peer(began, began_cpu, job_ids)


def buy_in_a_pool(*, url: str, api_key: str, jobs: int, poll_seconds: float, folder: Path) -> Peer:
    """Do the same in as many threads as the server works on jobs at once."""
    # A session is not safe to share among threads.
    local = threading.local()

    def session() -> requests.Session:
        if not hasattr(local, "session"):
            local.session = _session()
        found: requests.Session = local.session
        return found

    began, began_cpu = time.perf_counter(), time.process_time()
    buy = partial(_buy, url=url, api_key=api_key, poll_seconds=poll_seconds, folder=folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        job_ids = list(pool.map(partial(buy, session), range(jobs)))
    return _peer(began, began_cpu, job_ids)


def _peer(began: float, began_cpu: float, job_ids: list[str]) -> Peer:
    return Peer(
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - began_cpu,
        job_ids=job_ids,
    )


def _session() -> requests.Session:
    session = requests.Session()
    # A proxy for the outer world cannot reach this machine's loopback.
    session.trust_env = False
    return session


def _buy(
    session: Callable[[], requests.Session],
    number: int,
    *,
    url: str,
    api_key: str,
    poll_seconds: float,
    folder: Path,
) -> str:
    http = session()
    headers = {"API-Key": api_key}
    data = {
        "model_id": "sdxl",
        "prompt": f"boat number {number} on a lake",
        "num_inference_steps": 30,
        "samples": 1,
        "guidance_scale": 7.5,
        "width": 768,
        "height": 768,
        "seed": number,
    }
    endpoint = f"{url}/sdxl/text2image/v1"
    answer = http.post(endpoint, headers=headers, data=json.dumps(data), timeout=30).json()
    job_id: str = answer["id"]
    while answer["status"] == "PENDING":
        time.sleep(poll_seconds)
        answer = http.get(f"{endpoint}/status/{job_id}", headers=headers, timeout=30).json()
    for place, link in enumerate(answer["download_urls"]):
        picture = http.get(link, timeout=30).content
        (folder / f"{number}-{place}.png").write_bytes(picture)
    return job_id
