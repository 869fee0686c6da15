"""Shares of a night: by counterfactual models as each output's contract says, or by its fallback where they say too little."""

from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest
from samples import DAY, corpus_frames, deliver, lay_out, outputs_frame
from stages import SMALL

from provenance.core.contracts import EVIDENCE, PARTY_INFLUENCE, RULE_SHARES
from provenance.core.errors import ModelError
from provenance.core.money import PPB
from provenance.core.store import canonical_json
from provenance.corpus.shards import freeze_part
from provenance.inputs.night import read_manifest, read_written
from provenance.local.attribute import Request, local_settings, opened
from provenance.models import counterfactuals
from provenance.royalty.estimate_stage import corpus_holdings, flat_weights, read_outcomes
from provenance.royalty.likelihoods import likelihoods
from provenance.royalty.opted_out import APART

CONTRACTS = """
[[contract]]
name = "search"
products = ["search"]
developer_ppb = 0
rule = "proportional"
duplicates = "off"

[[contract]]
name = "rest"
developer_ppb = 0
rule = "RULE"
"""


@pytest.fixture
def pays(store, environment, tmp_path, monkeypatch):
    """Freezes a night and runs its stages up to the shares; returns its folder."""

    def run(rule="faithful", count=8, trainings="3"):
        from provenance.corpus.ingest import ingest
        from provenance.features.featurise import featurise
        from provenance.features.plan import shard
        from provenance.influence.fit_curvature import fit_curvature
        from provenance.influence.score import score
        from provenance.inputs.freeze import freeze
        from provenance.royalty.estimate_stage import estimate
        from provenance.royalty.share import share

        (tmp_path / "contracts.toml").write_text(CONTRACTS.replace("RULE", rule))
        where = {"ROYALTY__CONTRACTS": str(tmp_path / "contracts.toml"), "COUNTERFACTUALS__TRAININGS": trainings}
        environment(store, **SMALL, **where)
        deliver(store, corpus_frames())
        product = pl.when(pl.int_range(pl.len()) % 4 == 3).then(pl.lit("search")).otherwise(pl.lit("chat"))
        table = outputs_frame(DAY, count).with_columns(product=product)
        store.write_table(f"outputs/day={DAY}/part.parquet", table)
        ingest()
        for names in counterfactuals.plan_missing() if trainings != "0" else ():
            counterfactuals.train_named(names)
        folder = freeze(DAY)
        for stage in (shard, featurise, fit_curvature, score, likelihoods, estimate, share):
            stage(folder)
        return folder

    return run


def ruled(store, folder, rule):
    table = read_written(store, folder, "estimate", "rule_shares.parquet").filter(pl.col("rule") == rule)
    return table.select("output_id", "account", "party_id", "share").sort("output_id", "account", "party_id")


def paid(store, folder):
    table = read_written(store, folder, "shares", "shares.parquet")
    return table.with_columns(share=pl.col("share_ppb") / PPB).select("output_id", "account", "party_id", "share")


def same(one, two):
    both = one.join(two, on=["output_id", "account", "party_id"], how="full", coalesce=True).fill_null(0)
    return (both["share"] - both["share_right"]).abs().max() < 1e-8


def test_with_counterfactual_models_each_contract_pays_by_its_rule(store, pays):
    folder = pays()
    manifest = read_manifest(store, folder, "estimate")
    assert set(manifest["copies"]) == {"earliest", "off"}
    for report in manifest["copies"].values():
        assert report["models"] == 9
        assert report["failed"] == []
        assert report["weights"] == "fitted"
        assert set(report["lds"]) == {"estimate", "influence", "size", "tfidf"}
    said = read_manifest(store, folder, "shares")
    assert said["weights"] == {"search": 1.0, "rest": 1.0}
    assert said["unsupported"] == {"search": [], "rest": []}
    of = pl.DataFrame(list(manifest["contracts"].items()), schema=["output_id", "contract"], orient="row")
    for contract, rule, count in (("search", "proportional", 2), ("rest", "faithful", 6)):
        chosen = of.filter(pl.col("contract") == contract).select("output_id")
        assert chosen.height == count
        mine, theirs = (
            table.join(chosen, on="output_id", how="semi") for table in (paid(store, folder), ruled(store, folder, rule))
        )
        assert same(mine, theirs)


