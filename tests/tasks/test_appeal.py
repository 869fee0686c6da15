"""An owner contests what a night paid, and an experiment answers: on the tiny corpus and model."""

import json
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
from lxml import etree
from samples import DAY, corpus_frames, create_database, deliver
from stages import SMALL, night

from provenance.core.errors import ContractError, InputError, ModelError, StoreError
from provenance.core.store import Store, Stored, canonical_json
from provenance.settlement.exports import in_force
from provenance.validation import appeals
from tasks import appeal as task
from tasks import gc
from tasks.attribute import local_settings
from tasks.ingest import ingest
from tasks.settings import load

PPB, NANO = 10**9, 10**9
FEW = ("--pairs", "4", "--workers", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory, postgres, tiny_model):
    """A store with a night that is booked and published; its settings are those of the environment."""
    folder = tmp_path_factory.mktemp("appeal")
    store = Store(f"file://{folder}/store", {})
    values = {
        "STORE__URL": store.url,
        "DATABASE__URL": create_database(postgres),
        "MODEL__FOLDER": str(tiny_model),
        "MODEL__CACHE": str(folder / "cache"),
        "SIGNALS__COLLECT": "false",
        "LINEAGE__FOLDER": str(folder / "lineage"),
        "SETTLEMENT__KEY": str(folder / "signing.pem"),
        "SETTLEMENT__RETIRED": str(folder / "retired"),
        **SMALL,
    }
    frames = corpus_frames()
    idle = pl.DataFrame({"owner_id": ["owner-9"], "name": ["Without Works"]})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(f"PROVENANCE_{name}", value)
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


def trained(store):
    """Trainings that the store has, and when each was written."""
    return {file.name: file.stat().st_mtime_ns for file in Path(store.path(task.TRAININGS)).glob("[!.]*")}


def reports(store):
    return {key: store.read(key) for key in store.list("appeals") if not key.startswith(task.TRAININGS)}


def told(command_line, *words):
    code, out, err = command_line("appeal", *words, "--json", "--yes")
    assert code == 0, err
    return json.loads(out)


def test_a_report_has_the_effect_beside_what_was_paid(place, command_line):
    found = told(command_line, "owner-1", *FEW)
    credits = place.read_table(f"{in_force(place, DAY)['folder']}/credits.parquet")
    mine = credits.filter((pl.col("owner_id") == "owner-1") & (pl.col("account") == "payable"))
    assert [row["output_id"] for row in found["outputs"]] == sorted(mine["output_id"])
    paid = dict(mine.select("output_id", "share_ppb").iter_rows())
    for row in found["outputs"]:
        assert row["paid"]["ppb"] == paid[row["output_id"]]
        assert 0 <= row["found"]["low_ppb"] <= row["found"]["ppb"] <= row["found"]["high_ppb"] <= PPB
        assert row["effect_nats"]["low"] < row["effect_nats"]["value"] < row["effect_nats"]["high"]
        assert row["found"]["ppb"] == pytest.approx(PPB * row["effect_nats"]["value"] / row["brought_nats"], abs=PPB / 10**5)
    assert [row["currency"] for row in found["currencies"]] == ["EUR", "USD"]
    for row in found["currencies"]:
        pools = credits.filter(currency=row["currency"])["amount_nanominor"].sum()
        got = mine.filter(currency=row["currency"])["amount_nanominor"].sum()
        for end, share in (("low", "low_ppb"), ("value", "ppb"), ("high", "high_ppb")):
            exact = Fraction(pools * row["found"][share], PPB * NANO) - Fraction(got, NANO)
            assert abs(row["difference_minor"][end] - exact) <= Fraction(1, 2)
            assert isinstance(row["difference_minor"][end], int)
        assert row["verdict"] == appeals.verdict(row["paid"]["ppb"], row["found"]["low_ppb"], row["found"]["high_ppb"])
        assert 0.1 < row["found"]["ppb"] / PPB < 0.3, "five owners of like works"
    assert found["experiment"]["others"] == 4
    assert found["experiment"]["works"] == 4
    assert found["verdict"]


