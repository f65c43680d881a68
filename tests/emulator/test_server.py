from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image

from imagepipeline_dagster.api.contract import TASKS, request_for
from imagepipeline_dagster.api.jobs import JobStatus
from imagepipeline_dagster.emulator import (
    Emulator,
    EmulatorServer,
    EmulatorSettings,
    EmulatorStats,
    request_hash,
)
from imagepipeline_dagster.emulator.intake import MAX_SIDE
from imagepipeline_dagster.emulator.jobs import JobTicket
from imagepipeline_dagster.loopback import PortUnusable
from tests.emulator.conftest import NO_TLS, Caller, Started, calling, fetch, follow

# The request of the API page's own snippet.
SNIPPET = {
    "model_id": "sdxl",
    "prompt": (
        "Close up of beautiful young woman with red hair, detailed eyes、detailed face, detailed "
        "skin, standing in a field of wildflowers, wearing a flowing white dress, cinematic-2, "
        "8k quality"
    ),
    "negative_prompt": (
        "ac_neg1, error, cropped, worst quality, low quality, duplicate, blurry, (unfinished "
        "objects), stock image, artifacts, blurry face, bad proportion, (deformed iris), too many "
        "fingers"
    ),
    "num_inference_steps": 20,
    "refiner": False,
    "samples": 1,
    "guidance_scale": 7.5,
    "width": 768,
    "height": 768,
    "embeddings": "15f002de-bf0c-4b99-857b-a7a4bd7030dc",
    "seed": 12345,
    "safety_checker": True,
}


def test_the_pages_snippet_gets_a_picture(caller: Caller) -> None:
    """The request of the API's page, sent as its snippet sends it, ends in one 768 px picture."""
    url = f"{caller.server.url}/sdxl/text2image/v1"
    answer = httpx.post(url, headers={"API-Key": "emulator"}, content=json.dumps(SNIPPET))
    assert answer.status_code == 200
    assert answer.json()["status"] == "PENDING"
    assert len(answer.json()["id"]) < 1500
    (link,) = caller.wait(answer.json()["id"]).download_urls
    with Image.open(BytesIO(fetch(link))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (768, 768))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_answers(caller: Caller, task: str) -> None:
    """Each task turns its request into as many pictures as samples, unlike each other."""
    mask = {"mask_image": "https://pictures.example/masks/sky.png"} if task == "inpainting" else {}
    assert len(set(caller.images(task, samples=4, seed=3, **mask))) == 4


def test_answers_follow_the_page(start: Started) -> None:
    """An answer holds what the page names for its status and nothing else."""
    caller = start(latency_seconds=0.1, latency_spread=0)
    accepted = caller.post().json()
    assert set(accepted) == {"status", "id"}
    status = f"/sdxl/text2image/v1/status/{accepted['id']}"
    assert caller.http.get(status).json() == accepted
    caller.wait(accepted["id"])
    assert set(caller.http.get(status).json()) == {"status", "download_urls"}


def test_answer_at_once(start: Started) -> None:
    """With `answer_at_once` a POST is answered when the job is done, with links and no id."""
    caller = start(answer_at_once=True, latency_seconds=0.05)
    answer = caller.post().json()
    assert set(answer) == {"status", "download_urls"}
    assert fetch(answer["download_urls"][0])


@pytest.mark.parametrize("key", [None, "", "another", "émulator"])
def test_wrong_key_is_refused(caller: Caller, key: str | None) -> None:
    """Neither a job nor a status is given without the key, and nothing is bought."""
    headers = httpx.Headers({} if key is None else {"API-Key": key}, encoding="utf-8")
    refused = caller.server.stats.posts_refused
    url = f"{caller.server.url}/sdxl/text2image/v1"
    posted = httpx.post(url, headers=headers, json={"model_id": "sdxl", "prompt": "a boat"})
    asked = httpx.get(f"{url}/status/{caller.submit()}", headers=headers)
    assert [posted.status_code, asked.status_code] == [401, 401]
    assert posted.json()["status"] == "FAILURE"
    assert "API-Key" in posted.json()["error"]
    assert caller.server.stats.posts_refused == refused + 1


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"samples": 5}, "samples"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_scale": 20.5}, "guidance_scale"),
        ({"strength": -0.1}, "strength"),
        ({"seed": -1}, "seed"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"model_id": 7}, "model_id"),
        ({"width": MAX_SIDE + 1}, "width"),
        ({"height": MAX_SIDE + 1}, "height"),
        ({"prompt": "word " * 2000}, "prompt"),
    ],
)
def test_broken_request_is_refused(caller: Caller, parameters: dict[str, Any], field: str) -> None:
    """A value outside the documented ranges gets 422, naming the field, and buys nothing."""
    accepted = caller.server.stats.posts_accepted
    answer = caller.post(**parameters)
    assert answer.status_code == 422
    assert answer.json()["status"] == "FAILURE"
    assert field in answer.json()["error"]
    assert [entry["loc"] for entry in answer.json()["detail"]] == [["body", field]]
    assert caller.server.stats.posts_accepted == accepted


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'"text"', b"\xff\xfe"])
def test_body_that_is_no_object_is_refused(caller: Caller, body: bytes) -> None:
    """A body that is no JSON object gets 400."""
    answer = caller.http.post("/sdxl/text2image/v1", content=body)
    assert (answer.status_code, answer.json()["status"]) == (400, "FAILURE")


