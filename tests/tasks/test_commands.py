"""The command line on two paid days, between which works were withdrawn: how things stand, who moved, the model's card."""

import json
import re

import polars as pl
import pytest
from samples import DAY, corpus_frames, create_database, deliver, enter, settings_of
from stages import SMALL, night, run
from typer import Context
from typer.main import get_command

from provenance.core.store import Store
from tasks.cli import app
from tasks.cli.help import GROUPS, commands_of

NEXT = "2026-11-20"
WITHDRAWN = "work-1-3"
# Counterfactual models of each of five owners alone and of four pairs; those that the withdrawn work is not in.
TRAINED, LEFT = 13, 8


@pytest.fixture(scope="module")
def place(tmp_path_factory, postgres, tiny_model):
    """A store with two published days and a few counterfactual models; one work was withdrawn in between."""
    folder = tmp_path_factory.mktemp("commands")
    store = Store(f"file://{folder}/store", {})
    frames = corpus_frames()
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, settings_of(store, create_database(postgres), tiny_model, folder, **SMALL, COUNTERFACTUALS__TRAININGS="5"))
        deliver(store, frames, days=(DAY, NEXT))
        run("corpus.ingest")
        run("counterfactuals.train", [name for group in run("counterfactuals.plan") for name in group])
        night()
        fewer = {
            name: frame.filter(pl.col("work_id") != WITHDRAWN) for name, frame in frames.items() if "work_id" in frame.columns
        }
        deliver(store, frames | fewer, days=())
        run("corpus.ingest")
        night(day=NEXT)
        yield store


def nothing_paid(monkeypatch, tmp_path):
    """Settings of a store where nothing has happened, and whose ledger must not be opened."""
    values = {"STORE__URL": f"file://{tmp_path}/store", "DATABASE__URL": "postgresql+psycopg2://nobody@127.0.0.1:1/none"}
    enter(monkeypatch, {f"PROVENANCE_{name}": value for name, value in values.items()})


def test_before_anything_the_status_says_where_to_begin(monkeypatch, tmp_path, shown):
    nothing_paid(monkeypatch, tmp_path)
    found = shown("status", "--json")
    assert (found["last_night"], found["next_step"]) == (None, "make demo")
    assert "no day is published yet" in shown("status")


def test_the_status_has_the_last_night_and_fits_a_screen(place, shown, monkeypatch):
    found = shown("status", "--json")
    assert (found["days"], found["last_night"]["day"], found["last_night"]["outputs"]) == (2, NEXT, 8)
    assert found["counterfactuals"] == LEFT
    earned = place.read_json(f"exports/payouts/day={NEXT}/rev=0001/manifest.json")["totals"]
    assert found["last_night"]["earned"] == {currency: row["earned_minor"] for currency, row in earned.items()}
    monkeypatch.setenv("COLUMNS", "80")
    text = shown("status")
    assert f"Last night    {NEXT}, revision 1: 8 outputs of tiny" in text
    assert len(text.splitlines()) <= 24


def test_a_day_with_outputs_that_nobody_paid_waits(place, shown):
    place.write_table("outputs/day=2026-11-21/part.parquet", pl.DataFrame({"output_id": ["x"]}))
    try:
        found = shown("status", "--json")
    finally:
        place.remove("outputs/day=2026-11-21/part.parquet")
    assert [row for row in found["waits"] if row["what"].startswith("2026-11-21 is not paid")]


def test_a_booking_without_an_export_is_the_next_step(place, shown):
    key = f"exports/payouts/day={NEXT}/rev=0001/manifest.json"
    pointer = f"exports/payouts/day={NEXT}/current.json"
    kept = {name: place.read(name) for name in (key, pointer)}
    place.remove_all(list(kept))
    try:
        found = shown("status", "--json")
    finally:
        for name, data in kept.items():
            place.write(name, data)
    assert found["waits"][0]["what"].startswith(f"the night of {NEXT} is booked")
    assert found["next_step"] == f"trigger nightly_payouts in Airflow with day {NEXT}"


