"""From version 1, which was not alembic's, to 2.

A statement here names tables and columns itself: the schema of today may have gone on since.
"""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = None


def upgrade() -> None:
    """Add what is recorded of samples; merge the tables that have one key and one job."""
    _add_identity()
    _add_approvals()
    _add_shares()
    _add_sources()
    _add_columns_of_samples()
    op.add_column("ledger_requests", sa.Column("links_since", sa.DateTime))
    op.create_index("ledger_requests_by_job", "ledger_requests", ["job_id"])
    op.create_index("ledger_attempts_by_job", "ledger_attempts", ["job_id"])
    _merge_states_of_sets()
    _merge_evidence()


def _add_identity() -> None:
    identity = op.create_table(
        "ledger_identity",
        sa.Column("ledger_id", sa.String(32), primary_key=True),
        sa.Column("purchases", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(identity, [{"ledger_id": uuid.uuid4().hex, "purchases": 0}])


def _add_approvals() -> None:
    op.create_table(
        "ledger_approvals",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("dataset", sa.String(200), nullable=False),
        sa.Column("prompt_set", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("max_images", sa.Integer),
        sa.Column("max_money", sa.Float(53)),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("approved_at", sa.DateTime, nullable=False),
        sa.Column("expires_at", sa.DateTime, nullable=False),
    )
    op.create_index(
        "ledger_approvals_by_plan", "ledger_approvals", ["dataset", "prompt_set", "fingerprint"]
    )


def _add_shares() -> None:
    op.create_table(
        "ledger_shares",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("places", sa.Integer, nullable=False),
        sa.Column("rate", sa.Float(53), nullable=False),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.Column("lease_until", sa.DateTime, nullable=False),
    )


def _add_sources() -> None:
    op.create_table(
        "ledger_sources",
        sa.Column("link_sha256", sa.String(64), primary_key=True),
        sa.Column("link", sa.Text, nullable=False),
        sa.Column("image_sha256", sa.String(64), index=True),
        sa.Column("format", sa.String(8)),
        sa.Column("bytes", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("looked_up_at", sa.DateTime, nullable=False),
    )


def _add_columns_of_samples() -> None:
    op.add_column(
        "ledger_samples", sa.Column("attempt", sa.Integer, nullable=False, server_default="1")
    )
    op.add_column("ledger_samples", sa.Column("carries_more", sa.Text))
    op.add_column("ledger_samples", sa.Column("has_alpha", sa.Boolean))
    # A sample that came before its request was claimed again is of an earlier attempt: of the last
    # one that was submitted by then.
    op.execute(
        """
        UPDATE ledger_samples SET attempt = COALESCE(
            (SELECT max(a.attempt) FROM ledger_attempts a
             JOIN ledger_requests r ON r.request_key = a.request_key
             WHERE a.request_key = ledger_samples.request_key
               AND ledger_samples.stored_at < r.claimed_at
               AND (a.attempt < r.attempt OR r.failure = 'not_sent')
               AND a.submitted_at <= ledger_samples.stored_at),
            (SELECT r.attempt FROM ledger_requests r
             WHERE r.request_key = ledger_samples.request_key),
            1)
        """
    )


def _merge_states_of_sets() -> None:
    op.add_column("ledger_prompt_sets", sa.Column("requested_basis", sa.String(64)))
    op.add_column("ledger_prompt_sets", sa.Column("basis_requested_at", sa.DateTime))
    op.add_column("ledger_prompt_sets", sa.Column("built_basis", sa.String(64)))
    op.execute(
        """
        INSERT INTO ledger_prompt_sets (dataset, prompt_set, attempt, retries, pending)
        SELECT m.dataset, m.prompt_set, 0, 0, 0 FROM ledger_moderations m
        WHERE NOT EXISTS (SELECT 1 FROM ledger_prompt_sets p
                          WHERE p.dataset = m.dataset AND p.prompt_set = m.prompt_set)
        """
    )
    for column, former in (
        ("requested_basis", "requested_basis"),
        ("basis_requested_at", "requested_at"),
        ("built_basis", "built_basis"),
    ):
        op.execute(
            f"""
            UPDATE ledger_prompt_sets SET {column} =
                (SELECT m.{former} FROM ledger_moderations m
                 WHERE m.dataset = ledger_prompt_sets.dataset
                   AND m.prompt_set = ledger_prompt_sets.prompt_set)
            """  # noqa: S608 - both names stand above
        )
    op.drop_table("ledger_moderations")


def _merge_evidence() -> None:
    op.create_table(
        "ledger_evidence",
        sa.Column("image_sha256", sa.String(64), primary_key=True),
        sa.Column("method", sa.String(64), primary_key=True),
        sa.Column("score", sa.Float(53)),
        sa.Column("hash", sa.String(64)),
        sa.Column("measured_at", sa.DateTime),
    )
    op.execute(
        """
        INSERT INTO ledger_evidence (image_sha256, method, score, measured_at)
        SELECT image_sha256, model_sha256, score, scored_at FROM ledger_scores
        """
    )
    op.execute(
        """
        INSERT INTO ledger_evidence (image_sha256, method, hash)
        SELECT image_sha256, method, hash FROM ledger_perceptual_hashes
        """
    )
    op.drop_table("ledger_scores")
    op.drop_table("ledger_perceptual_hashes")