def test_without_them_the_fallback_pays_and_the_night_says_so(store, pays):
    folder = pays(trainings="0")
    report = read_manifest(store, folder, "estimate")["copies"]["earliest"]
    assert report["failed"] == ["0 counterfactual models; 8 are the fewest"]
    assert report["weights"] == "default"
    said = read_manifest(store, folder, "shares")
    assert said["weights"] == {"search": 1.0, "rest": 0.0}
    assert said["unsupported"] == {"search": [], "rest": ["0 counterfactual models; 8 are the fewest"]}
    mine = paid(store, folder).filter(~pl.col("output_id").str.ends_with("3") & ~pl.col("output_id").str.ends_with("7"))
    theirs = ruled(store, folder, "flat").join(mine.select("output_id"), on="output_id", how="semi")
    assert mine["output_id"].n_unique() == 6
    assert same(mine, theirs)
    assert not set(read_written(store, folder, "estimate", "rule_shares.parquet")["rule"]) & {"faithful", "srs", "banzhaf"}


def test_tables_keep_their_contracts_and_every_output_has_evidence(store, pays):
    folder = pays()
    kinds = {"rule_shares": RULE_SHARES, "party_influence": PARTY_INFLUENCE, "evidence": EVIDENCE}
    for name, contract in kinds.items():
        table = read_written(store, folder, "estimate", f"{name}.parquet")
        assert table.schema == contract.schema
        assert table["output_id"].n_unique() == 8
    shares = read_written(store, folder, "estimate", "rule_shares.parquet")
    sums = shares.group_by("rule", "output_id").agg(pl.col("share").sum())
    assert sums["share"].to_list() == pytest.approx([1.0] * sums.height)
    assert set(shares["rule"]) == {"faithful", "srs", "banzhaf", "proportional", "flat"}
    evidence = read_written(store, folder, "estimate", "evidence.parquet")
    assert evidence.group_by("output_id", "party_id").len()["len"].max() == 3


def test_a_day_without_outputs_has_nothing_to_say(store, pays):
    folder = pays(count=0)
    assert read_written(store, folder, "estimate", "rule_shares.parquet").is_empty()
    assert read_manifest(store, folder, "estimate")["copies"]["earliest"]["failed"] == []
    assert read_written(store, folder, "shares", "shares.parquet").is_empty()


@pytest.fixture
def asked(tmp_path, tiny_model, tiny_set):
    lay_out(tmp_path)
    day = date(2026, 11, 20)
    return Request(tmp_path / "corpus", tiny_model, tmp_path / "outputs.parquet", tmp_path / "out", day, tiny_set)


