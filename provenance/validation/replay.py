"""Computes a published night again from the digests in its manifest: copies frozen inputs and computes everything else."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from provenance.core.errors import InputError, StoreError
from provenance.core.published import MANIFEST, in_force, revision_folder
from provenance.core.settings import CHECKOUT
from provenance.core.stages import COMPUTED
from provenance.core.store import Store, canonical_json, sha256
from provenance.core.version import code_version
from provenance.core.where import Where
from provenance.corpus.shards import corpus_key, load_frozen
from provenance.inputs.night import digest_of, load_night
from provenance.models.counterfactual_records import read_record
from provenance.models.stored import stored_keys
from provenance.settlement import ledger
from provenance.settlement.books import NIGHT
from provenance.settlement.exports.export import FORMAT
from provenance.settlement.exports.nights import make_export
from provenance.settlement.exports.verification import Check

log = logging.getLogger("provenance.recompute")

# Facts of a manifest about its making, not about its inputs.
CIRCUMSTANCES = ("code_version", "audit")


def recompute(where: Where, day: str, revision: int | None = None) -> tuple[str, list[Check]]:
    """Compute a published night again and compare it with the published files, byte for byte.

    Reads no results of the night: computes features, curvature, scores, values and shares in a separate folder, from the
    corpus, outputs and model of the manifest. Makes the export from those shares and the ledger's bookings.

    Args:
        revision: by default the one in force.

    Returns:
        The folder of the revision, and the checks.

    Raises:
        InputError: the day is not published, an input is gone or differs from its digest, or the night was computed by other
            versions of the stages, or published in another form.
    """
    store = where.store
    current = in_force(store, day)
    folder = revision_folder(day, revision) if revision else current["folder"]
    if not store.exists(f"{folder}/{MANIFEST}"):
        last = current["revision"]
        expected = "revision 1, the only one" if last == 1 else f"a revision from 1 to {last}"
        raise InputError(f"export of {day}", expected=expected, found=str(revision or "no manifest in its folder"))
    manifest = store.read_json(f"{folder}/{MANIFEST}")
    if manifest["format"] != FORMAT:
        raise InputError(
            f"{folder}/{MANIFEST}",
            expected=f"an export of format {FORMAT}, as this version writes it",
            found=f"format {manifest['format']}",
            hint=f"Replay it with the version that published it, {manifest['code_version']}. `provenance verify` reads any.",
        )
    scratch = CHECKOUT / "var/recompute" / sha256(f"{store.url}/{folder}".encode())[:16]
    shutil.rmtree(scratch, ignore_errors=True)
    local = where.at(scratch)
    try:
        _copy_inputs(store, local.store, manifest)
        for stage in COMPUTED:
            stage.run(local, manifest["night"])
        checks = [Check("stages", tuple(_stages(local.store, manifest)))]
        checks += list(_compare(where, local.store, folder, manifest))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if manifest["code_version"] != code_version():
        log.warning("published by %s, computed again by %s", manifest["code_version"], code_version())
    return folder, checks


def _copy_inputs(store: Store, scratch: Store, manifest: Mapping[str, Any]) -> None:
    """Copy the frozen inputs of the night, and check the digest of each file."""
    night, inputs = load_night(store, manifest["night"]), manifest["inputs"]
    key = f"{manifest['night']}/inputs.json"
    scratch.write(key, store.read(key))
    key = corpus_key(inputs["corpus"])
    scratch.write(key, store.read(key))
    corpus = load_frozen(scratch, inputs["corpus"])
    if corpus.digest != inputs["corpus"]:
        raise StoreError(store.locate(key), expected=f"digest {inputs['corpus']}", found=corpus.digest)
    parts = [*corpus.parts, *night.outputs, *([night.choices] if night.choices else [])]
    files = {part.key: part.sha256 for part in parts}
    files |= {key: night.model_files[name] for key, name in stored_keys(night.model, night.model_files).items()}
    for name in night.counterfactuals:
        record = read_record(store, night.model, name)
        scratch.write(record.key, store.read(record.key))
        files |= {key: record.files[name] for key, name in stored_keys(record.folder, record.files).items()}
    for key, digest in files.items():
        data = store.read(key)
        if sha256(data) != digest:
            raise StoreError(store.locate(key), expected=f"SHA-256 {digest}", found=sha256(data))
        scratch.write(key, data)


def _stages(scratch: Store, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Differences between the digests of the stages' results and those in the manifest."""
    inputs, night = manifest["inputs"], manifest["night"]
    scores, estimate, shares = (
        scratch.read_json(f"{night}/{stage}.json")["writes"] for stage in ("scores", "estimate", "shares")
    )
    computed = {
        "scores": scores,
        "estimate": estimate,
        "shares": digest_of(shares, "shares"),
        "night_shares": shares["night_shares.parquet"],
    }
    for name, digests in computed.items():
        if digests != inputs[name]:
            yield f"{name}: computed {digests}, the manifest says {inputs[name]}"


def _compare(where: Where, scratch: Store, folder: str, manifest: Mapping[str, Any]) -> Iterator[Check]:
    """Compare every file of the export, and its manifest, with those made now."""
    store, engine = where.store, where.ledger
    booked = ledger.bookings(engine, kind=NIGHT)
    place = next(n for n, booking in enumerate(booked) if booking.booking_id == manifest["booking_id"])
    export = make_export(scratch, engine, booked[place], booked[place - 1] if place else None, published=store)
    for name, data in export.files.items():
        differs = store.read(f"{folder}/{name}") != data
        yield Check(name, (f"{len(data)} bytes that differ from the published ones",) if differs else ())
    keys = sorted({*manifest, *export.manifest} - set(CIRCUMSTANCES))
    differing = [key for key in keys if canonical_json(manifest.get(key)) != canonical_json(export.manifest.get(key))]
    yield Check(MANIFEST, tuple(f"{key} differs" for key in differing))
