"""`provenance royalty`: shares under every rule, by counterfactual models or, if they are too few, by the fallback."""

import json
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest
from samples import corpus_frames, lay_corpus_out, request_on

from provenance.core.errors import ContractError
from provenance.core.money import PPB
from provenance.local import attribute as local
from provenance.local import royalty as divide
from provenance.models.counterfactual_training import plan_trainings, train
from provenance.models.subject import subject_of
from provenance.royalty.shares import BY_VALUE
from tasks.where import local_settings, opened

DAY = date(2026, 11, 19)
TOO_FEW = ["5 counterfactual models; 8 are the fewest"]


def settings(**corpus):
    full = local_settings(device="cpu", workers=1)
    small = full.influence.model_copy(update={"sample": 24, "checkpoints": 2})
    return full.model_copy(update={"influence": small, "corpus": full.corpus.model_copy(update=corpus)})


def attribute(request, **corpus):
    with opened(settings(**corpus), ledger=False) as where:
        return local.attribute(where, request)


def royalty(influence, rule, **how):
    with opened(settings(), ledger=False) as where:
        return divide.royalty(where, influence, rule, **how)


@pytest.fixture(scope="module")
def supported(tmp_path_factory, tiny_model, tiny_set):
    """A folder that `attribute` wrote, with counterfactual models."""
    folder = tmp_path_factory.mktemp("royalty")
    request = request_on(folder, tiny_model, out=folder / "result", day=DAY, counterfactuals=tiny_set)
    attribute(request)
    return request


@pytest.fixture(scope="module")
def without(supported):
    """The same without counterfactual models."""
    request = replace(supported, out=supported.out.with_name("without"), counterfactuals=None)
    attribute(request)
    return request


def divided(request, rule="faithful", *, duplicates=True, **how):
    out = request.out / "shares.parquet"
    report = royalty(request.out, rule, duplicates=duplicates, out=out, **how)
    return report, pl.read_parquet(out)


def differences(shares, others):
    both = shares.join(others, on=["output_id", "owner_id", "account"], how="full", coalesce=True).fill_null(0)
    return (both["share_ppb"] - both["share_ppb_right"]).abs().max()


@pytest.mark.parametrize("rule", [*BY_VALUE, "proportional", "flat"])
def test_the_rule_pays_with_counterfactual_models_and_rules_by_value_fall_back_without(supported, without, rule):
    for request in (supported, without):
        report, table = divided(request, rule)
        assert table.columns == ["output_id", "owner_id", "account", "share_ppb", "low_ppb", "high_ppb"]
        assert table.group_by("output_id").agg(pl.col("share_ppb").sum())["share_ppb"].to_list() == [PPB] * 8
        assert ((table["low_ppb"] <= table["share_ppb"]) & (table["share_ppb"] <= table["high_ppb"])).all()
        assert (report["rule"], report["outputs"]) == (rule, 8)
        if request is without and rule in BY_VALUE:
            assert (report["paid_by"], report["counterfactuals"]["weights"]) == ("proportional", "default")
            assert report["unsupported"] == ["0 counterfactual models; 8 are the fewest"]
            assert table.equals(divided(without, "proportional")[1])
        elif rule in BY_VALUE:
            assert (report["paid_by"], report["unsupported"]) == (rule, [])
            assert (report["counterfactuals"]["models"], report["counterfactuals"]["weights"]) == (9, "fitted")
            assert not table.equals(divided(supported, "proportional")[1])
            assert (table["high_ppb"] > table["low_ppb"]).all()


def test_models_may_be_given_to_royalty_alone(without, supported, tiny_set):
    report, table = divided(without, "faithful", counterfactuals=tiny_set)
    assert report["paid_by"] == "faithful"
    assert table.equals(divided(supported, "faithful")[1])
    with pytest.raises(ContractError, match=r"--counterfactuals .*corpus: expected counterfactual models of .*found none"):
        divided(without, "faithful", counterfactuals=supported.corpus)


def test_too_few_models_are_no_support(supported, tiny_model, tmp_path):
    with opened(settings().at(tmp_path / "few", tiny_model), ledger=False) as few:
        subject = subject_of(few, supported.corpus, tiny_model, DAY, copies=True)
        train(few, subject, plan_trainings(subject, 1))
    assert divided(supported, "srs", counterfactuals=tmp_path / "few")[0]["unsupported"] == TOO_FEW, "the given set alone"
    alone = replace(supported, out=tmp_path / "result", counterfactuals=tmp_path / "few")
    attribute(alone)
    assert divided(alone, "srs")[0]["unsupported"] == TOO_FEW


