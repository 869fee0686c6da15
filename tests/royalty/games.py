"""Random games for tests of the estimate: the worth of every coalition of owners to some outputs is known."""

from dataclasses import dataclass

import numpy as np

from provenance.models.partition_plan import plan
from provenance.royalty.outcomes import Outcomes
from provenance.validation.subsets import coalitions


@dataclass(frozen=True)
class Game:
    """Effects of owners, besides the effect of the amount of work.

    Attributes:
        size: of each owner's work, a part of all, `(n,)`.
        effect: of each owner on each output, `(n, Q)`.
        growth: the worth of a part of all work, a function.
        noise: standard deviation of one training, `(Q,)`.
    """

    size: np.ndarray
    effect: np.ndarray
    growth: object
    noise: np.ndarray

    @property
    def owners(self):
        return [f"o{at:02d}" for at in range(len(self.size))]

    def worth(self, inside, random=None):
        """Log-likelihoods `(m, Q)` after training on coalitions `(m, n)` bool; with noise if there is a generator."""
        inside = inside.astype(float)
        clean = inside @ self.effect + self.growth(inside @ self.size)[:, None]
        return clean if random is None else clean + self.noise * random.standard_normal(clean.shape)

    def every_coalition(self, random=None):
        """All coalitions and their worth; the worth of the empty one has no noise."""
        inside = coalitions(self.owners)[1]
        worth = self.worth(inside, random)
        worth[0] = self.worth(inside[:1])
        return inside, worth

    def outcomes(self, inside, partition, random=None):
        """The outcomes of models trained on some coalitions."""
        nobody, everybody = np.zeros((1, len(self.size)), dtype=bool), np.ones((1, len(self.size)), dtype=bool)
        return Outcomes(
            inside=inside.astype(float),
            partition=np.asarray(partition),
            value=self.worth(inside, random),
            base=self.worth(nobody)[0],
            served=self.worth(everybody, random)[0],
            size=self.size,
            seen=inside @ self.size,
        )

    def trained(self, trainings, random):
        """The outcomes of the models of a plan: those to fit on, and those set aside."""
        weights = dict(zip(self.owners, (self.size * 10_000).astype(int).tolist(), strict=True))
        parts = plan(weights, trainings)
        inside = np.array([[owner in part.parties for owner in self.owners] for part in parts])
        outcomes = self.outcomes(inside, [part.partition for part in parts], random)
        aside = np.array([part.aside for part in parts])
        return outcomes.subset(~aside), outcomes.subset(aside)


def linear(part):
    return 30 * part


def concave(part):
    return 30 * np.sqrt(part)


def draw_game(random, owners=6, outputs=8, *, strength=3.0, growth=concave, alike=False):
    """A game of owners of various sizes; their effects are `strength` times the noise of training."""
    size = np.full(owners, 1 / owners) if alike else random.dirichlet(np.full(owners, 6.0))
    noise = random.uniform(0.2, 0.4, outputs)
    effect = strength * noise * random.standard_normal((owners, outputs))
    return Game(size, effect, growth, noise)
