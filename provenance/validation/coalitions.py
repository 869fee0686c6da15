"""Audit `srs`: trains on every coalition of a few owners, and around the diagonal, and compares royalty rules with that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from provenance.core.arrays import positive_shares
from provenance.core.errors import ContractError
from provenance.core.where import Where
from provenance.influence import audits
from provenance.inputs.contracts import Contract
from provenance.inputs.night import Night, read_manifest, read_whole, subject_of_night
from provenance.local.royalty import value_night
from provenance.models.counterfactual_training import train_set
from provenance.royalty.fidelity import rank_correlations
from provenance.royalty.shares import BANZHAF, BY_VALUE, FAITHFUL, SRS
from provenance.validation.audit import scores_of, units
from provenance.validation.figures import shares_figure
from provenance.validation.retrain import retrain
from provenance.validation.subsets import around_the_diagonal, coalitions, nodes

NODES = 3  # of the diagonal: rates of inclusion, the same for all owners
SEED = 101  # the first; models in use have other seeds
MOST = 12  # owners; they have 4,096 coalitions


@dataclass(frozen=True)
class Options:
    """The amount of retraining in an audit.

    Attributes:
        seeds: trainings of each coalition; at least two, for the noise of the truth.
        diagonal: trainings at each node of the diagonal.
        trainings: costs of counterfactual models, in full trainings; shares are estimated for each of these numbers.
    """

    seeds: int = 2
    diagonal: int = 128
    trainings: tuple[int, ...] = (4, 8, 16)


def audit_srs(where: Where, night: Night, options: Options) -> str:
    """Compare every rule's shares with those from retraining; returns the folder of the result."""
    if options.seeds < 2:
        raise ContractError("audit srs: seeds", expected="2 or more, for the noise of the truth", found=str(options.seeds))
    if min(options.trainings) < 1:
        raise ContractError("audit srs: trainings", expected="1 or more each", found=str(min(options.trainings)))
    _, owner_of = units(where.store, night)
    if (count := len(set(owner_of))) > MOST:
        expected = f"at most {MOST} owners, to train on every coalition"
        raise ContractError("audit srs: corpus", expected=expected, found=str(count))
    owners, _, masks = coalitions(owner_of)
    member = np.array([[owner == own for own in owner_of] for owner in owners], dtype=float)
    worth = -np.stack([retrain(where, night, masks, SEED + at, "coalitions") for at in range(options.seeds)])
    values = [shapley(seed) for seed in worth]
    truths = {SRS: shapley(worth.mean(axis=0)), BANZHAF: banzhaf(worth.mean(axis=0))}
    noise = [compare(value, np.mean(np.delete(values, at, axis=0), axis=0)) for at, value in enumerate(values)]
    if options.diagonal:
        truths[FAITHFUL] = retrained_on_diagonal(where, night, owner_of, options.diagonal)
    by_baseline = baselines(where, night, member)
    estimated = {count: estimates(where, night, owners, count) for count in sorted(options.trainings)}
    result: dict[str, Any] = {
        "night": night.inputs,
        "options": asdict(options),
        "owners": owners,
        "outputs": worth.shape[2],
        "seeds_agree": {key: float(np.mean([each[key] for each in noise])) for key in noise[0]},
        "methods": {
            name: {rule: compare(values, true) for rule, true in truths.items()} for name, values in by_baseline.items()
        },
        "trainings": {
            str(count): {rule: _compared(shares[rule], truths[rule]) for rule in truths} | {"report": report}
            for count, (shares, report) in estimated.items()
        },
        "mean_shares": {
            name: dict(zip(owners, positive_shares(values).mean(axis=1).tolist(), strict=True))
            for name, values in {**{f"{name}, retrained": true for name, true in truths.items()}, **by_baseline}.items()
        },
    }
    last = estimated[max(estimated)][0]
    figure = shares_figure(result, truths, {rule: last[rule][0] for rule in truths}, by_baseline)
    return audits.publish(where.store, "srs", result, figure)


