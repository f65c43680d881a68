from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imagepipeline_dagster.api.jobs import JobStatus
from imagepipeline_dagster.emulator import Fault, FaultKind, Operation
from imagepipeline_dagster.emulator.answers import damaged
from tests.emulator.conftest import Caller, Started, fetch, follow

Faulty = Callable[..., Caller]


@pytest.fixture
def faulty(caller: Caller) -> Iterator[Faulty]:
    """Return what puts faults in force at the server that tests share, until the test ends."""

    def put(*faults: Fault) -> Caller:
        caller.server.set_faults(*faults)
        return caller

    yield put
    caller.server.set_faults()


def ask(caller: Caller, operation: Operation) -> httpx.Response:
    """Do what `operation` names on a healthy job, and return the answer."""
    if operation is Operation.SUBMIT:
        return caller.post()
    faults = caller.http.get("/_emulator/faults").json()
    caller.server.set_faults()
    job_id = caller.submit()
    (link,) = caller.wait(job_id).download_urls
    caller.http.put("/_emulator/faults", json=faults)
    if operation is Operation.STATUS:
        return caller.http.get(f"/sdxl/text2image/v1/status/{job_id}")
    return follow(link)


@pytest.mark.parametrize("operation", Operation)
def test_rate_limit(start: Started, operation: Operation) -> None:
    """429 tells how many seconds to wait, the set number of times."""
    fault = Fault(kind="rate_limited", operation=operation, retry_after_seconds=7, times=1)
    caller = start(faults=[fault])
    answer = ask(caller, operation)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert caller.server.stats.faults == {"rate_limited": 1}
    caller.server.set_faults()
    assert ask(caller, operation).status_code == 200


SPOILED = [
    *(
        (Fault(kind="server_error", operation=operation, status=status), status, "not well")
        for operation in Operation
        for status in (500, 502, 503)
    ),
    *(
        (Fault(kind="html_page", operation=operation), 200, "<!doctype html>")
        for operation in Operation
    ),
    # The account cannot pay: no pause is asked for.
    (Fault(kind="out_of_quota"), 429, "quota"),
    (Fault(kind="refused", status=422, message="API key not valid"), 422, "API key not valid"),
]


@pytest.mark.parametrize(("fault", "status", "words"), SPOILED)
def test_an_answer_in_place_of_the_real_one(
    faulty: Faulty, fault: Fault, status: int, words: str
) -> None:
    """It carries status and words as chosen; 503 says when to come again; a page is for people."""
    answer = ask(faulty(fault), fault.place)
    assert (answer.status_code, words in answer.text) == (status, True)
    assert ("Retry-After" in answer.headers) is (status == 503)
    is_page = answer.headers["Content-Type"].startswith("text/html")
    assert is_page is (fault.kind is FaultKind.HTML_PAGE)


@pytest.mark.parametrize("operation", Operation)
def test_dropped_answer(faulty: Faulty, operation: Operation) -> None:
    """The connection closes without an answer."""
    caller = faulty(Fault(kind="dropped_answer", operation=operation))
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        ask(caller, operation)


def test_dropped_post_is_accepted(start: Started) -> None:
    """A POST whose answer was dropped has created its job: only the books tell."""
    caller = start(faults=[Fault(kind="dropped_answer", times=1)])
    with pytest.raises(httpx.RemoteProtocolError):
        caller.post(seed=1)
    caller.post(seed=1)
    stats = caller.server.stats
    assert (stats.posts_accepted, stats.posts_refused) == (2, 0)
    assert len(stats.bought_twice) == 1


@pytest.mark.parametrize(
    ("kind", "status"), [("server_error", 502), ("server_error", 503), ("html_page", 503)]
)
@pytest.mark.parametrize("after_accepting", [False, True])
def test_gateway_error_hides_what_became_of_a_post(
    start: Started, kind: str, status: int, *, after_accepting: bool
) -> None:
    """The job may exist or not, as the rule says; 503 says when to come again where it does not."""
    caller = start(faults=[Fault(kind=kind, status=status, after_accepting=after_accepting)])
    answer = caller.post()
    is_refusal = answer.status_code == 503 and not after_accepting
    assert ("Retry-After" in answer.headers) is is_refusal
    assert caller.server.stats.posts_accepted == int(after_accepting)
    assert caller.server.stats.posts_refused == int(not after_accepting)


def test_job_failure(faulty: Faulty) -> None:
    """The job is accepted and ends in FAILURE with the message, and no links."""
    caller = faulty(Fault(kind="job_failure", message="out of luck", times=1))
    job = caller.make()
    assert (job.status, job.error, job.download_urls) == (JobStatus.FAILURE, "out of luck", ())
    assert caller.make().status is JobStatus.SUCCESS


def test_failure_is_remembered_by_the_id(start: Started) -> None:
    """A job that failed at one server has failed at the next."""
    job_id = start(faults=[Fault(kind="job_failure", message="out of luck")]).submit()
    assert start().wait(job_id).error == "out of luck"


