import itertools

import numpy as np
import polars as pl
import pytest

from provenance.core.contracts import EVIDENCE, PARTY_INFLUENCE
from provenance.influence.scores import merge, party_influence, reduce_scores

RNG = np.random.default_rng(0)
N, Q, P = 40, 3, 8
FEATURES = [RNG.standard_normal((N, P)).astype(np.float32) for _ in range(2)]
QUERIES = [RNG.standard_normal((Q, P)).astype(np.float32) for _ in range(2)]
OUTPUTS = [f"out-{q}" for q in range(Q)]
EXAMPLES = pl.DataFrame(
    {
        "example_id": [f"e{i:02d}" for i in range(N)],
        "work_id": [f"w{i // 4}" for i in range(N)],
        "source_uri": [None] * N,
    },
    schema_overrides={"source_uri": pl.String},
)
PARTIES = pl.DataFrame(
    [(f"w{w}", "payable", f"o{w % 3}", 10**9) for w in range(9) if w != 4]
    + [("w4", "payable", "o0", 250_000_000), ("w4", "payable", "o1", 750_000_000), ("w9", "escrow", "w9", 10**9)],
    schema=["work_id", "account", "party_id", "stake_ppb"],
    orient="row",
)


def tables(scores):
    return party_influence(scores, output_ids=OUTPUTS, sources=["a", "b"]), scores.evidence


def run(cuts, top=2):
    edges = [0, *cuts, N]
    shards = [
        reduce_scores(
            [q @ f[a:b].T for q, f in zip(QUERIES, FEATURES, strict=True)], EXAMPLES[a:b], PARTIES, output_ids=OUTPUTS, top=top
        )
        for a, b in itertools.pairwise(edges)
    ]
    return shards, tables(merge(shards, top=top))


def test_sums_are_stake_weighted_sums_of_scores():
    _, (influence, _) = run([])
    assert influence.schema == PARTY_INFLUENCE.schema
    for checkpoint, (query, feature) in enumerate(zip(QUERIES, FEATURES, strict=True)):
        scores = query.astype(float) @ feature.T
        stakes = {"o0": np.zeros(N), "o1": np.zeros(N), "o2": np.zeros(N), "w9": np.zeros(N)}
        for work, _, party, stake in PARTIES.rows():
            stakes[party] += (EXAMPLES["work_id"] == work).to_numpy() * stake / 1e9
        for party, weight in stakes.items():
            for q, output in enumerate(OUTPUTS):
                row = influence.filter(
                    (pl.col("output_id") == output) & (pl.col("party_id") == party) & (pl.col("checkpoint") == "ab"[checkpoint])
                )
                assert row["influence"].item() == pytest.approx(scores[q] @ weight, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("cuts", [[1], [7, 8, 30], list(range(1, N))])
def test_shards_and_their_order_change_nothing(cuts):
    _, (whole, evidence) = run([])
    shards, (parts, found) = run(cuts)
    assert parts.drop("influence").equals(whole.drop("influence"))
    assert np.allclose(parts["influence"], whole["influence"], rtol=1e-5, atol=1e-5)
    assert found.drop("influence").equals(evidence.drop("influence"))
    backwards, _ = tables(merge([merge(shards[1:][::-1], top=2), shards[0]], top=2))
    assert np.allclose(backwards["influence"], whole["influence"], rtol=1e-5, atol=1e-5)


def test_evidence_is_the_strongest_of_each_party_summed_over_checkpoints():
    _, (_, evidence) = run([13])
    assert evidence.schema == EVIDENCE.schema
    scores = sum(q.astype(float) @ f.T for q, f in zip(QUERIES, FEATURES, strict=True))
    mine = [i for i in range(N) if f"w{i // 4}" in {"w2", "w5", "w8"}]
    best = sorted(mine, key=lambda i: -scores[1][i])[:2]
    found = evidence.filter((pl.col("output_id") == "out-1") & (pl.col("party_id") == "o2"))
    assert found["example_id"].to_list() == [f"e{i:02d}" for i in best]
    assert found["influence"].to_list() == pytest.approx([scores[1][i] for i in best], rel=1e-5)
