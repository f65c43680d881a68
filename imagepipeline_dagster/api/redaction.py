"""The API key blotted out of whatever a server repeats of it."""

from __future__ import annotations

import re
from base64 import b64encode

# An id has to be asked for as it is; links have a rule of their own.
_KEPT = re.compile(r"(job_?)?id|.*(url|link|image|output|href)s?", re.IGNORECASE)
_SCHEME_AND_HOST = re.compile(r"https?://[^/?#@]*(?=[/?#]|$)", re.IGNORECASE)
# A shorter key, as tests have, stands in any id by chance.
_TELLING_LENGTH = 8


class KeyRedaction:
    """Takes one API key, however it is spelled, out of texts, answers and links.

    A server may repeat it URL-quoted, escaped as in JSON, in base64 or in hex.
    """

    def __init__(self, api_key: str) -> None:
        spellings = ["".join(map(_spellings, api_key)), re.escape(api_key.encode().hex())]
        if len(api_key) >= _TELLING_LENGTH:
            spellings += _in_base64(api_key.encode())
        self._telling = len(api_key) >= _TELLING_LENGTH
        self._key = re.compile("|".join(spellings))

    def text(self, text: str) -> str:
        """Return the text with the key blotted out."""
        return self._key.sub("[API key]", text)

    def holds_key(self, job_id: str) -> bool:
        """Tell whether an id holds the key."""
        return self._telling and self._key.search(job_id) is not None

    def answer(self, answer: object, *, keep: bool = False) -> object:
        """Return a decoded JSON answer with the key blotted out.

        Ids and links stay as they are; `keep` says that such a text is looked at.
        """
        if isinstance(answer, str):
            return answer if keep else self.text(answer)
        if isinstance(answer, list):
            return [self.answer(item, keep=keep) for item in answer]
        if isinstance(answer, dict):
            return {
                self.text(name): self.answer(value, keep=_KEPT.fullmatch(name) is not None)
                for name, value in answer.items()
            }
        return answer

    def link(self, link: str) -> str:
        """Return a link with the key blotted out behind its host."""
        # The host stays, or a host that is named like a simple key could not be reached.
        match = _SCHEME_AND_HOST.match(link)
        host = match.group() if match else ""
        return host + self.text(link[len(host) :])

    def cause(self, error: Exception) -> Exception | None:
        """Return the cause to show with an error; None where its words hold the key."""
        return None if self._key.search(str(error)) else error


def _spellings(character: str) -> str:
    code = ord(character)
    quoted, escaped = rf"(?i:%(?:25)*{code:02x})", rf"(?i:\\+u{code:04x})"
    backslashed = r"|\\+[/\"\\]" if character in '/"\\' else ""
    return rf"(?:{re.escape(character)}|{quoted}|{escaped}{backslashed})"


def _in_base64(key: bytes) -> list[str]:
    """Return the key in base64 as it reads at each place of a longer text (`user:key`)."""
    spellings = []
    for shift in range(3):
        padded = b64encode(b"\0" * shift + key).rstrip(b"=").decode()
        whole = (shift + len(key)) % 3 == 0
        inner = padded[(0, 2, 3)[shift] : None if whole else -1]
        spellings.append("".join({"+": "[+-]", "/": "[/_]"}.get(c, c) for c in inner))
    return spellings
