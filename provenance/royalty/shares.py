"""Computes owner shares of each output: by rule as fractions, and by contract in parts per billion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from provenance.core.arrays import positive_shares
from provenance.core.errors import ContractError
from provenance.core.money import PPB
from provenance.core.tables import NIGHT_SHARES, RULE_SHARES, SHARES, UNATTRIBUTED, is_unclaimed
from provenance.influence.scores import NO_NUMBERS, PARTY, number_parties
from provenance.inputs.contracts import Contract

FAITHFUL, SRS, BANZHAF, PROPORTIONAL, FLAT = "faithful", "srs", "banzhaf", "proportional", "flat"
# Rules that need counterfactual models.
BY_VALUE = (FAITHFUL, SRS, BANZHAF)
DRAWS, CONFIDENCE, SEED = 200, 0.9, 1


@dataclass(frozen=True)
class RuleTable:
    """Shares of some outputs under one rule.

    Attributes:
        parties: `account, party_id`, n of them.
        share, low, high: `(q, n)`; zeros for an output that rests on no party.
    """

    rule: str
    output_ids: Sequence[str]
    parties: pl.DataFrame
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def frame(self) -> pl.DataFrame:
        """The rule shares table; an output that rests on no party has no rows."""
        parts = [pl.DataFrame(schema=RULE_SHARES.schema)]
        for at, output in enumerate(self.output_ids):
            if self.share[at].any():
                numbers = {name: pl.Series(getattr(self, name)[at]) for name in ("share", "low", "high")}
                rows = self.parties.select("account", "party_id").with_columns(
                    rule=pl.lit(self.rule), output_id=pl.lit(output), **numbers
                )
                parts.append(rows.select(*RULE_SHARES.columns))
        return pl.concat(parts)


def from_components(by_component: np.ndarray, output_ids: Sequence[str], parties: pl.DataFrame) -> RuleTable:
    """Shares `max(0, v) / sum max(0, v)` with v summed over components, and intervals by resampling the components.

    Args:
        by_component: influence of parties, weighted, `(K, q, n)`.

    Raises:
        ContractError: an influence is not finite.
    """
    finite = np.isfinite(by_component).all(axis=(0, 2))
    if not finite.all():
        where = f"influence on output {output_ids[int(np.argmin(finite))]!r}"
        raise ContractError(where, expected="finite numbers", found="NaN or infinite ones")
    used = by_component[[bool(block.any()) for block in by_component]]
    share = positive_shares(used.sum(axis=0).T).T
    ends = np.zeros((2, *share.shape))
    for at in range(len(share)):
        if share[at].any():
            ends[:, at] = resampled(used[:, at], DRAWS, CONFIDENCE, SEED)
    return RuleTable(PROPORTIONAL, output_ids, parties, share, np.minimum(ends[0], share), np.maximum(ends[1], share))


def resampled(parts: np.ndarray, draws: int, confidence: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of shares by resampling sources (Bayesian bootstrap: Rubin 1981).

    Args:
        parts: the value of each of O parties by each of S sources, `(S, O)`.

    Returns:
        lower and upper ends of `max(0, sum) / sum max(0, sum)`, each `(O,)`.
    """
    return _ends(_drawn(len(parts), draws, seed) @ parts, confidence)


def _drawn(sources: int, draws: int, seed: int) -> np.ndarray:
    """Weights of the sources in each draw, with a mean of one, `(draws, sources)`."""
    return np.random.default_rng(seed).dirichlet(np.ones(sources), size=draws) * sources


