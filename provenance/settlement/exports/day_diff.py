"""Compares two published days: whose shares moved most, from which works, and which inputs differ."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from provenance.core.money import PPB, format_minor
from provenance.core.store import Store
from provenance.core.tables import ESCROW, PAYABLE
from provenance.inputs.night import Night, load_night
from provenance.royalty.shares import over_night
from provenance.settlement.exports.diff import leaves, named, rows_of_one
from provenance.settlement.exports.export import read_credits, read_export

# Works listed of an owner that moved.
WORKS = 3
ENDS = ("share_ppb", "low_ppb", "high_ppb")
# Facts of a manifest that move everybody's shares, and their names in a sentence.
FOR_ALL = {"method": "the method of influence", "contract": "the contracts", "code_version": "the code"}


@dataclass(frozen=True)
class Share:
    """A mean share of a day's outputs, not weighted by revenue, with its 90 % interval, in parts per billion."""

    share_ppb: int = 0
    low_ppb: int = 0
    high_ppb: int = 0


@dataclass(frozen=True)
class WorkMoved:
    """A work, and the part of all shares that rests on it, among the works kept as evidence of each output."""

    work_id: str
    before_ppb: int
    after_ppb: int


@dataclass(frozen=True)
class Mover:
    """An owner, or a name in escrow, whose mean share changed.

    Attributes:
        within: whether the change is no more than the two intervals explain (`explained`).
        earned: by currency, amounts earned on the two days, in minor units; without amounts for a name in escrow.
        because: what differs for this owner, in words.
        works: those that moved most.
    """

    party_id: str
    account: str
    name: str
    before: Share
    after: Share
    within: bool
    earned: Mapping[str, tuple[int, int]]
    because: tuple[str, ...]
    works: tuple[WorkMoved, ...]

    @property
    def change_ppb(self) -> int:
        """The change of the mean share."""
        return self.after.share_ppb - self.before.share_ppb


@dataclass(frozen=True)
class Cause:
    """An input that differs, and how: `what` is `model`, `corpus`, `claims`, `outputs` or another of the names below."""

    what: str
    says: str


@dataclass(frozen=True)
class DayDiff:
    """Two published days compared.

    Attributes:
        days, revisions, outputs: of both.
        fidelity: by contract, the fidelity of both days (None where it was not measured).
        causes: inputs that differ; same: those that do not.
        movers: largest change first.
    """

    days: tuple[str, str]
    revisions: tuple[int, int]
    outputs: tuple[int, int]
    fidelity: Mapping[str, tuple[float | None, float | None]]
    causes: tuple[Cause, ...]
    same: tuple[str, ...]
    movers: tuple[Mover, ...]


@dataclass
class _Day:
    """One day, read."""

    manifest: dict[str, Any]
    payouts: pl.DataFrame
    credits: pl.DataFrame
    night: Night
    owner_works: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def diff_days(store: Store, before: str, after: str) -> DayDiff:
    """Compare the revisions in force of two days.

    Raises:
        StoreError: a day is not published, or housekeeping has removed its inputs.
    """
    days = tuple(_read(store, day) for day in (before, after))
    old, new = days
    of_owner: dict[str, list[str]] = defaultdict(list)
    causes = list(_causes(store, old, new, of_owner))
    shares = [mean_shares(day.credits, PAYABLE, ESCROW) for day in days]
    works = [_works(day.credits) for day in days]
    names = {row[0]: row[1] for day in days for row in day.payouts.select("owner_id", "owner_name").iter_rows()}
    earned = [_earned(day.payouts) for day in days]
    for_all = ["other outputs" if cause.what == "outputs" else cause.what for cause in causes if cause.what in _GENERAL]
    movers = []
    for key in sorted({*shares[0], *shares[1]}):
        account, party = key
        first, second = (side.get(key, Share()) for side in shares)
        if first == second:
            continue
        movers.append(
            Mover(
                party_id=party,
                account=account,
                name=names.get(party) or party,
                before=first,
                after=second,
                within=explained(first, second),
                earned={c: (earned[0].get((party, c), 0), earned[1].get((party, c), 0)) for c in _currencies(party, earned)},
                because=(*of_owner.get(party, ()), *for_all),
                works=_moved(works[0].get(key, {}), works[1].get(key, {})),
            )
        )
    facts = [day.manifest.get("fidelity", {}) for day in days]
    different = {cause.what for cause in causes}
    return DayDiff(
        days=(before, after),
        revisions=(old.manifest["revision"], new.manifest["revision"]),
        outputs=tuple(day.credits["output_id"].n_unique() for day in days),  # type: ignore[arg-type]
        fidelity={
            name: tuple(_estimate(side.get(name)) for side in facts)  # type: ignore[misc]
            for name in sorted({*facts[0], *facts[1]})
        },
        causes=tuple(causes),
        same=tuple(name for name in _SAME if name not in different),
        movers=tuple(sorted(movers, key=lambda mover: (-abs(mover.change_ppb), mover.party_id))),
    )


