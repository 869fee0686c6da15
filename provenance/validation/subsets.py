"""Draws the parts of a corpus that audits train on."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence

import numpy as np

# Deviations of owners from the diagonal, as a part of the largest possible one.
SPREAD = 0.75


def nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rates and weights of the Gauss-Legendre quadrature on [0, 1]: exact for polynomials of degree `2 count - 1`."""
    at, weight = np.polynomial.legendre.leggauss(count)
    return (1 + at) / 2, weight / 2


def halves(units: Sequence[str], count: int, *, name: str) -> np.ndarray:
    """Random halves of the distinct units (examples, or owners): membership of each position of `units` in each half.

    Drawn from digests of the name and a number, so the first subsets are the same for any count. All halves differ; few units
    have few halves (four have six), and then all of them are returned.

    Returns:
        `(count or fewer, len(units))` bool.
    """
    distinct = sorted(set(units))
    place = {unit: at for at, unit in enumerate(distinct)}
    member = np.array([place[unit] for unit in units])
    drawn: dict[bytes, np.ndarray] = {}
    wanted, numbers = min(count, math.comb(len(distinct), len(distinct) // 2)), itertools.count()
    while len(drawn) < wanted:
        order = _generator(f"{name}/{next(numbers)}").permutation(len(distinct))
        half = np.zeros(len(distinct), dtype=bool)
        half[order[: len(distinct) // 2]] = True
        drawn.setdefault(half.tobytes(), half)
    return np.asarray(np.stack(list(drawn.values()))[:, member])


def _generator(name: str) -> np.random.Generator:
    """A generator of random numbers, seeded by the digest of a name."""
    return np.random.Generator(np.random.Philox(int.from_bytes(hashlib.sha256(name.encode()).digest()[:16])))


def coalitions(units: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The distinct units; their membership in every coalition, `(2^k, k)`, and that of all `units`, `(2^k, len(units))`."""
    distinct = sorted(set(units))
    inside = (np.arange(2 ** len(distinct))[:, None] >> np.arange(len(distinct))) & 1 == 1
    place = {unit: at for at, unit in enumerate(distinct)}
    return distinct, inside, inside[:, [place[unit] for unit in units]]


def around_the_diagonal(units: Sequence[str], rate: float, count: int, *, name: str) -> np.ndarray:
    """Random parts of the units: about `rate` of each distinct unit, a little more of some and less of others.

    Parts come in pairs with opposite deviations. Drawn like `halves`.

    Returns:
        `(count, len(units))` bool; an even count.
    """
    distinct = sorted(set(units))
    rows = [np.flatnonzero([other == unit for other in units]) for unit in distinct]
    step = SPREAD * min(rate, 1 - rate)
    masks = np.zeros((count, len(units)), dtype=bool)
    for number in range(count):
        draws = _generator(f"{name}/{rate:.6f}/{number // 2}")
        signs = draws.choice([-1, 1], size=len(distinct)) * (1 if number % 2 else -1)
        for own, sign in zip(rows, signs, strict=True):
            wanted = (rate + sign * step) * len(own)
            size = int(wanted) + int(draws.random() < wanted - int(wanted))
            masks[number, draws.permutation(own)[:size]] = True
    return masks
