"""Which parts of a corpus an audit trains on."""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


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


def all_but_one(units: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Each distinct unit, and everything without it: `(distinct, len(units))` bool."""
    distinct = sorted(set(units))
    without = np.array([[unit != left_out for unit in units] for left_out in distinct])
    return distinct, without
