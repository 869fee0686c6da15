"""Scores every output of a night against every example; workers reduce the scores to sums per party and evidence.

nights/.../holdings/<rule>-<group>.parquet         who holds the examples of some shards, by rule on copies
nights/.../influence/<rule>-<part>.safetensors     sums `(K, q, parties)` of a part of the outputs, by rule on copies
nights/.../influence/<rule>-parties.parquet        the party of each column
nights/.../influence/<rule>-evidence.parquet       candidates for evidence, with their influence by component
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import accumulate, pairwise

import numpy as np
import polars as pl
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import Array, namespace, namespace_of, to_numpy
from provenance.core.errors import ModelError
from provenance.core.overlap import ahead
from provenance.core.rows import Rows
from provenance.core.store import Store, sha256, to_parquet
from provenance.core.where import Where, batched, on_device
from provenance.corpus.shards import Part, read_examples
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
from provenance.influence.scores import (
    NO_NUMBERS,
    PARTY,
    Candidates,
    Held,
    Scores,
    joined,
    merge,
    number_parties,
    reduce_scores,
)
from provenance.inputs.holders import OPTED_OUT, duplicate_rules, holdings_by_group
from provenance.inputs.night import Night, read_checked, read_written

# Shards in one task.
GROUP = 16
# Candidates for each shown piece of evidence; the weights that choose among them are fitted later.
CANDIDATES = 4
# Candidates of an output, whatever the number of its parties: its strongest. So evidence does not grow with the corpus.
MOST_CANDIDATES = 1024


@dataclass(frozen=True)
class Groups:
    """The shards of a corpus in groups, one for each task, with the holders of their examples.

    Attributes:
        files: feature files of each shard, by group; first: the place of each shard's first example in the corpus, by group.
        folder: of the holdings, one file for each group and rule on copies.
        parties: `account, party_id` by rule on copies, in the order of their numbers.
    """

    files: list[list[list[FeatureFile]]]
    first: list[list[int]]
    folder: str
    parties: dict[str, pl.DataFrame]

    def holdings(self, rule: str, group: int) -> str:
        """The key of the holdings of a group: `row, party, part, own`, by places of examples in the group."""
        return f"{self.folder}/{rule}-{group:06d}.parquet"


@dataclass(frozen=True)
class Block:
    """Data for a worker that scores shards against one part of the outputs.

    Attributes:
        queries: keys of the part's queries, by source.
        comparisons: the comparison of each kind of features.
        outputs: their number.
        weights: weights of components for the choice of candidates.
        top: candidates kept per output and party.
        keep: beginning of the keys for every example's scores; empty to keep none.
    """

    store: Store
    queries: dict[str, str]
    comparisons: dict[str, str]
    groups: Groups
    outputs: int
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


def write_influence(where: Where, night: Night, plan: Plan, names: Sequence[str], *, keep: str) -> dict[str, str]:
    """Score every part of the outputs against all shards and write the results; returns the SHA-256 of each file.

    Args:
        names: the components of influence.
        keep: a folder of the store for the scores of every example by component; empty to keep none.
    """
    store, rules = where.store, duplicate_rules(night)
    groups = write_holdings(store, night, plan, rules, f"{night.folder}/holdings")
    writes, candidates = dict[str, str](), dict[str, list[Candidates]]({rule: [] for rule in rules})
    queries, done = _write_queries(where, night, plan) if night.parts else {}, 0
    for number, part in enumerate(night.parts):
        block = Block(
            store=store,
            queries=queries[part.sha256],
            comparisons=comparisons_of(night),
            groups=groups,
            outputs=part.rows,
            weights=default_weights(names),
            top=CANDIDATES * night.method["evidence"],
            device=where.workers.device,
            keep=keep and f"{keep}/{number:06d}-",
        )
        what = "scores" if len(night.parts) == 1 else f"scores of outputs, part {number + 1} of {len(night.parts)}"
        for rule, scores in score_groups(where, block, what=what).items():
            order = _sorted(groups.parties[rule])
            sums = np.zeros((*scores.sums.shape[:2], len(order)), dtype=np.float32)
            sums[:, :, np.argsort(order)[scores.parties]] = scores.sums
            writes |= _written(store, night, _sums_file(rule, number), save_tensors({"sums": sums}))
            found = scores.candidates
            candidates[rule].append(replace(found, output=found.output + done))
        done += part.rows
    for rule in rules:
        parties = groups.parties[rule]
        evidence = pl.DataFrame()
        if night.parts:
            outputs = pl.concat([night.output_ids(store, number) for number in range(len(night.parts))])
            evidence = name_candidates(store, night, joined(candidates[rule]), outputs=outputs, parties=parties)
        tables = {"parties": parties[_sorted(parties)], "evidence": evidence}
        for name, table in tables.items():
            writes |= _written(store, night, f"influence/{rule}-{name}.parquet", to_parquet(table))
    return writes


def _written(store: Store, night: Night, file: str, data: bytes) -> dict[str, str]:
    store.write(f"{night.folder}/{file}", data)
    return {file: sha256(data)}


def _sorted(parties: pl.DataFrame) -> np.ndarray:
    """The numbers of the parties in the order of their names."""
    numbers: np.ndarray = parties.with_row_index("number").sort("account", "party_id")["number"].to_numpy()
    return numbers


def write_holdings(store: Store, night: Night, plan: Plan, rules: Sequence[str], folder: str) -> Groups:
    """Divide the shards into groups, and write who holds their examples, under some rules on copies."""
    by_part: dict[str, list[FeatureFile]] = {}
    for file in plan.corpus:
        by_part.setdefault(file.part, []).append(file)
    files = [list(some) for some in batched(list(by_part.values()), GROUP)]
    starts = iter(accumulate((shard[0].rows for group in files for shard in group), initial=0))
    first = [[next(starts) for _ in group] for group in files]
    groups = Groups(files, first, folder, {})
    for rule in rules:
        numbers = NO_NUMBERS
        shards = [[shard[0].part for shard in group] for group in files]
        for at, held in enumerate(holdings_by_group(store, night, rule, shards)):
            numbers = number_parties(numbers, held)
            numbered = held.join(numbers, on=PARTY, maintain_order="left")
            own = pl.col("own") & (pl.col("account") != OPTED_OUT)
            store.write_table(groups.holdings(rule, at), numbered.select("row", "party", "part", own=own))
        groups.parties[rule] = numbers.select("account", "party_id")
    return groups


def score_groups(where: Where, block: Block, *, what: str) -> dict[str, Scores]:
    """Scores of a block's outputs against all shards, by rule on copies.

    Args:
        what: the work, for the log.
    """
    combine = partial(_merge, top=block.top)
    return where.workers.reduce(_score_group, block, range(len(block.groups.files)), combine, what=what)


def name_candidates(
    store: Store, night: Night, found: Candidates, *, outputs: pl.Series, parties: pl.DataFrame
) -> pl.DataFrame:
    """Candidates with the names of their outputs, parties and examples: the evidence table, with `components` for `influence`.

    Args:
        outputs, parties: in the order of their numbers.
    """
    places, at = np.unique(found.example, return_inverse=True)
    examples = read_examples(store, night.frozen_corpus(store), "example_id", "work_id", "source_uri", rows=places.tolist())[at]
    components = pl.Series("components", found.components.astype(np.float64), pl.Array(pl.Float64, found.components.shape[1]))
    named = [outputs[found.output].to_frame("output_id"), parties[found.party].select("account", "party_id"), examples]
    table: pl.DataFrame = pl.concat([*named, components.to_frame()], how="horizontal")
    return table.sort("output_id", "account", "party_id", "example_id")


def _sums_file(rule: str, part: int) -> str:
    return f"influence/{rule}-{part:06d}.safetensors"


def _merge(parts: Sequence[dict[str, Scores]], *, top: int) -> dict[str, Scores]:
    return {rule: merge([part[rule] for part in parts], top=top, most=MOST_CANDIDATES) for rule in parts[0]}


def read_parties(store: Store, folder: str, rule: str) -> pl.DataFrame:
    """`account, party_id` of the columns of `read_influence`, under a rule on copies."""
    return read_written(store, folder, "scores", f"influence/{rule}-parties.parquet")


def read_influence(store: Store, night: Night, rule: str, part: int) -> Influence:
    """Sums of influence of a part of the outputs, under a rule on copies.

    Raises:
        StoreError: the file has another SHA-256 than the manifest names.
    """
    data = read_checked(store, night.folder, "scores", _sums_file(rule, part))
    ids = night.output_ids(store, part).to_list()
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
        on_device(where, _write_source, (where.store, night, plan, source, named), what=f"queries of {source}")
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


def _score_group(block: Block, group: int) -> dict[str, Scores]:
    groups = block.groups
    held = {rule: _held_by_shard(block, rule, group) for rule in groups.parties}
    shards, begin = groups.files[group], partial(begin_reading, block.store, block.device)
    # On a GPU files are read and copied there while the ones before them are scored.
    with closing(ahead(begin, [file for files in shards for file in files], overlap=block.device != "cpu")) as rows:
        scored = [_score_shard(block, files, rows) for files in shards]
    return {
        rule: reduce_scores(
            zip(groups.first[group], scored, of_shards, strict=True),
            outputs=block.outputs,
            weights=block.weights,
            top=block.top,
            most=MOST_CANDIDATES,
        )
        for rule, of_shards in held.items()
    }


def _held_by_shard(block: Block, rule: str, group: int) -> list[Held]:
    """The holders of the examples of each shard of a group."""
    table = block.store.read_table(block.groups.holdings(rule, group)).sort("row", "party")
    row, party, part, own = (table[name].to_numpy() for name in ("row", "party", "part", "own"))
    ends = np.cumsum([0, *(files[0].rows for files in block.groups.files[group])])
    places = zip(ends, pairwise(np.searchsorted(row, ends)), strict=False)
    return [Held(row[start:end] - first, party[start:end], part[start:end], own[start:end]) for first, (start, end) in places]


def _score_shard(block: Block, files: list[FeatureFile], rows: Iterator[Rows]) -> list[Array]:
    """The scores of a shard by component, each `(q, n)`; `rows` are the features of its files."""
    keys = tuple((file.source, block.queries[file.source], block.comparisons[file.kind]) for file in files)
    queries = _read_queries(block.store, keys, block.device)
    scores = [component for file in files for component in score_rows(queries[file.source], next(rows))]
    _require_finite(", ".join(file.source for file in files), f"part {files[0].part}", *scores)
    if block.keep:
        tensors = {"scores": np.ascontiguousarray([to_numpy(component) for component in scores])}
        block.store.write(f"{block.keep}{files[0].part}.safetensors", save_tensors(tensors))
    return scores


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
    ids = night.output_ids(store, part)
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
