"""Computes the likelihood of a night's outputs under the model served, its base, and every counterfactual model.

Each output and model takes one forward pass.

likelihoods/<digest>.parquet     losses of a part of the outputs under one checkpoint: computed once
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from provenance.core.errors import ExampleError, ModelError
from provenance.core.store import Store, digest
from provenance.core.where import Where
from provenance.corpus.holdings import PARTY
from provenance.corpus.shards import Part, read_part
from provenance.inputs.night import Night, read_manifest, subject_of_night
from provenance.models.counterfactual_checks import check_works
from provenance.models.counterfactual_records import listed_examples, read_record
from provenance.models.frozen import close_models, fetch_model, open_model
from provenance.models.model import all_losses, examples_in
from provenance.models.subject import works_served
from provenance.royalty.outcomes import Outcomes

PAIR = ["work_id", "content_sha256"]
BASE, SERVED = "base", "served"


@dataclass(frozen=True)
class Pass:
    """A part of the outputs under one checkpoint of a frozen model folder, and the key of its losses."""

    model: str
    files: dict[str, str]
    checkpoint: str
    part: str
    key: str


def passes_of(where: Where, night: Night) -> dict[str, list[Pass]]:
    """The passes of a night by model, one for each part of the outputs.

    The models: `base` and `served`, before and after the training, and the last checkpoint of every counterfactual model.
    """
    store = where.store
    card = fetch_model(store, night.model, night.model_files, where.settings.model.cache).card
    weights = {
        BASE: (night.model, night.model_files, card.checkpoints[0].file),
        SERVED: (night.model, night.model_files, card.checkpoints[-1].file),
    }
    for name, folder in night.counterfactuals.items():
        record = read_record(store, night.model, name)
        if record.folder != folder:
            expected = f"the model folder {folder} that the night was frozen with"
            raise ModelError(store.locate(record.key), expected=expected, found=record.folder)
        weights[name] = (record.folder, record.files, record.checkpoint)

    def key(model: str, checkpoint: str, part: Part) -> str:
        version = night.method["versions"]["likelihoods"]
        inputs = {"version": version, "model": model, "checkpoint": checkpoint, "content": part.content_digest}
        return f"likelihoods/{digest(inputs)}.parquet"

    return {
        name: [Pass(model, files, file, part.sha256, key(model, file, part)) for part in night.parts]
        for name, (model, files, file) in weights.items()
    }


def compute_missing(where: Where, passes: list[Pass]) -> int:
    """Compute the passes that the store lacks, on the workers; returns their number."""
    missing = list({task.key: task for task in passes if not where.store.exists(task.key)}.values())
    if missing:
        settings = where.settings
        shared = (where.store, settings.model.cache, where.workers.device, settings.features.batch_size)
        for _ in where.workers.map(_evaluate, shared, missing, what="likelihoods of outputs"):
            pass
        where.workers.everywhere(close_models)
    return len(missing)


def read_likelihoods(store: Store, folder: str) -> dict[str, np.ndarray]:
    """Log-likelihoods of all outputs, `(Q,)`, under `base`, `served` and every counterfactual model by name."""
    files = read_manifest(store, folder, "likelihoods")["files"]
    return {
        name: -np.concatenate([store.read_table(key)["loss"].to_numpy() for key in keys] or [np.zeros(0)])
        for name, keys in files.items()
    }


def _evaluate(shared: tuple[Store, Path, str, int], task: Pass) -> str:
    """Write the losses of one pass; returns their key. ModelError names the output that the model cannot read."""
    store, cache, device, batch_size = shared
    frame = read_part(store, task.part, "output_id", "content", "prompt")
    outputs = examples_in(frame)
    adapter, module = open_model(store, task.model, task.files, task.checkpoint, cache=cache, device=device)
    try:
        losses = all_losses(adapter, module, outputs, batch_size=batch_size)
    except ExampleError:
        for name, output in zip(frame["output_id"], outputs, strict=True):
            try:
                all_losses(adapter, module, [output], batch_size=1)
            except ExampleError as error:
                raise ModelError(f"output_id {name!r}", expected=error.expected, found=error.found, hint=error.hint) from error
        raise
    store.write_table(task.key, pl.DataFrame({"loss": losses}))
    return task.key


def read_outcomes(where: Where, night: Night, holdings: pl.DataFrame, parties: pl.DataFrame) -> tuple[Outcomes, Outcomes]:
    """The outcomes of the night's counterfactual models: those to fit on, and those set aside.

    Args:
        holdings: from `royalty.holdings.corpus_holdings`.
        parties: `account, party_id`, in the order of the owners.

    Raises:
        ModelError: the model served was trained on other works than a counterfactual model.
    """
    store = where.store
    subject = subject_of_night(store, night, where.settings.model.cache)
    likelihoods = read_likelihoods(store, night.folder)
    records = sorted((read_record(store, night.model, name) for name in night.counterfactuals), key=lambda r: r.name)
    served = works_served(subject)
    examples = night.read_corpus(store, *PAIR, "tokens").with_row_index("row").join(served, on=PAIR, how="semi")
    # Sorted, since a sum of floats depends on their order.
    trained = holdings.join(examples, on="row", how="semi").select("row", *PARTY, "weight").sort(*PARTY, "weight")
    whole = _by_party(trained, parties)
    inside, seen = np.empty((len(records), parties.height)), np.empty(len(records))
    for at, record in enumerate(records):
        listed = listed_examples(store, record)
        check_works(listed, served, store.locate(record.key))
        there = examples.join(listed, on=PAIR, how="semi")
        inside[at] = _by_party(trained.join(there, on="row", how="semi", maintain_order="left"), parties)
        seen[at] = there["tokens"].sum()
    inside = np.divide(inside, whole, out=np.zeros_like(inside), where=whole > 0)
    outputs = len(likelihoods[SERVED])
    value = np.stack([likelihoods[record.name] for record in records]) if records else np.zeros((0, outputs))
    both = Outcomes(
        inside=inside,
        partition=np.array([record.partition for record in records], dtype=np.int64),
        value=value,
        base=likelihoods[BASE],
        served=likelihoods[SERVED],
        size=whole / whole.sum() if whole.sum() else whole,
        seen=seen / max(1, int(examples["tokens"].sum())),
    )
    aside = np.array([record.aside for record in records], dtype=bool)
    return both.subset(~aside), both.subset(aside)


def _by_party(holdings: pl.DataFrame, parties: pl.DataFrame) -> np.ndarray:
    """Sums of sorted weights in the order of the parties, `(n,)`."""
    sums = holdings.group_by(*PARTY, maintain_order=True).agg(pl.col("weight").sum())
    ordered = parties.join(sums, on=PARTY, how="left", maintain_order="left")
    weights: np.ndarray = ordered["weight"].fill_null(0.0).to_numpy()
    return weights
