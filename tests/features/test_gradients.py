"""Features equal per-example autograd gradients, projected by the same matrices."""

import numpy as np
import pytest
import torch
from samples import corpus_frames
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from provenance.core.errors import ModelError
from provenance.features.adapters.causal_lm import CausalLM
from provenance.features.gradients import gradient_features, layout
from provenance.features.projection import Projection, matrix, offsets

CONTENTS = [*corpus_frames()["examples"]["content"].to_list()[:7], b"short", b"x"]
PROJECTION = Projection(seed=3, rank=4, token_rank=3)
CONFIGS = {
    "llama": LlamaConfig(vocab_size=257, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                         max_position_embeddings=300, tie_word_embeddings=False),
    "gpt2": GPT2Config(vocab_size=257, n_embd=16, n_layer=2, n_head=2, n_positions=300, resid_pdrop=0.0, embd_pdrop=0.0,
                       attn_pdrop=0.0, tie_word_embeddings=False),
}  # fmt: skip


@pytest.fixture(params=CONFIGS)
def language_model(request, tmp_path):
    config = CONFIGS[request.param]
    config.save_pretrained(tmp_path)
    torch.manual_seed(0)
    return CausalLM(tmp_path), AutoModelForCausalLM.from_config(config).eval().double()


def oracle(adapter, module, contents, checkpoint):
    """One backward pass per example, whole gradients, then the projections. Slow and obvious."""
    shape = layout(module, PROJECTION)
    layers, rows = dict(module.named_modules()), []
    for content in contents:
        module.zero_grad()
        adapter.loss(module, adapter.collate([content])).sum().backward()
        parts = []
        for block in shape.blocks:
            layer = layers[block.name]
            gradient = layer.weight.grad.numpy()
            if isinstance(layer, torch.nn.Linear):
                gradient = gradient.T  # torch keeps (outputs, inputs)
            key = (PROJECTION.seed, checkpoint, block.name)
            if block.kind != "embedding":
                gradient = matrix(block.inputs, block.rows, *key, "in").T @ gradient
            if block.kind != "head":
                gradient = gradient @ matrix(block.outputs, block.columns, *key, "out")
            parts.append(gradient.ravel())
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def test_features_equal_per_example_gradients(language_model):
    adapter, module = language_model
    expected = oracle(adapter, module, CONTENTS, "c")
    found = gradient_features(adapter, module, CONTENTS, projection=PROJECTION, checkpoint="c", batch_size=4)
    shape = layout(module, PROJECTION)
    assert found.shape == (len(CONTENTS), shape.size)
    for name, where in offsets(shape.blocks).items():
        assert np.allclose(found[:, where], expected[:, where], rtol=1e-4, atol=1e-5 * np.abs(expected).max()), name


def test_batch_size_changes_nothing_beyond_rounding(language_model):
    adapter, module = language_model
    one, all_at_once = (
        gradient_features(adapter, module, CONTENTS, projection=PROJECTION, checkpoint="c", batch_size=size) for size in (1, 99)
    )
    assert np.allclose(one, all_at_once, rtol=1e-4, atol=1e-5 * np.abs(one).max())


def test_weights_are_trainable_again_afterwards(language_model):
    adapter, module = language_model
    gradient_features(adapter, module, CONTENTS, projection=PROJECTION, checkpoint="c", batch_size=4)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(m._forward_hooks for m in module.modules())


def test_checkpoints_are_projected_differently(language_model):
    adapter, module = language_model
    one, two = (
        gradient_features(adapter, module, CONTENTS, projection=PROJECTION, checkpoint=name, batch_size=4) for name in "ab"
    )
    assert not np.allclose(one, two)


def test_layout_says_what_part_of_the_parameters_it_covers(language_model):
    _, module = language_model
    left_out = sum(p.numel() for p in module.parameters() if p.dim() == 1)
    total = sum(p.numel() for p in module.parameters())
    assert layout(module, PROJECTION).covered == pytest.approx(1 - left_out / total)


def test_a_layer_of_another_kind_is_named():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(2, 2)
            self.mix = torch.nn.Bilinear(2, 2, 2)

    with pytest.raises(ModelError, match=r"module 'mix' \(Bilinear\): expected Linear, Conv1D or Embedding, found a weight"):
        layout(Odd(), PROJECTION)


class Toy:
    """A linear regression on bytes, as small as an adapter can be."""

    def module(self):
        return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))

    def collate(self, contents):
        return torch.tensor([[float(b) for b in content[:4].ljust(4)] for content in contents])

    def loss(self, module, batch):
        return (module(batch / 100)[:, 0] - 1) ** 2


def features_of(toy, module=None):
    return gradient_features(toy, module or toy.module(), CONTENTS, projection=PROJECTION, checkpoint="c", batch_size=4)


def test_any_module_of_linear_layers_will_do():
    assert features_of(Toy()).shape == (len(CONTENTS), 4 * 3 + 3 * 1)


def test_a_loss_of_the_wrong_shape_names_the_adapter():
    class Mean(Toy):
        def loss(self, module, batch):
            return super().loss(module, batch).mean()

    with pytest.raises(ModelError, match=r"Mean: loss: expected one number per example, shape \(4,\), found shape \(\)"):
        features_of(Mean())


def test_a_loss_that_is_not_finite_names_the_example():
    class Broken(Toy):
        def loss(self, module, batch):
            return super().loss(module, batch) / torch.tensor([1.0, 1.0, 0.0, 1.0])[: len(batch)]

    with pytest.raises(ModelError, match=r"Broken: loss of example 2 of the batch: expected a finite number, found inf"):
        features_of(Broken())


def test_a_layer_that_the_loss_does_not_reach_is_named():
    class Dangling(Toy):
        def module(self):
            return torch.nn.ModuleDict({"used": torch.nn.Linear(4, 1), "unused": torch.nn.Linear(4, 1)})

        def loss(self, module, batch):
            return module["used"](batch)[:, 0]

    with pytest.raises(ModelError, match="module 'unused': expected a gradient, found none"):
        features_of(Dangling())


def test_zero_gradients_are_refused():
    class Flat(Toy):
        def loss(self, module, batch):
            return 0.0 * super().loss(module, batch)

    with pytest.raises(ModelError, match="expected gradient features, found only zeros"):
        features_of(Flat())


def test_a_layer_as_wide_as_the_positions_is_no_head():
    config = GPT2Config(vocab_size=257, n_embd=32, n_layer=1, n_head=2, n_positions=32, tie_word_embeddings=True)
    shape = layout(AutoModelForCausalLM.from_config(config), PROJECTION)
    kinds = {block.name: block.kind for block in shape.blocks}
    assert kinds["transformer.h.0.attn.c_proj"] == "linear"
    assert [name for name, kind in kinds.items() if kind == "head"] == ["lm_head"]
    assert shape.covered < 1, "tied weights are counted once"
