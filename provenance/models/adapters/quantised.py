"""Linear layers whose frozen weights are kept in 8 bits, with one scale for each row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

LARGEST = 127
_SHAPES_ALONE: ContextVar[bool] = ContextVar("_SHAPES_ALONE", default=False)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """In the block, `weight` of quantised layers has shape, type and device alone, for those who ask for no more."""
    token = _SHAPES_ALONE.set(True)
    try:
        yield
    finally:
        _SHAPES_ALONE.reset(token)


class Int8Linear(torch.nn.Linear):
    """A frozen linear layer of int8 weights `(outputs, inputs)` and scales `(outputs, 1)`; `weight` is computed at each use.

    Each weight is rounded to a multiple of its row's largest, divided by 127.
    """

    qweight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: torch.nn.Linear, dtype: torch.dtype) -> None:
        torch.nn.Module.__init__(self)  # torch.nn.Linear's own would make a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype = dtype
        weight = layer.weight.detach().to(torch.float32, copy=True)
        scale = torch.linalg.vector_norm(weight, ord=torch.inf, dim=1, keepdim=True) / LARGEST
        scale.clamp_(min=torch.finfo(torch.float32).tiny)
        # No part of checkpoints, which hold trained tensors alone. peft asks layers for `qweight` before it asks for `weight`.
        self.register_buffer("qweight", weight.div_(scale).round_().to(torch.int8), persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.bias = layer.bias

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weights that the layer multiplies by, `(outputs, inputs)`."""
        if _SHAPES_ALONE.get():
            return self.scale.new_zeros(1, dtype=self.dtype).expand(self.out_features, self.in_features)
        return weights(self.qweight, self.scale, self.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's outputs, in the dtype of x."""
        y: torch.Tensor = _Product.apply(x, self.qweight, self.scale)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias


class _Product(torch.autograd.Function):
    """`x @ weight.T`, which keeps the int8 weights for the backward pass; autograd would keep the wide ones of every layer."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rounded: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rounded, scale)
        return x @ weights(rounded, scale, x.dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,), (rounded, scale) = gradients, ctx.saved_tensors
        return gradient @ weights(rounded, scale, gradient.dtype), None, None


def weights(rounded: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights of a layer in a floating-point type."""
    return rounded.to(dtype) * scale.to(dtype)


def quantise(module: torch.nn.Module, dtype: torch.dtype, *, keep: torch.nn.Module | None) -> torch.nn.Module:
    """Put an `Int8Linear` in the place of every linear layer; returns the module.

    Args:
        dtype: of the pass; the other parameters are converted to it.
        keep: a layer not to put into 8 bits, such as the output head.
    """
    for name, layer in list(module.named_modules()):
        if type(layer) is torch.nn.Linear and layer is not keep:
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, Int8Linear(layer, dtype))
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    return module
