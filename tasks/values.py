"""Stage `value`: every owner's share of every output, under every rule that can be computed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from safetensors.numpy import load as load_tensors

from provenance.core.arrays import positive_shares
from provenance.core.contracts import EVIDENCE, RULE_SHARES
from provenance.core.store import canonical_json
from provenance.corpus.duplicates import claimants
from provenance.corpus.examples import held_since, parties
from provenance.corpus.shards import part_key
from provenance.influence.scores import ShardScores, merge, parted, reduce_scores
from provenance.royalty import shares as rules
from provenance.royalty.contracts import Contract, assign
from provenance.royalty.diagonal import nodes
from provenance.royalty.shapley import shapley
from provenance.royalty.values import Expanded, kept_part, lengthening
from tasks.cluster import compute_tree, open_cluster
from tasks.night import night_to_compute, read_manifest, read_written
from tasks.replay import read_worth, values_key
from tasks.settings import load
from tasks.withdrawn import APART, SHARES_APART, Withdrawn, claims_apart, with_apart

if TYPE_CHECKING:
    from datetime import date

    from distributed import Client

    from provenance.core.store import Store
    from tasks.night import Night
    from tasks.settings import ClusterSettings, Settings

log = logging.getLogger("provenance.values")

# Orders of owners walked at most, where there are too many owners for every coalition.
ORDERS = 800
SEED = 1


@dataclass(frozen=True)
class _Reduce:
    """What workers need to sum a shard's values by party.

    Attributes:
        withdrawn: claims in which what owners opted out of has parties of its own; None where nobody has.
        chosen: the contract's outputs, as places among the night's.
        mean: of `by_checkpoint` and `by_node` over all examples.
        added: what an example adds by making the run longer, by output.
        push: what examples commonly push.
    """

    store: Store
    folder: str
    claims: pl.DataFrame
    withdrawn: pl.DataFrame | None
    day: date
    apart: pl.DataFrame
    chosen: tuple[int, ...]
    output_ids: tuple[str, ...]
    mean: tuple[np.ndarray, np.ndarray]
    added: np.ndarray
    push: float
    top: int


def values(folder: str, settings: Settings | None = None) -> str:
    """Write `rule_shares.parquet` and `works.parquet`, and their manifest; returns the night's folder."""
    settings = settings or load()
    store = settings.store.open()
    if store.exists(f"{folder}/values.json"):
        log.info("values: reused")
        return folder
    night = night_to_compute(store, folder)
    contracts = night.contracts
    outputs = night.read_outputs(store)
    if "model_id" not in outputs.columns:  # those of `attribute`
        outputs = outputs.with_columns(model_id=pl.lit(night.model_id))
    outputs = outputs.with_columns(pl.col("product").fill_null(""))
    assigned = outputs.select("output_id").with_columns(contract=assign(outputs, contracts, "outputs"))
    by_source = read_written(store, folder, "scores", "party_influence.parquet").rename(
        {"checkpoint": "source", "influence": "value"}
    )
    tables = [rules.shares_from_sources(rules.PROPORTIONAL, by_source)]
    behind = [read_written(store, folder, "scores", "evidence.parquet")]
    opted_out = Withdrawn.of(store, night)
    if store.exists(f"{folder}/replay.json"):
        behind = []
    for contract in contracts:
        mine = assigned.filter(pl.col("contract") == contract.name)["output_id"].to_list()
        if not mine:
            continue
        weights = _flat_weights(store, night, contract, night.read_claims(store))
        tables.append(rules.flat(weights, mine))
        if (claims := opted_out.claims) is not None:
            opted_out.flat(_flat_weights(store, night, contract, claims), float(weights["weight"].sum()), mine)
        if store.exists(f"{folder}/replay.json"):
            with open_cluster(settings.cluster) as client:
                found, alone = parted(sums_by_party(store, night, contract, mine, (client, settings.cluster)), APART)
            by_value = shares_by_value(store, night, mine, found)
            tables += by_value
            behind.append(found.evidence)
            opted_out.by_value(mine, found, alone, paid=len(night.method["values"]["checkpoints"]) + 1)
    manifest: dict[str, Any] = {
        "reads": read_manifest(store, folder, "scores")["writes"],
        "writes": {
            "rule_shares.parquet": store.write_table(f"{folder}/rule_shares.parquet", pl.concat(tables).sort(*RULE_SHARES.key)),
            "works.parquet": store.write_table(f"{folder}/works.parquet", pl.concat(behind).sort(*EVIDENCE.key)),
        },
        "contracts": dict(assigned.select("output_id", "contract").iter_rows()),
    }
    if night.choices:
        table = opted_out.shares(by_source, pl.concat(tables))
        manifest["writes"][SHARES_APART] = store.write_table(f"{folder}/{SHARES_APART}", table)
    store.write(f"{folder}/values.json", canonical_json(manifest))
    return folder