def test_the_page_says_the_same_and_is_well_formed(place, command_line):
    found = told(command_line, "owner-1", *FEW)
    page = place.read(f"{found['folder']}/report.html")
    text = " ".join(etree.fromstring(page).itertext())
    for said in (*found["verdict"], "Owner 1, Ltd.", "Revenue is invented.", found["outputs"][0]["output_id"], "report.sig"):
        assert said in text
    assert found["inputs"]["manifest"] in text


def test_the_table_says_what_was_found_and_where_the_report_is(command_line):
    code, out, err = command_line("appeal", "owner-1", *FEW, "--yes", "--most", "2")
    assert code == 0, err
    assert "owner-1 contests 8 outputs of 2026-11-19, revision 1." in err
    assert "8 trainings" in err
    assert "Owner 1, Ltd." in out
    assert "and 6 more, in report.json" in out
    assert "Nothing is booked." in out
    assert "report.html, report.json, report.sig" in out


def test_again_nothing_is_trained_and_the_bytes_are_the_same(place, command_line):
    told(command_line, "owner-1", *FEW)
    before, published = trained(place), reports(place)
    code, _, err = command_line("appeal", "owner-1", *FEW)  # without asking, since nothing is to be trained
    assert code == 0, err
    assert trained(place) == before
    assert reports(place) == published


def test_more_pairs_and_other_questions_about_the_day_train_no_pair_again(place, command_line):
    told(command_line, "owner-1", *FEW)
    before = trained(place)
    one = told(command_line, "owner-1", *FEW, "--outputs", f"{DAY}-003")
    assert [row["output_id"] for row in one["outputs"]] == [f"{DAY}-003"]
    assert trained(place) == before, "losses are of all outputs of the day"
    more = told(command_line, "owner-1", "--pairs", "6", "--workers", "1")
    assert more["experiment"]["drawn"][:4] == one["experiment"]["drawn"]
    assert before.items() <= trained(place).items()
    assert len(trained(place)) == len(before) + 4


def test_pairs_differ_in_the_owner_s_works_alone(planned):
    owner = planned.examples["owner"].to_numpy()
    for pair, without, within in zip(planned.pairs, planned.without, planned.within, strict=True):
        assert set(owner[list(without.examples)]) == set(pair.others)
        assert sorted({*within.examples} - {*without.examples}) == np.flatnonzero(owner == "payable/owner-1").tolist()
        assert without.seed == within.seed
    empty = [each for each in planned.without if not each.examples]
    assert all(each.checkpoint == 0 for each in empty), "nobody's works: the base"


def test_who_trains_on_nothing_has_the_base(settings, planned):
    nobody = task.Run(f"{task.TRAININGS}/nobody.parquet", (), 0, 5)
    task.train(settings, replace(planned, without=(nobody,), within=(), there=frozenset()))
    base, served, empty = (task._likelihoods(planned, each) for each in (planned.base, planned.served, nobody))
    assert np.abs(empty - base).max() < 0.1 * (served - base).min(), "fresh weights say about as much whatever the seed"


def test_who_was_paid_nothing_contests_outputs_by_name(settings, planned):
    store, case = settings.store.open(), planned.case
    others = store.read_table(f"{case.export}/credits.parquet").filter(pl.col("owner_id") != "owner-1")
    named = {"owner_id": "owner-1", "chosen": {f"{DAY}-001"}, "asked": True}
    (row,) = task._outputs(store, case.night, others, {"everything": 0.0}, **named).to_dicts()
    assert (row["paid"], row["share_ppb"], row["paid_by"]) == (0, 0, "flat")


def test_what_an_owner_has_claimed_is_its_works(settings, planned):
    case = replace(planned.case, claimed={"unmatched-somebody": "owner-1"})
    claimed = task.plan(settings, case, 4)
    assert claimed.mine.height > planned.mine.height
    assert "escrow/unmatched-somebody" not in claimed.examples["owner"].to_list()


def shown(text):
    """What a table shows, wherever it breaks lines: it is as wide as the terminal."""
    return "".join(text.split())


