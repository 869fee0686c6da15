"""What workers keep between shards, and what a night notes of its work."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from samples import request_on

from provenance.core.store import canonical_json
from provenance.features.featurise import close_models, featurise, recipe, without_cause
from provenance.features.plan import load_plan, shard
from provenance.features.run_notes import noted
from provenance.local.attribute import local_settings, opened

SETTINGS = local_settings(method="factored", device="cpu", workers=1)


@pytest.fixture
def made(tmp_path, tiny_model):
    with opened(request_on(tmp_path, tiny_model), SETTINGS) as (here, night):
        yield recipe(here.store.open(), night, here), night.checkpoints
    close_models()


def test_a_worker_opens_a_checkpoint_once_and_keeps_one(made):
    recipe_of_night, (first, second, *_) = made
    one = recipe_of_night.open(first)
    assert recipe_of_night.open(first)[1] is one[1]
    other = recipe_of_night.open(second)[1]
    assert any((a != b).any() for a, b in zip(one[1].parameters(), other.parameters(), strict=True))
    again = recipe_of_night.open(first)[1]
    assert again is not one[1]
    assert all((a == b).all() for a, b in zip(one[1].parameters(), again.parameters(), strict=True))
    close_models()
    assert recipe_of_night.open(first)[1] is not again


def test_workers_that_share_a_process_share_no_module(made):
    """A module in use has hooks on it: another thread's passes would end in this one's features."""
    recipe_of_night, (first, *_) = made
    here = recipe_of_night.open(first)[1]
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(recipe_of_night.open, first).result()[1]
    assert here is not there


def test_a_night_notes_what_it_computes_and_what_it_need_not_have(tmp_path, tiny_model):
    settings = SETTINGS.model_copy(update={"cluster": SETTINGS.cluster.model_copy(update={"processes": False})})
    with opened(request_on(tmp_path, tiny_model), settings) as (here, night):
        store, folder = here.store.open(), night.folder
        shard(folder, here)
        files = load_plan(store, folder).corpus
        featurise(folder, here)
        featurise(folder, here)
        first, second = noted(store, folder)
        assert (first.corpus_computed, first.corpus_reused, first.without_cause) == (len(files), 0, 0)
        assert (second.corpus_computed, second.corpus_reused, second.outputs_computed) == (0, len(files), 0)
        assert first.outputs_computed == second.outputs_reused > 0
        assert first.parameters_covered > 0.9
        assert second.parameters_covered is None, "nothing was opened"
        export = "exports/payouts/day=2026-11-20/rev=0001"
        store.write(f"{export}/manifest.json", canonical_json({"night": folder}))
        pointer = {"revision": 1, "folder": export, "manifest_sha256": ""}
        store.write("exports/payouts/day=2026-11-20/current.json", canonical_json(pointer))
        store.remove(files[0].key)
        featurise(folder, here)
        third = noted(store, folder)[2]
        assert (third.corpus_computed, third.without_cause) == (1, 1)
        assert noted(store, folder)[0] == first

        later = replace(night, day="2026-11-21")
        keys = [file.key for file in files]
        assert without_cause(store, later, keys) == len(keys)
        assert without_cause(store, later, ["features/of-another-name.safetensors"]) == 1, "all it is made of was the same"
        other = replace(later, corpus="another")
        assert without_cause(store, other, ["features/new.safetensors", keys[0]]) == 1, "a shard that both corpora have"
        assert without_cause(store, other, []) == 0
        store.write(f"{export}/manifest.json", b"not JSON")
        assert without_cause(store, later, keys) == 0, "an export that cannot be read stops no night"
