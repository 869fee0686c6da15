"""Count a frozen corpus for disclosures: one row for each work, and tables of sums.

Contents are not read. Shards are summed one at a time, so that an inventory of a million works needs little memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from provenance.core.tables import CLEARANCE, ESCROW, OPTOUTS, REGISTRY, RIGHTS, SIGNALS
from provenance.corpus.disclosures.facts import KINDS, Facts, Source
from provenance.corpus.disclosures.forms import Table
from provenance.corpus.ownership import parties
from provenance.corpus.rights.optouts import in_force
from provenance.corpus.rights.signals.verdicts import WIDER
from provenance.corpus.rights.sources.registry import source_ids

# Columns read from frozen examples.
READ = ("work_id", "modality", "source_uri", "acquired_at", "licence_spdx", "owner_id", "tokens")
# The classes of the policy, in words for readers who do not know it.
CLASS_WORDS = {
    "commercial": "any use, commercial too",
    "non_commercial": "non-commercial use alone",
    "academic_only": "academic use alone",
    "forbidden": "use forbidden",
    "unspecified": "no terms that can be read",
}
NO_ADDRESS = "(no address)"
_WORDS = tuple(CLASS_WORDS.values())
NOT_ASSIGNED = "(not assigned)"
NO_LICENCE = "(none can be read)"
UNITS = {"text": "words", "code": "words", "image": "images", "music": "events"}
# A modality may be any word; only its adapter can count more than its examples.
OTHER_UNITS = "examples"
# Terms that certainly mean the public domain; doubtful ones are not listed.
PUBLIC_DOMAIN = ("CC0-1.0", "CC-PDDC", "CC-PDM-1.0", "PDDL-1.0")
# Rows of a table of licences or places.
MOST_FREQUENT = 20
# Crawled domains that a provider must name, the largest first: percentage and greatest number (EU template, 2.3).
MOST_DOMAINS = (10, None)
MOST_DOMAINS_OF_SMES = (5, 1_000)


@dataclass(frozen=True)
class Inventory:
    """An inventory of a corpus on a day.

    Attributes:
        corpus: digest of the frozen corpus.
        works: `work_id, title, source_uri, place, domain, source, kind, modality, examples, words, first_acquired,
            last_acquired, licence, licence_declared, licence_class, asserted_by, conflict, quarantine, owners, escrow`,
            sorted by work. A place is a domain, a package or a scheme; source and kind are the provider's words for it.
        sizes: `modality, works, examples, words`; words are words, events or patches, as the corpus was cut.
        signals, optouts, clearance: tables by their contracts, empty if not collected; the last row of a work in clearance
            counts.
    """

    corpus: str
    day: date
    works: pl.DataFrame
    sizes: pl.DataFrame
    signals: pl.DataFrame
    optouts: pl.DataFrame
    clearance: pl.DataFrame

    def of_kind(self, kind: str) -> pl.DataFrame:
        """The works from sources of a kind."""
        return self.works.filter(pl.col("kind") == kind)

    @property
    def unassigned(self) -> int:
        """The number of works that match no source of the facts."""
        return self.works["kind"].null_count()

    def used(self, kind: str) -> bool | None:
        """Whether there are works of a kind; None if unknown, since some works match no source."""
        if self.of_kind(kind).height:
            return True
        return None if self.unassigned else False

    @property
    def copyrighted(self) -> pl.DataFrame:
        """All works except those in the public domain by their terms."""
        return self.works.filter(~pl.col("licence").is_in(PUBLIC_DOMAIN).fill_null(value=False))


def take_inventory(
    shards: Iterable[pl.DataFrame],
    claims: pl.DataFrame,
    owners: pl.DataFrame,
    facts: Facts,
    *,
    corpus: str,
    day: date,
    rights: pl.DataFrame | None = None,
    registry: pl.DataFrame | None = None,
    signals: pl.DataFrame | None = None,
    optouts: pl.DataFrame | None = None,
    clearance: pl.DataFrame | None = None,
) -> Inventory:
    """Count a corpus.

    Args:
        shards: frozen examples with the columns `READ`.
        day: the day of claims and opt-outs.
        rights: the rights table; without it the terms are those of the examples, without class.
    """
    rights = pl.DataFrame(schema=RIGHTS.schema) if rights is None else rights
    registry = pl.DataFrame(schema=REGISTRY.schema) if registry is None else registry
    pieces = pl.concat([_sum_shard(shard) for shard in shards])
    sizes = pieces.group_by("modality").agg(works=pl.col("work_id").n_unique(), examples=_sum("examples"), words=_sum("words"))
    works = pieces.group_by("work_id").agg(
        source_uri=pl.col("source_uri").min(),
        examples=_sum("examples"),
        words=_sum("words"),
        first_acquired=pl.col("first_acquired").min(),
        last_acquired=pl.col("last_acquired").max(),
        owner_id=pl.col("owner_id").min(),
    )
    terms = _join_values(pieces, "licence_spdx", ") AND (")
    works = (
        works.with_columns(source_uri=_without_login(pl.col("source_uri")))
        .join(_join_values(pieces, "modality", "+").drop("several"), on="work_id", how="left")
        .join(terms.rename({"licence_spdx": "licence_declared"}), on="work_id", how="left")
        .with_columns(
            licence_declared=pl.when("several")
            .then(pl.lit("(") + pl.col("licence_declared") + pl.lit(")"))
            .otherwise("licence_declared")
        )
    )
    holders = _holders(works, claims, owners, day)
    works = (
        works.join(rights.select("work_id", *RIGHTS_OF, _licence="licence_spdx"), on="work_id", how="left")
        .with_columns(_source_id(registry))
        .join(registry.select("source_id", "title"), on="source_id", how="left")
        .join(holders, on="work_id", how="left")
        .with_columns(
            pl.col("licence_class").fill_null("unspecified"),
            pl.col("asserted_by").fill_null("source" if rights.is_empty() else "nobody"),
            pl.col("conflict", "quarantine").fill_null(""),
            licence=pl.col("licence_declared") if rights.is_empty() else pl.col("_licence"),
            place=_place(pl.col("source_uri")),
            domain=_domain(pl.col("source_uri")),
        )
        .with_columns(*_assign(facts.sources))
    )
    return Inventory(
        corpus=corpus,
        day=day,
        works=works.select(*COLUMNS).sort("work_id"),
        sizes=sizes.sort("modality"),
        signals=pl.DataFrame(schema=SIGNALS.schema) if signals is None else signals,
        optouts=pl.DataFrame(schema=OPTOUTS.schema) if optouts is None else optouts,
        clearance=pl.DataFrame(schema=CLEARANCE.schema) if clearance is None else clearance,
    )


COLUMNS = (
    "work_id", "title", "source_uri", "place", "domain", "source", "kind", "modality", "examples", "words",
    "first_acquired", "last_acquired", "licence", "licence_declared", "licence_class", "asserted_by", "conflict",
    "quarantine", "owners", "escrow",
)  # fmt: skip
RIGHTS_OF = ("source_id", "licence_class", "asserted_by", "conflict", "quarantine")
# Columns of works in machine-readable files.
LISTED = (
    "work_id", "title", "owners", "licence", "licence_class", "asserted_by", "source_uri", "source", "kind", "modality",
    "examples", "words", "first_acquired", "last_acquired",
)  # fmt: skip


def works_table(works: pl.DataFrame) -> pl.DataFrame:
    """The works as machine-readable files list them: one line each, with days instead of times."""
    days = pl.col("first_acquired", "last_acquired").dt.strftime("%Y-%m-%d")
    return works.select(*LISTED).with_columns(days).with_columns(pl.col(pl.String).fill_null(""))


def collection_span(works: pl.DataFrame) -> tuple[datetime, datetime] | None:
    """The first and last time of collection of works; None without dates."""
    first, last = works.select(pl.col("first_acquired").min(), pl.col("last_acquired").max()).row(0)
    return (first, last) if first and last else None


def by_class(works: pl.DataFrame, title: str = "Works by what their terms allow", always: Sequence[str] = _WORDS) -> Table:
    """Works, examples and words by class of licence; `always` names classes that appear even without works."""
    return count_by(
        works.with_columns(pl.col("licence_class").replace(CLASS_WORDS)), "licence_class", title, "Allowed", always=always
    )


def by_licence(inventory: Inventory) -> Table:
    """The most frequent licences."""
    works = inventory.works.with_columns(pl.col("licence").fill_null(NO_LICENCE))
    return count_by(works, "licence", "Works by licence", "Licence", most=MOST_FREQUENT)


def by_place(inventory: Inventory) -> Table:
    """The domains, packages and schemes with most words."""
    return count_by(inventory.works, "place", "Where works were collected", "Place", most=MOST_FREQUENT)


def by_source(inventory: Inventory) -> Table:
    """Works by the provider's own list of sources."""
    works = inventory.works.with_columns(pl.col("source").fill_null(NOT_ASSIGNED))
    return count_by(works, "source", "Works by source", "Source")


