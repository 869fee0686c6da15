"""Features equal per-example autograd gradients, projected by the same matrices."""

import math

import array_api_strict
import numpy as np
import pytest
import torch
from samples import corpus_frames
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig
from transformers.pytorch_utils import Conv1D

from provenance.core.arrays import to_numpy
from provenance.core.errors import ModelError
from provenance.features.following import find_following
from provenance.features.gradients import gradient_features
from provenance.features.layers import layout
from provenance.features.projection import Projection, matrices
from provenance.features.sampled import sampled_features
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.adapters.denoiser import Denoiser
from provenance.models.model import Example

CONTENTS = [*corpus_frames()["examples"]["content"].to_list()[:7], b"short", b"x"]
PROJECTION = Projection(seed=3, dense=200, dense_alone=200, token_rank=3)
LLAMA = LlamaConfig(vocab_size=257, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                    max_position_embeddings=300, tie_word_embeddings=False)  # fmt: skip


def gpt2(**more):
    return GPT2Config(vocab_size=257, n_embd=16, n_layer=2, n_head=2, n_positions=300, resid_pdrop=0.0, embd_pdrop=0.0,
                      attn_pdrop=0.0, **more)  # fmt: skip


CONFIGS = {"llama": LLAMA, "gpt2": gpt2(tie_word_embeddings=False), "gpt2 tied": gpt2(tie_word_embeddings=True)}


class Vectors:
    """Turns contents into `terms` random vectors each, in the batch's `order`, with a squared error."""

    def __init__(self, network, shape, *, terms=1, order="side by side"):
        self.network, self.shape, self.terms, self.order = network, shape, terms, order

    def module(self):
        return self.network

    def collate(self, contents):
        seeds = [sum(content) + 1000 * len(content) for content in contents]
        return torch.stack([torch.randn(self.terms, *self.shape, generator=torch.Generator().manual_seed(s)) for s in seeds])

    def loss(self, module, batch):
        batch = batch.to(next(module.parameters()).dtype)
        n = len(batch)
        if self.order == "turn by turn":
            errors = module(batch.transpose(0, 1).flatten(0, 1)).square().flatten(1).sum(1)
            return errors.view(self.terms, n).sum(0)
        if self.order == "call by call":
            return sum(module(batch[:, term]).square().flatten(1).sum(1) for term in range(self.terms))
        if self.order == "batch by batch":  # the loss of an example depends on its place in the batch
            scale = torch.arange(1, n + 1)
            return (module(batch.flatten(0, 1)).square().flatten(1).sum(1).view(n, self.terms).sum(1)) * scale
        return module(batch.flatten(0, 1)).square().flatten(1).sum(1).view(n, self.terms).sum(1)


class Positions(nn.Module):
    """A Conv1D after an embedding of positions, which is read once for all examples."""

    def __init__(self):
        super().__init__()
        self.at, self.mix = nn.Embedding(4, 6), Conv1D(5, 6)

    def forward(self, x):
        return self.mix(torch.tanh(x + self.at(torch.arange(4)[None])))


def network(kind):
    torch.manual_seed(1)
    return {
        "linear": lambda: nn.Sequential(nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 5)),
        "in place": lambda: nn.Sequential(nn.Linear(12, 7), nn.ReLU(inplace=True), nn.Linear(7, 5)),
        "conv1d": lambda: nn.Sequential(nn.Conv1d(4, 6, 3, padding=1, dilation=2), nn.Tanh(), nn.Conv1d(6, 3, 2, stride=2)),
        "conv2d": lambda: nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, (3, 2), stride=(2, 1))),
        "grouped": lambda: nn.Sequential(nn.Conv2d(4, 8, 3, padding="same", groups=4), nn.Tanh(), nn.Conv2d(8, 4, 1, groups=2)),
        "reflect": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=2, padding_mode="reflect"), nn.Tanh(), nn.Conv2d(4, 2, 1)),
        "circular": lambda: nn.Sequential(nn.Conv1d(4, 4, 4, padding=(2,), padding_mode="circular"), nn.Conv1d(4, 2, 1)),
        "replicate": lambda: nn.Sequential(nn.Conv1d(4, 4, 4, padding="same", padding_mode="replicate"), nn.Conv1d(4, 2, 1)),
        "depthwise": lambda: nn.Sequential(nn.Conv1d(12, 12, 3, padding=2, groups=12), nn.Tanh(), nn.Conv1d(12, 2, 1)),
        "transposed": lambda: nn.Sequential(
            nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
            nn.Tanh(),
            nn.ConvTranspose2d(6, 3, (2, 3), dilation=(1, 2)),
        ),
        "transposed 1d": lambda: nn.Sequential(nn.ConvTranspose1d(4, 5, 4, stride=3), nn.Tanh(), nn.Conv1d(5, 2, 3)),
        "positions": Positions,
    }[kind]()