def test_unknown_fields_are_passed_over(caller: Caller) -> None:
    """A field that the page does not know changes nothing."""
    plain, extra = caller.images(seed=1), caller.images(seed=1, colour="red", lora_models="x")
    assert plain == extra


@pytest.mark.parametrize(
    "path", ["/sdxl/text2video/v1", "/sdxl/text2image/v1/status/nothing", "/elsewhere"]
)
def test_unknown_places_are_404(caller: Caller, path: str) -> None:
    """An unknown task, job or path gets 404 in the API's own form."""
    method = "POST" if path.endswith("video/v1") else "GET"
    answer = caller.http.request(method, path, json={})
    assert (answer.status_code, answer.json()["status"]) == (404, "FAILURE")


def test_a_later_server_answers_for_an_earlier_one(start: Started) -> None:
    """A job outlives its server: another one, on another port, delivers the same bytes."""
    with calling(latency_seconds=0.2) as first:
        job_id, seeded_id = first.submit(samples=2), first.submit(samples=2, seed=5)
        bytes_of_first = [fetch(link) for link in first.wait(seeded_id).download_urls]
    second = start()
    job = second.wait(job_id)
    assert all(link.startswith(second.server.url) for link in job.download_urls)
    assert len({fetch(link) for link in job.download_urls}) == 2
    assert [fetch(link) for link in second.wait(seeded_id).download_urls] == bytes_of_first


