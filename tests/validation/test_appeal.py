"""An owner contests the shares of a night, and an experiment answers: on the tiny corpus and model."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from killing import Killed, dying
from lxml import etree
from samples import DAY, corpus_frames, create_database, deliver, enter, settings_of
from stages import SMALL, night, run

from provenance.core.errors import ContractError, InputError, StoreError
from provenance.core.published import in_force
from provenance.core.store import Store, canonical_json
from provenance.inputs.night import subject_of_night
from provenance.validation import retrain
from provenance.validation.appeals import experiment as task
from provenance.validation.appeals import pairs
from provenance.validation.coalitions import shapley
from provenance.validation.subsets import coalitions
from tasks.where import local_settings

PPB, NANO = 10**9, 10**9
FEW = ("--pairs", "4", "--workers", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory, postgres, tiny_model):
    """A store with a published night; the environment has its settings."""
    folder = tmp_path_factory.mktemp("appeal")
    store = Store(f"file://{folder}/store", {})
    more = SMALL | {"SETTLEMENT__RETIRED": f"{folder}/retired"}
    frames = corpus_frames()
    idle = pl.DataFrame({"owner_id": ["owner-9"], "name": ["Without Works"]})
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, settings_of(store, create_database(postgres), tiny_model, folder, **more))
        deliver(store, frames | {"owners": pl.concat([frames["owners"], idle])})
        run("corpus.ingest")
        night()
        yield store


@pytest.fixture
def where(place, doors):
    return doors(local_settings(device="cpu", workers=1))


@pytest.fixture
def planned(where):
    return task.plan(where, task.contested(where, "owner-1"), 4)


@pytest.fixture
def appeal(place, shown):
    """Runs the command for an owner; returns the report."""
    return lambda *words: shown("appeal", *words, "--workers", "1", "--json", "--yes")


@pytest.fixture
def report(appeal):
    """The report to owner-1."""
    return appeal("owner-1", "--pairs", "4")


def trained(store):
    """Trainings in the store, with the time of writing."""
    return {file.name: file.stat().st_mtime_ns for file in Path(store.path(retrain.TRUTH)).glob("[!.]*")}


def everything(store, folder="appeals"):
    return {key: store.read(key) for key in store.list(folder)}


def test_a_report_has_the_effect_beside_the_paid_share(place, report):
    credits = place.read_table(f"{in_force(place, DAY)['folder']}/credits.parquet")
    own = credits.filter((pl.col("owner_id") == "owner-1") & (pl.col("account") == "payable")).sort("output_id")
    assert [row["output_id"] for row in report["outputs"]] == own["output_id"].to_list()
    assert [row["paid"]["ppb"] for row in report["outputs"]] == own["share_ppb"].to_list()
    for row in report["outputs"]:
        assert 0 <= row["found"]["low_ppb"] <= row["found"]["ppb"] <= row["found"]["high_ppb"] <= PPB
        assert row["effect_nats"]["low"] < row["effect_nats"]["value"] < row["effect_nats"]["high"]
        assert row["found"]["ppb"] == pytest.approx(PPB * row["effect_nats"]["value"] / row["brought_nats"], abs=PPB / 10**5)
    assert [row["currency"] for row in report["currencies"]] == ["EUR", "USD"]
    for row in report["currencies"]:
        pools, paid = (table.filter(currency=row["currency"])["amount_nanominor"].sum() for table in (credits, own))
        for end, share in (("low", "low_ppb"), ("value", "ppb"), ("high", "high_ppb")):
            exact = Fraction(pools * row["found"][share], PPB * NANO) - Fraction(paid, NANO)
            assert abs(row["difference_minor"][end] - exact) <= Fraction(1, 2)
            assert isinstance(row["difference_minor"][end], int)
        assert row["verdict"] == pairs.verdict(row["paid"]["ppb"], row["found"]["low_ppb"], row["found"]["high_ppb"])
        assert 0.1 < row["found"]["ppb"] / PPB < 0.3, "five owners of similar works"
    assert (report["experiment"]["others"], report["experiment"]["works"]) == (4, 4)
    counts = report["experiment"]["shared"], report["experiment"]["elsewhere"]
    assert counts == (0, 6), "two fifths of a work, and of its copies"
    assert report["verdict"]
    (rule,) = (limit for limit in report["limits"] if "the rule srs" in limit)
    (paid_by,) = {row["paid_by"] for row in report["outputs"]} - {"srs"}
    assert f"8 outputs were paid by {paid_by}." in rule


def test_page_and_table_agree_and_name_the_report(place, report, command_line):
    page = place.read(f"{report['folder']}/report.html")
    text = " ".join(etree.fromstring(page).itertext())
    output, manifest = report["outputs"][0]["output_id"], report["inputs"]["manifest"]
    for words in (*report["verdict"], "Owner 1, Ltd.", "Revenue is invented.", output, "report.sig", manifest):
        assert words in text
    code, out, err = command_line("appeal", "owner-1", *FEW, "--most", "2")
    assert code == 0, err
    assert "owner-1 contests 8 outputs of 2026-11-19, revision 1." in err
    assert "8 trainings" in err
    for words in ("Owner 1, Ltd.", "and 6 more, in report.json", "Nothing is booked.", "report.html, report.json, report.sig"):
        assert words in out
    assert all(unbroken(limit) in unbroken(out) and limit in text for limit in report["limits"])


def test_the_same_appeal_more_pairs_and_other_outputs_of_the_day_train_no_pair_again(place, report, shown, appeal):
    before, published = trained(place), everything(place)
    shown("appeal", "owner-1", *FEW)  # needs no consent, since nothing is trained
    assert (trained(place), everything(place)) == (before, published)
    one = appeal("owner-1", "--pairs", "4", "--outputs", f"{DAY}-003")
    assert [row["output_id"] for row in one["outputs"]] == [f"{DAY}-003"]
    assert trained(place) == before, "losses are of all outputs of the day"
    more = appeal("owner-1", "--pairs", "6")
    assert more["experiment"]["drawn"][:4] == one["experiment"]["drawn"]
    assert before.items() <= trained(place).items()
    assert len(trained(place)) == len(before) + 4


def owners_of(where, planned):
    subject = subject_of_night(where.store, planned.case.night, where.settings.model.cache)
    return task.owner_of_examples(subject)["owner"]


def test_pairs_differ_only_in_the_owner_s_works(where, planned):
    owner = owners_of(where, planned).to_numpy()
    for pair, without, within in zip(planned.experiment["drawn"], planned.jobs[::2], planned.jobs[1::2], strict=True):
        assert len(set(owner[list(without.examples)])) == pair["others"]
        assert sorted({*within.examples} - {*without.examples}) == np.flatnonzero(owner == "payable/owner-1").tolist()
        assert without.seed == within.seed == pair["seed"]


def test_a_training_on_nothing_is_the_base(where, planned):
    night = planned.case.night
    base, served = retrain.base_and_served(where, night)
    (empty,) = -retrain.retrain(where, night, np.zeros((1, planned.examples), dtype=bool), 5, "nothing")
    assert np.abs(empty - base).max() < 0.1 * (served - base).min(), "fresh weights of all seeds are about equal"


@pytest.mark.parametrize(("weight", "paid_by"), [(1.0, "faithful"), (0.0, "flat"), (0.25, "25% faithful, 75% flat")])
def test_outputs_that_paid_nothing_can_be_contested_and_name_the_rule(where, planned, weight, paid_by):
    store, case = where.store, planned.case
    others = store.read_table(f"{case.export['export']}/credits.parquet").filter(pl.col("owner_id") != "owner-1")
    outputs = case.night.read_outputs(store)
    (row, *_) = task.paid_outputs(case.night, outputs, others, {"everything": weight}, "owner-1").to_dicts()
    assert (row["output_id"], row["at"], row["paid_by"]) == (f"{DAY}-000", 0, paid_by)
    assert row["paid_nanominor"] == row["paid"]["ppb"] == 0


def test_claimed_escrow_counts_as_the_owner_s_works(where, planned):
    claimed = task.plan(where, replace(planned.case, claimed={"unmatched-somebody": "owner-1"}), 4)
    assert (planned.experiment["others"], planned.experiment["works"]) == (4, 4)
    assert (claimed.experiment["others"], claimed.experiment["works"]) == (3, 8)


def unbroken(text):
    """Text without white space: tables break lines at the terminal's width."""
    return "".join(text.split())