def test_the_command_verifies_the_report_and_finds_what_was_changed(place, command_line, tmp_path):
    folder = told(command_line, "owner-1", *FEW)["folder"]
    assert command_line("verify", folder)[0] == 0
    assert command_line("verify", f"{folder}/report.json")[0] == 0
    code, _, err = command_line("verify", "appeals/" + "0" * 32)
    assert (code, "report.json: expected an object, found nothing" in err) == (2, True)
    (key,) = place.list("exports/keys")
    copy = tmp_path / "copy"
    shutil.copytree(place.path(folder), copy)
    assert command_line("verify", str(copy), "--key", place.path(key))[0] == 0
    assert command_line("verify", str(copy / "report.json"), "--key", place.path(key))[0] == 0
    code, out, _ = command_line("verify", str(copy))
    assert (code, shown("report.sig: not by any of the 0 keys") in shown(out)) == (1, True)
    for name, says in (("report.json", "not on this report"), ("report.html", "SHA-256"), ("report.sig", "not on this report")):
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(data.replace(b"owner-1", b"owner-2") if name != "report.sig" else b"A" + data[1:])
        code, out, err = command_line("verify", str(copy), "--key", place.path(key))
        assert code == 1, name
        assert shown(says) in shown(out)
        assert "does not hold" in err
        (copy / name).write_bytes(data)


def test_a_report_that_was_changed_is_not_taken_for_the_published_one(place, settings, planned, command_line):
    folder = told(command_line, "owner-1", *FEW)["folder"]
    planned = replace(planned, there=frozenset(place.list(task.TRAININGS)))
    data = place.read(f"{folder}/report.json")
    place.write(f"{folder}/report.json", data.replace(b"agrees", b"agreed"))
    try:
        with pytest.raises(StoreError, match="expected the report that was published, found another one"):
            task.publish(settings, planned)
        code, out, _ = command_line("verify", folder)
        says = "not by a key that these settings trust, or not on this report"
        assert (code, shown(says) in shown(out)) == (1, True)
    finally:
        place.write(f"{folder}/report.json", data)


def test_an_appeal_killed_half_way_goes_on(place, command_line):
    told(command_line, "owner-2", *FEW)
    published = reports(place)
    shutil.rmtree(place.path("appeals"))
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.cli", "appeal", "owner-2", *FEW, "--yes"], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(trained(place)) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = trained(place)
    assert 5 <= len(before) < 10, "killed between its first and its last"
    assert told(command_line, "owner-2", *FEW)["owner_id"] == "owner-2"
    assert {name: at for name, at in trained(place).items() if name in before} == before
    mine = {key: data for key, data in published.items() if key in reports(place)}
    assert mine, "the same report"
    assert reports(place) == mine


def test_publishing_killed_at_any_write_ends_as_if_it_was_not(place, settings, planned, monkeypatch):
    task.train(settings, planned)
    task.publish(settings, planned)
    published = {key: place.read(key) for key in place.list(planned.folder)}
    assert len(published) == 3

    class Killed(BaseException):
        pass

    def deadly(method, left):
        def write(self, key, data):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return method(self, key, data)

        return write

    for survived in range(4):
        shutil.rmtree(place.path(planned.folder))
        with monkeypatch.context() as patch:
            left = [survived]
            patch.setattr(Store, "write", deadly(Store.write, left))
            patch.setattr(Store, "create", deadly(Store.create, left))
            with pytest.raises(Killed):
                task.publish(settings, planned)
        task.publish(settings, planned)
        assert {key: place.read(key) for key in place.list(planned.folder)} == published


def test_an_output_that_training_did_not_help_has_no_share(settings, planned, monkeypatch):
    task.train(settings, planned)
    brought = task._brought(planned)
    brought[3] = -1.0
    monkeypatch.setattr(task, "_brought", lambda appeal: brought)
    found = task.report(planned)
    assert [row["found"] is None for row in found["outputs"]] == [at == 3 for at in range(8)]
    assert [row["outputs"] for row in found["currencies"]] == [4, 3]
    assert canonical_json(found)
    assert b"1 output did not become more likely by training" in task.as_html(found)
    monkeypatch.setattr(task, "_brought", lambda appeal: -np.abs(brought))
    with pytest.raises(ContractError, match="expected an output that training made more likely"):
        task.train(settings, replace(planned, there=frozenset()))


def test_a_rule_that_decided_in_part_is_told(planned):
    (contract,) = planned.case.night.contracts
    assert [task._paid_by(contract, weight) for weight in (1.0, 0.0, 0.25)] == ["faithful", "flat", "25% faithful, 75% flat"]


