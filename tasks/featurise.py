"""Stage `featurise`: gradient features of every shard and checkpoint that has none yet, on the cluster."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import to_numpy
from provenance.core.errors import StoreError
from provenance.corpus.shards import part_key
from provenance.features.gradients import gradient_features, layout
from provenance.features.projection import Projection
from tasks.cluster import compute, open_cluster
from tasks.night import checkpoint_named, fetch_model, load_night
from tasks.settings import load
from tasks.shard import FeatureFile, load_plan

if TYPE_CHECKING:
    from provenance.core.store import Store

log = logging.getLogger("provenance.featurise")


@dataclass(frozen=True)
class Recipe:
    """What every worker needs to know."""

    store: Store
    model: str
    model_files: dict[str, str]
    cache: str
    projection: Projection
    batch_size: int
    device: str


def featurise(folder: str) -> str:
    """Compute the feature files that the plan lacks; returns the night's folder."""
    settings = load()
    store = settings.store.open()
    night, plan = load_night(store, folder), load_plan(store, folder)
    there = set(store.list("features"))
    missing = {
        name: list({f.key: f for f in files if f.key not in there}.values())
        for name, files in (("corpus", plan.corpus), ("outputs", plan.outputs))
    }
    work = missing["corpus"] + missing["outputs"]
    if work:
        recipe = Recipe(
            store,
            night.model,
            night.model_files,
            settings.model.cache,
            Projection(**night.method["projection"]),
            settings.features.batch_size,
            settings.cluster.device,
        )
        with open_cluster(settings.cluster) as client:
            for _ in compute(
                client,
                _featurise_one,
                recipe,
                work,
                settings=settings.cluster,
                what="gradient features",
                name=lambda file: f"part {file.part} at {file.checkpoint}",
            ):
                pass
    for name, files in (("corpus shards", plan.corpus), ("outputs", plan.outputs)):
        computed = len(missing[name.split()[0]])
        log.info("features of %s: %d reused, %d computed", name, len(files) - computed, computed)
    return folder


def read_features(store: Store, file: FeatureFile) -> np.ndarray:
    """Features `(rows, p)` as they were written, checked to be those that were asked for."""
    data = store.read(file.key)
    features: np.ndarray = load_tensors(data)["features"]
    if features.ndim != 2 or len(features) != file.rows:
        raise StoreError(store.locate(file.key), expected=f"features of {file.rows} examples", found=f"shape {features.shape}")
    return features


def _featurise_one(recipe: Recipe, file: FeatureFile) -> str:
    contents = recipe.store.read_table(part_key(file.part))["content"].to_list()
    model = fetch_model(recipe.store, recipe.model, recipe.model_files, recipe.cache)
    module = model.load(checkpoint_named(model, file.checkpoint), device=recipe.device)
    features = gradient_features(
        model.adapter(),
        module,
        contents,
        projection=recipe.projection,
        checkpoint=file.checkpoint,
        batch_size=recipe.batch_size,
    )
    facts: dict[str, Any] = {
        "checkpoint": file.checkpoint,
        "covered": f"{layout(module, recipe.projection).covered:.6f}",
        **{name: str(value) for name, value in recipe.projection.as_json().items()},
    }
    recipe.store.write(file.key, save_tensors({"features": np.ascontiguousarray(to_numpy(features))}, metadata=facts))
    return file.key
