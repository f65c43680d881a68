from __future__ import annotations

import json
import logging
import traceback
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import pytest

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.contract import Task
from imagepipeline_dagster.api.errors import ImagePipelineError, JobError
from imagepipeline_dagster.api.jobs import Job, JobStatus
from imagepipeline_dagster.api.redaction import KeyRedaction
from tests.api.servers import KEY, Reply, a_request, client_of, closing, serving


async def _submit(client: ImagePipelineClient) -> object:
    return await client.submit(a_request())


async def _status(client: ImagePipelineClient) -> object:
    return await client.status("text2image", "job-1")


async def _wait(client: ImagePipelineClient) -> object:
    job = Job(task=Task.TEXT2IMAGE, id="job-1", status=JobStatus.PENDING, word="PENDING")
    return await client.wait(job, timeout=0.15, delays=(0.05,))


async def _submit_and_wait(client: ImagePipelineClient) -> object:
    return await client.wait(await client.submit(a_request()), timeout=0.15, delays=(0.05,))


SPELLINGS = {
    "quoted": quote(KEY, safe=""),
    "quoted twice": quote(quote(KEY, safe=""), safe="").lower(),
    "every letter quoted": "".join(f"%{ord(letter):02x}" for letter in KEY),
    "escaped slash": json.dumps(json.dumps(KEY.replace("/", "\\/"))),
    "escaped letters": "".join(f"\\u{ord(letter):04X}" for letter in KEY),
    "hex": KEY.encode().hex(),
    "base64": b64encode(KEY.encode()).decode(),
    "base64 of user and key": b64encode(f"user:{KEY}!".encode()).decode(),
    "base64 a byte further": b64encode(f"users:{KEY}".encode()).decode(),
    "base64 for links": urlsafe_b64encode(f"ab{KEY}c".encode()).decode(),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_key_in_another_spelling_is_blotted_out(name: str) -> None:
    """A key that comes back quoted, escaped or encoded is still the key."""
    spelled = SPELLINGS[name]
    redaction = KeyRedaction(KEY)

    shown = redaction.text(f"bad key {spelled}, sorry")

    assert shown.startswith("bad key ")
    assert "[API key]" in shown
    assert len(shown) < len("bad key , sorry") + len("[API key]") + 14
    assert redaction.holds_key(f"job-{spelled}")
    assert redaction.text("a job of another kind, 5f2c") == "a job of another kind, 5f2c"


CUT_WITHIN_THE_KEY = "x" * (500 - len(KEY) // 2) + KEY
ECHOES: dict[str, Reply] = {
    **{
        str(status): Reply(status=status, value={"error": f"bad key {KEY}!"})
        for status in (401, 402, 403, 404, 422, 429, 502)
    },
    **{
        where: Reply(status=400, value={where: f"bad key {KEY}!"})
        for where in ("error", "message", "detail")
    },
    "cut": Reply(status=400, value={"error": CUT_WITHIN_THE_KEY}),
    "escaped": Reply(
        status=400, body=b'{"error": "' + "".join(f"\\u{ord(c):04x}" for c in KEY).encode() + b'"}'
    ),
    "list": Reply(status=422, value={"detail": [{"msg": "bad", "input": {KEY: [KEY]}}]}),
    "list without msg": Reply(status=422, value={"detail": [{"input": {KEY: [KEY]}}]}),
    "link": Reply(status=400, value={"error": f"http://{KEY}.example/"}),
    "word": Reply(value={"status": f"{KEY} PENDING", "id": "job-1"}),
    "word at the cut": Reply(value={"status": "x" * 90 + KEY, "id": "job-1"}),
    "word without id": Reply(value={"status": f"PENDING {KEY}"}),
    "failure": Reply(value={"status": "FAILURE", "error": f"bad key {KEY}"}),
    "content type": Reply(body=b"<p>", headers={"Content-Type": f"text/{KEY}"}),
    "content type at the cut": Reply(body=b"<p>", headers={"Content-Type": "x" * 50 + KEY}),
    "broken header": Reply(value={}, headers={f"API Key {KEY}": "x"}),
    "page": Reply(body=f"<p>{KEY}</p>".encode()),
    "redirect": Reply(status=302, headers={"Location": f"https://a.example/{KEY}"}),
    "link in an error": Reply(status=400, value={"error": {"url": f"https://a.example/{KEY}"}}),
    "another job": Reply(value={"status": "PENDING", "id": "x" * 90 + KEY}),
}


@pytest.mark.parametrize("act", [_submit, _status, _wait, _submit_and_wait])
@pytest.mark.parametrize("name", ECHOES)
def test_echoed_key_is_blotted_out(
    name: str,
    act: Callable[[ImagePipelineClient], Awaitable[object]],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a server echoes of the key is in no error, no traceback, no job and no log."""
    caplog.set_level(logging.DEBUG)
    # Below this level httpcore writes the headers of answers, which are not ours to change.
    caplog.set_level(logging.INFO, "httpcore")
    outcome: object

    with serving(ECHOES[name]) as server:
        try:
            outcome = closing(client_of(server.url, max_attempts=2), act)
        except ImagePipelineError as error:
            outcome = error
            shown = "".join(traceback.format_exception(error))
            job = getattr(error, "job", None)
        else:
            shown, job = "", outcome

    texts = [
        str(outcome),
        repr(outcome),
        shown,
        *(record.getMessage() for record in caplog.records),
    ]
    # Where structlog is installed stamina's warnings go to standard output.
    texts += [caplog.text, *capsys.readouterr()]
    if isinstance(job, Job):
        texts.append(repr(job))
    # Half a key is half a secret: an error is cut only after the key is blotted out.
    assert not any(KEY[: len(KEY) // 2] in text for text in texts)


@pytest.mark.parametrize("reply", [Reply(value={"status": "PENDING"}), Reply(status=404)])
def test_id_like_the_key(reply: Reply) -> None:
    """Even a job whose id is the key itself is told without it."""
    job = Job(task=Task.TEXT2IMAGE, id=KEY, status=JobStatus.PENDING, word="PENDING")
    with serving(reply) as server, pytest.raises(JobError, match=r"job \[API key\]"):
        closing(client_of(server.url), lambda it: it.wait(job, timeout=0.15, delays=(0.05,)))


def test_key_is_not_in_the_clients_repr() -> None:
    """Printing a client does not show its key."""
    assert KEY not in repr(client_of("http://api.example"))
