"""Answers about jobs, in every spelling that vendors have."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagepipeline_dagster.api.jobs import (
    NO_MESSAGE,
    JobStatus,
    OtherJob,
    UnreadableAnswer,
    error_text,
    read_job,
)
from tests.api.test_contract import json_values

answers = st.fixed_dictionaries(
    {"status": json_values | st.sampled_from(["SUCCESS", "PENDING", "FAILURE", "warming up"])},
    optional=dict.fromkeys(
        ("id", "job_id", "download_urls", "error", "message", "detail"), json_values
    ),
)


WORDS = {
    JobStatus.SUCCESS: ("SUCCESS", "success", "Completed", "COMPLETED", "succeeded", "Finished"),
    JobStatus.FAILURE: (
        *("FAILURE", "Failed", "FAILED", "canceled", "Cancelled", "error"),
        *("TIMED_OUT", "timed-out", "Rejected"),
    ),
    JobStatus.PENDING: ("PENDING", "queued", "QUEUED", " Processing ", "in progress"),
}


@pytest.mark.parametrize(
    ("word", "status"), [(word, status) for status, words in WORDS.items() for word in words]
)
def test_status_words(word: str, status: JobStatus) -> None:
    """The vendor's words are understood in any letter case, also those of its other APIs."""
    job = read_job({"status": word, "id": "j"}, task="text2image")

    assert (job.status, job.word, job.known_word) == (status, word, True)


def test_unknown_word_is_pending() -> None:
    """A status that nobody documented is pending, and says that it is not known."""
    job = read_job({"status": "WARMING_UP", "id": "j"}, task="text2image")

    assert (job.status, job.known_word) == (JobStatus.PENDING, False)


@pytest.mark.parametrize("name", ["id", "job_id"])
@pytest.mark.parametrize(("value", "expected"), [(42, "42"), ("abc", "abc"), (0, "0")])
def test_ids(name: str, value: object, expected: str) -> None:
    """An id may be text or a whole number, under either of the vendor's names."""
    assert read_job({"status": "PENDING", name: value}, task="text2image").id == expected


@pytest.mark.parametrize(
    "value", ["", None, True, 1.5, [], {}, "a\0b", "\ud800", "caf\ufffd", "x" * 100_000]
)
def test_unusable_ids(value: object) -> None:
    """An id that could not be stored or asked for is none, and then PENDING cannot be read."""
    with pytest.raises(UnreadableAnswer, match="names no usable id"):
        read_job({"status": "PENDING", "id": value}, task="text2image")
    assert read_job({"status": "PENDING", "id": value, "job_id": "j"}, task="text2image").id == "j"
    assert read_job({"status": "SUCCESS", "id": value}, task="text2image").id is None


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "SUCCESS", "id": "row-9", "download_urls": ["https://a/1"]},
        {"status": "PENDING", "job_id": 9},
        {"data": {"status": "FAILURE", "id": "row-9"}},
    ],
)
def test_another_jobs_answer_is_none(answer: object) -> None:
    """A status answer that carries another id is no answer, and the error says what came."""
    with pytest.raises(OtherJob, match=r"^(row-)?9$"):
        read_job(answer, task="text2image", job_id="job-1")


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "PENDING"},
        {"status": "PENDING", "id": "job-1"},
        {"status": "PENDING", "id": "row-9", "job_id": "job-1"},
        {"id": "request-9", "data": {"status": "PENDING", "id": "job-1"}},
        {"id": "request-9", "data": {"status": "PENDING"}},
        {"status": "SUCCESS", "output": [{"id": 5, "url": "https://a/1"}]},
        {"status": "SUCCESS", "images": [{"id": 5, "url": "https://a/1"}]},
    ],
)
def test_the_jobs_own_answer(answer: object) -> None:
    """A status answer without an id, or with the job's own among others, is the job's."""
    assert read_job(answer, task="text2image", job_id="job-1").id == "job-1"


@pytest.mark.parametrize(
    ("asked", "told"), [("15f002de-bf0c", "15F002DE-BF0C"), ("15F002DE-BF0C", "15f002de-bf0c")]
)
def test_an_id_in_the_other_case_is_the_jobs_own(asked: str, told: str) -> None:
    """A UUID may come back in capitals, or without them; the job keeps the id that it had."""
    assert read_job({"status": "PENDING", "id": told}, task="text2image", job_id=asked).id == asked


