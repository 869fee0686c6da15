"""Sampled gradients have the covariance of the Fisher information, for every way to write a loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from provenance.features.gradients import gradient_features
from provenance.features.projection import Projection
from provenance.features.sampled import CROSS_ENTROPY, DATA, ELEMENTWISE, Draws, sampled_features
from provenance.models.model import Example

WHOLE = Projection(dense=10**6, dense_alone=10**6)  # no side is projected, so that features are gradients
CONTENTS = [b"ab", b"cd", b"ef", b"gh"]
OPTIONS = {"projection": WHOLE, "checkpoint": "c", "batch_size": 4}


def sampled(adapter, module, draws=1, **changes):
    return sampled_features(adapter, module, list(map(Example, CONTENTS)), draws=draws, **{**OPTIONS, **changes})


def data_features(adapter, module):
    return gradient_features(adapter, module, list(map(Example, CONTENTS)), **OPTIONS).dense


class Classes:
    """Three positions with five classes each, and a loss to choose."""

    def __init__(self, loss):
        self.function = loss

    def collate(self, contents):
        seeds = [sum(content) for content in contents]
        x = torch.stack([torch.randn(3, 4, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return x, torch.tensor([[s % 5, (s + 1) % 5, -100] for s in seeds])

    def loss(self, module, batch):
        return self.function(module, *batch)


def flat(module, x, y):
    z = module(x)
    return functional.cross_entropy(z.flatten(0, 1), y.flatten(), ignore_index=-100, reduction="none").view(y.shape).sum(1)


def turned(module, x, y):
    return functional.cross_entropy(module(x).transpose(1, 2), y, ignore_index=-100, reduction="none").sum(1)


def by_hand(module, x, y):
    chosen = module(x).log_softmax(-1).gather(-1, y.clamp(min=0)[..., None])[..., 0]
    return -(chosen * (y != -100)).sum(1)


def weighted(module, x, y):
    return flat(module, x, y) * 0.25


def squares(module, x, y):
    return 3 * module(x).square().sum((1, 2))


def weighted_squares(module, x, y):
    z = module(x)
    variance = (1 + torch.arange(5.0)).expand_as(z)
    return functional.gaussian_nll_loss(z, torch.ones_like(z), variance, reduction="none").sum((1, 2))


def absolute(module, x, y):
    return module(x).abs().sum((1, 2))


def twice(module, x, y):
    return flat(module, x, y) + squares(module, x / 2, y)


def in_parts(module, x, y):
    return module[1](module[0](x)).square().sum((1, 2))


def fisher(module, x, y, kind):
    """`sum_t J_t' H_t J_t` of the last layer's weights, by definition."""
    total = np.zeros((4 * 5, 4 * 5))
    hidden = x.flatten(0, 1).numpy()
    z = module(x).flatten(0, 1)
    targets = (y != -100).flatten().numpy()
    for h, row, used in zip(hidden, z.softmax(-1).detach().numpy(), targets, strict=True):
        block = {
            CROSS_ENTROPY: used * (np.diag(row) - np.outer(row, row)),
            ELEMENTWISE: 6 * np.eye(5),
            "weights": np.diag(1 / (1 + np.arange(5.0))),
        }[kind]
        total += np.einsum("i,j,kl->ikjl", h, h, block).reshape(20, 20)
    return total


@pytest.mark.parametrize(
    ("loss", "law", "scale"),
    [
        (flat, CROSS_ENTROPY, 1), (turned, CROSS_ENTROPY, 1), (by_hand, CROSS_ENTROPY, 1), (weighted, CROSS_ENTROPY, 1 / 16),
        (squares, ELEMENTWISE, 1), (weighted_squares, "weights", 1),
    ],
)  # fmt: skip
def test_the_mean_of_outer_products_is_the_fisher_information(loss, law, scale):
    adapter = Classes(loss)
    torch.manual_seed(0)
    module = nn.Linear(4, 5, bias=False)
    total, draws, laws = 0, 1500, set()
    for batch in sampled(adapter, module, draws, batch_size=2):
        rows = batch.rows.dense
        total = total + rows.T @ rows / draws
        laws.add(batch.law)
    assert laws == {law if law != "weights" else ELEMENTWISE}
    expected = scale * fisher(module, *adapter.collate(CONTENTS), law)
    assert np.linalg.norm(total - expected) < 0.06 * np.linalg.norm(expected)


