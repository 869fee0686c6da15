"""Shares of a night: by counterfactual models under each output's contract, or by its fallback if they show too little."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from samples import DAY, corpus_frames, create_database, deliver, enter, outputs_frame, request_on, settings_of
from stages import SMALL, run

from provenance.core.errors import ModelError
from provenance.core.money import PPB
from provenance.core.stages import COMPUTED, FREEZE
from provenance.core.store import Store, canonical_json
from provenance.core.tables import EVIDENCE, PARTY_INFLUENCE, RULE_SHARES
from provenance.corpus.shards import freeze_part
from provenance.inputs.holders import OPTED_OUT
from provenance.inputs.night import read_manifest, read_whole
from provenance.local.attribute import folder_night
from provenance.models import counterfactual_records
from provenance.royalty.holdings import corpus_holdings, flat_weights
from provenance.royalty.likelihoods import read_outcomes
from provenance.royalty.stage import likelihoods
from tasks.where import local_settings, opened

NEXT = "2026-11-20"
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
rule = "faithful"
"""


@pytest.fixture(scope="module")
def nights(tmp_path_factory, postgres, tiny_model):
    """A store, and nights up to the shares: without counterfactual models, with them, without outputs, with them in parts."""
    folder = tmp_path_factory.mktemp("estimate")
    (folder / "contracts.toml").write_text(CONTRACTS)
    store = Store(f"file://{folder}/store", {})
    more = SMALL | {"ROYALTY__CONTRACTS": f"{folder}/contracts.toml", "COUNTERFACTUALS__TRAININGS": "0"}
    deliver(store, corpus_frames())
    product = pl.when(pl.int_range(pl.len()) % 4 == 3).then(pl.lit("search")).otherwise(pl.lit("chat"))
    for day, count in ((DAY, 8), (NEXT, 0)):
        table = outputs_frame(day, count).with_columns(product=product)
        store.write_table(f"outputs/day={day}/part.parquet", table)

    def night(day):
        computed = run(FREEZE.name, day)
        for stage in COMPUTED:
            run(stage.name, computed)
        return computed

    with pytest.MonkeyPatch.context() as patch:
        enter(patch, settings_of(store, create_database(postgres), tiny_model, folder, **more))
        run("corpus.ingest")
        without = night(DAY)
        patch.setenv("PROVENANCE_COUNTERFACTUALS__TRAININGS", "3")
        for names in run("counterfactuals.plan"):
            run("counterfactuals.train", names)
        computed = {"without": without, "with": night(DAY), "empty": night(NEXT)}
        patch.setattr("provenance.inputs.frozen.PART_OUTPUTS", 3)
        return store, computed | {"parts": night(DAY)}


def rule_shares(store, folder, rule):
    table = read_whole(store, folder, "estimate", "rule_shares").filter(pl.col("rule") == rule)
    return table.select("output_id", "account", "party_id", "share")


def paid(store, folder):
    table = read_whole(store, folder, "shares", "shares")
    return table.select("output_id", "account", "party_id", share=pl.col("share_ppb") / PPB)


def assert_paid_by(store, folder, contract, rule, count):
    """The outputs of a contract are paid by a rule."""
    contracts = read_manifest(store, folder, "estimate")["contracts"]
    outputs = pl.DataFrame({"output_id": [output for output, name in contracts.items() if name == contract]})
    assert outputs.height == count
    tables = (
        table.join(outputs, on="output_id", how="semi") for table in (paid(store, folder), rule_shares(store, folder, rule))
    )
    first, second = tables
    both = first.join(second, on=["output_id", "account", "party_id"], how="full", coalesce=True).fill_null(0)
    assert (both["share"] - both["share_right"]).abs().max() < 1e-8


