"""Audits influence: retrains on parts of the corpus, and compares each method's predictions with the results."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from provenance.core.errors import ContractError
from provenance.core.published import night_in_force, published_days
from provenance.core.store import Store, canonical_json
from provenance.core.where import Where
from provenance.corpus.ownership import parties
from provenance.influence import audits
from provenance.influence.methods import default_weights
from provenance.influence.night_scores import kept_components
from provenance.inputs.methods import comparisons
from provenance.inputs.night import VERSIONS, Night, load_night, read_manifest
from provenance.local.attribute import score_every_example
from provenance.royalty.estimate import fit, project
from provenance.royalty.fidelity import FEWEST
from provenance.royalty.outcomes import Outcomes
from provenance.validation.figures import lds_figure
from provenance.validation.lds import linear_datamodelling_score, noise_ceiling
from provenance.validation.retrain import base_and_served, retrain
from provenance.validation.subsets import halves

log = logging.getLogger("provenance.audit")


EXAMPLES, OWNERS = "examples", "owners"
FITTED = "fitted"
SEED = 101  # the first; models in use have other seeds


@dataclass(frozen=True)
class Options:
    """The amount of retraining in an audit.

    Attributes:
        subsets: of each family, to compare methods on.
        tune: more subsets, to weigh the components of `fitted` on; they are not reported.
        seeds: trainings of each subset; at least two, for the noise ceiling.
        methods: to compare.
    """

    subsets: int = 48
    tune: int = 24
    seeds: int = 2
    methods: tuple[str, ...] = ("fitted", "factored", "tfidf")


def audit_lds(where: Where, night: Night, options: Options) -> str:
    """Retrain on random halves of examples and of owners; returns the folder of the result."""
    if options.seeds < 2:
        raise ContractError("audit: seeds", expected="2 or more, for the noise ceiling", found=str(options.seeds))
    for name in options.methods:  # refuses unknown methods before anything is trained
        comparisons(name)
    fitted = FITTED in options.methods
    if fitted and options.tune < FEWEST:
        expected = f"{FEWEST} tuning subsets or more, to weigh the components of {FITTED!r} on"
        raise ContractError("audit: tune", expected=expected, found=str(options.tune))
    _, masks, losses = truth(where, night, options)
    scores = {name: scores_of(where, night, name) for name in options.methods if name != FITTED}
    result: dict[str, Any] = {"night": night.inputs, "options": asdict(options), "families": {}}
    # Few owners have few halves; they are divided between both uses in the same proportion.
    tune = {family: options.tune * len(chosen) // (options.tune + options.subsets) for family, chosen in masks.items()}
    components = components_of(where, night, FITTED) if fitted else {}
    ends = base_and_served(where, night) if fitted else None
    for family, chosen in masks.items():
        if ends is not None:
            weights = weigh(chosen[: tune[family]], losses[family][:, : tune[family]].mean(axis=0), components, ends)
            scores[FITTED] = values_of(weights, components, ends)
            result.setdefault("weights", {})[family] = weights
            result["tuning_subsets"] = tune
        reported, outcome = chosen[tune[family] :], losses[family][:, tune[family] :]
        agreement, ceiling = noise_ceiling(outcome)
        mean = outcome.mean(axis=0)
        result["families"][family] = {
            "subsets": len(reported),
            "seed_agreement": agreement,
            "ceiling": ceiling,
            "methods": {name: linear_datamodelling_score(matrix, reported, mean) for name, matrix in scores.items()},
        }
    return audits.publish(where.store, "lds", result, lds_figure(result))


def truth(where: Where, night: Night, options: Options) -> tuple[list[str], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Retrain on random halves of examples and of owners.

    Returns:
        example ids; by family the examples of each subset, `(tune + subsets, examples)` bool; and the losses of the outputs,
        `(seeds, tune + subsets, outputs)`. Few owners have fewer halves than that.
    """
    examples, owners = units(where.store, night)
    count = options.tune + options.subsets
    masks = {
        EXAMPLES: halves(examples, count, name="audit examples"),
        OWNERS: halves(owners, count, name="audit owners"),
    }
    for family, chosen in masks.items():
        if len(chosen) < count:
            log.warning("%s: there are only %d halves of them, and no more subsets", family, len(chosen))
    losses = {
        family: np.stack([retrain(where, night, chosen, SEED + at, family) for at in range(options.seeds)])
        for family, chosen in masks.items()
    }
    return examples, masks, losses


