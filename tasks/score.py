"""Stage `score`: every output against every example, reduced on the worker to sums per party and a little evidence."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import namespace_of, to_numpy
from provenance.core.contracts import EVIDENCE, PARTY_INFLUENCE
from provenance.core.store import Store, canonical_json
from provenance.corpus.examples import parties
from provenance.corpus.shards import part_key
from provenance.influence.methods import prepare, queries_from_tensors, queries_to_tensors
from provenance.influence.methods import score as score_rows
from provenance.influence.scores import ShardScores, merge, parted, party_influence, reduce_scores
from tasks.cluster import compute_tree, open_cluster
from tasks.curvature import read_fitted
from tasks.featurise import read_features
from tasks.night import night_to_compute
from tasks.settings import load
from tasks.shard import FeatureFile, chosen_method, load_plan
from tasks.withdrawn import APART, INFLUENCE_APART, claims_apart, with_apart

if TYPE_CHECKING:
    from datetime import date

    from provenance.influence.methods import Queries
    from tasks.night import Night
    from tasks.settings import Settings
    from tasks.shard import Plan

log = logging.getLogger("provenance.score")


@dataclass(frozen=True)
class Block:
    """What every worker needs to score one shard against one part of the outputs.

    Attributes:
        queries: where the part's prepared queries of each source lie.
        comparison: how features of each kind are compared.
        top: pieces of evidence kept per output and party.
        apart: claims in which what owners opted out of has parties of its own; None where nobody has.
        keep: how the files with every example's score begin, or empty for none.
    """

    store: Store
    queries: dict[str, str]
    comparison: dict[str, str]
    output_ids: list[str]
    claims: pl.DataFrame
    apart: pl.DataFrame | None
    day: date
    top: int
    device: str
    keep: str


def score(folder: str, settings: Settings | None = None, *, keep: str = "") -> str:
    """Write `party_influence.parquet` and `evidence.parquet`, and the manifest that makes them real.

    Args:
        keep: a folder of the store for the scores of every example, one file per shard and part of the outputs.
    """
    settings = settings or load()
    store = settings.store.open()
    if store.exists(f"{folder}/scores.json"):
        log.info("scores: reused")
        return folder
    night, plan = night_to_compute(store, folder), load_plan(store, folder)
    corpus = night.frozen_corpus(store)
    by_part: dict[str, list[FeatureFile]] = {}
    for file in plan.corpus:
        by_part.setdefault(file.part, []).append(file)
    block = Block(
        store=store,
        queries={},
        comparison=chosen_method(night).comparison,
        output_ids=[],
        claims=night.read_claims(store),
        apart=claims_apart(store, night),
        day=night.date,
        top=night.method["evidence"],
        device=settings.cluster.device,
        keep="",
    )
    tables = [(pl.DataFrame(schema=PARTY_INFLUENCE.schema), pl.DataFrame(schema=EVIDENCE.schema))]
    withdrawn = [pl.DataFrame(schema=PARTY_INFLUENCE.schema)]
    parts = [part for part in night.outputs if part.rows]
    if parts:
        queries = _write_queries(store, night, plan)
        with open_cluster(settings.cluster) as client:
            for number, part in enumerate(parts):
                output_ids = store.read_table(part.key, columns=["output_id"])["output_id"].to_list()
                prefix = keep and f"{keep}/{number:06d}-"
                block = replace(block, queries=queries[part.sha256], output_ids=output_ids, keep=prefix)
                scores = compute_tree(
                    client,
                    _score_one,
                    block,
                    list(by_part.values()),
                    partial(merge, top=block.top),
                    settings=settings.cluster,
                    what="scores" if len(parts) == 1 else f"scores of outputs, part {number + 1} of {len(parts)}",
                )
                scores, alone = parted(scores, APART)
                tables.append((party_influence(scores, output_ids=output_ids, sources=plan.sources), scores.evidence))
                withdrawn.append(party_influence(alone, output_ids=output_ids, sources=plan.sources))
    influence, evidence = (pl.concat(pieces) for pieces in zip(*tables, strict=True))
    manifest: dict[str, dict[str, Any]] = {
        "reads": {"inputs": f"{folder}/inputs.json", "features": [file.key for file in plan.corpus + plan.outputs]},
        "writes": {
            "party_influence.parquet": store.write_table(f"{folder}/party_influence.parquet", influence),
            "evidence.parquet": store.write_table(f"{folder}/evidence.parquet", evidence),
        },
    }
    if night.choices:
        manifest["writes"][INFLUENCE_APART] = store.write_table(f"{folder}/{INFLUENCE_APART}", pl.concat(withdrawn))
    store.write(f"{folder}/scores.json", canonical_json(manifest))
    outputs = sum(part.rows for part in parts)
    log.info("scores: %d outputs against %d examples, from %s", outputs, corpus.examples, ", ".join(plan.sources))
    return folder


def _write_queries(store: Store, night: Night, plan: Plan) -> dict[str, dict[str, str]]:
    """The outputs as queries, prepared once for all workers: by part, a key for each source."""
    keys: dict[str, dict[str, str]] = {}
    for at, source in enumerate(plan.sources):
        fitted = read_fitted(store, night, plan, source)
        for number, file in enumerate(plan.of(source)[1]):
            queries = prepare(fitted, read_features(store, file), chosen_method(night).kinds[file.kind], np)
            key = query_key(night.folder, number, at)
            keys.setdefault(file.part, {})[source] = key
            store.write(key, save_tensors(queries_to_tensors(queries)))
    return keys


def query_key(folder: str, part: int, source: int) -> str:
    """Where a part of the outputs lies, as queries of a source."""
    return f"{folder}/queries/{part:06d}-{source}.safetensors"


@lru_cache(maxsize=1)
def _read_queries(
    url: str, options: tuple[tuple[str, str], ...], keys: tuple[tuple[str, str, str], ...], device: str
) -> dict[str, Queries]:
    """One part of the outputs as queries, by source; read once by each worker, and let go when the next part comes."""
    store, xp = Store(url, dict(options)), namespace_of(device)
    return {source: queries_from_tensors(comparison, load_tensors(store.read(key)), xp) for source, key, comparison in keys}


def _score_one(block: Block, files: list[FeatureFile]) -> ShardScores:
    keys = tuple((file.source, block.queries[file.source], block.comparison[file.kind]) for file in files)
    queries = _read_queries(block.store.url, tuple(sorted(block.store.options.items())), keys, block.device)
    scores = [score_rows(queries[file.source], read_features(block.store, file, block.device)) for file in files]
    examples = block.store.read_table(part_key(files[0].part))
    if block.keep:
        _keep(block, files[0].part, examples, to_numpy(sum(scores)))
    found = [
        reduce_scores(scores, examples, held, output_ids=block.output_ids, top=block.top)
        for held in with_apart(parties, examples, block.claims, block.apart, block.day)
    ]
    return merge(found, top=block.top)


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
    block.store.write_table(f"{block.keep}{part}.parquet", frame)