def test_a_damaged_result_and_an_output_that_is_a_folder_are_refused(supported, tmp_path):
    with pytest.raises(ContractError, match="expected a Parquet file to write, found a folder"):
        royalty(supported.out, "flat", duplicates=False, out=tmp_path)
    for text in ("{", "{}", "[]"):
        (tmp_path / "copy/work").mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy/manifest.json").write_text(text)
        with pytest.raises(
            ContractError, match=r"copy/manifest.json: expected a manifest that `attribute` wrote, found .*Run `provenance"
        ):
            royalty(tmp_path / "copy", "flat", duplicates=False, out=tmp_path / "shares.parquet")


def test_copies_count_once_with_a_search_for_copies(supported, tmp_path):
    frames = corpus_frames()
    copies = frames["examples"].filter(pl.col("work_id") == "work-3-0").with_columns(work_id=pl.lit("copy"))
    claims = pl.concat([frames["claims"], pl.DataFrame({"work_id": ["copy"], "owner_id": ["owner-0"], "stake_ppb": [PPB]})])
    dates = {"work-3-0": date(2020, 1, 1), "copy": date(2024, 1, 1)}
    claims = claims.with_columns(valid_from=pl.col("work_id").replace_strict(dates, default=None, return_dtype=pl.Date))
    lay_corpus_out(tmp_path, {"examples": pl.concat([frames["examples"], copies]), "claims": claims})
    request = replace(supported, corpus=tmp_path / "corpus", out=tmp_path / "result", counterfactuals=None)
    attribute(request)
    share = {copies: divided(request, "flat", duplicates=copies)[0]["mean_share"] for copies in (True, False)}
    assert share[False]["owner-0"] > share[True]["owner-0"]
    assert share[True]["owner-3"] > share[False]["owner-3"]


def test_an_owner_with_several_names_earns_as_much_from_the_same_models(supported, tmp_path):
    _, whole = divided(supported, duplicates=False)
    frames = corpus_frames()
    claims = frames["claims"]
    works = claims.filter(pl.col("owner_id") == "owner-2")["work_id"].to_list()
    names = {work: f"owner-2-{number}" for number, work in enumerate(works)}
    split = claims.with_columns(owner_id=pl.col("work_id").replace_strict(names, default=pl.col("owner_id")))
    lay_corpus_out(tmp_path, {"examples": frames["examples"], "claims": split})
    request = replace(supported, corpus=tmp_path / "corpus", out=tmp_path / "result")
    attribute(request)
    report, by_name = divided(request, duplicates=False)
    assert report["paid_by"] == "faithful"
    joined = by_name.with_columns(pl.col("owner_id").str.replace("^owner-2-.*", "owner-2"))
    joined = joined.group_by("output_id", "owner_id", "account").agg(pl.col("share_ppb").sum())
    assert joined.filter(owner_id="owner-2").height == 8
    assert differences(joined, whole) <= 0.002 * PPB


def test_neither_shards_nor_their_order_change_a_share(supported, tmp_path):
    lay_corpus_out(tmp_path, {name: frame.reverse() for name, frame in corpus_frames().items()})
    request = replace(supported, corpus=tmp_path / "corpus", out=tmp_path / "result")
    attribute(request, shard_examples=8)
    for rule in ("faithful", "proportional"):
        assert differences(divided(supported, rule)[1], divided(request, rule)[1]) <= PPB * 1e-4


def test_attribute_weighs_components_by_its_counterfactual_models(supported, without):
    requests = (supported, without)
    fitted, default = (json.loads((request.out / "manifest.json").read_text())["counterfactuals"] for request in requests)
    assert (fitted["weights"], fitted["models"], default["weights"]) == ("fitted", 9, "default")
    assert set(fitted["components"]) == set(default["components"])
    assert all(weight >= 0 for weight in fitted["components"].values())
    assert not np.allclose(*(pl.read_parquet(request.out / "scores.parquet")["influence"] for request in requests))


def test_a_folder_that_attribute_did_not_write_is_refused(tmp_path, refused):
    error = refused("royalty", "--influence", str(tmp_path), "--out", str(tmp_path / "x.parquet"))
    assert "expected a folder that `attribute` wrote" in error


def test_the_command_shows_the_rule_that_pays_and_its_fidelity(supported, without, tmp_path, shown):
    words = ("--out", str(tmp_path / "x.parquet"), "--rule", "srs", "--workers", "1", "--device", "cpu")
    screen = " ".join(shown("royalty", "--influence", str(supported.out), *words).split())
    assert "Mean shares of 8 outputs, rule srs" in screen
    assert "9 counterfactual models, each left out and predicted: rank correlation estimate" in screen
    assert "90 % intervals contain the models' results: left out" in screen
    assert "not supported" not in screen
    screen = " ".join(shown("royalty", "--influence", str(without.out), *words).split())
    assert "Mean shares of 8 outputs, rule proportional" in screen
    assert "The rule srs is not supported, and proportional decides: 0 counterfactual models; 8 are the fewest" in screen
    assert shown("royalty", "--influence", str(without.out), *words, "--json")["paid_by"] == "proportional"
