"""One prompt set moderated: the evidence gathered, and a verdict for each sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.classifier import (
    Classifier,
    check_classifier,
    load_classifier,
)
from imagepipeline_dagster.moderation.duplicates import check_hashes
from imagepipeline_dagster.moderation.evidence import hashes_of, scores_of
from imagepipeline_dagster.moderation.policy import ModerationPolicy, Rules
from imagepipeline_dagster.moderation.states import basis_of, overrides_by_set
from imagepipeline_dagster.moderation.verdicts import (
    Evidence,
    ModeratedImage,
    is_classified,
    moderate,
)
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.overrides import Override

__all__ = ["Moderation", "check_policy", "moderate_set"]


def check_policy(policy: ModerationPolicy) -> None:
    """See whether what a policy needs is installed, before any set is moderated under it.

    Raises:
        ClassifierMissing: it asks for a classifier that is not there.
        HashesMissing: it asks for near-duplicates, and there is no library to find them.
    """
    if any(rules.classifies for rules in policy.possible_rules):
        check_classifier(policy.classifier)
    if any(rules.near_duplicate_distance is not None for rules in policy.possible_rules):
        check_hashes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moderation:
    """What the moderation of a set gave.

    `classified` pictures were shown to the classifier now; the other scores were known.
    """

    images: list[ModeratedImage]
    rules: Rules
    classified: int
    seconds: float


def moderate_set(
    generated: Sequence[GeneratedImage],
    *,
    prompt_set: str,
    dataset: str,
    policy: ModerationPolicy,
    overrides: Sequence[Override],
    ledger: Ledger,
    storage: Storage,
    classifier: Callable[[], Classifier] | None = None,
    on_progress: Callable[[int, int], object] = lambda done, of: None,  # noqa: ARG005
) -> Moderation:
    """Return the verdicts on a set's samples under a policy; nothing is ever bought here.

    Pictures are read only where the policy needs a score or a hash that is not known yet.
    `classifier` makes the one to ask; the policy's own unless given.
    """
    started = time.monotonic()
    rules = policy.rules_for(prompt_set)
    about = overrides_by_set(ledger, overrides, dataset=dataset).get(prompt_set, [])
    scores, model, classified = {}, None, 0
    if rules.classifies and (asked := [i for i in generated if is_classified(i, rules)]):
        chosen = classifier() if classifier else load_classifier(policy.classifier)
        measured = scores_of(asked, chosen, ledger=ledger, storage=storage, on_progress=on_progress)
        scores, model, classified = dict(measured.scores), chosen.model_sha256, measured.computed
    near = rules.near_duplicate_distance is not None
    evidence = Evidence(
        scores=scores,
        model=model,
        hashes=hashes_of(generated, ledger=ledger, storage=storage) if near else {},
        overrides=about,
        basis=basis_of(policy, prompt_set, about),
    )
    return Moderation(
        images=moderate(generated, rules, evidence),
        rules=rules,
        classified=classified,
        seconds=time.monotonic() - started,
    )
