"""Per-example gradients from one forward and one backward pass per batch.

Weights are frozen and only the embedding's output requires a gradient, so autograd computes activation gradients alone.
Hooks see each layer's inputs and output gradients, and project them at once.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from provenance.core.arrays import from_torch, namespace, namespace_of
from provenance.core.errors import ModelError
from provenance.features.model import example_losses
from provenance.features.projection import Block, Projection, matrix, project_embedding, project_linear

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from provenance.core.arrays import Array
    from provenance.features.model import Adapter


@dataclass(frozen=True)
class Layout:
    """The blocks of a feature row, in order, and the part of the model's parameters that they cover."""

    blocks: tuple[Block, ...]
    covered: float

    @property
    def size(self) -> int:
        """Numbers in a feature row."""
        return sum(block.size for block in self.blocks)


def layout(module: torch.nn.Module, projection: Projection) -> Layout:
    """Which layers give which numbers.

    Biases and norms are left out and show in `covered`.

    Raises:
        ModelError: a module holds a weight matrix of a kind that has no projection, or none at all is found.
    """
    blocks, covered = [], 0
    head = _head(module)
    counted: set[int] = set()
    for name, layer in module.named_modules():
        own = [(key, p) for key, p in layer.named_parameters(recurse=False) if p.dim() > 1]
        if not own:
            continue
        sides = _sides(layer)
        if sides is None:
            key, weight = own[0]
            raise ModelError(
                f"module {name!r} ({type(layer).__name__})",
                expected="Linear, Conv1D or Embedding",
                found=f"a weight {key!r} of shape {tuple(weight.shape)}",
            )
        inputs, outputs = sides
        if isinstance(layer, torch.nn.Embedding):
            block = Block(name, "embedding", inputs, outputs, inputs, min(projection.token_rank, outputs))
        elif layer is head:
            block = Block(name, "head", inputs, outputs, min(projection.token_rank, inputs), outputs)
        else:
            rank = projection.rank
            block = Block(name, "linear", inputs, outputs, min(rank, inputs), min(rank, outputs))
        blocks.append(block)
        covered += sum(p.numel() for _, p in own if id(p) not in counted)
        counted |= {id(p) for _, p in own}  # tied weights are one set of parameters
    if not blocks:
        raise ModelError(f"module {type(module).__name__}", expected="at least one Linear or Embedding", found="none")
    return Layout(tuple(blocks), covered / sum(p.numel() for p in module.parameters()))


def gradient_features(
    adapter: Adapter,
    module: torch.nn.Module,
    contents: Sequence[bytes],
    *,
    projection: Projection,
    checkpoint: str,
    batch_size: int,
) -> Array:
    """Projected per-example gradients of the loss at one checkpoint.

    Args:
        module: the checkpoint's weights, on the device to compute on.
        checkpoint: names the checkpoint in the seeds of its projections.
        batch_size: examples per pass; changes no result beyond rounding.

    Returns:
        `(n, p)` float32, NumPy on a CPU and CuPy on a GPU, with `p` the layout's size.

    Raises:
        ModelError: a wrong or non-finite loss, a layer that no gradient reached, or a feature that is not finite.
    """
    shape = layout(module, projection)
    device = next(module.parameters()).device
    xp = namespace_of(device.type)
    matrices = {block.name: _matrices(block, projection, checkpoint, xp) for block in shape.blocks}
    features = xp.zeros((len(contents), shape.size), dtype=xp.float32)
    # Batches of like lengths waste no work on padding.
    order = sorted(range(len(contents)), key=lambda row: len(contents[row]))
    with _hooked(module, shape, matrices) as tap:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            tap.examples = len(rows)
            losses = example_losses(adapter, module, [contents[row] for row in rows])
            losses.sum().backward()
            features[xp.asarray(rows)] = tap.collect()
    if not bool(xp.isfinite(features).all()):
        raise ModelError(f"checkpoint {checkpoint}", expected="finite gradient features", found="NaN or infinite ones")
    if len(contents) and not bool(xp.any(features != 0)):
        raise ModelError(f"checkpoint {checkpoint}", expected="gradient features", found="only zeros")
    return features