def test_with_counterfactual_models_each_contract_pays_by_its_rule(nights):
    store, folder = nights[0], nights[1]["with"]
    manifest = read_manifest(store, folder, "estimate")
    assert set(manifest["copies"]) == {"earliest", "off"}
    for report in manifest["copies"].values():
        assert (report["models"], report["failed"], report["weights"]) == (9, [], "fitted")
        assert set(report["lds"]) == {"estimate", "influence", "size", "tfidf"}
    shares = read_manifest(store, folder, "shares")
    assert shares["weights"] == {"search": 1.0, "rest": 1.0}
    assert shares["unsupported"] == {"search": [], "rest": []}
    assert_paid_by(store, folder, "search", "proportional", 2)
    assert_paid_by(store, folder, "rest", "faithful", 6)


def test_without_them_the_fallback_pays_and_the_manifest_says_so(nights):
    store, folder = nights[0], nights[1]["without"]
    report = read_manifest(store, folder, "estimate")["copies"]["earliest"]
    reasons = ["0 counterfactual models; 8 are the fewest"]
    assert (report["failed"], report["weights"]) == (reasons, "default")
    shares = read_manifest(store, folder, "shares")
    assert shares["weights"] == {"search": 1.0, "rest": 0.0}
    assert shares["unsupported"] == {"search": [], "rest": reasons}
    assert_paid_by(store, folder, "rest", "flat", 6)
    assert not set(read_whole(store, folder, "estimate", "rule_shares")["rule"]) & {"faithful", "srs", "banzhaf"}


def test_tables_keep_their_contracts_and_every_output_has_evidence(nights):
    store, folder = nights[0], nights[1]["with"]
    kinds = {"rule_shares": RULE_SHARES, "party_influence": PARTY_INFLUENCE, "evidence": EVIDENCE}
    tables = {name: read_whole(store, folder, "estimate", name) for name in kinds}
    for name, contract in kinds.items():
        assert tables[name].schema == contract.schema
        assert tables[name]["output_id"].n_unique() == 8
    shares = tables["rule_shares"]
    sums = shares.group_by("rule", "output_id").agg(pl.col("share").sum())
    assert sums["share"].to_list() == pytest.approx([1.0] * sums.height)
    assert set(shares["rule"]) == {"faithful", "srs", "banzhaf", "proportional", "flat"}
    assert tables["evidence"].group_by("output_id", "party_id").len()["len"].max() == 3


def test_outputs_that_workers_divide_in_parts_have_the_same_shares_and_evidence(nights):
    store, folders = nights
    whole, parts = (folders[name] for name in ("with", "parts"))
    files = [name for name in read_manifest(store, parts, "estimate")["writes"] if name.startswith("rule_shares/")]
    assert len(files) == 3
    for name in ("rule_shares", "party_influence", "evidence"):
        one, other = (read_whole(store, folder, "estimate", name) for folder in (whole, parts))
        assert_frame_equal(other, one, check_row_order=False, abs_tol=1e-6, rel_tol=1e-4)


def test_a_day_without_outputs_has_empty_tables(nights):
    store, folder = nights[0], nights[1]["empty"]
    assert read_whole(store, folder, "estimate", "rule_shares").is_empty()
    assert read_manifest(store, folder, "estimate")["copies"]["earliest"]["failed"] == []
    assert read_whole(store, folder, "shares", "shares").is_empty()


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tiny_set):
    """The doors to a request's folder, and its night, with likelihoods."""
    request = request_on(tmp_path_factory.mktemp("place"), tiny_model, counterfactuals=tiny_set)
    with opened(local_settings(method="tfidf", device="cpu", workers=1), ledger=False) as where:
        local, night = folder_night(where, request)
        likelihoods(local, night.folder)
        yield local, night


