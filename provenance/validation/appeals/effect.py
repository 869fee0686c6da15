"""Appeals: what pairs of trainings, with an owner's works and without them, say of the share that was paid.

A pair draws a rate t and takes every other owner in with probability t. One model is trained on those, and one with the same
seed on those and the owner's works. On average over t from 0 to 1 the difference that this makes to an output's log-likelihood
is the owner's Shapley value (Owen 1972, "Multilinear extensions of games", Management Science 18):

    phi_o(q) = integral over t of E[ v(S + o) - v(S) ],        share = max(0, phi_o(q)) / (v_1(q) - v_0(q))

v_1 and v_0 are the log-likelihoods under the model served and its base: what there is to share. Pairs come in couples: where
one takes S in at the rate t, the other takes in everybody else, at 1 - t (antithetic draws: Okhrati and Lipani 2020, "A
multilinear sampling algorithm to estimate Shapley values", ICPR). A couple's mean is one observation of phi_o, and Student's t
over couples gives the interval. Rates fill the range evenly, so chance has a little less room than the interval says.
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
# Two couples at least, or there is no telling how far they differ.
FEWEST_PAIRS = 4
AGREES, LESS, MORE = "agrees", "less", "more"


@dataclass(frozen=True)
class Pair:
    """Two trainings that differ in the owner's works alone.

    Attributes:
        rate: with which each other owner was taken in.
        others: who was, sorted.
        seed: of both trainings.
    """

    rate: float
    others: tuple[str, ...]
    seed: int


def design(others: Sequence[str], pairs: int, name: str) -> tuple[Pair, ...]:
    """Pairs, each followed by the one that has its rate from the other end and everybody whom it left out.

    Drawn from digests of the name, so the same for everybody who asks; more pairs leave the first ones as they are.

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
    """A number from 0 to 1, below it, from the digest of a name."""
    return (int.from_bytes(hashlib.sha256(name.encode()).digest()) >> (256 - 53)) / 2**53


def _radical_inverse(number: int) -> float:
    """Van der Corput's sequence: 0, 1/2, 1/4, 3/4, 1/8, ...; any first part of it fills the range about evenly."""
    return int(f"{number:b}"[::-1], 2) / 2 ** number.bit_length() if number else 0.0


def by_couple(likelihoods: np.ndarray) -> np.ndarray:
    """What the owner's works add in each couple, `(pairs / 2, Q)`.

    Args:
        likelihoods: log-likelihoods of outputs without and with the works, `(pairs, 2, Q)`, in the order of `design`.
    """
    added = likelihoods[:, 1] - likelihoods[:, 0]
    found: np.ndarray = added.reshape(-1, 2, added.shape[1]).mean(axis=1)
    return found


def interval(couples: np.ndarray) -> np.ndarray:
    """The mean over couples, the first axis, and the ends that hold the truth nine times in ten: low, mean, high.

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
    """The owner's share of each output, `(3, Q)` as `interval` has it, or of some pools together, `(3,)`; from 0 to 1.

    Together it is the mean of shares, weighted by pools, where an output that the works made less likely counts below zero: to
    set each to zero by itself would add up chance.

    Args:
        parts: what the works add in each couple, by what training brought to the output in all, `(couples, Q)`.
        pools: what there is to share for each output, `(Q,)`, in whatever unit.
    """
    found: np.ndarray = np.clip(interval(parts if pools is None else parts @ (pools / pools.sum())), 0.0, 1.0)
    return found


def verdict(paid: int, low: int, high: int) -> str:
    """Whether what was paid lies in the interval, ends included; all in parts per billion."""
    return LESS if paid < low else MORE if paid > high else AGREES


def difference(pool: int, paid: int, share: int) -> int:
    """By how much a share of a pool is more than what was paid of it, in whole minor units.

    Args:
        pool, paid: in nanominor; share: in parts per billion.
    """
    return nearest(pool * share - paid * PPB, PPB * NANO)


def nearest(number: int, unit: int) -> int:
    """A number in whole units, halves upwards."""
    return (2 * number + unit) // (2 * unit)
