"""How well a sibling of a quarter of the size, trained on the same parts of the owners, stands in for a model's retraining.

    python bench/siblings.py eight var/workloads/eight [--trainings 16] [--seeds 2]

The folder is one of `provenance workload`, of few owners. The sibling has half the width, and is trained by the same recipe on
the same corpus; counterfactual models of both are trained on the same parts of the owners. Prints JSON: how well models, and
contrasts of owners, of the one predict those of the other, beside retraining of the model itself with another seed; and how far
shares by `srs` are from those by retraining on every coalition, from the model's own counterfactual models, from the sibling's,
and from few of the model's own with the sibling's contrasts as one more component of the prior. What was trained stays below
`siblings/` of the folder, so that the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from provenance.core.where import Where
from provenance.influence.night_scores import read_influence, read_parties
from provenance.inputs.contracts import Contract
from provenance.inputs.night import Night, subject_of_night
from provenance.local.attribute import Request, folder_night
from provenance.local.royalty import value_night
from provenance.models.counterfactual_training import train_set
from provenance.models.model import examples_in, read_model, with_prompts
from provenance.royalty.estimate import Fitted, fit, project, rule_named, values, worth_of_size
from provenance.royalty.holdings import corpus_holdings
from provenance.royalty.likelihoods import read_outcomes
from provenance.royalty.outcomes import Outcomes
from provenance.royalty.shares import SRS
from provenance.validation.audit import units
from provenance.validation.coalitions import compare, shapley
from provenance.validation.retrain import retrain
from provenance.validation.subsets import coalitions
from provenance.validation.workload import SEED, WORKLOADS
from tasks.where import local_settings, opened

DAY = date(2026, 11, 20)
FIRST = 701  # seed of coalitions; models in use, and those of other audits, have other seeds
FEW = (1, 2, 4, 8)  # worths of few counterfactual models, in trainings
COPIES = "off"  # a copy trains like any other work
# Workloads of few owners, whose models have a width.
NAMES = ("composers", "designers", "eight", "languages")


@dataclass(frozen=True)
class Measured:
    """A model's counterfactual models and influence.

    Attributes:
        night: with its counterfactual models.
        outcomes: of all of them; influence: of owners by component, `(K, n, Q)`; weights: of the model, their number.
    """

    where: Where
    night: Night
    outcomes: Outcomes
    influence: np.ndarray
    weights: int


def train_sibling(name: str, folder: Path) -> Path:
    """Train a workload's recipe at half its width on the workload's corpus; returns the model folder."""
    out = folder / "siblings/small/model"
    if not (out / "model.toml").exists():
        fresh = WORKLOADS[name].fresh
        assert isinstance(fresh, partial), name
        examples = examples_in(pl.read_parquet(folder / "corpus/examples.parquet"))
        out.mkdir(parents=True, exist_ok=True)
        adapter = fresh.func(examples, out, **(fresh.keywords | {"width": fresh.keywords["width"] // 2}))
        with_prompts(adapter.train, examples, name, seed=SEED, folder=out, model_id=f"{name}-sibling", device="cpu")
    return out


def measured(where: Where, folder: Path, model: Path, out: Path, trainings: int) -> Measured:
    """Train a model's counterfactual models, and compute the stages of a night with them."""
    local, night = folder_night(where, Request(folder / "corpus", model, folder / "outputs.parquet", out, DAY))
    subject = subject_of_night(local.store, night, local.settings.model.cache)
    night = replace(night, counterfactuals=train_set(local, subject, trainings))
    valued = value_night(local, night, Contract(name="siblings", developer_ppb=0, duplicates=COPIES))
    parties = read_parties(local.store, valued.folder, COPIES)
    fitted_on, aside = read_outcomes(local, valued, corpus_holdings(local.store, valued, COPIES), parties)
    both = ("inside", "partition", "value", "seen")
    joined: dict[str, Any] = {key: np.concatenate([getattr(fitted_on, key), getattr(aside, key)]) for key in both}
    # In the order of their parts of the owners, which large and small models have in common.
    order = np.lexsort((coalition_of(joined["inside"]), joined["partition"]))
    joined = {key: values[order] for key, values in joined.items()}
    sums = [read_influence(local.store, valued, COPIES, part).sums for part in range(len(valued.parts))]
    opened_model = read_model(model)
    module = opened_model.load(opened_model.card.checkpoints[-1])
    return Measured(
        local,
        valued,
        replace(fitted_on, **joined),
        np.concatenate(sums, axis=1).transpose(0, 2, 1),
        sum(parameter.numel() for parameter in module.parameters()),
    )


def coalition_of(inside: np.ndarray) -> np.ndarray:
    """The number of the coalition on which each counterfactual model was trained: its members are the bits."""
    return np.asarray((inside > 0.5) @ (1 << np.arange(inside.shape[1])))


