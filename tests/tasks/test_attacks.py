"""Attacks on royalties, on a small corpus and a tiny model; and what holds for every example's values."""

from datetime import date

import numpy as np
import polars as pl
import pytest
from samples import corpus_frames, lay_out
from typer.testing import CliRunner

from provenance.core.money import PPB
from provenance.core.store import Store
from tasks.attribute import Request, attribute, local_settings
from tasks.cli import app
from tasks.night import load_night
from tasks.replay import every_value, read_worth
from tasks.royalty import royalty
from tasks.settings import load

DAY = date(2026, 11, 19)


@pytest.fixture(scope="module")
def asked(tmp_path_factory, tiny_model):
    """A folder that `attribute` wrote."""
    folder = tmp_path_factory.mktemp("royalty")
    lay_out(folder)
    request = Request(folder / "corpus", tiny_model, folder / "outputs.parquet", folder / "result", DAY)
    attribute(request, settings())
    return request


def settings(**changes):
    made = local_settings(method="factored", hybrid_weight=None, device="cpu", workers=1)
    return made.model_copy(update={"royalty": load().royalty.model_copy(update=changes)})


def divided(request, rule="faithful", *, duplicates=True, **changes):
    out = request.out / "shares.parquet"
    made = royalty(request.out, rule, duplicates=duplicates, out=out, settings=settings(**changes))
    return made, pl.read_parquet(out)


@pytest.mark.parametrize("rule", ["faithful", "srs", "proportional", "flat"])
def test_shares_under_every_rule_sum_to_one_billion(asked, rule):
    made, table = divided(asked, rule)
    assert table.columns == ["output_id", "owner_id", "account", "share_ppb", "low_ppb", "high_ppb"]
    sums = table.group_by("output_id").agg(pl.col("share_ppb").sum())
    assert sums["share_ppb"].to_list() == [PPB] * 8
    assert made["outputs"] == 8


def test_the_values_of_all_works_sum_to_what_the_run_has_gained(asked):
    made, _ = divided(asked, duplicates=False)
    store = Store(f"file://{(asked.out / 'work').resolve()}", {})
    worth, night = read_worth(store, made["folder"]), load_night(store, made["folder"])
    total = every_value(store, night)[1].sum(axis=1)
    assert np.allclose(total, worth.ends[1] - worth.ends[0], rtol=1e-4)
    assert (worth.ends[1] > worth.ends[0]).all()


def test_splitting_an_owner_changes_nothing_beyond_rounding(asked, tmp_path):
    _, whole = divided(asked)
    frames = corpus_frames()
    claims = frames["claims"]
    works = claims.filter(pl.col("owner_id") == "owner-2")["work_id"].to_list()
    whose = {work: f"owner-2-{number}" for number, work in enumerate(works)}
    split = claims.with_columns(owner_id=pl.col("work_id").replace_strict(whose, default=pl.col("owner_id")))
    (tmp_path / "corpus").mkdir()
    frames["examples"].write_parquet(tmp_path / "corpus/examples.parquet")
    split.write_parquet(tmp_path / "corpus/claims.parquet")
    request = Request(tmp_path / "corpus", asked.model, asked.outputs, tmp_path / "result", DAY)
    attribute(request, settings())
    _, parted = divided(request)
    mine = parted.filter(pl.col("owner_id").str.starts_with("owner-2")).group_by("output_id").agg(pl.col("share_ppb").sum())
    was = whole.filter(pl.col("owner_id") == "owner-2").select("output_id", was="share_ppb")
    both = was.join(mine, on="output_id", how="full", coalesce=True).fill_null(0)
    assert (both["was"] - both["share_ppb"]).abs().max() <= 2 * len(works)
    others = parted.filter(~pl.col("owner_id").str.starts_with("owner-2"))
    same = others.join(whole, on=["output_id", "owner_id", "account"])
    assert (same["share_ppb"] - same["share_ppb_right"]).abs().max() <= 2 * len(works)


def test_neither_shards_nor_their_order_change_a_share(asked, tmp_path):
    _, one = divided(asked)
    frames = corpus_frames()
    (tmp_path / "corpus").mkdir()
    frames["examples"].reverse().write_parquet(tmp_path / "corpus/examples.parquet")
    for name in ("claims", "owners"):
        frames[name].reverse().write_parquet(tmp_path / f"corpus/{name}.parquet")
    request = Request(tmp_path / "corpus", asked.model, asked.outputs, tmp_path / "result", DAY)
    small = settings()
    small = small.model_copy(update={"corpus": small.corpus.model_copy(update={"shard_examples": 8})})
    attribute(request, small)
    _, two = divided(request)
    both = one.join(two, on=["output_id", "owner_id", "account"], how="full", coalesce=True).fill_null(0)
    assert (both["share_ppb"] - both["share_ppb_right"]).abs().max() <= PPB * 1e-4


def test_a_model_too_large_to_replay_is_refused_before_anything_is_computed(asked):
    from provenance.core.errors import ContractError

    with pytest.raises(ContractError, match=r"rule 'srs': expected a model whose .* replayed in 10 numbers.*pay by the rule"):
        divided(asked, "srs", parameters=10)
    assert divided(asked, "flat", parameters=10)[0]["outputs"] == 8


def test_a_large_model_is_replayed_in_fewer_coordinates(asked):
    _, whole = divided(asked)
    made, fewer = divided(asked, parameters=6_000)
    assert made["outputs"] == 8
    both = whole.join(fewer, on=["output_id", "owner_id"], how="full", coalesce=True).fill_null(0)
    error = (both["share_ppb"] - both["share_ppb_right"]).abs().sum() / 8 / PPB
    assert 0 < error < 0.3


def test_a_folder_that_attribute_did_not_write_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["royalty", "--influence", str(tmp_path), "--out", str(tmp_path / "x.parquet")])
    assert done.exit_code != 0
    assert "attribute" in str(done.exception)


def test_an_attack_s_gain_under_every_rule(asked, tmp_path):
    from tasks.attacks import audit_attacks

    request = Request(asked.corpus, asked.model, asked.outputs, tmp_path, DAY)
    _, result, _ = audit_attacks(request, settings(), "owner-2")
    gain = {row["attack"]: row["gain"] for row in result["attacks"]}
    added = {row["attack"]: row["added"]["faithful"] for row in result["attacks"]}
    for split in ("split at random", "split by value"):
        assert abs(gain[split]["faithful"]) <= 1e-6
    assert gain["exact copies"]["faithful"] <= 0.01
    assert gain["exact copies, not looked for"]["faithful"] > 0.05
    assert gain["near copies"]["faithful"] <= 0.01
    assert gain["near copies, not looked for"]["faithful"] > 0.05
    assert added["exact copies"] == 0
    assert added["near copies"] <= 0.01
    assert added["padding"] <= 0.01
    assert gain["padding"]["faithful"] <= 0.01
    assert gain["nobodies"]["faithful"] <= 0.02
    assert gain["outliers"]["faithful"] <= 0.05
