"""Reads and writes the list of works that a model was trained on, a file beside its checkpoints."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl

from provenance.core.errors import InputError, ModelError
from provenance.core.store import Store, sha256
from provenance.corpus.rights.clearance import COLUMNS
from provenance.corpus.rights.manifest import Manifest, check_trained_on, contents, manifest_of, read_manifest
from provenance.corpus.shards import FrozenCorpus, read_examples
from provenance.models.model import Model, read_card
from provenance.models.writing import MANIFEST


def check_model(store: Store, model: Model, corpus: FrozenCorpus) -> Manifest | None:
    """A model's manifest, checked against a corpus; None if the model has none."""
    if (path := model.manifest) is None:
        return None
    manifest = read_manifest(path.read_bytes(), str(path))
    check_trained_on(manifest, contents(read_examples(store, corpus, *COLUMNS)), str(path))
    return manifest


def check_delivery(model: Model, examples: pl.DataFrame) -> str | None:
    """Check a model's manifest against the training examples of a delivery.

    Returns what a night says of examples that it was not trained on, unless clearance leaves them out; None without any.

    Raises:
        InputError: it was trained on examples that the delivery lacks.
    """
    if (path := model.manifest) is None:
        return None
    manifest, works = read_manifest(path.read_bytes(), str(path)), contents(examples)
    try:
        check_trained_on(manifest, works, str(path))
    except InputError as error:
        if any(Counter(trained) - Counter(works.get(work, ())) for work, trained in manifest.works.items()):
            raise
        return str(error)
    return None


def state_training(folder: Path, examples: pl.DataFrame) -> None:
    """Write the examples of a training run to a model folder, as `manifest.json`, and name the file in `model.toml`.

    Args:
        folder: a model folder.
        examples: `work_id, content` of the examples that the model was trained on.
    """
    digests = pl.Series([sha256(content) for content in examples["content"]], dtype=pl.String)
    ordered = examples.select("work_id", content_sha256=digests, example_id=digests, position=pl.lit(None, pl.Int64))
    state_manifest(folder, manifest_of(ordered).as_bytes())


def state_manifest(folder: Path, data: bytes) -> None:
    """Write a manifest to a model folder, then name it in `model.toml`.

    Raises:
        ModelError: there is no model, or its card names another manifest.
    """
    path = folder / "model.toml"
    before = read_card(folder).training.manifest
    if before not in (None, MANIFEST):
        raise ModelError(f"{path}: key 'training.manifest'", expected=f"none, or {MANIFEST}", found=repr(before))
    (folder / MANIFEST).write_bytes(data)
    if before is None:
        lines, entry = path.read_text().splitlines(), f"manifest = {json.dumps(MANIFEST)}"
        if "[[checkpoints]]" not in lines:
            raise ModelError(str(path), expected="checkpoints as tables, each below a line [[checkpoints]]", found="none such")
        if "[training]" in lines:
            lines.insert(lines.index("[training]") + 1, entry)
        else:
            first = lines.index("[[checkpoints]]")
            lines[first:first] = ["[training]", entry, ""]
        path.write_text("\n".join(lines) + "\n")