def test_owners_are_found_by_a_part_of_a_name_or_id(place, shown, refused):
    everybody = shown("owners", "--json")
    assert [row["owner_id"] for row in everybody] == sorted(
        (row["owner_id"] for row in everybody), key=lambda owner: -sum(amounts(everybody, owner))
    )
    (one,) = shown("owners", "OWNER 2", "--json")
    assert (one["owner_id"], one["name"], one["works"]) == ("owner-2", "Owner 2, Ltd.", 4)
    accounts = shown("balance", "owner-2", "--json")["accounts"]
    assert one["owed"] == {row["currency"]: row["amount_minor"] for row in accounts if row["account"] == "payable"}
    assert "provenance balance owner-2" in shown("owners", "owner-2")
    assert "found no owner with it. Did you mean 'owner-2'?" in refused("owners", "ownr-2")


def amounts(rows, owner):
    return next(row["owed"] for row in rows if row["owner_id"] == owner).values()


def test_two_days_are_compared_by_input_and_by_owner(place, shown):
    found = shown("diff", DAY, NEXT, "--json")
    causes = {row["what"]: row["says"] for row in found["causes"]}
    assert causes.keys() == {"corpus", "claims", "counterfactual models", "the contracts", "outputs"}
    assert causes["the contracts"].startswith("weights.everything 0.0 -> "), "with fewer models another blend pays"
    assert causes["corpus"] == f"0 examples added, 3 withdrawn ({WITHDRAWN})"
    assert causes["outputs"].startswith("all 8 outputs are new")
    assert causes["counterfactual models"] == f"0 added, {TRAINED - LEFT} removed, {LEFT} now rather than {TRAINED}"
    assert {"model", "opt-outs", "the code"} <= {*found["same"]}
    movers = {row["party_id"]: row for row in found["movers"]}
    changes = [abs(row["after"]["share_ppb"] - row["before"]["share_ppb"]) for row in found["movers"]]
    assert changes == sorted(changes, reverse=True)
    assert f"3 examples of its works withdrawn ({WITHDRAWN})" in movers["owner-1"]["because"]
    assert not [text for text in movers["owner-2"]["because"] if "withdrawn" in text]
    for mover in found["movers"]:
        before, after = mover["before"], mover["after"]
        low, high = sorted((before, after), key=lambda share: share["share_ppb"])
        halves = (low["high_ppb"] - low["share_ppb"]) ** 2 + (high["share_ppb"] - high["low_ppb"]) ** 2
        assert mover["within"] == ((high["share_ppb"] - low["share_ppb"]) ** 2 <= halves)
    text = shown("diff", DAY, NEXT)
    assert (text.count("For all of them differs: "), text.count("differs: other outputs")) == (1, 0)


def test_works_that_moved_add_up_to_no_more_than_the_owner_s_share(place, shown):
    for mover in shown("diff", DAY, NEXT, "--json")["movers"]:
        for side in ("before", "after"):
            assert sum(work[f"{side}_ppb"] for work in mover["works"]) <= mover[side]["share_ppb"] + 3


def test_a_day_alone_is_compared_with_the_one_before(place, shown, refused):
    assert shown("diff", NEXT, "--json") == shown("diff", DAY, NEXT, "--json")
    assert "which is the first" in refused("diff", DAY)
    assert "found nothing" not in refused("diff", DAY, "2026-11-5")
    assert "expected two revisions" in refused("diff", DAY, "1")
    assert "nothing after two days" in refused("diff", DAY, NEXT, "2")