SHAPES = {
    "linear": (12,),
    "depthwise": (12, 9),
    "transposed 1d": (4, 9),
    "in place": (12,),
    "conv1d": (4, 9),
    "circular": (4, 9),
    "replicate": (4, 9),
    "positions": (4, 6),
}


def case(name, tmp_path):
    """An adapter and its module in double precision."""
    torch.manual_seed(0)
    if name in CONFIGS:
        CONFIGS[name].save_pretrained(tmp_path)
        return CausalLM(tmp_path), AutoModelForCausalLM.from_config(CONFIGS[name]).eval().double()
    kind, _, order = name.partition(", ")
    adapter = Vectors(network(kind), SHAPES.get(kind, (4, 7, 7)), terms=4 if order else 1, order=order or "side by side")
    return adapter, adapter.module().double()


LANGUAGE = list(CONFIGS)
NETWORKS = [*SHAPES, "conv2d", "grouped", "reflect", "transposed"]
SEVERAL = [f"{kind}, {order}" for kind in ("linear", "conv2d") for order in ("side by side", "turn by turn", "call by call")]
# Computed one example at a time: a loss that depends on its batch, and positions that are read once for several draws.
ONE_BY_ONE = ["linear, batch by batch", "positions, side by side"]


def features(adapter, module, contents=CONTENTS, *, batch_size=4, checkpoint="c", **more):
    options = {"projection": PROJECTION, "checkpoint": checkpoint, "batch_size": batch_size}
    return gradient_features(adapter, module, list(map(Example, contents)), **options, **more)


def dense_of(adapter, module, contents, checkpoint):
    """The dense part by definition: one backward pass per example, then the projections of the whole gradient."""
    shape, layers, rows = layout(module, PROJECTION), dict(module.named_modules()), []
    for content in contents:
        module.zero_grad()
        adapter.loss(module, adapter.collate([content])).sum().backward()
        parts = [np.empty(0)]
        for block in shape.blocks:
            if block.kind != "dense":
                continue
            layer, gradient = layers[block.name], layers[block.name].weight.grad.numpy()
            if isinstance(layers[block.name], Conv1D):
                gradient = gradient.T  # outputs first, like all layers but embeddings
            a, b = matrices(block, PROJECTION, checkpoint)
            by_group = gradient.reshape(block.groups * block.joined, -1, math.prod(gradient.shape[1:]))
            if isinstance(layer, nn.Embedding | nn.ConvTranspose1d | nn.ConvTranspose2d):  # inputs first
                by_group = by_group.transpose(0, 2, 1)
            left = a.T @ by_group.transpose(0, 2, 1)
            if block.joined > 1:
                left = left.transpose(1, 0, 2).reshape(1, block.rows, -1)
            parts.append((left @ b).ravel())
        rows.append(np.concatenate(parts))
    return np.stack(rows)


