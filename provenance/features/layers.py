"""Lays out a model's weights as blocks of a feature row, and projects the two sides of a weight's gradient.

A weight's gradient is `sum_t x_t d_t'`. This module defines the positions t, the inputs x_t and the output gradients d_t for
each kind of operation, and projects the sides. It does the same to a gradient that is known as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack
from transformers.pytorch_utils import Conv1D

from provenance.core.arrays import Array, device_of, from_torch, namespace
from provenance.core.errors import ModelError
from provenance.features.operations import (
    CONVOLUTION,
    EXPERTS,
    EXPERTS_INPUT_FIRST,
    INPUT_FIRST,
    LINEAR,
    LOOKUP,
    OTHER,
    TRANSPOSED,
    Call,
)
from provenance.features.projection import AUTOGRAD, Block, Projection
from provenance.features.report import Layout

LARGEST_RANK = 64
# More matrices than these in one weight (depthwise convolutions, experts) share one projection of their outputs.
MOST_GROUPS = 8
# Biases and norms are followed only where they are more than this part of what is trained.
SMALL_PART = 0.5
# The largest weight whose whole gradient is computed for each example: 256 MB in float32.
LARGEST_WHOLE = 2**26
CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
OUTPUTS_FIRST = {LINEAR, EXPERTS, CONVOLUTION}


@dataclass(frozen=True)
class _Weight:
    """A trainable parameter, with each layer that has it and its name there."""

    name: str
    parameter: torch.nn.Parameter
    layers: list[tuple[str, torch.nn.Module, str]]

    @property
    def usual(self) -> frozenset[str]:
        """The forms of use that its layers have."""
        return frozenset(_usual(layer, key) for _, layer, key in self.layers)

    @property
    def small(self) -> bool:
        """Whether it is a bias or a norm."""
        _, layer, key = self.layers[0]
        norm = "norm" in type(layer).__name__.lower() or "norm" in key.lower()
        return self.parameter.dim() <= 1 and (key.endswith("bias") or norm)


def layout(
    module: torch.nn.Module,
    projection: Projection,
    uses: Mapping[str, frozenset[str]] | None = None,
    *,
    whole: frozenset[str] = frozenset(),
    without: frozenset[str] = frozenset(),
) -> Layout:
    """The layout of a model's trainable weights.

    Args:
        uses: the forms of all uses of a weight, by its name (`following.uses_of`); without one its layer says.
        whole: weights to follow by autograd, whatever their uses.
        without: weights to leave out.

    Raises:
        ModelError: nothing is trainable, or a weight can be followed by autograd alone and is too large for it.
    """
    weights, uses = _weights(module), uses or {}
    total = sum(weight.parameter.numel() for weight in weights)
    follow_small = sum(weight.parameter.numel() for weight in weights if weight.small) > SMALL_PART * total
    head, tables = _vocabulary(module, weights, uses)
    places = {name: place for place, (name, _) in enumerate(module.named_modules())}
    found: list[tuple[int, Block]] = []
    left_out = {}
    for weight in weights:
        if weight.name in without or (weight.small and not follow_small):
            left_out[weight.name] = weight.parameter.numel()
            continue
        forms = frozenset([OTHER]) if weight.name in whole else uses.get(weight.name) or weight.usual
        found += [(places[owner], block) for owner, block in _blocks(weight, forms, head, tables)]
    if not found:
        raise ModelError(f"module {type(module).__name__}", expected="at least one weight to follow", found="none")
    blocks = [block for _, block in sorted(found, key=lambda pair: pair[0])]
    numbers = projection.dense if any(block.kind != "dense" for block in blocks) else projection.dense_alone
    rank = _rank([block for block in blocks if block.kind == "dense"], numbers, projection)
    return Layout(tuple(_sized(block, rank, projection.token_rank) for block in blocks), left_out, total)


def too_large(module: torch.nn.Module, uses: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Names of weights that only autograd can follow, and that are too large for it."""
    weights = _weights(module)
    head, tables = _vocabulary(module, weights, uses)
    found = set()
    for weight in weights:
        try:
            _blocks(weight, uses.get(weight.name) or weight.usual, head, tables)
        except ModelError:
            found.add(weight.name)
    return frozenset(found)


def _weights(module: torch.nn.Module) -> list[_Weight]:
    """The trainable parameters, in the order of the layers; one that several layers share is one."""
    weights: dict[int, _Weight] = {}
    for name, layer in module.named_modules():
        for key, parameter in layer.named_parameters(recurse=False):
            if parameter.requires_grad:
                whole = f"{name}.{key}" if name else key
                weights.setdefault(id(parameter), _Weight(whole, parameter, [])).layers.append((name, layer, key))
    return list(weights.values())