@pytest.mark.parametrize("loss", [absolute, in_parts])
def test_a_loss_of_an_unknown_law_uses_the_data(loss):
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5))
    for batch in list(sampled(Classes(loss), module, 2)):
        assert batch.law == DATA
        assert np.allclose(batch.rows.dense, data_features(Classes(loss), module))


class Turn(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class Pair(nn.Module):
    """Returns hidden states and the output."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 5)

    def forward(self, x):
        hidden = self.first(x)
        return hidden, self.second(hidden)


def of_middle_axis(module, x, y):
    return functional.cross_entropy(module(x), y, ignore_index=-100, reduction="none").sum(1)


def of_second_output(module, x, y):
    return flat(lambda x: module(x)[1], x, y)


@pytest.mark.parametrize(
    ("loss", "module"), [(of_middle_axis, nn.Sequential(nn.Linear(4, 5), Turn())), (of_second_output, Pair())]
)
def test_classes_may_be_the_middle_axis_and_only_the_output_that_the_loss_uses_is_sampled(loss, module):
    (batch,) = sampled(Classes(loss), module)
    assert batch.law == CROSS_ENTROPY
    assert not np.allclose(data_features(Classes(loss), module), batch.rows.dense)


def test_the_same_batch_draws_the_same_targets():
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5))
    first, again, other = (next(sampled(Classes(flat), module, checkpoint=name)).rows.dense for name in "ccd")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_module_called_twice_has_a_law_for_each_call():
    module = nn.Linear(4, 5)
    (batch,) = sampled(Classes(twice), module)
    assert batch.law == ELEMENTWISE, "the weaker one"
    assert batch.terms.shape[0] == 2 * len(CONTENTS), "a row for each example and call"


def by_tied_head(module, x, y):
    return flat(lambda x: functional.linear(functional.linear(module(x), module.weight.t()), module.weight), x, y)


def by_free_head(module, x, y):
    return flat(lambda x: module(x).detach() + functional.linear(x, module.weight), x, y) + module(x).square().sum((1, 2))


@pytest.mark.parametrize("loss", [by_tied_head, by_free_head])
def test_a_weight_that_the_loss_uses_again_keeps_its_whole_gradient(loss):
    module = nn.Linear(4, 5, bias=False)
    batches = list(sampled(Classes(loss), module))
    assert {batch.law for batch in batches} == {DATA}
    rows = np.concatenate([batch.rows.dense for batch in batches])
    assert np.allclose(rows, data_features(Classes(loss), module), rtol=1e-4, atol=1e-6)


def with_absolute(module, x, y):
    return flat(module, x, y) + absolute(module, x / 2, y)


def test_of_several_laws_the_weakest_is_reported():
    (batch,) = sampled(Classes(with_absolute), nn.Linear(4, 5))
    assert batch.law == DATA


class Attribute(nn.Linear):
    """Returns its logits as an attribute of an object."""

    def forward(self, x):
        return SimpleNamespace(logits=super().forward(x))


def test_logits_may_be_an_attribute():
    (batch,) = sampled(Classes(lambda module, x, y: flat(lambda x: module(x).logits, x, y)), Attribute(4, 5))
    assert batch.law == CROSS_ENTROPY


class Words:
    """A vocabulary of five words, for a model of only an embedding and a head."""

    def collate(self, contents):
        return torch.tensor([[byte % 5 for byte in content] for content in contents])

    def loss(self, module, batch):
        return functional.cross_entropy(module(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten(), reduction="none")


def test_a_model_without_inner_layers_has_empty_terms():
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    (batch,) = sampled(Words(), module)
    assert batch.terms.shape == (4, 0)
    assert batch.rows.sparse.blocks == (4, 4)


class Uneven(nn.Module):
    """One layer has a row for each of three positions, the other a row for each example."""

    def __init__(self):
        super().__init__()
        self.each, self.whole = nn.Linear(4, 3), nn.Linear(3, 5)

    def forward(self, x):
        return self.whole(self.each(x.flatten(0, 1)).view(len(x), 3, 3).sum(1))


def test_with_different_numbers_of_rows_in_layers_examples_are_the_terms():
    def loss(module, x, y):
        return functional.cross_entropy(module(x), y[:, 0], reduction="none")

    (batch,) = sampled(Classes(loss), Uneven())
    assert np.array_equal(batch.terms, batch.rows.dense)


def test_a_loss_that_depends_on_its_batch_is_sampled_one_example_at_a_time():
    def loss(module, x, y):
        return flat(module, x, y) * torch.arange(1, len(x) + 1)

    module = nn.Linear(4, 5)
    batches = list(sampled(Classes(loss), module))
    assert [batch.rows.examples for batch in batches] == [1] * len(CONTENTS)


class Ragged(Classes):
    """As many positions as the content has bytes, padded at either end."""

    def __init__(self, loss, side):
        super().__init__(loss)
        self.side = side

    def collate(self, contents):
        longest = max(map(len, contents))
        x, y = torch.zeros(len(contents), longest, 4), torch.full((len(contents), longest), -100)
        for row, content in enumerate(contents):
            at = slice(longest - len(content), None) if self.side == "left" else slice(0, len(content))
            x[row, at] = torch.randn(len(content), 4, generator=torch.Generator().manual_seed(sum(content)))
            y[row, at] = torch.tensor(list(content)) % 5
        return x, y


def masked_squares(module, x, y):
    return (3 * module(x).square() * (y != -100)[..., None]).sum((1, 2))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("loss", [flat, masked_squares])
def test_sampled_targets_depend_on_the_example_alone(loss, side):
    """Neither the batch nor its padding, nor the place in it, changes what is drawn."""
    torch.manual_seed(0)
    module, adapter = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5)), Ragged(loss, side)
    examples = [Example(b"a" * n + b"b") for n in (5, 1, 9, 3, 2, 7)]

    def by_example(order, batch_size):
        chosen = [examples[at] for at in order]
        batches = list(sampled_features(adapter, module, chosen, draws=2, **{**OPTIONS, "batch_size": batch_size}))
        rows = [np.concatenate([batch.rows.dense for batch in batches[draw::2]]) for draw in (0, 1)]
        by_length = sorted(range(len(order)), key=lambda at: chosen[at].size)
        return {(order[at], draw): rows[draw][place] for place, at in enumerate(by_length) for draw in (0, 1)}

    expected = by_example(range(6), 6)
    for order, batch_size in ((range(6), 1), ((3, 1, 0, 5, 4, 2), 4)):
        for key, row in by_example(order, batch_size).items():
            assert np.allclose(row, expected[key], rtol=1e-4, atol=1e-5)
    assert not np.allclose(expected[2, 0], expected[2, 1]), "draws differ"


def test_targets_differ_by_prompt():
    first, second = (Draws([Example(b"a", prompt)], "c", "one by one") for prompt in (None, b"p"))
    where = torch.ones(1, 4, 1, dtype=torch.bool)
    assert not torch.equal(first.fill(where, "random"), second.fill(where, "random"))


def test_classes_are_sampled_from_logits_in_bfloat16():
    torch.manual_seed(0)
    module = nn.Linear(4, 5).bfloat16()

    def rounded(module, x, y):
        return flat(lambda x: module(x.bfloat16()).float(), x, y)

    (batch,) = sampled(Classes(rounded), module)
    assert batch.law == CROSS_ENTROPY


@pytest.mark.parametrize("loss", [flat, turned, weighted])
def test_the_softmax_may_be_computed_in_blocks(loss, monkeypatch):
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5))
    whole = [batch.rows.dense for batch in sampled(Classes(loss), module, draws=2)]
    monkeypatch.setattr("provenance.features.sampled.BLOCK_NUMBERS", 15)
    blocks = [batch.rows.dense for batch in sampled(Classes(loss), module, draws=2)]
    assert np.allclose(whole, blocks, rtol=1e-6)
