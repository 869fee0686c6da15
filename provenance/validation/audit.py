"""Audits of influence: retrain on parts of the corpus, and hold what every method predicts against what came of it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from provenance.core.errors import ContractError
from provenance.core.store import Store, canonical_json
from provenance.corpus.examples import parties
from provenance.influence.methods import comparisons, default_weights
from provenance.influence.score import every_component
from provenance.inputs.night import VERSIONS, Night, load_night, read_manifest
from provenance.local.attribute import score_every_example
from provenance.royalty.estimate import Outcomes, fit, project
from provenance.royalty.fidelity import FEWEST
from provenance.settlement.exports.export import MANIFEST, in_force, published_days
from provenance.validation import results
from provenance.validation.figures import lds_figure
from provenance.validation.lds import linear_datamodelling_score, noise_ceiling
from provenance.validation.retrain import base_and_served, retrain
from provenance.validation.subsets import halves
from tasks.settings import Settings, with_store

log = logging.getLogger("provenance.audit")

RUN_FIRST = "Run the DAG nightly_payouts first."
EXAMPLES, OWNERS = "examples", "owners"
FITTED = "fitted"


@dataclass(frozen=True)
class Options:
    """How much an audit retrains.

    Attributes:
        subsets: of each family, on which methods are compared.
        tune: more subsets, on which the components of `fitted` are weighed and nothing is reported.
        seeds: trainings of each subset; two at least, for the noise ceiling.
        methods: those to compare.
    """

    subsets: int = 48
    tune: int = 24
    seeds: int = 2
    methods: tuple[str, ...] = ("fitted", "factored", "tfidf")


def audit_lds(settings: Settings, night: Night, options: Options) -> str:
    """Retrain on random halves of examples and of owners; returns the folder of the result."""
    if options.seeds < 2:
        raise ContractError("audit: seeds", expected="2 or more, for the noise ceiling", found=str(options.seeds))
    for name in options.methods:  # all of them known, before anything is trained
        comparisons(name)
    fitted = FITTED in options.methods
    if fitted and options.tune < FEWEST:
        expected = f"{FEWEST} tuning subsets or more, to weigh the components of {FITTED!r} on"
        raise ContractError("audit: tune", expected=expected, found=str(options.tune))
    store = settings.store.open()
    _, masks, losses = truth(settings, night, options)
    scores = {name: scores_of(settings, store, night, name) for name in options.methods if name != FITTED}
    result: dict[str, Any] = {"night": night.inputs, "options": asdict(options), "families": {}}
    # Few owners have few halves; both uses then have fewer, in the same proportion.
    tune = {family: options.tune * len(chosen) // (options.tune + options.subsets) for family, chosen in masks.items()}
    components = components_of(settings, store, night, FITTED) if fitted else {}
    ends = base_and_served(settings, night) if fitted else None
    for family, chosen in masks.items():
        if ends is not None:
            weights = weigh(chosen[: tune[family]], losses[family][:, : tune[family]].mean(axis=0), components, ends)
            scores[FITTED] = np.asarray(sum(weight * components[name] for name, weight in weights.items()))
            result.setdefault("weights", {})[family] = weights
            result["tuning_subsets"] = tune
        reported, outcome = chosen[tune[family] :], losses[family][:, tune[family] :]
        agreement, ceiling = noise_ceiling(outcome)
        found = {}
        for name, matrix in scores.items():
            estimate = linear_datamodelling_score(matrix, reported, outcome.mean(axis=0))
            found[name] = {"lds": estimate.value, "low": estimate.low, "high": estimate.high}
        result["families"][family] = {
            "subsets": len(reported),
            "seed_agreement": agreement,
            "ceiling": ceiling,
            "methods": found,
        }
    return results.publish(store, "lds", result, lds_figure(result))


def truth(settings: Settings, night: Night, options: Options) -> tuple[list[str], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What retraining on random halves of examples and of owners does to the outputs.

    Returns:
        example ids; by family which of them each subset holds, `(tune + subsets, examples)`; and the losses that came of it,
        `(seeds, tune + subsets, outputs)`. Few owners have fewer halves than that.
    """
    examples, owners = units(settings.store.open(), night)
    count = options.tune + options.subsets
    masks = {
        EXAMPLES: halves(examples, count, name="audit examples"),
        OWNERS: halves(owners, count, name="audit owners"),
    }
    for family, chosen in masks.items():
        if len(chosen) < count:
            log.warning("%s: there are only %d halves of them, and no more subsets", family, len(chosen))
    losses = {
        family: np.stack([retrain(settings, night, chosen, seed, family) for seed in _seeds(options)])
        for family, chosen in masks.items()
    }
    return examples, masks, losses


