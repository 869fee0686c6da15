"""Checks of how a model is followed: what autograd says decides, and what was silently wrong is right or refused."""

import json
import weakref
from dataclasses import replace
from types import SimpleNamespace

import array_api_compat.torch
import array_api_strict
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from provenance.core.errors import ModelError
from provenance.features import room
from provenance.features.checks import check_following
from provenance.features.following import find_following
from provenance.features.gradients import batched, gradient_features, without_gradient
from provenance.features.projection import Projection
from provenance.features.report import ONE_BY_ONE, Arrangement, from_json, require_followed, to_json
from provenance.features.sampled import sampled_features
from provenance.features.tap import tapped
from provenance.models.model import Example

PROJECTION = Projection(seed=3, dense=400, dense_alone=400, token_rank=4)
EXAMPLES = [
    Example(text.encode()) for text in ("abcab", "a longer example of text", "b", "cdcdcdcdcd", "text of a middle size")
]


class Tokens:
    """Reads contents as bytes; the module gives logits."""

    def __init__(self, network):
        self.network = network

    def module(self):
        return self.network

    def collate(self, contents):
        longest = max(map(len, contents))
        ids = torch.full((len(contents), longest + 1), -100)
        for row, content in enumerate(contents):
            ids[row, : len(content) + 1] = torch.tensor([0, *content])
        return ids

    def loss(self, module, ids):
        logits = module(ids[:, :-1].clamp(min=0))
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(), ids[:, 1:].flatten(), ignore_index=-100, reduction="none"
        )
        return losses.view(len(ids), -1).sum(1)


class Small(nn.Module):
    """A network of tokens without attention, for parts that are to be changed."""

    def __init__(self, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.wte, self.mix, self.head = nn.Embedding(256, 8), nn.Linear(8, 8), nn.Linear(8, 256, bias=False)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, ids):
        return self.head(torch.tanh(self.mix(self.wte(ids))))


class ScaledEmbedding(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 5.0


class ScaledLinear(nn.Linear):
    def forward(self, x):
        return functional.linear(x, self.weight * 8.0, self.bias)


class Standardised(nn.Conv1d):
    def forward(self, x):
        weight = self.weight - self.weight.mean(dim=(1, 2), keepdim=True)
        return functional.conv1d(functional.pad(x, (2, 0)), weight / weight.std(dim=(1, 2), keepdim=True), self.bias)


class Convolved(Small):
    def __init__(self):
        super().__init__(mix=Standardised(8, 8, 3))

    def forward(self, ids):
        return self.head(torch.tanh(self.mix(self.wte(ids).transpose(1, 2)).transpose(1, 2)))


class FunctionalHead(Small):
    def __init__(self, apply):
        super().__init__()
        del self.head
        self.apply_head = apply

    def forward(self, ids):
        return self.apply_head(torch.tanh(self.mix(self.wte(ids))), self.wte.weight)


class Positions(Small):
    """As in small teaching models: positions without a batch axis, and the head is the embedding."""

    def __init__(self):
        super().__init__(wpe=nn.Embedding(64, 8))
        self.head.weight = self.wte.weight

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        return self.head(torch.tanh(self.mix(x)))


class Experts(Small):
    """Fused experts, chosen by the token."""

    def __init__(self):
        super().__init__(experts=None)
        self.experts = nn.Parameter(torch.randn(12, 8, 8))

    def forward(self, ids):
        x = torch.tanh(self.mix(self.wte(ids)))
        out = torch.zeros_like(x)
        for expert in range(12):
            at = ids % 12 == expert
            out[at] = functional.linear(x[at], self.experts[expert])
        return self.head(x + out)


class DenseExperts(Experts):
    """Each expert has all tokens, as three axes; a mask chooses."""

    def forward(self, ids):
        x = torch.tanh(self.mix(self.wte(ids)))
        return self.head(x + sum((ids % 12 == e)[..., None] * functional.linear(x, self.experts[e]) for e in range(12)))


class Gated(Small):
    """Weights that no layer has: a matrix that is used by element, and a vector."""

    def __init__(self):
        super().__init__()
        self.rate, self.gate = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(8))

    def forward(self, ids):
        x = torch.tanh(self.mix(self.wte(ids)))
        return self.head(x * self.gate + (x[..., None] * self.rate.exp()).sum(-1))