def test_models_have_seen_parts_of_each_owner_s_tokens(place, monkeypatch):
    where, night = place
    store = where.store
    holdings = corpus_holdings(store, night, "off")
    parties = holdings.select("account", "party_id").unique().sort("account", "party_id")
    models, aside = read_outcomes(where, night, holdings, parties)
    trained = []
    for name in sorted(night.counterfactuals):
        works = counterfactual_records.trained_on(store, counterfactual_records.read_record(store, night.model, name)).works
        trained.append({(work, content) for work, contents in works.items() for content in contents})
    examples = night.read_corpus(store, "work_id", "content_sha256", "tokens")
    once = corpus_holdings(store, night, "earliest")
    copies_once = read_outcomes(where, night, once, parties)[0]
    assert np.allclose(copies_once.seen, models.seen), "a copy earns nothing, but it trains"
    none = pl.DataFrame(schema={"work_id": pl.String, "content_sha256": pl.String, "count": pl.UInt32})
    monkeypatch.setattr("provenance.royalty.likelihoods.works_served", lambda subject: none)
    message = r"json: expected works on which the model served was trained, found work .* It was trained on another corpus"
    with pytest.raises(ModelError, match=message):
        read_outcomes(where, night, holdings, parties)
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
    for row, among in zip(models.inside, trained, strict=True):
        assert np.allclose(row, np.array([tokens(party, among) for party in names]) / whole)
    total = examples["tokens"].sum()
    seen = [sum(count for work, content, count in examples.iter_rows() if (work, content) in among) for among in trained]
    assert np.allclose(models.seen, np.array(seen) / total)
    assert models.seen[models.partition == 1].sum() == pytest.approx(1), "a half and the other half"
    assert 0 < models.inside[:, names.index("owner-1")].max() <= 1


def test_opting_out_changes_no_owner_s_size(place):
    """So it changes no payable shares: the works trained the model all the same."""
    where, night = place
    store = where.store
    works = night.read_claims(store).filter(pl.col("owner_id").is_in(["owner-0", "owner-2"])).select("work_id", "owner_id")
    choices = freeze_part(store, works.with_columns(choice=pl.lit("held")).sort("work_id"))
    sizes = []
    for choosing in (night, replace(night, choices=choices)):
        holdings = corpus_holdings(store, choosing, "off").filter(pl.col("account") != OPTED_OUT)
        sums = holdings.group_by("party_id").agg(pl.col("weight").sum())
        sizes.append({party.removeprefix("held-"): weight for party, weight in sums.iter_rows()})
    assert sizes[0] == pytest.approx(sizes[1])


def test_outcomes_are_in_the_order_of_names(place):
    """So a night computed again is the same to the last bit."""
    where, night = place
    backwards = replace(night, counterfactuals=dict(reversed(night.counterfactuals.items())))
    outcomes = []
    for ordered in (night, backwards):
        where.store.write(f"{ordered.folder}/inputs.json", canonical_json(ordered.inputs))
        likelihoods(where, ordered.folder)
        holdings = corpus_holdings(where.store, ordered, "off")
        parties = holdings.select("account", "party_id").unique().sort("account", "party_id")
        outcomes.append(read_outcomes(where, ordered, holdings, parties)[0])
    assert np.array_equal(outcomes[0].inside, outcomes[1].inside)
    assert np.array_equal(outcomes[0].value, outcomes[1].value)


@pytest.mark.parametrize(("count", "expected"), [("tokens", [8.0, 4.0]), ("examples", [2.5, 1.5]), ("works", [1.25, 0.75])])
def test_flat_weights_are_the_contract_s_count_by_stake(count, expected):
    holdings = pl.DataFrame(
        [
            (0, "a", "payable", "ann", 1.0, 4), (1, "a", "payable", "ann", 1.0, 2), (2, "b", "payable", "ann", 0.5, 4),
            (2, "b", "payable", "bob", 0.5, 4), (3, "b", "payable", "bob", 1.0, 2),
        ],
        schema=["row", "work_id", "account", "party_id", "part", "tokens"],
        orient="row",
    )  # fmt: skip
    assert flat_weights(holdings, count)["weight"].to_list() == pytest.approx(expected)
