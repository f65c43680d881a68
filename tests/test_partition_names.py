from __future__ import annotations

import string

import dagster as dg
import pytest
from dagster._core.definitions.partitions.utils import (
    raise_error_on_invalid_partition_key_substring,
)
from hypothesis import example, given
from hypothesis import strategies as st

from imagepipeline_dagster.partition_names import partition_key, path_part, prompt_set_of

# Names that look like quoting, ranges or paths come up far more often here than among all texts.
HOSTILE = st.text(alphabet="%.0A2fé/\\\n\x00 aA~-_[]|,", max_size=12)
NAMES = st.one_of(st.text(max_size=300), HOSTILE)
SAFE = set(string.ascii_letters + string.digits + "._-%")


@pytest.mark.parametrize(
    "name",
    ["spring_catalogue", "50% off", "a/b", "été 2026", "[x], y", "a..b", "100%", "%zz", "x" * 300],
)
def test_ordinary_names_stay(name: str) -> None:
    """A name that Dagster can take is its own partition key."""
    assert partition_key(name) == name


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a...b", "a..%2Eb"),
        ("a....b", "a..%2E%2Eb"),
        ("two\nlines", "two%0Alines"),
        ("nul\x00", "nul%00"),
        ("50%25", "50%2525"),
        ("", "%28empty%29"),
        ("%28empty%29", "%2528empty%2529"),
    ],
)
def test_only_what_dagster_refuses_is_quoted(name: str, key: str) -> None:
    """What Dagster cannot take is percent-quoted, and a "%" where it would look like quoting."""
    assert partition_key(name) == key
    assert prompt_set_of(key) == name


@given(NAMES)
@example("\ud800")
@example("%\n41")
@example("\x85")
def test_names_come_back(name: str) -> None:
    """Every text is a prompt-set name: its key is legal to Dagster and leads back to it."""
    key = partition_key(name)
    assert prompt_set_of(key) == name
    assert key
    raise_error_on_invalid_partition_key_substring([key])


@given(NAMES, NAMES)
def test_no_two_names_share_a_key_or_a_path(one: str, other: str) -> None:
    """Different names have different keys and paths."""
    keys = {partition_key(one), partition_key(other)}
    assert len(keys) == len({path_part(key) for key in keys}) == len({one, other})


def test_a_key_that_no_name_has_is_read_as_far_as_it_can_be() -> None:
    """A key that a person typed never fails."""
    assert prompt_set_of("%FF%0A") == "%FF%0A"
    assert prompt_set_of("a%20b") == "a b"


def test_dagster_takes_hostile_names(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A Dagster instance stores the keys of hostile names, and runs with them."""
    names = ["", "...", "a\n\t\x00b", "../../etc/passwd", "[a...b]", "é" * 200, "%2E", " "]
    keys = [partition_key(name) for name in names]
    with dg.DagsterInstance.ephemeral(str(tmp_path_factory.mktemp("dagster"))) as instance:
        instance.add_dynamic_partitions("prompt_set", keys)
        stored = instance.get_dynamic_partitions("prompt_set")
        assert {prompt_set_of(key) for key in stored} == set(names)


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("spring_catalogue", "spring_catalogue"),
        ("v1.2-final", "v1.2-final"),
        ("World Knowledge", "World%20Knowledge"),
        ("50% off", "50%25%20off"),
        ("a/b", "a%2Fb"),
        ("é", "%C3%A9"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        (".hidden", "%2Ehidden"),
        ("_delta_log", "%5Fdelta_log"),
        ("~root", "%7Eroot"),
    ],
)
def test_path_parts_stay_readable(key: str, part: str) -> None:
    """A simple key is its own path part; the rest is percent-quoted."""
    assert path_part(key) == part


@pytest.mark.parametrize("key", ["x" * 201, "nul", "com1.x", "x-0123456789abcdef"])
def test_path_parts_that_need_telling_apart_get_a_digest(key: str) -> None:
    """A key that a file system may confuse with another, or refuse, gets a digest appended."""
    stem, _, digest = path_part(key).rpartition("-")
    assert key.startswith(stem[:5])
    assert len(digest) == 16


def test_path_part_of_a_path_part_is_another() -> None:
    """A set that is named like another set's file does not share that file."""
    long = path_part("x" * 500)
    assert path_part(long) != long
    assert path_part("Spring") != path_part("spring")


@given(NAMES)
@example("é" * 200)
@example("\U0001f600" * 100)
@example("a" * 182 + "é" * 10)
def test_path_parts_are_safe(name: str) -> None:
    """A path part is one visible file name of ASCII within 200 bytes, and never a folder."""
    part = path_part(partition_key(name))
    assert set(part) <= SAFE
    assert 0 < len(part) <= 200
    assert part[0] not in "._"
    assert part[-1] != "."
    assert "%" not in part[-2:]


def test_no_path_for_an_empty_key() -> None:
    """An empty key is a mistake of the caller, because no name has it."""
    with pytest.raises(ValueError, match="never empty"):
        path_part("")