def retrained_on_diagonal(
    where: Where, night: Night, owner_of: Sequence[str], trainings: int, part: slice = slice(None)
) -> np.ndarray:
    """The values of `faithful` from models retrained around the diagonal, `(owners, outputs)`; owners sorted.

    Args:
        trainings: at each node; part: of these, those that are regressed.
    """
    member = np.array([[owner == own for own in owner_of] for owner in sorted(set(owner_of))], dtype=float)
    rates, weights = nodes(NODES)
    seen = []
    for rate in rates.tolist():
        masks = around_the_diagonal(owner_of, rate, trainings, name="audit diagonal")[part]
        seeds = [SEED + at // 2 for at in range(trainings)][part]
        losses = retrain(where, night, masks, seeds, f"the diagonal at {rate:.2f}")
        seen.append((masks @ member.T / member.sum(axis=1), losses))
    return slopes_on_diagonal(seen, rates, weights)


def baselines(where: Where, night: Night, member: np.ndarray) -> dict[str, np.ndarray]:
    """Values of owners by methods without retraining, `(owners, outputs)`, in any unit."""
    outputs = sum(part.rows for part in night.outputs)
    tokens = night.read_corpus(where.store, "tokens")["tokens"].to_numpy()
    values = {f"sum of {name}": member @ scores_of(where, night, name).T for name in ("factored", "tfidf")}
    values["by tokens"] = np.repeat((member @ tokens)[:, None], outputs, axis=1)
    values["equal"] = np.ones((len(member), outputs))
    return values


def estimates(
    where: Where, night: Night, owners: Sequence[str], trainings: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Share, low and high by rule, `(3, owners, outputs)`, by models that cost so many trainings; and fidelity."""
    store = where.store
    subject = subject_of_night(store, night, where.settings.model.cache)
    contract = Contract(name="audited", developer_ppb=0, duplicates="off")
    valued = value_night(where, replace(night, counterfactuals=train_set(where, subject, trainings)), contract)
    table = read_whole(store, valued.folder, "estimate", "rule_shares")
    outputs = night.read_outputs(store)["output_id"].to_list()
    shares = {rule: np.zeros((3, len(owners), len(outputs))) for rule in BY_VALUE}
    columns = ("rule", "party_id", "output_id", "share", "low", "high")
    for rule, owner, output, *numbers in table.filter(pl.col("rule").is_in(BY_VALUE)).select(columns).iter_rows():
        shares[rule][:, owners.index(owner), outputs.index(output)] = numbers
    return shares, read_manifest(store, valued.folder, "estimate")["copies"]["off"]


def _compared(estimate: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The errors of shares, and the part of true shares inside the intervals; estimate: share, low, high."""
    share, low, high = estimate
    true = positive_shares(truth)
    inside = (true >= low - 1e-9) & (true <= high + 1e-9)
    return {**compare(share, truth), "held": float(inside.mean()), "width": float((high - low).mean())}


def shapley(worth: np.ndarray) -> np.ndarray:
    """Shapley values over all coalitions (Shapley 1953): `(k, outputs)`.

    Args:
        worth: of each coalition by its number, whose bits are the members, `(2^k, outputs)`.
    """
    inside = _members(len(worth))
    players = inside.shape[1]
    # The weight of a coalition by its size, for an owner that joins it.
    joining = np.array([1 / (players * math.comb(players - 1, size)) for size in range(players)])
    size = inside.sum(axis=1, keepdims=True)
    weight = np.where(inside, joining[np.maximum(size - 1, 0)], -joining[np.minimum(size, players - 1)])
    return np.asarray(weight.T @ worth)


def banzhaf(worth: np.ndarray) -> np.ndarray:
    """Banzhaf values over all coalitions (Wang and Jia 2023, arXiv 2205.15466, section 4): `(k, outputs)`."""
    return np.asarray(np.where(_members(len(worth)), 1, -1).T @ worth / (len(worth) / 2))


def _members(count: int) -> np.ndarray:
    """Members of each coalition by its number, `(2^k, k)` bool."""
    return np.asarray((np.arange(count)[:, None] >> np.arange(int(np.log2(count)))) & 1 == 1)


def slopes_on_diagonal(seen: Sequence[tuple[np.ndarray, np.ndarray]], rates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The slopes of log-likelihood over owners' works along the diagonal, `(owners, outputs)`, by regression at each node.

    Args:
        seen: at each node, the included parts of owners' examples, `(trainings, owners)`, and losses, `(trainings, outputs)`.
    """
    total = np.zeros((seen[0][0].shape[1], seen[0][1].shape[1]))
    for (parts, losses), rate, weight in zip(seen, rates, weights, strict=True):
        design = np.column_stack([np.ones(len(parts)), parts - rate])
        total += weight * np.linalg.lstsq(design, -losses, rcond=None)[0][1:]
    return total


def compare(estimate: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """L1 error of the shares `max(0, v) / sum max(0, v)`, and correlations of the values, averaged over outputs.

    Args:
        estimate, truth: values, `(owners, outputs)`.
    """
    shares, true = (positive_shares(values) for values in (estimate, truth))
    pearson = [np.corrcoef(a, b)[0, 1] if a.std() > 0 and b.std() > 0 else 0.0 for a, b in zip(shares.T, true.T, strict=True)]
    return {
        "l1": float(np.abs(shares - true).sum(axis=0).mean()),
        "spearman": float(rank_correlations(estimate, truth).mean()),
        "pearson": float(np.mean(pearson)),
    }
