"""The schema of every table that stages or people exchange, in order of data flow.

A schema names columns, their types, and the required ones. Extra columns are kept. A column's name ends in its unit: `_minor`
(minor units of the row's currency), `_nanominor` (billionths of those), `_ppb` (parts per billion), `_sha256` (hex).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

UTC_TIME = pl.Datetime("us", "UTC")
# PostgreSQL cannot index longer ids.
LONGEST_ID = 1_000


@dataclass(frozen=True)
class Column:
    """One column: type, meaning, whether it is required, whether values may be empty, and its default."""

    dtype: Any
    meaning: str
    required: bool = False
    nullable: bool = False
    default: Any = None


@dataclass(frozen=True)
class TableSchema:
    """One table: its writer, its columns, and its key (columns whose values are unique together)."""

    name: str
    written_by: str
    columns: dict[str, Column] = field(repr=False)
    key: tuple[str, ...] = ()

    @property
    def schema(self) -> pl.Schema:
        """Column names and types, in order."""
        return pl.Schema({name: column.dtype for name, column in self.columns.items()})

    def frame(self, rows: Sequence[Any] = ()) -> pl.DataFrame:
        """A frame of rows, which are dicts by column or sequences in the order of columns."""
        return pl.DataFrame(rows, schema=self.schema, orient="row")


def _needed(dtype: Any, meaning: str) -> Column:
    return Column(dtype, meaning, required=True)


def _optional(dtype: Any, meaning: str, default: Any = None) -> Column:
    return Column(dtype, meaning, nullable=default is None, default=default)


# The accounts of parties. Names of accounts in the ledger have the same two parts.
PAYABLE, ESCROW, UNATTRIBUTED = "payable", "escrow", "unattributed"
# Prefixes of names in escrow that are not for an unknown owner: for an owner who chose `held`, and for a work in dispute.
HELD_FOR, DISPUTED = "held-", "dispute-"
PARTY = {
    "account": _needed(pl.String, "payable (an owner), escrow or unattributed (nobody, or an owner who wants no money)"),
    "party_id": _needed(
        pl.String, "the owner_id; in escrow the placeholder, work_id, held-OWNER or dispute-DAY-KEY-WORK; else nothing"
    ),
}


def is_unclaimed() -> pl.Expr:
    """Whether a party (`account`, `party_id`) stands for an unknown owner."""
    has_owner = pl.col("party_id").str.starts_with(HELD_FOR) | pl.col("party_id").str.starts_with(DISPUTED)
    return (pl.col("account") == ESCROW) & ~has_owner


EXAMPLES = TableSchema(
    "examples", "data teams",
    {
        "work_id": _needed(pl.String, "the work that the example is a piece of"),
        "content": _needed(pl.Binary, "the bytes that the model was trained on"),
        "prompt": _optional(pl.Binary, "what the content was an answer to; it conditions the model and is no part of the work"),
        "example_id": _optional(pl.String, "unique; by default a digest of work, position, content and prompt"),
        "content_sha256": _optional(pl.String, "digest of the content; by default computed, else checked"),
        "position": _optional(pl.Int64, "place of the example in its work, in bytes or in order"),
        "modality": _optional(pl.String, "text, code, image, music; by another word, only the adapter reads contents", "text"),
        "source_uri": _optional(pl.String, "where the work was collected"),
        "acquired_at": _optional(UTC_TIME, "when it was collected"),
        "licence_spdx": _optional(pl.String, "SPDX expression of the terms it came under"),
        "split": _optional(pl.String, "train (the model saw it) or held_out", "train"),
        "owner_id": _optional(pl.String, "the owner, where there is no claims file; with unmatched_reason a placeholder"),
        "unmatched_reason": _optional(pl.String, "why the owner is not known: the work's money goes to escrow"),
    },
    key=("example_id",),
)  # fmt: skip

CLAIMS = TableSchema(
    "claims", "data teams",
    {
        "work_id": _needed(pl.String, "the work claimed"),
        "owner_id": _needed(pl.String, "who claims it"),
        "stake_ppb": _needed(pl.Int64, "the owner's part of the work; a work's stakes sum to 1,000,000,000"),
        "valid_from": _optional(pl.Date, "first day of the claim; empty: always"),
        "valid_to": _optional(pl.Date, "last day of the claim; empty: open"),
        "evidence": _optional(pl.String, "the proof of the claim"),
    },
)  # fmt: skip

OWNERS = TableSchema(
    "owners", "data teams",
    {
        "owner_id": _needed(pl.String, "the owner"),
        "name": _needed(pl.String, "the name as the owner writes it"),
        "isni": _optional(pl.String, "International Standard Name Identifier"),
        "ipi": _optional(pl.String, "Interested Party Information name number"),
        "lei": _optional(pl.String, "Legal Entity Identifier"),
        "payee_reference": _optional(pl.String, "reference to the payee's details; never the details"),
    },
    key=("owner_id",),
)  # fmt: skip

DECISIONS = TableSchema(
    "decisions", "data teams",
    {
        "example_id": _needed(pl.String, "an example, whether or not it was taken for a copy"),
        "same_as": _optional(pl.String, "the example that it copies; empty: it copies none"),
        "decided_by": _needed(pl.String, "who decided"),
        "reason": _needed(pl.String, "why"),
    },
    key=("example_id",),
)  # fmt: skip

DUPLICATES = TableSchema(
    "duplicates", "corpus",
    {
        "cluster_id": _needed(pl.String, "the cluster, named by one of its examples"),
        "example_id": _needed(pl.String, "an example that has a copy"),
        "similarity": _needed(pl.Float64, "Jaccard similarity of runs of characters or events to the most similar member"),
        "decision": _optional(pl.String, "who decided about the example and why; empty: nobody", ""),
    },
    key=("example_id",),
)  # fmt: skip

SOURCES = TableSchema(
    "sources", "collectors",
    {
        "source_uri": _needed(pl.String, "where it was collected, as the collector wrote it"),
        "acquired_at": _needed(UTC_TIME, "when it was collected"),
        "collector": _needed(pl.String, "who collected it"),
        "evidence": _needed(pl.String, "the collector's proof, unchanged: a line of a list, a header, metadata"),
        "identifiers": _optional(pl.List(pl.String), "other names of the same thing: doi:, isbn:, pkg:, URLs"),
        "content_sha256": _optional(pl.String, "digest of the collected content"),
        "title": _optional(pl.String, "its title"),
    },
)  # fmt: skip

REGISTRY = TableSchema(
    "registry", "corpus",
    {
        "source_id": _needed(pl.String, "the first of its canonical identifiers in alphabetical order"),
        "identifiers": _needed(pl.List(pl.String), "all canonical identifiers that name it, sorted"),
        "records": _needed(pl.Int64, "how many different records name it"),
        "collectors": _needed(pl.List(pl.String), "who collected it, sorted"),
        "first_acquired_at": _needed(UTC_TIME, "when it was first collected"),
        "last_acquired_at": _needed(UTC_TIME, "when it was last collected"),
        "contents": _needed(pl.List(pl.String), "digests of its collected contents, sorted"),
        "same_content_as": _needed(pl.List(pl.String), "other sources with the same content: copies, not the same source"),
        "title": _optional(pl.String, "the title in the earliest record that has one"),
        "related": _needed(pl.List(pl.String), "listed names that join no records: channels, packages"),
        "conflicts": _needed(pl.List(pl.String), "listed names that contradict its own and are not taken for its names"),
    },
    key=("source_id",),
)  # fmt: skip

ASSERTIONS = TableSchema(
    "assertions", "data teams",
    {
        "work_id": _needed(pl.String, "the work under these terms"),
        "licence": _needed(pl.String, "the terms as they were asserted: an SPDX expression, or words"),
        "asserted_by": _needed(pl.String, "owner, source (its own files or page), or aggregator (who passed it on)"),
        "evidence": _needed(pl.String, "the source of the assertion, and its place"),
        "asserter": _optional(pl.String, "their name"),
        "asserted_at": _optional(UTC_TIME, "when"),
        "evidence_sha256": _optional(pl.String, "digest of the evidence"),
        "expires_at": _optional(UTC_TIME, "end of validity; empty: open"),
    },
)  # fmt: skip

RIGHTS = TableSchema(
    "rights", "corpus",
    {
        "work_id": _needed(pl.String, "the work"),
        "source_id": _optional(pl.String, "its source in the registry"),
        "licence_spdx": _optional(pl.String, "the terms in force, as a canonical SPDX expression; empty: none can be read"),
        "licence_class": _needed(pl.String, "commercial, non_commercial, academic_only, forbidden or unspecified"),
        "asserted_by": _needed(pl.String, "the decisive asserter: owner, source, aggregator or nobody"),
        "asserted_at": _optional(UTC_TIME, "time of the asserter's latest assertion"),
        "evidence": _needed(pl.String, "the evidence of that assertion"),
        "conflict": _needed(pl.String, "assertions that differ in class or text; empty: all agree"),
        "expired": _needed(pl.String, "expired assertions, with their end; empty: none"),
        "quarantine": _needed(pl.String, "why the policy forbids training future models on it; empty: it does not"),
    },
    key=("work_id",),
)  # fmt: skip

DISPUTES = TableSchema(
    "disputes", "data teams",
    {
        "work_id": _needed(pl.String, "the work"),
        "owner_id": _needed(pl.String, "the owner who claims it in dispute"),
        "opened_on": _needed(pl.Date, "first day of the dispute"),
        "closed_on": _optional(pl.Date, "last day of it; empty: open"),
        "evidence": _needed(pl.String, "the evidence that the owner gives"),
        "outcome": _optional(pl.String, "how it ended"),
    },
)  # fmt: skip

SIGNALS = TableSchema(
    "signals", "corpus",
    {
        "scope": _needed(pl.String, "the URL, pattern of URLs (RFC 9309: * and $) or content (sha256:) that the signal covers"),
        "about": _needed(pl.String, "the origin or page for which it was fetched, or the content"),
        "kind": _needed(pl.String, "robots, content-usage, content-signal, tdmrep, rsl, ai.txt, noai, c2pa or iptc"),
        "use": _needed(pl.String, "the use: train, tdm (includes training), crawl, or another use in the signal's own words"),
        "allowed": _optional(pl.Boolean, "whether it allows the use; empty: it says nothing"),
        "terms": _optional(pl.String, "address of the conditions, or a contact"),
        "agents": _optional(pl.String, "the crawlers that it names, separated by commas; *: all"),
        "says": _needed(pl.String, "the line, header or element"),
        "url": _needed(pl.String, "where the signal was found"),
        "fetched_at": _needed(UTC_TIME, "start of the collection that fetched it"),
        "status": _needed(pl.Int64, "of HTTP; 0: no answer"),
        "body_sha256": _optional(pl.String, "digest of the answer, kept below rights/raw/"),
        "problem": _optional(pl.String, "why it could not be read, or only in part"),
    },
)  # fmt: skip

OPTOUTS = TableSchema(
    "optouts", "owners",
    {
        "recorded_at": _needed(UTC_TIME, "when it was recorded"),
        "action": _needed(pl.String, "optout, or withdraw: the owner agrees again"),
        "work_id": _needed(pl.String, "the work"),
        "owner_id": _needed(pl.String, "who holds a stake in it"),
        "choice": _needed(pl.String, "for models trained on the work: paid, credited (without money) or held (in escrow)"),
        "effective_on": _needed(pl.Date, "first day (UTC) of its effect"),
        "recorded_by": _needed(pl.String, "who recorded it"),
        "evidence": _needed(pl.String, "proof of the owner's will"),
        "file_sha256": _optional(pl.String, "digest of the imported file; the same file is imported once"),
    },
)  # fmt: skip

CORPORA = TableSchema(
    "corpora", "ingest",
    {
        "corpus_sha256": _needed(pl.String, "digest of a frozen corpus"),
        "in_force_since": _needed(UTC_TIME, "when it was put in force"),
    },
)  # fmt: skip

CLEARANCE = TableSchema(
    "clearance", "corpus",
    {
        "work_id": _needed(pl.String, "the work"),
        "use": _needed(pl.String, "the use, such as train"),
        "cleared": _needed(pl.Boolean, "whether a model may be trained on it"),
        "because": _needed(pl.List(pl.String), "reasons against it; if cleared, the terms that permit it"),
        "examples": _needed(pl.Int64, "how many examples it has"),
        "content_sha256": _needed(pl.String, "digest of its examples' digests, in order"),
    },
    key=("work_id", "use"),
)  # fmt: skip

OUTPUTS = TableSchema(
    "outputs", "the service that runs the model",
    {
        "output_id": _needed(pl.String, "the output"),
        "content": _needed(pl.Binary, "what the model answered"),
        "model_id": _needed(pl.String, "the model that answered"),
        "prompt": _optional(pl.Binary, "what it was asked"),
        "revenue_minor": _needed(pl.Int64, "what the output earned, in minor units of the currency"),
        "currency": _needed(pl.String, "ISO 4217"),
        "served_at": _needed(UTC_TIME, "when it was served; on the day of its folder, UTC"),
        "modality": _optional(pl.String, "as in the corpus; by default that of the corpus's first example"),
        "product": _optional(pl.String, "the product that it was sold with; royalty contracts may depend on it", ""),
        "notice": _optional(pl.String, "a notice for readers of the amounts, such as that they are invented"),
    },
    key=("output_id",),
)  # fmt: skip

EVIDENCE = TableSchema(
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

PARTY_INFLUENCE = TableSchema(
    "party_influence", "influence",
    {
        "output_id": _needed(pl.String, "the output"),
        **PARTY,
        "influence": _needed(pl.Float64, "sum over the party's examples by stake; components as fitted or by default"),
    },
    key=("output_id", "account", "party_id"),
)  # fmt: skip

RULE_SHARES = TableSchema(
    "rule_shares", "royalty",
    {
        "rule": _needed(pl.String, "the royalty rule: faithful, srs, banzhaf, proportional or flat"),
        "output_id": _needed(pl.String, "the output"),
        **PARTY,
        "share": _needed(pl.Float64, "the party's part under the rule; an output's shares sum to 1, or all are 0"),
        "low": _needed(pl.Float64, "lower end of the share's interval"),
        "high": _needed(pl.Float64, "upper end of the share's interval"),
    },
    key=("rule", "output_id", "account", "party_id"),
)  # fmt: skip

SHARES = TableSchema(
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

NIGHT_SHARES = TableSchema(
    "night_shares", "royalty",
    {
        "currency": _needed(pl.String, "ISO 4217"),
        **PARTY,
        "share_ppb": _needed(pl.Int64, "part of the day's pools in the currency"),
        "low_ppb": _needed(pl.Int64, "lower end of its interval, which includes resampling of outputs"),
        "high_ppb": _needed(pl.Int64, "upper end of its interval"),
    },
    key=("currency", "account", "party_id"),
)  # fmt: skip

WITHDRAWN = TableSchema(
    "withdrawn", "royalty",
    {
        "currency": _needed(pl.String, "ISO 4217"),
        "work_id": _needed(pl.String, "a work that an owner has opted out of, which the model holds"),
        "owner_id": _needed(pl.String, "the owner"),
        "choice": _needed(pl.String, "the owner's choice, or disputed"),
        **PARTY,
        "share_ppb": _needed(pl.Int64, "part of the day's pools due to the owner's part of the work"),
        "influence_ppb": _needed(pl.Int64, "part of the day's influence, weighted by pools"),
    },
    key=("currency", "work_id", "owner_id"),
)  # fmt: skip

SPANS = TableSchema(
    "spans", "royalty",
    {
        "output_id": _needed(pl.String, "the output"),
        "start": _needed(pl.Int64, "the span's first byte in the output's content"),
        "end": _needed(pl.Int64, "the byte after its last"),
        **PARTY,
        "part": _needed(pl.Float64, "the party's part of the positive influence on the span; leading parties have a row each"),
        "influence": _needed(pl.Float64, "sum over the party's examples by stake; components as fitted or by default"),
        "example_id": _optional(pl.String, "the party's most influential example for the span"),
        "work_id": _optional(pl.String, "the work it is a piece of"),
    },
    key=("output_id", "start", "account", "party_id"),
)  # fmt: skip

MATCHES = TableSchema(
    "matches", "royalty",
    {
        "output_id": _needed(pl.String, "the output"),
        "start": _needed(pl.Int64, "first byte of a passage of the output's content that stands word for word in a work"),
        "end": _needed(pl.Int64, "the byte after its last"),
        "work_id": _needed(pl.String, "a work that has the passage"),
        "example_id": _needed(pl.String, "the example of it that has the passage"),
        "at": _needed(pl.Int64, "first byte of the passage in the example's content"),
        "works": _needed(pl.Int64, "the number of works found that have the passage; a few of them have a row"),
    },
    key=("output_id", "start", "end", "work_id"),
)  # fmt: skip

TOP_WORKS = pl.List(
    pl.Struct({"work_id": pl.String, "example_id": pl.String, "source_uri": pl.String, "influence": pl.Float64})
)

BY_RULE = pl.List(pl.Struct({"rule": pl.String, "share_ppb": pl.Int64}))

CREDITS = TableSchema(
    "credits", "settlement",
    {
        "day": _needed(pl.String, "the day paid for"),
        "output_id": _needed(pl.String, "the output"),
        "account": _needed(pl.String, "payable (an owner), escrow or unattributed (nobody, or an owner who wants no money)"),
        "owner_id": Column(pl.String, "the owner; empty in escrow, and where nobody is credited", required=True, nullable=True),
        "escrow_id": Column(pl.String, "the name in escrow; empty unless in escrow", required=True, nullable=True),
        "currency": _needed(pl.String, "ISO 4217"),
        "share_ppb": _needed(pl.Int64, "part of the output's pool"),
        "low_ppb": _needed(pl.Int64, "lower end of the share's interval"),
        "high_ppb": _needed(pl.Int64, "upper end of the share's interval"),
        "amount_nanominor": _needed(pl.Int64, "the amount before rounding to minor units per owner and day"),
        "top_works": _needed(TOP_WORKS, "the works behind the share, most influential first"),
        "rules": _needed(BY_RULE, "the share under each royalty rule that could be computed"),
    },
    key=("output_id", "account", "owner_id", "escrow_id"),
)  # fmt: skip

PAYOUTS = TableSchema(
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
        "adjustment_minor": _needed(pl.Int64, "reversal of the bookings of earlier revisions of the day"),
        "recouped_minor": _needed(pl.Int64, "set off against advances"),
        "withheld_minor": _needed(pl.Int64, "tax withheld"),
        "held_minor": _needed(pl.Int64, "part of the closing balance that may not be paid yet"),
        "paid_minor": _needed(pl.Int64, "paid out"),
        "closing_balance_minor": _needed(pl.Int64, "opening + earned + adjustment - recouped - withheld - paid"),
        "status": _needed(pl.String, "accrued: owed, to be paid with the period"),
        "hold_reason": _needed(pl.String, "why an amount is held; empty if no amount is held"),
    },
    key=("owner_id", "currency"),
)  # fmt: skip

INTERVALS = TableSchema(
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

CLOSING = TableSchema(
    "closing", "settlement",
    {
        "period": _needed(pl.String, "the period closed, YYYY-MM"),
        "owner_id": _needed(pl.String, "the owner"),
        "currency": _needed(pl.String, "ISO 4217"),
        "outcome": _needed(pl.String, "pay, or why nothing is paid"),
        "owed_minor": _needed(pl.Int64, "payable or held when the period closed"),
        "carried_over_minor": _needed(pl.Int64, "negative balance from earlier periods"),
        "repaid_minor": _needed(pl.Int64, "part of that repaid now"),
        "recouped_minor": _needed(pl.Int64, "set off against advances"),
        "withheld_minor": _needed(pl.Int64, "tax to be withheld"),
        "net_minor": _needed(pl.Int64, "to be paid, in this currency"),
        "left_minor": _needed(pl.Int64, "still owed: owed - carried over - recouped - withheld - net"),
        "pay_currency": _needed(pl.String, "the payee's currency; empty if nothing is paid"),
        "paid_minor": _needed(pl.Int64, "to be paid, in the payee's currency"),
        "rate": _needed(pl.String, "the exchange rate; empty without conversion"),
    },
    key=("owner_id", "currency"),
)  # fmt: skip

ESCROW_AGES = TableSchema(
    "escrow_ages", "settlement",
    {
        "escrow_id": _needed(pl.String, "the name in escrow"),
        "currency": _needed(pl.String, "ISO 4217"),
        "amount_minor": _needed(pl.Int64, "the amount in escrow"),
        "up_to_90_days_minor": _needed(pl.Int64, "part of it for the last 90 days"),
        "up_to_one_year_minor": _needed(pl.Int64, "part for days 91 to 365 ago"),
        "up_to_three_years_minor": _needed(pl.Int64, "part for days 366 to 1,095 ago"),
        "older_minor": _needed(pl.Int64, "part for earlier days"),
    },
    key=("escrow_id", "currency"),
)  # fmt: skip

PAYMENTS = TableSchema(
    "payments", "settlement",
    {
        "period": _needed(pl.String, "the period settled, YYYY-MM"),
        "payment_id": _needed(pl.String, "the end-to-end identifier sent to the bank"),
        "owner_id": _needed(pl.String, "the owner"),
        "currency": _needed(pl.String, "ISO 4217: the currency owed"),
        "net_minor": _needed(pl.Int64, "the amount owed that is paid"),
        "withheld_minor": _needed(pl.Int64, "tax withheld from it"),
        "pay_currency": _needed(pl.String, "ISO 4217: the currency paid"),
        "paid_minor": _needed(pl.Int64, "the amount paid"),
        "status": _needed(pl.String, "sent, or left out"),
        "reason": _needed(pl.String, "why it was left out; empty otherwise"),
        "message_id": _needed(pl.String, "the bank file with the payment; empty if it was left out"),
        "rate": _needed(pl.String, "the exchange rate; empty without conversion"),
    },
    key=("payment_id",),
)  # fmt: skip

INVOICES = TableSchema(
    "invoices", "settlement",
    {
        "invoice_id": _needed(pl.String, "its number, after the prefix of the settings; numbers have no gap"),
        "kind": _needed(pl.String, "invoice, or credit note: the payment was rejected or returned"),
        "corrects": _needed(pl.String, "of a credit note, the invoice that it cancels; else empty"),
        "issued_on": _needed(pl.Date, "the day on which it was written"),
        "period": _needed(pl.String, "the period settled, YYYY-MM"),
        "payment_id": _needed(pl.String, "the payment that it is for"),
        "owner_id": _needed(pl.String, "the owner, who supplies"),
        "payee_version": _needed(pl.Int64, "version of the owner's details that it shows"),
        "currency": _needed(pl.String, "ISO 4217: the currency owed"),
        "vat_category": _needed(pl.String, "as EN 16931 codes it: S standard, AE reverse charge, E exempt, O outside VAT"),
        "vat_rate": _needed(pl.String, "percent of VAT"),
        "taxable_minor": _needed(pl.Int64, "the amount without VAT"),
        "vat_minor": _needed(pl.Int64, "VAT on it"),
        "rounding_minor": _needed(pl.Int64, "what rounding leaves"),
        "total_minor": _needed(pl.Int64, "taxable + vat + rounding: the amount owed before withholding"),
        "withheld_minor": _needed(pl.Int64, "tax withheld from it"),
        "due_minor": _needed(pl.Int64, "the rest, which the payment pays"),
        "document_sha256": _needed(pl.String, "digest of the document"),
    },
    key=("invoice_id",),
)  # fmt: skip

_OF_A_PAYEE = {
    "year": _needed(pl.Int64, "the calendar year in which it was paid"),
    "owner_id": _needed(pl.String, "the owner"),
    "name": _needed(pl.String, "as the account's holder"),
    "street": _needed(pl.String, "with the house number"),
    "post_code": _needed(pl.String, "ZIP"),
    "town": _needed(pl.String, "of the address"),
    "country": _needed(pl.String, "of the address, ISO 3166-1"),
    "tax_residence": _needed(pl.String, "ISO 3166-1; empty if unknown"),
    "tax_id": _needed(pl.String, "its number there; empty if unknown"),
    "currency": _needed(pl.String, "ISO 4217: the currency owed, of all amounts in the row"),
}
_QUARTERS = range(1, 5)

PAID_IN_A_YEAR = TableSchema(
    "paid_in_a_year", "settlement",
    {
        **_OF_A_PAYEE,
        "payments": _needed(pl.Int64, "payments that left in the year and did not come back"),
        "gross_minor": _needed(pl.Int64, "what they paid, before tax"),
        "withheld_minor": _needed(pl.Int64, "tax withheld from it"),
        "net_minor": _needed(pl.Int64, "the rest"),
        "advances_minor": _needed(pl.Int64, "advances of the year; what is set off against them later is not paid again"),
        "problem": _needed(pl.String, "what is missing; empty if nothing is"),
    },
    key=("owner_id", "currency"),
)  # fmt: skip

FORM_1099_MISC = TableSchema(
    "form_1099_misc", "settlement",
    {
        **_OF_A_PAYEE,
        "payer_name": _needed(pl.String, "the payer"),
        "payer_tin": _needed(pl.String, "the payer's tax number, from the settings"),
        "box_2_royalties_minor": _needed(pl.Int64, "gross royalties, with advances"),
        "box_4_tax_withheld_minor": _needed(pl.Int64, "tax withheld"),
    },
    key=("owner_id", "currency"),
)  # fmt: skip

FORM_1042_S = TableSchema(
    "form_1042_s", "settlement",
    {
        **_OF_A_PAYEE,
        "agent_name": _needed(pl.String, "the payer, who is the withholding agent"),
        "agent_ein": _needed(pl.String, "the payer's tax number, from the settings"),
        "box_1_income_code": _needed(pl.String, "12: other royalties, such as copyright"),
        "box_2_gross_income_minor": _needed(pl.Int64, "gross royalties, with advances"),
        "box_3b_tax_rate": _needed(pl.String, "percent withheld"),
        "box_7a_tax_withheld_minor": _needed(pl.Int64, "tax withheld"),
    },
    key=("owner_id", "currency", "box_3b_tax_rate"),
)  # fmt: skip

DAC7 = TableSchema(
    "dac7", "settlement",
    {
        **_OF_A_PAYEE,
        "vat_id": _needed(pl.String, "VAT number; empty if unknown"),
        "account": _needed(pl.String, "the account that is paid"),
        **{f"consideration_q{q}_minor": _needed(pl.Int64, f"paid in quarter {q}, without tax withheld") for q in _QUARTERS},
        **{f"taxes_q{q}_minor": _needed(pl.Int64, f"tax withheld in quarter {q}") for q in _QUARTERS},
        **{f"activities_q{q}": _needed(pl.Int64, f"payments and advances in quarter {q}") for q in _QUARTERS},
    },
    key=("owner_id", "currency"),
)  # fmt: skip

ALL = tuple(table for table in list(globals().values()) if isinstance(table, TableSchema))


def markdown(tables: Iterable[TableSchema] = ALL) -> str:
    """The table of docs/tables.md; a test keeps the two equal."""
    lines = ["| table | written by | key | columns |", "|---|---|---|---|"]
    for table in tables:
        columns = ", ".join(f"`{name}`{'*' if column.required else ''}" for name, column in table.columns.items())
        key = ", ".join(f"`{name}`" for name in table.key) or "-"
        lines.append(f"| {table.name} | {table.written_by} | {key} | {columns} |")
    return "\n".join(lines)