def explained(before: Share, after: Share) -> bool:
    """Whether a change lies in the 90 % interval of a difference: the halves that face each other, added in squares."""
    low, high = sorted((before, after), key=lambda share: share.share_ppb)
    return high.share_ppb - low.share_ppb <= math.hypot(low.high_ppb - low.share_ppb, high.share_ppb - high.low_ppb)


_SAME = (
    "model",
    "corpus",
    "claims",
    "counterfactual models",
    "opt-outs",
    "the method of influence",
    "the contracts",
    "the code",
)
_GENERAL = {"model", "counterfactual models", "outputs", *FOR_ALL.values()}


def mean_shares(credits: pl.DataFrame, *accounts: str) -> dict[tuple[str, str], Share]:
    """Mean shares of a day's outputs, not weighted by revenue, with intervals, by account and party."""
    party = pl.coalesce("owner_id", "escrow_id", pl.lit("")).alias("party_id")
    shares = credits.select("output_id", "account", party, *ENDS)
    pools = shares.select("output_id", currency=pl.lit(""), pool=1).unique()
    rows = over_night([shares], pools).filter(pl.col("account").is_in(accounts)).select("account", "party_id", *ENDS)
    return {(account, name): Share(*ends) for account, name, *ends in rows.iter_rows()}


def _read(store: Store, day: str) -> _Day:
    manifest, payouts = read_export(store, day)
    return _Day(manifest, payouts, read_credits(store, manifest["folder"]), load_night(store, manifest["night"]))


def _estimate(facts: Mapping[str, Any] | None) -> float | None:
    return facts["lds"]["estimate"]["value"] if facts and facts["lds"] else None


def _earned(payouts: pl.DataFrame) -> dict[tuple[str, str], int]:
    return {(owner, c): amount for owner, c, amount in payouts.select("owner_id", "currency", "earned_minor").iter_rows()}


def _currencies(party: str, earned: list[dict[tuple[str, str], int]]) -> list[str]:
    return sorted({currency for side in earned for (owner, currency), amount in side.items() if owner == party and amount})


def _works(credits: pl.DataFrame) -> dict[tuple[str, str], dict[str, int]]:
    """By account and party, the part of all shares that rests on each work, in parts per billion.

    An output's share is divided among the works kept as evidence by their positive influence, or equally without any.
    """
    count = credits["output_id"].n_unique() or 1
    parts: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    rows = credits.filter(pl.col("account").is_in([PAYABLE, ESCROW])).select(
        "account", pl.coalesce("owner_id", "escrow_id"), "share_ppb", "top_works"
    )
    for account, party, share, top in rows.iter_rows():
        weights = Counter[str]()
        for work in top:
            weights[work["work_id"]] += max(work["influence"], 0.0)
        total = sum(weights.values())
        for work_id, weight in weights.items():
            parts[account, party][work_id] += share * (weight / total if total else 1 / len(weights)) / count
    return {key: {work: round(part) for work, part in works.items()} for key, works in parts.items()}


