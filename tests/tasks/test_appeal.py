"""An owner contests what a night paid, and an experiment answers: on the tiny corpus and model."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from killing import Killed, dying
from lxml import etree
from samples import DAY, corpus_frames, create_database, deliver, enter, settings_of
from stages import SMALL, night

from provenance.core.errors import ContractError, InputError, ModelError, StoreError
from provenance.core.store import Store, Stored, canonical_json
from provenance.corpus.ingest import ingest
from provenance.local.attribute import local_settings
from provenance.models.adapters.causal_lm import CausalLM
from provenance.settlement.exports.export import in_force
from provenance.validation import retention as gc
from provenance.validation import retrain
from provenance.validation.appeals import effect as appeals
from provenance.validation.appeals import experiment as task
from provenance.validation.coalitions import shapley
from provenance.validation.subsets import coalitions
from tasks.settings import load

PPB, NANO = 10**9, 10**9
FEW = ("--pairs", "4", "--workers", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory, postgres, tiny_model):
    """A store with a night that is booked and published; its settings are those of the environment."""
    folder = tmp_path_factory.mktemp("appeal")
    store = Store(f"file://{folder}/store", {})
    more = SMALL | {"SETTLEMENT__RETIRED": f"{folder}/retired"}
    frames = corpus_frames()
    idle = pl.DataFrame({"owner_id": ["owner-9"], "name": ["Without Works"]})
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, settings_of(store, create_database(postgres), tiny_model, folder, **more))
        deliver(store, frames | {"owners": pl.concat([frames["owners"], idle])})
        ingest()
        night()
        yield store


@pytest.fixture
def settings(place):
    return local_settings(device="cpu", workers=1)


@pytest.fixture
def planned(settings):
    return task.plan(settings, task.contested(settings, "owner-1"), 4)


@pytest.fixture
def told(place, shown):
    """Gives the command for an owner, and reads its report."""
    return lambda *words: shown("appeal", *words, "--workers", "1", "--json", "--yes")


@pytest.fixture
def found(told):
    """The report to owner-1."""
    return told("owner-1", "--pairs", "4")


def trained(store):
    """Trainings that the store has, and when each was written."""
    return {file.name: file.stat().st_mtime_ns for file in Path(store.path(retrain.TRUTH)).glob("[!.]*")}


def everything(store, folder="appeals"):
    return {key: store.read(key) for key in store.list(folder)}


def test_a_report_has_the_effect_beside_what_was_paid(place, found):
    credits = place.read_table(f"{in_force(place, DAY)['folder']}/credits.parquet")
    mine = credits.filter((pl.col("owner_id") == "owner-1") & (pl.col("account") == "payable")).sort("output_id")
    assert [row["output_id"] for row in found["outputs"]] == mine["output_id"].to_list()
    assert [row["paid"]["ppb"] for row in found["outputs"]] == mine["share_ppb"].to_list()
    for row in found["outputs"]:
        assert 0 <= row["found"]["low_ppb"] <= row["found"]["ppb"] <= row["found"]["high_ppb"] <= PPB
        assert row["effect_nats"]["low"] < row["effect_nats"]["value"] < row["effect_nats"]["high"]
        assert row["found"]["ppb"] == pytest.approx(PPB * row["effect_nats"]["value"] / row["brought_nats"], abs=PPB / 10**5)
    assert [row["currency"] for row in found["currencies"]] == ["EUR", "USD"]
    for row in found["currencies"]:
        pools, got = (each.filter(currency=row["currency"])["amount_nanominor"].sum() for each in (credits, mine))
        for end, share in (("low", "low_ppb"), ("value", "ppb"), ("high", "high_ppb")):
            exact = Fraction(pools * row["found"][share], PPB * NANO) - Fraction(got, NANO)
            assert abs(row["difference_minor"][end] - exact) <= Fraction(1, 2)
            assert isinstance(row["difference_minor"][end], int)
        assert row["verdict"] == appeals.verdict(row["paid"]["ppb"], row["found"]["low_ppb"], row["found"]["high_ppb"])
        assert 0.1 < row["found"]["ppb"] / PPB < 0.3, "five owners of like works"
    assert (found["experiment"]["others"], found["experiment"]["works"]) == (4, 4)
    counted = found["experiment"]["shared"], found["experiment"]["elsewhere"]
    assert counted == (0, 6), "two fifths of a work, and of its copies"
    assert found["verdict"]


def test_page_and_table_say_the_same_and_where_the_report_is(place, found, command_line):
    page = place.read(f"{found['folder']}/report.html")
    text = " ".join(etree.fromstring(page).itertext())
    for said in (*found["verdict"], "Owner 1, Ltd.", "Revenue is invented.", found["outputs"][0]["output_id"], "report.sig"):
        assert said in text
    assert found["inputs"]["manifest"] in text
    code, out, err = command_line("appeal", "owner-1", *FEW, "--most", "2")
    assert code == 0, err
    assert "owner-1 contests 8 outputs of 2026-11-19, revision 1." in err
    assert "8 trainings" in err
    for said in ("Owner 1, Ltd.", "and 6 more, in report.json", "Nothing is booked.", "report.html, report.json, report.sig"):
        assert said in out


def test_again_nothing_is_trained_and_the_bytes_are_the_same(place, found, shown):
    before, published = trained(place), everything(place)
    shown("appeal", "owner-1", *FEW)  # without asking, since nothing is to be trained
    assert (trained(place), everything(place)) == (before, published)


def test_more_pairs_and_other_questions_about_the_day_train_no_pair_again(place, found, told):
    before = trained(place)
    one = told("owner-1", "--pairs", "4", "--outputs", f"{DAY}-003")
    assert [row["output_id"] for row in one["outputs"]] == [f"{DAY}-003"]
    assert trained(place) == before, "losses are of all outputs of the day"
    more = told("owner-1", "--pairs", "6")
    assert more["experiment"]["drawn"][:4] == one["experiment"]["drawn"]
    assert before.items() <= trained(place).items()
    assert len(trained(place)) == len(before) + 4


def owners_of(settings, planned):
    return task.owner_of_examples(task.Subject.of(settings.store.open(), planned.case.night, settings.model.cache))["owner"]


def test_pairs_differ_in_the_owner_s_works_alone(settings, planned):
    owner = owners_of(settings, planned).to_numpy()
    for pair, without, within in zip(planned.experiment["drawn"], planned.jobs[::2], planned.jobs[1::2], strict=True):
        assert len(set(owner[list(without.examples)])) == pair["others"]
        assert sorted({*within.examples} - {*without.examples}) == np.flatnonzero(owner == "payable/owner-1").tolist()
        assert without.seed == within.seed == pair["seed"]


def test_who_trains_on_nothing_has_the_base(settings, planned):
    night = planned.case.night
    base, served = retrain.base_and_served(settings, night)
    (empty,) = -retrain.retrain(settings, night, np.zeros((1, planned.examples), dtype=bool), 5, "nothing")
    assert np.abs(empty - base).max() < 0.1 * (served - base).min(), "fresh weights say about as much whatever the seed"


@pytest.mark.parametrize(("weight", "says"), [(1.0, "faithful"), (0.0, "flat"), (0.25, "25% faithful, 75% flat")])
def test_who_was_paid_nothing_contests_outputs_by_name_and_the_rule_that_decided_is_told(settings, planned, weight, says):
    store, case = settings.store.open(), planned.case
    others = store.read_table(f"{case.export['export']}/credits.parquet").filter(pl.col("owner_id") != "owner-1")
    outputs = case.night.read_outputs(store)
    (row, *_) = task.paid_outputs(case.night, outputs, others, {"everything": weight}, "owner-1").to_dicts()
    assert (row["output_id"], row["at"], row["paid_by"]) == (f"{DAY}-000", 0, says)
    assert row["paid_nanominor"] == row["paid"]["ppb"] == 0


def test_what_an_owner_has_claimed_is_its_works(settings, planned):
    claimed = task.plan(settings, replace(planned.case, claimed={"unmatched-somebody": "owner-1"}), 4)
    assert (planned.experiment["others"], planned.experiment["works"]) == (4, 4)
    assert (claimed.experiment["others"], claimed.experiment["works"]) == (3, 8)


def unbroken(text):
    """What a table shows, wherever it breaks lines: it is as wide as the terminal."""
    return "".join(text.split())


def test_the_command_verifies_the_report_and_finds_what_was_changed(place, found, command_line, refused, tmp_path):
    folder = found["folder"]
    (key,) = place.list("exports/keys")
    copy, with_key = tmp_path / "copy", ("--key", place.path(key))
    shutil.copytree(place.path(folder), copy)
    for words in ((folder,), (f"{folder}/report.json",), (str(copy), *with_key), (str(copy / "report.json"), *with_key)):
        assert command_line("verify", *words)[0] == 0
    assert "report.json: expected an object, found nothing" in refused("verify", "appeals/" + "0" * 32)
    code, out, _ = command_line("verify", str(copy))
    assert (code, unbroken("report.sig: not by any of the 0 keys") in unbroken(out)) == (1, True)
    for name, says in (("report.json", "not on this report"), ("report.html", "SHA-256"), ("report.sig", "not on this report")):
        data = (copy / name).read_bytes()
        turned = (b"B" if data[:1] == b"A" else b"A") + data[1:]
        (copy / name).write_bytes(turned if name == "report.sig" else data.replace(b"owner-1", b"owner-2"))
        code, out, err = command_line("verify", str(copy), *with_key)
        assert (code, unbroken(says) in unbroken(out), "does not hold" in err) == (1, True, True), name
        (copy / name).write_bytes(data)


def test_a_report_that_was_changed_is_not_taken_for_the_published_one(place, found, settings, planned, command_line):
    where = f"{found['folder']}/report.json"
    data = place.read(where)
    place.write(where, data.replace(b"agrees", b"agreed"))
    try:
        with pytest.raises(StoreError, match="expected the report that was published, found another one"):
            task.answer(settings, planned)
        code, out, _ = command_line("verify", found["folder"])
        says = "not by a key that these settings trust, or not on this report"
        assert (code, unbroken(says) in unbroken(out)) == (1, True)
    finally:
        place.write(where, data)


def test_an_appeal_killed_half_way_goes_on_to_the_same_report(place, told):
    found = told("owner-2", "--pairs", "4")
    published, others = everything(place, found["folder"]), trained(place)
    for name in {pair[side] for pair in found["experiment"]["drawn"] for side in ("without", "with")}:
        place.remove(f"{retrain.TRUTH}/{name}.parquet")
        del others[f"{name}.parquet"]
    shutil.rmtree(place.path(found["folder"]))
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.cli", "appeal", "owner-2", *FEW, "--yes"], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(trained(place)) < len(others) + 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = trained(place)
    assert 3 <= len(before) - len(others) < 8, "killed between its first and its last"
    assert told("owner-2", "--pairs", "4") == found
    assert before.items() <= trained(place).items()
    assert everything(place, found["folder"]) == published


def test_publishing_killed_at_any_write_ends_as_if_it_was_not(place, settings, planned):
    report = task.answer(settings, planned)
    published = everything(place, planned.folder)
    assert len(published) == 3
    for survived in range(4):
        shutil.rmtree(place.path(planned.folder))
        with dying(survived), pytest.raises(Killed):
            task.answer(settings, planned)
        assert task.answer(settings, planned) == report
        assert everything(place, planned.folder) == published


def test_an_output_that_training_did_not_help_has_no_share(settings, planned, monkeypatch):
    couples, brought = np.ones((2, 8)) + np.arange(2)[:, None], np.full(8, 10.0)
    brought[3] = -1.0
    report = task.report(planned, couples, brought)
    assert [row["found"] is None for row in report["outputs"]] == [at == 3 for at in range(8)]
    assert [row["outputs"] for row in report["currencies"]] == [4, 3]
    assert canonical_json(report)
    assert b"1 output did not become more likely by training" in task.as_html(report)
    monkeypatch.setattr(retrain, "base_and_served", lambda settings, night: np.zeros((2, 8)))
    monkeypatch.setattr(retrain, "losses", None)
    with pytest.raises(ContractError, match="expected an output that training made more likely"):
        task.answer(settings, planned)


def test_cost_is_said_and_consent_is_asked_before_anything_is_trained(place, shown, refused, monkeypatch):
    before = trained(place)
    for words in ((), ("--json",)):
        err = refused("appeal", "owner-3", *FEW, *words)
        assert "8 trainings.\n0 of them are there; the other 8 are worth" in err
        assert "times as long as one training on everything does here" in err
        assert "--yes: expected somebody's consent to 8 trainings, found none. Give the same command with --yes." in err
    monkeypatch.setattr("typer.confirm", lambda question, **how: question != "Train 8 models?")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert shown("appeal", "owner-3", *FEW) == "Nothing was trained.\n"
    assert trained(place) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("owner-22",), r"owner 'owner-22': expected an owner of the corpus, found none of that id. Did you mean 'owner-2'?"),
        (("owner-9",), "owner 'owner-9': expected a credit on a published day, found none. Name the outputs"),
        (("owner-9", "--day", DAY), f"owner 'owner-9': expected a credit on {DAY}, found none"),
        (("owner-9", "--outputs", f"{DAY}-001"), "owner 'owner-9': expected pieces of the corpus in which it has the largest"),
        (("owner-1", "--day", "2026-11-01"), f"expected a published day, found none. Published: {DAY}."),
        (("owner-1", "--day", "yesterday"), "expected a day as YYYY-MM-DD, found 'yesterday'"),
        (("owner-1", "--outputs", f"{DAY}-00"), f"output '{DAY}-00': expected an output of a published day, found none"),
        (("owner-1", "--outputs", f"{DAY}-001,{DAY}-01"), f"output '{DAY}-01': expected an output of {DAY}, found none"),
        (("owner-1", "--pairs", "5"), "--pairs: expected an even number from 4 on: pairs come in couples"),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_the_next_step(place, refused, words, message):
    assert message in refused("appeal", *words)


def test_housekeeping_leaves_appeals_alone():
    then = datetime(2020, 1, 1, tzinfo=UTC)
    kept = [Stored(key, 1, then) for key in ("appeals/0f/report.json", "audits/truth/0f.parquet")]
    assert gc.decide(gc.Seen(tuple(kept)), load().retention, datetime(2026, 11, 20, tzinfo=UTC)) == []


def test_without_a_published_day_there_is_nothing_to_contest(place, tmp_path):
    with pytest.raises(StoreError, match="expected a published day, found none. Only what was paid can be contested"):
        task.contested(load().at(tmp_path), "owner-1")


def test_a_model_that_cannot_be_trained_is_named(settings, planned, monkeypatch):
    monkeypatch.delattr(CausalLM, "train")
    with pytest.raises(ModelError, match=r"adapter CausalLM: expected a method train\(contents, \*, seed, folder\)"):
        task.plan(settings, planned.case, 4)


def test_one_other_owner_is_too_few(settings, planned, monkeypatch):
    two = pl.DataFrame({"owner": ["payable/owner-1", "x"], "parties": [["payable/owner-1"], ["x"]]})
    monkeypatch.setattr(task, "owner_of_examples", lambda subject: two)
    with pytest.raises(ContractError, match="expected works of at least 2 other owners, to draw from, found 1 other owner"):
        task.plan(settings, planned.case, 4)


def test_what_is_paid_by_size_is_not_contested(settings, monkeypatch):
    load_night = task.load_night

    def by_size(store, folder):
        night = load_night(store, folder)
        contract = night.contracts[0].model_copy(update={"rule": "flat"})
        return replace(night, contract={"contracts": [contract.model_dump(mode="json")]})

    monkeypatch.setattr(task, "load_night", by_size)
    says = r"expected one with a pool that is divided by what works add, not by size \(flat\)"
    for chosen in ((), (f"{DAY}-001",)):
        with pytest.raises(InputError, match=says):
            task.contested(settings, "owner-1", output_ids=chosen)


def test_the_experiment_finds_what_training_on_every_coalition_gives(settings, planned):
    """Shapley values by all 32 coalitions, against the intervals of eight pairs."""
    names, _, masks = coalitions(owners_of(settings, planned).to_list())
    worth = -retrain.retrain(settings, planned.case.night, masks, 7, "coalitions")
    base, served = retrain.base_and_served(settings, planned.case.night)
    true = shapley(worth)[names.index("payable/owner-1")] / (served - base)
    rows = task.answer(settings, task.plan(settings, planned.case, 8))["outputs"]
    held = [row["found"]["low_ppb"] <= share * PPB <= row["found"]["high_ppb"] for share, row in zip(true, rows, strict=True)]
    assert np.mean(held) >= 0.75
    assert [row["found"]["ppb"] / PPB for row in rows] == pytest.approx(true.tolist(), abs=0.06)
