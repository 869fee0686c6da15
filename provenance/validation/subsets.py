"""Which parts of a corpus an audit trains on."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence

import numpy as np

# How much more or less of its units an owner has, around the diagonal, as a part of what it could have.
SPREAD = 0.75


def nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rates and weights of the Gauss-Legendre quadrature on [0, 1]: exact for polynomials of degree `2 count - 1`."""
    at, weight = np.polynomial.legendre.leggauss(count)
    return (1 + at) / 2, weight / 2


def halves(units: Sequence[str], count: int, *, name: str) -> np.ndarray:
    """Random halves of the distinct units (examples, or owners): which positions of `units` each half holds.

    Drawn from digests of the name and a number, so that more subsets leave the first ones as they are. No half comes twice;
    few units have few halves (four have six), and then these are all.

    Returns:
        `(count or fewer, len(units))` bool.
    """
    distinct = sorted(set(units))
    place = {unit: at for at, unit in enumerate(distinct)}
    member = np.array([place[unit] for unit in units])
    drawn: dict[bytes, np.ndarray] = {}
    wanted, numbers = min(count, math.comb(len(distinct), len(distinct) // 2)), itertools.count()
    while len(drawn) < wanted:
        seed = int.from_bytes(hashlib.sha256(f"{name}/{next(numbers)}".encode()).digest()[:16])
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(distinct))
        half = np.zeros(len(distinct), dtype=bool)
        half[order[: len(distinct) // 2]] = True
        drawn.setdefault(half.tobytes(), half)
    found: np.ndarray = np.stack(list(drawn.values()))[:, member]
    return found


def coalitions(units: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The distinct units, every coalition of them `(2^k, k)`, and which positions of `units` each holds `(2^k, len(units))`."""
    distinct = sorted(set(units))
    inside = (np.arange(2 ** len(distinct))[:, None] >> np.arange(len(distinct))) & 1 == 1
    place = {unit: at for at, unit in enumerate(distinct)}
    return distinct, inside, inside[:, [place[unit] for unit in units]]


def around_the_diagonal(units: Sequence[str], rate: float, count: int, *, name: str) -> np.ndarray:
    """Random parts of about `rate` of everybody's units, of which some have a little more and others a little less.

    They come in pairs: who has more in one has less in the other, by as much. Drawn like `halves`.

    Returns:
        `(count, len(units))` bool; an even count.
    """
    distinct = sorted(set(units))
    rows = [np.flatnonzero([other == unit for other in units]) for unit in distinct]
    step = SPREAD * min(rate, 1 - rate)
    found = np.zeros((count, len(units)), dtype=bool)
    for number in range(count):
        seed = int.from_bytes(hashlib.sha256(f"{name}/{rate:.6f}/{number // 2}".encode()).digest()[:16])
        draws = np.random.Generator(np.random.Philox(seed))
        signs = draws.choice([-1, 1], size=len(distinct)) * (1 if number % 2 else -1)
        for own, sign in zip(rows, signs, strict=True):
            wanted = (rate + sign * step) * len(own)
            size = int(wanted) + int(draws.random() < wanted - int(wanted))
            found[number, draws.permutation(own)[:size]] = True
    return found