NETWORKS = {
    "plain": Small,
    "scaled embedding": lambda: Small(wte=ScaledEmbedding(256, 8)),
    "head by F.linear": lambda: FunctionalHead(functional.linear),
    "head by a product": lambda: FunctionalHead(lambda x, w: x @ w.t()),
    "head by einsum": lambda: FunctionalHead(lambda x, w: torch.einsum("bth,vh->btv", x, w)),
    "scaled linear": lambda: Small(mix=ScaledLinear(8, 8)),
    "standardised convolution": Convolved,
    "positions": Positions,
    "experts": Experts,
    "experts of all tokens": DenseExperts,
    "elementwise": Gated,
    "normalised weight": lambda: Small(mix=nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))),
    "padding row": lambda: Small(wte=nn.Embedding(256, 8, padding_idx=97)),
    "biases alone": lambda: only(Small(), "mix.bias"),
}


class Recomputed(Small):
    """Computes its activations again in the backward pass."""

    def forward(self, ids):
        return self.head(checkpoint(lambda x: torch.tanh(self.mix(x)), self.wte(ids), use_reentrant=False))


NETWORKS["recomputed"] = Recomputed


def only(module, *names):
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)
    return module


def check(network, adapter=None, examples=EXAMPLES, **changes):
    options = {"projection": PROJECTION, "checkpoint": "c", "xp": np, **changes}
    return check_following(adapter or Tokens(network), network, examples, **options)