@pytest.mark.parametrize(("missing", "left"), [(1, 3), (3, 1), (4, 0)])
def test_fewer_links(faulty: Faulty, missing: int, left: int) -> None:
    """The job succeeds with fewer links, which are those of the last samples."""
    caller = faulty(Fault(kind="fewer_links", missing=missing, times=1))
    some = caller.images(samples=4, seed=1)
    every = caller.images(samples=4, seed=1)
    assert some == every[missing:]
    assert len(some) == left


def test_black_image(faulty: Faulty) -> None:
    """Every picture of the job is black all over, the mark included."""
    caller = faulty(Fault(kind="black_image"))
    for image in caller.images(samples=2):
        with Image.open(BytesIO(image)) as picture:
            assert (picture.getextrema(), picture.size) == (((0, 0),) * 3, (64, 64))


def test_unknown_status(faulty: Faulty) -> None:
    """The status is a word that the page does not know, with the job's id."""
    fault = Fault(kind="unknown_status", word="DREAMING", times=1)
    caller = faulty(fault)
    job_id = caller.submit()
    job = caller.status(job_id)
    assert (job.word, job.known_word, job.id) == ("DREAMING", False, job_id)
    assert caller.status(job_id).status is JobStatus.SUCCESS


@pytest.mark.parametrize(("kind", "status"), [("expired_link", 403), ("late_link", 404)])
def test_refused_link(faulty: Faulty, kind: str, status: int) -> None:
    """A link can be past its time at once, or too early for its store; the next time it works."""
    (link,) = faulty(Fault(kind=kind, times=1)).make().download_urls
    assert follow(link).status_code == status
    assert fetch(link)


@pytest.mark.parametrize("kind", [FaultKind.TRUNCATED_BYTES, FaultKind.CORRUPT_BYTES])
@pytest.mark.parametrize("image_bytes", [None, 100_000])
def test_damaged_bytes(start: Started, kind: FaultKind, image_bytes: int | None) -> None:
    """Such a download looks whole to HTTP, and is no picture that can be decoded."""
    caller = start(faults=[Fault(kind=kind, times=1)], image_bytes=image_bytes)
    (link,) = caller.make().download_urls
    broken, whole = fetch(link), fetch(link)
    assert len(broken) == (len(whole) // 2 if kind == "truncated_bytes" else len(whole))
    assert broken != whole
    with pytest.raises((OSError, SyntaxError)), Image.open(BytesIO(broken)) as picture:
        picture.load()
    with Image.open(BytesIO(whole)) as picture:
        picture.load()


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), size=st.integers(8, 96))
def test_corrupt_bytes_never_decode(seed: int, size: int) -> None:
    """Whatever the picture, a corrupt one does not decode by luck."""
    out = BytesIO()
    Image.effect_noise((size, size), 1 + seed % 100).convert("RGB").save(out, "PNG")
    broken = damaged(out.getvalue(), Fault(kind="corrupt_bytes"))
    with pytest.raises((OSError, SyntaxError)), Image.open(BytesIO(broken)) as picture:
        picture.load()


def test_redirect_to_the_job(faulty: Faulty) -> None:
    """The accepted job's status is where the answer redirects to."""
    caller = faulty(Fault(kind="redirect_to_job", times=1))
    answer = caller.post()
    assert answer.status_code == 303
    assert caller.http.get(answer.headers["Location"]).json()["status"] == "SUCCESS"


@pytest.mark.parametrize("operation", [Operation.SUBMIT, Operation.STATUS])
def test_envelope(faulty: Faulty, operation: Operation) -> None:
    """The whole answer lies in `data`."""
    caller = faulty(Fault(kind="envelope", operation=operation))
    answer = ask(caller, operation).json()
    assert answer["success"] is True
    assert answer["data"]["status"] in ("PENDING", "SUCCESS")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("stuck", {"status": "PENDING"}),
        ("missing_links", {"status": "SUCCESS", "download_urls": None}),
        ("empty_links", {"status": "SUCCESS", "download_urls": []}),
        ("useless_links", {"status": "SUCCESS", "download_urls": ["file:///picture.png"]}),
        ("other_job", {"status": "SUCCESS", "id": "another-job"}),
    ],
)
def test_confused_status(faulty: Faulty, kind: str, told: dict[str, object]) -> None:
    """The status of a job that is done may be told wrongly, until the rule is used up."""
    caller = faulty()
    job_id = caller.submit()
    caller.wait(job_id)
    caller.server.set_faults(Fault(kind=kind, times=1))
    path = f"/sdxl/text2image/v1/status/{job_id}"
    answer = caller.http.get(path).json()
    assert {name: answer[name] for name in told} == told
    assert caller.status(job_id).download_urls


def test_fault_for_some_prompts(faulty: Faulty) -> None:
    """A rule can be about some prompts alone, at every operation."""
    caller = faulty(
        Fault(kind="job_failure", prompt_contains="cursed"),
        Fault(kind="expired_link", prompt_contains="stale"),
    )
    assert caller.make(prompt="a cursed boat").status is JobStatus.FAILURE
    assert follow(caller.make(prompt="a stale boat").download_urls[0]).status_code == 403
    assert fetch(caller.make(prompt="a boat").download_urls[0])
