"""Influences by two seeds of the projection agree the better, the more numbers are kept."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from provenance.core.errors import ContractError
from provenance.features.following import find_following
from provenance.features.projection import Projection
from provenance.influence.agreement import seed_agreement
from provenance.models.model import Example

EXAMPLES = [Example(bytes([97 + n % 7, 98 + n % 5, 99 + n % 3] * (1 + n % 4))) for n in range(40)]


class Words:
    def collate(self, contents):
        longest = max(map(len, contents))
        return torch.tensor([[*content, *[0] * (longest - len(content))] for content in contents])

    def loss(self, module, ids):
        losses = functional.cross_entropy(module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return (losses.view(len(ids), -1) * (ids[:, 1:] > 0)).sum(1)


def agreement(numbers, token_rank, examples=EXAMPLES, outputs=EXAMPLES[:6]):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(128, 12), nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 12), nn.Linear(12, 128))
    projection = Projection(dense=numbers, least_rank=1, token_rank=token_rank)
    following = find_following(Words(), module, EXAMPLES, projection, "c", xp=np)
    options = {"projection": projection, "checkpoint": "c", "batch_size": 8, "following": following}
    return seed_agreement(Words(), module, examples, outputs, **options)


def test_without_a_projection_seeds_agree_and_with_fewer_numbers_less():
    whole, half, little = agreement(10**6, 12), agreement(100, 6), agreement(4, 2)
    assert set(whole) == {"head", "embedding", "inner"}
    for component, value in whole.items():
        assert value == pytest.approx(1.0)
        assert little[component] < half[component] < 1


def test_too_few_examples_are_refused():
    with pytest.raises(ContractError, match="expected three examples and an output at least, found 2 and 6"):
        agreement(100, 6, examples=EXAMPLES[:2])