def _ends(drawn: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of shares, each `(O,)`, from values in each draw, `(draws, O)`."""
    low, high = np.quantile(positive_shares(drawn.T), [(1 - confidence) / 2, (1 + confidence) / 2], axis=1)
    return low, high


def flat(parties: pl.DataFrame, output_ids: Sequence[str]) -> pl.DataFrame:
    """Shares in proportion to weight, the same for every output.

    Args:
        parties: `account, party_id, weight`.
    """
    whole = parties["weight"].sum()
    share = (pl.col("weight") / whole).alias("share") if whole else pl.lit(0.0).alias("share")
    shares = parties.sort("account", "party_id").select("account", "party_id", share).with_columns(low="share", high="share")
    outputs = pl.DataFrame({"output_id": pl.Series(list(output_ids), dtype=pl.String)})
    rows = outputs.join(shares, how="cross").with_columns(rule=pl.lit(FLAT))
    return rows.select(*RULE_SHARES.columns)


def by_contract(
    rules: pl.DataFrame, outputs: pl.DataFrame, contracts: Mapping[str, Contract], weights: Mapping[str, float]
) -> pl.DataFrame:
    """Each party's share of each output's pool.

    Mixes the contract's rule and its fallback by weight, then applies the contract's terms for unclaimed works, floor and cap.

    Args:
        rules: the rule shares table.
        outputs: `output_id, contract`, the contract by name.
        weights: by contract, the part that the rule decides; the fallback decides the rest.

    Returns:
        The shares table, without zeros: integers that sum to exactly 1,000,000,000 per output.
    """
    by_rule: dict[Any, pl.DataFrame] = dict(rules.group_by("rule", "output_id"))
    parts = [pl.DataFrame(schema=SHARES.schema)]
    for output, name in outputs.sort("output_id").select("output_id", "contract").iter_rows():
        contract, weight = contracts[name], weights[name]
        mixed = _mixed(by_rule.get((contract.rule, output)), by_rule.get((contract.fallback, output)), weight)
        if contract.unmatched == "others":
            mixed = _to_others(mixed)
        before = mixed["share"].to_numpy()
        share = None if mixed.is_empty() else to_ppb(_bounded(before, contract))
        if share is None:
            row = (output, UNATTRIBUTED, "", PPB, PPB, PPB)
            parts.append(pl.DataFrame([row], schema=SHARES.schema, orient="row"))
            continue
        # Floor, cap and escrow's part scale the interval as they scale the share.
        scale = np.divide(share / PPB, before, out=np.ones(len(share)), where=before * PPB**2 > 1)
        low, high = (np.rint(np.clip(mixed[end].to_numpy() * scale, 0, 1) * PPB).astype(np.int64) for end in ("low", "high"))
        parts.append(
            mixed.select(
                pl.lit(output).alias("output_id"),
                "account",
                "party_id",
                pl.Series("share_ppb", share),
                pl.Series("low_ppb", np.minimum(low, share)),
                pl.Series("high_ppb", np.maximum(high, share)),
            ).filter(pl.col("share_ppb") > 0)
        )
    return pl.concat(parts).sort(*SHARES.key)


def of_works(
    works: pl.DataFrame,
    rules: pl.DataFrame,
    outputs: pl.DataFrame,
    contracts: Mapping[str, Contract],
    *,
    weights: Mapping[str, float],
    shares: pl.DataFrame,
) -> pl.DataFrame:
    """The part of each output's pool that rests on each of some works: its part of its party's share.

    Args:
        works: `rule, output_id, work, account, party_id, share`: a work's share under each rule, and its party.
        rules, outputs, contracts, weights: the arguments of `by_contract`; shares: its result.

    Returns:
        `output_id, work, part`, from 0 to 1.
    """
    by_rule: dict[Any, pl.DataFrame] = dict(rules.group_by("rule", "output_id"))
    works_by_rule: dict[Any, pl.DataFrame] = dict(works.sort("work").group_by("rule", "output_id", maintain_order=True))
    by_output: dict[Any, pl.DataFrame] = dict(shares.group_by("output_id"))
    party, empty = ["account", "party_id"], works.clear()
    parts = [pl.DataFrame(schema={"output_id": pl.String, "work": pl.String, "part": pl.Float64})]
    for output, name in outputs.sort("output_id").select("output_id", "contract").iter_rows():
        contract, rule = contracts[name], by_rule.get((contracts[name].rule, output))
        weight = weights[name] if rule is not None and rule["share"].sum() else 0.0
        mixed = _mixed(rule, by_rule.get((contract.fallback, output)), weight)
        weighed = pl.concat(
            works_by_rule.get((kind, output), empty).with_columns(pl.col("share") * part)
            for kind, part in ((contract.rule, weight), (contract.fallback, 1 - weight))
        )
        sums = weighed.group_by("work", *party, maintain_order=True).agg(pl.col("share").sum())
        rows = sums.join(mixed.select(*party, whole="share"), on=party).join(by_output[output,], on=party)
        part = (pl.col("share") / pl.col("whole")).fill_nan(0.0).clip(0, 1) * pl.col("share_ppb") / PPB
        parts.append(rows.select(pl.lit(output).alias("output_id"), "work", part=part))
    return pl.concat(parts).sort("output_id", "work")


def over_night(shares: Iterable[pl.DataFrame], pools: pl.DataFrame) -> pl.DataFrame:
    """Each party's share of a night's pools together, with an interval.

    The interval combines two independent errors: resampled outputs (Bayesian bootstrap), and the intervals of the single
    shares, which rest on the same checkpoints and so add up.

    Args:
        shares: parts of the shares table, each with all rows of its outputs.
        pools: `output_id, currency, pool`, in any unit.

    Returns:
        The night shares table; a currency without a pool has no rows.
    """
    outputs = pools.filter(pl.col("pool") > 0).sort("output_id")
    nights = {str(currency): _Night.of(group) for (currency,), group in outputs.group_by("currency", maintain_order=True)}
    for part in shares:
        for night in nights.values():
            night.add(part)
    parts = [night.table().with_columns(currency=pl.lit(currency)) for currency, night in nights.items()]
    return pl.concat([NIGHT_SHARES.frame(), *(part.select(*NIGHT_SHARES.columns) for part in parts)]).sort(*NIGHT_SHARES.key)


@dataclass
class _Night:
    """Sums over the outputs of a currency, as they are added.

    Attributes:
        outputs: `output_id, place, weight`: the part that an output has of the pools.
        draws: weights of the outputs in each draw, `(draws, outputs)`.
        parties: `account, party_id, party`, by number.
        sums: of shares and of the ends of their intervals, `(3, parties)`; drawn: of shares in each draw, `(draws, parties)`.
    """

    outputs: pl.DataFrame
    draws: np.ndarray
    parties: pl.DataFrame
    sums: np.ndarray
    drawn: np.ndarray

    @classmethod
    def of(cls, pools: pl.DataFrame) -> _Night:
        weight = pl.col("pool") / pools["pool"].sum()
        outputs = pools.with_row_index("place").select("output_id", "place", weight=weight)
        return cls(outputs, _drawn(pools.height, DRAWS, SEED), NO_NUMBERS, np.zeros((3, 0)), np.zeros((DRAWS, 0)))

    def add(self, shares: pl.DataFrame) -> None:
        """Add the shares of some outputs."""
        rows = shares.join(self.outputs, on="output_id", maintain_order="left")
        self.parties = number_parties(self.parties, rows)
        rows = rows.join(self.parties, on=PARTY, maintain_order="left")
        count, column, weight = self.parties.height, rows["party"].to_numpy(), rows["weight"].to_numpy()
        more = ((0, 0), (0, count - self.sums.shape[1]))
        self.sums, self.drawn = np.pad(self.sums, more), np.pad(self.drawn, more)
        parts = [weight * rows[name].to_numpy() / PPB for name in ("share_ppb", "low_ppb", "high_ppb")]
        self.sums += [np.bincount(column, weights=part, minlength=count) for part in parts]
        places, row = np.unique(rows["place"].to_numpy(), return_inverse=True)
        by_output = np.zeros((len(places), count))
        by_output[row, column] = parts[0]
        self.drawn += self.draws[:, places] @ by_output

    def table(self) -> pl.DataFrame:
        """`account, party_id` with the share and its interval."""
        share, low, high = self.sums
        ends = zip(_ends(self.drawn, CONFIDENCE), (low, high), strict=True)
        spread = [np.sqrt((drawn - share) ** 2 + (end - share) ** 2) for drawn, end in ends]
        columns = {"share_ppb": share, "low_ppb": share - spread[0], "high_ppb": share + spread[1]}
        rounded = {name: np.rint(np.clip(value, 0, 1) * PPB).astype(np.int64) for name, value in columns.items()}
        return self.parties.drop("party").with_columns(**rounded)


def to_ppb(values: np.ndarray) -> np.ndarray | None:
    """Positive parts of `values` as integers that sum to exactly 1e9 (largest remainder); None if nothing is positive."""
    positive = np.maximum(values.astype(np.float64), 0.0)
    whole = positive.sum()
    if not whole > 0:
        return None
    exact = positive / whole * PPB
    parts: np.ndarray = np.floor(exact).astype(np.int64)
    rest = PPB - int(parts.sum())
    parts[np.argsort(-(exact - parts), kind="stable")[:rest]] += 1
    return parts


def rule_weight(signal_to_noise: float | None, threshold: float) -> float:
    """The part that a rule decides, beside its fallback: zero up to the threshold, then growing with the signal.

    Args:
        signal_to_noise: measured on tonight's counterfactual models; None if there are none.
        threshold: the contract's; 0 lets the rule decide alone.
    """
    if threshold == 0:
        return 1.0
    if signal_to_noise is None or signal_to_noise <= threshold:
        return 0.0
    return 1 - threshold / signal_to_noise


def _mixed(rule: pl.DataFrame | None, fallback: pl.DataFrame | None, weight: float) -> pl.DataFrame:
    """Both tables by party, weighted; the fallback alone if the rule gives no shares."""
    empty = pl.DataFrame(schema=RULE_SHARES.schema)
    rule, fallback = (empty if table is None else table for table in (rule, fallback))
    if rule["share"].sum() == 0:
        weight = 0.0
    numbers = ("share", "low", "high")
    parts = [table.with_columns(pl.col(*numbers) * part) for table, part in ((rule, weight), (fallback, 1 - weight)) if part]
    if not parts:
        return empty
    return pl.concat(parts).group_by("account", "party_id").agg(pl.col(*numbers).sum()).sort("account", "party_id")


def _to_others(shares: pl.DataFrame) -> pl.DataFrame:
    """Divides unclaimed shares among the other parties in proportion; they stay in escrow if there are no others."""
    others = shares.filter(~is_unclaimed() & (pl.col("share") > 0))
    if others.is_empty():
        return shares
    return others.with_columns(pl.col("share", "low", "high") / others["share"].sum())


def _bounded(share: np.ndarray, contract: Contract) -> np.ndarray:
    """Moves shares below the floor, and excess over the cap as far as possible, to the other parties."""
    floor, cap = contract.floor_ppb / PPB, contract.cap_ppb / PPB
    kept = np.where(share >= floor, share, 0.0)
    if not kept.any():
        kept = np.where(share == share.max(), share, 0.0)  # all are below the floor: the largest stay
    kept = kept / kept.sum()
    if cap * np.count_nonzero(kept) <= 1:
        return np.where(kept > 0, 1.0, 0.0)
    over = np.zeros(len(kept), dtype=bool)
    while (kept > cap + 1e-12).any():
        over |= kept > cap + 1e-12
        free = kept[~over].sum()
        kept = np.where(over, cap, kept * ((1 - cap * over.sum()) / free if free else 0))
    return kept
