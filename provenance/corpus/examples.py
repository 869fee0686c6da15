"""A corpus folder, checked: examples, who claims the works they are pieces of, and who the claimants are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl

from provenance.core.contracts import (
    ASSERTIONS,
    CLAIMS,
    DISPUTED,
    DISPUTES,
    ESCROW,
    EXAMPLES,
    HELD_FOR,
    OWNERS,
    PAYABLE,
    UNATTRIBUTED,
    conform,
    reject,
    unique,
)
from provenance.core.errors import ContractError
from provenance.core.money import PPB, allocate
from provenance.core.store import Store, digest
from provenance.corpus.identifiers import OF_OWNERS, OF_WORKS, check_identifiers
from provenance.corpus.rights.licences import check_assertions

# Of a delivery, each a Parquet file of that name; all but the first may be left out.
TABLES = ("examples", "claims", "owners", "assertions", "disputes", "sources")
MODALITIES = ("text", "code", "image", "music")
SPLITS = ("train", "held_out")
# What becomes of an owner's part of a work: what the owner has chosen, or a dispute about whose it is.
PAID, CREDITED, HELD, IN_DISPUTE = "paid", "credited", "held", "disputed"


@dataclass(frozen=True)
class Corpus:
    """A checked corpus: every train example's work has claims that sum to one, or a reason why it is unmatched."""

    examples: pl.DataFrame
    claims: pl.DataFrame
    owners: pl.DataFrame
    disputes: pl.DataFrame | None = None  # nobody has said anything
    assertions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ASSERTIONS.schema))


def _only_parquet(store: Store, folder: str) -> None:
    """A table in another format would be as good as not delivered, and nobody would hear of it."""
    found = {key.removeprefix(f"{folder}/") for key in store.list(folder)}
    for name in sorted(found):
        table, _, ending = name.partition(".")
        if table in TABLES and ending != "parquet" and f"{table}.parquet" not in found:
            raise ContractError(store.locate(f"{folder}/{name}"), expected=f"the table as {table}.parquet", found=f".{ending}")


def read_corpus(store: Store, folder: str) -> Corpus:
    """Read and check `examples.parquet`, `claims.parquet`, `owners.parquet` and `disputes.parquet` below a key of the store.

    Without a claims file, an example's `owner_id` claims the whole of its work. Without an owners file, owners are named
    by their ids. What is asserted of works' terms stands in `assertions.parquet`, if there is one.
    """
    _only_parquet(store, folder)
    found, file = delivered(store, folder, "examples")
    if found is None:
        hint = "A corpus is a folder with examples.parquet and, optionally, claims.parquet and owners.parquet."
        raise ContractError(file, expected="the examples of a corpus", found="no such file", hint=hint)
    examples = check_examples(found, file)

    claims, claims_file = delivered(store, folder, "claims")
    if claims is None:
        claims, claims_file = _claims_of_examples(examples, file), file
    else:
        claims = check_claims(claims, claims_file)

    owners, owners_file = delivered(store, folder, "owners")
    if owners is None:
        ids = claims["owner_id"].unique().sort()
        owners = conform(OWNERS, pl.DataFrame({"owner_id": ids, "name": ids}), claims_file)
    else:
        owners = conform(OWNERS, owners, owners_file)
        check_identifiers(owners, owners_file, OF_OWNERS)
        unique(OWNERS, owners, owners_file)
        unknown = ~pl.col("owner_id").is_in(owners["owner_id"].implode())
        reject(claims, unknown, claims_file, "owner_id", expected=f"an owner of {owners_file}")

    claimed = claims["work_id"].unique().implode()
    matched, marked = pl.col("work_id").is_in(claimed), pl.col("unmatched_reason").is_not_null()
    owned = "an owner (owner_id, or claims on the work) or an unmatched_reason"
    reject(examples, ~matched & ~marked, file, "owner_id", expected=owned, found="neither")
    reject(examples, matched & marked, file, "unmatched_reason", expected="nothing, since the work has an owner")
    # A work that nobody claims, now or later, goes by its name in escrow: no name may be taken for another kind of escrow.
    dated = pl.any_horizontal(pl.col("valid_from", "valid_to").is_not_null())
    ends = pl.col("work_id").is_in(claims.filter(dated)["work_id"].unique().implode())
    for column in ("work_id", "owner_id"):
        named = pl.col(column).str.starts_with(HELD_FOR) | pl.col(column).str.starts_with(DISPUTED)
        expected = f"a name that does not begin with {HELD_FOR} or {DISPUTED}, as names in escrow do"
        reject(examples, (marked | ends) & named, file, column, expected=expected)
    asserted, assertions_file = delivered(store, folder, "assertions")
    return Corpus(
        examples,
        claims,
        owners.sort("owner_id"),
        disputes=read_disputes(store, folder, examples),
        assertions=check_assertions(pl.DataFrame(schema=ASSERTIONS.schema) if asserted is None else asserted, assertions_file),
    )


