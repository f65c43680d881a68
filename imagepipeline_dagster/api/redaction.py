"""The API key blotted out of whatever a server repeats of it."""

from __future__ import annotations

import re

__all__ = ["KeyRedaction"]

# An id has to be asked for as it is; links have a rule of their own.
_KEPT = ("id", "job_id", "download_urls")
_SCHEME_AND_HOST = re.compile(r"https?://[^/?#@]*(?=[/?#]|$)", re.IGNORECASE)


class KeyRedaction:
    """Takes one API key out of texts, answers and links before any of it is shown or cut."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def text(self, text: str) -> str:
        """Return the text with the key blotted out."""
        return text.replace(self._api_key, "[API key]")

    def answer(self, answer: object) -> object:
        """Return a decoded JSON answer with the key blotted out; ids and links stay as they are."""
        if isinstance(answer, str):
            return self.text(answer)
        if isinstance(answer, list):
            return [self.answer(item) for item in answer]
        if isinstance(answer, dict):
            return {
                self.text(name): value if name in _KEPT else self.answer(value)
                for name, value in answer.items()
            }
        return answer

    def link(self, link: str) -> str:
        """Return a link with the key blotted out behind its host."""
        # The host stays, or a host that is named like a simple key could not be reached.
        found = _SCHEME_AND_HOST.match(link)
        host = found.group() if found else ""
        return host + self.text(link[len(host) :])

    def cause(self, error: Exception) -> Exception | None:
        """Return the cause to show with an error; None where its words hold the key."""
        return None if self._api_key in str(error) else error