@pytest.mark.parametrize("told", ["aBc", "ABC", "abc"])
def test_an_id_of_both_cases_is_told_by_its_case(told: str) -> None:
    """Where an id mixes capitals and small letters, another mixture is another job."""
    with pytest.raises(OtherJob):
        read_job({"status": "PENDING", "id": told}, task="text2image", job_id="AbC")


@pytest.mark.parametrize(
    ("answer", "job_id", "status", "links"),
    [
        ({"data": {"status": "PENDING", "id": "j"}, "success": True}, "j", "PENDING", ()),
        ({"status": "success", "data": {"status": "queued", "id": "j"}}, "j", "PENDING", ()),
        ({"status": "PENDING", "data": {"job_id": 7}}, "7", "PENDING", ()),
        ({"status": "PENDING", "data": {"jobId": "j"}}, "j", "PENDING", ()),
        ({"prediction": {"id": "j", "state": "starting"}}, "j", "PENDING", ()),
        ({"taskId": "j", "state": "COMPLETED"}, "j", "SUCCESS", ()),
        ({"data": [{"status": "PENDING", "id": "j"}]}, "j", "PENDING", ()),
        (
            {"id": "e", "result": {"status": "done", "id": "j", "url": "https://a/1"}},
            "j",
            "SUCCESS",
            ("https://a/1",),
        ),
        (
            {"status": "SUCCESS", "id": "j", "output": {"images": [{"url": "https://a/1"}]}},
            "j",
            "SUCCESS",
            ("https://a/1",),
        ),
        (
            {"status": "SUCCESS", "id": "j", "output": [{"id": 5, "url": "https://a/1"}]},
            "j",
            "SUCCESS",
            ("https://a/1",),
        ),
        (
            {"status": "SUCCESS", "id": "j", "output": {"status": "ok", "url": "https://a/1"}},
            "j",
            "SUCCESS",
            ("https://a/1",),
        ),
        (
            {"status": "SUCCESS", "id": "j", "url": None, "data": {"url": "https://a/1"}},
            "j",
            "SUCCESS",
            ("https://a/1",),
        ),
        ({"status": "ok", "data": {"status": "DREAMING", "id": "j"}}, "j", "PENDING", ()),
        ({"id": "j"}, "j", "PENDING", ()),
    ],
)
def test_envelopes(answer: object, job_id: str, status: str, links: tuple[str, ...]) -> None:
    """A job is read through one envelope, of which the own status and id are not the job's."""
    job = read_job(answer, task="text2image")

    assert (job.id, job.status, job.download_urls) == (job_id, status, links)


@pytest.mark.parametrize(
    ("told", "links"),
    [
        ({"download_urls": ["https://a/1", "https://a/2"]}, ("https://a/1", "https://a/2")),
        ({"download_urls": "https://a/1"}, ("https://a/1",)),
        ({"download_urls": ["https://a/1", None, ""]}, ("https://a/1",)),
        ({"download_urls": []}, ()),
        ({"download_urls": ["https://a/\ud800\0"]}, ("https://a/??",)),
        ({"download_urls": ["../1.png", "file:///1.png"]}, ("../1.png", "file:///1.png")),
        (
            {"download_urls": [{"url": "https://a/1"}, {"href": "https://a/2"}]},
            ("https://a/1", "https://a/2"),
        ),
        ({"download_urls": {"url": "https://a/1"}}, ("https://a/1",)),
        ({"image_urls": ["https://a/1"]}, ("https://a/1",)),
        ({"images": [{"url": "https://a/1", "seed": 7}]}, ("https://a/1",)),
        ({"output": ["https://a/1"]}, ("https://a/1",)),
        ({"output": "https://a/1"}, ("https://a/1",)),
        ({"result_url": "https://a/1"}, ("https://a/1",)),
        ({"download_urls": None, "images": ["https://a/1"]}, ("https://a/1",)),
        ({"download_urls": None}, None),
        ({}, None),
        ({"download_urls": 7}, None),
        ({"download_urls": [{"seed": 7}]}, None),
        (
            {"download_urls": {"0": "https://a/1", "1": "https://a/2"}},
            ("https://a/1", "https://a/2"),
        ),
        ({"download_urls": [["https://a/1"], ["https://a/2"]]}, ("https://a/1", "https://a/2")),
        ({"downloadUrls": ["https://a/1"]}, ("https://a/1",)),
        ({"imageUrl": "https://a/1"}, ("https://a/1",)),
        ({"results": [{"imageUrl": "https://a/1"}]}, ("https://a/1",)),
        ({"artifacts": [{"uri": "https://a/1"}]}, ("https://a/1",)),
        ({"download_urls": [], "images": ["https://a/1"]}, ("https://a/1",)),
        ({"download_urls": [], "output": None}, ()),
        ({"images": ["aGVsbG8="]}, None),
    ],
)
def test_links(told: dict[str, object], links: tuple[str, ...] | None) -> None:
    """Links are read however they are listed; where nothing can be read, none is told."""
    job = read_job({"status": "SUCCESS", **told}, task="text2image")

    assert (job.download_urls, job.links_told) == (links or (), links is not None)