def audit_published(where: Where) -> str:
    """Audit the night of the latest published day, and put the result in force for manifests; returns its folder."""
    store, settings = where.store, where.settings.audit
    days = published_days(store)
    if not days:
        where_to = store.locate("exports/payouts")
        raise ContractError(
            where_to, expected="a published day to audit", found="none", hint="Run the DAG nightly_payouts first."
        )
    night = load_night(store, night_in_force(store, days[-1]))
    if not sum(part.rows for part in night.outputs):
        raise ContractError(f"night of {night.day}", expected="at least one output to audit with", found="none")
    methods = tuple(dict.fromkeys((night.method["name"], *settings.methods)))
    folder = audit_lds(where, night, Options(settings.subsets, settings.tune, settings.seeds, methods))
    audits.put_in_force(store, folder, night.folder)
    log.info("audit of %s: %s", night.day, store.locate(folder))
    return folder


def units(store: Store, night: Night) -> tuple[list[str], list[str]]:
    """Example ids in the order of the shards, and the party with the largest stake in each."""
    examples = night.read_corpus(store, "example_id", "work_id", "owner_id")
    stakes = parties(examples, store.read_table(night.frozen_corpus(store).claims.key), night.date)
    largest = stakes.sort("work_id", "stake_ppb", "party_id", descending=[False, True, False]).group_by("work_id").first()
    if examples.height < 2 or largest["party_id"].n_unique() < 2:
        found = f"{examples.height} examples of {largest['party_id'].n_unique()} owners"
        raise ContractError("audit: corpus", expected="at least 2 examples and 2 owners, to leave some out", found=found)
    owners = examples.join(largest, on="work_id", how="left", maintain_order="left")["party_id"]
    return examples["example_id"].to_list(), owners.to_list()


def scores_of(where: Where, night: Night, name: str) -> np.ndarray:
    """Influences by a method, `(outputs, examples)`, computed by the night's own stages, with default weights."""
    components = components_of(where, night, name)
    weights = default_weights(list(components))
    return np.asarray(sum(weight * matrix for weight, matrix in zip(weights, components.values(), strict=True)))


def components_of(where: Where, night: Night, name: str) -> dict[str, np.ndarray]:
    """Influences by a method and component, `(outputs, examples)` each, examples in the order of the shards."""
    # A night without a contract pays nobody and keeps every score. It runs the stages of today's version.
    method = night.method | {"name": name, "versions": VERSIONS}
    unpaid = replace(night, method=method, contract={}, counterfactuals={})
    where.store.write(f"{unpaid.folder}/inputs.json", canonical_json(unpaid.inputs))
    folder = score_every_example(where, unpaid)
    names = read_manifest(where.store, unpaid.folder, "scores")["components"]
    return dict(zip(names, kept_components(where.store, unpaid, folder), strict=True))


def weigh(masks: np.ndarray, losses: np.ndarray, components: dict[str, np.ndarray], ends: np.ndarray) -> dict[str, float]:
    """Weights of components, fitted to retraining on some subsets as a night fits them; every unit is an owner.

    Args:
        masks: the examples of each subset, `(subsets, examples)` bool; losses: `(subsets, outputs)`.
        components: `(outputs, examples)` each.
        ends: log-likelihoods under the model before and after its training, `(2, outputs)`.
    """
    # Examples that are in the same subsets are one unit.
    units, unit = np.unique(masks, axis=1, return_inverse=True)
    count = np.bincount(unit.ravel())
    member = np.eye(len(count))[unit.ravel()]
    size = count / count.sum()
    models = Outcomes(units.astype(float), np.arange(len(masks)), -losses, ends[0], ends[1], size, units @ size)
    influence = np.stack([(matrix @ member).T for matrix in components.values()])
    theta = fit(models, project(models, influence)).theta
    weights = theta if theta.any() else default_weights(list(components))
    return dict(zip(components, weights.tolist(), strict=True))


def values_of(weights: dict[str, float], components: dict[str, np.ndarray], ends: np.ndarray) -> np.ndarray:
    """Values of examples by fitted influence, `(outputs, examples)`: the worth of an example's size, and its contrast.

    As the estimate values owners (`royalty.estimate`), and every example has the same size. Halves of the owners have more or
    fewer examples: what that changes is no matter of influence, whose weights are fitted with the size apart.
    """
    influence = np.asarray(sum(weight * components[name] for name, weight in weights.items()))
    worth = (ends[1] - ends[0])[:, None] / influence.shape[1]
    return np.asarray(worth + influence - influence.mean(axis=1, keepdims=True))