def sums_by_party(
    store: Store, night: Night, contract: Contract, output_ids: list[str], where: tuple[Client, ClusterSettings]
) -> ShardScores:
    """A contract's outputs: values summed by party, copies together, and the works behind them."""
    client, cluster = where
    clusters = copies(store, night, contract)
    worth = read_worth(store, night.folder)
    chosen = _places(store, night, output_ids)
    job = _Reduce(
        store=store,
        folder=night.folder,
        claims=night.read_claims(store),
        withdrawn=claims_apart(store, night),
        day=night.date,
        apart=clusters.select("example_id"),
        chosen=tuple(chosen),
        output_ids=tuple(output_ids),
        mean=(worth.mean[0][:, chosen], worth.mean[1][:, chosen]),
        added=(worth.ends[1] - worth.ends[0])[chosen] / worth.examples,
        push=worth.push,
        top=night.method["evidence"],
    )
    parts = [part.sha256 for part in night.frozen_corpus(store).shards if part.rows]
    combine = partial(merge, top=job.top)
    found = compute_tree(client, _reduce, job, parts, combine, settings=cluster, what=f"values by {contract.name!r}")
    return combine([found, _reduce_clusters(job, clusters, contract, parts)]) if clusters.height else found


def _places(store: Store, night: Night, output_ids: list[str]) -> list[int]:
    """Where some outputs stand among the night's."""
    place = {output: at for at, output in enumerate(night.read_outputs(store)["output_id"])}
    return [place[output] for output in output_ids]


def shares_by_value(store: Store, night: Night, output_ids: list[str], found: ShardScores) -> list[pl.DataFrame]:
    """Shares under the rules `faithful` and `srs`."""
    how, worth = night.method["values"], read_worth(store, night.folder)
    paid = len(how["checkpoints"]) + 1
    # Output by output: all of them at once would be a table of every source, owner and output.
    faithful = []
    for at, output in enumerate(output_ids):
        by_source = [
            found.parties.with_columns(output_id=pl.lit(output), source=pl.lit(f"{source:02d}"), value=pl.Series(row))
            for source, row in enumerate(found.sums[:paid, at])
        ]
        faithful.append(rules.shares_from_sources(rules.FAITHFUL, pl.concat(by_source)))
    chosen = _places(store, night, output_ids)
    game = Expanded(
        counts=found.sums[-1][0],
        rates=nodes(how["nodes"])[0],
        worth=np.concatenate([worth.ends[:1, chosen], worth.at_nodes[:, chosen], worth.ends[1:, chosen]]),
        slopes=found.sums[paid:-1].transpose(0, 2, 1),
    )
    return [
        pl.concat(faithful),
        _srs(game, found.parties, output_ids, how["width"]),
    ]


def _srs(game: Expanded, held: pl.DataFrame, output_ids: list[str], width: float) -> pl.DataFrame:
    """Shapley Royalty Shares of parties."""

    def tell(orders: int, widest: float) -> None:
        if orders.bit_count() == 1:  # at 8, 16, 32 ...
            log.info("srs: %d orders of %d owners, widest interval %.3f", orders, game.players, widest)

    found = shapley(game, width=width, most=ORDERS, seed=SEED, progress=tell)
    share = positive_shares(found.value)
    rows = [
        held.with_columns(
            rule=pl.lit(rules.SRS),
            output_id=pl.lit(output),
            share=pl.Series(share[:, at]),
            low=pl.Series(found.low[:, at]),
            high=pl.Series(found.high[:, at]),
        ).select(*RULE_SHARES.columns)
        for at, output in enumerate(output_ids)
        if share[:, at].any()
    ]
    return pl.concat([pl.DataFrame(schema=RULE_SHARES.schema), *rows])


def copies(store: Store, night: Night, contract: Contract) -> pl.DataFrame:
    """`cluster_id, example_id` of examples that count together under a contract."""
    part = night.frozen_corpus(store).duplicates
    empty = pl.DataFrame(schema={"cluster_id": pl.String, "example_id": pl.String})
    if part is None or contract.duplicates == "off":
        return empty
    return store.read_table(part.key).select("cluster_id", "example_id")


def _reduce(job: _Reduce, part: str) -> ShardScores:
    examples = job.store.read_table(part_key(part), columns=["example_id", "work_id", "source_uri", "owner_id"])
    tensors = load_tensors(job.store.read(values_key(job.folder, part)))
    alone = ~examples["example_id"].is_in(job.apart["example_id"].implode())
    rows = np.flatnonzero(alone.to_numpy())
    held = with_apart(parties, examples, job.claims, job.withdrawn, job.day)
    return merge([_summed(job, tensors, rows, examples[rows], each) for each in held], top=job.top)


