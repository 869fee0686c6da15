"""Counterfactual models: which parts of the owners each is trained on, and how a model's set of them is read and checked.

A *partition* divides the owners at random into parts of about the same size, and a model is trained on each part: two parts
are a pair (a random half, then the other half), eight are a partition at one eighth, and with up to `FEW` owners every owner is
a part alone. A whole partition costs as much as one training on everything. Models of one partition stand in one *stratum*:
each saw about the same amount of work.

Pairs say what an owner adds when about half of the others are in; the small parts say who teaches what all works teach, which
pays most to those who come first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

# Up to so many owners each is a part alone; of more there are so many parts.
FEW, PARTS = 12, 8
PAIR, SMALL = "pair", "small"
# The first of so many partitions has small parts, the others are pairs.
SMALL_EVERY = 8
# The last of so many is set aside: its models are never fitted on, and say how far intervals can be trusted.
ASIDE_EVERY = 16
# Partitions drawn for one that is new; a few owners have few.
TRIES = 200


@dataclass(frozen=True)
class Part:
    """One counterfactual training.

    Attributes:
        name: such as `pair-003-1`.
        stratum: `pair` or `small`.
        partition: the number of its partition; its models are left out together when they are predicted.
        parties: who is in.
        aside: never fitted on.
        seed: of the training.
    """

    name: str
    stratum: str
    partition: int
    parties: tuple[str, ...]
    aside: bool
    seed: int


def plan(weights: Mapping[str, int], trainings: int) -> tuple[Part, ...]:
    """The trainings that are worth `trainings` on the whole corpus; more of them leave the first ones as they are.

    Partitions come in this order: one of small parts, seven pairs, the same small parts with other seeds (which tells the noise
    of training), six pairs, a pair that is set aside; and so on, all drawn anew.

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
        for place, inside in enumerate(partition):
            name = f"{stratum}-{number:03d}-{place}"
            parts.append(Part(name, stratum, number, inside, aside, _number(f"seed/{name}", 31)))
    return tuple(parts)


def _new_partition(
    names: list[str], weights: Mapping[str, int], count: int, name: str, drawn: set[frozenset[frozenset[str]]]
) -> list[tuple[str, ...]]:
    """A new partition; once all have been drawn, one of them again."""
    for number in range(TRIES):
        parts = list(_partition(names, weights, count, f"{name}/{number}"))
        key = frozenset(frozenset(part) for part in parts)
        if key not in drawn:
            break
    drawn.add(key)
    return parts


def _partition(names: list[str], weights: Mapping[str, int], count: int, name: str) -> Iterator[tuple[str, ...]]:
    """Parties in a random order, each to the part with the fewest tokens so far."""
    draws = np.random.Generator(np.random.Philox(_number(name, 128)))
    parts: list[list[str]] = [[] for _ in range(count)]
    held = np.zeros(count)
    for at in draws.permutation(len(names)):
        lightest = int(np.argmin(held))
        parts[lightest].append(names[at])
        held[lightest] += max(1, weights[names[at]])
    return (tuple(sorted(part)) for part in parts if part)


def _number(name: str, bits: int) -> int:
    """A number of so many bits from the digest of a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()) >> (256 - bits)