def delivered(store: Store, folder: str, table: str) -> tuple[pl.DataFrame | None, str]:
    """A table of a delivery, if it has that, and where it lies or would."""
    key = f"{folder}/{table}.parquet"
    return store.read_table(key) if store.exists(key) else None, store.locate(key)


def read_disputes(store: Store, folder: str, examples: pl.DataFrame) -> pl.DataFrame | None:
    """The delivered disputes, checked; None where there are none. Whoever disputes need not be an owner yet."""
    found, file = delivered(store, folder, "disputes")
    if found is None:
        return None
    disputes = conform(DISPUTES, found, file)
    unknown = ~pl.col("work_id").is_in(examples["work_id"].unique().implode())
    reject(disputes, unknown, file, "work_id", expected="a work of the examples")
    reject(disputes, pl.col("closed_on") < pl.col("opened_on"), file, "closed_on", expected="a day on or after opened_on")
    return disputes.sort("work_id", "opened_on", "owner_id") if disputes.height else None


def claimed(pieces: Iterable[Mapping[str, Any]], owners: Sequence[str], evidence: str) -> list[dict[str, Any]]:
    """Claims of owners, in equal parts, on the works of some pieces."""
    stakes = dict(zip(owners, allocate(PPB, [1] * len(owners)), strict=True))
    works = sorted({str(piece["work_id"]) for piece in pieces})
    return [
        {"work_id": work, "owner_id": owner, "stake_ppb": stake, "evidence": evidence}
        for work in works
        for owner, stake in stakes.items()
    ]


def collected(
    rows: Sequence[dict[str, Any]],
    claims: Sequence[dict[str, Any]],
    owners: Mapping[str, str],
    assertions: Sequence[dict[str, Any]] = (),
) -> Corpus:
    """A corpus from rows that a collector made, and owners' names by id."""
    named = [{"owner_id": owner, "name": name} for owner, name in sorted(owners.items())]
    return Corpus(
        conform(EXAMPLES, pl.DataFrame(rows, infer_schema_length=None), "examples"),
        conform(CLAIMS, pl.DataFrame(claims), "claims"),
        conform(OWNERS, pl.DataFrame(named), "owners"),
        assertions=check_assertions(pl.DataFrame(assertions, schema=ASSERTIONS.schema), "assertions"),
    )


