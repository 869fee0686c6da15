"""Made-up games that counterfactual models are trained in: what every coalition of owners is worth to some outputs."""

from dataclasses import dataclass

import numpy as np

from provenance.models.partition_plan import plan
from provenance.royalty.estimate import Outcomes
from provenance.validation.subsets import coalitions


@dataclass(frozen=True)
class Game:
    """Owners' own effects beside one of the amount of work.

    Attributes:
        size: of each owner's work, a part of all, `(n,)`.
        effect: of each owner on each output, `(n, Q)`.
        growth: what an amount of work is worth, from a part of all.
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
        """Log-likelihoods after training on some coalitions, `(m, n)` bool, `(m, Q)`; with noise where a generator is given."""
        inside = inside.astype(float)
        clean = inside @ self.effect + self.growth(inside @ self.size)[:, None]
        return clean if random is None else clean + self.noise * random.standard_normal(clean.shape)

    def every_coalition(self, random=None):
        """Of all owners: who is in, and what it is worth; the empty one is worth what it is without noise."""
        inside = coalitions(self.owners)[1]
        found = self.worth(inside, random)
        found[0] = self.worth(inside[:1])
        return inside, found

    def outcomes(self, inside, partition, random=None):
        """What models trained on some coalitions say."""
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
        """What the models of a plan say: those to fit on, and those set aside."""
        weights = dict(zip(self.owners, (self.size * 10_000).astype(int).tolist(), strict=True))
        parts = plan(weights, trainings)
        inside = np.array([[owner in part.parties for owner in self.owners] for part in parts])
        found = self.outcomes(inside, [part.partition for part in parts], random)
        aside = np.array([part.aside for part in parts])
        return found.some(~aside), found.some(aside)


def linear(part):
    return 30 * part


def concave(part):
    return 30 * np.sqrt(part)


def draw_game(random, owners=6, outputs=8, *, strength=3.0, growth=concave, alike=False):
    """A game of owners of various sizes, whose own effects are so many times as large as the noise of training."""
    size = np.full(owners, 1 / owners) if alike else random.dirichlet(np.full(owners, 6.0))
    noise = random.uniform(0.2, 0.4, outputs)
    effect = strength * noise * random.standard_normal((owners, outputs))
    return Game(size, effect, growth, noise)
