"""The plan: which calls a prompt set needs, which are bought already, and why the rest are not.

Planning spends nothing and writes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from imagepipeline_dagster.api.contract import GenerationRequest, canonical_json, request_for
from imagepipeline_dagster.ledger.records import Entry, PlanState, plan_state
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.uses import Use
from imagepipeline_dagster.planning.prompts import LINKS, Prompt
from imagepipeline_dagster.planning.seeds import seed_for
from imagepipeline_dagster.rows import column, content_hash, fields_of


class Reason(StrEnum):
    """Why a request is what it is, compared with what its call last used."""

    NEW = "new"
    PROMPT_CHANGED = "prompt_changed"
    PARAMETERS_CHANGED = "parameters_changed"
    EMBEDDING_CHANGED = "embedding_changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """A row of `generation_requests`: one API call."""

    request_key: str = column("Hash of the request, the embedding's version and the API's origin")
    prompt_set: str = column("Prompt set, as in the prompts table")
    prompt_id: str = column("Prompt id, unique within the set")
    call_index: int = column("API call of this prompt, from 0")
    task: str = column("text2image, image2image or inpainting")
    seed: int = column("Seed of the call")
    samples: int = column("Images that the call gives")
    embedding_version: str | None = column("Version of the embedding")
    request: str = column("Exact request, canonical JSON")
    reason: str = column("Why it is new, or unchanged")
    state: str = column("What a purchase would do about it")

    @property
    def parsed(self) -> GenerationRequest:
        """The request as the API's client takes it."""
        return _parsed(self.task, self.request)

    @property
    def source_links(self) -> dict[str, str]:
        """The links to the pictures that it starts from, by parameter."""
        return {name: getattr(self.parsed, name) for name in LINKS[self.task]}


@lru_cache(maxsize=1024)
def _parsed(task: str, request: str) -> GenerationRequest:
    return request_for(task, json.loads(request))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSummary:
    """A plan in numbers: calls and images by state, images to buy by reason.

    `largest_to_buy` are the images of the largest call to buy.
    """

    calls: Mapping[str, int]
    images: Mapping[str, int]
    to_buy_by_reason: Mapping[str, int]
    largest_to_buy: int


def request_key(*, task: str, request: str, embedding_version: str | None, origin: str) -> str:
    """Return the key under which the ledger knows a request: 64 hex digits.

    Two requests share a key exactly when the same API would draw the same pictures. The origin is
    part of it so that an emulated picture never passes for a bought one.
    """
    content = json.dumps([origin, task, embedding_version, request], ensure_ascii=True)
    return hashlib.sha256(content.encode("ascii")).hexdigest()


def unplanned_requests(
    prompts: Iterable[Prompt], *, origin: str, samples_per_call: int
) -> Iterator[PlannedRequest]:
    """Yield the calls of the valid prompts, as if nothing had ever been bought."""
    for prompt in prompts:
        if not prompt.valid or prompt.task is None:
            continue
        parameters = prompt.request_parameters()
        for call_index, start in enumerate(range(0, prompt.samples, samples_per_call)):
            own = prompt.seed if call_index == 0 else None
            derived = seed_for(prompt.prompt_set, prompt.prompt_id, call_index)
            seed = derived if own is None else own
            samples = min(samples_per_call, prompt.samples - start)
            call = {**parameters, "seed": seed, "samples": samples}
            request = canonical_json(request_for(prompt.task, call).payload())
            yield PlannedRequest(
                request_key=request_key(
                    task=prompt.task,
                    request=request,
                    embedding_version=prompt.embedding_version,
                    origin=origin,
                ),
                prompt_set=prompt.prompt_set,
                prompt_id=prompt.prompt_id,
                call_index=call_index,
                task=prompt.task,
                seed=seed,
                samples=samples,
                embedding_version=prompt.embedding_version,
                request=request,
                reason=Reason.NEW,
                state=PlanState.TO_BUY,
            )