def test_cost_is_said_and_consent_is_asked_before_anything_is_trained(place, command_line, monkeypatch):
    before = trained(place)
    for words in ((), ("--json",)):
        code, out, err = command_line("appeal", "owner-3", *FEW, *words)
        assert code == 2
        assert "8 trainings.\n0 of them are there; the other 8 are worth" in err
        assert "times as long as one training on everything does here" in err
        assert "--yes: expected somebody's consent to 8 trainings, found none. Give the same command with --yes." in err
    monkeypatch.setattr("typer.confirm", lambda question, **how: question != "Train 8 models?")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    code, out, _ = command_line("appeal", "owner-3", *FEW)
    assert (code, out) == (0, "Nothing was trained.\n")
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
def test_errors_name_the_place_and_the_next_step(place, command_line, words, message):
    code, _, err = command_line("appeal", *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_housekeeping_leaves_appeals_alone():
    long_ago, now = datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC)
    kept = tuple(Stored(key, 1, long_ago) for key in ("appeals/0f/report.json", f"{task.TRAININGS}/0f.parquet"))
    assert gc.decide(gc.Seen(kept), gc.Policy.of(load().retention), now) == []


def test_without_a_published_day_there_is_nothing_to_contest(place, tmp_path):
    with pytest.raises(StoreError, match="expected a published day, found none. Only what was paid can be contested"):
        task.contested(load().at(tmp_path), "owner-1")


def test_a_model_that_cannot_be_trained_is_named(settings, planned, monkeypatch):
    from provenance.features.adapters.causal_lm import CausalLM

    monkeypatch.delattr(CausalLM, "train")
    with pytest.raises(ModelError, match=r"adapter CausalLM: expected a method train\(contents, \*, seed, folder\)"):
        task.plan(settings, planned.case, 4)


def test_one_other_owner_is_too_few(settings, planned, monkeypatch):
    few = planned.examples.with_columns(
        owner=pl.when(pl.col("owner") == "payable/owner-1").then("owner").otherwise(pl.lit("x"))
    )
    monkeypatch.setattr(task, "owner_of_examples", lambda subject: few)
    with pytest.raises(ContractError, match="expected works of at least 2 other owners, to draw from, found 1 other owner"):
        task.plan(settings, planned.case, 4)


def test_what_is_paid_by_size_is_not_contested(settings, monkeypatch):
    load_night = task.load_night

    def by_size(store, folder):
        night = load_night(store, folder)
        contract = night.contracts[0].model_copy(update={"rule": "flat"})
        return replace(night, contract={"contracts": [contract.model_dump(mode="json")]})

    monkeypatch.setattr(task, "load_night", by_size)
    for chosen in ((), (f"{DAY}-001",)):
        with pytest.raises(
            InputError, match=r"expected one with a pool that is divided by what works add, not by size \(flat\)"
        ):
            task.contested(settings, "owner-1", output_ids=chosen)


def test_the_experiment_finds_what_training_on_every_coalition_gives(settings, planned):
    """Shapley values by all 32 coalitions, against the intervals of eight pairs."""
    from provenance.validation.coalitions import shapley

    owner = planned.examples["owner"].to_numpy()
    names = sorted(set(owner))
    runs = []
    for number in range(2 ** len(names)):
        inside = np.flatnonzero(np.isin(owner, [name for bit, name in enumerate(names) if number >> bit & 1]))
        key = f"{task.TRAININGS}/coalition-{number}.parquet"
        runs.append(task.Run(key, tuple(inside.tolist()), -1 if inside.size else 0, 7))
    task.train(settings, replace(planned, without=tuple(runs), within=()))
    worth = np.stack([task._likelihoods(planned, each) for each in runs])
    true = shapley(worth)[names.index("payable/owner-1")] / task._brought(planned)
    eight = task.plan(settings, planned.case, 8)
    task.train(settings, eight)
    rows = task.report(eight)["outputs"]
    held = [row["found"]["low_ppb"] <= share * PPB <= row["found"]["high_ppb"] for share, row in zip(true, rows, strict=True)]
    assert np.mean(held) >= 0.75
    assert [row["found"]["ppb"] / PPB for row in rows] == pytest.approx(true.tolist(), abs=0.06)
