"""Audit `srs`: train on every coalition of a few owners, and around the diagonal, and hold royalty rules against it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from provenance.core.errors import ContractError
from provenance.royalty.shapley import EXACT
from provenance.validation.subsets import around_the_diagonal, coalitions
from tasks.audit import units
from tasks.retrain import retrain

if TYPE_CHECKING:
    from tasks.night import Night
    from tasks.settings import Settings

log = logging.getLogger("provenance.coalitions")

# Gauss-Legendre nodes on the diagonal, each a rate at which everybody's works are in.
NODES = 3
SEED = 101  # and those that follow; none that a model in use was trained with


@dataclass(frozen=True)
class Options:
    """How much an audit retrains.

    Attributes:
        seeds: trainings of each coalition; two at least, for the noise of the truth.
        diagonal: trainings at each node of the diagonal.
    """

    seeds: int = 2
    diagonal: int = 128


def nodes() -> tuple[np.ndarray, np.ndarray]:
    """Rates on the diagonal and what each counts for; an integral over [0, 1] of a polynomial of degree five is exact."""
    at, weight = np.polynomial.legendre.leggauss(NODES)
    return (1 + at) / 2, weight / 2


def coalition_truth(settings: Settings, night: Night, options: Options) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Owners; coalitions `(2^k, k)`; and the outputs' losses after training on each, `(seeds, 2^k, outputs)`."""
    _, whose = units(settings.store.open(), night)
    owners, inside, masks = coalitions(_few(whose))
    losses = [retrain(settings, night, masks, SEED + at, "coalitions") for at in range(options.seeds)]
    return owners, inside, np.stack(losses)


def diagonal_truth(settings: Settings, night: Night, options: Options) -> list[tuple[np.ndarray, np.ndarray]]:
    """At each node, what part of each owner's examples was in `(trainings, k)`, and the losses after it `(trainings, outputs)`."""
    _, whose = units(settings.store.open(), night)
    owners = sorted(set(_few(whose)))
    member = np.array([[own == owner for own in whose] for owner in owners], dtype=float)
    found = []
    for rate in nodes()[0].tolist():
        masks = around_the_diagonal(whose, rate, options.diagonal, name="audit diagonal")
        losses = retrain(settings, night, masks, [SEED + at // 2 for at in range(len(masks))], f"the diagonal at {rate:.2f}")
        found.append((masks @ member.T / member.sum(axis=1), losses))
    return found


def _few(whose: list[str]) -> list[str]:
    count = len(set(whose))
    if count > EXACT:
        raise ContractError(
            "audit srs: corpus", expected=f"at most {EXACT} owners, to train on every coalition", found=str(count)
        )
    return whose
