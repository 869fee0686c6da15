"""The counterfactual models of a model, trained by their DAG, killed on the way, and the nights before and after them."""

import pytest
from samples import DAY, corpus_frames, deliver

from provenance.core.store import Store

pytestmark = pytest.mark.night
NEXT = "2026-11-20"


@pytest.fixture(scope="module")
def history(new_operator, tmp_path_factory):
    """A night without counterfactual models; their training, killed and run again, twice; the night again and the next one."""
    operator = new_operator(Store(f"file://{tmp_path_factory.mktemp('store')}", {}), "counterfactuals")
    operator.environment["PROVENANCE_COUNTERFACTUALS__TRAININGS"] = "3"
    deliver(operator.store, corpus_frames(), days=(DAY, NEXT))
    operator.ingest()
    operator.night(DAY)
    operator.killed_after("train_counterfactuals", DAY, "counterfactuals/", 4)
    found = {"killed": names(operator.store)}
    for run in ("trained", "again"):
        operator.succeeds("train_counterfactuals", DAY)
        found[run], found[f"{run} log"] = names(operator.store), operator.log
    operator.night(DAY)
    operator.night(NEXT)
    return operator, found


def names(store):
    return {key.rsplit("/", 1)[1] for key in store.list("counterfactuals") if key.endswith(".json")}


def manifest(store, day, revision):
    return store.read_json(f"exports/payouts/day={day}/rev={revision:04d}/manifest.json")


def test_a_training_that_was_killed_goes_on_to_the_whole_set(history):
    _, found = history
    assert found["killed"], "something was recorded before the kill"
    assert found["killed"] < found["trained"]
    assert len(found["trained"]) == 5 + 2 + 2, "each of five owners alone, and two pairs"


def test_a_whole_set_has_nothing_to_train(history):
    _, found = history
    assert found["again"] == found["trained"]
    assert "to train" not in found["again log"]


def test_a_model_without_counterfactual_models_is_paid_by_the_fallback_and_says_so(history):
    operator, _ = history
    (fidelity,) = manifest(operator.store, DAY, 1)["fidelity"].values()
    assert fidelity["models"] == 0
    assert fidelity["paid_by"] == {"flat": 1.0}
    assert fidelity["failed"] == ["0 counterfactual models; 8 are the fewest"]


def test_a_day_run_again_with_them_is_booked_by_difference_and_measured(history):
    operator, found = history
    second = manifest(operator.store, DAY, 2)
    assert set(second["inputs"]["counterfactuals"]) == {name.removesuffix(".json") for name in found["trained"]}
    (fidelity,) = second["fidelity"].values()
    assert fidelity["models"] == 9
    assert {"estimate", "influence", "size", "tfidf"} == set(fidelity["lds"])
    assert sum(fidelity["paid_by"].values()) == 1


def test_the_next_night_asks_every_model_about_its_own_outputs_alone(history):
    operator, _ = history
    assert "likelihoods: 0 reused, 11 computed" in operator.log, "the base, the model served and nine others"
