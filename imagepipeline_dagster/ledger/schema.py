"""The ledger's tables; `migrations` bring an older ledger up to them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

SCHEMA_VERSION = 2
"""The last of the `migrations`: a column that is added here has a revision there."""


class _Utc(TypeDecorator[dt.datetime]):
    """A moment: UTC without a zone in the database, with one in Python."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> Any:  # noqa: ANN401, ARG002
        return value and value.astimezone(dt.UTC).replace(tzinfo=None)

    # Not process_result_value, which costs three calls a value: a large set reads 50,000 of them.
    def result_processor(
        self,
        dialect: Dialect,
        coltype: object,  # noqa: ARG002 - SQLAlchemy's own signature
    ) -> Callable[[Any], dt.datetime | None]:
        return _moment_of_text if dialect.name == "sqlite" else _moment_of_datetime


def _moment_of_text(value: str | None) -> dt.datetime | None:
    """Read what SQLAlchemy keeps a moment as where the database has no type for it."""
    return None if value is None else dt.datetime.fromisoformat(value).replace(tzinfo=dt.UTC)


def _moment_of_datetime(value: dt.datetime | None) -> dt.datetime | None:
    return None if value is None else value.replace(tzinfo=dt.UTC)


metadata = MetaData()

# One row: who this ledger is, and how often purchases were counted. A storage keeps both too.
identity = Table(
    "ledger_identity",
    metadata,
    Column("ledger_id", String(32), primary_key=True),
    Column("purchases", BigInteger, nullable=False),
)

