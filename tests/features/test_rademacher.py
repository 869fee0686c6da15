"""The slow oracle: whole gradients times random signs."""

import numpy as np
import torch
from torch import nn

from provenance.features.projection import Projection
from provenance.features.rademacher import rademacher_features, rademacher_sampled

CONTENTS = [bytes([seed, seed]) for seed in range(12)]


class Squares:
    """A squared error of a network of vectors."""

    def collate(self, contents):
        return torch.stack([torch.randn(6, generator=torch.Generator().manual_seed(content[0])) for content in contents])

    def loss(self, module, batch):
        return module(batch).square().sum(1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))


def gradients(module):
    found = []
    for content in CONTENTS:
        module.zero_grad()
        Squares().loss(module, Squares().collate([content])).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in module.parameters()]).numpy())
    return np.stack(found)


def test_inner_products_of_whole_gradients_are_kept_on_average():
    module = network()
    projection = Projection(dense=4000)
    whole = gradients(module)
    found = rademacher_features(Squares(), module, CONTENTS, projection=projection, checkpoint="c").dense
    exact, kept = whole @ whole.T, found @ found.T
    assert np.linalg.norm(kept - exact) < 0.06 * np.linalg.norm(exact)


def test_checkpoints_have_signs_of_their_own():
    module = network()
    one, two = (
        rademacher_features(Squares(), module, CONTENTS, projection=Projection(dense=64), checkpoint=c).dense for c in "cd"
    )
    assert not np.allclose(one, two)


def test_sampled_targets_keep_the_data_beside_them():
    module = network()
    where = {"projection": Projection(dense=64), "checkpoint": "c"}
    expected = rademacher_features(Squares(), module, CONTENTS, **where).dense
    batches = list(rademacher_sampled(Squares(), module, CONTENTS, batch_size=4, draws=2, **where))
    assert len(batches) == 2 * len(CONTENTS)
    assert np.allclose(np.concatenate([batch.data.dense for batch in batches[::2]]), expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(batches[0].sampled.dense, batches[1].sampled.dense)
