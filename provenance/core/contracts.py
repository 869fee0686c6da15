"""Every table that crosses a border, in the order in which data flows, and the check that deliveries pass on their way in.

A contract names its columns, their types, and which must be there. Extra columns are carried along. Units stand last in a
column's name: `_minor` (minor units of the row's currency), `_nanominor` (billionths of those), `_ppb` (parts per
billion), `_sha256` (hex).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl

from provenance.core.errors import ContractError
from provenance.core.text import NOT_IN_IDS

UTC_TIME = pl.Datetime("us", "UTC")
# Longer ones have no place in an index of PostgreSQL's.
LONGEST_ID = 1_000


@dataclass(frozen=True)
class Column:
    """One column: its type, whether it must be there, whether a row may leave it empty, and what it means."""

    dtype: Any
    meaning: str
    required: bool = False
    nullable: bool = False
    default: Any = None


@dataclass(frozen=True)
class Contract:
    """One table: who writes it, its columns and its key (the columns that no two rows share)."""

    name: str
    written_by: str
    columns: dict[str, Column] = field(repr=False)
    key: tuple[str, ...] = ()

    @property
    def schema(self) -> pl.Schema:
        """Column names and types, in order."""
        return pl.Schema({name: column.dtype for name, column in self.columns.items()})

    def frame(self, rows: Sequence[Any] = ()) -> pl.DataFrame:
        """Rows, each by column or in the order of the columns, as the table."""
        return pl.DataFrame(rows, schema=self.schema, orient="row")


def _needed(dtype: Any, meaning: str) -> Column:
    return Column(dtype, meaning, required=True)


def _optional(dtype: Any, meaning: str, default: Any = None) -> Column:
    return Column(dtype, meaning, nullable=default is None, default=default)


# Who an amount is for. The ledger's accounts have the same two parts.
PAYABLE, ESCROW, UNATTRIBUTED = "payable", "escrow", "unattributed"
# How names in escrow begin that do not stand for an unknown owner: of an owner who asked for it, and of a work in dispute.
HELD_FOR, DISPUTED = "held-", "dispute-"
PARTY = {
    "account": _needed(pl.String, "payable (an owner), escrow or unattributed (nobody, or an owner who wants no money)"),
    "party_id": _needed(
        pl.String, "the owner_id; in escrow the placeholder, work_id, held-OWNER or dispute-DAY-KEY-WORK; else nothing"
    ),
}


def is_unclaimed() -> pl.Expr:
    """Whether a party stands for an owner who is not known, by its `account` and `party_id`."""
    named = pl.col("party_id").str.starts_with(HELD_FOR) | pl.col("party_id").str.starts_with(DISPUTED)
    return (pl.col("account") == ESCROW) & ~named


EXAMPLES = Contract(
    "examples", "data teams",
    {
        "work_id": _needed(pl.String, "the work that the example is a piece of"),
        "content": _needed(pl.Binary, "what the model was trained on"),
        "example_id": _optional(pl.String, "unique; by default a digest of work, position and content"),
        "content_sha256": _optional(pl.String, "digest of the content; by default computed, else checked"),
        "position": _optional(pl.Int64, "where in its work the example stands, in bytes or in order"),
        "modality": _optional(pl.String, "text, code, image or music", "text"),
        "source_uri": _optional(pl.String, "where the work was collected"),
        "acquired_at": _optional(UTC_TIME, "when it was collected"),
        "licence_spdx": _optional(pl.String, "SPDX expression of the terms it came under"),
        "split": _optional(pl.String, "train (the model saw it) or held_out", "train"),
        "owner_id": _optional(pl.String, "the owner, where there is no claims file; with unmatched_reason a placeholder"),
        "unmatched_reason": _optional(pl.String, "why the owner is not known: the work's money goes to escrow"),
    },
    key=("example_id",),
)  # fmt: skip

CLAIMS = Contract(
    "claims", "data teams",
    {
        "work_id": _needed(pl.String, "the work claimed"),
        "owner_id": _needed(pl.String, "who claims it"),
        "stake_ppb": _needed(pl.Int64, "the owner's part of the work; a work's stakes sum to 1,000,000,000"),
        "valid_from": _optional(pl.Date, "first day of the claim; empty: always"),
        "valid_to": _optional(pl.Date, "last day of the claim; empty: open"),
        "evidence": _optional(pl.String, "what the claim rests on"),
    },
)  # fmt: skip

OWNERS = Contract(
    "owners", "data teams",
    {
        "owner_id": _needed(pl.String, "the owner"),
        "name": _needed(pl.String, "the name as the owner writes it"),
        "isni": _optional(pl.String, "International Standard Name Identifier"),
        "ipi": _optional(pl.String, "Interested Party Information name number"),
        "lei": _optional(pl.String, "Legal Entity Identifier"),
        "payee_reference": _optional(pl.String, "where the payee's details are kept; never the details"),
    },
    key=("owner_id",),
)  # fmt: skip

DECISIONS = Contract(
    "decisions", "data teams",
    {
        "example_id": _needed(pl.String, "an example that was taken for a copy, or was not"),
        "same_as": _optional(pl.String, "the example whose copy it is; empty: it stands alone"),
        "decided_by": _needed(pl.String, "who decided"),
        "reason": _needed(pl.String, "why"),
    },
    key=("example_id",),
)  # fmt: skip

DUPLICATES = Contract(
    "duplicates", "corpus",
    {
        "cluster_id": _needed(pl.String, "the cluster, named by one of its examples"),
        "example_id": _needed(pl.String, "an example that has a copy"),
        "similarity": _needed(pl.Float64, "part of shared runs of characters or events with the member most like it (Jaccard)"),
        "decision": _optional(pl.String, "who decided about the example and why; empty: nobody has", ""),
    },
    key=("example_id",),
)  # fmt: skip

SOURCES = Contract(
    "sources", "collectors",
    {
        "source_uri": _needed(pl.String, "where it was collected, as the collector wrote it"),
        "acquired_at": _needed(UTC_TIME, "when it was collected"),
        "collector": _needed(pl.String, "who collected it"),
        "evidence": _needed(pl.String, "what the collector kept of it, as it was: a line of a list, a header, metadata"),
        "identifiers": _optional(pl.List(pl.String), "other names of the same thing: doi:, isbn:, pkg:, URLs"),
        "content_sha256": _optional(pl.String, "digest of what was collected"),
        "title": _optional(pl.String, "its title"),
    },
)  # fmt: skip

REGISTRY = Contract(
    "registry", "corpus",
    {
        "source_id": _needed(pl.String, "the canonical identifier that comes first in the alphabet of all that name it"),
        "identifiers": _needed(pl.List(pl.String), "all canonical identifiers that name it, sorted"),
        "records": _needed(pl.Int64, "how many different records name it"),
        "collectors": _needed(pl.List(pl.String), "who collected it, sorted"),
        "first_acquired_at": _needed(UTC_TIME, "when it was first collected"),
        "last_acquired_at": _needed(UTC_TIME, "when it was last collected"),
        "contents": _needed(pl.List(pl.String), "digests of what was collected, sorted"),
        "same_content_as": _needed(pl.List(pl.String), "other sources that had the same content: copies, not the same source"),
        "title": _optional(pl.String, "its title: of the earliest record that has one"),
        "related": _needed(pl.List(pl.String), "names that its records list and that join nothing: channels, packages"),
        "conflicts": _needed(pl.List(pl.String), "names that its records list and that are none of its own, as they clash"),
    },
    key=("source_id",),
)  # fmt: skip

ASSERTIONS = Contract(
    "assertions", "data teams",
    {
        "work_id": _needed(pl.String, "the work that the terms are about"),
        "licence": _needed(pl.String, "the terms as they were asserted: an SPDX expression, or words"),
        "asserted_by": _needed(pl.String, "owner, source (its own files or page), or aggregator (who passed it on)"),
        "evidence": _needed(pl.String, "what says so, and where"),
        "asserter": _optional(pl.String, "their name"),
        "asserted_at": _optional(UTC_TIME, "when"),
        "evidence_sha256": _optional(pl.String, "digest of what says so"),
        "expires_at": _optional(UTC_TIME, "until when it is good; empty: open"),
    },
)  # fmt: skip

RIGHTS = Contract(
    "rights", "corpus",
    {
        "work_id": _needed(pl.String, "the work"),
        "source_id": _optional(pl.String, "its source in the registry"),
        "licence_spdx": _optional(pl.String, "the terms that count, as a canonical SPDX expression; empty: none can be read"),
        "licence_class": _needed(pl.String, "commercial, non_commercial, academic_only, forbidden or unspecified"),
        "asserted_by": _needed(pl.String, "whose word counts: owner, source, aggregator or nobody"),
        "asserted_at": _optional(UTC_TIME, "when they said so, the last time"),
        "evidence": _needed(pl.String, "what says so"),
        "conflict": _needed(pl.String, "whose words differ, in class or in text, and how; empty: they agree"),
        "expired": _needed(pl.String, "what was asserted and is good no more, and until when it was; empty: nothing"),
        "quarantine": _needed(pl.String, "why no model to come may be trained on it, by the policy; empty: one may"),
    },
    key=("work_id",),
)  # fmt: skip

DISPUTES = Contract(
    "disputes", "data teams",
    {
        "work_id": _needed(pl.String, "the work"),
        "owner_id": _needed(pl.String, "who says that it is theirs"),
        "opened_on": _needed(pl.Date, "first day of the dispute"),
        "closed_on": _optional(pl.Date, "last day of it; empty: open"),
        "evidence": _needed(pl.String, "what they say it rests on"),
        "outcome": _optional(pl.String, "how it ended"),
    },
)  # fmt: skip

SIGNALS = Contract(
    "signals", "corpus",
    {
        "scope": _needed(pl.String, "the URL that the signal speaks of, or a pattern of URLs (RFC 9309: * and $)"),
        "about": _needed(pl.String, "the origin, or the page, on whose behalf it was asked for"),
        "kind": _needed(pl.String, "robots, content-usage, content-signal, tdmrep, rsl or ai.txt"),
        "use": _needed(pl.String, "what it speaks of: train, tdm (training, too), crawl, or other uses by its own words"),
        "allowed": _optional(pl.Boolean, "whether it allows the use; empty: it says nothing"),
        "terms": _optional(pl.String, "where the conditions stand, or whom to ask"),
        "agents": _optional(pl.String, "the crawlers that it names, parted by commas; *: all"),
        "says": _needed(pl.String, "the line, header or element that says so"),
        "url": _needed(pl.String, "where the signal was found"),
        "fetched_at": _needed(UTC_TIME, "when the collection began that asked for it"),
        "status": _needed(pl.Int64, "of HTTP; 0: no answer"),
        "body_sha256": _optional(pl.String, "digest of the answer, kept below rights/raw/"),
        "problem": _optional(pl.String, "why it could not be read, or only in part"),
    },
)  # fmt: skip

OPTOUTS = Contract(
    "optouts", "owners",
    {
        "recorded_at": _needed(UTC_TIME, "when it was recorded"),
        "action": _needed(pl.String, "optout, or withdraw: the owner agrees again"),
        "work_id": _needed(pl.String, "the work"),
        "owner_id": _needed(pl.String, "who holds a stake in it"),
        "choice": _needed(pl.String, "in models that hold the work: paid, credited (without money) or held (in escrow)"),
        "effective_on": _needed(pl.Date, "first day (UTC) on which it counts"),
        "recorded_by": _needed(pl.String, "who recorded it"),
        "evidence": _needed(pl.String, "what says that it is the owner's will"),
        "file_sha256": _optional(pl.String, "the file that it was imported from; the same file is taken once"),
    },
)  # fmt: skip

CORPORA = Contract(
    "corpora", "ingest",
    {
        "corpus_sha256": _needed(pl.String, "digest of a frozen corpus"),
        "in_force_since": _needed(UTC_TIME, "when it was put in force"),
    },
)  # fmt: skip

CLEARANCE = Contract(
    "clearance", "corpus",
    {
        "work_id": _needed(pl.String, "the work"),
        "use": _needed(pl.String, "what for"),
        "cleared": _needed(pl.Boolean, "whether a model may be trained on it"),
        "because": _needed(pl.List(pl.String), "what speaks against it, or for it where something had to"),
        "examples": _needed(pl.Int64, "how many examples it has"),
        "content_sha256": _needed(pl.String, "digest of its examples' digests, in order"),
    },
    key=("work_id", "use"),
)  # fmt: skip

OUTPUTS = Contract(
    "outputs", "the service that runs the model",
    {
        "output_id": _needed(pl.String, "the output"),
        "content": _needed(pl.Binary, "what the model answered"),
        "model_id": _needed(pl.String, "the model that answered"),
        "prompt": _optional(pl.Binary, "what it was asked"),
        "revenue_minor": _needed(pl.Int64, "what the output earned, in minor units of the currency"),
        "currency": _needed(pl.String, "ISO 4217"),
        "served_at": _needed(UTC_TIME, "when it was served; on the day of its folder, UTC"),
        "modality": _optional(pl.String, "text, code, image or music; by default that of the corpus's first example"),
        "product": _optional(pl.String, "what was sold with it; royalty contracts may ask", ""),
        "notice": _optional(pl.String, "what whoever reads the amounts must know, such as that they are invented"),
    },
    key=("output_id",),
)  # fmt: skip

EVIDENCE = Contract(
    "evidence", "influence",
    {
        "output_id": _needed(pl.String, "the output"),
        **PARTY,
        "example_id": _needed(pl.String, "one of the party's most influential examples for the output"),
        "work_id": _needed(pl.String, "the work it is a piece of"),
        "source_uri": _optional(pl.String, "where the work was collected"),
        "influence": _needed(pl.Float64, "standard deviations of the influence over all examples"),
    },
    key=("output_id", "account", "party_id", "example_id"),
)  # fmt: skip

PARTY_INFLUENCE = Contract(
    "party_influence", "influence",
    {
        "output_id": _needed(pl.String, "the output"),
        **PARTY,
        "influence": _needed(pl.Float64, "sum over the party's examples, by stake; components as fitted or by default"),
    },
    key=("output_id", "account", "party_id"),
)  # fmt: skip

RULE_SHARES = Contract(
    "rule_shares", "royalty",
    {
        "rule": _needed(pl.String, "the royalty rule: faithful, srs, banzhaf, proportional or flat"),
        "output_id": _needed(pl.String, "the output"),
        **PARTY,
        "share": _needed(pl.Float64, "the party's part under the rule; they sum to one, or nobody has any"),
        "low": _needed(pl.Float64, "lower end of the share's interval"),
        "high": _needed(pl.Float64, "upper end of the share's interval"),
    },
    key=("rule", "output_id", "account", "party_id"),
)  # fmt: skip

SHARES = Contract(
    "shares", "royalty",
    {
        "output_id": _needed(pl.String, "the output"),
        **PARTY,
        "share_ppb": _needed(pl.Int64, "part of the output's pool; an output's shares sum to 1,000,000,000"),
        "low_ppb": _needed(pl.Int64, "lower end of the share's interval"),
        "high_ppb": _needed(pl.Int64, "upper end of the share's interval"),
    },
    key=("output_id", "account", "party_id"),
)  # fmt: skip

NIGHT_SHARES = Contract(
    "night_shares", "royalty",
    {
        "currency": _needed(pl.String, "ISO 4217"),
        **PARTY,
        "share_ppb": _needed(pl.Int64, "part of the day's pools in the currency"),
        "low_ppb": _needed(pl.Int64, "lower end of its interval, over outputs drawn again, too"),
        "high_ppb": _needed(pl.Int64, "upper end of its interval"),
    },
    key=("currency", "account", "party_id"),
)  # fmt: skip

WITHDRAWN = Contract(
    "withdrawn", "royalty",
    {
        "currency": _needed(pl.String, "ISO 4217"),
        "work_id": _needed(pl.String, "a work that an owner has opted out of, which the model holds"),
        "owner_id": _needed(pl.String, "the owner"),
        "choice": _needed(pl.String, "what the owner chose, or disputed"),
        **PARTY,
        "share_ppb": _needed(pl.Int64, "part of the day's pools that rests on the owner's part of the work"),
        "influence_ppb": _needed(pl.Int64, "part of the day's influence that it has, weighted as the pools are"),
    },
    key=("currency", "work_id", "owner_id"),
)  # fmt: skip

TOP_WORKS = pl.List(
    pl.Struct({"work_id": pl.String, "example_id": pl.String, "source_uri": pl.String, "influence": pl.Float64})
)

BY_RULE = pl.List(pl.Struct({"rule": pl.String, "share_ppb": pl.Int64}))

CREDITS = Contract(
    "credits", "settlement",
    {
        "day": _needed(pl.String, "the day paid for"),
        "output_id": _needed(pl.String, "the output"),
        "account": _needed(pl.String, "payable (an owner), escrow or unattributed (nobody, or an owner who wants no money)"),
        "owner_id": Column(pl.String, "the owner; empty in escrow, and where nobody is credited", required=True, nullable=True),
        "escrow_id": Column(pl.String, "whom it waits for; empty unless in escrow", required=True, nullable=True),
        "currency": _needed(pl.String, "ISO 4217"),
        "share_ppb": _needed(pl.Int64, "part of the output's pool"),
        "low_ppb": _needed(pl.Int64, "lower end of the share's interval"),
        "high_ppb": _needed(pl.Int64, "upper end of the share's interval"),
        "amount_nanominor": _needed(pl.Int64, "the amount before rounding to minor units per owner and day"),
        "top_works": _needed(TOP_WORKS, "the works behind it, most influential first"),
        "rules": _needed(BY_RULE, "what the share would be under each royalty rule that could be computed"),
    },
    key=("output_id", "account", "owner_id", "escrow_id"),
)  # fmt: skip

PAYOUTS = Contract(
    "payouts", "settlement",
    {
        "day": _needed(pl.String, "the day paid for"),
        "revision": _needed(pl.Int64, "1 for the first export of the day"),
        "owner_id": _needed(pl.String, "the owner"),
        "owner_name": _needed(pl.String, "the owner's name"),
        "currency": _needed(pl.String, "ISO 4217"),
        "outputs": _needed(pl.Int64, "outputs of the day that credit the owner"),
        "opening_balance_minor": _needed(pl.Int64, "balance before this booking"),
        "earned_minor": _needed(pl.Int64, "earned for the day"),
        "adjustment_minor": _needed(pl.Int64, "what earlier revisions of the day had booked, taken back"),
        "recouped_minor": _needed(pl.Int64, "set off against advances"),
        "withheld_minor": _needed(pl.Int64, "tax withheld"),
        "held_minor": _needed(pl.Int64, "part of the closing balance that may not be paid yet"),
        "paid_minor": _needed(pl.Int64, "paid out"),
        "closing_balance_minor": _needed(pl.Int64, "opening + earned + adjustment - recouped - withheld - paid"),
        "status": _needed(pl.String, "accrued: owed, to be paid with the period"),
        "hold_reason": _needed(pl.String, "why an amount is held; empty if none is"),
    },
    key=("owner_id", "currency"),
)  # fmt: skip

INTERVALS = Contract(
    "intervals", "settlement",
    {
        "day": _needed(pl.String, "the day paid for"),
        "revision": _needed(pl.Int64, "1 for the first export of the day"),
        "owner_id": _needed(pl.String, "the owner"),
        "currency": _needed(pl.String, "ISO 4217"),
        "earned_minor": _needed(pl.Int64, "earned for the day, as in payouts"),
        "low_minor": _needed(pl.Int64, "lower end of its interval (90 %)"),
        "high_minor": _needed(pl.Int64, "upper end of its interval"),
    },
    key=("owner_id", "currency"),
)  # fmt: skip

CLOSING = Contract(
    "closing", "settlement",
    {
        "period": _needed(pl.String, "the period closed, YYYY-MM"),
        "owner_id": _needed(pl.String, "the owner"),
        "currency": _needed(pl.String, "ISO 4217"),
        "outcome": _needed(pl.String, "pay, or why nothing is paid"),
        "owed_minor": _needed(pl.Int64, "payable or held when the period closed"),
        "carried_over_minor": _needed(pl.Int64, "what earlier periods left below zero"),
        "repaid_minor": _needed(pl.Int64, "of that, repaid now"),
        "recouped_minor": _needed(pl.Int64, "set off against advances"),
        "withheld_minor": _needed(pl.Int64, "tax to be withheld"),
        "net_minor": _needed(pl.Int64, "to be paid, in this currency"),
        "left_minor": _needed(pl.Int64, "what stays owed: owed - carried over - recouped - withheld - net"),
        "pay_currency": _needed(pl.String, "the payee's currency; empty if nothing is paid"),
        "paid_minor": _needed(pl.Int64, "to be paid, in the payee's currency"),
        "rate": _needed(pl.String, "at which it was converted; empty if it was not"),
    },
    key=("owner_id", "currency"),
)  # fmt: skip

ESCROW_AGES = Contract(
    "escrow_ages", "settlement",
    {
        "escrow_id": _needed(pl.String, "the name under which it lies"),
        "currency": _needed(pl.String, "ISO 4217"),
        "amount_minor": _needed(pl.Int64, "what lies there"),
        "up_to_90_days_minor": _needed(pl.Int64, "of that, for days of the last 90"),
        "up_to_one_year_minor": _needed(pl.Int64, "for older days of the last 365"),
        "up_to_three_years_minor": _needed(pl.Int64, "for older days of the last 1,095"),
        "older_minor": _needed(pl.Int64, "for days before"),
    },
    key=("escrow_id", "currency"),
)  # fmt: skip

PAYMENTS = Contract(
    "payments", "settlement",
    {
        "period": _needed(pl.String, "the period that is settled, YYYY-MM"),
        "payment_id": _needed(pl.String, "the end-to-end identifier that the bank got"),
        "owner_id": _needed(pl.String, "the owner"),
        "currency": _needed(pl.String, "ISO 4217: what was owed"),
        "net_minor": _needed(pl.Int64, "what was owed and is paid"),
        "withheld_minor": _needed(pl.Int64, "tax withheld from it"),
        "pay_currency": _needed(pl.String, "ISO 4217: what is paid in"),
        "paid_minor": _needed(pl.Int64, "what is paid"),
        "status": _needed(pl.String, "sent, or left out"),
        "reason": _needed(pl.String, "why it was left out; empty otherwise"),
        "message_id": _needed(pl.String, "the bank file that it is in; empty if it was left out"),
        "rate": _needed(pl.String, "at which it was converted; empty if it was not"),
    },
    key=("payment_id",),
)  # fmt: skip

ALL = tuple(found for found in list(globals().values()) if isinstance(found, Contract))


def conform(contract: Contract, frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """The frame with the contract's columns first, defaults filled in and types checked; extra columns follow.

    Narrower types of the same kind (`Int32` for `Int64`, a naive or nanosecond time for UTC microseconds) are widened.

    Args:
        file: what to name in an error.

    Raises:
        ContractError: a required column is missing, a type is wrong, or a value is empty where none may be.
    """
    columns = []
    for name, column in contract.columns.items():
        if name not in frame.columns:
            if column.required:
                raise ContractError(
                    f"{file}: column {name!r}",
                    expected=f"a required column of {contract.name}",
                    found=f"only {', '.join(frame.columns) or 'no columns'}",
                )
            columns.append(pl.lit(column.default, dtype=column.dtype).alias(name))
            continue
        found = frame.schema[name]
        if not _widens(found, column.dtype):
            hint = f"Text is bytes once it is cast: pl.col({name!r}).cast(pl.Binary)." if column.dtype == pl.Binary else ""
            raise ContractError(f"{file}: column {name!r}", expected=f"type {column.dtype}", found=f"type {found}", hint=hint)
        values = pl.col(name).cast(column.dtype) if found != column.dtype else pl.col(name)
        columns.append(values if column.default is None else values.fill_null(column.default))
    extra = [name for name in frame.columns if name not in contract.columns]
    result = frame.select(*columns, *extra)
    for name, column in contract.columns.items():
        if not column.nullable:
            reject(result, pl.col(name).is_null(), file, name, expected="a value", found="none")
        if name.endswith("_id"):
            _check_ids(result, file, name)
    return result


def _check_ids(frame: pl.DataFrame, file: str, name: str) -> None:
    """Ids name accounts, folders and lines: they have something to be seen, nothing that cannot be, and an end."""
    column = pl.col(name)
    reject(frame, column.str.strip_chars() == "", file, name, expected="a value", found="an empty one")
    expected = "an id without controls, line breaks and marks that turn the direction of writing"
    reject(frame, column.str.contains(NOT_IN_IDS), file, name, expected=expected)
    too_long = column.str.len_bytes() > LONGEST_ID
    reject(frame, too_long, file, name, expected=f"an id of at most {LONGEST_ID:,} bytes", found="a longer one")


def unique(contract: Contract, frame: pl.DataFrame, file: str) -> None:
    """Raise ContractError naming the first two rows that share the contract's key."""
    unique_across(contract, {file: frame})


