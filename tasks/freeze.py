"""Stage `freeze inputs`: whatever the night will read is copied under its digest, and checked, before anything is computed."""

from __future__ import annotations

import logging
import time
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from provenance.core.errors import ContractError, ModelError, parse_day
from provenance.core.store import canonical_json, digest, sha256
from provenance.core.text import visible
from provenance.corpus.outputs import read_outputs
from provenance.corpus.shards import FrozenCorpus, Part, corpus_in_force, freeze_part
from provenance.features.exact import fitting
from provenance.features.model import Model, read_model
from provenance.influence.methods import method
from provenance.royalty.contracts import assign, read_contracts
from provenance.royalty.shares import BY_VALUE, FAITHFUL, PROPORTIONAL
from provenance.settlement import ledger
from provenance.validation.lds import signal_to_noise
from provenance.validation.results import in_force
from tasks.clear import check_model
from tasks.database import open_ledger
from tasks.night import VERSIONS, Night
from tasks.optouts import choices_on
from tasks.settings import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provenance.core.store import Store
    from provenance.royalty.contracts import Contract
    from tasks.settings import Settings

log = logging.getLogger("provenance.freeze")

# Outputs that are asked about at a time: what they hold at each token of a vocabulary has to fit into memory.
AT_A_TIME = 64
# The part of a training run after which checkpoints count less: a model then learns little that it will not forget.
MIDDLE = 0.6
# By how much clocks of machines may differ: a run that comes no earlier than this waits for the end of its day.
EARLY = timedelta(minutes=15)


def paid_day(interval_start: datetime | None, asked: str | None = None) -> str:
    """The day that a run pays: the one asked for, or else the one on which its data interval starts (UTC).

    Raises:
        InputError: there is neither, or what is asked for is no day.
    """
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
    settings = load()
    store = settings.store.open()
    store.check_writable()
    engine = open_ledger(settings.database, store)  # before anything is computed for a ledger that cannot book it
    wait_until_over(date.fromisoformat(day), ledger.now(engine))
    with ledger.freezing(engine):
        return _freeze(settings, store, day)


def _freeze(settings: Settings, store: Store, day: str) -> str:
    corpus = corpus_in_force(store)
    model = read_model(settings.model.path)
    if check_model(store, model, corpus) is None:
        log.info("model %s: nobody has stated what it was trained on ([training] manifest)", visible(model.card.model_id))
    outputs = read_outputs(store, date.fromisoformat(day), model_id=model.card.model_id)
    outputs = with_modality(store, corpus, outputs)
    contracts = read_contracts(settings.royalty.path)
    assign(outputs, contracts, store.locate(f"outputs/day={day}"))
    choices = choices_on(store, corpus, date.fromisoformat(day))
    night = Night(
        day=day,
        corpus=corpus.digest,
        outputs=freeze_outputs(store, outputs),
        model=freeze_model(store, model),
        model_id=model.card.model_id,
        model_files=model.files,
        checkpoints=chosen_checkpoints(model, settings),
        method=influence_method(settings) | {"values": values_method(settings, model, contracts)},
        contract=royalty_terms(store, contracts, settings.influence.method),
        choices=freeze_part(store, choices) if choices.height else None,
    )
    store.write(f"{night.folder}/inputs.json", canonical_json(night.inputs))
    log.info("night of %s: %d outputs, model %s, corpus %s", day, outputs.height, visible(night.model_id), night.corpus[:12])
    if choices.height:
        log.info("night of %s: %d works of owners who opted out", day, choices["work_id"].n_unique())
    return night.folder


def wait_until_over(day: date, now: datetime) -> None:
    """Return once a day is over (UTC), to which there may be minutes left.

    Raises:
        ContractError: there is more left than clocks may differ by.
    """
    left = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1) - now
    if left > EARLY:
        hint = f"The scheduled run after {day + timedelta(days=1)} 00:00 UTC pays it."
        raise ContractError(f"night of {day}", expected="a day that is over (UTC)", found="one that is not", hint=hint)
    if left > timedelta(0):
        log.info("night of %s: the day is over in %.0f seconds, by the ledger's clock", day, left.total_seconds())
        time.sleep(left.total_seconds())


def values_method(settings: Settings, model: Model, contracts: Sequence[Contract]) -> dict[str, Any] | None:
    """All that decides what works add, besides the data; None where no contract asks.

    Raises:
        ContractError: a contract asks for what cannot be known of this model.
    """
    asking = [contract for contract in contracts if contract.rule in BY_VALUE]
    if not asking:
        return None
    royalty, module = settings.royalty, model.adapter().module()
    coordinates = fitting(module, royalty.parameters, settings.features.seed)
    if coordinates is None:
        raise ContractError(
            f"{settings.royalty.path}: contract {asking[0].name!r}: rule {asking[0].rule!r}",
            expected=f"a model whose training run can be replayed in {royalty.parameters:,} numbers, projected or not",
            found=f"{sum(p.numel() for p in module.parameters()):,} parameters",
            hint="Raise royalty.parameters (memory and time grow with it), or pay by the rule 'proportional' or 'flat'.",
        )
    between = model.card.checkpoints[1:-1] or model.card.checkpoints[1:]
    return {
        "checkpoints": [checkpoint.file for checkpoint in between],
        "rows": royalty.rows,
        "numbers": royalty.numbers,
        "seed": coordinates.seed,
        "sides": coordinates.sides,
        "nodes": royalty.nodes,
        "width": royalty.width,
    }


def royalty_terms(store: Store, contracts: Sequence[Contract], method: str) -> dict[str, Any]:
    """The contracts as they are now, and what the audit in force says that their rules' values are worth.

    Args:
        method: by which influences are found, for rules that divide by them.
    """
    audit = in_force(store) if any(contract.signal_to_noise for contract in contracts) else None
    result = store.read_json(f"{audit['folder']}/lds.json") if audit else {"families": {}}
    method_of = {PROPORTIONAL: method, **dict.fromkeys(BY_VALUE, FAITHFUL)}
    found = {c.name: signal_to_noise(result, method_of.get(c.rule, "")) for c in contracts}
    return {
        "contracts": [contract.model_dump(mode="json") for contract in contracts],
        "audit": audit and audit["folder"],
        "signal_to_noise": found,
    }


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
    method(influence.method, hybrid_weight=influence.hybrid_weight)  # a bad name stops here
    return {
        "versions": VERSIONS,
        "name": influence.method,
        "hybrid_weight": influence.hybrid_weight if influence.method == "hybrid" else None,
        "projection": settings.features.projection.as_json(),
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