@dataclass
class _Tap:
    """Blocks of the batch in flight, by layer."""

    shape: Layout
    matrices: dict[str, tuple[Array, Array]]
    blocks: dict[str, Array] = field(default_factory=dict)
    examples: int = 0

    def add(self, block: Block, x: torch.Tensor, d: torch.Tensor) -> None:
        """Project what a layer saw; a layer used twice adds up, as its gradient does."""
        a, b = self.matrices[block.name]
        if block.kind == "embedding":
            value = project_embedding(from_torch(x), from_torch(d), b, block.inputs)
        else:
            value = project_linear(_sequence(from_torch(x)), _sequence(from_torch(d)), a, b)
        self.blocks[block.name] = self.blocks[block.name] + value if block.name in self.blocks else value

    def collect(self) -> Array:
        """The batch's feature rows; the tap is empty afterwards."""
        for block in self.shape.blocks:
            if block.name not in self.blocks:
                raise ModelError(f"module {block.name!r}", expected="a gradient", found="none: the loss does not depend on it")
        rows = [self.blocks[block.name] for block in self.shape.blocks]
        self.blocks.clear()
        xp = namespace(rows[0])
        return xp.concat(rows, axis=1)


@contextmanager
def _hooked(module: torch.nn.Module, shape: Layout, matrices: dict[str, tuple[Array, Array]]) -> Iterator[_Tap]:
    tap = _Tap(shape, matrices)
    layers = dict(module.named_modules())
    frozen = [p for p in module.parameters() if p.requires_grad]
    module.requires_grad_(False)
    handles = [layers[block.name].register_forward_hook(_watch(tap, block)) for block in shape.blocks]
    try:
        yield tap
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)


def _watch(tap: _Tap, block: Block) -> Any:
    def forward(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        x, seen = inputs[0].detach(), output
        if not output.requires_grad:  # the first layer that sees data: gradients are followed from here on
            seen = output.requires_grad_(True)
        if output.shape[0] == 1 < tap.examples:  # positions, say, looked up once for all examples: one gradient each
            seen = seen.expand(tap.examples, *output.shape[1:])
            x = x.expand(tap.examples, *x.shape[1:])
        seen.register_hook(lambda d: tap.add(block, x, d))
        return seen

    return forward


def _head(module: torch.nn.Module) -> torch.nn.Module | None:
    """The layer whose outputs are a vocabulary: what `transformers` says, else the last Linear as wide as the largest one."""
    ask = getattr(module, "get_output_embeddings", None)
    if callable(ask):
        found = ask()
        return found if isinstance(found, torch.nn.Module) else None
    vocabulary = max((m.num_embeddings for m in module.modules() if isinstance(m, torch.nn.Embedding)), default=0)
    wide = [m for m in module.modules() if isinstance(m, torch.nn.Linear) and m.out_features == vocabulary]
    return wide[-1] if wide else None


def _sides(layer: torch.nn.Module) -> tuple[int, int] | None:
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, torch.nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    if isinstance(layer, Conv1D):
        return layer.weight.shape[0], layer.weight.shape[1]
    return None


def _matrices(block: Block, projection: Projection, checkpoint: str, xp: Any) -> tuple[Array, Array]:
    key = (projection.seed, checkpoint, block.name)
    a = None if block.kind == "embedding" else xp.asarray(matrix(block.inputs, block.rows, *key, "in"))
    b = None if block.kind == "head" else xp.asarray(matrix(block.outputs, block.columns, *key, "out"))
    return a, b


def _sequence(values: Array) -> Array:
    """`(n, ..., size)` as `(n, t, size)`: a layer without a token axis has one token."""
    xp = namespace(values)
    return xp.reshape(values, (values.shape[0], -1, values.shape[-1]))
