"""Freezes the inputs of a night under their digest, before anything is computed.

loaded/<digest>.json    a checkpoint that was loaded once, whole and finite, by its weights, architecture and libraries
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from typing import Any

import polars as pl

from provenance.core.errors import ContractError
from provenance.core.settings import Settings
from provenance.core.store import Store, canonical_json, digest
from provenance.core.where import Where
from provenance.corpus.shards import FrozenCorpus, Part, freeze_part
from provenance.inputs.methods import comparisons
from provenance.inputs.night import VERSIONS, Night
from provenance.models.frozen import freeze_model
from provenance.models.model import Model
from provenance.models.subject import Subject

log = logging.getLogger("provenance.freeze")

# Outputs in a part; their features at each token of the vocabulary must fit into memory.
PART_OUTPUTS = 64
# Clocks of machines may differ by this much; a run that starts no earlier than this before the end of its day waits.
EARLY = timedelta(minutes=15)


def freeze_night(
    where: Where,
    day: date,
    corpus: FrozenCorpus,
    model: Model,
    outputs: pl.DataFrame,
    *,
    counterfactuals: Callable[[Subject], dict[str, str]],
    **decided: Any,
) -> Night:
    """Freeze the inputs of a night and write `inputs.json`.

    Args:
        counterfactuals: finds the counterfactual models: digest of each folder by name.
        decided: other attributes of the night: `method`, `contract`, `choices`.
    """
    store, settings = where.store, where.settings
    served = freeze_model(store, model)
    night = Night(
        day=str(day),
        corpus=corpus.digest,
        outputs=freeze_outputs(store, outputs),
        model=served,
        model_id=model.card.model_id,
        model_files=model.files,
        checkpoints=chosen_checkpoints(model, settings, store),
        counterfactuals=counterfactuals(Subject(store, served, model.files, corpus, day, settings.model.cache)),
        **decided,
    )
    store.write(f"{night.folder}/inputs.json", canonical_json(night.inputs))
    return night


def wait_until_over(day: date, now: datetime) -> None:
    """Return once a day is over (UTC): wait up to `EARLY`; if more time is left, raise ContractError."""
    left = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1) - now
    if left > EARLY:
        hint = f"The scheduled run after {day + timedelta(days=1)} 00:00 UTC pays it."
        raise ContractError(f"night of {day}", expected="a day that is over (UTC)", found="one that is not", hint=hint)
    if left > timedelta(0):
        log.info("night of %s: the day is over in %.0f seconds, by the ledger's clock", day, left.total_seconds())
        time.sleep(left.total_seconds())


def freeze_outputs(store: Store, outputs: pl.DataFrame) -> tuple[Part, ...]:
    """Freeze the outputs in parts of `PART_OUTPUTS`; a day without outputs has one empty part."""
    starts = range(0, max(outputs.height, 1), PART_OUTPUTS)
    return tuple(freeze_part(store, outputs[start : start + PART_OUTPUTS]) for start in starts)


def influence_method(settings: Settings) -> dict[str, Any]:
    """All that decides influence besides the data."""
    influence, precision = settings.influence, settings.features.precision
    comparisons(influence.method)  # raises for an unknown name
    return {
        "versions": VERSIONS,
        "name": influence.method,
        "projection": settings.features.projection,
        "bits": {"dense": settings.features.dense_bits, "sparse": settings.features.sparse_bits},
        "sample": influence.sample,
        "draws": influence.draws,
        "evidence": influence.evidence,
        **({} if precision == "float32" else {"precision": precision}),  # nights without it keep their folders
    }


def chosen_checkpoints(model: Model, settings: Settings, store: Store | None = None) -> tuple[str, ...]:
    """Files of the last few checkpoints of the first part of the run (`ModelCard.early`), or of the first one.

    Loads each once, so that bad weights stop the run here; one that the store has a note of is not loaded again.
    """
    chosen = (model.card.early() or model.card.checkpoints[1:2])[-settings.influence.checkpoints :]
    module = None
    for checkpoint in chosen:
        key = _loaded_key(model, checkpoint.file)
        if store is None or not store.exists(key):
            module = model.load(checkpoint, into=module)
            if store is not None:
                store.write(key, canonical_json({"checkpoint": checkpoint.file, "weights": model.files[checkpoint.file]}))
    return tuple(checkpoint.file for checkpoint in chosen)


def _loaded_key(model: Model, file: str) -> str:
    """The key of the note that a checkpoint was loaded."""
    libraries = [version(name) for name in ("torch", "transformers")]
    return f"loaded/{digest([model.architecture(), model.files[file], libraries])}.json"
