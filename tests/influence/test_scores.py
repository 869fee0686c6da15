import itertools

import numpy as np
import polars as pl
import pytest
from samples import table

from provenance.core.tables import EVIDENCE, PARTY_INFLUENCE
from provenance.influence.scores import Held, merge, party_influence, reduce_scores, reweight_evidence

RNG = np.random.default_rng(0)
N, Q, P = 40, 3, 8
FEATURES = [RNG.standard_normal((N, P)).astype(np.float32) for _ in range(2)]
QUERIES = [RNG.standard_normal((Q, P)).astype(np.float32) for _ in range(2)]
SCORES = np.stack([q.astype(float) @ f.T for q, f in zip(QUERIES, FEATURES, strict=True)])
WEIGHTS = np.array([0.25, 0.75])
OUTPUTS = [f"out-{q}" for q in range(Q)]
ROWS = [(f"e{i:02d}", f"w{i // 4}", None) for i in range(N)]
EXAMPLES = table("example_id work_id source_uri", *ROWS, source_uri=pl.String)
# Works of one owner, one work of two owners, one that nobody claims, and one that is a copy and half another owner's.
WHOLE = [(f"w{w}", "payable", f"o{w % 3}", 1.0, True) for w in range(9) if w not in {4, 7}]
SOME = [("w4", "payable", "o0", 0.25, True), ("w4", "payable", "o1", 0.75, True), ("w7", "payable", "o2", 0.5, False)]
PARTS = table("work_id account party_id part own", *WHOLE, *SOME, ("w9", "escrow", "w9", 1.0, True))
HOLDINGS = EXAMPLES.select("example_id", "work_id").join(PARTS, on="work_id")


PARTIES = HOLDINGS.select("account", "party_id").unique().sort("account", "party_id").with_row_index("party")
HELD = HOLDINGS.join(PARTIES, on=["account", "party_id"]).join(EXAMPLES.with_row_index("row"), on="example_id").sort("row")
EVERY = 10**6


def run(cuts, top=2, most=EVERY):
    """Scores of each of the shards between some cuts, and of all."""

    def shard(a, b):
        held = HELD.filter(pl.col("row").is_between(a, b, closed="left"))
        columns = {name: held[name].to_numpy() for name in ("row", "party", "part", "own")}
        scores = [q @ f[a:b].T for q, f in zip(QUERIES, FEATURES, strict=True)]
        return a, scores, Held(**columns | {"row": columns["row"] - a})

    def reduced(*shards):
        return reduce_scores(shards, outputs=Q, weights=WEIGHTS, top=top, most=most)

    shards = list(itertools.starmap(shard, itertools.pairwise([0, *cuts, N])))
    return [reduced(one) for one in shards], reduced(*shards)


def evidence_of(scores):
    """Candidates as a table, with names."""
    found = scores.candidates
    names = EXAMPLES[found.example].select("example_id", "work_id", "source_uri")
    table = pl.concat([PARTIES[found.party].select("account", "party_id"), names], how="horizontal")
    outputs = pl.Series([OUTPUTS[output] for output in found.output], dtype=pl.String)
    return table.with_columns(
        output_id=outputs, influence=found.influence,
        components=pl.Series(found.components.astype(float), dtype=pl.Array(pl.Float64, len(WEIGHTS))),
    )  # fmt: skip


def test_sums_of_each_component_are_sums_of_scores_by_part_and_the_table_has_a_row_for_each_output_and_party():
    _, whole = run([])
    assert whole.sums.shape == (2, Q, 4)
    parts = {"o0": np.zeros(N), "o1": np.zeros(N), "o2": np.zeros(N), "w9": np.zeros(N)}
    for work, _, party, part, _ in PARTS.rows():
        parts[party] += (EXAMPLES["work_id"] == work).to_numpy() * part
    assert PARTIES["party_id"].to_list() == ["w9", "o0", "o1", "o2"]
    assert whole.parties.tolist() == [0, 1, 2, 3]
    expected = SCORES @ np.stack([parts[party] for party in PARTIES["party_id"]]).T
    assert np.allclose(whole.sums, expected, rtol=1e-5, atol=1e-5)
    influence = np.einsum("k,kqn->qn", WEIGHTS, whole.sums)
    parties = party_influence(PARTIES, influence, OUTPUTS)
    assert parties.schema == PARTY_INFLUENCE.schema
    row = parties.filter((pl.col("output_id") == "out-2") & (pl.col("party_id") == "o1"))
    assert row["influence"].to_list() == [influence[2, 2]]
    assert parties.height == Q * 4
    assert parties.equals(parties.sort(*PARTY_INFLUENCE.key))


@pytest.mark.parametrize("most", [EVERY, 5])
@pytest.mark.parametrize("cuts", [[1], [7, 8, 30], list(range(1, N))], ids=["two", "four", "forty"])
def test_shards_and_their_order_change_nothing(cuts, most):
    _, whole = run([], most=most)
    shards, together = run(cuts, most=most)
    merged = merge(shards, top=2, most=most)
    backwards = merge([merge(shards[1:][::-1], top=2, most=most), shards[0]], top=2, most=most)
    for parts in (together, merged, backwards):
        assert parts.parties.tolist() == whole.parties.tolist()
        assert np.allclose(parts.sums, whole.sums, rtol=1e-5, atol=1e-5)
        for name in ("output", "party", "example"):
            assert getattr(parts.candidates, name).tolist() == getattr(whole.candidates, name).tolist()


def test_an_output_keeps_its_strongest_candidates_and_no_more_than_a_few_of_a_party():
    few, every = evidence_of(run([3, 9], top=2, most=5)[1]), evidence_of(run([], top=2)[1])
    assert few.group_by("output_id").len()["len"].to_list() == [5] * Q
    strongest = (
        every.sort("output_id", "influence", descending=[False, True]).group_by("output_id", maintain_order=True).head(5)
    )
    assert few["example_id"].to_list() == strongest["example_id"].to_list()


def test_a_copy_of_another_owner_s_work_is_no_evidence():
    evidence = evidence_of(run([], top=N)[1])
    assert "w7" not in evidence["work_id"].to_list()
    assert {"w2", "w5", "w8"} == set(evidence.filter(pl.col("party_id") == "o2")["work_id"])


@pytest.mark.parametrize("weights", [WEIGHTS, np.array([1.0, 0.0])], ids=["as scored", "once fitted"])
def test_evidence_is_the_strongest_of_each_party_summed_over_components(weights):
    whole = evidence_of(run([13])[1]) if weights is WEIGHTS else reweight_evidence(evidence_of(run([], top=N)[1]), weights, 2)
    scores = np.einsum("k,kqn->qn", weights, SCORES)
    candidates = [i for i in range(N) if f"w{i // 4}" in {"w2", "w5", "w8"}]
    best = sorted(candidates, key=lambda i: -scores[1][i])[:2]
    evidence = whole.filter((pl.col("output_id") == "out-1") & (pl.col("party_id") == "o2"))
    assert evidence["example_id"].to_list() == [f"e{i:02d}" for i in best]
    assert evidence["influence"].to_list() == pytest.approx([scores[1][i] for i in best], rel=1e-5)
    assert whole.group_by("output_id", "party_id").len()["len"].max() == 2
    if weights is WEIGHTS:
        assert np.allclose(evidence["components"].to_numpy(), SCORES[:, 1, best].T, rtol=1e-5)
    else:
        assert whole.schema == EVIDENCE.schema
