"""Decisions of people about pictures: the table `moderation_overrides`, which only ever grows.

A row names a picture by its SHA-256, or all pictures of a prompt by its set and id. A picture's row
may name the set that the decision holds in, or `*` for all sets. Of several that are about a
picture the latest counts, so a decision is taken back by another one: `clear` leaves the picture to
its evidence, as if nobody had decided.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from imagepipeline_dagster.databases import clock_ahead
from imagepipeline_dagster.tables.database import reading, writing
from imagepipeline_dagster.tables.errors import TablesError
from imagepipeline_dagster.tables.values import read_time

OVERRIDES = "moderation_overrides"
"""The table's name, unless a dataset gives it another."""

EVERY_SET = "*"
"""Stands for all sets in a row that names a picture."""

_SHA256_DIGITS = 64


class OverrideInvalid(TablesError):
    """A decision that cannot be meant; the message says what is wrong with it.

    `column` is where, unless it is about several.
    """

    def __init__(self, message: str, *, column: str | None = None) -> None:
        super().__init__(message)
        self.column = column


class OverrideDecision(StrEnum):
    """A decision about a picture; `CLEAR` leaves it to the evidence again."""

    KEEP = "keep"
    REJECT = "reject"
    QUARANTINE = "quarantine"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A person's decision about one picture, or about all pictures of a prompt.

    `number` is its place in the table; 0 before it is there. The clock that told `decided_at` is
    `ahead` of this machine's, and `apart` from the one that pictures are told by.
    """

    decision: OverrideDecision
    reviewer: str
    reason: str
    decided_at: dt.datetime
    image_sha256: str | None = None
    prompt_set: str | None = None
    prompt_id: str | None = None
    number: int = 0
    ahead: dt.timedelta = field(default=dt.timedelta(0), compare=False, repr=False)
    apart: dt.timedelta = field(default=dt.timedelta(0), compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what names nothing, or nobody.

        Raises:
            OverrideInvalid: says what is missing.
        """
        names_prompt = self.prompt_set is not None and self.prompt_id is not None
        names_picture = self.image_sha256 is not None and self.prompt_id is None
        if not (names_picture or (names_prompt and self.image_sha256 is None)):
            raise OverrideInvalid(
                "An override is about a picture (image_sha256, and the prompt_set that it holds "
                f"in, {EVERY_SET} for all) or about a prompt (prompt_set and prompt_id)."
            )
        sha256 = self.image_sha256
        if sha256 is not None and not (
            len(sha256) == _SHA256_DIGITS and set(sha256) <= set("0123456789abcdef")
        ):
            raise OverrideInvalid(
                f"{sha256!r} is not a SHA-256: 64 digits, 0 to 9 and a to f.",
                column="image_sha256",
            )
        for name, text in (("reviewer", self.reviewer), ("reason", self.reason)):
            if not text.strip():
                raise OverrideInvalid(
                    f"An override needs a {name}: somebody stands behind it.", column=name
                )

    def covers(self, seen_at: dt.datetime | None) -> bool:
        """Tell whether the decision holds for a picture that came at `seen_at`.

        Nobody keeps what is yet to come, unless the row names the very picture and where it is
        kept. A refusal holds for all that is yet to come.
        """
        names_place = self.image_sha256 is not None and self.prompt_set is not None
        if self.decision is not OverrideDecision.KEEP or names_place:
            return True
        if seen_at is None:
            return False
        if not self.decided_at.microsecond:
            # A database's own CURRENT_TIMESTAMP has whole seconds, cut off.
            seen_at = seen_at.replace(microsecond=0)
        return seen_at <= self.decided_at - self.apart

    @property
    def rank(self) -> tuple[dt.datetime, int]:
        """Its place in time: of two decisions the greater one is the later."""
        # By seconds, because a database's own CURRENT_TIMESTAMP has no more; then as they came.
        return self.decided_at.replace(microsecond=0), self.number


