"""Audits retrain, reuse earlier trainings, and score each method."""

import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from samples import corpus_frames, request_on, words_of

from provenance.core.errors import ContractError, ModelError
from provenance.core.settings import Settings
from provenance.local.attribute import folder_night
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.adapters.event_sequence import EventSequence
from provenance.validation import coalitions
from provenance.validation.audit import Options, audit_lds, values_of
from provenance.validation.coalitions import audit_srs
from provenance.validation.retrain import jobs, retrain
from tasks.where import opened

pytestmark = pytest.mark.night  # half a minute of trainings
SETTINGS = Settings.model_validate(
    {"cluster": {"workers": 1}, "features": {"dense": 64, "token_rank": 4}, "influence": {"sample": 24}}
)


@pytest.fixture(scope="module")
def request_of(tmp_path_factory, tiny_model):
    return request_on(tmp_path_factory.mktemp("audit"), tiny_model, count=4)


@pytest.fixture(scope="module")
def four_owners(tmp_path_factory, tiny_model):
    """A request on four owners, who have few coalitions."""
    request = request_on(tmp_path_factory.mktemp("four"), tiny_model, count=4)
    for name, frame in corpus_frames(owners=4).items():
        frame.write_parquet(request.corpus / f"{name}.parquet")
    return request


def trained(request):
    return {path.name: path.stat().st_mtime_ns for path in (request.out / "work/audits/truth").iterdir()}


def run(request, audit, options):
    with opened(SETTINGS, ledger=False) as where:
        local, night = folder_night(where, request)
        return local.store, audit(local, night, options)


def test_an_audit_scores_methods_and_reuses_trainings(request_of):
    store, folder = run(request_of, audit_lds, Options(subsets=4, tune=8, seeds=2, methods=("factored", "tfidf", "fitted")))
    result = store.read_json(f"{folder}/lds.json")
    assert set(result["families"]) == {"examples", "owners"}
    for family in result["families"].values():
        assert set(family["methods"]) == {"factored", "tfidf", "fitted"}
        assert family["subsets"] == 4
        assert all(m["low"] <= m["lds"] <= m["high"] <= 1 for m in family["methods"].values())
        assert family["seed_agreement"] <= family["ceiling"] <= 1
    # Each owner has words of their own, so leaving an owner out must show.
    assert result["families"]["owners"]["methods"]["factored"]["lds"] > 0.5
    assert set(result["weights"]) == {"examples", "owners"}
    for weights in result["weights"].values():
        assert {name.split("/")[-1] for name in weights} == {"head", "embedding", "inner", "words"}
        assert all(weight >= 0 for weight in weights.values())
        assert any(weights.values())
    assert result["tuning_subsets"] == {"examples": 8, "owners": 6}, "five owners have ten halves"
    assert store.read(f"{folder}/lds.png").startswith(b"\x89PNG")
    before = trained(request_of)
    run(request_of, audit_lds, Options(subsets=5, tune=8, seeds=2, methods=("factored", "tfidf")))
    after = trained(request_of)
    assert before.items() <= after.items(), "nothing is trained twice"
    assert len(after) <= len(before) + 4, "one more subset, two families, two seeds"


def test_royalty_rules_are_compared_with_training_on_every_coalition(four_owners):
    store, folder = run(four_owners, audit_srs, coalitions.Options(seeds=2, diagonal=8, trainings=(3,)))
    result = store.read_json(f"{folder}/srs.json")
    assert len(result["owners"]) == 4
    assert set(result["trainings"]) == {"3"}
    rules, by_rule = {"faithful", "srs", "banzhaf"}, result["trainings"]["3"]
    for rule in rules:
        assert 0 <= by_rule[rule]["held"] <= 1
        assert by_rule[rule]["l1"] < 2
    assert by_rule["report"]["models"] == 8
    assert by_rule["srs"]["l1"] < result["methods"]["sum of factored"]["srs"]["l1"]
    assert set(result["methods"]) == {"sum of factored", "sum of tfidf", "by tokens", "equal"}
    for shares in result["mean_shares"].values():
        assert sum(shares.values()) == pytest.approx(1)
    assert {f"{rule}, retrained" for rule in rules} <= set(result["mean_shares"])
    assert store.read(f"{folder}/srs.png").startswith(b"\x89PNG")


