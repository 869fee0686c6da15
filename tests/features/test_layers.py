"""The layout of a model's layers, and the layers that are refused."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config

from provenance.core.errors import ModelError
from provenance.features.layers import layout, too_large
from provenance.features.projection import Projection

GPT2 = GPT2Config(vocab_size=257, n_embd=32, n_layer=1, n_head=2, n_positions=32, tie_word_embeddings=True)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.positions = nn.Linear(2, 2), nn.Parameter(torch.zeros(3, 2))


def kinds_of_following(module, **options):
    return {block.name: block.by for block in layout(module, Projection(), **options).blocks}


def test_a_weight_of_an_unknown_layer_is_followed_by_autograd():
    module = nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2))
    assert kinds_of_following(module) == {"0": "operation", "1": "autograd"}
    assert kinds_of_following(Bare()) == {"first": "operation", "positions": "autograd"}


def test_a_weight_that_is_too_large_for_autograd_is_named_unless_it_is_left_out(monkeypatch):
    monkeypatch.setattr("provenance.features.layers.LARGEST_WHOLE", 7)
    module = nn.Sequential(nn.Linear(20, 2), nn.Bilinear(2, 2, 2))
    with pytest.raises(ModelError, match=r"weight '1.weight' of Bilinear, 8 numbers: expected .* or at most 7 numbers"):
        layout(module, Projection())
    assert too_large(module, {}) == {"1.weight"}
    shape = layout(module, Projection(), without=frozenset(["1.weight"]))
    assert [block.name for block in shape.blocks] == ["0"]
    assert shape.left_out["1.weight"] == 8


def test_without_a_trainable_weight_there_is_nothing_to_follow():
    with pytest.raises(ModelError, match="module Linear: expected at least one weight to follow, found none"):
        layout(nn.Linear(2, 2).requires_grad_(False), Projection())


def test_followed_is_of_what_is_trained():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 50).requires_grad_(False))
    shape = layout(module, Projection())
    assert (shape.parameters, shape.covered, shape.left_out) == (4, 1.0, {})


def test_many_matrices_in_one_weight_share_a_projection():
    few, many = (layout(nn.Conv1d(n, n, 3, groups=n), Projection()).blocks[0] for n in (8, 40))
    assert (few.groups, few.joined) == (8, 1)
    assert (many.groups, many.joined, many.columns) == (1, 40, 40)


def test_a_frozen_layer_of_an_unsupported_kind_is_ignored():
    module = nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2).requires_grad_(False))
    assert [block.name for block in layout(module, Projection()).blocks] == ["0"]


def size(shape):
    return sum(block.size for block in shape.blocks)


def test_the_dense_part_is_as_large_as_allowed():
    module = AutoModelForCausalLM.from_config(GPT2)
    for numbers in (50, 500, 5000):
        assert numbers / 4 < size(layout(module, Projection(dense=numbers, least_rank=1))) <= numbers
    images = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3))
    assert 100 < size(layout(images, Projection(dense=10, dense_alone=200, least_rank=1))) <= 200, "there is no vocabulary"


def test_a_large_model_keeps_a_rank_or_as_many_numbers_as_allowed():
    deep = nn.Sequential(*(nn.Linear(30, 30) for _ in range(40)))
    for most, rank in ((10**4, 8), (40 * 36, 6), (50, 2)):
        shape = layout(deep, Projection(dense_alone=40 * 4, dense_most=most))
        assert (shape.rank, size(shape)) == (rank, 40 * rank**2)
    assert layout(deep, Projection(dense_alone=40 * 100)).rank == 10, "more than the least rank needs no more numbers"


def test_kinds_of_a_language_model():
    kinds = {block.name: block.kind for block in layout(AutoModelForCausalLM.from_config(GPT2), Projection()).blocks}
    assert [name for name, kind in kinds.items() if kind == "output_tokens"] == ["lm_head"]
    assert [name for name, kind in kinds.items() if kind == "input_tokens"] == ["transformer.wte"]
    assert kinds["transformer.wpe"] == "dense", "positions are no vocabulary"
    assert kinds["transformer.h.0.attn.c_proj"] == "dense", "as wide as the positions, but no head"


def test_parameters_left_out_are_named_and_counted():
    module = AutoModelForCausalLM.from_config(GPT2)
    shape = layout(module, Projection())
    small = {name: p.numel() for name, p in module.named_parameters() if p.dim() == 1}
    total = sum(p.numel() for p in module.parameters())
    assert shape.left_out == small
    assert shape.covered == pytest.approx(1 - sum(small.values()) / total)


def test_an_inner_layer_with_as_many_outputs_as_positions_is_no_head():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(257, 16), nn.Embedding(512, 16)
            self.wide, self.narrow, self.head = nn.Linear(16, 512), nn.Linear(512, 16), nn.Linear(16, 257)

    kinds = {block.name: block.kind for block in layout(Small(), Projection()).blocks}
    assert kinds == {"wte": "input_tokens", "wpe": "dense", "wide": "dense", "narrow": "dense", "head": "output_tokens"}


def test_a_unet_with_as_many_classes_as_a_layer_has_outputs_has_no_vocabulary():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.classes, self.times = nn.Embedding(10, 16), nn.Linear(16, 10)
            self.first, self.last = nn.Conv2d(1, 10, 3), nn.Conv2d(10, 1, 3)

    assert {block.kind for block in layout(Conditional(), Projection()).blocks} == {"dense"}