def test_the_command_verifies_the_report_and_finds_changes(place, report, command_line, refused, tmp_path):
    folder = report["folder"]
    (key,) = place.list("exports/keys")
    copy, with_key = tmp_path / "copy", ("--key", place.path(key))
    shutil.copytree(place.path(folder), copy)
    here, copied = (folder, f"{folder}/report.json", place.path(folder)), (str(copy), str(copy / "report.json"))
    for words in (*((name,) for name in here), *((name, *with_key) for name in copied)):
        assert command_line("verify", *words)[0] == 0, words
    assert "report.json: expected an object, found nothing" in refused("verify", "appeals/" + "0" * 32)
    code, out, _ = command_line("verify", str(copy))
    assert (
        code,
        unbroken("report.sig: there is no public key to check it by; name the signer's with --key") in unbroken(out),
    ) == (1, True)
    for name, problem in (
        ("report.json", "not on this report"),
        ("report.html", "SHA-256"),
        ("report.sig", "not on this report"),
    ):
        data = (copy / name).read_bytes()
        other = (b"B" if data[:1] == b"A" else b"A") + data[1:]
        (copy / name).write_bytes(other if name == "report.sig" else data.replace(b"owner-1", b"owner-2"))
        code, out, err = command_line("verify", str(copy), *with_key)
        assert (code, unbroken(problem) in unbroken(out), "does not hold" in err) == (1, True, True), name
        (copy / name).write_bytes(data)


