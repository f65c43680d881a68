"""What the words of a refusal speak of: money, the rate of requests, the key, or the content.

The API's page fixes no words. These are the ones that vendors use; each is matched as a statement,
since the bare words stand in prompts, model names and infrastructure errors too.
"""

from __future__ import annotations

import re

from imagepipeline_dagster.api.contract import GenerationRequest

_RATE = re.compile(
    r"\brate.?limit|\btoo many (\w+ )?(requests|jobs)|\bthrottl(ed|ing)\b"
    r"|\b(requests|quota|limit)\b.{0,60}\bper (second|minute|hour)"
    r"|\bconcurren\w+ (\w+ )?(request|job|limit|generation)s?\b.{0,40}(limit|exceeded|reached)",
    re.IGNORECASE,
)
_CREDITS = re.compile(
    r"\b(insufficient|not (have )?(enough|any|sufficient)|no|out of|low|negative|exceeded)\W+"
    r"(\w+\W+){0,2}"
    r"(credits?|balance|funds|quota)\b"
    r"|\b(credits?|balance|funds|quota)\W+(\w+\W+){0,3}"
    r"(insufficient|exhausted|exceeded|low|used up|spent|expired)\b"
    r"|\bpayment (is )?(required|overdue|failed)|\bbilling\b|\b(spending|spend|usage) limit\b"
    r"|\b(daily|weekly|monthly|plan|account)( \w+)? limit (\w+ )?(reached|exceeded|hit)\b"
    r"|\bnon-?payment\b|\bupgrade (\w+ )?(plan|subscription)\b"
    r"|\baccount (is |has been |was )(suspended|disabled|deactivated|blocked)\b"
    r"|\b(subscription|plan|trial) (is |has )?(expired|ended|inactive|cancell?ed)\b",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"\b(invalid|incorrect|wrong|missing|expired|revoked|unknown|bad) (api[ -]?(key|token)|"
    r"(access|auth|bearer) token)\b"
    r"|\bapi[ -]?(key|token)\b\W+(is|was|has|not|required|missing|invalid|expired|field required)\b"
    r"|\bheader (x-)?(api-?key|authorization)\b"
    r"|\bnot authenticated\b|\bunauthenticated\b|\bauthentication (failed|required)\b",
    re.IGNORECASE,
)
_UNWANTED = r"(nsfw|explicit|sexual|unsafe|inappropriate|harmful|adult|offensive|disallowed)"
_SAFETY = re.compile(
    rf"\b{_UNWANTED}( (or|and) \w+)? "
    r"(content|images?|pictures?|material|prompts?|concepts?|language|words?|nudity)\b"
    rf"|\b(detected|flagged|refused|rejected|blocked|filtered|prohibited)\b.{{0,40}}"
    rf"\b({_UNWANTED}|nudity|safety|moderation|content polic(y|ies))\b"
    r"|\b(safety|moderation|content|nsfw)( (checker|filter|system|check))? (has )?"
    r"(refused|rejected|blocked|flagged|filtered|detected)\b"
    r"|\b(violat\w+|breach\w*|against)\b.{0,30}\bpolic(y|ies)\b"
    r"|\b(contains?|shows?|depicts?) (\w+ )?(nudity|nsfw|violence|gore)\b"
    r"|\b(nsfw|nudity)( \w+)? (detected|found|not allowed)\b|^\W*nsfw\W*$",
    re.IGNORECASE,
)
# An error of the machine names the checker that it ran, and says nothing of a picture.
_INFRASTRUCTURE = re.compile(
    r"\bcuda\b|\bgpu\b|out of memory|\btime[d-]? ?out\b|\bunavailable\b|\bconnection\b|\bcrash"
    r"|\b(could|can)(not| not)\b|\bfailed to\b|\bexception\b|\binternal (server )?error\b"
    r"|\bnode selector\b|\boverloaded\b",
    re.IGNORECASE,
)
_QUERY = re.compile(r"(https?:[^\s?#\"'<>]+)[?#][^\s\"'<>]*", re.IGNORECASE)
_PAUSE = re.compile(
    r"\b(?:again|retry|wait)\b\D{0,20}(\d{1,6})(?:\.\d+)? ?s(?:ec(?:ond)?s?)?\b", re.IGNORECASE
)


def speaks_of_rate(message: str) -> bool:
    """Tell whether an error's message says that requests come too fast."""
    return _RATE.search(_spaced(message)) is not None


def speaks_of_credits(message: str) -> bool:
    """Tell whether an error's message says that the account cannot pay; a rate is no account."""
    return _CREDITS.search(_spaced(message)) is not None and not speaks_of_rate(message)


def speaks_of_key(message: str) -> bool:
    """Tell whether an error's message says that the API key is refused."""
    return _KEY.search(_spaced(message)) is not None


def speaks_of_safety(message: str) -> bool:
    """Tell whether an error's message states that the content was refused."""
    return _SAFETY.search(message) is not None and not _INFRASTRUCTURE.search(message)


def asked_pause(message: str) -> float | None:
    """Return the seconds after which a message asks to come again; None where it names none."""
    pause = _PAUSE.search(message)
    return float(pause.group(1)) if pause else None


def without_echo(message: str, request: GenerationRequest) -> str:
    """Return a message without what it repeats of the request, which says nothing of a cause."""
    for value in request.payload().values():
        if isinstance(value, str) and len(value) > 3:
            message = message.replace(value, " ")
    return message


def without_queries(message: str) -> str:
    """Return a message whose links end where what opens them may begin: it is shown to many."""
    return _QUERY.sub(r"\1", message)


def _spaced(message: str) -> str:
    """Return a message whose codes (`insufficient_quota`) read as words."""
    return message.replace("_", " ")
