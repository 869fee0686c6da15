"""Stage `score`: every output against every example, reduced on the worker to sums per party and a little evidence."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from provenance.core.arrays import namespace_of
from provenance.core.contracts import EVIDENCE, PARTY_INFLUENCE
from provenance.core.store import canonical_json
from provenance.corpus.examples import parties
from provenance.corpus.shards import part_key
from provenance.influence.scores import ShardScores, merge, score_shard
from tasks.cluster import compute, open_cluster
from tasks.curvature import curvature_key, read_curvature
from tasks.featurise import read_features
from tasks.night import load_night
from tasks.settings import load
from tasks.shard import FeatureFile, load_plan

if TYPE_CHECKING:
    from provenance.core.store import Store
    from tasks.night import Night
    from tasks.shard import Plan

log = logging.getLogger("provenance.score")


@dataclass(frozen=True)
class Block:
    """What every worker needs to score one shard."""

    store: Store
    queries: list[np.ndarray]
    output_ids: list[str]
    claims: pl.DataFrame
    night: Night
    device: str


def score(folder: str) -> str:
    """Write `party_influence.parquet` and `evidence.parquet`, and the manifest that makes them real."""
    settings = load()
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
        block = Block(store, _queries(store, night, plan), output_ids, claims, night, settings.cluster.device)
        with open_cluster(settings.cluster) as client:
            shards = list(compute(client, _score_one, block, list(by_part.values()), settings=settings.cluster, what="scores"))
        influence, evidence = merge(shards, output_ids=output_ids, checkpoints=night.checkpoints, top=night.method["evidence"])
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
    log.info(
        "scores: %d outputs against %d examples at %d checkpoints", len(output_ids), corpus.examples, len(night.checkpoints)
    )
    return folder


def _queries(store: Store, night: Night, plan: Plan) -> list[np.ndarray]:
    queries = []
    for checkpoint in night.checkpoints:
        files = [file for file in plan.outputs if file.checkpoint == checkpoint]
        features = np.concatenate([read_features(store, file) for file in files])
        curvature = read_curvature(store, curvature_key(night, plan, checkpoint))
        queries.append(curvature.precondition(features))
    return queries


def _score_one(block: Block, files: list[FeatureFile]) -> ShardScores:
    xp = namespace_of(block.device)
    examples = block.store.read_table(part_key(files[0].part))
    return score_shard(
        [xp.asarray(query) for query in block.queries],
        [xp.asarray(read_features(block.store, file)) for file in files],
        examples,
        parties(examples, block.claims, block.night.date),
        output_ids=block.output_ids,
        top=block.night.method["evidence"],
    )