def _moved(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[WorkMoved, ...]:
    rows = [WorkMoved(work, before.get(work, 0), after.get(work, 0)) for work in sorted({*before, *after})]
    rows.sort(key=lambda row: -abs(row.after_ppb - row.before_ppb))
    return tuple(row for row in rows[:WORKS] if row.after_ppb != row.before_ppb)


def _causes(store: Store, old: _Day, new: _Day, of_owner: dict[str, list[str]]) -> Iterator[Cause]:
    """Inputs that differ; what concerns one owner alone is added to `of_owner`."""
    before, after = old.night, new.night
    facts = [{**day.manifest["inputs"], **day.manifest} for day in (old, new)]
    if before.model != after.model:
        names = f"{before.model_id} ({before.model[:12]}) -> {after.model_id} ({after.model[:12]})"
        yield Cause("model", names)
    if before.corpus != after.corpus:
        yield from _corpus(store, before, after, of_owner)
    if before.choices != after.choices:
        changed = rows_of_one(before.read_choices(store), after.read_choices(store))
        for owner, works in changed.group_by("owner_id").agg(pl.col("work_id").n_unique()).sort("owner_id").iter_rows():
            of_owner[owner].append(f"its opt-outs changed, of {_count(works, 'work')}")
        owners = sorted(changed["owner_id"].unique())
        yield Cause("opt-outs", f"of {_count(len(owners), 'owner')}{named(owners)}")
    if before.counterfactuals != after.counterfactuals:
        first, second = (set(night.counterfactuals.items()) for night in (before, after))
        yield Cause(
            "counterfactual models",
            f"{len(second - first)} added, {len(first - second)} removed, {len(second)} now rather than {len(first)}",
        )
    for name, words in FOR_ALL.items():
        earlier, later = facts[0].get(name), facts[1].get(name)
        if earlier != later:
            yield Cause(words, ", ".join(leaves(earlier, later)))
    yield Cause("outputs", _outputs(before.read_outputs(store), after.read_outputs(store), before.day))


def _outputs(before: pl.DataFrame, after: pl.DataFrame, day: str) -> str:
    """How the outputs of two days differ: they are other ones by nature."""
    new = after.filter(~pl.col("output_id").is_in(before["output_id"].implode())).height
    both = after.filter(pl.col("content_sha256").is_in(before["content_sha256"].implode())).height
    sums = [
        ", ".join(
            format_minor(amount, currency)
            for currency, amount in frame.group_by("currency").agg(pl.col("revenue_minor").sum()).sort("currency").iter_rows()
        )
        for frame in (before, after)
    ]
    fresh = f"all {after.height} outputs are new" if new == after.height else f"{new} of {after.height} outputs are new"
    fresh += f" (there were {before.height})" if before.height != after.height else ""
    same = f"; {both} {'has' if both == 1 else 'have'} the content of an output of {day}" if both else ""
    money = "the same revenue" if sums[0] == sums[1] else f"revenue {sums[1]} rather than {sums[0]}"
    return f"{fresh}{same}; {money}"


def _corpus(store: Store, before: Night, after: Night, of_owner: dict[str, list[str]]) -> Iterator[Cause]:
    earlier, later = (night.frozen_corpus(store) for night in (before, after))
    claims = [store.read_table(corpus.claims.key) for corpus in (earlier, later)]
    if earlier.shards != later.shards:
        old, new = (night.read_corpus(store, "example_id", "work_id") for night in (before, after))
        added, removed = new.join(old, on="example_id", how="anti"), old.join(new, on="example_id", how="anti")
        works = sorted({*added["work_id"], *removed["work_id"]})
        yield Cause("corpus", f"{added.height} examples added, {removed.height} withdrawn{named(works)}")
        for word, rows, by in (("added", added, claims[1]), ("withdrawn", removed, claims[0])):
            owners = by.select("work_id", "owner_id").unique().join(rows, on="work_id")
            counts = owners.group_by("owner_id").agg(pl.len(), pl.col("work_id").unique().sort()).sort("owner_id")
            for owner, count, own in counts.iter_rows():
                of_owner[owner].append(f"{_count(count, 'example')} of its works {word}{named(own, 2)}")
    if earlier.claims != later.claims:
        changed = rows_of_one(*claims)
        works = sorted(changed["work_id"].unique())
        yield Cause("claims", f"on {_count(len(works), 'work')}{named(works)}")
        for owner, count in changed.group_by("owner_id").agg(pl.col("work_id").n_unique()).sort("owner_id").iter_rows():
            of_owner[owner].append(f"its claims changed, on {_count(count, 'work')}")
    others = [
        name
        for name in ("owners", "unmatched", "duplicates", "disputes", "rights")
        if getattr(earlier, name) != getattr(later, name)
    ]
    if others and earlier.shards == later.shards:
        yield Cause("corpus", f"the same works; other {', '.join(others)}")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def points(ppb: int) -> str:
    """A change of a share in percentage points, with its sign."""
    return f"{100 * ppb / PPB:+.2f}"