def _summed(
    job: _Reduce, tensors: dict[str, np.ndarray], rows: np.ndarray, examples: pl.DataFrame, held: pl.DataFrame
) -> ShardScores:
    """Sums by party: paid values by checkpoint and for the longer run; values by node, signed; and how many examples."""
    outputs = list(job.chosen)
    turned = [tensors["by_checkpoint"][:, outputs][:, :, rows].astype(np.float64) - job.mean[0][:, :, None]]
    at_nodes = tensors["by_node"][:, outputs][:, :, rows].astype(np.float64) - job.mean[1][:, :, None]
    pushed = lengthening(tensors["push"][rows].astype(np.float64), job.push)
    # Where a longer run did an output harm, all share in that.
    longer = job.added[:, None] * np.where(job.added[:, None] > 0, pushed, 1)
    value = turned[0].sum(axis=0) + longer
    paid = (value > 0) * kept_part(value)
    blocks = [*(block * paid for block in turned[0]), longer * paid, *at_nodes, np.ones_like(value)]
    return reduce_scores(blocks, examples, held, output_ids=job.output_ids, top=job.top, ranked=value * paid)


def _reduce_clusters(job: _Reduce, clusters: pl.DataFrame, contract: Contract, parts: list[str]) -> ShardScores:
    """Copies, a cluster as one example of the mean value of its members, for those who have the claim on it."""
    names = clusters["cluster_id"].unique().sort().to_list()
    column = {name: at for at, name in enumerate(names)}
    size = np.zeros(len(names))
    sums: dict[str, np.ndarray] = {}
    members = []
    for part in parts:
        examples = (
            job.store.read_table(part_key(part)).with_row_index("row").join(clusters, on="example_id", maintain_order="left")
        )
        if examples.is_empty():
            continue
        members.append(examples.drop("content", "row"))
        tensors = load_tensors(job.store.read(values_key(job.folder, part)))
        at = np.array([column[name] for name in examples["cluster_id"]])
        np.add.at(size, at, 1)
        for name, tensor in tensors.items():
            total = sums.setdefault(name, np.zeros((*tensor.shape[:-1], len(names))))
            for place, row in zip(at, examples["row"], strict=True):
                total[..., place] += tensor[..., row]
    found = pl.concat(members, how="diagonal_relaxed")
    first = found.sort("cluster_id", "example_id").unique("cluster_id", keep="first").sort("cluster_id")
    examples = first.select(pl.col("cluster_id").alias("example_id"), pl.col("cluster_id").alias("work_id"), "source_uri")
    mean = {name: total / size for name, total in sums.items()}
    held = with_apart(partial(_held_clusters, contract), found, job.claims, job.withdrawn, job.day)
    result = merge([_summed(job, mean, np.arange(len(names)), examples, each) for each in held], top=job.top)
    shown = held_since(found, job.claims, job.day).join(
        found.select("cluster_id", "work_id", "example_id", "source_uri"), on="work_id"
    )
    shown = (
        shown.sort("example_id")
        .unique(["cluster_id", "account", "party_id"], keep="first")
        .select("cluster_id", "account", "party_id", "work_id", "example_id", "source_uri")
    )
    behind = result.evidence.drop("example_id", "source_uri").rename({"work_id": "cluster_id"})
    behind = behind.filter(pl.col("account") != APART)
    evidence = behind.join(shown, on=["cluster_id", "account", "party_id"], how="left").select(*EVIDENCE.columns)
    return replace(result, evidence=evidence)


def _held_clusters(contract: Contract, found: pl.DataFrame, claims: pl.DataFrame, day: date) -> pl.DataFrame:
    """`work_id, account, party_id, stake_ppb` with clusters in the place of works."""
    pairs = found.select("cluster_id", "work_id").unique()
    held = held_since(found, claims, day).join(pairs, on="work_id")
    rule = "earliest" if contract.duplicates == "earliest" else "equal"
    return claimants(held, rule=rule).rename({"cluster_id": "work_id"})


def _flat_weights(store: Store, night: Night, contract: Contract, claims: pl.DataFrame) -> pl.DataFrame:
    """`account, party_id, weight`: what each party has by the contract's count, by stake; copies count once."""
    clusters = copies(store, night, contract)
    columns = ["example_id", "work_id", "owner_id", "acquired_at", "tokens"]
    examples = night.read_corpus(store, *columns).join(clusters, on="example_id", how="left", maintain_order="left")
    each = {"tokens": pl.col("tokens"), "examples": pl.lit(1), "works": 1 / pl.len().over("work_id")}[contract.flat_by]
    examples = examples.with_columns(each.cast(pl.Float64).alias("weight"))
    alone = examples.filter(pl.col("cluster_id").is_null())
    held = alone.join(parties(examples, claims, night.date), on="work_id")
    together = examples.filter(pl.col("cluster_id").is_not_null())
    if together.height:
        mean = together.sort("example_id").group_by("cluster_id").agg(pl.col("weight").mean())
        owned = _held_clusters(contract, together, claims, night.date).rename({"work_id": "cluster_id"})
        held = pl.concat([held, mean.join(owned, on="cluster_id")], how="diagonal_relaxed")
    weight = (pl.col("weight") * pl.col("stake_ppb")).alias("weight")
    # A sum of floats depends on their order, and joins keep none.
    terms = held.select("account", "party_id", weight).sort("account", "party_id", "weight")
    return terms.group_by("account", "party_id", maintain_order=True).agg(pl.col("weight").sum())