def test_a_folder_named_like_a_day_does_not_hide_the_day(place, shown, tmp_path, monkeypatch):
    (tmp_path / DAY).mkdir()
    monkeypatch.chdir(tmp_path)
    assert "checks hold" in shown("verify", DAY)


def test_what_cannot_be_verified_is_named(place, report, refused, tmp_path):
    (key,), other, folder = place.list("exports/keys"), tmp_path / "other.json", place.path(report["folder"])
    other.write_text("{}")
    for words, message in (
        ((DAY, "--key", place.path(key)), "--key: expected a file or a folder to check by it; "),
        ((report["folder"], "--key", place.path(key)), f"found {report['folder']}"),
        ((str(other),), f"{other}: expected manifest.json, report.json or proofs, found a file of another name"),
        ((str(tmp_path),), "found a folder with neither manifest.json nor report.json"),
        (
            (folder, "--key", str(other)),
            f"{other}: expected a public key (Ed25519) as PEM, as in exports/keys, found something",
        ),
        ((folder, "--key", "nowhere.pem"), "nowhere.pem: expected a public key (Ed25519) as PEM, as in exports/keys, found No"),
    ):
        assert message in refused("verify", *words)


def test_a_changed_report_in_the_store_is_refused(place, report, where, planned, command_line):
    key = f"{report['folder']}/report.json"
    data = place.read(key)
    place.write(key, data + b"\n")
    try:
        with pytest.raises(StoreError, match="expected the report that was published, found another one"):
            task.answer(where, planned)
        code, out, _ = command_line("verify", report["folder"])
        problem = "not by a key that these settings trust, or not on this report"
        assert (code, unbroken(problem) in unbroken(out)) == (1, True)
    finally:
        place.write(key, data)


def test_an_appeal_killed_half_way_continues_to_the_same_report(place, appeal):
    report = appeal("owner-2", "--pairs", "4")
    published, others = everything(place, report["folder"]), trained(place)
    for name in {pair[side] for pair in report["experiment"]["drawn"] for side in ("without", "with")}:
        place.remove(f"{retrain.TRUTH}/{name}.parquet")
        del others[f"{name}.parquet"]
    shutil.rmtree(place.path(report["folder"]))
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
    assert 3 <= len(before) - len(others) < 8, "killed between its first training and its last"
    assert appeal("owner-2", "--pairs", "4") == report
    assert before.items() <= trained(place).items()
    assert everything(place, report["folder"]) == published


def test_publishing_killed_at_any_write_ends_with_the_same_report(place, where, planned):
    report = task.answer(where, planned)
    published = everything(place, planned.folder)
    assert len(published) == 3
    for survived in range(4):
        shutil.rmtree(place.path(planned.folder))
        with dying(survived), pytest.raises(Killed):
            task.answer(where, planned)
        assert task.answer(where, planned) == report
        assert everything(place, planned.folder) == published


