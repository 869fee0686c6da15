"""The plan divides owners among counterfactual models."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.models.partition_plan import FEW, PAIR, PARTS, SMALL, TRIES, plan

MANY = {f"o{at:03d}": 1 + at % 7 for at in range(40)}
SOME = {f"o{at}": 10 * at + 1 for at in range(6)}


def partitions(parts):
    """The parts of each partition, in order."""
    by_partition = defaultdict(list)
    for part in parts:
        by_partition[part.partition].append(part)
    return list(by_partition.values())


@given(st.dictionaries(st.text(max_size=4), st.integers(0, 10**9), min_size=2, max_size=30), st.integers(1, 20))
@settings(max_examples=50)
def test_a_partition_has_every_owner_once(weights, trainings):
    planned = partitions(plan(weights, trainings))
    assert len(planned) == trainings
    for parts in planned:
        assert sorted(name for part in parts for name in part.parties) == sorted(weights)
        assert all(part.parties for part in parts)
        assert len({(part.stratum, part.aside) for part in parts}) == 1


@given(st.integers(1, 20), st.integers(0, 20))
@settings(max_examples=25)
def test_more_trainings_do_not_change_the_first_ones(trainings, more):
    first = plan(SOME, trainings)
    assert plan(SOME, trainings + more)[: len(first)] == first


def test_names_and_seeds_are_unique_and_the_order_in_which_owners_are_named_changes_nothing():
    parts = plan(MANY, 40)
    assert len({part.name for part in parts}) == len({part.seed for part in parts}) == len(parts)
    assert all(0 <= part.seed < 2**31 for part in parts)
    assert plan(dict(reversed(MANY.items())), 9) == plan(MANY, 9)


def test_each_of_few_owners_is_a_small_part_and_of_many_there_is_a_fixed_number():
    for owners in (3, FEW):
        weights = {f"o{at:02d}": 5 for at in range(owners)}
        small = [part.parties for part in partitions(plan(weights, 1))[0]]
        assert sorted(small) == [(name,) for name in sorted(weights)]
    parts = partitions(plan(MANY, 1))[0]
    assert len(parts) == PARTS
    assert {part.stratum for part in parts} == {SMALL}


@given(st.dictionaries(st.integers(0, 99).map(str), st.integers(1, 1000), min_size=2, max_size=40))
@settings(max_examples=50)
def test_parts_of_a_partition_differ_by_no_more_than_one_owner(weights):
    for parts in partitions(plan(weights, 9)):
        sizes = [sum(weights[name] for name in part.parties) for part in parts]
        assert max(sizes) - min(sizes) <= max(weights.values())
        assert parts[0].stratum != PAIR or len(parts) == 2


def test_halves_are_balanced_by_the_owners_work():
    weights = {f"o{at:03d}": int(size) for at, size in enumerate(np.random.default_rng(1).integers(1, 100, 200))}
    total = sum(weights.values())
    for parts in partitions(plan(weights, 30)):
        if parts[0].stratum == PAIR:
            sizes = [sum(weights[name] for name in part.parties) / total for part in parts]
            assert sizes == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_few_pairs_are_set_aside_and_small_parts_repeated_with_other_seeds():
    planned = partitions(plan(MANY, 64))
    aside = [parts for parts in planned if parts[0].aside]
    assert 1 <= len(aside) <= len(planned) / 4
    assert {part.stratum for parts in aside for part in parts} == {PAIR}
    assert not planned[0][0].aside
    small = [parts for parts in partitions(plan(MANY, 16)) if parts[0].stratum == SMALL]
    assert len(small) == 2
    first, again = ([part.parties for part in parts] for parts in small)
    assert first == again
    assert not {part.seed for part in small[0]} & {part.seed for part in small[1]}


def test_no_pair_is_repeated_while_others_are_left():
    pairs = [frozenset(part.parties for part in parts) for parts in partitions(plan(MANY, 40)) if parts[0].stratum == PAIR]
    assert len(set(pairs)) == len(pairs)
    # Four owners of equal size can be halved in three ways.
    few = partitions(plan(dict.fromkeys("abcd", 1), 20))
    halves = {frozenset(part.parties for part in parts) for parts in few if parts[0].stratum == PAIR}
    assert len(halves) == 3
    assert TRIES >= 100


def test_fewer_than_two_owners_have_no_plan_and_two_have_only_pairs():
    assert plan({}, 4) == plan({"a": 1}, 4) == ()
    assert {part.stratum for part in plan({"a": 1, "b": 9}, 20)} == {PAIR}
    assert {part.parties for part in plan({"a": 1, "b": 9}, 20)} == {("a",), ("b",)}