def estimated(outcomes: Outcomes, influence: np.ndarray) -> tuple[Fitted, np.ndarray]:
    """The fit, and owners' values under `srs`, `(n, Q)`."""
    fitted = fit(outcomes, project(outcomes, influence))
    value, _ = values(fitted, rule_named(SRS, fitted), influence, np.arange(outcomes.value.shape[1]))
    return fitted, np.asarray(value)


def contrasts_of(fitted: Fitted, value: np.ndarray) -> np.ndarray:
    """The effects of owners beyond the worth of their size, `(n, Q)`."""
    return np.asarray(value - worth_of_size(fitted, rule_named(SRS, fitted), np.arange(value.shape[1])))


def worth(outcomes: Outcomes, trainings: int) -> Outcomes:
    """The models of the first partitions: each partition costs one training."""
    return outcomes.subset(outcomes.partition < trainings)


def regressed(outcomes: Outcomes) -> np.ndarray:
    """Contrasts of owners by ordinary least squares within each stratum, without a prior, `(n, Q)`."""
    strata = np.unique(outcomes.strata, return_inverse=True)[1]
    member = np.eye(strata.max() + 1)[strata]
    design = np.column_stack([member, outcomes.contrast])
    found = np.linalg.lstsq(design, outcomes.value, rcond=None)[0][member.shape[1] :]
    return np.asarray(found - found.mean(axis=0))


def agreement(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Correlation, and the scale at which the other explains the one best."""
    one, other = one.ravel(), other.ravel()
    return {"correlation": float(np.corrcoef(one, other)[0, 1]), "scale": float(one @ other / (other @ other))}


def within_strata(value: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Values of models without the mean of their stratum, `(M, Q)`."""
    return np.concatenate([value[strata == s] - value[strata == s].mean(axis=0) for s in np.unique(strata)])


def measure(large: Measured, small: Measured, owners: Sequence[str], truth: np.ndarray, again: np.ndarray) -> dict[str, Any]:
    """The figures.

    Args:
        truth: Shapley values by retraining, `(n, Q)`; again: log-likelihoods of the large models retrained with another seed.
    """
    own, other = large.outcomes, small.outcomes
    sibling, by_sibling = estimated(other, large.influence)
    component = contrasts_of(sibling, by_sibling)[None]
    most = int(own.partition.max()) + 1
    shares = {
        "equal": compare(np.ones_like(truth), truth),
        "by tokens": compare(np.repeat(own.size[:, None], truth.shape[1], axis=1), truth),
        f"sibling alone, worth {most}": compare(by_sibling, truth),
    }
    for trainings in (*(few for few in FEW if few < most), most):
        some = worth(own, trainings)
        shares[f"own, worth {trainings}"] = compare(estimated(some, large.influence)[1], truth)
        joined = np.concatenate([large.influence, component.astype(large.influence.dtype)])
        shares[f"own, worth {trainings}, and the sibling as a component"] = compare(estimated(some, joined)[1], truth)
    within, seen = within_strata(own.value, own.strata), within_strata(other.value, own.strata)
    return {
        "owners": list(owners),
        "weights": [large.weights, small.weights],
        "models": len(own.value),
        "models, by the sibling's": agreement(within, seen),
        "models, by another seed": agreement(within, within_strata(again, own.strata)),
        "contrasts, by the sibling's": agreement(regressed(own), regressed(other)),
        "contrasts, by another seed": agreement(regressed(own), regressed(replace(own, value=again))),
        "shares by srs": shares,
    }


def main() -> None:
    """Measure one workload and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES, help="of the workload")
    parser.add_argument("workload", type=Path, help="the folder of `provenance workload NAME FOLDER`")
    parser.add_argument("--trainings", type=int, default=16, choices=(2, 4, 8, 16), help="worth of the models (default: 16)")
    parser.add_argument("--seeds", type=int, default=2, help="trainings on every coalition (default: 2)")
    parser.add_argument("--workers", type=int, help="processes that train (default: as many as there are cores)")
    asked = parser.parse_args()
    folder, out = asked.workload, asked.workload / "siblings"
    if lacking := [name for name in ("corpus", "model", "outputs.parquet") if not (folder / name).exists()]:
        parser.error(f"{folder} lacks {lacking[0]}: make it with provenance workload {asked.name} {folder}")
    with opened(local_settings(device="cpu", workers=asked.workers), ledger=False) as where:
        models = {"large": folder / "model", "small": train_sibling(asked.name, folder)}
        large, small = (measured(where, folder, models[key], out / key, asked.trainings) for key in models)
        _, owner_of = units(large.where.store, large.night)
        owners, _, masks = coalitions(owner_of)
        worths = [-retrain(large.where, large.night, masks, FIRST + at, "coalitions") for at in range(asked.seeds)]
        again = worths[0][coalition_of(large.outcomes.inside)]
        result = measure(large, small, owners, shapley(np.mean(worths, axis=0)), again)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
