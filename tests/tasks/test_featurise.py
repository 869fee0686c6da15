"""What workers keep between shards."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
from samples import lay_out

from tasks.attribute import Request, local_settings, opened
from tasks.featurise import close_models, recipe


@pytest.fixture
def made(tmp_path, tiny_model):
    lay_out(tmp_path)
    request = Request(tmp_path / "corpus", tiny_model, tmp_path / "outputs.parquet", tmp_path / "out", date(2026, 11, 20))
    settings = local_settings(method="factored", hybrid_weight=None, device="cpu", workers=1)
    with opened(request, settings) as (here, night):
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