def test_what_a_model_has_seen_of_an_owner_is_a_part_of_the_owner_s_tokens(asked, monkeypatch):
    settings = local_settings(method="tfidf", device="cpu", workers=1)
    with opened(asked, settings) as (here, night):
        store = here.store.open()
        likelihoods(night.folder, here)
        held = corpus_holdings(store, night, "off")
        parties = held.select("account", "party_id").unique().sort("account", "party_id")
        models, aside = read_outcomes(store, night, held, parties, here)
        saw = []
        for name in sorted(night.counterfactuals):
            works = counterfactuals.trained_on(store, counterfactuals.read_record(store, night.model, name)).works
            saw.append({(work, content) for work, contents in works.items() for content in contents})
        examples = night.read_corpus(store, "work_id", "content_sha256", "tokens")
        once = corpus_holdings(store, night, "earliest")
        copies_once = read_outcomes(store, night, once, parties, here)[0]
        assert np.allclose(copies_once.seen, models.seen), "a copy is no owner's work once more, but it trains"
        monkeypatch.setattr("provenance.royalty.estimate_stage.works_served", lambda subject: {})
        says = r"json: expected works on which the model served was trained, found work .* It was trained on another corpus"
        with pytest.raises(ModelError, match=says):
            read_outcomes(store, night, held, parties, here)
    assert len(aside.inside) == 0
    stakes = {("work-0-0", "owner-0"): 0.6, ("work-0-0", "owner-1"): 0.4}

    def tokens(party, among):
        return sum(
            count * stakes.get((work, party), float(party == (f"owner-{work[5]}" if work[5] != "4" else "unmatched-somebody")))
            for work, content, count in examples.iter_rows()
            if among is None or (work, content) in among
        )

    names = parties["party_id"].to_list()
    whole = np.array([tokens(party, None) for party in names])
    assert np.allclose(models.size, whole / whole.sum())
    assert models.inside.shape == (9, 5)
    for row, among in zip(models.inside, saw, strict=True):
        assert np.allclose(row, [tokens(party, among) / of for party, of in zip(names, whole, strict=True)])
    total = examples["tokens"].sum()
    seen = [sum(count for work, content, count in examples.iter_rows() if (work, content) in among) / total for among in saw]
    assert np.allclose(models.seen, seen)
    assert models.seen[models.partition == 1].sum() == pytest.approx(1), "a half and the other half"
    assert 0 < models.inside[:, names.index("owner-1")].max() <= 1


def test_opting_out_changes_no_owner_s_size(asked):
    """Nor what anybody is paid: the works trained the model all the same."""
    settings = local_settings(method="tfidf", device="cpu", workers=1)
    with opened(asked, settings) as (here, night):
        store = here.store.open()
        likelihoods(night.folder, here)
        mine = night.read_claims(store).filter(pl.col("owner_id").is_in(["owner-0", "owner-2"])).select("work_id", "owner_id")
        choices = freeze_part(store, mine.with_columns(choice=pl.lit("held")).sort("work_id"))
        sizes = []
        for each in (night, replace(night, choices=choices)):
            held = corpus_holdings(store, each, "off").filter(pl.col("account") != APART)
            sums = held.group_by("party_id").agg(pl.col("weight").sum())
            sizes.append({party.removeprefix("held-"): weight for party, weight in sums.iter_rows()})
    assert sizes[0] == pytest.approx(sizes[1])


def test_the_order_of_records_and_of_parties_is_that_of_their_names(asked):
    """So that a night computed again is the same to the last bit."""
    settings = local_settings(method="tfidf", device="cpu", workers=1)
    with opened(asked, settings) as (here, night):
        store = here.store.open()
        backwards = replace(night, counterfactuals=dict(reversed(night.counterfactuals.items())))
        found = []
        for mine in (night, backwards):
            store.write(f"{mine.folder}/inputs.json", canonical_json(mine.inputs))
            likelihoods(mine.folder, here)
            held = corpus_holdings(store, mine, "off")
            parties = held.select("account", "party_id").unique().sort("account", "party_id")
            found.append(read_outcomes(store, mine, held, parties, here)[0])
    one, two = found
    assert np.array_equal(one.inside, two.inside)
    assert np.array_equal(one.value, two.value)


@pytest.mark.parametrize(("count", "expected"), [("tokens", [8.0, 4.0]), ("examples", [2.5, 1.5]), ("works", [1.25, 0.75])])
def test_flat_counts_what_the_contract_says_by_part(count, expected):
    holdings = pl.DataFrame(
        [
            ("e0", "a", "payable", "ann", 1.0, 4), ("e1", "a", "payable", "ann", 1.0, 2), ("e2", "b", "payable", "ann", 0.5, 4),
            ("e2", "b", "payable", "bob", 0.5, 4), ("e3", "b", "payable", "bob", 1.0, 2),
        ],
        schema=["example_id", "work_id", "account", "party_id", "part", "tokens"],
        orient="row",
    )  # fmt: skip
    assert flat_weights(holdings, count)["weight"].to_list() == pytest.approx(expected)
