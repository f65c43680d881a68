from __future__ import annotations

import json
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagepipeline_dagster.api.contract import (
    RANGES,
    TASKS,
    GenerationRequest,
    RequestInvalid,
    canonical_json,
    request_for,
    status_path,
    submit_path,
)

LINK = "https://pictures.example/lighthouse.png"
VALID: dict[str, dict[str, object]] = {
    "text2image": {"model_id": "sdxl", "prompt": "a lighthouse"},
    "image2image": {"model_id": "sdxl", "prompt": "a lighthouse", "init_image": LINK},
    "inpainting": {
        "model_id": "sdxl",
        "prompt": "a lighthouse",
        "init_image": LINK,
        "mask_image": LINK,
    },
}
FIELDS = sorted({"init_image", "mask_image", *GenerationRequest.model_fields})

# Halves of characters too: JSON can spell them.
text = st.text(st.characters(exclude_categories=()), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("task", TASKS)
def test_minimal_request(task: str) -> None:
    """The required fields alone make a request, whose payload holds no field that was not given."""
    request = request_for(task, VALID[task])

    assert request.task == task
    assert request.payload() == {**VALID[task], "samples": 1, "safety_checker": True}


def test_none_counts_as_absent() -> None:
    """A parameter that is None is as good as none, even one that the task does not have."""
    request = request_for("text2image", {**VALID["text2image"], "seed": None, "init_image": None})

    assert request == request_for("text2image", VALID["text2image"])


@pytest.mark.parametrize("field", sorted(RANGES))
def test_ends_of_ranges_are_permitted(field: str) -> None:
    """Both ends of a documented range are accepted and reach the payload unchanged."""
    for value in (RANGES[field].low, RANGES[field].high):
        whole = int(value) if field not in ("strength", "guidance_scale") else value
        request = request_for("text2image", {**VALID["text2image"], field: whole})
        assert request.payload()[field] == whole


@pytest.mark.parametrize("field", sorted(RANGES))
@pytest.mark.parametrize("past", ["low", "high"])
def test_past_the_ends_is_refused(field: str, past: str) -> None:
    """A value outside its range is refused by a sentence with field, value and range."""
    low, high = (int(end) for end in RANGES[field])
    value = low - 1 if past == "low" else high + 1

    with pytest.raises(RequestInvalid) as refused:
        request_for("text2image", {**VALID["text2image"], field: value})

    assert refused.value.problems == (f"{field}: {value} is outside {RANGES[field]}",)


def test_all_problems_at_once() -> None:
    """One refusal tells of every broken field: missing, unknown, empty, of a wrong type."""
    with pytest.raises(RequestInvalid) as refused:
        request_for(
            "inpainting",
            {
                "prompt": "",
                "samples": 1.5,
                "guidance_scale": "7",
                "refiner": "yes",
                "scheduler": 3,
                "init_image": "file:///etc/passwd",
                "styl": "x",
            },
        )

    told = dict(problem.split(": ", 1) for problem in refused.value.problems)
    assert told == {
        "model_id": "is missing, and inpainting needs it",
        "prompt": "is empty",
        "samples": "1.5 is not a whole number in 1 to 4",
        "guidance_scale": "'7' is not a number in 1 to 20",
        "refiner": "'yes' is not true or false",
        "scheduler": "3 is not text",
        "init_image": "'file:///etc/passwd' must be a public http:// or https:// link",
        "mask_image": "is missing, and inpainting needs it",
        "styl": "is not a parameter of inpainting",
    }
    assert all(problem in str(refused.value) for problem in refused.value.problems)


def test_unknown_task() -> None:
    """A task that the API does not have is refused by name, with those that it has."""
    with pytest.raises(RequestInvalid, match="'video' is not one of text2image, image2image"):
        request_for("video", VALID["text2image"])


@given(st.sampled_from(TASKS), st.dictionaries(st.sampled_from(FIELDS) | text, json_values))
@example("text2image", {"\ud800": 1})
@example("text2image", {**VALID["text2image"], "guidance_scale": 10**400})
@example("text2image", {**VALID["text2image"], "prompt": "\ud800"})
def test_any_parameters(task: str, parameters: dict[str, object]) -> None:
    """Any parameters give a request, or a refusal that names each missing or unknown field."""
    known = set(type(request_for(task, VALID[task])).model_fields)
    present = {name for name, value in parameters.items() if value is not None}
    problems: tuple[str, ...] = ()
    try:
        request = request_for(task, parameters)
    except RequestInvalid as refused:
        problems = refused.problems
    else:
        assert json.loads(canonical_json(request.payload())) == request.payload()
    missing = {problem.split(": ")[0] for problem in problems if "is missing" in problem}
    assert missing >= set(VALID[task]) - present
    for name in present - known:
        assert f"{_shown(name)}: is not a parameter of {task}" in problems


def _shown(name: str) -> str:
    return name.encode("utf-8", "replace").decode().replace("\0", "?")


@settings(max_examples=50)
@given(st.dictionaries(st.text(), json_values.filter(lambda value: not _has_no_json(value))))
def test_canonical_json_ignores_order(value: dict[str, object]) -> None:
    """The canonical spelling does not depend on the order in which keys were put in."""
    turned = dict(reversed(value.items()))

    assert canonical_json(value) == canonical_json(turned)
    assert json.loads(canonical_json(value)) == value


def _has_no_json(value: object) -> bool:
    if isinstance(value, float):
        return value != value or abs(value) == float("inf")  # noqa: PLR0124 - that is NaN
    if isinstance(value, dict):
        return any(_has_no_json(inner) for inner in value.values())
    return isinstance(value, list) and any(_has_no_json(inner) for inner in value)


def test_canonical_json_spelling() -> None:
    """Keys are sorted, there are no blanks, and characters stand as they are."""
    assert canonical_json({"b": [1, 2.5], "a": "café"}) == '{"a":"café","b":[1,2.5]}'


def test_canonical_json_refuses_nan() -> None:
    """A number that JSON does not have is an error, not an invented spelling."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_paths() -> None:
    """The paths are those of the API's page."""
    assert submit_path("text2image") == "/sdxl/text2image/v1"
    assert status_path("inpainting", "a-b_1") == "/sdxl/inpainting/v1/status/a-b_1"


@given(st.text(min_size=1))
@example("..")
@example("../../text2image/v1?x#y")
def test_ids_cannot_leave_the_status_path(job_id: str) -> None:
    """Whatever an id holds, it stays one path part and is read back unchanged."""
    path = status_path("text2image", job_id)
    head, _, last = path.rpartition("/")

    assert head == "/sdxl/text2image/v1/status"
    assert unquote(last) == job_id
    assert last not in (".", "..")
    assert not set(last) & set("?# ")
