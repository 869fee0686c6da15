"""The frozen model, on the machine that computes."""

from __future__ import annotations

from functools import cache

from provenance.core.errors import ModelError
from provenance.core.store import Store, digest, sha256
from provenance.models.model import Checkpoint, Model, read_model
from tasks.settings import CHECKOUT


def fetch_model(store: Store, model: str, files: dict[str, str], folder: str) -> Model:
    """The frozen model folder, copied to this machine once."""
    return _read_frozen(store.fetch(f"frozen/models/{model}", files, CHECKOUT / folder / model))


# The folder is named by its digest and never changes; hashing its files again for every shard would read them all again.
_read_frozen = cache(read_model)


def checkpoint_named(model: Model, file: str) -> Checkpoint:
    """The checkpoint with a file name."""
    return next(checkpoint for checkpoint in model.card.checkpoints if checkpoint.file == file)


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
