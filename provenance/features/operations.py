"""Recognises the operations by which a model uses its weights, whatever module or function calls them.

A gradient is followed where a weight is used, not where it is kept: a head that is applied by `F.linear(x, wte.weight)`, an
embedding whose module scales its output, and a plain layer all end in one of these operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn import functional

# How the axes of a weight lie: outputs first, inputs first (transformers' Conv1D), a table of rows, a convolution, a transposed
# convolution, and matrices of experts along the first axis, with outputs or inputs first.
LINEAR, INPUT_FIRST, LOOKUP, CONVOLUTION, TRANSPOSED, EXPERTS, EXPERTS_INPUT_FIRST = (
    "linear",
    "input first",
    "lookup",
    "convolution",
    "transposed convolution",
    "experts",
    "experts, input first",
)
# A use of another kind, which only autograd can follow.
OTHER = "other"


@dataclass(frozen=True)
class Weight:
    """A parameter, or a view of it, as an operation receives it.

    Attributes:
        transposed: whether its last two axes are exchanged.
        index: place on the first axis, for one matrix of several.
    """

    name: str
    axes: int
    transposed: bool = False
    index: int | None = None

    @property
    def matrix_axes(self) -> int:
        """The axes of the view."""
        return self.axes - (self.index is not None)


@dataclass(frozen=True)
class Call:
    """One use of a weight.

    Attributes:
        x: the operation's other factor: inputs, or ids.
        options: the other arguments that decide the result, without the bias.
    """

    weight: Weight
    form: str
    x: torch.Tensor
    function: Any
    options: dict[str, Any] = field(default_factory=dict)


def _linear(input: torch.Tensor, weight: Any, bias: Any = None) -> tuple[Any, ...]:  # noqa: ARG001 (torch's names)
    return weight, input, {}


def _addmm(input: Any, mat1: torch.Tensor, mat2: Any, *, beta: float = 1, alpha: float = 1) -> tuple[Any, ...]:  # noqa: ARG001
    return (mat2 if alpha == 1 else None), mat1, {}


def _matmul(input: torch.Tensor, other: Any) -> tuple[Any, ...]:
    return other, input, {}


def _mm(input: torch.Tensor, mat2: Any) -> tuple[Any, ...]:
    return mat2, input, {}


def _embedding(  # noqa: PLR0917 (torch's arguments)
    input: torch.Tensor,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,  # noqa: ARG001
    scale_grad_by_freq: bool = False,
    sparse: bool = False,  # noqa: ARG001
) -> tuple[Any, ...]:
    known = max_norm is None and not scale_grad_by_freq
    return (weight if known else None), input, {"padding_idx": padding_idx}


def _table(
    weight: Any,
    indices: torch.Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,  # noqa: ARG001
) -> tuple[Any, ...]:
    known = not scale_grad_by_freq
    return (weight if known else None), indices, {"padding_idx": padding_idx if padding_idx >= 0 else None}


def _convolution(  # noqa: PLR0917
    input: torch.Tensor,
    weight: Any,
    bias: Any = None,  # noqa: ARG001
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...]:
    return (
        weight,
        input,
        {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "kernel": weight.shape[2:]},
    )


def _transposed(  # noqa: PLR0917
    input: torch.Tensor,
    weight: Any,
    bias: Any = None,  # noqa: ARG001
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,  # noqa: ARG001 (it only adds outputs)
    groups: int = 1,
    dilation: Any = 1,
) -> tuple[Any, ...]:
    return (
        weight,
        input,
        {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "kernel": weight.shape[2:]},
    )


def _grouped(mat_a: torch.Tensor, mat_b: Any, *, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> tuple[Any, ...]:
    known = offs is not None and bias is None and out_dtype is None
    return (mat_b if known else None), mat_a, {"offsets": offs}


Binder = Callable[..., tuple[Any, ...]]
# The arguments of each operation, and the form of a weight that is no view.
OPERATIONS: dict[Any, tuple[Binder, str]] = {
    functional.linear: (_linear, LINEAR),
    torch.addmm: (_addmm, INPUT_FIRST),
    torch.matmul: (_matmul, INPUT_FIRST),
    torch.Tensor.matmul: (_matmul, INPUT_FIRST),
    torch.Tensor.__matmul__: (_matmul, INPUT_FIRST),
    torch.mm: (_mm, INPUT_FIRST),
    torch.Tensor.mm: (_mm, INPUT_FIRST),
    functional.embedding: (_embedding, LOOKUP),
    torch.embedding: (_table, LOOKUP),
    functional.conv1d: (_convolution, CONVOLUTION),
    functional.conv2d: (_convolution, CONVOLUTION),
    functional.conv3d: (_convolution, CONVOLUTION),
    functional.conv_transpose1d: (_transposed, TRANSPOSED),
    functional.conv_transpose2d: (_transposed, TRANSPOSED),
    functional.conv_transpose3d: (_transposed, TRANSPOSED),
    functional.grouped_mm: (_grouped, EXPERTS_INPUT_FIRST),
    torch._grouped_mm: (_grouped, EXPERTS_INPUT_FIRST),  # noqa: SLF001
}
# Operations that return the same numbers in another type.
CASTS = {torch.Tensor.to, torch.Tensor.float, torch.Tensor.bfloat16, torch.Tensor.half, torch.Tensor.type_as}
TRANSPOSES = {torch.Tensor.t, torch.t, torch.Tensor.T.__get__, torch.Tensor.mT.__get__}  # type: ignore[attr-defined]
SWAPS = {torch.Tensor.transpose, torch.transpose}
VIEWS = {*CASTS, *TRANSPOSES, *SWAPS, torch.Tensor.__getitem__}
# Operations that read no more than a weight's type, shape or place, or cut its gradient.
HARMLESS = {
    torch.zeros_like,
    torch.ones_like,
    torch.empty_like,
    torch.full_like,
    torch.Tensor.new_zeros,
    torch.Tensor.new_ones,
    torch.Tensor.new_full,
    torch.Tensor.new_empty,
    torch.Tensor.new_tensor,
    torch.Tensor.detach,
    torch.detach,
    torch.Tensor.data.__get__,  # type: ignore[attr-defined]
    torch.Tensor.requires_grad_,
}


def call_of(function: Any, args: Sequence[Any], keywords: Mapping[str, Any], known: Mapping[int, Weight]) -> Call | None:
    """The use of a weight by a function's call; None if it uses none, or in a way that is not known.

    Args:
        known: weights and their views, by the identity of the tensor.
    """
    binder, form = OPERATIONS[function]
    try:
        tensor, x, options = binder(*args, **keywords)
    except TypeError:  # arguments that the operation does not have under these names
        return None
    weight = known.get(id(tensor)) if tensor is not None else None
    if weight is None or not isinstance(x, torch.Tensor) or id(x) in known:
        return None
    used = _form(weight, form, x)
    return Call(weight, used, x, function, options) if used else None


def _form(weight: Weight, form: str, x: torch.Tensor) -> str | None:
    """The form in which an operation uses a weight or a view of it; None if it is none that is known.

    Args:
        form: that of a weight that is no view.
    """
    if form in (LOOKUP, CONVOLUTION, TRANSPOSED):
        return form if not weight.transposed and weight.index is None else None
    if form == EXPERTS_INPUT_FIRST:
        if weight.axes != 3 or weight.index is not None or x.dim() != 2:
            return None
        return EXPERTS if weight.transposed else form
    if weight.matrix_axes != 2 or x.dim() < 2:
        return None
    outputs_first = (form == LINEAR) != weight.transposed
    if weight.index is not None:
        return EXPERTS if outputs_first else EXPERTS_INPUT_FIRST
    return LINEAR if outputs_first else INPUT_FIRST


def view_of(function: Any, args: Sequence[Any], keywords: Mapping[str, Any], known: Mapping[int, Weight]) -> Weight | None:
    """What a function returns, if it is a view of a weight that operations may still use; else None."""
    weight = known.get(id(args[0])) if args else None
    if weight is None:
        return None
    if function in CASTS:
        return weight
    if function in TRANSPOSES and weight.matrix_axes == 2:
        return replace(weight, transposed=not weight.transposed)
    if function in SWAPS and not keywords and len(args) == 3:
        axes = weight.matrix_axes
        if {axis % axes for axis in args[1:]} == {axes - 2, axes - 1}:
            return replace(weight, transposed=not weight.transposed)
    if function is torch.Tensor.__getitem__ and weight.axes == 3 and weight.index is None:
        at = args[1]
        if isinstance(at, torch.Tensor) and at.dim() == 0 and not at.is_floating_point() and at.dtype != torch.bool:
            at = int(at)
        if isinstance(at, int) and not isinstance(at, bool) and not weight.transposed:
            return replace(weight, index=at)
    return None


def weights_among(args: Sequence[Any], keywords: Mapping[str, Any], known: Mapping[int, Weight]) -> list[Weight]:
    """The weights among a call's arguments, lists one level deep included."""
    values = [*args, *keywords.values()]
    values += [item for value in values if isinstance(value, list | tuple) for item in value]
    return [known[id(value)] for value in values if id(value) in known]
