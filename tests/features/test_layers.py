"""The layout of a model's layers, and the layers that are refused."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config

from provenance.core.errors import ModelError
from provenance.features.layers import layout
from provenance.features.projection import Projection

GPT2 = GPT2Config(vocab_size=257, n_embd=32, n_layer=1, n_head=2, n_positions=32, tie_word_embeddings=True)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.positions = nn.Linear(2, 2), nn.Parameter(torch.zeros(3, 2))


@pytest.mark.parametrize(("module", "message"), [
    (nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2)),
     r"module '1' \(Bilinear\): expected Linear, .*, found a trainable weight 'weight'"),
    (Bare(), r"module Bare: .*'positions' of shape \(3, 2\)"),
    (nn.ConvTranspose2d(2, 2, 2), "ConvTranspose2d"),
])  # fmt: skip
def test_an_unsupported_layer_is_named(module, message):
    with pytest.raises(ModelError, match=message):
        layout(module, Projection())


def test_a_frozen_layer_of_an_unsupported_kind_is_ignored():
    module = nn.Sequential(nn.Linear(2, 2), nn.Bilinear(2, 2, 2).requires_grad_(False))
    assert [block.name for block in layout(module, Projection()).blocks] == ["0"]


def size(shape):
    return sum(block.size for block in shape.blocks)


def test_the_dense_part_is_as_large_as_allowed():
    module = AutoModelForCausalLM.from_config(GPT2)
    for numbers in (50, 500, 5000):
        assert numbers / 4 < size(layout(module, Projection(dense=numbers))) <= numbers
    images = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3))
    assert 100 < size(layout(images, Projection(dense=10, dense_alone=200))) <= 200, "there is no vocabulary"


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
