"""Lays out a model's layers as blocks of a feature row, and projects the two sides of a layer's gradient.

A weight's gradient is `sum_t x_t d_t'`. This module defines the positions t, the inputs x_t and the output gradients d_t for
each kind of layer, and projects the sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.dlpack import from_dlpack
from transformers.pytorch_utils import Conv1D

from provenance.core.arrays import Array, from_torch, namespace
from provenance.core.errors import ModelError
from provenance.features.projection import Block, Projection

LARGEST_RANK = 64
KINDS = "Linear, Conv1d, Conv2d, Embedding or transformers' Conv1D"


@dataclass(frozen=True)
class Layout:
    """The layers of a model as blocks of a feature row, and the part of its parameters that they cover.

    Attributes:
        left_out: sizes of the parameters without a gradient feature (biases, norms), by name.
    """

    blocks: tuple[Block, ...]
    left_out: dict[str, int]
    parameters: int

    @property
    def dense(self) -> list[Block]:
        """The inner layers."""
        return [block for block in self.blocks if block.kind == "dense"]

    @property
    def tokens(self) -> list[Block]:
        """The layers over the vocabulary."""
        return [block for block in self.blocks if block.kind != "dense"]

    @property
    def covered(self) -> float:
        """The part of all parameters that features cover."""
        return 1 - sum(self.left_out.values()) / self.parameters


def layout(module: torch.nn.Module, projection: Projection) -> Layout:
    """The layout of a model's layers.

    Raises:
        ModelError: a trainable weight of more than one axis is in a layer of an unsupported kind, or no layer is supported.
    """
    head, embeddings = _vocabulary_layers(module)
    sides: list[tuple[str, str, int, int, int]] = []
    covered: set[int] = set()
    for name, layer in module.named_modules():
        own = [(key, p) for key, p in layer.named_parameters(recurse=False) if p.requires_grad and p.dim() > 1]
        if not own:
            continue
        shape = _sides(layer)
        if shape is None:
            key, weight = own[0]
            raise ModelError(
                f"module {name!r} ({type(layer).__name__})" if name else f"module {type(layer).__name__}",
                expected=KINDS,
                found=f"a trainable weight {key!r} of shape {tuple(weight.shape)}",
                hint="Its gradient cannot be followed. Freeze it (requires_grad_(False)) or build it from the kinds named.",
            )
        kind = "output_tokens" if layer is head else "input_tokens" if layer in embeddings else "dense"
        sides.append((name, kind, *shape))
        covered |= {id(p) for _, p in own}
    if not sides:
        raise ModelError(f"module {type(module).__name__}", expected=f"at least one {KINDS}", found="none")
    parameters = dict(module.named_parameters())  # tied weights are listed once
    left_out = {name: p.numel() for name, p in parameters.items() if id(p) not in covered}
    numbers = projection.dense if any(kind != "dense" for _, kind, *_ in sides) else projection.dense_alone
    rank = _rank([side[2:] for side in sides if side[1] == "dense"], numbers)
    blocks = tuple(_block(*side, rank=rank, token_rank=projection.token_rank) for side in sides)
    return Layout(blocks, left_out, sum(p.numel() for p in parameters.values()))


def input_side(layer: torch.nn.Module, x: torch.Tensor, a: Array) -> Array:
    """Projected inputs by position, `(n, groups, t, rows)`.

    Args:
        x: the layer's input, batch first.
        a: `(inputs, rows)`; a square matrix is the identity (`projection.matrix`).
    """
    xp = namespace(a)
    if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d):
        patches = from_torch(_patches(layer, x, a), xp)
        return xp.matrix_transpose(xp.reshape(patches, (x.shape[0], layer.groups, a.shape[1], -1)))
    inputs = from_torch(x, xp)
    if isinstance(layer, torch.nn.Embedding):  # the projection of a unit vector is a row
        return xp.reshape(xp.take(a, xp.reshape(inputs, (-1,)), axis=0), (x.shape[0], 1, -1, a.shape[1]))
    return _projected(xp.reshape(inputs, (x.shape[0], 1, -1, x.shape[-1])), a)


def output_side(layer: torch.nn.Module, d: Array, b: Array) -> Array:
    """Projected output gradients by position, `(n, groups, t, columns)`; b is `(outputs, columns)`."""
    xp = namespace(b)
    if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d):
        by_group = xp.reshape(d, (d.shape[0], layer.groups, b.shape[0], -1))
        return xp.matrix_transpose(xp.matrix_transpose(b) @ by_group)
    return _projected(xp.reshape(d, (d.shape[0], 1, -1, d.shape[-1])), b)


def _projected(rows: Array, side: Array) -> Array:
    """`rows @ side` as one product; no product if the side is the identity."""
    xp = namespace(side)
    if side.shape[0] == side.shape[1]:
        return xp.astype(rows, side.dtype)
    return xp.reshape(xp.reshape(rows, (-1, side.shape[0])) @ side, (*rows.shape[:-1], side.shape[1]))


def _patches(layer: torch.nn.Conv1d | torch.nn.Conv2d, x: torch.Tensor, a: Array) -> torch.Tensor:
    """Projected patches of a convolution's input, computed as a convolution, so that no patch is formed."""
    matrix = from_dlpack(a).T.reshape(-1, layer.weight.shape[1], *layer.kernel_size).to(x)
    filters = matrix.repeat(layer.groups, *[1] * (matrix.dim() - 1))
    # The layer's own method handles every kind of padding.
    projected: torch.Tensor = layer._conv_forward(x, filters, None)  # noqa: SLF001
    return projected


