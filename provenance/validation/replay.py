"""A published night once more, from the digests in its manifest: frozen inputs are copied, everything else is computed anew."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from provenance.core.errors import StoreError
from provenance.core.store import Store, canonical_json, sha256
from provenance.corpus.shards import corpus_key, load_frozen
from provenance.features.featurise import featurise
from provenance.features.plan import shard
from provenance.influence.fit_curvature import fit_curvature
from provenance.influence.score import score
from provenance.inputs.night import load_night
from provenance.models.counterfactuals import read_record
from provenance.royalty.estimate_stage import estimate
from provenance.royalty.likelihoods import likelihoods
from provenance.royalty.share import share
from provenance.settlement import ledger
from provenance.settlement.books import NIGHT
from provenance.settlement.exports.export import MANIFEST, in_force, revision_folder
from provenance.settlement.exports.verification import Check
from provenance.settlement.publish import code_version, make_export
from tasks.database import open_ledger
from tasks.settings import CHECKOUT, Settings

log = logging.getLogger("provenance.recompute")

STAGES = (shard, featurise, fit_curvature, score, likelihoods, estimate, share)
# Facts of a manifest that say when and by what it was made, and not from what.
CIRCUMSTANCES = ("code_version", "audit")


def recompute(settings: Settings, day: str, revision: int | None = None) -> tuple[str, list[Check]]:
    """Compute a published night again and compare it with what was published, byte for byte.

    Nothing that the night computed is read: features, curvature, scores, values and shares are made anew in a folder of
    their own, from the corpus, the outputs and the model that the manifest names. The export is then made from those shares
    and the ledger's bookings.

    Args:
        revision: by default the one in force.

    Returns:
        The folder of the revision, and what was compared.

    Raises:
        InputError: the day is not published, an input is gone or is not what its digest says, or the night was computed by
            other versions of the stages.
    """
    store = settings.store.open()
    folder = revision_folder(day, revision) if revision else in_force(store, day)["folder"]
    manifest = store.read_json(f"{folder}/{MANIFEST}")
    scratch = CHECKOUT / "var/recompute" / sha256(f"{store.url}/{folder}".encode())[:16]
    shutil.rmtree(scratch, ignore_errors=True)
    here = settings.at(scratch)
    try:
        made = here.store.open()
        _copy_inputs(store, made, manifest)
        for stage in STAGES:
            stage(manifest["night"], here)
        checks = [Check("stages", tuple(_stages(made, manifest)))]
        checks += list(_compare(settings, store, made, folder, manifest))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if manifest["code_version"] != code_version():
        log.warning("published by %s, computed again by %s", manifest["code_version"], code_version())
    return folder, checks


def _copy_inputs(store: Store, made: Store, manifest: Mapping[str, Any]) -> None:
    """All that the night froze, each file held against its digest."""
    night, inputs = load_night(store, manifest["night"]), manifest["inputs"]
    key = f"{manifest['night']}/inputs.json"
    made.write(key, store.read(key))
    key = corpus_key(inputs["corpus"])
    made.write(key, store.read(key))
    corpus = load_frozen(made, inputs["corpus"])
    if corpus.digest != inputs["corpus"]:
        raise StoreError(store.locate(key), expected=f"digest {inputs['corpus']}", found=corpus.digest)
    parts = [*corpus.parts, *night.outputs, *([night.choices] if night.choices else [])]
    files = {part.key: part.sha256 for part in parts}
    files |= {f"frozen/models/{night.model}/{name}": digest for name, digest in night.model_files.items()}
    for name in night.counterfactuals:
        record = read_record(store, night.model, name)
        made.write(record.key, store.read(record.key))
        files |= {f"frozen/models/{record.folder}/{file}": digest for file, digest in record.files.items()}
    for key, digest in files.items():
        data = store.read(key)
        if sha256(data) != digest:
            raise StoreError(store.locate(key), expected=f"SHA-256 {digest}", found=sha256(data))
        made.write(key, data)


def _stages(made: Store, manifest: Mapping[str, Any]) -> Iterator[str]:
    """What stages wrote that the manifest names otherwise."""
    inputs, night = manifest["inputs"], manifest["night"]
    shared = made.read_json(f"{night}/shares.json")["writes"]
    found = {
        "scores": made.read_json(f"{night}/scores.json")["writes"],
        "estimate": made.read_json(f"{night}/estimate.json")["writes"],
        "shares": shared["shares.parquet"],
        "night_shares": shared["night_shares.parquet"],
    }
    for name, digests in found.items():
        if digests != inputs[name]:
            yield f"{name}: computed {digests}, the manifest says {inputs[name]}"


def _compare(settings: Settings, store: Store, made: Store, folder: str, manifest: Mapping[str, Any]) -> Iterator[Check]:
    """Every file of the export, and its manifest, against what is made now."""
    engine = open_ledger(settings.database, store)
    booked = ledger.bookings(engine, kind=NIGHT)
    place = next(n for n, booking in enumerate(booked) if booking.booking_id == manifest["booking_id"])
    export = make_export(made, engine, booked[place], booked[place - 1] if place else None, published=store)
    for name, data in export.files.items():
        differs = store.read(f"{folder}/{name}") != data
        yield Check(name, (f"{len(data)} bytes that are not those that were published",) if differs else ())
    facts = [{k: v for k, v in said.items() if k not in CIRCUMSTANCES} for said in (manifest, export.manifest)]
    yield Check(MANIFEST, tuple(f"{key} differs" for key in sorted({*facts[0], *facts[1]}) if _differ(facts, key)))


def _differ(facts: list[dict[str, Any]], key: str) -> bool:
    was, now = (canonical_json(said.get(key)) for said in facts)
    return was != now