requests = Table(
    "ledger_requests",
    metadata,
    Column("request_key", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    # Jobs that were POSTed for this request so far, the current one included.
    Column("attempt", Integer, nullable=False),
    Column("task", String(16), nullable=False),
    Column("request", Text, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("embedding_version", Text),
    Column("endpoint", Text, nullable=False),
    Column("emulated", Boolean, nullable=False),
    Column("run_id", Text, nullable=False),
    # The process that works on it, and until when its word holds.
    Column("owner", Text, nullable=False),
    Column("lease_until", _Utc, nullable=False),
    Column("claimed_at", _Utc, nullable=False),
    Column("job_id", Text),
    # Only where a job has no id to ask for them again.
    Column("links", JSON),
    Column("submitted_at", _Utc),
    # When a picture of its job first could not be had: its links live from its success on.
    Column("links_since", _Utc),
    Column("completed_at", _Utc),
    Column("failure", String(16)),
    Column("error", Text),
    Index("ledger_requests_by_owner", "owner", "state"),
    Index("ledger_requests_by_state", "state"),
    Index("ledger_requests_by_job", "job_id"),
)

samples = Table(
    "ledger_samples",
    metadata,
    Column("request_key", String(64), primary_key=True),
    Column("slot", Integer, primary_key=True),
    # Of the request's jobs the one that gave it.
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("sample_index", Integer),
    Column("outcome", String(16), nullable=False),
    Column("image_sha256", String(64), index=True),
    Column("uri", Text),
    Column("format", String(8)),
    Column("pixel_width", Integer),
    Column("pixel_height", Integer),
    Column("bytes", Integer),
    Column("value_range", Integer),
    Column("carries_more", Text),
    Column("has_alpha", Boolean),
    Column("stored_at", _Utc, nullable=False),
    Column("error", Text),
)

# Attempts that ended without a picture, so that their job ids stay known.
attempts = Table(
    "ledger_attempts",
    metadata,
    Column("request_key", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("job_id", Text),
    Column("run_id", Text, nullable=False),
    Column("submitted_at", _Utc),
    Column("ended_at", _Utc, nullable=False),
    Column("failure", String(16), nullable=False),
    Column("error", Text),
    Index("ledger_attempts_by_job", "job_id"),
)

# What each link to a picture that requests start from led to. Without a picture it is looked up
# again; a picture with an error was withdrawn.
sources = Table(
    "ledger_sources",
    metadata,
    Column("link_sha256", String(64), primary_key=True),
    Column("link", Text, nullable=False),
    Column("image_sha256", String(64), index=True),
    Column("format", String(8)),
    Column("bytes", Integer),
    Column("error", Text),
    Column("looked_up_at", _Utc, nullable=False),
)

# Which prompt asked for which request, with its row as it was: from a picture back to its prompts.
uses = Table(
    "ledger_uses",
    metadata,
    Column("dataset", String(200), primary_key=True),
    Column("prompt_set", Text, primary_key=True),
    Column("prompt_id", Text, primary_key=True),
    Column("call_index", Integer, primary_key=True),
    Column("request_key", String(64), primary_key=True),
    Column("prompt_row", Text, nullable=False),
    Column("embedding_row", Text),
    Column("run_id", Text, nullable=False),
    Column("used_at", _Utc, nullable=False),
    Index("ledger_uses_by_key", "request_key"),
)

# Money in millionths, so that sums are exact. The row of the empty day holds the sum of all days.
spending = Table(
    "ledger_spending",
    metadata,
    Column("scope", String(400), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("images", BigInteger, nullable=False),
    Column("micros", BigInteger, nullable=False),
)

# What each process may do at an API account: jobs in flight, and requests a second.
shares = Table(
    "ledger_shares",
    metadata,
    Column("account", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("places", Integer, nullable=False),
    Column("rate", Float(53), nullable=False),
    # The places that it could use: what is divided fairly.
    Column("wanted", Integer, nullable=False),
    Column("lease_until", _Utc, nullable=False),
)

# What people decided about requests; rows are only ever added.
decisions = Table(
    "ledger_decisions",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("request_key", String(64), nullable=False, index=True),
    Column("decided_at", _Utc, nullable=False),
    Column("decision", String(16), nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
)

# Plans that people approved, each for what it would buy at most; rows are only ever added.
approvals = Table(
    "ledger_approvals",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("dataset", String(200), nullable=False),
    Column("prompt_set", Text, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    # The most that may be bought under it; null: whatever the plan says.
    Column("max_images", Integer),
    Column("max_money", Float(53)),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("approved_at", _Utc, nullable=False),
    Column("expires_at", _Utc, nullable=False),
    Index("ledger_approvals_by_plan", "dataset", "prompt_set", "fingerprint"),
)

# What each prompt set was last asked for and made from: its images, and then its verdicts.
prompt_sets = Table(
    "ledger_prompt_sets",
    metadata,
    Column("dataset", String(200), primary_key=True),
    Column("prompt_set", Text, primary_key=True),
    Column("requested_prompts", String(64)),
    Column("requested_embeddings", String(64)),
    Column("requested_at", _Utc),
    # Runs asked for in all: makes each run's key unique.
    Column("attempt", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("built_content", String(64)),
    Column("built_at", _Utc),
    Column("pending", Integer, nullable=False),
    # Digests of the policy and the overrides.
    Column("requested_basis", String(64)),
    Column("basis_requested_at", _Utc),
    Column("built_basis", String(64)),
)

# What each prompt set of the tables says, as far as the sensors have looked: how it was recognised
# (rows, newest time, checksum), and what its rows said when they were last read.
set_contents = Table(
    "ledger_set_contents",
    metadata,
    Column("dataset", String(200), primary_key=True),
    Column("prompt_set", Text, primary_key=True),
    Column("rows", BigInteger, nullable=False),
    Column("newest", Text),
    Column("checksum", String(64), nullable=False),
    Column("prompts", String(64), nullable=False),
    Column("embeddings", String(64), nullable=False),
    Column("content", String(64), nullable=False),
    # Those that its rows name, known to the embeddings table or not.
    Column("embedding_ids", JSON, nullable=False),
    Column("changed_at", _Utc, nullable=False),
    # The version of the rows that Dagster was last told of; and the ticks, so that one whose answer
    # was lost can give the same answer again.
    Column("reported", String(64)),
    Column("reported_in", String(64)),
    Column("asked_in", String(64)),
)

# What was measured of a picture: the same bytes and the same method give the same. The method is
# the classifier's model by its SHA-256, or the name of a perceptual hash.
evidence = Table(
    "ledger_evidence",
    metadata,
    Column("image_sha256", String(64), primary_key=True),
    Column("method", String(64), primary_key=True),
    Column("score", Float(53)),
    Column("hash", String(64)),
    Column("measured_at", _Utc),
)
