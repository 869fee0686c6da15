"""Parts of examples by party: by stake, and for copies by the claim on their cluster."""

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import table

from provenance.corpus.holdings import find_holders, holdings

PPB = 1_000_000_000
DAY = date(2026, 11, 20)
EARLY, LATE = date(2020, 1, 1), date(2024, 1, 1)


def examples(works):
    """`works` names the work of each example."""
    rows = [(f"e{at}", work) for at, work in enumerate(works)]
    frame = table("example_id work_id", *rows, example_id=pl.String, work_id=pl.String)
    acquired = pl.lit(datetime(2025, 1, 1, tzinfo=UTC), pl.Datetime("us", "UTC"))
    return frame.with_columns(owner_id=pl.lit(None, pl.String), acquired_at=acquired)


def claims(*rows):
    """Claims from rows of work, owner, stake and first day."""
    types = {"work_id": pl.String, "owner_id": pl.String, "stake_ppb": pl.Int64, "valid_from": pl.Date}
    return table("work_id owner_id stake_ppb valid_from", *rows, **types).with_columns(valid_to=pl.lit(None, pl.Date))


def cut(clusters):
    """Clusters of copies, by example."""
    return table("example_id cluster_id", *clusters.items(), example_id=pl.String, cluster_id=pl.String)


def parts_of(works, claimed, clusters=None, rule="earliest"):
    """Parts, and whether they are by an own claim, by example and party."""
    corpus, copies = examples(works), cut(clusters or {})
    members = corpus.join(copies, on="example_id", how="semi")
    parts = holdings(corpus, claimed, DAY, find_holders(members, claimed, DAY, copies, rule))
    assert parts.columns == ["example_id", "work_id", "account", "party_id", "part", "own"]
    assert parts.equals(parts.sort("example_id", "account", "party_id"))
    return {(example, party): (round(part, 12), own) for example, _, _, party, part, own in parts.iter_rows()}


def test_an_example_is_held_by_stake_and_what_nobody_claims_in_escrow():
    shared = claims(("a", "ann", 600_000_000, None), ("a", "bob", 400_000_000, None), ("b", "bob", PPB, None))
    assert parts_of(["a", "a", "b"], shared) == {
        ("e0", "ann"): (0.6, True), ("e0", "bob"): (0.4, True), ("e1", "ann"): (0.6, True), ("e1", "bob"): (0.4, True),
        ("e2", "bob"): (1.0, True),
    }  # fmt: skip
    parts = holdings(examples(["a"]), claims(), DAY, find_holders(examples([]), claims(), DAY, cut({}), "earliest"))
    assert parts.rows() == [("e0", "a", "escrow", "a", 1.0, True)]


CLAIMED = claims(("a", "ann", PPB, EARLY), ("b", "bob", PPB, LATE), ("c", "bob", PPB, LATE))
COPIES = {"e0": "e0", "e1": "e0"}
SHARED = {("e0", "ann"): (0.25, True), ("e0", "bob"): (0.25, False), ("e1", "ann"): (0.25, False), ("e1", "bob"): (0.25, True)}


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ("earliest", {("e0", "ann"): (0.5, True), ("e1", "ann"): (0.5, False)}),
        ("equal", SHARED),
        ("off", {("e0", "ann"): (1.0, True), ("e1", "bob"): (1.0, True)}),
    ],
)
def test_copies_count_as_one_work_of_whoever_came_first_in_equal_parts_or_each_for_itself(rule, parts):
    assert parts_of(["a", "b", "c"], CLAIMED, COPIES, rule) == parts | {("e2", "bob"): (1.0, True)}


def test_a_copy_of_one_s_own_work_is_one_s_own_and_a_claim_that_has_ended_holds_nothing():
    twice = claims(("a", "ann", PPB, EARLY), ("b", "ann", PPB, LATE))
    assert parts_of(["a", "b"], twice, COPIES) == {("e0", "ann"): (0.5, True), ("e1", "ann"): (0.5, True)}
    over = CLAIMED.with_columns(valid_to=pl.when(pl.col("work_id") == "a").then(pl.lit(date(2023, 1, 1))))
    parts = parts_of(["a", "b", "c"], over, COPIES)
    assert parts["e0", "bob"] == (0.5, False)
    assert ("e0", "ann") not in parts


@given(st.data(), st.sampled_from(["earliest", "equal", "off"]))
@settings(max_examples=60)
def test_a_cluster_counts_as_one_example_and_all_others_as_one_each(data, rule):
    works = data.draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12))
    copies = data.draw(st.dictionaries(st.sampled_from([f"e{at}" for at in range(len(works))]), st.sampled_from(["x", "y"])))
    claimed = claims(*((work, f"o{at}", PPB // 2, day) for work in "abc" for at, day in ((0, EARLY), (ord(work), None))))
    parts = parts_of(works, claimed, copies, rule)
    clustered = {} if rule == "off" else copies
    by_example = {example: sum(part for (of, _), (part, _) in parts.items() if of == example) for example, _ in parts}
    assert set(by_example) == {f"e{at}" for at in range(len(works))}
    assert sum(by_example.values()) == pytest.approx(len(works) - len(clustered) + len(set(clustered.values())))
    for example, part in by_example.items():
        of = clustered.get(example)
        assert part == pytest.approx(1 / list(clustered.values()).count(of) if of else 1)
