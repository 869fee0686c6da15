"""Audits and appeals retrain what is served: by its recipe, from where its training started."""

import numpy as np
import pytest
from samples import request_on
from trainers import corpus, tiny_llama, trainer

from provenance.core.errors import ModelError
from provenance.core.settings import Settings
from provenance.local.attribute import folder_night
from provenance.models.model import Model
from provenance.models.recording import Recorder
from provenance.models.writing import CARD
from provenance.validation import retrain as retraining
from provenance.validation.retrain import base_and_served, retrain
from tasks.where import opened

SETTINGS = Settings.model_validate({"cluster": {"workers": 1}})
EVERYTHING, NOTHING = np.ones((1, 60), dtype=bool), np.zeros((1, 60), dtype=bool)


@pytest.fixture
def night_of(tmp_path):
    """A function that opens a night of a model on folders."""
    with opened(SETTINGS, ledger=False) as where:
        yield lambda model: folder_night(where, request_on(tmp_path, model, count=4))


def test_with_the_served_seed_and_everything_the_served_model_is_trained_again_bit_for_bit(night_of, tiny_model):
    where, night = night_of(tiny_model)
    again, other = (retrain(where, night, EVERYTHING, seed, "everything") for seed in (1, 2))
    served = -base_and_served(where, night)[1]
    assert np.array_equal(again[0], served)
    assert not np.array_equal(other[0], served)


def test_outputs_are_scored_on_the_device_of_the_workers(night_of, tiny_model, monkeypatch):
    where, night = night_of(tiny_model)
    devices, load = [], Model.load
    monkeypatch.setattr(Model, "load", lambda self, *args, **how: (devices.append(how["device"]), load(self, *args, **how))[1])
    base_and_served(where, night)
    assert devices == [where.workers.device] * 2


@pytest.fixture
def tuned(tmp_path):
    """A model that was fine-tuned by a trainer and recorded."""
    works, contents = corpus(60)
    recorder = Recorder(tmp_path / "tuned", works, contents)
    trainer(tiny_llama(seed=3), contents, tmp_path / "run", recorder, learning_rate=0.01, num_train_epochs=6).train()
    return tmp_path / "tuned"


def test_the_audit_of_a_fine_tune_starts_from_its_base_and_ends_near_it(night_of, tuned, monkeypatch):
    where, night = night_of(tuned)
    base, served = -base_and_served(where, night)
    checked, check = [], retraining.check_same_recipe
    monkeypatch.setattr(retraining, "check_same_recipe", lambda *models: (checked.append(models), check(*models)))
    again = retrain(where, night, EVERYTHING, 5, "everything")[0]
    ((model, trained),) = checked
    first = model.card.checkpoints[0].file
    assert trained.files[first] == model.files[first]
    # Only the order of examples differs: the noise of training.
    assert np.abs(again - served).mean() < 0.2 * np.abs(base - served).mean()
    monkeypatch.setattr(retraining, "train_model", None)
    assert np.array_equal(retrain(where, night, NOTHING, 5, "nothing")[0], base), "where it started, without a training"


def test_an_audit_of_a_run_whose_recipe_is_not_known_is_refused(night_of, tuned):
    card = tuned / CARD
    card.write_text(
        "".join(line for line in card.read_text().splitlines(keepends=True) if not line.startswith("learning_rate ="))
    )
    where, night = night_of(tuned)
    with pytest.raises(ModelError, match=r"expected the recipe of the run, with learning_rate, found nothing"):
        retrain(where, night, EVERYTHING, 5, "everything")
