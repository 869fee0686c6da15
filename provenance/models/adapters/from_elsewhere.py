"""Reads losses and gradients that were made elsewhere, for models that PyTorch cannot open (JAX, Megatron).

    <features>/<key of the checkpoint>/*.safetensors

Each file has, for n contents in any order, `identity` `(n, 32)` uint8, the SHA-256 of each content (with a prompt:
`identity_of`); `loss` `(n,)`, minus its log-likelihood in nats; and `gradient` `(n, p)`, the loss's gradient, projected to p
numbers by one matrix for all contents. A counterfactual model needs no `gradient`. What is said of a content never changes.

The module has a weight W of p numbers and is, for content i, `loss_i + <gradient_i, W>` at W = 0. So its loss and gradient are
the given ones, and every other part of the system treats it as any other model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load

from provenance.core.canonical import identity, sha256
from provenance.core.errors import ExampleError, ModelError, in_batch

# Folders of features that a worker keeps in memory: those of a night's checkpoints.
KEPT = 4


class Given(NamedTuple):
    """What was given for the contents at one checkpoint; gradients `(n, p)`, as they are stored, may be missing."""

    row: dict[bytes, int]
    loss: np.ndarray
    gradient: np.ndarray | None


class Linear(torch.nn.Module):
    """`<gradient, W>` for rows of gradients; W is square, so that it is followed as a linear layer is."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(side, side))
        self.register_buffer("key", torch.zeros(32, dtype=torch.uint8))

    def forward(self, gradient: torch.Tensor) -> torch.Tensor:
        """Products of gradients `(n, side, side)` with W: `(n,)`."""
        return torch.nn.functional.linear(gradient, self.weight).diagonal(dim1=1, dim2=2).sum(dim=1)


class FromElsewhere:
    """An adapter for losses and gradients that were made elsewhere.

    A checkpoint holds `key` (32 numbers of uint8, the name of its folder in hex) and `weight`, zeros `(s, s)` with `s * s` the
    next square from p on.

    Args:
        features: the folder, on this machine or in object storage (`s3://...`), that all workers can read.
        numbers: p.
    """

    def __init__(self, folder: Path, *, features: str, numbers: int) -> None:
        del folder
        if numbers < 1:
            raise ModelError("adapter_args: numbers", expected="1 or more", found=str(numbers))
        self.features, self.numbers, self.side = features.rstrip("/"), numbers, math.isqrt(numbers - 1) + 1

    def module(self) -> torch.nn.Module:
        """The weight that gradients are multiplied with."""
        return Linear(self.side)

    def collate(self, contents: list[bytes], prompts: list[bytes | None] | None = None) -> list[bytes]:
        """Identities of the contents."""
        return [identity_of(*pair) for pair in zip(contents, prompts or [None] * len(contents), strict=True)]

    def loss(self, module: torch.nn.Module, batch: Sequence[bytes]) -> torch.Tensor:
        """The given losses, with the given gradients: `(n,)`."""
        weight: Any = module.weight
        folder = f"{self.features}/{bytes(module.key.tolist()).hex()}"  # type: ignore[operator]
        given = read_given(folder, self.numbers)
        rows = []
        for place, name in enumerate(batch):
            if (row := given.row.get(name)) is None:
                where = f"{in_batch(place)}: {folder}"
                raise ExampleError(where, expected=f"a row with the identity {name.hex()}", found="none")
            rows.append(row)
        loss = torch.from_numpy(given.loss[rows]).to(weight)
        if given.gradient is None:
            if torch.is_grad_enabled():
                raise ModelError(folder, expected="gradients, which features are made of", found="losses alone")
            return loss
        padded = np.zeros((len(rows), self.side**2), dtype=np.float32)
        padded[:, : self.numbers] = given.gradient[rows]
        gradient: torch.Tensor = module(torch.from_numpy(padded).to(weight).view(-1, self.side, self.side))
        return loss + gradient


def identity_of(content: bytes, prompt: bytes | None = None) -> bytes:
    """The SHA-256 of a content; with a prompt that of the content's SHA-256 in hex, a line feed and the prompt."""
    return bytes.fromhex(identity(sha256(content), prompt))


def read_given(folder: str, numbers: int) -> Given:
    """Read the files of a checkpoint; those of new outputs may come every day.

    Raises:
        ModelError: naming the file: none, a damaged one, other shapes, numbers that are not finite, or an identity twice.
    """
    file_system, path = fsspec.url_to_fs(folder)
    file_system.invalidate_cache(path)
    files = file_system.glob(f"{path}/*.safetensors", detail=True)
    if not files:
        raise ModelError(folder, expected="files *.safetensors with identity, loss and gradient", found="none")
    return _read(file_system, tuple(sorted((file, about["size"]) for file, about in files.items())), numbers)


@lru_cache(maxsize=KEPT)
def _read(file_system: Any, files: tuple[tuple[str, int], ...], numbers: int) -> Given:
    row: dict[bytes, int] = {}
    losses, gradients = [], []
    for file, _ in files:
        try:
            tensors = load(file_system.cat_file(file))
        except SafetensorError as error:
            raise ModelError(file, expected="a whole safetensors file", found=str(error)) from error
        except KeyError as error:
            expected = "numbers of dtypes that NumPy has, such as float16 or float32"
            raise ModelError(file, expected=expected, found=str(error.args[0])) from error
        count = len(tensors.get("identity", ()))
        shapes = {"identity": (count, 32), "loss": (count,), "gradient": (count, numbers)}
        for name, shape in shapes.items():
            if name == "gradient" and name not in tensors:
                continue
            found = tensors[name].shape if name in tensors else "none"
            if found != shape:
                raise ModelError(f"{file}: {name}", expected=f"shape {shape}", found=str(found))
            if not np.isfinite(tensors[name]).all():
                raise ModelError(f"{file}: {name}", expected="finite numbers", found="NaN or infinite ones")
        for own in map(bytes, tensors["identity"]):
            if own in row:
                raise ModelError(f"{file}: identity", expected="each content once", found=f"{own.hex()} again")
            row[own] = len(row)
        losses.append(tensors["loss"].astype(np.float32))
        gradients.append(tensors.get("gradient"))
    with_gradient = [gradient for gradient in gradients if gradient is not None]
    if with_gradient and len(with_gradient) < len(files):
        lacking, _ = files[[gradient is None for gradient in gradients].index(True)]
        raise ModelError(lacking, expected="gradients, as in other files of the folder", found="losses alone")
    return Given(row, np.concatenate(losses), np.concatenate(with_gradient) if with_gradient else None)
