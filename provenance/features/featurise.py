"""Stage `featurise`: features of every shard that has none yet, and the sums that normalise them, on the cluster."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import namespace_of
from provenance.core.errors import ExampleError, InputError, ModelError, StoreError, in_batch
from provenance.core.rows import Rows, decode, encode
from provenance.core.store import Store, digest
from provenance.corpus.shards import part_key
from provenance.features.gradients import gradient_features
from provenance.features.layers import layout
from provenance.features.plan import FeatureFile, compared, load_plan
from provenance.features.projection import Projection
from provenance.features.run_notes import Work, note
from provenance.features.words import word_features
from provenance.influence import statistics
from provenance.influence.methods import FACTORED, WORDS
from provenance.inputs.night import Night, load_night, night_to_compute
from provenance.models.frozen import checkpoint_named, fetch_model
from provenance.models.model import Adapter
from provenance.settlement.exports.export import MANIFEST, in_force, published_days
from tasks.cluster import compute, open_cluster
from tasks.settings import Settings, with_store

log = logging.getLogger("provenance.featurise")
# By thread, the name of the module that it has open, and the module: workers may be threads of one process, and a module in
# use has hooks of its own.
_OPEN: dict[int, tuple[tuple[str, ...], tuple[Adapter, torch.nn.Module]]] = {}


@dataclass(frozen=True)
class Recipe:
    """What every worker needs to know."""

    store: Store
    model: str
    model_files: dict[str, str]
    cache: str
    projection: Projection
    bits: dict[str, int]
    batch_size: int
    device: str

    def open(self, checkpoint: str) -> tuple[Adapter, torch.nn.Module]:
        """The adapter, and the module at a checkpoint."""
        return open_model(self.store, self.model, self.model_files, checkpoint, cache=self.cache, device=self.device)


def open_model(
    store: Store, model: str, files: dict[str, str], checkpoint: str, *, cache: str, device: str
) -> tuple[Adapter, torch.nn.Module]:
    """The adapter of a frozen model, and the module at a checkpoint.

    A worker keeps the last one until `close_models`: the next shard mostly needs the same.
    """
    thread, name = threading.get_ident(), (model, checkpoint, device, cache)
    kept = _OPEN.pop(thread, None)  # out of reach of who closes models meanwhile
    if kept is None or kept[0] != name:
        kept = None  # two would need twice the memory
        frozen = fetch_model(store, model, files, cache)
        kept = name, (frozen.adapter(), frozen.load(checkpoint_named(frozen, checkpoint), device=device))
    _OPEN[thread] = kept
    return kept[1]


def close_models() -> None:
    """Let go of the modules that this process' workers have open; a stage runs it on each worker when it is done."""
    _OPEN.clear()


def recipe(store: Store, night: Night, settings: Settings) -> Recipe:
    """How a night's features are made."""
    return Recipe(
        store,
        night.model,
        night.model_files,
        settings.model.cache,
        Projection(**night.method["projection"]),
        night.method["bits"],
        settings.features.batch_size,
        settings.cluster.device,
    )


def featurise(folder: str, settings: Settings | None = None) -> str:
    """Compute the feature files that the plan lacks; returns the night's folder."""
    settings, store = with_store(settings)
    night, plan = night_to_compute(store, folder), load_plan(store, folder)
    there = set(store.list("features")) & {key.replace("statistics/", "features/", 1) for key in store.list("statistics")}
    missing = {
        name: list({f.key: f for f in files if f.key not in there}.values())
        for name, files in (("corpus", plan.corpus), ("outputs", plan.outputs))
    }
    work = sorted(missing["corpus"] + missing["outputs"], key=lambda file: file.source)  # a worker keeps its model open
    if work:
        with open_cluster(settings.cluster) as client:
            for _ in compute(
                client,
                featurise_one,
                recipe(store, night, settings),
                work,
                settings=settings.cluster,
                what="features",
                name=lambda file: f"part {file.part} ({file.source})",
            ):
                pass
            client.run(close_models)
    for name, files in (("corpus shards", plan.corpus), ("outputs", plan.outputs)):
        computed = len(missing[name.split()[0]])
        log.info("features of %s: %d reused, %d computed", name, len(files) - computed, computed)
    done = Work(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        corpus_computed=len(missing["corpus"]),
        corpus_reused=len(plan.corpus) - len(missing["corpus"]),
        outputs_computed=len(missing["outputs"]),
        outputs_reused=len(plan.outputs) - len(missing["outputs"]),
        without_cause=without_cause(store, night, (file.key for file in missing["corpus"])),
        parameters_covered=(covered(night, settings) or {}).get("share") if work else None,
    )
    if done.without_cause:
        log.warning("%d feature files of the corpus were computed though an earlier night had them", done.without_cause)
    note(store, folder, done)
    return folder


