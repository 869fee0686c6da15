"""Audit `srs`: train on every coalition of a few owners, and around the diagonal, and hold royalty rules against it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from provenance.core.arrays import positive_shares
from provenance.core.errors import ContractError
from provenance.inputs.contracts import Contract
from provenance.inputs.night import Night, read_manifest, read_written
from provenance.local.royalty import value_night
from provenance.models.counterfactuals import Subject, train_set
from provenance.royalty.shares import BANZHAF, BY_VALUE, FAITHFUL, SRS
from provenance.validation import results
from provenance.validation.audit import scores_of, units
from provenance.validation.coalitions import banzhaf, compare, shapley, slopes_on_diagonal
from provenance.validation.figures import shares_figure
from provenance.validation.retrain import retrain
from provenance.validation.subsets import around_the_diagonal, coalitions, nodes
from tasks.settings import Settings

log = logging.getLogger("provenance.coalitions")

NODES = 3  # of the diagonal, each a rate at which everybody's works are in
SEED = 101  # and those that follow; none that a model in use was trained with
MOST = 12  # owners: there are 4,096 coalitions of so many


@dataclass(frozen=True)
class Options:
    """How much an audit retrains.

    Attributes:
        seeds: trainings of each coalition; two at least, for the noise of the truth.
        diagonal: trainings at each node of the diagonal.
        trainings: what the counterfactual models are worth on which shares are estimated, once for each number.
    """

    seeds: int = 2
    diagonal: int = 128
    trainings: tuple[int, ...] = (4, 8, 16)


def audit_srs(settings: Settings, night: Night, options: Options) -> str:
    """Hold every rule's shares against those that retraining gives; returns the folder of the result."""
    if options.seeds < 2:
        raise ContractError("audit srs: seeds", expected="2 or more, for the noise of the truth", found=str(options.seeds))
    if min(options.trainings) < 1:
        raise ContractError("audit srs: trainings", expected="1 or more each", found=str(min(options.trainings)))
    owners, losses = coalition_truth(settings, night, options)
    worth = -losses
    values = [shapley(seed) for seed in worth]
    truths = {SRS: shapley(worth.mean(axis=0)), BANZHAF: banzhaf(worth.mean(axis=0))}
    noise = [compare(value, np.mean(np.delete(values, at, axis=0), axis=0)) for at, value in enumerate(values)]
    if options.diagonal:
        truths[FAITHFUL] = slopes_on_diagonal(diagonal_truth(settings, night, options), *nodes(NODES))
    found = baselines(settings, night, owners)
    estimated = {count: estimates(settings, night, owners, count) for count in sorted(options.trainings)}
    result: dict[str, Any] = {
        "night": night.inputs,
        "options": asdict(options),
        "owners": owners,
        "outputs": worth.shape[2],
        "seeds_agree": {key: float(np.mean([each[key] for each in noise])) for key in noise[0]},
        "methods": {name: {truth: compare(values, true) for truth, true in truths.items()} for name, values in found.items()},
        "trainings": {
            str(count): {rule: _held_against(shares[rule], truths[rule]) for rule in truths} | {"report": report}
            for count, (shares, report) in estimated.items()
        },
        "mean_shares": {
            name: dict(zip(owners, positive_shares(values).mean(axis=1).tolist(), strict=True))
            for name, values in {**{f"{name}, retrained": true for name, true in truths.items()}, **found}.items()
        },
    }
    last = estimated[max(estimated)][0]
    figure = shares_figure(result, truths, {rule: last[rule][0] for rule in truths}, found)
    return results.publish(settings.store.open(), "srs", result, figure)


def _held_against(estimate: tuple[np.ndarray, np.ndarray, np.ndarray], truth: np.ndarray) -> dict[str, float]:
    """How far shares are from the truth, and the part of true shares that their intervals hold."""
    share, low, high = estimate
    true = positive_shares(truth)
    held = (true >= low - 1e-9) & (true <= high + 1e-9)
    return {**compare(share, truth), "held": float(held.mean()), "width": float((high - low).mean())}


def baselines(settings: Settings, night: Night, owners: list[str]) -> dict[str, np.ndarray]:
    """What is said of owners without retraining, `(owners, outputs)`, in whatever unit: shares follow from it."""
    store = settings.store.open()
    _, whose = units(store, night)
    member = np.array([[own == owner for own in whose] for owner in owners], dtype=float)
    outputs = sum(part.rows for part in night.outputs)
    tokens = night.read_corpus(store, "tokens")["tokens"].to_numpy()
    found = {f"sum of {name}": member @ scores_of(settings, store, night, name).T for name in ("factored", "tfidf")}
    found["by tokens"] = np.repeat((member @ tokens)[:, None], outputs, axis=1)
    found["equal"] = np.ones((len(owners), outputs))
    return found


def estimates(
    settings: Settings, night: Night, owners: Sequence[str], trainings: int
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], dict[str, Any]]:
    """Shares by rule with the ends of their intervals, by models worth so many trainings, and how far they are trusted."""
    store = settings.store.open()
    subject = Subject.of(store, night, settings.model.cache)
    contract = Contract(name="audited", developer_ppb=0, duplicates="off")
    mine = value_night(store, replace(night, counterfactuals=train_set(subject, trainings, settings)), contract, settings)
    table = read_written(store, mine.folder, "estimate", "rule_shares.parquet")
    outputs = night.read_outputs(store)["output_id"].to_list()
    found = {rule: _by_owner(table.filter(pl.col("rule") == rule), owners, outputs) for rule in BY_VALUE}
    return found, read_manifest(store, mine.folder, "estimate")["copies"]["off"]


def _by_owner(table: pl.DataFrame, owners: Sequence[str], outputs: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place = {(owner, output): (at, to) for at, owner in enumerate(owners) for to, output in enumerate(outputs)}
    found = np.zeros((3, len(owners), len(outputs)))
    for owner, output, *numbers in table.select("party_id", "output_id", "share", "low", "high").iter_rows():
        found[(slice(None), *place[owner, output])] = numbers
    return found[0], found[1], found[2]


def coalition_truth(settings: Settings, night: Night, options: Options) -> tuple[list[str], np.ndarray]:
    """Owners, and the outputs' losses after training on each coalition by its number, `(seeds, 2^k, outputs)`."""
    _, whose = units(settings.store.open(), night)
    owners, _, masks = coalitions(_few(whose))
    return owners, np.stack([retrain(settings, night, masks, SEED + at, "coalitions") for at in range(options.seeds)])


def diagonal_truth(settings: Settings, night: Night, options: Options) -> list[tuple[np.ndarray, np.ndarray]]:
    """At each node: what part of each owner's examples was in, `(trainings, k)`, and the losses, `(trainings, outputs)`."""
    _, whose = units(settings.store.open(), night)
    owners = sorted(set(_few(whose)))
    member = np.array([[own == owner for own in whose] for owner in owners], dtype=float)
    found = []
    for rate in nodes(NODES)[0].tolist():
        masks = around_the_diagonal(whose, rate, options.diagonal, name="audit diagonal")
        losses = retrain(settings, night, masks, [SEED + at // 2 for at in range(len(masks))], f"the diagonal at {rate:.2f}")
        found.append((masks @ member.T / member.sum(axis=1), losses))
    return found


def _few(whose: list[str]) -> list[str]:
    count = len(set(whose))
    if count > MOST:
        raise ContractError(
            "audit srs: corpus", expected=f"at most {MOST} owners, to train on every coalition", found=str(count)
        )
    return whose
