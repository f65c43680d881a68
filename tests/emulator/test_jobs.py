from __future__ import annotations

import heapq
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagepipeline_dagster.api.contract import request_for
from imagepipeline_dagster.emulator.jobs import JobOutcome, JobTicket, Queue, UnknownJob, signature
from imagepipeline_dagster.emulator.settings import EmulatorSettings

OUTCOMES = st.one_of(
    st.builds(JobOutcome, delivered=st.lists(st.integers(0, 3)).map(tuple), black=st.booleans()),
    st.builds(JobOutcome, error=st.text()),
)


def ticket(prompt: str = "a boat", outcome: JobOutcome | None = None) -> JobTicket:
    """Return a job."""
    request = request_for("text2image", {"model_id": "sdxl", "prompt": prompt})
    outcome = outcome or JobOutcome(delivered=(0,))
    return JobTicket.issue(request, accepted_at=1e9, ready_at=1e9 + 0.5, outcome=outcome)


KNOWN_ID = JobTicket(
    request=request_for("text2image", {"model_id": "sdxl", "prompt": "a boat"}),
    seed=1,
    accepted_at=1e9,
    ready_at=1e9,
    outcome=JobOutcome(delivered=(0,)),
    nonce="abc123",
).id()


def chance(seed: int) -> Random:
    """Return a source of chance."""
    return Random(seed)  # noqa: S311 - repeatable, not secret


@given(prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1), outcome=OUTCOMES)
def test_id_tells_everything(prompt: str, outcome: JobOutcome) -> None:
    """A job read back from its id is the job that the id was made for."""
    job = ticket(prompt, outcome)
    assert JobTicket.read(job.id()) == job
    assert JobTicket.read(job.id(), task="text2image") == job


@given(data=st.data())
def test_garbled_id_is_unknown(data: st.DataObject) -> None:
    """An id with any one character changed, added or cut is no job's."""
    job_id = KNOWN_ID
    place = data.draw(st.integers(0, len(job_id) - 1))
    other = data.draw(st.sampled_from("Aa0-_=.!é ").filter(lambda letter: letter != job_id[place]))
    garbled = data.draw(
        st.sampled_from(
            [
                job_id[:place] + other + job_id[place + 1 :],
                job_id[:place] + other + job_id[place:],
                job_id[:place],
            ]
        )
    )
    with pytest.raises(UnknownJob):
        JobTicket.read(garbled)


def test_equal_requests_get_unequal_ids() -> None:
    """Two jobs of the same request at the same time have ids, and seeds, of their own."""
    one, other = ticket(), ticket()
    assert one.id() != other.id()
    assert one.seed != other.seed


@given(sample=st.integers(0, 3), expires_at=st.integers(0, 2**53), later=st.integers(1, 10**6))
def test_signature_covers_the_link(sample: int, expires_at: int, later: int) -> None:
    """A link's signature fits neither another sample nor another expiry."""
    extended = signature("j", sample, expires_at + later)
    neighbour = signature("j", sample + 1, expires_at)
    assert len({signature("j", sample, expires_at), extended, neighbour}) == 3


@given(
    arrivals=st.lists(st.floats(0, 100), max_size=40).map(sorted),
    workers=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_queue_runs_no_more_than_it_has_workers(
    arrivals: list[float], workers: int, seed: int
) -> None:
    """Each job runs for about the mean latency, in turn, with never more at once than workers."""
    settings = EmulatorSettings(latency_seconds=10, latency_spread=0, concurrency=workers)
    queue = Queue(settings, chance=chance(seed))
    running: list[float] = []
    for now in arrivals:
        done = queue.accept(now)
        begun = done - 10
        assert begun >= now - 1e-9
        while running and running[0] <= begun + 1e-9:
            heapq.heappop(running)
        heapq.heappush(running, done)
        assert len(running) <= workers


@given(seed=st.integers(0, 1000))
def test_latency_stays_within_its_spread(seed: int) -> None:
    """A latency differs from the mean by the spread at most, and repeats with the seed."""
    settings = EmulatorSettings(latency_seconds=4, latency_spread=0.25, concurrency=50)
    one, other = (Queue(settings, chance=chance(seed)) for _ in range(2))
    latencies = [one.accept(0) for _ in range(20)]
    assert all(3 <= latency <= 5 for latency in latencies)
    assert latencies == [other.accept(0) for _ in range(20)]