def audit_published() -> str:
    """Audit the night of the latest day that is published, and put the result where manifests cite it; returns its folder."""
    settings, store = with_store()
    days = published_days(store)
    if not days:
        found = "none"
        raise ContractError(store.locate("exports/payouts"), expected="a published day to audit", found=found, hint=RUN_FIRST)
    export = in_force(store, days[-1])["folder"]
    night = load_night(store, store.read_json(f"{export}/{MANIFEST}")["night"])
    if not sum(part.rows for part in night.outputs):
        raise ContractError(f"night of {night.day}", expected="at least one output to audit with", found="none")
    asked = settings.audit
    methods = tuple(dict.fromkeys((night.method["name"], *asked.methods)))
    folder = audit_lds(settings, night, Options(asked.subsets, asked.tune, asked.seeds, methods))
    results.put_in_force(store, folder, night.folder)
    log.info("audit of %s: %s", night.day, store.locate(folder))
    return folder


def _seeds(options: Options) -> range:
    return range(101, 101 + options.seeds)  # none that a model in use was trained with


def units(store: Store, night: Night) -> tuple[list[str], list[str]]:
    """Example ids in the order of the shards, and whose each is: the party with the largest stake."""
    examples = night.read_corpus(store, "example_id", "work_id", "owner_id")
    held = parties(examples, store.read_table(night.frozen_corpus(store).claims.key), night.date)
    largest = held.sort("work_id", "stake_ppb", "party_id", descending=[False, True, False]).group_by("work_id").first()
    if examples.height < 2 or largest["party_id"].n_unique() < 2:
        found = f"{examples.height} examples of {largest['party_id'].n_unique()} owners"
        raise ContractError("audit: corpus", expected="at least 2 examples and 2 owners, to leave some out", found=found)
    whose = examples.join(largest, on="work_id", how="left", maintain_order="left")["party_id"]
    return examples["example_id"].to_list(), whose.to_list()


def scores_of(settings: Settings, store: Store, night: Night, name: str) -> np.ndarray:
    """Influences by a method, `(outputs, examples)`, by the night's own stages; components count as by default."""
    found = components_of(settings, store, night, name)
    weights = default_weights(list(found))
    return np.asarray(sum(weight * matrix for weight, matrix in zip(weights, found.values(), strict=True)))


def components_of(settings: Settings, store: Store, night: Night, name: str) -> dict[str, np.ndarray]:
    """Influences by a method and component, `(outputs, examples)` each, examples in the order of the shards."""
    # Without a contract it pays nobody and keeps every score; how it computes is today's affair.
    method = night.method | {"name": name, "versions": VERSIONS}
    mine = replace(night, method=method, contract={}, counterfactuals={})
    store.write(f"{mine.folder}/inputs.json", canonical_json(mine.inputs))
    keep = score_every_example(mine, settings)
    names = read_manifest(store, mine.folder, "scores")["components"]
    return dict(zip(names, every_component(store, mine, keep), strict=True))


def weigh(masks: np.ndarray, losses: np.ndarray, components: dict[str, np.ndarray], ends: np.ndarray) -> dict[str, float]:
    """What each component counts, as retraining on some subsets teaches: the night's own fit, every unit an owner.

    Args:
        masks: which examples each subset holds, `(subsets, examples)`; losses: `(subsets, outputs)`.
        components: `(outputs, examples)` each.
        ends: log-likelihoods under the model before and after its training, `(2, outputs)`.
    """
    # Examples that are always in or out together are one unit.
    units, unit = np.unique(masks, axis=1, return_inverse=True)
    count = np.bincount(unit.ravel())
    member = np.eye(len(count))[unit.ravel()]
    size = count / count.sum()
    models = Outcomes(units.astype(float), np.arange(len(masks)), -losses, ends[0], ends[1], size, units @ size)
    influence = np.stack([(matrix @ member).T for matrix in components.values()])
    theta = fit(models, project(models, influence)).theta
    weights = theta if theta.any() else default_weights(list(components))
    return dict(zip(components, weights.tolist(), strict=True))
