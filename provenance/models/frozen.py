"""Freezes model folders in the store, copies them to a worker's machine and opens them there."""

from __future__ import annotations

import functools
import gc
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provenance.core.errors import ModelError
from provenance.core.store import Store, digest
from provenance.models.model import Adapter, BaseFolder, Checkpoint, Model, read_base, read_model, sha256_of
from provenance.models.stored import base_digest, base_files, own_files, stored_keys

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Opened:
    """An open module.

    Attributes:
        name: of its model and checkpoint, and where it lies.
        kind: all that its checkpoints have in common.
    """

    name: tuple[str, str, str, str, Path]
    kind: tuple[str, str, str]
    adapter: Adapter
    module: torch.nn.Module


# The open module of each thread. Workers may be threads of one process, and each needs its own hooks.
_OPEN: dict[int, _Opened] = {}


def fetch_model(store: Store, model: str, files: dict[str, str], cache: Path) -> Model:
    """The frozen model folder, copied to this machine once, and its base, copied once for all models that stand on it.

    Args:
        cache: the folder of frozen models on this machine.
    """
    base = base_digest(files)
    if base:
        store.fetch(f"frozen/models/{base}", base_files(files), cache / base)
    folder = store.fetch(f"frozen/models/{model}", own_files(files), cache / model)
    frozen = _read_frozen(folder, cache / base if base else None)
    if changed := sorted(name for name, sha in frozen.files.items() if files.get(name) != sha):
        where, hint = str(frozen.path(changed[0])), "Remove the folder; it is copied from the store again."
        raise ModelError(where, expected="the file that was frozen", found="another", hint=hint)
    return frozen


# Cached, because reading hashes every file; a folder named by its digest never changes.
@functools.cache
def _read_frozen(folder: Path, base: Path | None) -> Model:
    return read_model(folder, base=_read_frozen_base(base) if base else None)


@functools.cache
def _read_frozen_base(folder: Path) -> BaseFolder:
    return read_base(folder, str(folder))


def checkpoint_named(model: Model, file: str) -> Checkpoint:
    """The checkpoint in a file."""
    return next(checkpoint for checkpoint in model.card.checkpoints if checkpoint.file == file)


def open_model(
    store: Store, model: str, files: dict[str, str], checkpoint: str, *, cache: Path, device: str, precision: str = "float32"
) -> tuple[Adapter, torch.nn.Module]:
    """The adapter of a frozen model, and its module at a checkpoint.

    Args:
        precision: `bfloat16` rounds the weights; `float32` leaves them as the adapter makes them.

    A worker keeps the last module open until `close_models`, because the next shard mostly needs the same. Of models of one
    architecture on one base, another opens by loading its trained tensors into the open module.
    """
    thread, name = threading.get_ident(), (model, checkpoint, device, precision, cache)
    opened = _OPEN.pop(thread, None)  # `close_models` in another thread cannot remove it now
    if opened is None or opened.name != name:
        frozen = fetch_model(store, model, files, cache)
        kind = frozen.architecture(), device, precision
        into = opened.module if frozen.base and opened and opened.kind == kind else None
        opened = None  # frees its memory before the next module is loaded
        module = frozen.load(checkpoint_named(frozen, checkpoint), device=device, dtype=dtype_of(precision), into=into)
        opened = _Opened(name, kind, frozen.adapter(), module)
    _OPEN[thread] = opened
    return opened.adapter, opened.module


def dtype_of(precision: str) -> torch.dtype | None:
    """The type that a precision asks of weights; None for the adapter's own."""
    import torch

    return None if precision == "float32" else getattr(torch, precision)


def close_models() -> None:
    """Close the open modules of this process; a stage runs it on each worker at its end."""
    if _OPEN:  # workers that are threads of one process share them
        _OPEN.clear()
        gc.collect()  # modules may refer to themselves, and bases stay in memory as long as a module does
        _set_libraries_aside()


@functools.cache
def _set_libraries_aside() -> None:
    """Take all that is loaded by now out of what collections look through, which takes most of a second each time."""
    gc.freeze()


def freeze_model(store: Store, model: Model) -> str:
    """Copy a model folder under its digest, and its base under the base's own; returns the model's digest."""
    name = digest(model.files)
    for key, file in stored_keys(name, model.files).items():
        if not store.exists(key):
            path, expected = model.path(file), model.files[file]
            if (found := sha256_of(path)) != expected:
                raise ModelError(str(path), expected=f"SHA-256 {expected}, as a moment ago", found=found)
            store.write_file(key, path)
    return name