@pytest.mark.parametrize("name", LANGUAGE + NETWORKS + SEVERAL + ONE_BY_ONE)
def test_features_equal_per_example_gradients(name, tmp_path):
    adapter, module = case(name, tmp_path)
    rows = features(adapter, module)
    expected = dense_of(adapter, module, CONTENTS, "c")
    assert rows.dense.shape == expected.shape
    assert np.allclose(rows.dense, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", LANGUAGE)
def test_token_rows_are_the_rows_of_the_gradient(name, tmp_path):
    """The head's rows at targets and the embedding's rows at inputs; with tied weights their sum is the gradient."""
    adapter, module = case(name, tmp_path)
    rows = features(adapter, module)
    shape = {block.name: block for block in layout(module, PROJECTION).blocks}
    (embedding,) = [block for block in shape.values() if block.kind == "input_tokens"]
    a, b = matrices(shape["lm_head"], PROJECTION, "c")[0], matrices(embedding, PROJECTION, "c")[1]
    tied = module.lm_head.weight is module.get_input_embeddings().weight
    for row, content in enumerate(CONTENTS):
        head, inputs = np.zeros((257, 16)), np.zeros((257, 16))
        states = module(input_ids=adapter.collate([content]).ids[:, :-1], output_hidden_states=True)
        ids = adapter.collate([content]).ids[0]
        errors = states.logits.softmax(-1)[0].detach()
        errors[torch.arange(len(ids) - 1), ids[1:]] -= 1
        head = (errors.T @ states.hidden_states[-1][0].detach()).numpy()  # every row, targets or not
        module.zero_grad()
        adapter.loss(module, adapter.collate([content])).sum().backward()
        inputs = module.get_input_embeddings().weight.grad.numpy() - (head if tied else 0)
        part, width = rows.sparse, embedding.columns
        of_row = part.example == row
        assert part.token[of_row].tolist() == sorted({256, *content})
        for values, gradient, side, tokens in (
            (part.values[of_row, :width], inputs, b, {256, *content[:-1]}),
            (part.values[of_row, width:], head, a, set(content)),
        ):
            present = np.isin(part.token[of_row], list(tokens))
            expected = np.where(present[:, None], gradient[part.token[of_row]] @ side, 0)
            assert np.allclose(values, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["llama", "conv2d, turn by turn"])
def test_batch_size_and_order_change_only_rounding(name, tmp_path):
    adapter, module = case(name, tmp_path)
    whole = features(adapter, module, batch_size=99)
    for other in (features(adapter, module, batch_size=1), features(adapter, module, CONTENTS[::-1], batch_size=3)):
        order = slice(None) if np.allclose(other.dense[0], whole.dense[0], rtol=1e-4) else slice(None, None, -1)
        assert np.allclose(whole.dense, other.dense[order], rtol=1e-4, atol=1e-5 * np.abs(whole.dense).max())


@pytest.mark.parametrize("name", ["gpt2 tied", "conv2d, side by side", "depthwise", "transposed"])
def test_features_use_only_the_array_standard(name, tmp_path):
    adapter, module = case(name, tmp_path)
    plain, strict = features(adapter, module), features(adapter, module, xp=array_api_strict)
    assert np.array_equal(plain.dense, to_numpy(strict.dense))
    for side in ("example", "token", "values"):
        assert np.array_equal(getattr(plain.sparse, side), to_numpy(getattr(strict.sparse, side)))


def test_images_give_features(tmp_path):
    adapter = Denoiser(tmp_path, size=8, width=4, draws=3)
    torch.manual_seed(2)
    module = adapter.module().eval().double()
    images = adapter.sample(module.float(), 5, seed=1)
    module.double()
    rows = features(adapter, module, images)
    expected = dense_of(adapter, module, images, "c")
    assert np.allclose(rows.dense, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_module_is_unchanged_afterwards_even_by_a_failure_while_hooks_are_set(tmp_path, monkeypatch):
    """Memory may run out, and the next shard uses the same module."""
    adapter, module = case("llama", tmp_path)
    module.model.norm.weight.requires_grad_(False)
    expected = features(adapter, module)
    assert {name for name, p in module.named_parameters() if not p.requires_grad} == {"model.norm.weight"}
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(m._forward_hooks for m in module.modules())

    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr("provenance.features.tap.matrices", exhausted)
    with pytest.raises(MemoryError):
        features(adapter, module)
    monkeypatch.undo()
    assert np.array_equal(features(adapter, module).dense, expected.dense)
    another = features(adapter, module, checkpoint="another")
    assert not np.allclose(another.dense, expected.dense), "checkpoints are projected differently"


class Windows(Vectors):
    """An example of more than one byte has a window for each."""

    def collate(self, contents):
        each = [super(Windows, self).collate([bytes([byte]) for byte in content])[:, 0] for content in contents]
        return torch.cat(each), torch.tensor([len(rows) for rows in each])

    def loss(self, module, batch):
        windows, counts = batch
        owner = torch.arange(len(counts)).repeat_interleave(counts)
        return torch.zeros(len(counts)).index_add(0, owner, module(windows).square().flatten(1).sum(1))


def test_examples_of_several_windows_are_computed_by_themselves_where_positions_are_shared():
    module = Positions()
    adapter, short, long = Windows(module, (4, 6)), [b"a", b"b"], [b"a", b"bcd", b"ef"]
    following = find_following(adapter, module, list(map(Example, short)), PROJECTION, "c", xp=np)
    assert following.arrangement.order == "side by side"
    whole = np.concatenate([features(adapter, module, [content], following=following).dense for content in long])
    assert np.allclose(features(adapter, module, long, following=following).dense, whole, rtol=1e-4, atol=1e-6)
    options = {"projection": PROJECTION, "checkpoint": "c", "draws": 1, "following": following}
    together, alone = (
        np.concatenate([batch.rows.dense for batch in sampled_features(adapter, module, list(map(Example, long)), **passes)])
        for passes in ({**options, "batch_size": size} for size in (4, 1))
    )
    assert np.allclose(together, alone, rtol=1e-4, atol=1e-5)


class Toy(Vectors):
    """The smallest adapter."""

    def __init__(self):
        super().__init__(network("linear"), (12,))


class Mean(Toy):
    def loss(self, module, batch):
        return super().loss(module, batch).mean()


class Broken(Toy):
    def loss(self, module, batch):
        bad = torch.zeros(len(batch)).index_fill(0, torch.tensor([2]), math.inf) if len(batch) == 4 else 0
        return super().loss(module, batch) + bad


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (Mean(), r"Mean: loss: expected one number per example, shape \(1,\), found shape \(\)"),
        (Broken(), r"Broken: loss of example 2 of the batch: expected a finite number, found inf"),
    ],
)
def test_wrong_losses_are_refused(adapter, message):
    with pytest.raises(ModelError, match=message):
        features(adapter, network("linear"))


