"""Copies are found regardless of claims, a person may overrule them, and a cluster pays the earliest claimants."""

from datetime import date

import numpy as np
import polars as pl
import pytest
import samples

from provenance.core.errors import ContractError
from provenance.core.store import sha256
from provenance.corpus import duplicates
from provenance.corpus.duplicates import check_decisions, claimants, find_duplicates
from provenance.corpus.sketches import jaccard, runs_of

SOURCE = b"""def settle(day, rate, owners):
    total = sum(amount for amount, _ in owners)
    for amount, owner in owners:
        owner.credit(day, amount * rate // total)
    return total - sum(owner.balance for _, owner in owners)
"""
OTHER = b"""class Queue:
    def __init__(self, limit): self.items, self.limit = [], limit
    def push(self, item):
        if len(self.items) == self.limit: raise OverflowError(item)
        self.items.append(item)
"""


def table(*contents, modality="code", dates=()):
    since = dates or [None] * len(contents)
    rows = [(f"e{at}", text, sha256(text), modality, since[at]) for at, text in enumerate(contents)]
    return samples.table("example_id content content_sha256 modality since", *rows)


def decisions(*rows):
    return samples.table("example_id same_as decided_by reason", *rows, same_as=pl.String)


def clusters(duplicates):
    return duplicates.group_by("cluster_id").agg(pl.col("example_id").sort())["example_id"].sort().to_list()


def test_exact_and_near_copies_are_one_cluster_and_what_is_short_is_a_copy_only_of_its_equal():
    renamed = SOURCE.replace(b"rate", b"quota", 1).replace(b"    return", b"\n    return")
    duplicates = find_duplicates(table(SOURCE, OTHER, SOURCE, renamed))
    assert clusters(duplicates) == [["e0", "e2", "e3"]]
    assert duplicates["cluster_id"].unique().to_list() == ["e0"]
    assert dict(duplicates.select("example_id", "similarity").iter_rows())["e2"] == 1
    assert 0.4 <= dict(duplicates.select("example_id", "similarity").iter_rows())["e3"] < 1
    assert clusters(find_duplicates(table(b"return x", b"return x", b"return y"))) == [["e0", "e1"]]
    assert find_duplicates(table(SOURCE, OTHER)).is_empty()


def test_copies_are_found_whatever_their_case_and_spaces_and_where_every_24th_letter_is_another():
    spaced = SOURCE.upper().replace(b"    ", b"\t")
    altered = bytes(byte + (at % 24 == 23) for at, byte in enumerate(SOURCE))
    assert clusters(find_duplicates(table(SOURCE, spaced, OTHER, altered))) == [["e0", "e1", "e3"]]


def test_what_is_like_two_works_does_not_make_them_one():
    bridge = SOURCE + OTHER
    dates = [date(2020, 1, 1), date(2021, 1, 1), date(2022, 1, 1)]
    for contents, days in (([SOURCE, OTHER, bridge], dates), ([bridge, SOURCE, OTHER], dates[::-1])):
        assert find_duplicates(table(*contents, dates=days)).height == 2
    # Also without dates, in either order.
    for contents in ([SOURCE, OTHER, bridge], [bridge, SOURCE, OTHER], [SOURCE, bridge, OTHER]):
        assert find_duplicates(table(*contents)).height <= 2


def test_text_and_code_are_compared_with_one_another_letters_of_any_script_have_cases_and_melodies_events():
    mixed = table(SOURCE, SOURCE + b"# end\n").with_columns(modality=pl.Series(["code", "text"]))
    assert clusters(find_duplicates(mixed)) == [["e0", "e1"]]
    verse = "\N{CYRILLIC SMALL LETTER ZHE}\N{CYRILLIC SMALL LETTER YA}".join("abcdefghijklmnop")
    cased = table(verse.encode(), verse.upper().encode(), modality="text")
    assert clusters(find_duplicates(cased)) == [["e0", "e1"]]
    tune = bytes(range(60, 90)) * 2
    assert clusters(find_duplicates(table(tune, tune[:-2] + b"\x01\x02", tune[::-1], modality="music"))) == [["e0", "e1"]]


def test_the_order_of_examples_changes_nothing():
    forward = table(SOURCE, OTHER, SOURCE + b"# end\n", OTHER)
    assert find_duplicates(forward).equals(find_duplicates(forward.reverse()))