def test_the_card_says_what_the_model_is_and_what_is_followed(place, shown):
    card = shown("model", "card", "--json")
    assert (card["model_id"], card["adapter"], card["published"]) == ("tiny", "CausalLM", 2)
    assert card["architecture"] == "llama (layers 1, width 16, vocabulary 257)"
    assert [night["day"] for night in card["nights"]] == [DAY, NEXT]
    assert sum(card["counterfactuals"].values()) == LEFT
    followed = card["followed"]
    assert 0.9 < followed["share"] <= 1
    assert followed["weights"] == sum(block["verdict"] == "followed" for block in followed["blocks"]) > 0
    assert followed["largest_deviation"] <= followed["tolerance"]
    manifest = place.read_json(f"exports/payouts/day={NEXT}/rev=0001/manifest.json")
    (facts,) = card["nights"][-1]["fidelity"]
    assert facts["scores"] == manifest["fidelity"][facts["contract"]]["lds"]
    assert facts["left_out"] == manifest["fidelity"][facts["contract"]]["intervals_hold"]["left_out"]
    assert (facts["set_aside"] is None) == (card["set_aside"] == 0)


def test_the_card_is_markdown_whose_tables_are_whole(place, command_line):
    code, text, _ = command_line("model", "card", "--markdown")
    assert code == 0
    assert text.startswith("# Model card: tiny\n")
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1, table
    for heading in ("What it is", "Fidelity, by night", "Coverage and what is followed", "Cost of a night", "Read with care"):
        assert f"\n## {heading}\n" in text


def test_times_of_a_night_come_from_the_events_of_its_tasks(place, shown, tmp_path, monkeypatch):
    folder = place.read_json(f"exports/payouts/day={NEXT}/rev=0001/manifest.json")["night"]

    def run_of(store, begin, *seconds):
        """Events of a run of two tasks; every run has the same ids, as runs of one day outside the scheduler do."""
        at = begin
        for stage, spent in zip(("features.featurise", "settlement.publish"), seconds, strict=False):
            for kind, time in (("START", at), ("COMPLETE", at + spent)):
                source = {"name": store, "uri": f"{store}/{folder}/inputs.json"}
                yield {
                    "eventTime": f"2026-11-21T00:{time // 60:02d}:{time % 60:02d}+00:00",
                    "eventType": kind,
                    "job": {"name": f"nightly_payouts.{stage}"},
                    "run": {"runId": stage, "facets": {"parent": {"run": {"runId": "a run"}}}},
                    "inputs": [{"name": "x", "facets": {"dataSource": source}}] if kind == "COMPLETE" else [],
                    "outputs": [],
                }
            at += spent

    events = [*run_of(place.url, 0, 30, 30), *run_of(place.url, 100, 10, 2), *run_of("file:///elsewhere", 200, 40, 40)]
    (tmp_path / "2026-11-21.jsonl").write_text("\n".join([*map(json.dumps, events), '{"half']))
    enter(monkeypatch, {"PROVENANCE_LINEAGE__FOLDER": str(tmp_path), "PROVENANCE_CLUSTER__WORKERS": "3",
                        "PROVENANCE_MONITORING__HOURLY_COST": "7200"})  # fmt: skip
    first, last = shown("model", "card", "--json")["nights"]
    assert last["seconds"] == {"features.featurise": 10, "settlement.publish": 2}
    assert (last["worker_seconds"], last["cost_minor"]) == (32, 64)
    assert (first["seconds"], first["worker_seconds"], first["cost_minor"]) == ({}, None, None)


def test_the_card_says_what_is_left_out_and_why_the_estimate_pays(place, shown, command_line):
    blocks = shown("model", "card", "--json")["followed"]["blocks"]
    left = [block for block in blocks if block["verdict"] == "left out"]
    _, text, _ = command_line("model", "card", "--markdown")
    (row,) = re.findall(r"^\| left out \| (.*) \|$", text, flags=re.MULTILINE)
    numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", row)]
    assert sum(numbers[:-1]) == len(left) > 0
    assert numbers[-1] == sum(block["parameters"] for block in left)
    facts = shown("model", "card", "--json")["nights"][-1]["fidelity"][0]
    alone, estimate = facts["scores"]["influence"], facts["scores"]["estimate"]
    assert ("influence alone scores as well" in text) == (alone["high"] >= estimate["low"])
    assert "Nine in ten is about counterfactual models that are left out." in text


