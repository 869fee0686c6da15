"""Workers keep a module open between shards, and a night notes the number of files that it computed."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from samples import request_on

from provenance.core.store import canonical_json
from provenance.features.featurise import featuriser
from provenance.features.plan import load_plan
from provenance.features.recomputed import count_recomputed
from provenance.features.run_notes import read_notes
from provenance.features.stage import featurise, plan
from provenance.local.attribute import folder_night
from provenance.models.frozen import close_models
from tasks.where import local_settings

SETTINGS = local_settings(method="factored", device="cpu", workers=1)


@pytest.fixture
def worker_and_checkpoints(tmp_path, tiny_model, doors):
    where, night = folder_night(doors(SETTINGS, ledger=False), request_on(tmp_path, tiny_model))
    yield featuriser(where, night), night.checkpoints
    close_models()


def test_a_worker_opens_a_checkpoint_once_keeps_one_and_shares_it_with_no_other(worker_and_checkpoints):
    worker, (first, second, *_) = worker_and_checkpoints
    module = worker.open(first)[1]
    assert worker.open(first)[1] is module
    other = worker.open(second)[1]
    assert any((a != b).any() for a, b in zip(module.parameters(), other.parameters(), strict=True))
    reopened = worker.open(first)[1]
    assert reopened is not module
    assert all((a == b).all() for a, b in zip(module.parameters(), reopened.parameters(), strict=True))
    with ThreadPoolExecutor(1) as pool:
        of_another_thread = pool.submit(worker.open, first).result()[1]
    assert of_another_thread is not reopened, "a module in use has hooks, which would add passes of another thread"
    close_models()
    assert worker.open(first)[1] is not reopened


def test_a_night_notes_computed_reused_and_recomputed_files(tmp_path, tiny_model, doors):
    where, night = folder_night(doors(SETTINGS, ledger=False), request_on(tmp_path, tiny_model))
    store, folder = where.store, night.folder
    plan(where, folder)
    files = load_plan(store, folder).corpus
    featurise(where, folder)
    featurise(where, folder)
    first, second = read_notes(store, folder)
    assert (first.corpus_computed, first.corpus_reused, first.without_cause) == (len(files), 0, 0)
    assert (second.corpus_computed, second.corpus_reused, second.outputs_computed) == (0, len(files), 0)
    assert first.outputs_computed == second.outputs_reused > 0
    assert first.parameters_covered > 0.9
    assert second.parameters_covered is None, "no model was opened"
    export = "exports/payouts/day=2026-11-20/rev=0001"
    store.write(f"{export}/manifest.json", canonical_json({"night": folder}))
    pointer = {"revision": 1, "folder": export, "manifest_sha256": ""}
    store.write("exports/payouts/day=2026-11-20/current.json", canonical_json(pointer))
    store.remove(files[0].key)
    featurise(where, folder)
    third = read_notes(store, folder)[2]
    assert (third.corpus_computed, third.without_cause) == (1, 1)
    assert read_notes(store, folder)[0] == first

    later = replace(night, day="2026-11-21")
    keys = [file.key for file in files]
    assert count_recomputed(store, later, keys) == len(keys)
    assert count_recomputed(store, later, ["features/of-another-name.safetensors"]) == 1, "all ingredients were the same"
    other = replace(later, corpus="another")
    assert count_recomputed(store, other, ["features/new.safetensors", keys[0]]) == 1, "one shard is in both corpora"
    assert count_recomputed(store, other, []) == 0
    store.write(f"{export}/manifest.json", b"not JSON")
    assert count_recomputed(store, later, keys) == 0, "a broken export stops no night"
