"""`provenance royalty`: shares under every rule, by counterfactual models or, without their support, by what pays instead."""

import json
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest
from samples import corpus_frames, lay_corpus_out, request_on

from provenance.core.errors import ContractError
from provenance.core.money import PPB
from provenance.local.attribute import attribute, local_settings
from provenance.local.royalty import royalty
from provenance.models.counterfactuals import planned, subject_of, train
from provenance.royalty.shares import BY_VALUE

DAY = date(2026, 11, 19)


def settings(**corpus):
    made = local_settings(device="cpu", workers=1)
    small = made.influence.model_copy(update={"sample": 24, "checkpoints": 2})
    return made.model_copy(update={"influence": small, "corpus": made.corpus.model_copy(update=corpus)})


@pytest.fixture(scope="module")
def asked(tmp_path_factory, tiny_model, tiny_set):
    """A folder that `attribute` wrote, with counterfactual models."""
    folder = tmp_path_factory.mktemp("royalty")
    request = request_on(folder, tiny_model, out=folder / "result", day=DAY, counterfactuals=tiny_set)
    attribute(request, settings())
    return request


@pytest.fixture(scope="module")
def without(asked):
    """The same without counterfactual models."""
    request = replace(asked, out=asked.out.with_name("without"), counterfactuals=None)
    attribute(request, settings())
    return request


def divided(request, rule="faithful", *, duplicates=True, **how):
    out = request.out / "shares.parquet"
    made = royalty(request.out, rule, duplicates=duplicates, out=out, settings=settings(), **how)
    return made, pl.read_parquet(out)


@pytest.mark.parametrize("models", ["asked", "without"])
@pytest.mark.parametrize("rule", [*BY_VALUE, "proportional", "flat"])
def test_shares_under_every_rule_sum_to_one_billion(request, models, rule):
    made, table = divided(request.getfixturevalue(models), rule)
    assert table.columns == ["output_id", "owner_id", "account", "share_ppb", "low_ppb", "high_ppb"]
    sums = table.group_by("output_id").agg(pl.col("share_ppb").sum())
    assert sums["share_ppb"].to_list() == [PPB] * 8
    assert made["outputs"] == 8
    assert (table["low_ppb"] <= table["share_ppb"]).all()
    assert (table["share_ppb"] <= table["high_ppb"]).all()


@pytest.mark.parametrize("rule", BY_VALUE)
def test_with_counterfactual_models_a_rule_by_value_pays(asked, rule):
    made, table = divided(asked, rule)
    assert (made["rule"], made["paid_by"], made["unsupported"]) == (rule, rule, [])
    assert made["counterfactuals"]["models"] == 9
    assert made["counterfactuals"]["weights"] == "fitted"
    assert not table.equals(divided(asked, "proportional")[1])
    assert (table["high_ppb"] > table["low_ppb"]).all()


@pytest.mark.parametrize("rule", BY_VALUE)
def test_without_them_the_fallback_pays_and_says_so(without, rule):
    made, table = divided(without, rule)
    assert made["paid_by"] == "proportional"
    assert made["unsupported"] == ["0 counterfactual models; 8 are the fewest"]
    assert made["counterfactuals"]["weights"] == "default"
    assert table.equals(divided(without, "proportional")[1])


def test_models_may_be_named_once_shares_are_asked_for(without, asked, tiny_set):
    made, table = divided(without, "faithful", counterfactuals=tiny_set)
    assert made["paid_by"] == "faithful"
    assert table.equals(divided(asked, "faithful")[1])
    with pytest.raises(ContractError, match=r"--counterfactuals .*corpus: expected counterfactual models of .*found none"):
        divided(without, "faithful", counterfactuals=asked.corpus)


def test_too_few_models_are_no_support(asked, tiny_model, tmp_path):
    few = settings().at(tmp_path / "few", tiny_model)
    subject = subject_of(few, asked.corpus, tiny_model, DAY, copies=True)
    train(subject, planned(subject, 1), few)
    made, _ = divided(asked, "srs", counterfactuals=tmp_path / "few")
    assert made["unsupported"] == ["5 counterfactual models; 8 are the fewest"], "the set that is named, and no other"
    alone = replace(asked, out=tmp_path / "result", counterfactuals=tmp_path / "few")
    attribute(alone, settings())
    made, _ = divided(alone, "srs")
    assert made["unsupported"] == ["5 counterfactual models; 8 are the fewest"]


def test_a_result_that_is_no_more_one_and_an_output_that_is_a_folder_are_refused(asked, tmp_path):
    with pytest.raises(ContractError, match="expected a Parquet file to write, found a folder"):
        royalty(asked.out, "flat", duplicates=False, out=tmp_path, settings=settings())
    for text in ("{", "{}", "[]"):
        (tmp_path / "copy/work").mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy/manifest.json").write_text(text)
        with pytest.raises(
            ContractError, match=r"copy/manifest.json: expected what `attribute` wrote, found .*Run `provenance"
        ):
            royalty(tmp_path / "copy", "flat", duplicates=False, out=tmp_path / "shares.parquet", settings=settings())