def by_holder(inventory: Inventory) -> Table:
    """Works with known owners, and works in escrow."""
    holder = pl.when("escrow").then(pl.lit("not known yet: in escrow")).otherwise(pl.lit("known"))
    return count_by(inventory.works.with_columns(holder=holder), "holder", "Works by what is known of their owners", "Owners")


def by_modality(inventory: Inventory) -> Table:
    """Sizes by modality."""
    rows = tuple(
        (m, UNITS.get(m, OTHER_UNITS), works, examples, words) for m, works, examples, words in inventory.sizes.iter_rows()
    )
    return Table("Size by modality", ("Modality", "Counted as", "Works", "Examples", "Words, patches or events"), rows)


def top_domains(works: pl.DataFrame, *, sme: bool) -> Table:
    """The domains that a provider must name: the largest tenth by words; for an SME a twentieth, at most 1,000."""
    part, most = MOST_DOMAINS_OF_SMES if sme else MOST_DOMAINS
    with_domain = works.filter(pl.col("domain").is_not_null())
    total = with_domain["domain"].n_unique()
    count = -(-total * part // 100)  # rounded up
    shown_count = count if most is None else min(count, most)
    title = f"The largest {shown_count:,} of {total:,} domains, by words"
    return count_by(with_domain, "domain", title, "Domain", most=shown_count, note="")


def measures(inventory: Inventory) -> tuple[Table, ...]:
    """Tables of signals, opt-outs and clearance, as recorded."""
    reserves = pl.col("use").is_in(["train", *WIDER["train"]]) & ~pl.col("allowed")
    signals = inventory.signals.group_by("kind").agg(
        scopes=pl.col("scope").n_unique(),
        reserved=pl.col("scope").filter(reserves).n_unique(),
        unread=pl.col("problem").is_not_null().sum(),
    )
    in_effect = in_force(inventory.optouts, inventory.day).join(inventory.works.select("work_id"), on="work_id", how="semi")
    choices = in_effect.group_by("choice").agg(works=pl.col("work_id").n_unique(), owners=pl.col("owner_id").n_unique())
    last = inventory.clearance.unique(["work_id", "use"], keep="last", maintain_order=True)
    training = last.filter(pl.col("use") == "train").join(inventory.works.select("work_id"), on="work_id", how="semi")
    cleared = training.group_by("cleared").agg(works=pl.len(), examples=_sum("examples")).sort("cleared", descending=True)
    outcomes = cleared.with_columns(
        pl.when("cleared").then(pl.lit("cleared")).otherwise(pl.lit("not cleared")).alias("cleared")
    )
    return (
        Table(
            "Machine-readable signals that were read",
            ("Kind", "Scopes", "Scopes that reserve training", "Could not be read, or only in part"),
            tuple(signals.sort("kind").iter_rows()),
            "" if signals.height else "None are recorded.",
        ),
        Table(
            "Opt-outs of owners in force on works of this corpus",
            ("Choice", "Works", "Owners"),
            tuple(choices.sort("choice").iter_rows()),
            "" if choices.height else "None are recorded.",
        ),
        Table(
            f"Works of this corpus, judged on {inventory.day} for the training of a model to come",
            ("Outcome", "Works", "Examples"),
            tuple(outcomes.iter_rows()),
            "A model that is in use was trained before, and may have works that are not cleared now."
            if outcomes.height
            else "No checks are recorded.",
        ),
    )


def _sum_shard(shard: pl.DataFrame) -> pl.DataFrame:
    return shard.group_by("work_id", "modality", "licence_spdx").agg(
        source_uri=pl.col("source_uri").min(),
        first_acquired=pl.col("acquired_at").min(),
        last_acquired=pl.col("acquired_at").max(),
        owner_id=pl.col("owner_id").min(),
        words=_sum("tokens"),
        examples=pl.len().cast(pl.Int64),
    )


def _source_id(registry: pl.DataFrame) -> pl.Expr:
    """The source of each work: from the rights table, else from the registry by the work's address."""
    by_address = pl.col("source_uri").map_batches(lambda uris: source_ids(registry, uris), return_dtype=pl.String)
    # The rights table may be of a version that spelt names otherwise.
    known = pl.col("source_id").map_batches(lambda names: source_ids(registry, names), return_dtype=pl.String)
    return pl.coalesce(known, "source_id", by_address) if registry.height else pl.col("source_id")


def _join_values(frame: pl.DataFrame, column: str, separator: str) -> pl.DataFrame:
    """`work_id, <column>, several`: the distinct values of each work, sorted and joined, and whether there are several."""
    pairs = frame.select("work_id", column).drop_nulls().unique().sort("work_id", column)
    values = pairs.group_by("work_id", maintain_order=True).agg(pl.col(column), several=pl.len() > 1)
    return values.with_columns(pl.col(column).list.join(separator))


def _holders(works: pl.DataFrame, claims: pl.DataFrame, owners: pl.DataFrame, day: date) -> pl.DataFrame:
    """`work_id, owners, escrow`: names of owners, null if the work is in escrow."""
    stakes = parties(works.select("work_id", "owner_id"), claims, day)
    with_names = stakes.join(owners.select(party_id="owner_id", name="name"), on="party_id", how="left")
    owned = with_names.filter(pl.col("account") != ESCROW)
    names = _join_values(owned.select("work_id", owners=pl.coalesce("name", "party_id")), "owners", "; ").drop("several")
    return works.select("work_id").join(names, on="work_id", how="left").with_columns(escrow=pl.col("owners").is_null())


def _assign(sources: Sequence[Source]) -> tuple[pl.Expr, pl.Expr]:
    """The first source that matches an address, and its kind."""
    uri = pl.col("source_uri").fill_null("")
    name, kind = pl.lit(None, pl.String), pl.lit(None, pl.Enum(KINDS))
    for source in reversed(sources):
        matches = pl.any_horizontal(*(uri.str.starts_with(beginning) for beginning in source.match))
        name = pl.when(matches).then(pl.lit(source.name)).otherwise(name)
        kind = pl.when(matches).then(pl.lit(source.kind, pl.Enum(KINDS))).otherwise(kind)
    return name.alias("source"), kind.cast(pl.String).alias("kind")


def count_by(
    works: pl.DataFrame,
    by: str,
    title: str,
    column: str,
    *,
    most: int | None = None,
    always: Sequence[str] = (),
    note: str | None = None,
) -> Table:
    """Works, examples and words by a column, most words first; `always`: values to show instead, in this order."""
    sums = works.group_by(by).agg(works=pl.len(), examples=_sum("examples"), words=_sum("words"))
    sums = sums.sort(pl.col("words"), pl.col(by), descending=[True, False])
    if always:
        sums = pl.DataFrame({by: always}).join(sums, on=by, how="left", maintain_order="left").fill_null(0)
    rows = sums if most is None else sums.head(most)
    cut_note = f"Shown are {rows.height:,} of {sums.height:,}, those with most words." if rows.height < sums.height else ""
    columns = (column, "Works", "Examples", "Words, patches or events")
    return Table(title, columns, tuple(rows.iter_rows()), cut_note if note is None else note)


def _place(uri: pl.Expr) -> pl.Expr:
    package = uri.str.extract(r"^(pkg:[^?#@]+)")
    scheme = uri.str.extract(r"^([A-Za-z][A-Za-z0-9+.-]*:)").str.to_lowercase()
    return pl.coalesce(_domain(uri), package, scheme, pl.lit(NO_ADDRESS))


def _domain(uri: pl.Expr) -> pl.Expr:
    """The host of an address on the web, without `www.`."""
    host = uri.str.extract(r"^(?i)(?:https?|ftp)://(?:[^/?#]*@)?(\[[^\]]*\]|[^/?#:]+)").str.to_lowercase()
    return host.str.strip_suffix(".").str.strip_prefix("www.")


def _without_login(uri: pl.Expr) -> pl.Expr:
    """An address without user name and password, for publication."""
    return uri.str.replace(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@", "${1}")


def _sum(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Int64).sum()