def covered(night: Night, settings: Settings) -> dict[str, Any] | None:
    """The part of the parameters whose gradients are followed, and what is left out; None where no gradient is."""
    if FACTORED not in compared(night):
        return None
    model = fetch_model(settings.store.open(), night.model, night.model_files, settings.model.cache)
    shape = layout(model.adapter().module(), settings.features.projection)
    return {"share": shape.covered, "left_out": shape.left_out}


def without_cause(store: Store, night: Night, computed: Iterable[str]) -> int:
    """How many of the corpus's feature files that a night has computed, an earlier published night had had.

    Those that its plan names; and all of them where everything that features are made of was the same, so that other names
    are themselves without a cause. Every published night is looked at, but each kind of corpus and model once.
    """
    keys, seen, again = set(computed), set(), set[str]()
    if not keys:
        return 0
    for day in reversed(published_days(store)):
        try:
            folder = store.read_json(f"{in_force(store, day)['folder']}/{MANIFEST}")["night"]
            earlier = load_night(store, folder)
            ingredients = _ingredients(earlier)
            if ingredients == _ingredients(night):
                return len(keys)
            if ingredients not in seen:
                seen.add(ingredients)
                again |= keys & {file.key for file in load_plan(store, folder).corpus}
        except InputError as error:  # a broken export stops publishing, and not the work before it
            log.warning("%s is not looked at for features that it had: %s", day, error)
    return len(again)


def _ingredients(night: Night) -> str:
    """Digest of all that the corpus's features are made of."""
    names = ("name", "projection", "bits")
    version = night.method["versions"].get("features")
    return digest([night.corpus, night.model, night.checkpoints, version, *(night.method.get(name) for name in names)])


def read_features(store: Store, file: FeatureFile, device: str = "cpu") -> Rows:
    """Features as they were written, checked to be as many as were asked for."""
    rows = decode(load_tensors(store.read(file.key)), namespace_of(device))
    if rows.examples != file.rows:
        found = f"of {rows.examples}"
        raise StoreError(store.locate(file.key), expected=f"features of {file.rows} examples", found=found)
    return rows


def features_of(made: Recipe, kind: str, checkpoint: str) -> Callable[[pl.DataFrame], Rows]:
    """What turns a table with `content` and `modality` into features of a kind; the model is opened once."""
    if kind == WORDS:
        return lambda frame: word_features(frame["content"].to_list(), frame["modality"].to_list())
    adapter, module = made.open(checkpoint)
    where: dict[str, Any] = {"projection": made.projection, "checkpoint": checkpoint, "batch_size": made.batch_size}
    return lambda frame: gradient_features(adapter, module, frame["content"].to_list(), **where)


def _blame(features: Callable[[pl.DataFrame], Rows], frame: pl.DataFrame) -> None:
    """Raise for the first example that has no features even alone, by its name; an error of a batch names a row at best."""
    name = next(column for column in ("example_id", "output_id") if column in frame.columns)
    for one in frame.iter_slices(1):
        try:
            features(one)
        except ExampleError as error:
            where = f"{name} {one[name][0]!r}"
            where += "" if error.where == in_batch(0) else f": {error.where}"
            raise ModelError(where, expected=error.expected, found=error.found, hint=error.hint) from error


def featurise_one(made: Recipe, file: FeatureFile) -> str:
    """Compute and write the features of one part, and the sums that normalise them; returns the key."""
    frame = made.store.read_table(part_key(file.part))
    features = features_of(made, file.kind, file.checkpoint)
    try:
        rows = features(frame)
    except ExampleError:
        _blame(features, frame)
        raise
    exact = file.kind == WORDS  # counts are whole numbers already
    dense_bits, sparse_bits = (32, 32) if exact else (made.bits["dense"], made.bits["sparse"])
    facts = {"kind": file.kind, "checkpoint": file.checkpoint}
    tensors = encode(rows, dense_bits=dense_bits, sparse_bits=sparse_bits)
    made.store.write(file.statistics, save_tensors(statistics.to_tensors(statistics.gather(rows))))
    made.store.write(file.key, save_tensors(tensors, metadata=facts))
    return file.key
