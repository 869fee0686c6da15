"""Whole gradients, and their coordinates where a model is too large for them."""

import numpy as np
import pytest
import torch
from test_layers import GPT2
from transformers import AutoModelForCausalLM

from provenance.features.exact import fitting, spread, whole_gradients, whole_position, whole_size, whole_sum
from provenance.features.projection import Block, Projection, matrices

CONTENTS = [b"to be or not", b"that is the question", b"whether nobler"]


class Bytes:
    """A transformer over bytes whose head and embedding share a weight."""

    def collate(self, contents):
        size = max(map(len, contents))
        ids = torch.tensor([[256, *content, *[0] * (size - len(content))] for content in contents])
        return ids, torch.tensor([[n < len(content) for n in range(size)] for content in contents])

    def loss(self, module, batch):
        ids, seen = batch
        logits = module(ids[:, :-1]).logits
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        return (each * seen).sum(1)


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(GPT2).eval()


def coordinates(sides, seed=1):
    return Projection(seed, whole=True, sides=sides)


def gradients(module, projection):
    return whole_gradients(Bytes(), module, CONTENTS, projection=projection, checkpoint="c", batch_size=2)


@pytest.mark.parametrize("sides", [0, 8])
def test_the_sum_by_ordinary_passes_is_the_sum_of_the_rows(module, sides):
    summed = whole_sum(Bytes(), module, CONTENTS, projection=coordinates(sides), batch_size=2)
    rows = gradients(module, coordinates(sides))
    assert rows.shape == (3, whole_size(module, coordinates(sides)))
    assert np.allclose(rows.sum(axis=0), summed, atol=1e-4)


def test_layers_that_share_a_weight_add_up_however_it_lies_in_them():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.tanh(self.first(x)))

    class Sums:
        def collate(self, contents):
            return torch.tensor([[float(byte) / 100 for byte in content[:4]] for content in contents])

        def loss(self, module, batch):
            return module(batch).square().sum(1)

    module = Twice()
    rows = whole_gradients(Sums(), module, CONTENTS, projection=coordinates(0), checkpoint="c", batch_size=2)
    assert np.allclose(
        rows.sum(axis=0), whole_sum(Sums(), module, CONTENTS, projection=coordinates(0), batch_size=2), atol=1e-4
    )


def test_a_square_layer_has_another_projection_on_either_side():
    one, two = matrices(Block("a", "dense", 64, 64, 8, 8), coordinates(8), "c")
    assert not np.allclose(one, two)
    assert np.allclose(one.T @ one, np.eye(8), atol=1e-5)


def test_projected_gradients_and_places_keep_their_inner_products_on_average(module):
    moved = AutoModelForCausalLM.from_config(GPT2)
    moved.load_state_dict({name: value + 0.01 * torch.randn_like(value) for name, value in module.state_dict().items()})
    place = whole_position
    exact = gradients(module, coordinates(0)) @ (place(moved, coordinates(0)) - place(module, coordinates(0)))
    found = []
    for seed in range(24):
        how = coordinates(16, seed)
        found.append(gradients(module, how) @ (place(moved, how) - place(module, how)))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - exact) < 4 * error).all()
    assert spread(module, coordinates(0)).max() == 1
    assert spread(module, coordinates(16)).max() == 32 * 128 / 16**2


def test_a_model_is_projected_no_more_than_it_takes(module):
    whole = whole_size(module, coordinates(0))
    assert fitting(module, whole, 1).sides == 0
    few = fitting(module, whole // 2, 1)
    assert few.sides > 0
    assert whole_size(module, few) <= whole // 2
    assert fitting(module, 100, 1) is None