def test_an_output_that_training_did_not_help_has_no_share(where, planned, monkeypatch):
    couples, gains = np.ones((2, 8)) + np.arange(2)[:, None], np.full(8, 10.0)
    gains[3] = -1.0
    report = task.report(planned, couples, gains)
    assert [row["found"] is None for row in report["outputs"]] == [at == 3 for at in range(8)]
    assert [row["outputs"] for row in report["currencies"]] == [4, 3]
    assert canonical_json(report)
    assert b"1 output did not become more likely by training" in task.as_html(report)
    couples[:, 5] = -3.0
    report = task.report(planned, couples, gains)
    assert (report["outputs"][5]["found"]["ppb"], report["outputs"][5]["effect_nats"]["value"]) == (0, -3.0)
    assert b"1 output became less likely with these works" in task.as_html(report)
    monkeypatch.setattr(retrain, "base_and_served", lambda where, night: np.zeros((2, 8)))
    monkeypatch.setattr(retrain, "losses", None)
    with pytest.raises(ContractError, match="expected an output that training made more likely"):
        task.answer(where, planned)


def test_the_cost_is_shown_and_consent_is_needed_before_anything_is_trained(place, shown, refused, monkeypatch):
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
        (("unmatched-somebody", "--outputs", f"{DAY}-001"), "expected an owner, found a name in escrow. `provenance"),
        (("owner-1", "--day", "2026-11-01"), f"expected a published day, found none. Published: {DAY}."),
        (("owner-1", "--day", "yesterday"), "--day: expected a day as YYYY-MM-DD, found 'yesterday'"),
        (("owner-1", "--outputs", ","), "--outputs: expected ids of outputs, with commas between, found ','"),
        (("owner-1", "--outputs", ""), "--outputs: expected ids of outputs, with commas between, found ''"),
        (("owner-1", "--outputs", f"{DAY}-00"), f"output '{DAY}-00': expected an output of a published day, found none"),
        (("owner-1", "--outputs", f"{DAY}-001,{DAY}-01"), f"output '{DAY}-01': expected an output of {DAY}, found none"),
        (("owner-1", "--pairs", "5"), "--pairs: expected an even number from 4 on: pairs come in couples"),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_the_next_step(place, refused, words, message):
    assert message in refused("appeal", *words)


def test_without_a_published_day_there_is_nothing_to_contest(where, tmp_path):
    with pytest.raises(StoreError, match="expected a published day, found none. Only paid shares can be contested"):
        task.contested(where.at(tmp_path), "owner-1")


def test_one_other_owner_is_too_few(where, planned, monkeypatch):
    two = pl.DataFrame({"owner": ["payable/owner-1", "x"], "parties": [["payable/owner-1"], ["x"]]})
    monkeypatch.setattr(task, "owner_of_examples", lambda subject: two)
    with pytest.raises(ContractError, match="expected works of at least 2 other owners, to draw from, found 1 other owner"):
        task.plan(where, planned.case, 4)


def test_outputs_paid_by_size_cannot_be_contested(where, monkeypatch):
    load_night = task.load_night

    def by_size(store, folder):
        night = load_night(store, folder)
        contract = night.contracts[0].model_copy(update={"rule": "flat"})
        return replace(night, contract={"contracts": [contract.model_dump(mode="json")]})

    monkeypatch.setattr(task, "load_night", by_size)
    message = r"expected one with a pool that is divided by the effects of works, not by size \(flat\)"
    for chosen in ((), (f"{DAY}-001",)):
        with pytest.raises(InputError, match=message):
            task.contested(where, "owner-1", output_ids=chosen)


def test_the_experiment_agrees_with_training_on_every_coalition(where, planned):
    """Shapley values by all 32 coalitions, compared with the intervals of eight pairs."""
    names, _, masks = coalitions(owners_of(where, planned).to_list())
    worth = -retrain.retrain(where, planned.case.night, masks, 7, "coalitions")
    base, served = retrain.base_and_served(where, planned.case.night)
    true = shapley(worth)[names.index("payable/owner-1")] / (served - base)
    rows = task.answer(where, task.plan(where, planned.case, 8))["outputs"]
    found = [row["found"] for row in rows]
    inside = [part["low_ppb"] <= share * PPB <= part["high_ppb"] for share, part in zip(true, found, strict=True)]
    assert np.mean(inside) >= 0.75
    assert [part["ppb"] / PPB for part in found] == pytest.approx(true.tolist(), abs=0.06)
