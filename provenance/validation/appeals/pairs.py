"""Draws pairs of trainings with and without an owner's works, and estimates the owner's share from them.

A pair draws a rate t and includes every other owner with probability t. One model is trained on these owners, and one with the
same seed on these and the owner's works. The mean difference in an output's log-likelihood, over t from 0 to 1, is the owner's
Shapley value (Owen 1972, "Multilinear extensions of games", Management Science 18):

    phi_o(q) = integral over t of E[ v(S + o) - v(S) ],        share = max(0, phi_o(q)) / (v_1(q) - v_0(q))

v_1 and v_0 are the log-likelihoods under the model served and its base. Pairs come in couples: the first includes S at the rate
t, the second all other owners, at 1 - t (antithetic draws: Okhrati and Lipani 2020, "A multilinear sampling algorithm to
estimate Shapley values", ICPR). A couple's mean is one observation of phi_o, and Student's t over couples gives the interval.
Rates fill the range evenly, so the intervals are a little wider than needed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from provenance.core.money import NANO, PPB

CONFIDENCE = 0.9
# An interval needs at least two couples.
FEWEST_PAIRS = 4
AGREES, LESS, MORE = "agrees", "less", "more"


@dataclass(frozen=True)
class Pair:
    """Two trainings that differ only in the owner's works.

    Attributes:
        rate: the probability of including each other owner.
        others: the included owners, sorted.
        seed: of both trainings.
    """

    rate: float
    others: tuple[str, ...]
    seed: int


def design(others: Sequence[str], pairs: int, name: str) -> tuple[Pair, ...]:
    """Pairs in couples: the second pair of a couple has one minus the rate of the first, and the owners that the first lacks.

    Drawn from digests of the name, so they are reproducible; the first pairs are the same for any number.

    Args:
        pairs: an even number.
    """
    names, drawn = sorted(set(others)), []
    shift = _fraction(f"{name}/rates")
    for couple in range(pairs // 2):
        rate = (_radical_inverse(couple) + shift) % 1 / 2
        inside = [_fraction(f"{name}/{couple}/{other}") < rate for other in names]
        for second in (False, True):
            taken = tuple(other for other, first in zip(names, inside, strict=True) if first != second)
            seed = int(_fraction(f"{name}/{couple}/{second}/seed") * 2**31)
            drawn.append(Pair(1 - rate if second else rate, taken, seed))
    return tuple(drawn)


def _fraction(name: str) -> float:
    """A number from the digest of a name, from 0 to below 1."""
    return (int.from_bytes(hashlib.sha256(name.encode()).digest()) >> (256 - 53)) / 2**53


def _radical_inverse(number: int) -> float:
    """Van der Corput's sequence: 0, 1/2, 1/4, 3/4, 1/8, ...; each initial part fills the range about evenly."""
    return int(f"{number:b}"[::-1], 2) / 2 ** number.bit_length() if number else 0.0


def by_couple(likelihoods: np.ndarray) -> np.ndarray:
    """The effect of the owner's works in each couple, `(pairs / 2, Q)`.

    Args:
        likelihoods: log-likelihoods of outputs without and with the works, `(pairs, 2, Q)`, in the order of `design`.
    """
    added = likelihoods[:, 1] - likelihoods[:, 0]
    return np.asarray(added.reshape(-1, 2, added.shape[1]).mean(axis=1))


def interval(couples: np.ndarray) -> np.ndarray:
    """The mean over couples (the first axis) with a 90 % interval: low, mean, high.

    Raises:
        ValueError: there are fewer than two couples.
    """
    count = len(couples)
    if count < 2:
        raise ValueError("one couple does not tell how far couples differ")
    value = couples.mean(axis=0)
    spread = student.ppf((1 + CONFIDENCE) / 2, count - 1) * couples.std(axis=0, ddof=1) / math.sqrt(count)
    return np.stack([value - spread, value, value + spread])


def share(parts: np.ndarray, pools: np.ndarray | None = None) -> np.ndarray:
    """The owner's share of each output, `(3, Q)` as from `interval`, or of some pools together, `(3,)`; from 0 to 1.

    The share of pools is the mean of shares weighted by pools. There, shares of single outputs may be negative: to set each of
    them to zero would add up noise.

    Args:
        parts: effects of the works in each couple, divided by the effects of the whole training, `(couples, Q)`.
        pools: the pool of each output, `(Q,)`, in any unit.
    """
    return np.asarray(np.clip(interval(parts if pools is None else parts @ (pools / pools.sum())), 0.0, 1.0))


def verdict(paid: int, low: int, high: int) -> str:
    """The comparison of a paid share with an interval, ends included; all in parts per billion."""
    return LESS if paid < low else MORE if paid > high else AGREES


def difference(pool: int, paid: int, share: int) -> int:
    """A share of a pool minus the paid amount, in whole minor units.

    Args:
        pool, paid: in nanominor; share: in parts per billion.
    """
    return nearest(pool * share - paid * PPB, PPB * NANO)


def nearest(number: int, unit: int) -> int:
    """A number rounded to whole units, halves upwards."""
    return (2 * number + unit) // (2 * unit)
