"""One prompt set moderated: the evidence gathered, and a verdict for each sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    classifier: Callable[[], Classifier] | None = None,
    on_progress: Callable[[int, int], object] = lambda done, of: None,  # noqa: ARG005
) -> Moderation:
    """Return the verdicts on a set's samples under a policy; nothing is ever bought here.

    Pictures are read only where the policy needs a score or a hash that is not known yet. The
    samples are gone through several times. `classifier` makes the one to ask; the policy's own
    unless given.
    """
    rules = policy.rules_for(prompt_set)
    about = overrides_by_set(ledger, overrides, dataset=dataset).get(prompt_set, [])
    measured = measure(
        generated,
        rules,
        classifier=classifier or (lambda: load_classifier(policy.classifier)),
        ledger=ledger,
        storage=storage,
        on_progress=on_progress,
    )
    evidence = Evidence(
        scores=measured.scores,
        model=measured.model,
        hashes=measured.hashes,
        overrides=about,
        basis=basis_of(policy, prompt_set, about),
    )
    return Moderation(
        images=verdicts_on(generated, rules, evidence),
        rules=rules,
        classified=measured.computed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPictures:
    """What the rules want to know of pictures, by SHA-256; `computed` scores are new."""

    scores: Mapping[str, float]
    model: str | None
    hashes: Mapping[str, int]
    computed: int


def measure(
    images: Iterable[GeneratedImage],
    rules: Rules,
    *,
    classifier: Callable[[], Classifier],
    ledger: Ledger,
    storage: Storage,
    on_progress: Callable[[int, int], object] = lambda done, of: None,  # noqa: ARG005
) -> MeasuredPictures:
    """Measure what the rules want to know of these pictures and the ledger does not."""
    scores: Mapping[str, float] = {}
    model, computed = None, 0
    if rules.classifies and any(is_classified(image, rules) for image in images):
        chosen = classifier()
        asked = (image for image in images if is_classified(image, rules))
        measured = scores_of(asked, chosen, ledger=ledger, storage=storage, on_progress=on_progress)
        scores, model, computed = measured.scores, chosen.model_sha256, measured.computed
    near = rules.near_duplicate_distance is not None
    hashes = hashes_of(images, ledger=ledger, storage=storage) if near else {}
    return MeasuredPictures(scores=scores, model=model, hashes=hashes, computed=computed)