def unique_across(contract: Contract, frames: Mapping[str, pl.DataFrame]) -> None:
    """`unique` for a table that lies in several files."""
    keys = pl.concat(
        frame.select(*contract.key).with_row_index("_row").with_columns(_file=pl.lit(file)) for file, frame in frames.items()
    )
    repeated = keys.filter(pl.struct(contract.key).is_duplicated())
    if repeated.is_empty():
        return
    first = repeated.row(0, named=True)
    same = repeated.filter(pl.all_horizontal([pl.col(k).eq_missing(pl.lit(first[k])) for k in contract.key]))
    second = same.row(1, named=True)
    other = "" if first["_file"] == second["_file"] else f" of {first['_file'].rsplit('/', 1)[-1]}"
    raise ContractError(
        f"{second['_file']}: row {second['_row']}: {', '.join(contract.key)}",
        expected="a key that no other row has",
        found=f"{', '.join(repr(first[k]) for k in contract.key)}, which row {first['_row']}{other} has too",
    )


def reject(frame: pl.DataFrame, bad: pl.Expr, file: str, column: str, *, expected: str, found: str | None = None) -> None:
    """Raise ContractError naming the first row where `bad` holds, if any; rows count from 0."""
    rows = frame.with_row_index("_row").filter(bad.fill_null(value=False))
    if rows.is_empty():
        return
    row = rows.row(0, named=True)
    key = next((f" ({k} {row[k]!r})" for k in ("output_id", "example_id", "work_id", "owner_id") if row.get(k)), "")
    more = f" (and {rows.height - 1} more rows)" if rows.height > 1 else ""
    raise ContractError(
        f"{file}: row {row['_row']}{key}: column {column!r}",
        expected=expected, found=(found if found is not None else _shown(row[column])) + more,
    )  # fmt: skip


def _shown(value: object) -> str:
    """A value as a person writes it; text between quotes, since it may be empty."""
    return value.isoformat() if isinstance(value, date) else repr(value)


def _widens(found: pl.DataType, expected: Any) -> bool:
    if found in (expected, pl.Null):
        return True
    if expected == pl.Int64:
        return found.is_integer() and found not in (pl.UInt64, pl.Int128)
    if isinstance(expected, pl.Datetime):
        return isinstance(found, pl.Datetime)
    if expected == pl.String:
        return found == pl.Categorical or isinstance(found, pl.Enum)
    return False


def markdown(contracts: Iterable[Contract] = ALL) -> str:
    """The contracts as the table that docs/tables.md shows (a test holds the two equal)."""
    lines = ["| table | written by | key | columns |", "|---|---|---|---|"]
    for contract in contracts:
        columns = ", ".join(f"`{name}`{'*' if column.required else ''}" for name, column in contract.columns.items())
        key = ", ".join(f"`{name}`" for name in contract.key) or "-"
        lines.append(f"| {contract.name} | {contract.written_by} | {key} | {columns} |")
    return "\n".join(lines)
