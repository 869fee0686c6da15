"""Stage `freeze inputs`: whatever the night will read is copied under its digest, and checked, before anything is computed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from provenance.core.errors import ContractError, parse_day
from provenance.core.store import Store, canonical_json
from provenance.core.text import visible
from provenance.corpus.outputs import read_outputs
from provenance.corpus.rights.optout_records import choices_on
from provenance.corpus.rights.training_clearance import check_model
from provenance.corpus.shards import FrozenCorpus, Part, corpus_in_force, freeze_part
from provenance.influence.methods import comparisons
from provenance.inputs.contracts import assign, read_contracts
from provenance.inputs.night import VERSIONS, Night
from provenance.models.counterfactuals import Subject, in_use
from provenance.models.frozen import freeze_model
from provenance.models.model import Model, read_model
from provenance.settlement import ledger
from tasks.database import open_ledger
from tasks.settings import Settings, with_store

log = logging.getLogger("provenance.freeze")

# Outputs that are asked about at a time: what they hold at each token of a vocabulary has to fit into memory.
AT_A_TIME = 64
# The part of a training run after which checkpoints count less: a model then learns little that it will not forget.
MIDDLE = 0.6
# By how much clocks of machines may differ: a run that comes no earlier than this waits for the end of its day.
EARLY = timedelta(minutes=15)


def paid_day(interval_start: datetime | None, asked: str | None = None) -> str:
    """The day that a run pays: the one asked for, or else the one on which its data interval starts (UTC)."""
    if asked:
        return str(parse_day("run of nightly_payouts: day", asked))
    if interval_start is None:
        raise ContractError(
            "run of nightly_payouts",
            expected="a day to pay, or a data interval that starts on it",
            found="neither",
            hint="Trigger it with a day, such as 2026-11-20.",
        )
    return interval_start.astimezone(UTC).date().isoformat()


def freeze(day: str) -> str:
    """Freeze the inputs of a day's night; returns the night's folder."""
    settings, store = with_store()
    store.check_writable()
    engine = open_ledger(settings.database, store)  # before anything is computed for a ledger that cannot book it
    wait_until_over(date.fromisoformat(day), ledger.now(engine))
    with ledger.freezing(engine):
        return _freeze(settings, store, day)


def _freeze(settings: Settings, store: Store, day: str) -> str:
    corpus = corpus_in_force(store)
    model = read_model(settings.model.folder)
    if check_model(store, model, corpus) is None:
        log.info("model %s: nobody has stated what it was trained on ([training] manifest)", visible(model.card.model_id))
    outputs = read_outputs(store, date.fromisoformat(day), model_id=model.card.model_id)
    outputs = with_modality(store, corpus, outputs)
    contracts = read_contracts(settings.royalty.contracts)
    assign(outputs, contracts, store.locate(f"outputs/day={day}"))
    choices = choices_on(store, corpus, date.fromisoformat(day))
    decided = {
        "method": influence_method(settings),
        "contract": {"contracts": [contract.model_dump(mode="json") for contract in contracts]},
        "choices": freeze_part(store, choices) if choices.height else None,
    }
    night = freeze_night(settings, date.fromisoformat(day), corpus, model, outputs, counterfactuals=in_use, **decided)
    log.info("night of %s: %d outputs, model %s, corpus %s", day, outputs.height, visible(night.model_id), night.corpus[:12])
    if choices.height:
        log.info("night of %s: %d works of owners who opted out", day, choices["work_id"].n_unique())
    return night.folder


def freeze_night(
    settings: Settings,
    day: date,
    corpus: FrozenCorpus,
    model: Model,
    outputs: pl.DataFrame,
    *,
    counterfactuals: Callable[[Subject], dict[str, str]],
    **decided: Any,
) -> Night:
    """Put down what a night reads.

    Args:
        counterfactuals: finds the models trained on parts of the owners: digest of each folder by name.
        decided: what else decides shares and amounts, by attribute of the night.
    """
    store = settings.store.open()
    served = freeze_model(store, model)
    night = Night(
        day=str(day),
        corpus=corpus.digest,
        outputs=freeze_outputs(store, outputs),
        model=served,
        model_id=model.card.model_id,
        model_files=model.files,
        checkpoints=chosen_checkpoints(model, settings),
        counterfactuals=counterfactuals(Subject(store, served, model.files, corpus, day, settings.model.cache)),
        **decided,
    )
    store.write(f"{night.folder}/inputs.json", canonical_json(night.inputs))
    return night


def wait_until_over(day: date, now: datetime) -> None:
    """Return once a day is over (UTC), to which there may be minutes left; more than clocks may differ by is an error."""
    left = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1) - now
    if left > EARLY:
        hint = f"The scheduled run after {day + timedelta(days=1)} 00:00 UTC pays it."
        raise ContractError(f"night of {day}", expected="a day that is over (UTC)", found="one that is not", hint=hint)
    if left > timedelta(0):
        log.info("night of %s: the day is over in %.0f seconds, by the ledger's clock", day, left.total_seconds())
        time.sleep(left.total_seconds())


def freeze_outputs(store: Store, outputs: pl.DataFrame) -> tuple[Part, ...]:
    """The outputs in parts; a day without any has an empty one."""
    starts = range(0, max(outputs.height, 1), AT_A_TIME)
    return tuple(freeze_part(store, outputs[start : start + AT_A_TIME]) for start in starts)


def with_modality(store: Store, corpus: FrozenCorpus, outputs: pl.DataFrame) -> pl.DataFrame:
    """The outputs with a modality each: their own, or that of the corpus's first example."""
    first = store.read_table(corpus.shards[0].key, columns=["modality"])["modality"][0]
    return outputs.with_columns(pl.col("modality").fill_null(first))


def influence_method(settings: Settings) -> dict[str, Any]:
    """All that decides influence besides the data."""
    influence = settings.influence
    comparisons(influence.method)  # a bad name stops here
    return {
        "versions": VERSIONS,
        "name": influence.method,
        "projection": asdict(settings.features.projection),
        "bits": {"dense": settings.features.dense_bits, "sparse": settings.features.sparse_bits},
        "sample": influence.sample,
        "draws": influence.draws,
        "evidence": influence.evidence,
    }


def chosen_checkpoints(model: Model, settings: Settings) -> tuple[str, ...]:
    """Early and middle checkpoints: the last few of the first three fifths.

    Each is loaded once, so bad weights stop the run here.
    """
    others = model.card.checkpoints[1:]
    early = [checkpoint for checkpoint in others if checkpoint.step <= round(MIDDLE * others[-1].step)]
    chosen = (early or others[:1])[-settings.influence.checkpoints :]
    for checkpoint in chosen:
        model.load(checkpoint)
    return tuple(checkpoint.file for checkpoint in chosen)
