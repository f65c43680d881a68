"""One prompt set moderated: the evidence gathered, and a verdict for each sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.classifier import check_classifier, load_classifier
from imagepipeline_dagster.moderation.duplicates import check_hashes
from imagepipeline_dagster.moderation.evidence import hashes_of, scores_of
from imagepipeline_dagster.moderation.policy import ModerationPolicy, Rules
from imagepipeline_dagster.moderation.states import basis_of, overrides_by_set
from imagepipeline_dagster.moderation.verdicts import (
    Evidence,
    ModeratedImage,
    is_classified,
    verdicts_on,
)
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.overrides import Override


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
    """What the moderation of a set gives.

    `images` come one at a time, and once. `classified` pictures were shown to the classifier now;
    the other scores were known.
    """

    images: Iterator[ModeratedImage]
    rules: Rules
    classified: int


def moderate_set(
    generated: Iterable[GeneratedImage],
    *,
    prompt_set: str,
    dataset: str,
    policy: ModerationPolicy,
    overrides: Sequence[Override],
    ledger: Ledger,
    storage: Storage,
) -> Moderation:
    """Return the verdicts on a set's samples under a policy; nothing is ever bought here.

    Pictures are read only where the policy needs a score or a hash that is not known yet. The
    samples are gone through several times.
    """
    decided = overrides_by_set(ledger, overrides, dataset=dataset, storage=storage)
    about = decided.get(prompt_set, [])
    rules = policy.rules_for(prompt_set)
    measured = measure(generated, policy, prompt_set=prompt_set, ledger=ledger, storage=storage)
    basis = basis_of(policy, prompt_set, about)
    evidence = dataclasses.replace(measured, overrides=about, basis=basis)
    return Moderation(
        images=verdicts_on(generated, rules, evidence), rules=rules, classified=measured.computed
    )


def measure(
    images: Iterable[GeneratedImage],
    policy: ModerationPolicy,
    *,
    prompt_set: str,
    ledger: Ledger,
    storage: Storage,
) -> Evidence:
    """Measure what the policy wants to know of a set's pictures and the ledger does not."""
    rules, measured = policy.rules_for(prompt_set), Evidence()
    if rules.classifies and any(is_classified(image, rules) for image in images):
        asked = (image for image in images if is_classified(image, rules))
        classifier = load_classifier(policy.classifier)
        measured = scores_of(asked, classifier, ledger=ledger, storage=storage)
    if rules.near_duplicate_distance is None:
        return measured
    return dataclasses.replace(measured, hashes=hashes_of(images, ledger=ledger, storage=storage))
