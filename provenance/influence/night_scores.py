"""Scores every output of a night against every example; workers reduce the scores to sums per party and evidence.

nights/.../influence/<rule>-<part>.safetensors     sums `(K, q, parties)` of a part of the outputs, by rule on copies
nights/.../influence/<rule>-parties.parquet        the party of each column
nights/.../influence/<rule>-evidence.parquet       candidates for evidence, with their influence by component
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import polars as pl
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import Array, namespace, namespace_of, to_numpy
from provenance.core.errors import ModelError
from provenance.core.overlap import ahead
from provenance.core.rows import Rows
from provenance.core.store import Store, sha256
from provenance.core.where import TOGETHER, Where, batched, on_device
from provenance.corpus.shards import Part, part_key
from provenance.features.featurise import begin_reading, read_features
from provenance.features.night_check import read_check
from provenance.features.plan import FeatureFile, Plan, comparisons_of
from provenance.influence.methods import (
    Queries,
    component_names,
    default_weights,
    prepare,
    queries_from_tensors,
    queries_to_tensors,
)
from provenance.influence.methods import score as score_rows
from provenance.influence.night_curvature import read_fitted
from provenance.influence.scores import ShardScores, merge, reduce_scores
from provenance.inputs.holders import COLUMNS, Holders, duplicate_rules, holders
from provenance.inputs.night import Night, read_checked, read_written

# Candidates for each shown piece of evidence; the weights that choose among them are fitted later.
CANDIDATES = 4
NO_PARTIES = pl.DataFrame(schema={"account": pl.String, "party_id": pl.String})


@dataclass(frozen=True)
class Block:
    """Data for a worker that scores a shard against one part of the outputs.

    Attributes:
        queries: keys of the part's queries, by source.
        comparisons: the comparison of each kind of features.
        holders: holders of the examples, by rule on copies.
        weights: weights of components for the choice of candidates.
        top: candidates kept per output and party.
        keep: beginning of the keys for every example's scores; empty to keep none.
    """

    store: Store
    queries: dict[str, str]
    comparisons: dict[str, str]
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


def score_parts(where: Where, night: Night, plan: Plan, names: Sequence[str], *, keep: str) -> list[dict[str, ShardScores]]:
    """Scores of each part of the outputs against all shards, by rule on copies.

    Args:
        names: the components of influence.
        keep: a folder of the store for the scores of every example by component; empty to keep none.
    """
    if not night.parts:
        return []
    store = where.store
    queries = _write_queries(where, night, plan)
    block = Block(
        store=store,
        queries={},
        comparisons=comparisons_of(night),
        output_ids=[],
        holders={rule: holders(store, night, rule) for rule in duplicate_rules(night)},
        weights=default_weights(names),
        top=CANDIDATES * night.method["evidence"],
        device=where.workers.device,
        keep="",
    )
    scores = []
    for number, part in enumerate(night.parts):
        output_ids = store.read_table(part.key, columns=["output_id"])["output_id"].to_list()
        of_part = replace(block, queries=queries[part.sha256], output_ids=output_ids, keep=keep and f"{keep}/{number:06d}-")
        what = "scores" if len(night.parts) == 1 else f"scores of outputs, part {number + 1} of {len(night.parts)}"
        scores.append(score_shards(where, plan, of_part, what=what))
    return scores


def score_shards(where: Where, plan: Plan, block: Block, *, what: str) -> dict[str, ShardScores]:
    """Scores of a block's outputs against all shards, by rule on copies.

    Args:
        what: the work, for the log.
    """
    by_part: dict[str, list[FeatureFile]] = {}
    for file in plan.corpus:
        by_part.setdefault(file.part, []).append(file)
    groups = list(batched(list(by_part.values()), TOGETHER.get(block.device, 1)))
    return where.workers.reduce(_score_shards, block, groups, partial(_merge, top=block.top), what=what)


def write_scores(store: Store, folder: str, rule: str, parts: Sequence[ShardScores]) -> dict[str, str]:
    """Write the scores of all parts of the outputs under a rule on copies; returns the SHA-256 of each file."""
    writes: dict[str, str] = {}
    parties = pl.concat([part.parties for part in parts]).unique().sort("account", "party_id") if parts else NO_PARTIES
    for number, part in enumerate(parts):
        data = save_tensors({"sums": np.ascontiguousarray(part.sums, dtype=np.float32)})
        writes[_sums_file(rule, number)] = sha256(data)
        store.write(f"{folder}/{_sums_file(rule, number)}", data)
    tables = {"parties": parties, "evidence": pl.concat([part.evidence for part in parts]) if parts else pl.DataFrame()}
    for name, table in tables.items():
        file = f"influence/{rule}-{name}.parquet"
        writes[file] = store.write_table(f"{folder}/{file}", table)
    return writes


def _sums_file(rule: str, part: int) -> str:
    return f"influence/{rule}-{part:06d}.safetensors"


def _merge(parts: Sequence[dict[str, ShardScores]], *, top: int) -> dict[str, ShardScores]:
    return {rule: merge([part[rule] for part in parts], top=top) for rule in parts[0]}


def read_parties(store: Store, folder: str, rule: str) -> pl.DataFrame:
    """`account, party_id` of the columns of `read_influence`, under a rule on copies."""
    return read_written(store, folder, "scores", f"influence/{rule}-parties.parquet")


def read_influence(store: Store, night: Night, rule: str, part: int) -> Influence:
    """Sums of influence of a part of the outputs, under a rule on copies.

    Raises:
        StoreError: the file has another SHA-256 than the manifest names.
    """
    data = read_checked(store, night.folder, "scores", _sums_file(rule, part))
    ids = store.read_table(night.parts[part].key, columns=["output_id"])["output_id"].to_list()
    return Influence(ids, load_tensors(data)["sums"].astype(np.float64))


def components(where: Where, night: Night, plan: Plan) -> tuple[str, ...]:
    """Names of the components of influence, in the order of the scores."""
    store = where.store
    names: list[str] = []
    comparisons = comparisons_of(night)
    for source in plan.sources:
        kind = plan.of(source)[0][0].kind
        if comparisons[kind] != "curved":
            names.append(source)
            continue
        kinds = [block.kind for block in read_check(store, plan.check).following.layout.tokens]
        names += component_names(source, kinds, inner=read_fitted(store, night, plan, source).dense is not None)
    return tuple(names)


def _write_queries(where: Where, night: Night, plan: Plan) -> dict[str, dict[str, str]]:
    """Turn the outputs into queries once for all workers; returns their keys by part and source."""
    keys: dict[str, dict[str, str]] = {}
    for number, source in enumerate(plan.sources):
        named = {query_key(night.folder, part, number): file for part, file in enumerate(plan.of(source)[1])}
        for key, file in named.items():
            keys.setdefault(file.part, {})[source] = key
        on_device(where.workers, _write_source, (where.store, night, plan, source, named), what=f"queries of {source}")
    return keys


def _write_source(device: str, queries: tuple[Store, Night, Plan, str, dict[str, FeatureFile]]) -> None:
    """Write the queries of a source: those of each feature file under its key."""
    store, night, plan, source, named = queries
    fitted, xp = read_fitted(store, night, plan, source), namespace_of(device)
    for key, file in named.items():
        made = prepare(fitted, read_features(store, file, device), xp)
        _require_finite(source, "outputs of the night", made.table.values, made.dense)
        store.write(key, save_tensors(queries_to_tensors(made)))


def query_key(folder: str, part: int, source: int) -> str:
    """The key of the queries of a part of the outputs, by the numbers of the part and the source."""
    return f"{folder}/queries/{part:06d}-{source}.safetensors"


@lru_cache(maxsize=1)
def _read_queries(store: Store, keys: tuple[tuple[str, str, str], ...], device: str) -> dict[str, Queries]:
    """The queries of one part of the outputs, by source; a worker keeps those of one part."""
    xp = namespace_of(device)
    return {source: queries_from_tensors(comparison, load_tensors(store.read(key)), xp) for source, key, comparison in keys}


def _score_shards(block: Block, shards: Sequence[list[FeatureFile]]) -> dict[str, ShardScores]:
    """The scores of some shards; on a GPU files are read and copied there while the ones before them are scored."""
    files, begin = [file for shard in shards for file in shard], partial(begin_reading, block.store, block.device)
    with closing(ahead(begin, files, overlap=block.device != "cpu")) as rows:
        parts = [_score_shard(block, shard, rows) for shard in shards]
    return parts[0] if len(parts) == 1 else _merge(parts, top=block.top)


def _score_shard(block: Block, files: list[FeatureFile], rows: Iterator[Rows]) -> dict[str, ShardScores]:
    keys = tuple((file.source, block.queries[file.source], block.comparisons[file.kind]) for file in files)
    queries = _read_queries(block.store, keys, block.device)
    scores = [component for file in files for component in score_rows(queries[file.source], next(rows))]
    _require_finite(", ".join(file.source for file in files), f"part {files[0].part}", *scores)
    examples = block.store.read_table(part_key(files[0].part), columns=[*COLUMNS, "source_uri"])
    if block.keep:
        tensors = {"scores": np.ascontiguousarray([to_numpy(component) for component in scores])}
        block.store.write(f"{block.keep}{files[0].part}.safetensors", save_tensors(tensors))
    return {
        rule: reduce_scores(
            scores, examples, holders.of(examples), output_ids=block.output_ids, weights=block.weights, top=block.top
        )
        for rule, holders in block.holders.items()
    }


def _require_finite(source: str, what: str, *arrays: Array | None) -> None:
    """Raise ModelError for influence that is not finite, which nothing may be paid by."""
    for array in arrays:
        if array is not None and not bool(namespace(array).all(namespace(array).isfinite(array))):
            hint = "The weights of these checkpoints, or their gradients, are too large or too small for float32."
            raise ModelError(f"influence by {source} of {what}", expected="finite numbers", found="NaN or infinite", hint=hint)


def kept_scores(store: Store, night: Night, keep: str, part: int, weights: np.ndarray) -> pl.DataFrame:
    """`output_id, example_id, influence` of a part of the outputs, from the scores in the folder `keep`.

    Args:
        weights: weights of the components, `(K,)`.
    """
    ids = store.read_table(night.parts[part].key, columns=["output_id"])["output_id"]
    frames = []
    for shard, scores in _read_kept(store, night, keep, part):
        examples = store.read_table(shard.key, columns=["example_id"])["example_id"]
        columns = {
            "output_id": ids.gather(np.repeat(np.arange(len(ids)), len(examples))),
            "example_id": pl.concat([examples] * len(ids)),
            "influence": np.einsum("k,kqn->qn", weights, scores).ravel(),
        }
        frames.append(pl.DataFrame(columns))
    return pl.concat(frames)


def kept_components(store: Store, night: Night, keep: str) -> np.ndarray:
    """Influence of every example on every output by component, `(K, outputs, examples)`, from the folder `keep`."""
    parts = range(len(night.parts))
    rows = [np.concatenate([scores for _, scores in _read_kept(store, night, keep, part)], axis=2) for part in parts]
    return np.concatenate(rows, axis=1)


def _read_kept(store: Store, night: Night, keep: str, part: int) -> Iterator[tuple[Part, np.ndarray]]:
    """Each shard with its scores for a part of the outputs, `(K, q, n)` float64."""
    for shard in night.frozen_corpus(store).shards:
        if shard.rows:
            tensors = load_tensors(store.read(f"{keep}/{part:06d}-{shard.sha256}.safetensors"))
            yield shard, tensors["scores"].astype(np.float64)
