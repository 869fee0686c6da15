"""Nights as operators run them and accountants read them."""

import csv
import hashlib
import io
import json
from collections import defaultdict
from types import SimpleNamespace

import polars as pl
import pytest
from samples import DAY, corpus_frames, deliver, enter, new_bucket, outputs_frame

from provenance.core.settings import CHECKOUT
from provenance.core.store import Store

pytestmark = pytest.mark.night
NEXT, BAD = "2026-11-20", "2026-11-21"


def accountant(files):
    """Read an export with nothing but CSV, JSON and SHA-256, and check all that it promises. Returns rows and totals."""
    current = json.loads(files["current.json"])
    folder = f"rev={current['revision']:04d}"
    manifest = json.loads(files[f"{folder}/manifest.json"])
    for name, stated in manifest["files"].items():
        assert hashlib.sha256(files[f"{folder}/{name}"]).hexdigest() == stated["sha256"]
        assert len(files[f"{folder}/{name}"]) == stated["bytes"]
    text = files[f"{folder}/payouts.csv"].decode()
    assert text.splitlines()[0] == (
        "day,revision,owner_id,owner_name,currency,outputs,opening_balance_minor,earned_minor,adjustment_minor,"
        "recouped_minor,withheld_minor,held_minor,paid_minor,closing_balance_minor,status,hold_reason"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    earned = defaultdict(int)
    for row in rows:
        money = {name: int(value) for name, value in row.items() if name.endswith("_minor")}
        assert money["closing_balance_minor"] == (
            money["opening_balance_minor"] + money["earned_minor"] + money["adjustment_minor"] - money["recouped_minor"]
            - money["withheld_minor"] - money["paid_minor"]
        )  # fmt: skip
        earned[row["currency"]] += money["earned_minor"]
    for currency, totals in manifest["totals"].items():
        assert totals["earned_minor"] == earned[currency]
        assert totals["revenue_minor"] == (
            totals["developer_minor"] + totals["earned_minor"] + totals["escrowed_minor"] + totals["unattributed_minor"]
        )
    assert len(rows) == manifest["rows"]["payouts"]
    assert len({(row["owner_id"], row["currency"]) for row in rows}) == len(rows)
    return rows, manifest


def balances(rows, column):
    return {(row["owner_id"], row["currency"]): int(row[f"{column}_balance_minor"]) for row in rows}


@pytest.fixture(scope="module", params=["file", "s3"])
def history(request, new_operator, tmp_path_factory):
    """A day, the day again, the next day, the first day with other revenue, and a day with bad input."""
    if request.param == "file":
        store = Store(f"file://{tmp_path_factory.mktemp('store')}", {})
    else:
        store = new_bucket(request.getfixturevalue("s3"))
    operator = new_operator(store, request.param)
    deliver(store, corpus_frames(), days=(DAY, NEXT, BAD))
    operator.ingest()
    found = SimpleNamespace(operator=operator)
    operator.night(DAY)
    found.first, found.first_log = operator.export(DAY), operator.log
    operator.night(DAY)
    found.again, found.again_log = operator.export(DAY), operator.log
    operator.night(NEXT)
    found.following, found.following_log = operator.export(NEXT), operator.log
    if request.param == "file":
        operator.audit(NEXT)
    store.write_table(f"outputs/day={DAY}/part.parquet", outputs_frame().with_columns(pl.col("revenue_minor") * 2))
    operator.night(DAY)
    found.reissued = operator.export(DAY)
    store.write_table(f"outputs/day={BAD}/part.parquet", outputs_frame(BAD).with_columns(currency=pl.lit("XQZ")))
    found.refused = operator.run("nightly_payouts", BAD)
    return found


def test_an_export_is_what_was_promised(history):
    rows, manifest = accountant(history.first)
    assert set(history.first) == {
        "current.json", *(f"rev=0001/{name}" for name in (
            "payouts.csv", "payouts.parquet", "payouts.xlsx", "intervals.csv", "credits.parquet", "journal.beancount",
            "manifest.json", "manifest.sig"))
    }  # fmt: skip
    assert set(balances(rows, "opening").values()) == {0}
    revenue = outputs_frame().group_by("currency").agg(pl.col("revenue_minor").sum())
    assert {c: t["revenue_minor"] for c, t in manifest["totals"].items()} == dict(revenue.iter_rows())
    assert manifest["totals"]["EUR"]["escrowed_minor"] > 0, "what an unmatched work earns goes to escrow"
    assert {row["reason"] for row in manifest["escrow"]} == {"no author is named"}
    assert manifest["notice"] == "Revenue is invented."


def test_the_same_day_again_computes_nothing_and_changes_not_a_byte(history):
    shards = int(history.first_log.split("features of corpus shards: 0 reused, ")[1].split()[0])
    assert shards >= 9
    assert f"features of corpus shards: {shards} reused, 0 computed" in history.again_log
    assert "features of outputs: 4 reused, 0 computed" in history.again_log
    assert "curvature: 4 sources reused, 0 computed" in history.again_log
    assert history.again == history.first


def test_the_next_day_computes_its_outputs_alone_and_opens_where_the_last_closed(history):
    assert " reused, 0 computed" in history.following_log.split("features of corpus shards: ")[1].splitlines()[0]
    assert "features of outputs: 0 reused, 4 computed" in history.following_log
    assert "curvature: 4 sources reused, 0 computed" in history.following_log
    rows, manifest = accountant(history.following)
    closed = balances(accountant(history.first)[0], "closing")
    opened = balances(rows, "opening")
    assert {key: opened[key] for key in closed} == closed
    assert manifest["previous"]["manifest_sha256"] == hashlib.sha256(history.first["rev=0001/manifest.json"]).hexdigest()


def test_a_day_whose_inputs_change_is_reissued_by_difference(history):
    rows, manifest = accountant(history.reissued)
    assert manifest["revision"] == 2
    assert all(history.reissued[name] == data for name, data in history.first.items() if name.startswith("rev=0001"))
    before = {(r["owner_id"], r["currency"]): int(r["earned_minor"]) for r in accountant(history.first)[0]}
    for row in rows:
        assert int(row["adjustment_minor"]) == -before.get((row["owner_id"], row["currency"]), 0)
    latest = balances(accountant(history.following)[0], "closing")
    opened = balances(rows, "opening")
    assert {key: opened[key] for key in latest} == latest, "balances chain in the order of booking"


def test_an_audit_is_kept_and_cited_by_what_is_published_after_it(history):
    store = history.operator.store
    if store.url.startswith("s3://"):
        pytest.skip("audited on disk alone: it retrains for half a minute")
    assert accountant(history.following)[1]["audit"] is None
    cited = accountant(history.reissued)[1]["audit"]
    result = store.read(f"{cited['folder']}/lds.json")
    assert hashlib.sha256(result).hexdigest() == cited["sha256"]
    assert json.loads(result)["night"]["day"] == NEXT
    assert set(json.loads(result)["families"]) == {"examples", "owners"}
    assert store.read(f"{cited['folder']}/lds.png").startswith(b"\x89PNG")


def test_bad_input_fails_the_run_without_a_retry_and_publishes_nothing(history):
    assert history.refused["exit"] == 2
    assert history.refused["error"].startswith("ContractError: ")
    assert "part.parquet: row 0 (output_id '2026-11-21-000'): column 'currency'" in history.refused["error"]
    assert "expected an ISO 4217 code, found 'XQZ'" in history.refused["error"]
    assert history.operator.store.list(f"nights/day={BAD}") == []
    assert history.operator.export(BAD) == {}


@pytest.fixture
def there(history, monkeypatch):
    """The command line is run on the history's store."""
    enter(monkeypatch, history.operator.environment)


def test_every_day_verifies(there, shown):
    for day in (DAY, NEXT):
        checks = shown("verify", day, "--json")["checks"]
        assert not any(checks.values())
        assert "ledger" in checks


def test_explain_names_the_owners_and_the_works_behind_an_output(there, shown):
    data = shown("explain", f"{NEXT}-001", "--json")
    assert sum(credit["share_ppb"] for credit in data["credits"]) == 1_000_000_000
    strongest = data["credits"][0]
    assert strongest["low_ppb"] <= strongest["share_ppb"] <= strongest["high_ppb"]
    assert strongest["top_works"][0]["source_uri"].startswith("https://example.org/work-")
    assert data["notice"] == "Revenue is invented."
    screen = shown("explain", f"{NEXT}-001")
    assert (strongest["owner_name"] or strongest["escrow_id"]) in screen
    assert strongest["top_works"][0]["work_id"] in screen
    assert "Revenue is invented." in screen


def test_payouts_shows_owners_escrow_and_totals(there, shown):
    out = shown("payouts", NEXT)
    for text in ("Owner 0, Ltd.", "unmatched-somebody", "no author is named", "Revenue is invented."):
        assert text in out
    assert shown("payouts", NEXT, "--json")["manifest"]["day"] == NEXT


def test_what_cannot_be_answered_is_exit_2_with_the_next_step(there, refused):
    assert f"For example: {NEXT}-000" in refused("explain", "nobody-asked")
    refused("verify", "2026-99-01")
    assert f"Published: {DAY}, {NEXT}" in refused("payouts", "2020-01-01")


def test_tampering_is_exit_1_and_named(there, command_line, history):
    store, key = history.operator.store, f"exports/payouts/day={NEXT}/rev=0001/payouts.csv"
    whole = store.read(key)
    store.write(key, whole.replace(b"accrued", b"acrrued"))
    try:
        code, out, _ = command_line("verify", NEXT)
    finally:
        store.write(key, whole)
    assert code == 1
    assert "payouts.csv: SHA-256 is" in out


def test_diff_says_what_changed_for_whom_and_which_input_differs(there, shown, refused, history):
    found = shown("diff", DAY, "1", "2", "--json")
    (cause,) = found["causes"]
    assert cause.startswith(f"outputs: 8 with another revenue ({DAY}-000, ")
    changes = {(row["owner_id"], row["currency"]): (row["before_minor"], row["after_minor"]) for row in found["owners"]}
    for revision, place in ((1, 0), (2, 1)):
        table = pl.read_csv(history.reissued[f"rev={revision:04d}/payouts.csv"])
        for owner, currency, earned in table.select("owner_id", "currency", "earned_minor").iter_rows():
            assert changes.get((owner, currency), (earned, earned))[place] == earned
    assert "revision 1 -> 2" in shown("diff", DAY, "1", "2")
    refused("diff", DAY, "1", "3")


def test_a_published_night_is_computed_again_byte_for_byte(there, shown, history):
    if history.operator.store.url.startswith("s3://"):
        pytest.skip("one store will do")
    checks = shown("replay", NEXT, "--json")["checks"]
    assert {"stages", "payouts.csv", "payouts.xlsx", "credits.parquet", "journal.beancount", "manifest.json"} <= set(checks)
    assert not any(checks.values())
    assert not (CHECKOUT / "var/recompute").exists() or not list((CHECKOUT / "var/recompute").iterdir())


def test_an_owner_gets_a_statement_and_a_proof(there, shown, refused, history, tmp_path):
    owner = pl.read_csv(history.following["rev=0001/payouts.csv"])["owner_id"][0]
    shown("statement", owner, "--period", NEXT[:7], "--out", str(tmp_path))
    assert {path.suffix for path in tmp_path.iterdir()} == {".html", ".pdf"}
    said = shown("statement", owner, "--period", NEXT[:7], "--json")
    booked = shown("balance", owner, "--json")
    owed = {line["currency"]: line["amount_minor"] for line in booked["accounts"]}
    assert {section["currency"]: section["closing"] for section in said["sections"]} == owed
    assert {earning["day"] for section in said["sections"] for earning in section["earnings"]} == {DAY, NEXT}
    refused("statement", "nobody", "--period", NEXT[:7])
    out, proof = shown("proof", NEXT, owner), tmp_path / "proof.json"
    proof.write_text(out)
    shown("verify", str(proof))
    proof.write_text(out.replace(f",{owner},", ",somebody,"))
    refused("verify", str(proof), code=1)
    proof.write_text("[{}]")
    refused("verify", str(proof))


def test_what_is_held_and_claimed_stands_in_the_next_export(there, shown, refused, history):
    operator = history.operator
    if operator.store.url.startswith("s3://"):
        pytest.skip("the ledger is the same on any store")
    rows, _ = accountant(history.reissued)
    disputed, claimant = sorted({row["owner_id"] for row in rows})[:2]
    said = ("--by", "J. Doe")
    shown("hold", disputed, "--reason", "disputed by A. Smith", *said)
    shown("claim", "unmatched-somebody", claimant, "--evidence", "a letter", *said)
    for words in (("hold", "nobody", "--reason", "x"), ("claim", "unmatched-somebody", disputed, "--evidence", "x")):
        refused(*words, *said)
    more = outputs_frame(NEXT).with_columns(pl.col("revenue_minor") * 3)
    operator.store.write_table(f"outputs/day={NEXT}/part.parquet", more)
    operator.night(NEXT)

    rows, manifest = accountant(operator.export(NEXT))
    assert manifest["revision"] == 2
    mine = [row for row in rows if row["owner_id"] == disputed]
    assert mine
    for row in mine:
        assert (row["held_minor"], row["status"]) == (row["closing_balance_minor"], "held")
        assert row["hold_reason"] == "disputed by A. Smith"
    assert "unmatched-somebody" not in {row["escrow_id"] for row in manifest["escrow"]}
    assert all(balance["escrow"] == 0 for balance in manifest["trial_balance"].values())
    shown("verify", NEXT, "--json")
    booked = shown("balance", disputed, "--json")
    assert {line["account"] for line in booked["accounts"]} == {"held"}
    assert "hold" in {booking["kind"] for booking in booked["bookings"]}
    shown("release", disputed, "--reason", "disputed by A. Smith", *said)
    books = shown("balance", "--json")
    assert books["holds"] == {}
    assert books["escrow"] == []
    assert "Trial balance" in shown("balance")


def test_a_night_killed_again_and_again_ends_in_the_same_bytes(new_operator, tmp_path_factory):
    undisturbed, killed = (
        new_operator(Store(f"file://{tmp_path_factory.mktemp(name)}", {}), name) for name in ("undisturbed", "killed")
    )
    for operator in (undisturbed, killed):
        deliver(operator.store, corpus_frames())
        operator.ingest()
    undisturbed.night(DAY)
    undisturbed.stop()

    killed.killed_after("nightly_payouts", DAY, "features/", 5)
    left = len(killed.store.list("features"))
    assert left in {5, 6}, "the other worker may have been writing, too"
    killed.killed_after("nightly_payouts", DAY, "exports/", 2)  # two files of the export, no manifest
    reused = int(killed.log_file.read_text().split("features of corpus shards: ")[1].split()[0])
    assert 0 < reused <= left, "what was computed before the kill is not computed again"
    killed.killed_after("nightly_payouts", DAY, "manifest.json", 1)  # the manifest, no pointer to it
    assert not killed.store.exists(f"exports/payouts/day={DAY}/current.json")
    killed.night(DAY)
    assert killed.export(DAY) == undisturbed.export(DAY)