class Hidden(torch.autograd.Function):
    """A product that no operation of torch shows."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx, d):
        x, weight = ctx.saved_tensors
        return d @ weight, d.flatten(0, 1).t() @ x.flatten(0, 1)


class HiddenLinear(nn.Linear):
    def forward(self, x):
        return Hidden.apply(x, self.weight) + self.bias


def followed_by(report):
    return {layer.weight: layer.by for layer in report.layers}


BY_AUTOGRAD = {
    "scaled linear": {"mix.weight"},
    "standardised convolution": {"mix.weight"},
    "head by einsum": {"wte.weight"},
    "elementwise": {"rate", "gate"},
    "normalised weight": {f"mix.parametrizations.weight.original{n}" for n in (0, 1)},
    "biases alone": {"mix.bias"},
    "hidden": {"mix.weight"},
}
NETWORKS["hidden"] = lambda: Small(mix=HiddenLinear(8, 8))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_silently_wrong_is_right(name):
    network = NETWORKS[name]()
    report = check(network)
    assert not report.failed
    assert all(layer.verdict == "followed" or layer.weight.endswith("bias") for layer in report.layers)
    assert max(layer.deviation or 0 for layer in report.layers) < 1e-5
    assert {weight for weight, by in followed_by(report).items() if by == "autograd"} == BY_AUTOGRAD.get(name, set())
    assert from_json(json.loads(json.dumps(to_json(report)))) == report
    rows = gradient_features(Tokens(network), network, EXAMPLES, projection=PROJECTION, checkpoint="c", batch_size=4,
                             following=report.following)  # fmt: skip
    assert (rows.examples, rows.dense.shape[1]) == (5, sum(block.size for block in report.following.layout.dense))


@pytest.mark.parametrize("name", ["plain", "positions", "padding row", "head by F.linear", "scaled embedding"])
def test_batches_are_not_taken_apart_where_they_need_not(name):
    assert check(NETWORKS[name]()).following.arrangement.order == "side by side"


def test_a_head_by_a_function_has_the_rows_of_its_twin():
    twin = Small()
    twin.head.weight = twin.wte.weight
    options = {"projection": PROJECTION, "checkpoint": "c", "batch_size": 4}
    network = NETWORKS["head by F.linear"]()
    network.load_state_dict({name: value for name, value in twin.state_dict().items() if name in network.state_dict()})
    expected, found = (gradient_features(Tokens(module), module, EXAMPLES, **options) for module in (twin, network))
    assert [block.kind for block in check(network).following.layout.tokens] == ["input_tokens", "output_tokens"]
    assert np.allclose(np.linalg.norm(found.sparse.values), np.linalg.norm(expected.sparse.values), rtol=0.05)
    assert np.array_equal(found.sparse.token, expected.sparse.token)
    assert np.allclose(found.sparse.values[:, :4], expected.sparse.values[:, :4], rtol=1e-4, atol=1e-6)


def test_what_deviates_and_is_too_large_for_autograd_is_refused_or_left_out(monkeypatch):
    monkeypatch.setattr("provenance.features.layers.LARGEST_WHOLE", 63)
    monkeypatch.setattr("provenance.features.checks.LARGEST_WHOLE", 63)
    deviates = (
        r"weight 'mix.weight' \(1.5% of what is trained\): expected features within 0.001 of its gradient by autograd, found a "
        r"deviation of 1\. .*'leave_out' to go on without 1.5% of what is trained"
    )
    large = "found a use that only autograd can follow, and 64 numbers"
    for name, message in (("hidden", deviates), ("scaled linear", large)):
        report = check(NETWORKS[name]())
        assert [layer.weight for layer in report.failed] == ["mix.weight"]
        with pytest.raises(ModelError, match=message):
            require_followed(report)
        assert report.following.layout.left_out == {"mix.weight": 64, "mix.bias": 8}
        assert report.share == pytest.approx(1 - 72 / 4168)
        assert report.summary()["not_followed"].keys() == {"mix.weight"}


def test_autograd_that_starts_inside_a_block_that_is_computed_again_is_refused():
    with pytest.raises(ModelError, match="found other tensors, because autograd starts inside such a block"):
        check(only(Recomputed(), "mix.weight"))


def test_a_weight_without_a_gradient_is_said_so_and_the_loss_must_have_one():
    report = check(Small(unused=nn.Linear(8, 4)))
    assert report.summary()["without_gradient"] == ["unused.weight"]
    require_followed(report)

    class Flat(Tokens):
        def loss(self, module, ids):
            return 0.0 * super().loss(module, ids)

    network = Small()
    with pytest.raises(ModelError, match="expected gradients of the loss, found only zeros for 3 examples"):
        check(network, Flat(network))


def test_a_model_without_a_trainable_weight_is_refused():
    with pytest.raises(ModelError, match="expected at least one weight to follow, found none"):
        check(only(Small()))


class Dropping(Small):
    def __init__(self):
        super().__init__(drop=nn.Dropout(0.5))

    def forward(self, ids):
        return self.head(self.drop(torch.tanh(self.mix(self.wte(ids)))))


class Noisy(Small):
    def forward(self, ids):
        x = self.mix(self.wte(ids))
        return self.head(torch.tanh(x + torch.randn_like(x)))


def test_randomness_is_named():
    with pytest.raises(ModelError, match=r"module 'drop' \(Dropout\): expected the same loss .*dropout draws random numbers"):
        check(Dropping().train())
    check(Dropping().eval())
    with pytest.raises(ModelError, match=r"module Noisy: .*randn_like draws random numbers"):
        check(Noisy())

    class Sampling(Tokens):
        def loss(self, module, ids):
            return super().loss(module, ids) * torch.rand(1)

    network = Small()
    with pytest.raises(ModelError, match="the adapter's loss: .*rand draws random numbers"):
        check(network, Sampling(network))

    class Sly(Tokens):
        def loss(self, module, ids):
            return super().loss(module, ids) * np.random.default_rng().random()

    with pytest.raises(ModelError, match="expected the same loss"):
        check(network, Sly(network))


def test_a_loss_that_sees_its_batch_is_refused():
    class Mixing(Tokens):
        def loss(self, module, ids):
            return super().loss(module, ids) * len(ids)

    network = Small()
    with pytest.raises(ModelError, match="Mixing: loss: expected the same loss of an example alone as in a batch"):
        check(network, Mixing(network))


class Sometimes(Small):
    """A branch for texts that hold an `!` alone."""

    def __init__(self):
        super().__init__(branch=nn.Linear(8, 8))

    def forward(self, ids):
        x = torch.tanh(self.mix(self.wte(ids)))
        at = (ids == ord("!")).any(1)
        if at.any():
            x = torch.cat([x[~at], self.branch(x[at])])[torch.cat([(~at).nonzero(), at.nonzero()])[:, 0].argsort()]
        return self.head(x)


def test_examples_that_use_other_weights_are_computed_by_themselves():
    network = Sometimes()
    mixed = [*EXAMPLES, Example(b"what a text!"), Example(b"no!"), Example(b"a! !"), Example(b"of text without")]
    report = check(network, examples=mixed)
    assert report.following.arrangement.order == "one by one"
    assert followed_by(report)["branch.weight"] == "operation"
    options = {"projection": PROJECTION, "checkpoint": "c"}
    whole = gradient_features(Tokens(network), network, mixed, **options, batch_size=4, following=report.following)
    # A batch with other rows than examples had in the check is taken apart, even where the check saw no such example.
    unaware = check(network).following
    assert unaware.arrangement.order == "side by side"
    for batch_size in (3, 9):
        rows = gradient_features(Tokens(network), network, mixed, **options, batch_size=batch_size, following=unaware)
        assert np.allclose(rows.dense, whole.dense, rtol=1e-4, atol=1e-6)


def test_each_weight_that_an_example_uses_is_compared_with_autograd():
    alike = [Example(letter.encode() * 4) for letter in "abcdexyz"]
    report = check(Sometimes(), examples=[*alike, Example(b"no!!")])
    assert report.summary()["without_gradient"] == []
    assert report.compared == 4


def test_a_weight_that_no_checked_example_used_is_followed_as_its_layer_or_refused_by_name():
    network = Sometimes()
    unaware, options = check(network).following, {"projection": PROJECTION, "checkpoint": "c", "batch_size": 4}
    assert {block.weight: block.by for block in unaware.layout.blocks}["branch.weight"] == "operation, not seen"
    network.branch.__class__ = ScaledLinear
    assert gradient_features(Tokens(network), network, EXAMPLES, **options, following=unaware).dense.any()
    with pytest.raises(ModelError, match=r"weight 'branch.weight': .* found a gradient of another use"):
        gradient_features(Tokens(network), network, [*EXAMPLES, Example(b"no!")], **options, following=unaware)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_no_input_of_an_inner_layer_is_kept():
    inputs = []

    class Watched(nn.Linear):
        def forward(self, x):
            x = x.clone()
            inputs.append(weakref.ref(x))
            return super().forward(x)

    network = Small(mix=Watched(8, 8))
    following = find_following(Tokens(network), network, EXAMPLES[:1], PROJECTION, "c", xp=np)
    with tapped(network, following, PROJECTION, "c", np) as tap:
        tap.begin(1)
        with tap:
            loss = Tokens(network).loss(network, Tokens(network).collate([b"abc"]))
        assert loss.requires_grad
        assert inputs[-1]() is None


def test_an_example_without_a_gradient_has_zeros_in_every_batch():
    class Masked(Tokens):
        """The loss of a text that begins with a `0` is a constant."""

        def loss(self, module, ids):
            return super().loss(module, ids) * (ids[:, 1] != ord("0"))

    network = Small()
    adapter = Masked(network)
    examples = [*EXAMPLES, Example(b"0 is not learnt")]
    following = check(network, adapter, examples).following
    for some, batch_size in ((examples, 4), (examples, 1), (examples[-1:], 1)):
        options = {"projection": PROJECTION, "checkpoint": "c", "batch_size": batch_size, "following": following}
        rows = gradient_features(adapter, network, some, **options)
        assert without_gradient(rows) == 1


def test_batches_fit_the_memory_and_change_only_rounding():
    network = Small()
    following = check(network).following
    sizes = dict(following.sizes)
    assert sizes[24] > 5 * sizes[1] > 0, "a longer example needs more"
    many = [Example(b"x" * (1 + n % 24)) for n in range(60)]
    for memory in (sizes[24] // 2, 3 * sizes[24], 10**9):
        batches = list(batched(many, following, 32, memory))
        assert sorted(number for batch in batches for number in batch) == list(range(60))
        longest = [max(many[number].size for number in batch) for batch in batches]
        assert all(
            len(b) == 1 or len(b) * sizes[24] * length / 24 < 1.5 * memory for b, length in zip(batches, longest, strict=True)
        )
        assert max(map(len, batches)) <= 32
        assert (len(batches) == 2) == (memory == 10**9)
    options = {"projection": PROJECTION, "checkpoint": "c", "batch_size": 32, "following": following}
    few, all_ = (gradient_features(Tokens(network), network, many, **options, memory=m) for m in (2 * sizes[24], None))
    assert np.allclose(few.dense, all_.dense, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("xp", [array_api_strict, array_api_compat.torch])
@pytest.mark.parametrize("name", ["experts", "elementwise"])
def test_checks_use_only_the_array_standard(name, xp):
    network = NETWORKS[name]()
    plain, other = check(network), check(network, xp=xp)
    assert other.following == plain.following
    deviations = [report.summary().pop("largest_deviation") for report in (plain, other)]
    assert deviations == pytest.approx([deviations[0]] * 2, abs=1e-6)
    assert [layer.verdict for layer in other.layers] == [layer.verdict for layer in plain.layers]


def test_weights_in_bfloat16_are_followed_in_float32():
    network = Small()
    report = check(network.bfloat16())
    assert (report.dtype, report.tolerance) == ("bfloat16", 0.02)
    assert 1e-5 < report.summary()["largest_deviation"] < 0.01
    rows = gradient_features(Tokens(network), network, EXAMPLES, projection=PROJECTION, checkpoint="c", batch_size=2)
    assert rows.dense.dtype == rows.sparse.values.dtype == np.float32


def test_where_the_memory_of_a_gpu_was_measured_batches_fill_it_while_little_is_padding(monkeypatch):
    network, asked = Small(), []

    def peak(device, run):
        asked.append(run())
        return 3 * check_sizes[-1][1]

    check_sizes = check(network).following.sizes
    monkeypatch.setattr(room, "free_bytes", lambda device: 10**6)
    monkeypatch.setattr(room, "peak_bytes", peak)
    device = SimpleNamespace(type="cuda")
    found = room.measure_room(device, check_sizes[-1][1], lambda: "a pass")
    assert asked == ["a pass"]
    assert found == int(room.FILLED * 10**6 / 3)
    monkeypatch.setattr(room, "peak_bytes", lambda device, run: 0)
    assert room.measure_room(device, 100, list) == int(room.FILLED * 10**6 / room.TRANSIENT), "nobody counts"
    assert check(network).following.room == 0, "a CPU is not measured"

    plain = replace(check(network).following, sizes=((10, 100), (20, 200)))
    measured = replace(plain, room=2000)
    same = [Example(b"x" * 10)] * 30
    assert [len(batch) for batch in batched(same, plain, 4, 10**6)] == [4] * 7 + [2]
    assert [len(batch) for batch in batched(same, measured, 4, 10**6)] == [20, 10], "as many as fit"
    assert [len(batch) for batch in batched(same, measured, 4, 500)] == [5] * 6, "the setting is a bound"
    assert [len(batch) for batch in batched(same, measured, 4, None, peak=2)] == [10] * 3
    mixed = [Example(b"x" * size) for size in (10, 10, 10, 10, 10, 10, 20, 20)]
    assert [len(batch) for batch in batched(mixed, measured, 4)] == [6, 2], "no short ones beside long ones"
    alone = replace(measured, arrangement=Arrangement(ONE_BY_ONE))
    assert [len(batch) for batch in batched(same[:3], alone, 4)] == [1] * 3


def test_full_memory_is_no_reason_to_try_examples_one_by_one():
    class Full(Tokens):
        def loss(self, module, ids):
            if len(ids) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().loss(module, ids)

    network = Small()
    options = {"projection": PROJECTION, "checkpoint": "c", "batch_size": 4, "following": check(network).following}
    with pytest.raises(torch.OutOfMemoryError):
        gradient_features(Full(network), network, EXAMPLES, **options)
    with pytest.raises(torch.OutOfMemoryError):
        list(sampled_features(Full(network), network, EXAMPLES, draws=1, **options))