def test_a_person_may_overrule_what_was_found():
    examples = table(SOURCE, SOURCE, OTHER)
    apart = decisions(("e1", None, "ann", "written first, see the letter of 3 May"))
    assert find_duplicates(examples, apart).is_empty()
    joined = find_duplicates(examples, decisions(("e2", "e0", "bo", "a translation")))
    assert clusters(joined) == [["e0", "e1", "e2"]]
    assert dict(joined.select("example_id", "decision").iter_rows())["e2"] == "bo: a translation"
    # A decision replaces the computed result.
    elsewhere = find_duplicates(examples, decisions(("e1", "e2", "bo", "no copy of e0")))
    assert clusters(elsewhere) == [["e1", "e2"]]


@pytest.mark.parametrize(("pairs", "message"), [
    ([("e9", None)],
     r"row 0 \(example_id 'e9'\): column 'example_id': expected an example that the model was trained on, found 'e9'"),
    ([("e0", "e9")], r"column 'same_as': .* found 'e9'"),
    ([("e0", "e0")], r"column 'same_as': expected another example"),
    ([("e0", None), ("e0", None)], "row 1: example_id: expected a key that no other row has"),
])  # fmt: skip
def test_a_decision_about_nothing_and_a_second_one_are_errors(pairs, message):
    made = decisions(*((*pair, "a", "b") for pair in pairs))
    with pytest.raises(ContractError, match=message):
        check_decisions(made, table(SOURCE), "decisions.parquet")


def stakes_of(*rows):
    rows = [("c", f"w{at}", *row) for at, row in enumerate(rows)]
    return samples.table("cluster_id work_id account party_id stake_ppb since", *rows, since=pl.Date)


def paid(frame, rule):
    return dict(claimants(frame, rule=rule).select("party_id", "stake_ppb").iter_rows())


def test_a_cluster_pays_the_earliest_dated_claim_before_escrow_or_all_in_equal_parts():
    first = ("payable", "ann", 10**9, date(2020, 1, 1))
    copy = ("payable", "mallory", 10**9, date(2024, 1, 1))
    assert paid(stakes_of(copy, first), "earliest") == {"ann": 10**9}
    assert paid(stakes_of(copy, first), "equal") == {"ann": 5 * 10**8, "mallory": 5 * 10**8}
    unknown = ("escrow", "unmatched-x", 10**9, date(2019, 1, 1))
    assert paid(stakes_of(unknown, ("payable", "ann", 10**9, None)), "earliest") == {"ann": 10**9}
    assert paid(stakes_of(("payable", "mallory", 10**9, None), first), "earliest") == {"ann": 10**9}


def test_who_came_at_the_same_time_shares_by_stake_and_exactly():
    rows = [("payable", name, 10**9, date(2020, 1, 1)) for name in "abc"]
    stakes = paid(stakes_of(*rows), "earliest")
    assert sorted(stakes.values()) == [333_333_333, 333_333_333, 333_333_334]


def all_pairs(examples):
    """Clusters by the exact similarity of every pair, for the test's oracle: examples in order, undated."""
    ids, contents = examples["example_id"].to_list(), examples["content"].to_list()
    runs = runs_of(contents, "code")
    originals, copies, links = [], {}, {}
    for at in range(len(ids)):
        similar = sorted((-jaccard(runs[other], runs[at]), other) for other in originals)
        for negative, other in similar:
            near = [jaccard(runs[copy], runs[at]) >= 0.4 for copy in copies.get(other, [])]
            if -negative >= 0.4 and (not near or any(near)):
                copies.setdefault(other, []).append(at)
                links.setdefault(other, {ids[other]}).add(ids[at])
                break
        else:
            originals.append(at)
    return sorted(sorted(cluster) for cluster in links.values())


def variants(seed):
    """Sources, each with versions of which some lines are another's: clearly a few, or clearly most."""
    draws = np.random.default_rng(seed)
    lines = [
        [f"{'abcdefgh'[line % 8]}_{seed}_{source}_{line} = call({line * source})\n" for line in range(20)]
        for source in range(9)
    ]
    changes = [(source, changed) for source in range(8) for changed in draws.choice([0, 1, 2, 3, 14], 4)]
    made = ["".join([*lines[source][many:], *lines[source + 1][:many]]).encode() for source, many in changes]
    return [made[at] for at in draws.permutation(len(made))]


@pytest.mark.parametrize("seed", range(6))
def test_copies_are_those_that_comparing_all_pairs_finds(seed):
    examples = table(*variants(seed)).sort("example_id")
    found = clusters(find_duplicates(examples))
    assert found == all_pairs(examples)
    assert len(found) > 3


def test_a_band_that_many_share_is_compared_with_the_earliest_alone(monkeypatch):
    monkeypatch.setattr(duplicates, "EARLIEST", 2)
    many = [SOURCE + b"# %d\n" % at for at in range(40)]
    assert clusters(find_duplicates(table(*many, OTHER))) == [sorted(f"e{at}" for at in range(40))]
