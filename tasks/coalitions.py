"""Audit `srs`: train on every coalition of a few owners, and around the diagonal, and hold royalty rules against it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from provenance.core.arrays import positive_shares
from provenance.core.errors import ContractError
from provenance.royalty.contracts import Contract
from provenance.royalty.diagonal import nodes
from provenance.royalty.shapley import EXACT, exact
from provenance.validation import results
from provenance.validation.coalitions import Known, compare, slopes_on_diagonal
from provenance.validation.figures import shares_figure
from provenance.validation.subsets import around_the_diagonal, coalitions
from tasks.audit import scores_of, units
from tasks.night import read_written
from tasks.retrain import retrain
from tasks.royalty import value_night

if TYPE_CHECKING:
    from tasks.night import Night
    from tasks.settings import Settings

log = logging.getLogger("provenance.coalitions")

NODES = 3  # of the diagonal, each a rate at which everybody's works are in
SEED = 101  # and those that follow; none that a model in use was trained with


@dataclass(frozen=True)
class Options:
    """How much an audit retrains.

    Attributes:
        seeds: trainings of each coalition; two at least, for the noise of the truth.
        diagonal: trainings at each node of the diagonal.
    """

    seeds: int = 2
    diagonal: int = 128


def audit_srs(settings: Settings, night: Night, options: Options) -> str:
    """Hold every rule's shares against those that retraining gives; returns the folder of the result."""
    if options.seeds < 2:
        raise ContractError("audit srs: seeds", expected="2 or more, for the noise of the truth", found=str(options.seeds))
    owners, _, losses = coalition_truth(settings, night, options)
    worth = -losses
    values = [exact(Known(seed)) for seed in worth]
    truths = {"srs": exact(Known(worth.mean(axis=0)))}
    noise = [compare(value, np.mean(np.delete(values, at, axis=0), axis=0)) for at, value in enumerate(values)]
    if options.diagonal:
        truths["faithful"] = slopes_on_diagonal(diagonal_truth(settings, night, options), *nodes(NODES))
    found = estimates(settings, night, owners)
    result: dict[str, Any] = {
        "night": night.inputs,
        "options": asdict(options),
        "owners": owners,
        "outputs": worth.shape[2],
        "seeds_agree": {key: float(np.mean([each[key] for each in noise])) for key in noise[0]},
        "methods": {name: {truth: compare(values, true) for truth, true in truths.items()} for name, values in found.items()},
        "mean_shares": {
            name: dict(zip(owners, positive_shares(values).mean(axis=1).tolist(), strict=True))
            for name, values in {**{f"{name}, retrained": true for name, true in truths.items()}, **found}.items()
        },
    }
    return results.publish(settings.store.open(), "srs", result, shares_figure(result, truths, found))


def estimates(settings: Settings, night: Night, owners: list[str]) -> dict[str, np.ndarray]:
    """What rules and baselines say of owners, `(owners, outputs)`, in whatever unit: shares follow from it."""
    store = settings.store.open()
    outputs = night.read_outputs(store)["output_id"].to_list()
    examples, whose = units(store, night)
    member = np.array([[own == owner for own in whose] for owner in owners], dtype=float)
    found = {}
    mine = value_night(store, night, Contract(name="audited", developer_ppb=0, duplicates="off"), settings)
    table = read_written(store, mine.folder, "values", "rule_shares.parquet")
    for rule in ("faithful", "srs"):
        part = table.filter(pl.col("rule") == rule)
        at = {(owner, output): share for owner, output, share in part.select("party_id", "output_id", "share").iter_rows()}
        found[rule] = np.array([[at.get((owner, output), 0.0) for output in outputs] for owner in owners])
    for name in ("factored", "tfidf"):
        found[f"sum of {name}"] = member @ scores_of(settings, store, night, name, examples).T
    found["by number of examples"] = np.repeat(member.sum(axis=1)[:, None], len(outputs), axis=1)
    found["equal"] = np.ones((len(owners), len(outputs)))
    return found


def coalition_truth(settings: Settings, night: Night, options: Options) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Owners; coalitions `(2^k, k)`; and the outputs' losses after training on each, `(seeds, 2^k, outputs)`."""
    _, whose = units(settings.store.open(), night)
    owners, inside, masks = coalitions(_few(whose))
    losses = [retrain(settings, night, masks, SEED + at, "coalitions") for at in range(options.seeds)]
    return owners, inside, np.stack(losses)


def diagonal_truth(settings: Settings, night: Night, options: Options) -> list[tuple[np.ndarray, np.ndarray]]:
    """At each node, what part of each owner's examples was in, and the losses that came of it.

    Returns:
        pairs of `(trainings, k)` and `(trainings, outputs)`.
    """
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
    if count > EXACT:
        raise ContractError(
            "audit srs: corpus", expected=f"at most {EXACT} owners, to train on every coalition", found=str(count)
        )
    return whose