def _usual(layer: torch.nn.Module, key: str) -> str:
    """The form in which a layer of a known kind uses its weight."""
    if key == "weight":
        for form, kinds in (
            (LINEAR, torch.nn.Linear),
            (INPUT_FIRST, Conv1D),
            (LOOKUP, torch.nn.Embedding),
            (CONVOLUTION, CONVOLUTIONS),
            (TRANSPOSED, TRANSPOSED_CONVOLUTIONS),
        ):
            if isinstance(layer, kinds):
                return form
    return OTHER


def _vocabulary(
    module: torch.nn.Module, weights: list[_Weight], uses: Mapping[str, frozenset[str]]
) -> tuple[tuple[str, str, str] | None, set[str]]:
    """The output head over a vocabulary, and the names of the embeddings of that vocabulary.

    The head is the layer that `transformers` names, or else the last Linear, after all convolutions, with as many outputs as an
    embedding has rows, or else an embedding whose weight is also multiplied. Other embeddings (positions, times, classes) are
    inner layers.

    Returns:
        of the head: the weight's name, the layer's name, and the name of the block; and the embeddings' weights.
    """
    rows = {w.name: w.parameter.shape[0] for w in weights if LOOKUP in w.usual}
    tables = {layer.num_embeddings for layer in module.modules() if isinstance(layer, torch.nn.Embedding)}
    linear = [(w, *layer) for w in weights for layer in w.layers if _usual(*layer[1:]) == LINEAR]
    named = getattr(module, "get_output_embeddings", None)
    named = named() if callable(named) else None
    heads = [
        (w.name, name, name) for w, name, layer, _ in linear if (layer is named if named else layer.out_features in tables)
    ]
    if named is None:  # what is used before a convolution does not give the output, as in a UNet with classes
        by_use = {name: place for place, name in enumerate(uses or (w.name for w in weights))}
        last = max((by_use.get(w.name, -1) for w in weights if CONVOLUTION in w.usual), default=-1)
        heads = [found for found in heads if found[0] in rows or by_use.get(found[0], math.inf) > last]
    if not heads and named is None:
        heads = [
            (w.name, w.layers[0][0], f"{w.name} as head")
            for w in weights
            if w.name in rows and uses.get(w.name, w.usual) == {LOOKUP, LINEAR}
        ]
    if not heads:
        return None, set()
    order = [name for name, _ in module.named_modules()]
    head = max(heads, key=lambda found: order.index(found[1]))
    size = next(w.parameter.shape[0] for w in weights if w.name == head[0])
    return head, {name for name, count in rows.items() if count == size}


def _blocks(
    weight: _Weight, forms: frozenset[str], head: tuple[str, str, str] | None, tables: set[str]
) -> list[tuple[str, Block]]:
    """A weight's blocks, not yet sized, each with the layer that has its place.

    Raises:
        ModelError: it is too large to be followed by autograd.
    """
    name, parameter, (owner, layer, key) = weight.name, weight.parameter, weight.layers[0]
    own = owner if key == "weight" else name
    is_head = head is not None and name == head[0]
    if is_head and forms <= {LINEAR, LOOKUP}:
        found = []
        if LOOKUP in forms:
            owner, layer, _ = next(
                (place for place in weight.layers if isinstance(place[1], torch.nn.Embedding)), weight.layers[0]
            )
            found.append((owner, _block(owner, weight, layer, LOOKUP, "input_tokens")))
        if LINEAR in forms and head is not None:
            found.append((head[1], _block(head[2], weight, layer, LINEAR, "output_tokens")))
        return found
    if forms == {LOOKUP} and name in tables:
        return [(owner, _block(own, weight, layer, LOOKUP, "input_tokens"))]
    (form,) = forms if len(forms) == 1 else (OTHER,)
    if form == TRANSPOSED and getattr(layer, "groups", 1) > MOST_GROUPS:
        form = OTHER
    if form in (CONVOLUTION, TRANSPOSED) and _usual(layer, key) != form:  # its groups are not known
        form = OTHER
    if form == OTHER and parameter.numel() > LARGEST_WHOLE:
        raise ModelError(
            f"weight {name!r} of {type(layer).__name__}, {parameter.numel():,} numbers",
            expected=f"use by a linear layer, an embedding or a convolution, or at most {LARGEST_WHOLE:,} numbers",
            found="another use",
            hint="Its gradient is too large to be computed for each example. Freeze it (requires_grad_(False)).",
        )
    return [(owner, _block(own, weight, layer, form, "dense"))]