def test_copies_count_once_if_they_are_looked_for(asked, tmp_path):
    frames = corpus_frames()
    copies = frames["examples"].filter(pl.col("work_id") == "work-3-0").with_columns(work_id=pl.lit("copy"))
    claims = pl.concat([frames["claims"], pl.DataFrame({"work_id": ["copy"], "owner_id": ["owner-0"], "stake_ppb": [PPB]})])
    dates = {"work-3-0": date(2020, 1, 1), "copy": date(2024, 1, 1)}
    claims = claims.with_columns(valid_from=pl.col("work_id").replace_strict(dates, default=None, return_dtype=pl.Date))
    lay_corpus_out(tmp_path, {"examples": pl.concat([frames["examples"], copies]), "claims": claims})
    request = replace(asked, corpus=tmp_path / "corpus", out=tmp_path / "result", counterfactuals=None)
    attribute(request, settings())
    share = {copies: divided(request, "flat", duplicates=copies)[0]["mean_share"] for copies in (True, False)}
    assert share[False]["owner-0"] > share[True]["owner-0"]
    assert share[True]["owner-3"] > share[False]["owner-3"]


def test_an_owner_who_claims_by_several_names_earns_as_much_from_the_same_models(asked, tmp_path):
    _, whole = divided(asked, duplicates=False)
    frames = corpus_frames()
    claims = frames["claims"]
    works = claims.filter(pl.col("owner_id") == "owner-2")["work_id"].to_list()
    whose = {work: f"owner-2-{number}" for number, work in enumerate(works)}
    split = claims.with_columns(owner_id=pl.col("work_id").replace_strict(whose, default=pl.col("owner_id")))
    lay_corpus_out(tmp_path, {"examples": frames["examples"], "claims": split})
    request = replace(asked, corpus=tmp_path / "corpus", out=tmp_path / "result")
    attribute(request, settings())
    made, parted = divided(request, duplicates=False)
    assert made["paid_by"] == "faithful"
    mine = parted.filter(pl.col("owner_id").str.starts_with("owner-2")).group_by("output_id").agg(pl.col("share_ppb").sum())
    was = whole.filter(pl.col("owner_id") == "owner-2").select("output_id", was="share_ppb")
    both = was.join(mine, on="output_id", how="full", coalesce=True).fill_null(0)
    assert both.height == 8
    assert (both["was"] - both["share_ppb"]).abs().max() <= 0.002 * PPB
    others = parted.filter(~pl.col("owner_id").str.starts_with("owner-2"))
    same = others.join(whole, on=["output_id", "owner_id", "account"])
    assert (same["share_ppb"] - same["share_ppb_right"]).abs().max() <= 0.002 * PPB


@pytest.mark.parametrize("rule", ["faithful", "proportional"])
def test_neither_shards_nor_their_order_change_a_share(asked, tmp_path, rule):
    _, one = divided(asked, rule)
    lay_corpus_out(tmp_path, {name: frame.reverse() for name, frame in corpus_frames().items()})
    request = replace(asked, corpus=tmp_path / "corpus", out=tmp_path / "result")
    attribute(request, settings(shard_examples=8))
    _, two = divided(request, rule)
    both = one.join(two, on=["output_id", "owner_id", "account"], how="full", coalesce=True).fill_null(0)
    assert (both["share_ppb"] - both["share_ppb_right"]).abs().max() <= PPB * 1e-4


def test_components_are_weighed_by_the_models_that_attribute_is_given(asked, without):
    fitted, default = (json.loads((each.out / "manifest.json").read_text())["counterfactuals"] for each in (asked, without))
    assert fitted["weights"] == "fitted"
    assert fitted["models"] == 9
    assert default["weights"] == "default"
    assert set(fitted["components"]) == set(default["components"])
    assert all(weight >= 0 for weight in fitted["components"].values())
    one, two = (pl.read_parquet(each.out / "scores.parquet")["influence"] for each in (asked, without))
    assert not np.allclose(one, two)


def test_a_folder_that_attribute_did_not_write_is_refused(tmp_path, refused):
    said = refused("royalty", "--influence", str(tmp_path), "--out", str(tmp_path / "x.parquet"))
    assert "expected a folder that `attribute` wrote" in said


def test_the_command_says_what_pays_and_how_far_it_can_be_trusted(asked, without, tmp_path, shown):
    words = ("--out", str(tmp_path / "x.parquet"), "--rule", "srs", "--workers", "1", "--device", "cpu")
    said = " ".join(shown("royalty", "--influence", str(asked.out), *words).split())
    assert "Mean shares of 8 outputs, rule srs" in said
    assert "9 counterfactual models, each left out and predicted: rank correlation estimate" in said
    assert "90 % intervals hold, of what models say: left out" in said
    assert "not supported" not in said
    said = " ".join(shown("royalty", "--influence", str(without.out), *words).split())
    assert "Mean shares of 8 outputs, rule proportional" in said
    assert "The rule srs is not supported, and proportional decides: 0 counterfactual models; 8 are the fewest" in said
    assert shown("royalty", "--influence", str(without.out), *words, "--json")["paid_by"] == "proportional"
