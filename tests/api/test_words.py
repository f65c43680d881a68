from __future__ import annotations

import pytest

from imagepipeline_dagster.api.words import (
    asked_pause,
    speaks_of_credits,
    speaks_of_key,
    speaks_of_rate,
    speaks_of_safety,
)

# What each message speaks of; no word: of nothing that the account or the content is to blame for.
MESSAGES = {
    "NSFW content detected": "safety",
    "NSFW content was detected": "safety",
    "Potential NSFW content was detected in one or more images": "safety",
    "NSFW": "safety",
    "The safety checker refused this": "safety",
    "blocked by our content policy": "safety",
    "violates our content policy": "safety",
    "Your request was rejected by the safety system": "safety",
    "flagged as inappropriate content": "safety",
    "the image contains nudity": "safety",
    "explicit content is not allowed": "safety",
    "safety_checker: must be true or false": "",
    "CUDA error while running the safety checker: out of memory": "",
    "the safety checker was blocked: GPU unavailable": "",
    "no explicit node selector": "",
    "moderation service timed out": "",
    "moderation is late": "",
    "failed to load the NSFW detection model": "",
    "an explicit safety notice": "",
    "Insufficient credits": "credits",
    "insufficient_quota": "credits",
    "your balance is too low": "credits",
    "you have no more credits": "credits",
    "no credits left": "credits",
    "monthly quota of the account exceeded": "credits",
    "You exceeded your current quota, please check your plan and billing details": "credits",
    "your subscription has expired": "credits",
    "You do not have enough credit to run this": "credits",
    "Monthly limit reached. Upgrade your plan.": "credits",
    "Daily image limit was exceeded": "credits",
    "Your account has been suspended due to non-payment": "credits",
    "the daily build reached its limit": "",
    "load balancer timed out": "",
    "failed to balance the colours of a credit card": "",
    "the worker ran out of memory": "",
    "rate limit exceeded, try again in 10 seconds": "rate",
    "rate_limit_exceeded": "rate",
    "Too many requests": "rate",
    "Quota exceeded for requests per minute": "rate",
    "too many concurrent requests": "rate",
    "out of memory, please try again later": "",
    "Invalid API Key": "key",
    "invalid_api_key": "key",
    "API key not valid. Please pass a valid API key.": "key",
    "Your api-key is expired": "key",
    "header api-key: Field required": "key",
    "not authenticated": "key",
    "Authentication required": "key",
    "Unauthorized access to model weights": "",
    "the worker of key [API key] ran out of memory": "",
    "a key of ivory": "",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_words_of_refusals(message: str) -> None:
    """A refusal for money, rate, key or content is told from each other and from infrastructure."""
    spoken = {
        "credits": speaks_of_credits(message),
        "rate": speaks_of_rate(message),
        "key": speaks_of_key(message),
        "safety": speaks_of_safety(message),
    }
    assert [name for name, speaks in spoken.items() if speaks] == MESSAGES[message].split()


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("rate limit exceeded, try again in 10 seconds", 10),
        ("Please retry after 3.5s", 3),
        ("wait 20 sec", 20),
        ("try again later", None),
        ("the job took 10 seconds", None),
    ],
)
def test_a_pause_in_words(message: str, seconds: float | None) -> None:
    """A pause that a message asks for is understood; another number is none."""
    assert asked_pause(message) == seconds
