"""Several files in a task, read ahead and written behind as on a GPU, give the same bytes as one file in a task."""

from dataclasses import replace

from samples import request_on

from provenance.core import overlap
from provenance.core.where import batched
from provenance.features import featurise as features
from provenance.features import stage
from provenance.influence import night_scores
from provenance.local.attribute import attribute
from tasks.where import local_settings


def results_of(where, request):
    attribute(where, request)
    store = where.at(request.out / "work").store
    scores = [key for key in store.list("nights") if "/influence/" in key or key.endswith("scores.json")]
    return {key: store.read(key) for key in [*store.list("features"), *store.list("statistics"), *scores]}


def test_groups_of_files_give_the_same_bytes(tmp_path, tiny_model, doors, monkeypatch):
    settings = local_settings(method="fitted", device="cpu", workers=1)
    cut = settings.corpus.model_copy(update={"shard_examples": 6})
    where, request = doors(settings.model_copy(update={"corpus": cut}), ledger=False), request_on(tmp_path, tiny_model)
    expected = results_of(where, request)
    assert sum(key.startswith("features/") for key in expected) > 8
    sizes = []
    monkeypatch.setattr(features, "behind", lambda **_: overlap.behind(overlap=True))
    monkeypatch.setattr(night_scores, "ahead", lambda *sides, **_: overlap.ahead(*sides, overlap=True))
    monkeypatch.setattr(stage, "TOGETHER", {"cpu": 4})
    monkeypatch.setattr(stage, "batched", lambda items, size: sizes.append((len(items), size)) or batched(items, size))
    assert results_of(where, replace(request, out=tmp_path / "together")) == expected
    assert sizes
    assert all(items > size == 4 for items, size in sizes)