def test_a_check_of_a_day_ends_with_a_verdict(place, shown):
    checks = shown("verify", DAY, "--json")["checks"]
    assert shown("verify", DAY).rstrip().endswith(f"All {len(checks)} checks hold.")


def test_a_model_that_no_night_has_is_named_with_the_nearest(place, refused):
    assert "Did you mean 'tiny'?" in refused("model", "card", "tiy")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("payouts", "2026-11-22"), f"Published: {DAY}, {NEXT}."),
        (("explain", f"{NEXT}-00"), f"Did you mean '{NEXT}-000'?"),
        (("explain", "2026-11-2-003"), "Did you mean '2026-11-20-003'?"),
        (("balance", "owner2"), "Did you mean 'owner-2'?"),
        (("balance", "OWNER 2 LTD"), "Did you mean 'owner-2'?"),
        (("balance", "x"), "`provenance owners` lists all."),
        (("statement", "owner2", "--period", "2026-11"), "Did you mean 'owner-2'?"),
        (("proof", DAY, "owner2"), "Did you mean 'owner-2'?"),
        (("contracts", "--contract", "everythin"), "Did you mean 'everything'?"),
        (("payots", DAY), "Did you mean 'payouts'"),
        (("help", "decid"), "Did you mean 'decide'?"),
        (("help", "payee", "improt"), "Did you mean 'import'?"),
    ],
)
def test_a_mistyped_id_or_name_is_answered_with_the_nearest(place, refused, words, hint):
    assert hint in refused(*words)


def test_the_first_screen_fits_80_by_24_and_has_every_command(command_line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, text, _ = command_line("--help")
    rows = text.splitlines()
    assert code == 0
    assert len(rows) <= 23, "and the prompt"
    assert max(map(len, rows)) <= 80
    group = get_command(app)
    grouped = [name for each in GROUPS for name in commands_of(group, each)]
    assert sorted(grouped) == sorted({*group.commands} - {"help"})
    assert {*grouped} <= {*text.split()}


def every(group, *names):
    for name, command in group.commands.items():
        yield from every(command, *names, name) if hasattr(command, "commands") else [((*names, name), command)]


@pytest.mark.parametrize(
    ("names", "command"), list(every(get_command(app))), ids=lambda part: " ".join(part) if isinstance(part, tuple) else ""
)
def test_help_begins_with_what_a_command_does_and_names_values_in_one_style(names, command, command_line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, text, _ = command_line(*names, "--help")
    assert code == 0
    first = command.help.split()[0]
    assert first[0].isupper()
    assert not first.endswith("s"), "an imperative"
    assert "Example:" in command.help
    assert not re.search(r"<(?:str|int|path|bool|float)", text)
    context = Context(command)
    options = [part for part in command.get_params(context) if part.param_type_name == "option" and not part.is_flag]
    assert all(re.fullmatch(r"[A-Z_=]+|[a-z]+(\|[a-z]+)*", part.display_type_rich(context)) for part in options)
    usage = text.partition("Usage: ")[2].splitlines()[0]
    assert not re.search(r"[{}]|\[\[", usage)


def test_the_version_is_that_of_the_code(command_line):
    code, text, _ = command_line("--version")
    assert code == 0
    assert re.fullmatch(r"provenance \d+\.\d+\.\d+(\+\S+)?\n", text)


def test_a_group_is_listed_with_a_line_for_each_command(shown):
    text = " ".join(shown("help", "pay").split())
    assert text.startswith("Pay: ")
    assert "statement State an owner's earnings of a period" in text
    assert "hold Hold" not in text
