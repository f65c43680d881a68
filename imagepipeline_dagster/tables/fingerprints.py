"""The content of a prompt set as one short text, whatever the order of its rows.

A fingerprint says whether two readings of a set would make the same images. It is computed from
the values as they are read, not as they are stored: SQLite and PostgreSQL give the same.
`updated_at` is not in it, so touching a row changes nothing.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, content_json

_ROW_BYTES = 32
_MODULUS = 2 ** (8 * _ROW_BYTES)


@dataclass(frozen=True, slots=True)
class SetFingerprint:
    """The content of a prompt set: 32 hex digits for its rows, and for the embeddings they use.

    `embedding_ids` are all that its rows name, whether the embeddings table knows them or not.
    """

    prompt_set: str
    rows: int
    prompts: str
    embeddings: str
    embedding_ids: frozenset[str] = frozenset()

    @property
    def content(self) -> str:
        """Both together: it changes when an image of the set might."""
        return digest_of(f"{self.prompts} {self.embeddings}").hex()


def fingerprint_set(
    prompt_rows: Iterable[PromptRow], embeddings: Mapping[str, EmbeddingRow]
) -> SetFingerprint:
    """Return the fingerprint of one prompt set, given its rows and all embeddings by id.

    Raises:
        ValueError: when the rows are of several sets, or there are none to name the set.
    """
    fingerprints = fingerprint_sets(prompt_rows, embeddings)
    if len(fingerprints) != 1:
        raise ValueError(f"the rows are of {len(fingerprints)} prompt sets, not of one")
    return next(iter(fingerprints.values()))


def fingerprint_embeddings(embeddings: Mapping[str, EmbeddingRow]) -> str:
    """Return the fingerprint of the whole embeddings table: 32 hex digits."""
    return fingerprint_used(embeddings, embeddings)


def fingerprint_used(embedding_ids: Iterable[str], embeddings: Mapping[str, EmbeddingRow]) -> str:
    """Return the fingerprint of those embeddings that a set's rows name: 32 hex digits.

    An id that the embeddings table does not know is content of the row alone.
    """
    used = _Sum()
    for embedding_id in embedding_ids:
        if embedding_id in embeddings:
            used.add(content_json(embeddings[embedding_id]))
    return used.fingerprint()


def fingerprint_sets(
    prompt_rows: Iterable[PromptRow], embeddings: Mapping[str, EmbeddingRow]
) -> dict[str, SetFingerprint]:
    """Return the fingerprints of the prompt sets that these rows are of, given all embeddings.

    Memory grows with the number of sets, not with that of rows. Read the embeddings first: a set
    whose embedding changes in between then looks old, and the next reading sees it.
    """
    sums: defaultdict[str, _Sum] = defaultdict(_Sum)
    used: defaultdict[str, set[str]] = defaultdict(set)
    for row in prompt_rows:
        sums[row.prompt_set].add(content_json(row))
        if row.embeddings is not None:
            used[row.prompt_set].add(row.embeddings)
    return {
        name: SetFingerprint(
            prompt_set=name,
            rows=rows.count,
            prompts=rows.fingerprint(),
            embeddings=fingerprint_used(used[name], embeddings),
            embedding_ids=frozenset(used[name]),
        )
        for name, rows in sums.items()
    }


@dataclass(slots=True)
class _Sum:
    """A multiset of texts as one number: digests added, so order is lost and repetitions count."""

    total: int = 0
    count: int = 0

    def add(self, text: str) -> None:
        digest = digest_of(text, size=_ROW_BYTES)
        self.total = (self.total + int.from_bytes(digest)) % _MODULUS
        self.count += 1

    def fingerprint(self) -> str:
        return digest_of(f"{self.count} {self.total:x}").hex()


def digest_of(text: str, *, size: int = 16) -> bytes:
    """Return a digest of any text, of so many bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()
