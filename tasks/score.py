"""Stage `score`: every output against every example, reduced on the worker to sums per party and a little evidence."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import namespace_of, to_numpy
from provenance.core.contracts import EVIDENCE, PARTY_INFLUENCE
from provenance.core.rows import concatenate
from provenance.core.store import Store, canonical_json
from provenance.corpus.examples import parties
from provenance.corpus.shards import part_key
from provenance.influence.methods import prepare, queries_from_tensors, queries_to_tensors
from provenance.influence.methods import score as score_rows
from provenance.influence.scores import ShardScores, merge, party_influence, reduce_scores
from tasks.cluster import compute_tree, open_cluster
from tasks.curvature import read_fitted
from tasks.featurise import read_features
from tasks.night import load_night
from tasks.settings import load
from tasks.shard import FeatureFile, chosen_method, load_plan

if TYPE_CHECKING:
    from datetime import date

    from provenance.influence.methods import Queries
    from tasks.night import Night
    from tasks.settings import Settings
    from tasks.shard import Plan

log = logging.getLogger("provenance.score")


@dataclass(frozen=True)
class Block:
    """What every worker needs to score one shard.

    Attributes:
        queries: where the prepared queries of each source lie.
        comparison: how features of each kind are compared.
        top: pieces of evidence kept per output and party.
        keep: folder for every example's score, or empty for none.
    """

    store: Store
    queries: dict[str, str]
    comparison: dict[str, str]
    output_ids: list[str]
    claims: pl.DataFrame
    day: date
    top: int
    device: str
    keep: str


def score(folder: str, settings: Settings | None = None, *, keep: str = "") -> str:
    """Write `party_influence.parquet` and `evidence.parquet`, and the manifest that makes them real.

    Args:
        keep: a folder of the store for the scores of every example, one file per shard.
    """
    settings = settings or load()
    store = settings.store.open()
    if store.exists(f"{folder}/scores.json"):
        log.info("scores: reused")
        return folder
    night, plan = load_night(store, folder), load_plan(store, folder)
    corpus = night.frozen_corpus(store)
    output_ids = night.read_outputs(store)["output_id"].to_list()
    if output_ids:
        by_part: dict[str, list[FeatureFile]] = {}
        for file in plan.corpus:
            by_part.setdefault(file.part, []).append(file)
        claims = store.read_table(corpus.claims.key)
        top = night.method["evidence"]
        queries = _write_queries(store, night, plan, folder)
        comparison = chosen_method(night).comparison
        block = Block(store, queries, comparison, output_ids, claims, night.date, top, settings.cluster.device, keep)
        with open_cluster(settings.cluster) as client:
            scores = compute_tree(
                client,
                _score_one,
                block,
                list(by_part.values()),
                partial(merge, top=top),
                settings=settings.cluster,
                what="scores",
            )
        influence = party_influence(scores, output_ids=output_ids, sources=plan.sources)
        evidence = scores.evidence
    else:
        influence, evidence = pl.DataFrame(schema=PARTY_INFLUENCE.schema), pl.DataFrame(schema=EVIDENCE.schema)
    manifest = {
        "reads": {"inputs": f"{folder}/inputs.json", "features": [file.key for file in plan.corpus + plan.outputs]},
        "writes": {
            "party_influence.parquet": store.write_table(f"{folder}/party_influence.parquet", influence),
            "evidence.parquet": store.write_table(f"{folder}/evidence.parquet", evidence),
        },
    }
    store.write(f"{folder}/scores.json", canonical_json(manifest))
    log.info("scores: %d outputs against %d examples, from %s", len(output_ids), corpus.examples, ", ".join(plan.sources))
    return folder


def _write_queries(store: Store, night: Night, plan: Plan, folder: str) -> dict[str, str]:
    """The outputs as queries, prepared once for all workers: a key for each source."""
    keys = {}
    for number, source in enumerate(plan.sources):
        _, files = plan.of(source)
        outputs = concatenate([read_features(store, file) for file in files])
        weight = chosen_method(night).kinds[files[0].kind]
        queries = prepare(read_fitted(store, night, plan, source), outputs, weight, np)
        keys[source] = f"{folder}/queries/{number}.safetensors"
        store.write(keys[source], save_tensors(queries_to_tensors(queries)))
    return keys


@lru_cache(maxsize=8)
def _read_queries(url: str, options: tuple[tuple[str, str], ...], key: str, comparison: str, device: str) -> Queries:
    """Queries, read once by each worker."""
    return queries_from_tensors(comparison, load_tensors(Store(url, dict(options)).read(key)), namespace_of(device))


def _score_one(block: Block, files: list[FeatureFile]) -> ShardScores:
    where = block.store.url, tuple(sorted(block.store.options.items()))
    scores = [
        score_rows(
            _read_queries(*where, block.queries[file.source], block.comparison[file.kind], block.device),
            read_features(block.store, file, block.device),
        )
        for file in files
    ]
    examples = block.store.read_table(part_key(files[0].part))
    if block.keep:
        _keep(block, files[0].part, examples, to_numpy(sum(scores)))
    return reduce_scores(
        scores,
        examples,
        parties(examples, block.claims, block.day),
        output_ids=block.output_ids,
        top=block.top,
    )


def _keep(block: Block, part: str, examples: pl.DataFrame, influence: np.ndarray) -> None:
    """Every example's influence on every output, as a file of its own."""
    count = len(block.output_ids)
    frame = pl.DataFrame(
        {
            "output_id": pl.Series(block.output_ids, dtype=pl.String).gather(np.repeat(np.arange(count), examples.height)),
            "example_id": pl.concat([examples["example_id"]] * count),
            "influence": influence.astype(np.float64).ravel(),
        }
    )
    block.store.write_table(f"{block.keep}/{part}.parquet", frame)
