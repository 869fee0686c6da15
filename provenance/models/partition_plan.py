"""Plans the part of the owners that each counterfactual model is trained on.

A *partition* divides all owners at random into parts of about the same size, and one model is trained on each part. A pair has
two parts, a random half and the other half; a partition of small parts has `PARTS` parts or, with up to `FEW` owners, one
owner in each. A whole partition costs as much as one training on the whole corpus. The models of a partition are of one
*stratum*: each was trained on about the same amount of work.

Pairs measure what an owner adds to about half of the others. Small parts measure who teaches what all works teach; that pays
most to the owners who come first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

# With up to FEW owners, each is a small part alone; with more, a partition has PARTS small parts.
FEW, PARTS = 12, 8
PAIR, SMALL = "pair", "small"
# Strata are divided at these parts of the corpus that a model was trained on.
BOUNDS = (0.25, 0.75)
# Every eighth partition has small parts, the others are pairs.
SMALL_EVERY = 8
# Every sixteenth partition is set aside: nothing is fitted to its models, so they can test the intervals.
ASIDE_EVERY = 16
# Draws until a partition is new; few owners have few partitions.
TRIES = 200


@dataclass(frozen=True)
class Part:
    """One counterfactual training.

    Attributes:
        name: such as `pair-003-1`.
        stratum: `pair` or `small`.
        partition: the number of its partition; models of a partition are predicted from the other partitions only.
        parties: the owners in it.
        aside: set aside; nothing is fitted to it.
        seed: of the training.
    """

    name: str
    stratum: str
    partition: int
    parties: tuple[str, ...]
    aside: bool
    seed: int


def plan(weights: Mapping[str, int], trainings: int) -> tuple[Part, ...]:
    """The parts of `trainings` partitions; a larger number adds partitions and changes none.

    The order: one partition of small parts, seven pairs, the same small parts with other seeds (they measure the noise of
    training), six pairs, a pair that is set aside; then again from the start, with new random parts.

    Args:
        weights: tokens of each party.
    """
    names = sorted(weights)
    if len(names) < 2:
        return ()
    drawn: set[frozenset[frozenset[str]]] = set()
    parts: list[Part] = []
    small: list[tuple[str, ...]] = []
    for number in range(trainings):
        stratum = SMALL if number % SMALL_EVERY == 0 and len(names) > 2 else PAIR
        aside = number % ASIDE_EVERY == ASIDE_EVERY - 1
        if stratum == PAIR:
            partition = _new_partition(names, weights, 2, f"{stratum}/{number}", drawn)
        elif number % ASIDE_EVERY == 0:
            count = len(names) if len(names) <= FEW else PARTS
            partition = small = _new_partition(names, weights, count, f"{stratum}/{number}", drawn)
        else:
            partition = small
        for place, parties in enumerate(partition):
            name = f"{stratum}-{number:03d}-{place}"
            parts.append(Part(name, stratum, number, parties, aside, _number(f"seed/{name}", 31)))
    return tuple(parts)


def _new_partition(
    names: list[str], weights: Mapping[str, int], count: int, name: str, drawn: set[frozenset[frozenset[str]]]
) -> list[tuple[str, ...]]:
    """A partition that is not in `drawn`; after `TRIES` draws, an old one."""
    for number in range(TRIES):
        parts = list(_partition(names, weights, count, f"{name}/{number}"))
        key = frozenset(frozenset(part) for part in parts)
        if key not in drawn:
            break
    drawn.add(key)
    return parts


def _partition(names: list[str], weights: Mapping[str, int], count: int, name: str) -> Iterator[tuple[str, ...]]:
    """Assigns parties in a random order, each to the part with the fewest tokens so far."""
    draws = np.random.Generator(np.random.Philox(_number(name, 128)))
    parts: list[list[str]] = [[] for _ in range(count)]
    tokens = np.zeros(count)
    for at in draws.permutation(len(names)):
        lightest = int(np.argmin(tokens))
        parts[lightest].append(names[at])
        tokens[lightest] += max(1, weights[names[at]])
    return (tuple(sorted(part)) for part in parts if part)


def _number(name: str, bits: int) -> int:
    """A number of `bits` bits from the digest of a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()) >> (256 - bits)
