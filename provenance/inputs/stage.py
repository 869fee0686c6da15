"""Stage `freeze`: checks the inputs of a night and copies them under their digest, before anything is computed."""

from __future__ import annotations

import logging
from datetime import date

from provenance.core.locks import freezing, now
from provenance.core.text import visible
from provenance.core.where import Where
from provenance.corpus.outputs import read_outputs, with_modality
from provenance.corpus.rights.optout_records import choices_on
from provenance.corpus.shards import corpus_in_force, freeze_part
from provenance.inputs.contracts import assign, read_contracts
from provenance.inputs.frozen import freeze_night, influence_method, wait_until_over
from provenance.models.counterfactual_checks import usable_models
from provenance.models.model import read_model
from provenance.models.training_manifest import check_model

log = logging.getLogger("provenance.freeze")


def freeze(where: Where, day: str) -> str:
    """Freeze the inputs of a day's night; returns the night's folder."""
    where.store.check_writable()
    ledger = where.ledger  # opened first: an unusable ledger stops the night before anything is computed
    wait_until_over(date.fromisoformat(day), now(ledger))
    with freezing(ledger):
        return _freeze(where, date.fromisoformat(day))


def _freeze(where: Where, day: date) -> str:
    store, settings = where.store, where.settings
    corpus, model = corpus_in_force(store), read_model(settings.model.folder)
    if check_model(store, model, corpus) is None:
        log.info("model %s: nobody has stated what it was trained on ([training] manifest)", visible(model.card.model_id))
    outputs = with_modality(store, corpus, read_outputs(store, day, model_id=model.card.model_id))
    contracts = read_contracts(settings.royalty.contracts)
    assign(outputs, contracts, store.locate(f"outputs/day={day}"))
    choices = choices_on(store, corpus, day)
    night = freeze_night(
        where,
        day,
        corpus,
        model,
        outputs,
        counterfactuals=usable_models,
        method=influence_method(settings),
        contract={"contracts": [contract.model_dump(mode="json") for contract in contracts]},
        choices=freeze_part(store, choices) if choices.height else None,
    )
    log.info("night of %s: %d outputs, model %s, corpus %s", day, outputs.height, visible(night.model_id), night.corpus[:12])
    if choices.height:
        log.info("night of %s: %d works of owners who opted out", day, choices["work_id"].n_unique())
    return night.folder