def test_a_layer_without_a_gradient_is_named():
    class Dangling(Toy):
        def loss(self, module, batch):
            return module["used"](batch[:, 0])[:, 0]

    module = nn.ModuleDict({"used": nn.Linear(12, 1), "unused": nn.Linear(12, 1)})
    with pytest.raises(ModelError, match="module 'unused': expected a gradient, found none"):
        features(Dangling(), module)


@pytest.mark.parametrize("order", ["side by side", "turn by turn"])
def test_copies_of_a_content_have_the_same_features(order, tmp_path):
    adapter, module = case(f"linear, {order}", tmp_path)
    single = features(adapter, module, [b"same"]).dense
    assert np.allclose(features(adapter, module, [b"same"] * 6).dense, np.repeat(single, 6, axis=0), rtol=1e-4)


class Padded(nn.Module):
    """An embedding with a padding row, which is never trained, and a layer that is called with a keyword."""

    def __init__(self):
        super().__init__()
        self.words, self.mix = nn.Embedding(300, 6, padding_idx=97), nn.Linear(6, 2)

    def forward(self, ids):
        return self.mix(input=self.words(ids))


class Ids:
    """Reads contents as token ids."""

    def collate(self, contents):
        return torch.tensor([list(content) for content in contents])

    def loss(self, module, batch):
        return module(batch).square().sum((1, 2))


def test_a_padding_row_has_no_gradient_and_keywords_work():
    torch.manual_seed(0)
    contents = [b"abca", b"aaab", b"bcda"]
    module = Padded().double()
    expected = dense_of(Ids(), module, contents, "c")
    assert np.allclose(features(Ids(), module, contents).dense, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
