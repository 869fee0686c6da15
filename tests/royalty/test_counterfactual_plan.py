"""Which models are trained on which parts of the owners."""

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
    found = defaultdict(list)
    for part in parts:
        found[part.partition].append(part)
    return list(found.values())


@given(st.dictionaries(st.text(max_size=4), st.integers(0, 10**9), min_size=2, max_size=30), st.integers(1, 20))
def test_a_partition_has_everybody_once_and_costs_one_training(weights, trainings):
    found = partitions(plan(weights, trainings))
    assert len(found) == trainings
    for parts in found:
        assert sorted(name for part in parts for name in part.parties) == sorted(weights)
        assert all(part.parties for part in parts)
        assert len({(part.stratum, part.aside) for part in parts}) == 1


@given(st.integers(1, 20), st.integers(0, 20))
@settings(max_examples=40)
def test_more_trainings_leave_the_first_ones_as_they_are(trainings, more):
    first = plan(SOME, trainings)
    assert plan(SOME, trainings + more)[: len(first)] == first


def test_the_order_in_which_owners_are_named_changes_nothing():
    backwards = dict(reversed(MANY.items()))
    assert plan(backwards, 9) == plan(MANY, 9)


def test_trainings_have_names_and_seeds_of_their_own():
    parts = plan(MANY, 40)
    assert len({part.name for part in parts}) == len({part.seed for part in parts}) == len(parts)
    assert all(0 <= part.seed < 2**31 for part in parts)


@pytest.mark.parametrize("owners", [3, FEW])
def test_few_owners_are_each_alone_once(owners):
    weights = {f"o{at:02d}": 5 for at in range(owners)}
    small = [part.parties for part in partitions(plan(weights, 1))[0]]
    assert sorted(small) == [(name,) for name in sorted(weights)]


def test_many_owners_are_parted_among_a_fixed_number():
    parts = partitions(plan(MANY, 1))[0]
    assert len(parts) == PARTS
    assert {part.stratum for part in parts} == {SMALL}


@given(st.dictionaries(st.integers(0, 99).map(str), st.integers(1, 1000), min_size=2, max_size=40))
def test_parts_of_a_partition_differ_by_no_more_than_one_owner(weights):
    for parts in partitions(plan(weights, 9)):
        held = [sum(weights[name] for name in part.parties) for part in parts]
        assert max(held) - min(held) <= max(weights.values())
    pairs = [parts for parts in partitions(plan(weights, 9)) if parts[0].stratum == PAIR]
    assert all(len(parts) == 2 for parts in pairs)


def test_halves_are_balanced_by_the_owners_work():
    weights = {f"o{at:03d}": int(size) for at, size in enumerate(np.random.default_rng(1).integers(1, 100, 200))}
    whole = sum(weights.values())
    for parts in partitions(plan(weights, 30)):
        if parts[0].stratum == PAIR:
            held = [sum(weights[name] for name in part.parties) / whole for part in parts]
            assert held == pytest.approx([0.5, 0.5], abs=0.01)


def test_what_is_set_aside_are_pairs_and_few():
    found = partitions(plan(MANY, 64))
    aside = [parts for parts in found if parts[0].aside]
    assert 1 <= len(aside) <= len(found) / 4
    assert {part.stratum for parts in aside for part in parts} == {PAIR}
    assert not found[0][0].aside


def test_small_parts_come_again_with_other_seeds_which_tells_the_noise_of_training():
    small = [parts for parts in partitions(plan(MANY, 16)) if parts[0].stratum == SMALL]
    assert len(small) == 2
    first, again = ([part.parties for part in parts] for parts in small)
    assert first == again
    assert not {part.seed for part in small[0]} & {part.seed for part in small[1]}


def test_no_pair_comes_twice_while_there_are_others():
    pairs = [frozenset(part.parties for part in parts) for parts in partitions(plan(MANY, 40)) if parts[0].stratum == PAIR]
    assert len(set(pairs)) == len(pairs)
    # Four owners of one size have three halves.
    few = partitions(plan(dict.fromkeys("abcd", 1), 20))
    halves = {frozenset(part.parties for part in parts) for parts in few if parts[0].stratum == PAIR}
    assert len(halves) == 3
    assert TRIES >= 100


def test_one_owner_or_none_cannot_be_left_out_and_two_are_pairs_alone():
    assert plan({}, 4) == plan({"a": 1}, 4) == ()
    assert {part.stratum for part in plan({"a": 1, "b": 9}, 20)} == {PAIR}
    assert {part.parties for part in plan({"a": 1, "b": 9}, 20)} == {("a",), ("b",)}