def plan_prompt_set(
    prompts: Sequence[Prompt],
    *,
    prompt_set: str,
    dataset: str,
    ledger: Ledger,
    origin: str,
    samples_per_call: int,
) -> list[PlannedRequest]:
    """Return one set's plan, as the ledger stands; nothing is written.

    `prompts` are the set's rows, or some of them; refused ones are left out.
    """
    requests = list(unplanned_requests(prompts, origin=origin, samples_per_call=samples_per_call))
    ids = [prompt.prompt_id for prompt in prompts]
    latest_uses = ledger.latest_uses(dataset, prompt_set, ids)
    keys = {request.request_key for request in requests}
    entries = ledger.entries(keys | {use.request_key for use in latest_uses.values()})
    return plan_requests(requests, entries=entries, latest_uses=latest_uses)


def plan_requests(
    requests: Sequence[PlannedRequest],
    *,
    entries: Mapping[str, Entry],
    latest_uses: Mapping[tuple[str, int], Use],
) -> list[PlannedRequest]:
    """Return the calls with their state and reason.

    `entries` are the ledger's by request key, of these requests and of those in `latest_uses`,
    which says which request each call used last.
    """
    planned = []
    for request in requests:
        use = latest_uses.get((request.prompt_id, request.call_index))
        before = entries.get(use.request_key) if use else None
        state = plan_state(entries.get(request.request_key))
        planned.append(dataclasses.replace(request, reason=_reason(request, before), state=state))
    return planned


def _reason(request: PlannedRequest, before: Entry | None) -> Reason:
    if before is None:
        return Reason.NEW
    if before.request_key == request.request_key:
        return Reason.UNCHANGED
    was: dict[str, Any] = json.loads(before.request)
    is_now: dict[str, Any] = json.loads(request.request)
    changed = {name for name in was.keys() | is_now.keys() if was.get(name) != is_now.get(name)}
    if "embeddings" in changed or before.embedding_version != request.embedding_version:
        return Reason.EMBEDDING_CHANGED
    if changed & {"prompt", "negative_prompt"}:
        return Reason.PROMPT_CHANGED
    # Nothing changed in the request itself: it was last used of another API.
    return Reason.PARAMETERS_CHANGED if changed or before.task != request.task else Reason.NEW


def uses_of_plan(
    plan: Sequence[PlannedRequest], prompts: Sequence[Prompt], *, dataset: str, run_id: str
) -> list[Use]:
    """Return the use of each call, with the rows that it comes from."""
    rows = {prompt.prompt_id: prompt for prompt in prompts}
    return [
        Use(
            **fields_of(call, "prompt_set", "prompt_id", "call_index", "request_key"),
            **fields_of(rows[call.prompt_id], "prompt_row", "embedding_row"),
            dataset=dataset,
            run_id=run_id,
        )
        for call in plan
    ]


def plan_states_now(
    plan: Sequence[PlannedRequest], entries: Mapping[str, Entry]
) -> list[PlannedRequest]:
    """Return a plan with the states that the ledger's entries give it."""
    return [
        dataclasses.replace(call, state=plan_state(entries.get(call.request_key))) for call in plan
    ]


def plan_fingerprint(plan: Iterable[PlannedRequest]) -> str:
    """Return a hash of what a plan asks for: the same before, during and after its purchase."""
    return content_hash(plan, leave_out={"state", "reason"})


class PlanCount:
    """Counts what a plan amounts to, part by part: all that it keeps of a call is a few words."""

    def __init__(self) -> None:
        self._distinct: dict[str, tuple[str, int, str]] = {}

    def add(self, plan: Iterable[PlannedRequest]) -> None:
        """Count these calls; a request that stands twice is bought once, for the first of them."""
        for call in plan:
            counted = (call.state, call.samples, call.reason)
            self._distinct.setdefault(call.request_key, counted)

    @property
    def summary(self) -> PlanSummary:
        """All of them in numbers."""
        images: Counter[str] = Counter(dict.fromkeys(PlanState, 0))
        by_reason: Counter[str] = Counter()
        largest = 0
        for state, samples, reason in self._distinct.values():
            images[state] += samples
            if state == PlanState.TO_BUY:
                by_reason[reason] += samples
                largest = max(largest, samples)
        return PlanSummary(
            calls=Counter(state for state, _, _ in self._distinct.values()),
            images=images,
            to_buy_by_reason=by_reason,
            largest_to_buy=largest,
        )


def summarise_plan(plan: Iterable[PlannedRequest]) -> PlanSummary:
    """Return what a plan amounts to; a request that stands twice in it is bought once."""
    count = PlanCount()
    count.add(plan)
    return count.summary