def test_another_process_draws_the_same_bytes(caller: Caller) -> None:
    """The same request with the same seed gives the same bytes in any process."""
    code = """
import hashlib
from imagepipeline_dagster.api.contract import request_for
from imagepipeline_dagster.emulator.drawing import draw_png
told = {"model_id": "sdxl", "prompt": "a boat", "width": 64, "height": 64, "seed": 9}
png = draw_png(request_for("text2image", told), seed=9, sample_index=0)
import sys; sys.stdout.write(hashlib.sha256(png).hexdigest())
"""
    (here,) = caller.images(seed=9)
    there = subprocess.run(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert there.stdout == sha256(here).hexdigest()


def test_seed_decides_the_bytes(caller: Caller) -> None:
    """An equal seed gives equal bytes; another one, or none, gives others."""
    assert caller.images(seed=1) == caller.images(seed=1)
    pictures = [caller.images(seed=1), caller.images(seed=2), caller.images(), caller.images()]
    assert len({tuple(picture) for picture in pictures}) == 4


def test_links_expire_and_are_renewed(start: Started) -> None:
    """A link past its time gets 403; asking for the status again gives links that work."""
    caller = start(link_lifetime_seconds=0.15)
    job_id = caller.submit()
    (link,) = caller.wait(job_id).download_urls
    assert fetch(link)
    while (late := follow(link)).status_code == 200:
        time.sleep(0.01)
    assert (late.status_code, "expired" in late.json()["error"]) == (403, True)
    (renewed,) = caller.wait(job_id).download_urls
    assert fetch(renewed)


def test_changed_links_are_refused(caller: Caller) -> None:
    """Nobody gets another sample, or more time, by changing a link."""
    (link,) = caller.make().download_urls
    assert follow(link.replace("expires=", "expires=9")).status_code == 403
    assert follow(link.replace("/0.png", "/1.png")).status_code == 403
    assert follow(link.partition("?")[0]).status_code == 403
    assert follow(link.replace("expires=", "expires=x")).status_code == 403


def test_jobs_wait_for_a_free_worker(start: Started) -> None:
    """With two workers, six jobs of 0.1 s take three turns, in the order of acceptance."""
    caller = start(latency_seconds=0.1, latency_spread=0, concurrency=2)
    jobs = [JobTicket.read(caller.submit(seed=k)) for k in range(6)]
    ready = [job.ready_at for job in jobs]
    assert ready == sorted(ready)
    # Times are kept to the millisecond.
    assert ready[-1] - jobs[0].accepted_at > 0.298


@pytest.mark.parametrize("prompt", ["NSFW, a boat", "a nude", "explicit!", "gore and more"])
def test_filtered_pictures_get_no_link(caller: Caller, prompt: str) -> None:
    """The safety checker holds back the pictures of such prompts, unless it is switched off."""
    assert caller.make(prompt=prompt, samples=2).download_urls == ()
    assert len(caller.make(prompt=prompt, samples=2, safety_checker=False).download_urls) == 2


def test_filter_reads_whole_words_of_the_prompt(caller: Caller) -> None:
    """Neither a word within another nor one in the negative prompt is filtered."""
    job = caller.make(prompt="the gorey nudelman boat", negative_prompt="nsfw, nude")
    assert len(job.download_urls) == 1


def test_filter_signals(start: Started) -> None:
    """A filtered picture can also come back black, or fail the job."""
    black = start(filter_signal="black").images(prompt="nsfw", samples=2)
    assert [Image.open(BytesIO(image)).getextrema() for image in black] == [((0, 0),) * 3] * 2
    failed = start(filter_signal="failure").make(prompt="nsfw")
    assert failed.status is JobStatus.FAILURE
    assert "NSFW" in (failed.error or "")


def test_stats_count_what_happened(start: Started) -> None:
    """The counts tell what was asked and bought, by request, and show what was bought twice."""
    caller = start()
    caller.images(seed=1)
    caller.images(seed=2)
    caller.submit(seed=2)
    caller.post(samples=9)
    key = caller.http.headers["API-Key"]
    httpx.get(caller.make(seed=3).download_urls[0], headers={"API-Key": key})
    stats = caller.server.stats
    assert (stats.posts_received, stats.posts_accepted, stats.posts_refused) == (5, 4, 1)
    assert (stats.downloads, stats.downloads_with_key) == (3, 1)
    assert stats.status_requests >= 3
    told = {"model_id": "sdxl", "prompt": "a boat", "width": 64, "height": 64, "seed": 2}
    assert stats.bought_twice == (request_hash(request_for("text2image", told)),)
    answer = httpx.get(f"{caller.server.url}/_emulator/stats")
    assert EmulatorStats.model_validate_json(answer.content) == stats


def test_faults_are_set_from_another_process(start: Started) -> None:
    """The admin endpoint shows the rules in force and takes others, without a key."""
    caller = start()
    url = f"{caller.server.url}/_emulator/faults"
    assert httpx.get(url).json() == {"faults": []}
    answer = httpx.put(url, json={"faults": [{"kind": "server_error", "status": 500, "times": 1}]})
    assert answer.status_code == 200
    assert httpx.get(url).json() == answer.json()
    assert [caller.post().status_code for _ in range(2)] == [500, 200]
    assert httpx.put(url, json={"faults": [{"kind": "meteor"}]}).status_code == 422
    assert httpx.get(url).json() == answer.json()


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("10.0.0.7", 403), ("x", 403)])
def test_admin_is_for_this_machine(host: str, status: int) -> None:
    """The admin endpoints refuse callers from elsewhere, even if the server listens to them."""

    async def ask() -> int:
        transport = httpx.ASGITransport(Emulator(EmulatorSettings()).app(), client=(host, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as http:
            return (await http.get("/_emulator/stats")).status_code

    assert asyncio.run(ask()) == status


def test_server_starts_and_stops() -> None:
    """A server answers from its block's first line, is gone after it, and leaves no thread."""
    before = set(threading.enumerate())
    with EmulatorServer() as server:
        assert server.url.startswith("http://127.0.0.1:")
        client = httpx.Client(verify=NO_TLS, base_url=server.url)
        assert client.get("/_emulator/stats").status_code == 200
    with pytest.raises(httpx.TransportError):
        client.get("/_emulator/stats")
    client.close()
    assert set(threading.enumerate()) <= before


def test_server_stops_while_an_answer_waits() -> None:
    """Stopping does not wait for jobs: an answer that waits for its job is dropped."""
    slow = EmulatorSettings(latency_seconds=3600, answer_at_once=True)
    body = {"model_id": "sdxl", "prompt": "a boat"}
    with ThreadPoolExecutor(1) as pool, EmulatorServer(slow) as server:
        url, key = f"{server.url}/sdxl/text2image/v1", {"API-Key": "emulator"}
        waiting = pool.submit(httpx.post, url, headers=key, json=body, verify=NO_TLS, timeout=300)
        while server.stats.posts_accepted == 0:
            time.sleep(0.01)
    assert isinstance(waiting.exception(), httpx.RemoteProtocolError)


def test_taken_port_is_an_error(caller: Caller) -> None:
    """Two servers cannot share a port, and the error names it."""
    port = int(caller.server.url.rpartition(":")[2])
    taken = f"port {port} .* in use; choose"
    with pytest.raises(PortUnusable, match=taken), EmulatorServer(port=port):
        pass


def test_pending_job_of_another_task_is_unknown(caller: Caller) -> None:
    """A job is found at its own task's status endpoint only."""
    answer = caller.http.get(f"/sdxl/inpainting/v1/status/{caller.submit()}")
    assert answer.status_code == 404
