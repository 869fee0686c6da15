"""Audits of influence: retrain on parts of the corpus, and hold what every method predicts against what came of it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from provenance.core.errors import ContractError
from provenance.core.store import canonical_json
from provenance.corpus.examples import parties
from provenance.influence.methods import METHODS
from provenance.royalty.contracts import Contract
from provenance.royalty.shares import FAITHFUL
from provenance.settlement.exports import MANIFEST, in_force, published_days
from provenance.validation import results
from provenance.validation.figures import lds_figure, owners_figure
from provenance.validation.lds import (
    fit_hybrid_weight,
    linear_datamodelling_score,
    noise_ceiling,
    rank_correlations,
)
from provenance.validation.subsets import all_but_one, halves
from tasks.attribute import score_every_example
from tasks.night import VERSIONS, Night, load_night
from tasks.replay import every_value
from tasks.retrain import retrain
from tasks.royalty import value_night
from tasks.settings import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provenance.core.store import Store
    from tasks.settings import Settings

log = logging.getLogger("provenance.audit")

RUN_FIRST = "Run the DAG nightly_payouts first."
EXAMPLES, OWNERS = "examples", "owners"


@dataclass(frozen=True)
class Options:
    """How much an audit retrains.

    Attributes:
        subsets: of each family, on which methods are compared.
        tune: more subsets, on which the hybrid's weight is fitted and nothing is reported.
        seeds: trainings of each subset; two at least, for the noise ceiling.
        methods: those to compare: of influence, and `faithful` for the values that the rule of this name rests on.
    """

    subsets: int = 48
    tune: int = 24
    seeds: int = 2
    methods: tuple[str, ...] = ("factored", "cosine", "tfidf", "bm25", "hybrid")


def audit_lds(settings: Settings, night: Night, options: Options) -> str:
    """Retrain on random halves of examples and of owners; returns the folder of the result."""
    if options.seeds < 2:
        raise ContractError("audit: seeds", expected="2 or more, for the noise ceiling", found=str(options.seeds))
    _check_methods(options.methods)
    hybrid = "hybrid" in options.methods
    if hybrid and options.tune < 2:
        expected = "2 tuning subsets or more, to fit the hybrid's weight on"
        raise ContractError("audit: tune", expected=expected, found=str(options.tune))
    names = dict.fromkeys((*(name for name in options.methods if name != "hybrid"), *(("factored", "tfidf") if hybrid else ())))
    store = settings.store.open()
    examples, masks, losses = truth(settings, night, options)
    scores = {name: scores_of(settings, store, night, name, examples) for name in names}
    result: dict[str, Any] = {"night": night.inputs, "options": asdict(options), "families": {}}
    # Few owners have few halves; both uses then have fewer, in the same proportion.
    tune = {family: options.tune * len(chosen) // (options.tune + options.subsets) for family, chosen in masks.items()}
    if hybrid:
        tuned = [(masks[family][:count], losses[family][:, :count].mean(axis=0)) for family, count in tune.items() if count]
        weight, reached = fit_hybrid_weight(scores["factored"], scores["tfidf"], tuned)
        scores["hybrid"] = (1 - weight) * scores["factored"] + weight * scores["tfidf"]
        result["hybrid"] = {"weight": weight, "lds_on_tuning_subsets": reached, "tuning_subsets": tune}
    for family, chosen in masks.items():
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
    settings = load()
    store = settings.store.open()
    days = published_days(store)
    if not days:
        found = "none"
        raise ContractError(store.locate("exports/payouts"), expected="a published day to audit", found=found, hint=RUN_FIRST)
    export = in_force(store, days[-1])["folder"]
    night = load_night(store, store.read_json(f"{export}/{MANIFEST}")["night"])
    if not sum(part.rows for part in night.outputs):
        raise ContractError(f"night of {night.day}", expected="at least one output to audit with", found="none")
    asked = settings.audit
    rules = (FAITHFUL,) if night.method["values"] else ()
    methods = tuple(dict.fromkeys((night.method["name"], *rules, *asked.methods)))
    folder = audit_lds(settings, night, Options(asked.subsets, asked.tune, asked.seeds, methods))
    results.put_in_force(store, folder, night.folder)
    log.info("audit of %s: %s", night.day, store.locate(folder))
    return folder


def audit_owners(settings: Settings, night: Night, options: Options) -> str:
    """Retrain without each owner in turn; returns the folder of the result."""
    _check_methods(options.methods, without="hybrid")
    store = settings.store.open()
    examples, owners = units(store, night)
    distinct, without = all_but_one(owners)
    everything = np.ones((1, len(examples)), dtype=bool)
    masks = np.concatenate([everything, without])
    losses = np.stack([retrain(settings, night, masks, seed, OWNERS) for seed in _seeds(options)])
    rise = losses[:, 1:] - losses[:, :1]
    result: dict[str, Any] = {"night": night.inputs, "options": asdict(options), "owners": distinct, "methods": {}}
    if options.seeds > 1:
        result["seed_agreement"], result["ceiling"] = noise_ceiling(rise)
    actual, predicted = rise.mean(axis=0), {}
    result["mean_rise"] = dict(zip(distinct, actual.mean(axis=1).tolist(), strict=True))
    for name in options.methods:
        matrix = scores_of(settings, store, night, name, examples)
        predicted[name] = np.stack([matrix[:, ~chosen].sum(axis=1) for chosen in without])
        result["methods"][name] = {
            "rank_correlation": float(rank_correlations(predicted[name], actual).mean()),
            "mean_influence": dict(zip(distinct, predicted[name].mean(axis=1).tolist(), strict=True)),
        }
    return results.publish(store, "owners", result, owners_figure(result, predicted, actual))


def _check_methods(methods: Sequence[str], *, without: str = "") -> None:
    """Before anything is trained: the names, all of them known."""
    known = [name for name in METHODS if name != without]
    known.append(FAITHFUL)
    for name in methods:
        if name not in known:
            raise ContractError("audit: methods", expected=f"some of {', '.join(known)}", found=repr(name))
    if not methods:
        raise ContractError("audit: methods", expected=f"some of {', '.join(known)}", found="none")


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


def scores_of(settings: Settings, store: Store, night: Night, name: str, examples: Sequence[str]) -> np.ndarray:
    """Influences by a method, or the values that `faithful` rests on, `(outputs, examples)`, by the night's own stages.

    What the rule keeps back of them (negative ones, what nonsense adds) is not in it: an audit asks what is true.
    """
    if name == FAITHFUL:
        replayed = night.method["versions"] == VERSIONS and store.exists(f"{night.folder}/replay.json")
        valued = night if replayed else value_night(store, night, Contract(name="audited", developer_ppb=0), settings)
        ids, added = every_value(store, valued)
        place_of = {example: at for at, example in enumerate(ids)}
        return added[:, [place_of[example] for example in examples]]
    # Without a contract it is no night that pays, and keeps every score; how it computes is today's affair.
    method = night.method | {"name": name, "hybrid_weight": None, "values": None, "versions": VERSIONS}
    mine = replace(night, method=method, contract={})
    store.write(f"{mine.folder}/inputs.json", canonical_json(mine.inputs))
    keep = score_every_example(mine, settings)
    parts = [store.read_table(key) for key in store.list(keep) if key.endswith(".parquet")]
    place = pl.DataFrame({"example_id": list(examples)}).with_row_index("at")
    ordered = pl.concat(parts).join(place, on="example_id").sort("output_id", "at")
    return ordered["influence"].to_numpy().reshape(-1, len(examples))
