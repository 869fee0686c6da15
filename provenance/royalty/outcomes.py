"""The results of models that were trained on parts of the owners. Loads no model: whatever reads fidelity imports it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from provenance.models.partition_plan import BOUNDS


@dataclass(frozen=True)
class Outcomes:
    """Results of models that were trained on parts of the owners.

    Attributes:
        inside: part of each owner's tokens that each model saw, `(M, n)`.
        partition: number of each model's partition, `(M,)`.
        value: log-likelihoods, `(M, Q)`; base, served: under the model before and after its training, `(Q,)`.
        size: part of all tokens of each owner, `(n,)`; sums to one.
        seen: z, the part of all tokens that each model was trained on, `(M,)`, including tokens that earn nothing.
        power: p, the exponent of the growth of contrasts with the amount of work.
    """

    inside: np.ndarray
    partition: np.ndarray
    value: np.ndarray
    base: np.ndarray
    served: np.ndarray
    size: np.ndarray
    seen: np.ndarray
    power: float = 0.0

    @property
    def contrast(self) -> np.ndarray:
        """`(2 z_m)^p (x_mo - sum_p size_p x_mp)`, `(M, n)`."""
        return np.asarray(self.growth[:, None] * (self.inside - (self.inside @ self.size)[:, None]))

    @property
    def growth(self) -> np.ndarray:
        """`(2 z_m)^p`, `(M,)`."""
        return np.asarray((2 * self.seen) ** self.power)

    @property
    def strata(self) -> np.ndarray:
        """The stratum of each model, `(M,)`."""
        return np.asarray(np.digitize(self.seen, BOUNDS))

    def subset(self, chosen: np.ndarray) -> Outcomes:
        """The outcomes of some models."""
        rows = {name: getattr(self, name)[chosen] for name in ("inside", "partition", "value", "seen")}
        return replace(self, **rows)