def test_an_adapter_that_cannot_train_is_named(request_of, monkeypatch):
    monkeypatch.delattr(CausalLM, "train")
    with pytest.raises(ModelError, match=r"adapter CausalLM: expected a method train\(contents, \*, seed, folder\)"):
        run(request_of, audit_lds, Options(methods=("factored",)))


def test_losses_of_another_recipe_or_base_have_other_names(request_of, tiny_model, tmp_path, doors):
    names = []
    for change in ("", "recipe", "base"):
        model = tmp_path / (change or "same")
        shutil.copytree(tiny_model, model)
        card = model / "model.toml"
        if change == "recipe":
            card.write_text(card.read_text().replace("weight_decay = 0.01", "weight_decay = 0.02"))
        if change == "base":
            shutil.copyfile(model / "step-0018.safetensors", model / "step-0000.safetensors")
        where, night = folder_night(doors(SETTINGS, ledger=False), replace(request_of, model=model))
        names += [job.name for job in jobs(where, night, np.ones((1, 60), dtype=bool), [1])]
    assert len(set(names)) == 3


def test_retrained_models_must_have_the_architecture_of_the_model_served(request_of, monkeypatch, doors):
    def train(self, contents, *, seed, folder, **_):
        EventSequence(self.folder, events=256).train(contents, seed=seed, folder=folder)

    monkeypatch.setattr(CausalLM, "train", train)
    where, night = folder_night(doors(SETTINGS, ledger=False), request_of)
    with pytest.raises(ModelError, match="expected 'CausalLM', the value of"):
        retrain(where, night, np.arange(60)[None, :] < 7, 99, "a few")


def test_the_commands_show_a_table(request_of, monkeypatch, shown):
    monkeypatch.setenv("PROVENANCE_INFLUENCE__SAMPLE", "24")
    monkeypatch.setenv("PROVENANCE_CLUSTER__WORKERS", "1")
    few = ("--workers", "1", "--methods", "tfidf,factored", "--subsets", "4", "--tune", "2")
    assert "noise ceiling" in shown("audit", "lds", *words_of(request_of), *few)
    assert (request_of.out / "lds.png").exists()
    result = shown("audit", "lds", *words_of(request_of), *few, "--json")
    assert set(result["families"]["owners"]["methods"]) == {"tfidf", "factored"}


@pytest.mark.parametrize(("audit", "options", "message"), [
    (audit_lds, Options(seeds=1), "audit: seeds: expected 2 or more, for the noise ceiling, found 1"),
    (audit_lds, Options(methods=("factored", "magic")), r"method: expected one of fitted, factored, .*, found 'magic'"),
    (audit_lds, Options(tune=0), r"audit: tune: expected 8 tuning subsets or more, .* 'fitted' on, found 0"),
    (audit_srs, coalitions.Options(seeds=1), "audit srs: seeds: expected 2 or more, for the noise of the truth, found 1"),
    (audit_srs, coalitions.Options(trainings=(4, 0)), "audit srs: trainings: expected 1 or more each, found 0"),
])  # fmt: skip
def test_options_are_checked_before_anything_is_trained(request_of, audit, options, message):
    with pytest.raises(ContractError, match=message):
        run(request_of, audit, options)


def test_one_owner_cannot_be_left_out(tmp_path, tiny_model):
    request = request_on(tmp_path, tiny_model, count=2)
    claims, examples = (pl.read_parquet(request.corpus / f"{name}.parquet") for name in ("claims", "examples"))
    alone = claims.with_columns(owner_id=pl.lit("owner-0"), stake_ppb=pl.lit(10**9)).unique("work_id")
    alone.write_parquet(request.corpus / "claims.parquet")
    examples.join(alone, on="work_id", how="semi").write_parquet(request.corpus / "examples.parquet")
    with pytest.raises(ContractError, match=r"expected at least 2 examples and 2 owners, .* of 1 owners"):
        run(request, audit_lds, Options(methods=("factored",)))


def test_values_of_examples_add_up_to_what_was_learnt_and_keep_the_order_of_influence():
    influence = {"inner": np.array([[3.0, 1.0, 2.0]]), "words": np.array([[0.0, 0.0, 6.0]])}
    values = values_of({"inner": 1.0, "words": 0.5}, influence, np.array([[-20.0], [-8.0]]))
    assert np.allclose(values, [[4.0, 2.0, 6.0]])