def _block(name: str, kind: str, inputs: int, outputs: int, groups: int, *, rank: int, token_rank: int) -> Block:
    if kind == "input_tokens":
        return Block(name, kind, inputs, outputs, inputs, min(token_rank, outputs))
    if kind == "output_tokens":
        return Block(name, kind, inputs, outputs, min(token_rank, inputs), outputs)
    return Block(name, kind, inputs, outputs, min(rank, inputs), min(rank, outputs), groups)


def _rank(sides: list[tuple[int, int, int]], numbers: int) -> int:
    """The largest rank at which all inner layers together keep at most `numbers` numbers."""
    for rank in range(LARGEST_RANK, 1, -1):
        if sum(groups * min(rank, i) * min(rank, o) for i, o, groups in sides) <= numbers:
            return rank
    return 1


def _sides(layer: torch.nn.Module) -> tuple[int, int, int] | None:
    """Inputs, outputs and groups of a layer; None for an unsupported kind."""
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features, layer.out_features, 1
    if isinstance(layer, Conv1D):
        return layer.weight.shape[0], layer.weight.shape[1], 1
    if isinstance(layer, torch.nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim, 1
    if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d) and not layer.transposed:
        patch = layer.weight[0].numel()
        return patch, layer.out_channels // layer.groups, layer.groups
    return None


def _vocabulary_layers(module: torch.nn.Module) -> tuple[torch.nn.Module | None, set[torch.nn.Module]]:
    """The output head over a vocabulary, and the embeddings of that vocabulary.

    The head is the one that `transformers` names, or else the last Linear with as many outputs as an embedding has rows. Other
    embeddings (positions, times, classes) are inner layers.
    """
    embeddings = [m for m in module.modules() if isinstance(m, torch.nn.Embedding)]
    named_head = getattr(module, "get_output_embeddings", None)
    head = named_head() if callable(named_head) else None
    if head is None:
        sizes = {m.num_embeddings for m in embeddings}
        wide = [m for m in module.modules() if isinstance(m, torch.nn.Linear) and m.out_features in sizes]
        head = wide[-1] if wide else None
    if not isinstance(head, torch.nn.Linear):
        return None, set()
    return head, {m for m in embeddings if m.num_embeddings == head.out_features}