def check_examples(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """Check the examples of a corpus and fill in what may be left out."""
    frame = conform(EXAMPLES, frame, file)
    check_contents(frame, file)
    check_identifiers(frame, file, OF_WORKS)
    reject(frame, ~pl.col("split").is_in(SPLITS), file, "split", expected=f"one of {', '.join(SPLITS)}")
    computed = pl.Series("content_sha256", [hashlib.sha256(content).hexdigest() for content in frame["content"]])
    stated = pl.col("content_sha256")
    reject(frame, stated.is_not_null() & (stated != computed), file, "content_sha256", expected="the content's SHA-256")
    ids = [
        stated or hashlib.sha256(f"{work}\n{position}\n{content}".encode()).hexdigest()[:32]
        for stated, work, position, content in zip(
            frame["example_id"], frame["work_id"], frame["position"], computed, strict=True
        )
    ]
    frame = frame.with_columns(computed, pl.Series("example_id", ids, dtype=pl.String))
    unique(EXAMPLES, frame, file)
    if "train" not in frame["split"]:
        found = f"none among {frame.height} rows"
        raise ContractError(file, expected="at least one example that the model was trained on (split = train)", found=found)
    several = pl.col("owner_id").drop_nulls().n_unique().over("work_id") > 1
    reject(frame, several, file, "owner_id", expected="one owner per work (more take a claims file)")
    return frame


def check_contents(frame: pl.DataFrame, file: str) -> None:
    """Check contents and, where it is said, their modality, of examples as of outputs."""
    reject(frame, pl.col("content").bin.size() == 0, file, "content", expected="at least one byte", found="none")
    unknown = ~pl.col("modality").is_in(MODALITIES)
    reject(frame, unknown, file, "modality", expected=f"one of {', '.join(MODALITIES)}")


def check_claims(frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """Check claims: positive stakes, intervals that end after they start, stakes that sum to one on every day."""
    frame = conform(CLAIMS, frame, file)
    stake = pl.col("stake_ppb")
    reject(frame, (stake <= 0) | (stake > PPB), file, "stake_ppb", expected=f"1 to {PPB:,}")
    reject(frame, pl.col("valid_to") < pl.col("valid_from"), file, "valid_to", expected="a day on or after valid_from")
    for work, day, total in _totals(frame).iter_rows():
        if total not in (0, PPB):  # nobody, once all claims have ended, is a work in escrow
            when = f" on {day}" if day else ""
            theirs = frame.filter(pl.col("work_id") == work)
            theirs = valid_on(theirs, day) if day else theirs.filter(pl.col("valid_from").is_null())
            owners = ", ".join(theirs["owner_id"].unique().sort())
            raise ContractError(
                f"{file}: work_id {work!r}: column 'stake_ppb'",
                expected=f"stakes that sum to {PPB:,}{when}",
                found=f"{total:,} ({total / PPB:.2%}), of {owners}",
            )
    return frame.sort("work_id", "owner_id", "valid_from")


def valid_on(claims: pl.DataFrame, day: date) -> pl.DataFrame:
    """The claims in force on a day."""
    return claims.filter(_is_within(pl.lit(day), "valid_from", "valid_to"))


def _is_within(day: pl.Expr, first: str, last: str) -> pl.Expr:
    """Whether a day is one of an interval, which has no beginning or no end where that is null."""
    return (pl.col(first).fill_null(day) <= day) & (pl.col(last).fill_null(day) >= day)


def with_choices(
    claims: pl.DataFrame, day: date, choices: pl.DataFrame | None = None, disputes: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The claims in force on a day with `choice`: what becomes of each owner's part, empty where it is paid as ever.

    Of a work in dispute, `dispute` is the name that its money waits under (`dispute_names`).

    Args:
        choices: `work_id, owner_id, choice` in force on the day.
        disputes: the disputes table; a work in dispute is wholly so, and has a row also if nobody claims it.
    """
    found = valid_on(claims, day)
    chosen = pl.DataFrame(schema={"work_id": pl.String, "owner_id": pl.String, "choice": pl.String})
    if choices is not None:
        chosen = choices.select("work_id", "owner_id", "choice")
    found = found.join(chosen, on=["work_id", "owner_id"], how="left", maintain_order="left")
    if disputes is None:
        return found.with_columns(dispute=pl.lit(None, pl.String))
    works = dispute_names(disputes, day)
    found = found.join(works, on="work_id", how="left", maintain_order="left")
    disputed = pl.col("dispute").is_not_null()
    found = found.with_columns(pl.when(disputed).then(pl.lit(IN_DISPUTE)).otherwise("choice").alias("choice"))
    nobodys = works.join(found, on="work_id", how="anti").with_columns(
        stake_ppb=pl.lit(PPB, pl.Int64), choice=pl.lit(IN_DISPUTE)
    )
    return pl.concat([found, nobodys], how="diagonal")


def open_on(disputes: pl.DataFrame, day: date) -> pl.DataFrame:
    """The disputes that are open on a day."""
    return disputes.filter(_is_within(pl.lit(day), "opened_on", "closed_on"))


def dispute_names(disputes: pl.DataFrame, day: date) -> pl.DataFrame:
    """`work_id, dispute` of works in dispute on a day: the name that their money waits under, sorted by work.

    A name stands for just the disputes that are open together: whoever is given what lies under it is given nothing that
    somebody else disputes, too, then or later.
    """
    still = open_on(disputes, day).sort("opened_on", "owner_id").group_by("work_id", maintain_order=True)
    names = []
    for work, opened, owners in still.agg("opened_on", "owner_id").iter_rows():
        key = digest([f"{on} {owner}" for on, owner in zip(opened, owners, strict=True)])[:8]
        names.append((work, f"{DISPUTED}{opened[0]}-{key}-{work}"))
    return pl.DataFrame(sorted(names), schema={"work_id": pl.String, "dispute": pl.String}, orient="row")


def parties(examples: pl.DataFrame, claims: pl.DataFrame, day: date) -> pl.DataFrame:
    """Who stands behind each work on a day: its owners by stake, or, if nobody claims it, escrow.

    Escrow is kept for the placeholder that `owner_id` names (works that seem to be one unknown owner's), else for the
    work itself.

    Args:
        claims: with a column `choice` (`with_choices`), what owners have chosen counts: held in escrow for them, credited
            without money, or, for a work in dispute, in escrow for whoever wins.

    Returns:
        `work_id, account, party_id, stake_ppb`, sorted; each work's stakes sum to 1,000,000,000.
    """
    return _behind(examples, claims, day).drop("claimed", "since")


def _behind(examples: pl.DataFrame, claims: pl.DataFrame, day: date) -> pl.DataFrame:
    """The parties with `claimed`, whether anybody is known, and `since`, the first day of their claim."""
    works = examples.group_by("work_id").agg(placeholder=pl.col("owner_id").first())
    for column in ("choice", "dispute"):
        if column not in claims.columns:
            claims = claims.with_columns(pl.lit(None, pl.String).alias(column))
    known = pl.col("owner_id").is_not_null() | pl.col("dispute").is_not_null()
    found = works.join(valid_on(claims, day), on="work_id", how="left").select(
        "work_id", *booked_as(), pl.col("stake_ppb").fill_null(PPB), known.alias("claimed"), "valid_from"
    )
    # One owner may hold a work by several claims, as its writer and its publisher, say.
    return (
        found.group_by("work_id", "account", "party_id")
        .agg(pl.col("stake_ppb").sum(), pl.col("claimed").any(), since=pl.col("valid_from").min())
        .sort("work_id", "account", "party_id")
    )


def booked_as() -> tuple[pl.Expr, pl.Expr]:
    """The `account` and `party_id` of a claim, by its `work_id, owner_id, choice, dispute, placeholder`."""
    choice, owner, dispute = pl.col("choice"), pl.col("owner_id"), pl.col("dispute")
    disputed = dispute.is_not_null()
    account = (
        pl.when(disputed | (choice == HELD))
        .then(pl.lit(ESCROW))
        .when(choice == CREDITED)
        .then(pl.lit(UNATTRIBUTED))
        .when(owner.is_null())
        .then(pl.lit(ESCROW))
        .otherwise(pl.lit(PAYABLE))
    )
    party = (
        pl.when(disputed)
        .then(dispute)
        .when(choice == HELD)
        .then(pl.lit(HELD_FOR) + owner)
        .otherwise(pl.coalesce("owner_id", "placeholder", "work_id"))
    )
    return account.alias("account"), party.alias("party_id")


def since(examples: pl.DataFrame, claims: pl.DataFrame) -> pl.DataFrame:
    """The examples with `since`: the first day of any claim on their work, or else the day they were collected, if known."""
    first = claims.group_by("work_id").agg(claimed=pl.col("valid_from").min())
    found = examples.join(first, on="work_id", how="left", maintain_order="left")
    return found.with_columns(since=pl.coalesce("claimed", pl.col("acquired_at").dt.date())).drop("claimed")


def held_since(examples: pl.DataFrame, claims: pl.DataFrame, day: date) -> pl.DataFrame:
    """The parties with `claimed`, whether anybody is known who claims the part, and `since`.

    `since` is the first day of their claim, or else the day on which the work was collected, if known.
    """
    collected = examples.group_by("work_id").agg(collected=pl.col("acquired_at").min().dt.date())
    found = _behind(examples, claims, day).join(collected, on="work_id", how="left", maintain_order="left")
    return found.with_columns(since=pl.coalesce("since", "collected")).drop("collected")


def _totals(claims: pl.DataFrame) -> pl.DataFrame:
    """`work_id, day, total`: each work's stakes on each day on which they change (no day: they never do)."""
    dated = pl.any_horizontal(pl.col("valid_from", "valid_to").is_not_null()).any().over("work_id")
    constant = claims.filter(~dated).group_by("work_id").agg(day=pl.lit(None, pl.Date), total=pl.col("stake_ppb").sum())
    changing = claims.filter(dated)
    starts = changing.select("work_id", day="valid_from")
    ends = changing.select("work_id", day=pl.col("valid_to").dt.offset_by("1d"))
    before = starts.with_columns(pl.col("day").dt.offset_by("-1d"))
    days = pl.concat([before, starts, ends]).drop_nulls().unique()
    inside = _is_within(pl.col("day"), "valid_from", "valid_to")
    totals = days.join(changing, on="work_id").group_by("work_id", "day").agg(total=pl.col("stake_ppb").filter(inside).sum())
    return pl.concat([constant, totals]).sort("work_id", "day")


def _claims_of_examples(examples: pl.DataFrame, file: str) -> pl.DataFrame:
    named = pl.col("owner_id").is_not_null() & pl.col("unmatched_reason").is_null()
    owned = examples.filter(named).select("work_id", "owner_id").unique().sort("work_id")
    return conform(CLAIMS, owned.with_columns(stake_ppb=pl.lit(PPB)), file)