def _block(name: str, weight: _Weight, layer: torch.nn.Module, form: str, kind: str) -> Block:
    """A block whose sides are not projected yet."""
    shape, by = weight.parameter.shape, "operation"
    if form == OTHER:
        by = AUTOGRAD
        form = EXPERTS if len(shape) == 3 and not isinstance(layer, CONVOLUTIONS) else LINEAR
    groups = shape[0] if form in (EXPERTS, EXPERTS_INPUT_FIRST) else 1
    if form in (CONVOLUTION, TRANSPOSED):
        groups = int(layer.groups)  # type: ignore[arg-type]
    if form == LINEAR:
        outputs, inputs = shape[0] if shape else 1, math.prod(shape[1:])
    elif form in (INPUT_FIRST, LOOKUP):
        inputs, outputs = shape
    elif form == EXPERTS:
        _, outputs, inputs = shape
    elif form == EXPERTS_INPUT_FIRST:
        _, inputs, outputs = shape
    elif form == CONVOLUTION:
        outputs, inputs = shape[0] // groups, math.prod(shape[1:])
    else:
        inputs, outputs = shape[0] // groups, math.prod(shape[1:])
    apart = groups <= MOST_GROUPS
    sides = {"groups": groups if apart else 1, "joined": 1 if apart else groups}
    return Block(name, kind, inputs, outputs, 0, 0, **sides, weight=weight.name, form=form, by=by)


def _sized(block: Block, rank: int, token_rank: int) -> Block:
    if block.kind == "input_tokens":
        return replace(block, rows=block.inputs, columns=min(token_rank, block.outputs))
    if block.kind == "output_tokens":
        return replace(block, rows=min(token_rank, block.inputs), columns=block.outputs)
    return replace(block, rows=min(rank, block.inputs), columns=min(rank, block.joined * block.outputs))


def _rank(blocks: list[Block], numbers: int, projection: Projection) -> int:
    """The largest rank at which all inner layers together keep at most `numbers` numbers.

    If that is less than the least rank, it is the largest up to the least rank at which they keep at most `dense_most`.
    """

    def size(rank: int) -> int:
        return sum(_sized(block, rank, 0).size for block in blocks)

    rank = next((rank for rank in range(LARGEST_RANK, 1, -1) if size(rank) <= numbers), 1)
    if rank >= projection.least_rank:
        return rank
    most = max(numbers, projection.dense_most)
    return next((larger for larger in range(projection.least_rank, rank, -1) if size(larger) <= most), rank)


def matrices_of(block: Block, gradient: Array) -> Array:
    """A weight's whole gradient as its block's matrices, `(matrices, inputs, outputs)`."""
    xp, count = namespace(gradient), block.groups * block.joined
    if block.form in OUTPUTS_FIRST:
        return xp.matrix_transpose(xp.reshape(gradient, (count, block.outputs, block.inputs)))
    return xp.reshape(gradient, (count, block.inputs, block.outputs))


def project_whole(block: Block, gradient: Array, a: Array, b: Array) -> Array:
    """A weight's whole gradient, projected: `(1, size)` for an inner layer, with the matrices of `projection.matrices`."""
    xp = namespace(a)
    left = xp.matrix_transpose(a) @ xp.astype(matrices_of(block, gradient), a.dtype)
    return xp.reshape(_join(left, block, b), (1, -1))


def _join(left: Array, block: Block, b: Array) -> Array:
    """`(..., matrices, rows, outputs)` times b: `(..., groups, rows, columns)`."""
    xp = namespace(b)
    if block.joined == 1:
        return left @ b
    before = tuple(range(left.ndim - 3))
    together = xp.permute_dims(left, (*before, left.ndim - 2, left.ndim - 3, left.ndim - 1))
    return xp.reshape(together, (*together.shape[:-3], 1, block.rows, -1)) @ b


