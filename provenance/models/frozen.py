"""Freezes model folders in the store, copies them to a worker's machine and opens them there."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import torch

from provenance.core.errors import ModelError
from provenance.core.store import Store, digest, sha256
from provenance.models.model import Adapter, Checkpoint, Model, read_model

# The open module of each thread, and its name. Workers may be threads of one process, and each needs its own hooks.
_OPEN: dict[int, tuple[tuple[str, str, str, Path], tuple[Adapter, torch.nn.Module]]] = {}


def fetch_model(store: Store, model: str, files: dict[str, str], cache: Path) -> Model:
    """The frozen model folder, copied to this machine once.

    Args:
        cache: the folder of frozen models on this machine.
    """
    return _read_frozen(store.fetch(f"frozen/models/{model}", files, cache / model))


# Cached, because reading hashes every file; a folder named by its digest never changes.
_read_frozen = functools.cache(read_model)


def checkpoint_named(model: Model, file: str) -> Checkpoint:
    """The checkpoint in a file."""
    return next(checkpoint for checkpoint in model.card.checkpoints if checkpoint.file == file)


def open_model(
    store: Store, model: str, files: dict[str, str], checkpoint: str, *, cache: Path, device: str
) -> tuple[Adapter, torch.nn.Module]:
    """The adapter of a frozen model, and its module at a checkpoint.

    A worker keeps the last module open until `close_models`, because the next shard mostly needs the same.
    """
    thread, name = threading.get_ident(), (model, checkpoint, device, cache)
    opened = _OPEN.pop(thread, None)  # `close_models` in another thread cannot remove it now
    if opened is None or opened[0] != name:
        opened = None  # frees its memory before the next module is loaded
        frozen = fetch_model(store, model, files, cache)
        opened = name, (frozen.adapter(), frozen.load(checkpoint_named(frozen, checkpoint), device=device))
    _OPEN[thread] = opened
    return opened[1]


def close_models() -> None:
    """Close the open modules of this process; a stage runs it on each worker at its end."""
    _OPEN.clear()


def freeze_model(store: Store, model: Model) -> str:
    """Copy a model folder under its digest; returns the digest."""
    name = digest(model.files)
    for file, expected in model.files.items():
        key = f"frozen/models/{name}/{file}"
        if not store.exists(key):
            data = (model.folder / file).read_bytes()
            if sha256(data) != expected:
                raise ModelError(str(model.folder / file), expected=f"SHA-256 {expected}, as a moment ago", found=sha256(data))
            store.write(key, data)
    return name