@pytest.mark.parametrize(
    ("told", "unsafe"),
    [
        ({}, set()),
        ({"nsfw": True}, {0, 1}),
        ({"nsfw": False, "has_nsfw_concepts": [False, False]}, set()),
        ({"nsfw_content_detected": [True, False]}, {0}),
        ({"hasNsfwConcepts": [[False], [True]]}, {1}),
        ({"nsfw": {"0": "false", "1": "True"}}, {1}),
        ({"nsfw": ["no", "yes"], "unsafe": None}, {1}),
        ({"is_nsfw": 1}, {0, 1}),
        ({"nsfw": {"sexual": False, "violence": True}}, {0, 1}),
        ({"nsfw": {"threshold": 0.9, "detected": False}}, set()),
        ({"images": [{"url": "https://a/1"}, {"url": "https://a/2", "nsfw": {"gore": True}}]}, {1}),
        ({"nsfw": [0.02, 0.97]}, {1}),
        ({"nsfw": [False, True, False]}, set()),
        ({"nsfw": [True, True, False]}, {0, 1}),
        ({"images": [{"url": "https://a/1", "nsfw": True}, {"url": "https://a/2"}]}, {0}),
        ({"safety_checker": True, "nsfw_filter": True}, set()),
    ],
)
def test_what_an_answer_calls_unsafe(told: dict[str, object], unsafe: set[int]) -> None:
    """A flag of the API's checker is read in every form; where it tells of none, it is of all."""
    links = {} if "images" in told else {"download_urls": ["https://a/1", "https://a/2"]}
    answer = {"status": "SUCCESS", "id": "j", **links}

    assert read_job(answer | told, task="text2image").unsafe == unsafe
    assert read_job({"data": answer | told}, task="text2image").unsafe == unsafe
    if links:
        assert read_job({"data": answer, **told}, task="text2image").unsafe == unsafe


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"error": "no GPU"}, "no GPU"),
        ({"message": "no GPU"}, "no GPU"),
        ({"detail": "no GPU"}, "no GPU"),
        ({"error": None, "message": "", "detail": "no GPU"}, "no GPU"),
        ({"error": {"code": 7}}, '{"code": 7}'),
        ({"error": "x" * 900}, "x" * 500),
        ({"error": "a\0b\ud800"}, "a?b?"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "too big", "input": 9}]}, "seed: too big"),
        ({"detail": [{"msg": "no"}, {"why": 1}]}, 'no; {"why": 1}'),
        ({"detail": [{"loc": ["header", "api-key"], "msg": "no"}]}, "header api-key: no"),
        ({}, NO_MESSAGE),
        ([], NO_MESSAGE),
        ("no GPU\n", "no GPU"),
        ({"code": 7, "msg": "no GPU"}, "no GPU"),
        ({"status": "FAILURE", "reason": "no GPU"}, "no GPU"),
        (7, NO_MESSAGE),
    ],
)
def test_error_text(answer: object, message: str) -> None:
    """The message is found wherever the API put it, and is short and storable."""
    assert error_text(answer) == message


@given(json_values | answers)
@example({"status": "SUCCESS", "download_urls": ["\ud800"]})
def test_any_answer(answer: object) -> None:
    """Any JSON is read as a job, whose texts can be stored, or is an UnreadableAnswer."""
    try:
        job = read_job(answer, task="text2image")
    except UnreadableAnswer as error:
        str(error).encode()
    else:
        job.model_dump_json().encode()
        assert job.id or job.status is not JobStatus.PENDING


@given(json_values)
def test_any_error(answer: object) -> None:
    """Any JSON has a message of 1 to 500 storable characters."""
    message = error_text(answer)

    assert 1 <= len(message) <= 500
    message.encode()