@dataclass(frozen=True)
class Use:
    """One use of an inner layer's weight: its inputs, projected, until its output's gradient comes.

    Attributes:
        options: of the call; the call itself would keep its input.
        index: of the weight, where it is one matrix of several.
        left: by row of the operation, matrix and position, `(k, matrices, t, rows)`.
        size: sizes of the input beyond the channels, for a transposed convolution.
    """

    block: Block
    options: Mapping[str, Any]
    index: int | None
    left: Array
    size: tuple[int, ...] = ()

    def gradient(self, d: torch.Tensor, b: Array) -> Array:
        """The projected gradient by row, `(k, size)`.

        Args:
            d: gradient of the operation's output.
            b: `(outputs, columns)`.
        """
        block, xp = self.block, namespace(b)
        if block.form in (EXPERTS, EXPERTS_INPUT_FIRST):
            return self._of_experts(xp.astype(from_torch(d, xp), b.dtype), b)
        if block.form == TRANSPOSED:
            patches = from_torch(_patches(self.options, d, b, block), xp)
            patches = patches[(..., *(slice(size) for size in self.size))]
            right = xp.matrix_transpose(xp.reshape(patches, (d.shape[0], block.groups, block.columns, -1)))
            value = xp.matrix_transpose(self.left) @ right
            return xp.reshape(value, (value.shape[0], -1))
        outputs, count = from_torch(d, xp), block.groups * block.joined
        if block.form == CONVOLUTION:
            outputs = xp.matrix_transpose(xp.reshape(outputs, (d.shape[0], count, block.outputs, -1)))
        else:
            outputs = xp.reshape(outputs, (self.left.shape[0], 1, -1, block.outputs))
        if block.joined > 1:
            value = _join(xp.matrix_transpose(self.left) @ xp.astype(outputs, b.dtype), block, b)
        else:
            value = xp.matrix_transpose(self.left) @ _projected(outputs, b)
        return xp.reshape(value, (value.shape[0], -1))

    def _of_experts(self, d: Array, b: Array) -> Array:
        """All rows belong to one example: `(1, size)`."""
        block, xp, left = self.block, namespace(b), self.left[0, 0, ...]
        total = xp.zeros((block.groups, block.rows, block.columns), dtype=b.dtype, device=device_of(b))
        d = xp.reshape(d, (-1, d.shape[-1]))
        index = self.index
        ends = [left.shape[0]] if index is not None else self.options["offsets"].tolist()
        start = 0
        for place, end in enumerate(ends):
            expert = place if index is None else index
            part = xp.matrix_transpose(left[start:end, :]) @ d[start:end, :]
            if block.joined == 1:
                total[expert, ...] += part @ b
            else:
                total[0, ...] += part @ b[expert * block.outputs : (expert + 1) * block.outputs, :]
            start = end
        return xp.reshape(total, (1, -1))


def use_of(block: Block, call: Call, x: torch.Tensor, a: Array, examples: int) -> Use:
    """A use of an inner layer's weight.

    Args:
        x: the operation's input.
        a: `(inputs, rows)`; a square matrix is the identity (`projection.matrix`).
        examples: examples of the batch.
    """
    if block.form == TRANSPOSED:
        xp = namespace(a)
        inputs = xp.reshape(from_torch(x, xp), (x.shape[0], block.groups, block.inputs, -1))
        left = _projected(xp.matrix_transpose(inputs), a)
        return Use(block, call.options, call.weight.index, left, tuple(x.shape[2:]))
    return Use(block, call.options, call.weight.index, input_side(block, call, x, a, examples))


def input_side(block: Block, call: Call, x: torch.Tensor, a: Array, examples: int) -> Array:
    """Projected inputs by row of the operation, matrix and position: `(k, matrices, t, rows)`."""
    xp = namespace(a)
    if block.form == CONVOLUTION:
        patches = from_torch(_patches(call.options, x, a, block), xp)
        shape = (x.shape[0], block.groups * block.joined, a.shape[1], -1)
        return xp.matrix_transpose(xp.reshape(patches, shape))
    inputs = from_torch(x, xp)
    if block.form == LOOKUP:  # the projection of a unit vector is a row
        return xp.reshape(xp.take(a, xp.reshape(inputs, (-1,)), axis=0), (x.shape[0], 1, -1, a.shape[1]))
    rows = 1 if block.form in (EXPERTS, EXPERTS_INPUT_FIRST) else x.shape[0]
    if call.function is torch.addmm and rows % examples == 0:  # transformers' Conv1D puts positions one below the other
        rows = examples
    return _projected(xp.reshape(inputs, (rows, 1, -1, x.shape[-1])), a)


def token_outputs(d: torch.Tensor, b: Array) -> Array:
    """Projected output gradients of an embedding by row and position, `(k, t, columns)`; b is `(outputs, columns)`."""
    xp = namespace(b)
    return _projected(xp.reshape(from_torch(d, xp), (d.shape[0], -1, d.shape[-1])), b)


def _projected(rows: Array, side: Array) -> Array:
    """`rows @ side` as one product; no product if the side is the identity."""
    xp = namespace(side)
    if side.shape[0] == side.shape[1]:
        return xp.astype(rows, side.dtype)
    flat = xp.astype(xp.reshape(rows, (-1, side.shape[0])), side.dtype, copy=False)
    return xp.reshape(flat @ side, (*rows.shape[:-1], side.shape[1]))


def _patches(options: Mapping[str, Any], x: torch.Tensor, side: Array, block: Block) -> torch.Tensor:
    """Projected patches of a convolution's input, computed as a convolution, so that no patch is formed."""
    others, groups = dict(options), block.groups * block.joined
    kernel = others.pop("kernel")
    x = x.detach()
    x = x.float() if x.element_size() < 4 else x
    matrix = from_dlpack(side).T.reshape(side.shape[1], -1, *kernel).to(x)
    filters = matrix.repeat(groups, *[1] * (matrix.dim() - 1))
    convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[len(kernel) - 1]
    return convolve(x, filters, None, **others)