_COLUMNS = tuple(each.name for each in fields(Override) if each.compare)
"""The table's columns; how far a clock is off is not stored."""


def overrides_table(metadata: sa.MetaData, name: str = OVERRIDES) -> sa.Table:
    """Define the table, with triggers that let nobody change or delete a row."""
    table = sa.Table(
        name,
        metadata,
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("image_sha256", sa.String(_SHA256_DIGITS), comment="The picture, or null"),
        sa.Column("prompt_set", sa.Text, comment="The prompt's set, or the picture's, or null"),
        sa.Column("prompt_id", sa.Text, comment="The prompt, all of whose pictures are meant"),
        sa.Column("decision", sa.String(16), nullable=False, comment=", ".join(OverrideDecision)),
        sa.Column("reviewer", sa.Text, nullable=False, comment="Who decided"),
        sa.Column("reason", sa.Text, nullable=False, comment="Why"),
        sa.Column(
            "decided_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.current_timestamp(),
            comment="When; the latest decision counts",
        ),
        sa.CheckConstraint(
            sa.column("decision").in_([decision.value for decision in OverrideDecision])
        ),
        sa.CheckConstraint("(image_sha256 IS NULL) = (prompt_id IS NOT NULL)"),
        sa.CheckConstraint("prompt_id IS NULL OR prompt_set IS NOT NULL"),
        *_what_can_be_meant(),
    )
    # Quoted whole: the table's name may need it, and then so does each name made of it.
    quoted = DefaultDialect().identifier_preparer.quote_identifier
    guards = {guard: quoted(f"{name}_{guard}") for guard in _GUARDS}
    for dialect, statements in _APPEND_ONLY.items():
        for statement in statements:
            ddl = sa.DDL(statement, context=guards).execute_if(dialect=dialect)  # type: ignore[no-untyped-call]
            sa.event.listen(table, "after_create", ddl)
    return table


def _what_can_be_meant() -> Iterator[sa.schema.SchemaItem]:
    """Yield checks that refuse a row at once: once there, nobody could take it away again."""
    for text in ("reviewer", "reason"):
        yield sa.CheckConstraint(f"length(trim({text}, '{_WHITE_SPACE}')) > 0")
    texts = ("image_sha256", "prompt_set", "prompt_id", "reviewer", "reason")
    for check in (
        f"length(image_sha256) = {_SHA256_DIGITS} AND image_sha256 NOT GLOB '*[^0-9a-fA-F]*'",
        *(f"typeof({text}) IN ('text', 'null')" for text in texts),
        # SQLite also takes a Julian day, a time without its day, and the 31st of a shorter month.
        "datetime(decided_at) IS NOT NULL",
        "date(substr(decided_at, 1, 10), '+0 days') IS substr(decided_at, 1, 10)",
        "length(decided_at) = 10 OR substr(decided_at, 11) GLOB '[ T][012][0-9]:[0-5]*'",
        "substr(decided_at, 12) NOT GLOB '*[^0-9:.+Z-]*' AND substr(decided_at, 12, 2) < '24'",
        f"decided_at >= '{_FIRST_DAY}'",
    ):
        yield sa.CheckConstraint(check).ddl_if(dialect="sqlite")
    for check in (
        f"image_sha256 ~ '^[0-9a-fA-F]{{{_SHA256_DIGITS}}}$'",
        f"decided_at >= '{_FIRST_DAY}' AND decided_at < now() + interval '{_CLOCKS_DIFFER}'",
    ):
        yield sa.CheckConstraint(check).ddl_if(dialect="postgresql")


_WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))
_FIRST_DAY = "2000-01-01"
# A decision from the future would overrule all that people decide until then.
_CLOCKS_DIFFER = "5 minutes"
_REFUSAL = "overrides are only added: add a later one"
_GUARDS = ("no_update", "no_delete", "only_grows", "no_future")
# DDL fills in %(fullname)s by itself. SQLite's checks cannot ask for the time.
_APPEND_ONLY = {
    "sqlite": [
        *(
            f"CREATE TRIGGER %(no_{verb.lower()})s BEFORE {verb} ON %(fullname)s"
            f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
            for verb in ("UPDATE", "DELETE")
        ),
        (
            "CREATE TRIGGER %(no_future)s BEFORE INSERT ON %(fullname)s"
            f" WHEN datetime(NEW.decided_at) > datetime('now', '{_CLOCKS_DIFFER}')"
            " BEGIN SELECT RAISE(ABORT, 'decided_at is in the future, as a time in UTC'); END"
        ),
    ],
    "postgresql": [
        (
            "CREATE OR REPLACE FUNCTION %(only_grows)s() RETURNS trigger LANGUAGE plpgsql "
            f"AS $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
        ),
        (
            "CREATE TRIGGER %(only_grows)s BEFORE UPDATE OR DELETE ON %(fullname)s "
            "FOR EACH ROW EXECUTE FUNCTION %(only_grows)s()"
        ),
    ],
}


def read_overrides(url: str, *, table: str = OVERRIDES) -> list[Override]:
    """Return every decision, oldest first; none where there is no such table.

    Raises:
        TablesUnavailable: the database cannot be used.
        OverrideInvalid: a row that somebody wrote cannot be meant; names its number.
    """
    with reading(url) as connection:
        if not sa.inspect(connection).has_table(table):
            return []
        # Without types, times come as the driver gives them: SQLite keeps whatever people wrote.
        columns: list[Any] = [sa.column(name) for name in _COLUMNS]
        rows = connection.execute(sa.select(sa.table(table, *columns))).mappings().all()
        ahead = clock_ahead(connection) if rows else dt.timedelta(0)
        decided = (_override(dict(row) | {"ahead": ahead}) for row in rows)
        return sorted(decided, key=lambda override: override.rank)


def count_overrides(url: str, *, table: str = OVERRIDES) -> int:
    """Return how many decisions there are: as rows are only added, a change shows here."""
    with reading(url) as connection:
        if not sa.inspect(connection).has_table(table):
            return 0
        return connection.scalar(sa.select(sa.func.count()).select_from(sa.table(table))) or 0


def record_overrides(url: str, overrides: Iterable[Override], *, table: str = OVERRIDES) -> int:
    """Add decisions, all or none, and return how many; the table is made if it is not there.

    Their times, which are this machine's, become the database's: pictures come by such a clock too.

    Raises:
        TablesUnavailable: the database cannot be used.
    """
    with writing(url) as connection:
        ahead = clock_ahead(connection)
        rows = [
            {name: getattr(override, name) for name in _COLUMNS if name != "number"}
            | {"decision": override.decision.value, "decided_at": override.decided_at + ahead}
            for override in overrides
        ]
        metadata = sa.MetaData()
        definition = overrides_table(metadata, table)
        metadata.create_all(connection)
        if rows:
            connection.execute(sa.insert(definition), rows)
    return len(rows)


def _override(row: Mapping[str, Any]) -> Override:
    decided_at = read_time(row["decided_at"])
    decision = str(row["decision"]).strip().lower()
    try:
        if not isinstance(decided_at, dt.datetime):
            raise OverrideInvalid(f"decided_at: {decided_at!r} is no time.")
        if decision not in set(OverrideDecision):
            raise OverrideInvalid(
                f"decision: {decision!r} is none of {', '.join(OverrideDecision)}."
            )
        values: dict[str, Any] = {"decision": OverrideDecision(decision), "decided_at": decided_at}
        if row["image_sha256"] is not None:
            values["image_sha256"] = str(row["image_sha256"]).strip().lower()
        return Override(**{**row, **values})
    except OverrideInvalid as error:
        raise OverrideInvalid(f"Override number {row['number']}: {error}") from None
