"""Stage `score`: every output against every example, reduced on the worker to sums per party and component, and evidence.

nights/.../influence/<rule>-<part>.safetensors     `(K, q, parties)` of a part of the outputs, by rule on copies
nights/.../influence/<rule>-parties.parquet        whose each column is
nights/.../influence/<rule>-evidence.parquet       candidates for evidence, with their influence by component
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import namespace_of, to_numpy
from provenance.core.store import Store, canonical_json, sha256
from provenance.corpus.shards import Part, part_key
from provenance.features.featurise import read_features
from provenance.features.layers import layout
from provenance.features.plan import FeatureFile, Plan, compared, load_plan
from provenance.influence.fit_curvature import read_fitted
from provenance.influence.methods import (
    Queries,
    component_names,
    default_weights,
    prepare,
    queries_from_tensors,
    queries_to_tensors,
)
from provenance.influence.methods import score as score_rows
from provenance.influence.scores import ShardScores, merge, reduce_scores
from provenance.inputs.night import Night, night_to_compute, read_checked, read_written
from provenance.models.frozen import fetch_model
from provenance.royalty.holders import COLUMNS, Holders, duplicate_rules, holders
from tasks.cluster import compute_tree, open_cluster
from tasks.settings import Settings, with_store

log = logging.getLogger("provenance.score")

# So many times as much evidence as is shown is kept until it is known what each component counts.
CANDIDATES = 4


@dataclass(frozen=True)
class Block:
    """What every worker needs to score one shard against one part of the outputs.

    Attributes:
        queries: where the part's prepared queries of each source lie.
        comparison: how features of each kind are compared.
        holders: by rule on copies, whose each example is.
        weights: what each component counts where candidates are chosen.
        top: candidates kept per output and party.
        keep: how the files with every example's scores begin, or empty for none.
    """

    store: Store
    queries: dict[str, str]
    comparison: dict[str, str]
    output_ids: list[str]
    holders: dict[str, Holders]
    weights: np.ndarray
    top: int
    device: str
    keep: str


@dataclass(frozen=True)
class Influence:
    """Sums of influence of some outputs.

    Attributes:
        sums: by component, output and party, `(K, q, parties)` float64.
    """

    output_ids: list[str]
    sums: np.ndarray


def score(folder: str, settings: Settings | None = None, *, keep: str = "") -> str:
    """Write sums per party and component, and candidates for evidence, and the manifest that makes them real.

    Args:
        keep: a folder of the store for the scores of every example by component, one file per shard and part of the outputs.
    """
    settings, store = with_store(settings)
    if store.exists(f"{folder}/scores.json"):
        log.info("scores: reused")
        return folder
    night, plan = night_to_compute(store, folder), load_plan(store, folder)
    names = components(store, night, plan, settings)
    rules = duplicate_rules(night)
    block = Block(
        store=store,
        queries={},
        comparison=compared(night),
        output_ids=[],
        holders={rule: holders(store, night, rule) for rule in rules},
        weights=default_weights(names),
        top=CANDIDATES * night.method["evidence"],
        device=settings.cluster.device,
        keep="",
    )
    found = _score_parts(store, night, plan, block=block, settings=settings, keep=keep)
    writes: dict[str, str] = {}
    for rule in rules:
        parts = [part[rule] for part in found]
        parties = pl.concat([part.parties for part in parts]).unique().sort("account", "party_id") if parts else _NOBODY
        for number, part in enumerate(parts):
            data = save_tensors({"sums": np.ascontiguousarray(part.sums, dtype=np.float32)})
            writes[_sums_file(rule, number)] = sha256(data)
            store.write(f"{folder}/{_sums_file(rule, number)}", data)
        tables = {"parties": parties, "evidence": pl.concat([part.evidence for part in parts]) if parts else pl.DataFrame()}
        for name, table in tables.items():
            file = f"influence/{rule}-{name}.parquet"
            writes[file] = store.write_table(f"{folder}/{file}", table)
    manifest: dict[str, Any] = {
        "reads": {"inputs": f"{folder}/inputs.json", "features": [file.key for file in plan.corpus + plan.outputs]},
        "writes": writes,
        "components": list(names),
    }
    store.write(f"{folder}/scores.json", canonical_json(manifest))
    outputs, examples = sum(part.rows for part in night.outputs), night.frozen_corpus(store).examples
    log.info("scores: %d outputs against %d examples, by %d components", outputs, examples, len(names))
    return folder


_NOBODY = pl.DataFrame(schema={"account": pl.String, "party_id": pl.String})


def _sums_file(rule: str, part: int) -> str:
    return f"influence/{rule}-{part:06d}.safetensors"


def _score_parts(
    store: Store, night: Night, plan: Plan, *, block: Block, settings: Settings, keep: str
) -> list[dict[str, ShardScores]]:
    """Every part of the outputs against all shards, by rule on copies."""
    parts = night.parts
    if not parts:
        return []
    by_part: dict[str, list[FeatureFile]] = {}
    for file in plan.corpus:
        by_part.setdefault(file.part, []).append(file)
    queries = _write_queries(store, night, plan)
    found = []
    with open_cluster(settings.cluster) as client:
        for number, part in enumerate(parts):
            output_ids = store.read_table(part.key, columns=["output_id"])["output_id"].to_list()
            mine = replace(block, queries=queries[part.sha256], output_ids=output_ids, keep=keep and f"{keep}/{number:06d}-")
            what = "scores" if len(parts) == 1 else f"scores of outputs, part {number + 1} of {len(parts)}"
            shards = list(by_part.values())
            combine = partial(_merge, top=block.top)
            found.append(compute_tree(client, _score_one, mine, shards, combine, settings=settings.cluster, what=what))
    return found


def _merge(parts: Sequence[dict[str, ShardScores]], *, top: int) -> dict[str, ShardScores]:
    return {rule: merge([part[rule] for part in parts], top=top) for rule in parts[0]}


def read_parties(store: Store, folder: str, rule: str) -> pl.DataFrame:
    """`account, party_id` of the columns of `read_influence`, by a rule on copies."""
    return read_written(store, folder, "scores", f"influence/{rule}-parties.parquet")


def read_influence(store: Store, night: Night, rule: str, part: int) -> Influence:
    """Sums of influence of a part of the outputs, by a rule on copies.

    Raises:
        StoreError: the file is not the one that the manifest names.
    """
    data = read_checked(store, night.folder, "scores", _sums_file(rule, part))
    ids = store.read_table(night.parts[part].key, columns=["output_id"])["output_id"].to_list()
    return Influence(ids, load_tensors(data)["sums"].astype(np.float64))


def components(store: Store, night: Night, plan: Plan, settings: Settings) -> tuple[str, ...]:
    """The names of the components of influence, in the order in which they are scored."""
    names: list[str] = []
    comparison = compared(night)
    for source in plan.sources:
        kind = plan.of(source)[0][0].kind
        if comparison[kind] != "curved":
            names.append(source)
            continue
        model = fetch_model(store, night.model, night.model_files, settings.model.cache)
        shape = layout(model.adapter().module(), settings.features.projection)
        kinds = [block.kind for block in shape.tokens]
        names += component_names(source, kinds, inner=read_fitted(store, night, plan, source).dense is not None)
    return tuple(names)


def _write_queries(store: Store, night: Night, plan: Plan) -> dict[str, dict[str, str]]:
    """The outputs as queries, prepared once for all workers: by part, a key for each source."""
    keys: dict[str, dict[str, str]] = {}
    for at, source in enumerate(plan.sources):
        fitted = read_fitted(store, night, plan, source)
        for number, file in enumerate(plan.of(source)[1]):
            queries = prepare(fitted, read_features(store, file), np)
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


def _score_one(block: Block, files: list[FeatureFile]) -> dict[str, ShardScores]:
    keys = tuple((file.source, block.queries[file.source], block.comparison[file.kind]) for file in files)
    queries = _read_queries(block.store.url, tuple(sorted(block.store.options.items())), keys, block.device)
    scores = [
        component
        for file in files
        for component in score_rows(queries[file.source], read_features(block.store, file, block.device))
    ]
    examples = block.store.read_table(part_key(files[0].part), columns=[*COLUMNS, "source_uri"])
    if block.keep:
        tensors = {"scores": np.ascontiguousarray([to_numpy(component) for component in scores])}
        block.store.write(f"{block.keep}{files[0].part}.safetensors", save_tensors(tensors))
    return {
        rule: reduce_scores(
            scores, examples, held.of(examples), output_ids=block.output_ids, weights=block.weights, top=block.top
        )
        for rule, held in block.holders.items()
    }


def every_score(store: Store, night: Night, keep: str, part: int, weights: np.ndarray) -> pl.DataFrame:
    """`output_id, example_id, influence` of a part of the outputs, of scores that were kept.

    Args:
        weights: what each component counts, `(K,)`.
    """
    ids = store.read_table(night.parts[part].key, columns=["output_id"])["output_id"]
    frames = []
    for shard, scores in _kept(store, night, keep, part):
        examples = store.read_table(shard.key, columns=["example_id"])["example_id"]
        columns = {
            "output_id": ids.gather(np.repeat(np.arange(len(ids)), len(examples))),
            "example_id": pl.concat([examples] * len(ids)),
            "influence": np.einsum("k,kqn->qn", weights, scores).ravel(),
        }
        frames.append(pl.DataFrame(columns))
    return pl.concat(frames)


def every_component(store: Store, night: Night, keep: str) -> np.ndarray:
    """Every example's influence on every output by component, `(K, outputs, examples)`, of scores that were kept."""
    parts = range(len(night.parts))
    rows = [np.concatenate([scores for _, scores in _kept(store, night, keep, part)], axis=2) for part in parts]
    return np.concatenate(rows, axis=1)


def _kept(store: Store, night: Night, keep: str, part: int) -> Iterator[tuple[Part, np.ndarray]]:
    """Each shard with the scores that were kept of it and a part of the outputs, `(K, q, n)` float64."""
    for shard in night.frozen_corpus(store).shards:
        if shard.rows:
            kept = load_tensors(store.read(f"{keep}/{part:06d}-{shard.sha256}.safetensors"))
            yield shard, kept["scores"].astype(np.float64)
