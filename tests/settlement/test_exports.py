import csv
import io
import json
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime

import openpyxl
import polars as pl
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from samples import bean_check, checked_journal, credited_frame

from provenance.core.errors import StoreError
from provenance.core.published import current_key
from provenance.core.settings import SettlementSettings
from provenance.core.store import Store, canonical_json, sha256
from provenance.core.tables import CREDITS, EVIDENCE, INTERVALS, NIGHT_SHARES, PAYOUTS, RULE_SHARES
from provenance.settlement.accounts import Account, Standing, totals, trial_balance
from provenance.settlement.books import Booking
from provenance.settlement.exports.export import build, key_file, payout_lines, point_to, write
from provenance.settlement.exports.keys import replace_key, signing_key, trusted_keys
from provenance.settlement.exports.payouts import Movements, credits, credits_file, intervals, payouts
from provenance.settlement.exports.proofs import public_pem, root, sign
from provenance.settlement.exports.verification import booked_and_published, check_proof, earlier_revisions, prove_line, verify
from provenance.settlement.months.periods import PAY, Line, payment_entries

DAY = date(2026, 11, 19)
NOON = datetime(2026, 11, 20, tzinfo=UTC)
KEY, FOREIGN = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
BEFORE = {Account("payable", "ann", "EUR"): -500, Account("payable", "zoe", "EUR"): -7, Account("receivable", "", "EUR"): 507}
AFTER = {
    Account("receivable", "", "EUR"): 100, Account("developer", "", "EUR"): -30, Account("payable", "ann", "EUR"): -40,
    Account("payable", "bob", "EUR"): -20, Account("escrow", "unmatched-x", "EUR"): -10,
}  # fmt: skip
ENDS = NIGHT_SHARES.frame(
    [("EUR", "payable", "ann", 571428571, 500000000, 600000000), ("EUR", "payable", "bob", 285714286, 285714286, 285714286)]
)
NAMES = {"ann": "=HYPERLINK(evil)", "bob": 'Bo "B", Ltd.'}


def tables(revision=1, day_before=None):
    shares = [("o1", "payable", "ann", 600, 40), ("o1", "payable", "bob", 400, 20), ("o2", "escrow", "unmatched-x", 1000, 10)]
    credited = credited_frame((o, a, p, s * 10**6, 0, 10**9, "EUR", minor * 10**9) for o, a, p, s, minor in shares)
    evidence = EVIDENCE.frame([("o1", "payable", "ann", "e1", "w1", None, 0.5), ("o1", "payable", "ann", "e2", "w2", "u", 2.5)])
    by_rule = RULE_SHARES.frame(
        [(rule, "o1", "payable", "ann", share, share, share) for rule, share in (("srs", 0.55), ("flat", 0.25))]
    )
    credit = credits(DAY, credited, evidence, by_rule)
    before = day_before or {}
    opening = {key: BEFORE.get(key, 0) + before.get(key, 0) for key in {**BEFORE, **before}}
    changes = Standing().difference(AFTER, before)
    closing = {key: opening.get(key, 0) + changes.get(key, 0) for key in {**opening, **changes}}
    movements = Movements(opening, closing, before, AFTER, {}, Standing())
    pay = payouts(DAY, revision, movements=movements, outputs=credits_file([credit]).outputs, names=NAMES)
    return pay, credit


def export(revision=1, others=(), **facts):
    pay, credit = tables(revision)
    booking = Booking(1, "night", DAY, NOON, revision, "n")
    entries = [(booking, sorted(AFTER.items())), *others]
    return build(
        DAY, revision, payouts=pay, intervals=intervals(pay, ENDS), credits=credits_file([credit]), entries=entries,
        totals=totals(AFTER),
        facts={"notice": "invented", "previous": None, **facts},
    )  # fmt: skip


def test_tables_have_the_promised_columns():
    pay, credit = tables()
    assert pay.schema == PAYOUTS.schema
    assert credit.schema == CREDITS.schema
    assert export().files["payouts.csv"].decode().splitlines()[0] == (
        "day,revision,owner_id,owner_name,currency,outputs,opening_balance_minor,earned_minor,adjustment_minor,"
        "recouped_minor,withheld_minor,held_minor,paid_minor,closing_balance_minor,status,hold_reason"
    )


def test_an_owner_who_earned_nothing_today_keeps_the_balance():
    pay, _ = tables()
    zoe = pay.row(by_predicate=pl.col("owner_id") == "zoe", named=True)
    assert (zoe["opening_balance_minor"], zoe["earned_minor"], zoe["closing_balance_minor"]) == (7, 0, 7)


def test_a_later_revision_takes_back_what_was_booked_before():
    pay, _ = tables(2, day_before={Account("payable", "ann", "EUR"): -45, Account("receivable", "", "EUR"): 45})
    ann = pay.row(by_predicate=pl.col("owner_id") == "ann", named=True)
    assert (ann["opening_balance_minor"], ann["earned_minor"], ann["adjustment_minor"]) == (545, 40, -45)
    assert ann["closing_balance_minor"] == 540


def test_an_interval_of_what_is_earned_is_in_minor_units_and_rounded_outwards():
    result = intervals(tables()[0], ENDS)
    assert result.schema == INTERVALS.schema
    rows = result.select("owner_id", "earned_minor", "low_minor", "high_minor").rows()
    assert rows == [("ann", 40, 35, 43), ("bob", 20, 20, 20)]


def test_a_credit_says_what_each_rule_would_give():
    _, credit = tables()
    rules = dict(zip(credit["owner_id"], credit["rules"].to_list(), strict=True))
    assert rules["ann"] == [{"rule": "flat", "share_ppb": 250_000_000}, {"rule": "srs", "share_ppb": 550_000_000}]
    assert rules["bob"] == []


def test_works_behind_a_credit_come_most_influential_first():
    _, credit = tables()
    ann = credit.row(by_predicate=pl.col("owner_id") == "ann", named=True)
    assert [work["work_id"] for work in ann["top_works"]] == ["w2", "w1"]
    escrow = credit.row(by_predicate=pl.col("account") == "escrow", named=True)
    assert (escrow["owner_id"], escrow["escrow_id"], escrow["top_works"]) == (None, "unmatched-x", [])


def test_the_same_booking_gives_the_same_bytes():
    assert export().files == export().files
    assert export().manifest == export().manifest


def table(sheet, title):
    """A table of a sheet: what stands below a line that begins so, by currency and column."""
    rows = [[cell.value for cell in row] for row in sheet.iter_rows()]
    at = next(number for number, row in enumerate(rows) if str(row[0] or "").startswith(title))
    result = {}
    for row in rows[at + 2 :]:
        if not row[0]:
            break
        result[row[0]] = dict(zip(rows[at + 1][1:], row[1:], strict=True))
    return result


def test_an_accountant_reads_what_is_owed_what_changed_what_is_held_and_that_it_adds_up_from_the_workbook_alone():
    standing = Standing({"ann": ("dispute",)})
    movements = Movements(
        opening=BEFORE, day_before={}, day_after=AFTER, moved={}, standing=standing,
        closing={a: BEFORE.get(a, 0) + AFTER.get(a, 0) for a in {**BEFORE, **AFTER} if a.party_id != "ann"}
        | {Account("held", "ann", "EUR"): -540},
    )  # fmt: skip
    _, credit = tables()
    pay = payouts(DAY, 1, movements=movements, outputs=credits_file([credit]).outputs, names=NAMES)
    exported = build(
        DAY, 1, payouts=pay, intervals=intervals(pay, ENDS), credits=credits_file([credit]), entries=[], totals=totals(AFTER),
        facts={"trial_balance": trial_balance(movements.closing)},
    )  # fmt: skip
    files = exported.files["payouts.xlsx"]
    formulas, values = (openpyxl.load_workbook(io.BytesIO(files), data_only=only)["Totals"] for only in (False, True))
    owners, day = table(values, "Owners")["EUR"], table(values, "The day")["EUR"]
    assert (owners["opening_balance"], owners["earned"], owners["closing_balance"]) == (5.07, 0.6, 5.67)
    assert owners["difference"] == day["difference"] == 0
    assert table(values, "All accounts")["EUR"]["held"] == owners["held"] == 5.4
    for title, name in (("Owners", "closing_balance"), ("The day", "earned")):
        assert table(formulas, title)["EUR"][name].startswith(f"=ROUND(SUMIFS(payouts[{name}],payouts[currency],A")
    assert table(formulas, "Owners")["EUR"]["difference"].startswith("=ROUND(B")
    book = openpyxl.load_workbook(io.BytesIO(files))
    assert (book.active.title, book.sheetnames) == ("Totals", ["Totals", "Payouts", "Held"])
    for sheet in book:
        setup = sheet.page_setup
        assert (setup.orientation, setup.fitToWidth or 1, setup.fitToHeight) == ("landscape", 1, 0), "one page wide, any height"
        assert sheet.sheet_properties.pageSetUpPr.fitToPage
    held_rows = [[cell.value for cell in row] for row in book["Held"].iter_rows()]
    assert held_rows[1:] == [["ann", "=HYPERLINK(evil)", "EUR", 5.4, "dispute"]]
    assert [cell.value for cell in book["Payouts"][1]][:3] == ["day", "revision", "owner_id"]


def test_a_workbook_has_each_currency_s_own_decimals():
    codes = {"EUR": ("#,##0.00", 1.23), "JPY": ("#,##0", 123), "KWD": ("#,##0.000", 0.123)}
    rows = [
        {**dict.fromkeys(PAYOUTS.columns, 0), "day": "2026-11-19", "owner_id": "ann", "owner_name": "Ann", "currency": code,
         "earned_minor": 123, "closing_balance_minor": 123, "status": "accrued", "hold_reason": ""}
        for code in codes
    ]  # fmt: skip
    amounts = {code: dict.fromkeys(totals(AFTER)["EUR"], 0) | {"revenue_minor": 123, "earned_minor": 123} for code in codes}
    files = build(
        DAY, 1, payouts=PAYOUTS.frame(rows), intervals=INTERVALS.frame(), credits=credits_file([CREDITS.frame()]),
        entries=[], totals=amounts,
        facts={},
    ).files  # fmt: skip
    book = openpyxl.load_workbook(io.BytesIO(files["payouts.xlsx"]), data_only=True)
    header = [cell.value for cell in book["Payouts"][1]]
    cells = {row[4].value: row[header.index("earned")] for row in book["Payouts"].iter_rows(min_row=2)}
    assert {code: (cell.number_format, cell.value) for code, cell in cells.items()} == codes
    assert {code: row["earned"] for code, row in table(book["Totals"], "Owners").items()} == {
        code: value for code, (_, value) in codes.items()
    }


def test_bean_check_accepts_the_journal(tmp_path):
    line = Line("ann", "EUR", 700, withheld=70, net=630, pay_currency="USD", paid=724, outcome=PAY)
    facts = {"approved_by": 'J. "Doe"', "left_out": {"p1": "on hold"}, "owners": [f"o{n}" for n in range(9)]}
    others = [(Booking(2, "payments", DAY, NOON, facts=facts), sorted(payment_entries([line]).items()))]
    text = checked_journal(export(others=others).files["journal.beancount"], tmp_path)
    assert "o4, 4 more" in text
    assert "Liabilities:Payable:Ann  -0.40 EUR" in text


def test_the_whole_ledger_is_one_file_that_includes_every_journal(store, tmp_path):
    """Each revision's journal has the entries since the one before, so together they are the books."""
    line = Line("ann", "EUR", 40, net=40, pay_currency="EUR", paid=40, outcome=PAY)
    others = [(Booking(2, "payments", DAY, NOON), sorted(payment_entries([line]).items()))]
    write(store, export(1), KEY)
    write(store, export(2, others=others), KEY)
    (tmp_path / "elsewhere").mkdir()
    copied = tmp_path / "elsewhere/exports"
    shutil.copytree(tmp_path / "store/exports", copied)
    assert bean_check(copied / "main.beancount") == ""
    assert 'option "operating_currency" "EUR"' in (copied / "main.beancount").read_text(), "which Fava shows amounts in"
    for revision in (1, 2):
        journal = copied / f"payouts/day={DAY}/rev=000{revision}/journal.beancount"
        text = journal.read_text()
        journal.write_text(text.replace("-0.40 EUR", "-0.50 EUR"))
        assert f"rev=000{revision}/journal.beancount" in bean_check(copied / "main.beancount"), (
            "it is read, and held to balance"
        )
        journal.write_text(text)


def test_a_revision_is_never_edited(store):
    assert write(store, export(), KEY)
    assert not write(store, export(), KEY), "the same again is nothing new"
    other = export()
    other.manifest["files"]["payouts.csv"]["sha256"] = "0" * 64
    with pytest.raises(StoreError, match="expected the files that were published"):
        write(store, other, KEY)


def test_a_signature_is_published_with_its_key_or_not_at_all(store):
    where = key_file(public_pem(KEY))
    store.write(where, b"")
    another = r"exports/keys/.*: expected the public key of what is signed now, found something else"
    with pytest.raises(StoreError, match=another):
        write(store, export(), KEY)
    assert store.list("exports") == [where]


def test_a_key_that_a_store_has_and_lists_no_more_is_published_again(store, monkeypatch):
    """As by SeaweedFS, whose index lost the folder while its disk was full."""
    where = key_file(public_pem(KEY))
    store.write(where, public_pem(KEY))
    lost, listed, remove = {where}, Store.list, Store.remove
    monkeypatch.setattr(Store, "list", lambda own, prefix, **how: [k for k in listed(own, prefix, **how) if k not in lost])
    monkeypatch.setattr(Store, "remove", lambda own, key: (remove(own, key), lost.discard(key)))
    assert write(store, export(), KEY)
    assert where in store.list("exports")
    assert store.read(where) == public_pem(KEY)


def test_the_pointer_never_goes_back(store):
    write(store, export(1), KEY)
    write(store, export(2), KEY)
    point_to(store, DAY, 1)
    assert store.read_json(current_key(DAY))["revision"] == 2


def test_an_export_holds_on_an_empty_day(store):
    empty_pay, empty_credit = PAYOUTS.frame(), CREDITS.frame()
    nil = build(
        DAY, 1, payouts=empty_pay, intervals=intervals(empty_pay, ENDS), credits=credits_file([empty_credit]), entries=[],
        totals={},
        facts={"previous": None},
    )  # fmt: skip
    assert nil.manifest["nil"] is True
    assert export().manifest["nil"] is False
    assert openpyxl.load_workbook(io.BytesIO(nil.files["payouts.xlsx"]))["Totals"]["A2"].value.startswith("Nil: no output")
    write(store, nil, KEY)
    assert all(check.passed for check in verify(store, nil.folder))


@pytest.fixture
def folder(store):
    """Of an export that was published."""
    done = export()
    write(store, done, KEY)
    return done.folder


def failing(store, folder, **options):
    return {check.name: check.problems for check in verify(store, folder, **options) if not check.passed}


def test_an_export_holds_whose_balances_the_ledger_knows(store, folder):
    ledger = {Account("payable", owner, "EUR"): -amount for owner, amount in (("ann", 540), ("bob", 20), ("zoe", 7))}
    assert failing(store, folder, ledger=ledger) == {}
    expected = "bob EUR: closing_balance_minor is 20 in the file, 21 in the ledger"
    other = ledger | {Account("payable", "bob", "EUR"): -21}
    assert failing(store, folder, ledger=other) == {"ledger": (expected,)}


def test_a_changed_cent_and_a_removed_file_are_found(store, folder):
    data = store.read(f"{folder}/payouts.csv")
    store.write(f"{folder}/payouts.csv", data.replace(b",540,", b",541,"))
    store.remove(f"{folder}/credits.parquet")
    removed, changed = failing(store, folder)["checksums"]
    assert changed.startswith("payouts.csv: SHA-256 is")
    assert removed == "credits.parquet: nothing"


def forge(store, folder, data, *, key):
    """Put another payouts.csv there, and mend the manifest; what a forger cannot do without the key is done if it has it."""
    manifest = store.read_json(f"{folder}/manifest.json")
    manifest["files"]["payouts.csv"]["sha256"] = sha256(data)
    store.write(f"{folder}/payouts.csv", data)
    if key:
        manifest["merkle_root"] = root(payout_lines(data))
        store.write(f"{folder}/manifest.sig", sign(key, canonical_json(manifest)))
    store.write(f"{folder}/manifest.json", canonical_json(manifest))


@pytest.mark.parametrize(
    ("changed", "check", "problem"),
    [
        ({"closing_balance_minor": 541}, "row identities", "payouts.csv line 2 (ann): closing is 541, adds up to 540"),
        ({"earned_minor": 41, "closing_balance_minor": 541}, "control totals", "EUR: rows earn 61, the manifest says 60"),
        ({"held_minor": 540}, "row identities", "payouts.csv line 2 (ann): 540 are held for no reason"),
    ],
)
def test_a_row_that_does_not_add_up_is_found_whoever_signed_it(store, folder, changed, check, problem):
    rows = list(csv.DictReader(io.StringIO(store.read(f"{folder}/payouts.csv").decode())))
    rows[0].update(changed)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    forge(store, folder, text.getvalue().encode(), key=KEY)
    assert failing(store, folder) == {check: (problem,)}


def test_forged_totals_are_found(store, folder):
    manifest = store.read_json(f"{folder}/manifest.json")
    manifest["totals"]["EUR"]["revenue_minor"] += 900
    manifest["totals"]["EUR"]["developer_minor"] += 400
    manifest["totals"]["EUR"]["escrowed_minor"] += 500
    store.write(f"{folder}/manifest.json", canonical_json(manifest))
    result = failing(store, folder, day=AFTER)
    assert "EUR: the manifest says escrowed_minor 510, credits add up to" in result["credits against totals"][0]
    assert "EUR: the manifest says revenue_minor 1000, the ledger 100" in result["ledger of the day"]


def test_a_revision_no_longer_in_force_is_checked_too(store, folder):
    write(store, export(2), KEY)
    assert earlier_revisions(store, str(DAY), 2).passed
    store.write(f"{folder}/intervals.csv", b"edited")
    assert "rev=0001/intervals.csv: SHA-256 is" in earlier_revisions(store, str(DAY), 2).problems[0]


def test_the_chain_is_followed_back_to_the_first_night(store):
    previous = None
    for revision in (1, 2, 3):
        exported = export(revision, previous=previous)
        write(store, exported, KEY)
        sha = sha256(store.read(f"{exported.folder}/manifest.json"))
        previous = {"day": str(DAY), "revision": revision, "manifest_sha256": sha}
    assert failing(store, exported.folder) == {}
    first = f"exports/payouts/day={DAY}/rev=0001/manifest.json"
    store.write(first, store.read(first).replace(b"invented", b"inventeD"))
    (problem,) = failing(store, exported.folder)["chain of manifests"]
    assert problem.startswith(f"{first}: SHA-256 is {sha256(store.read(first))}, the chain says ")


def test_a_foreign_signature_is_found(store, folder):
    data = store.read(f"{folder}/manifest.json")
    assert failing(store, folder, keys=[public_pem(KEY)]) == {}
    for signature in (sign(FOREIGN, data), b"", sign(KEY, data + b" ")):
        store.write(f"{folder}/manifest.sig", signature)
        assert set(failing(store, folder)) == {"signature"}
        assert "not by a key that these settings trust" in failing(store, folder, keys=[public_pem(KEY)])["signature"][0]
    store.write(f"{folder}/manifest.sig", sign(FOREIGN, data))
    pem = public_pem(FOREIGN)
    store.write(key_file(pem), pem)  # whoever can write to the store can add a key to it
    assert set(failing(store, folder, keys=[public_pem(KEY)])) == {"signature"}


def test_a_replaced_revision_and_a_booking_without_an_export_are_found(store):
    exported = export(booking_id=1, night="n")
    write(store, exported, KEY)
    first = Booking(1, "night", DAY, NOON, 1, "n")
    assert booked_and_published(store, [first], DAY, 1).passed
    second = replace(first, booking_id=2, revision=2)
    (problem,) = booked_and_published(store, [first, second], DAY, 1).problems
    assert "booking 2, revision 2 of 2026-11-19: in the ledger, but there is no" in problem
    other = replace(first, booking_id=2, day=date(2026, 11, 20))
    assert booked_and_published(store, [first, other], DAY, 1).passed, "a later night may be about to be published"
    forged = export(booking_id=7, night="n")
    store.remove(f"{exported.folder}/manifest.json")
    write(store, forged, FOREIGN)
    assert set(failing(store, exported.folder, keys=[public_pem(KEY)])) == {"signature"}
    (problem,) = booked_and_published(store, [first], DAY, 1).problems
    assert "rev=0001 is of booking 7" in problem
    write(store, export(2), KEY)
    (problem,) = earlier_revisions(store, str(DAY), 2, [public_pem(KEY)]).problems
    assert problem.startswith("rev=0001/manifest.sig: not by a key")


def test_what_a_replaced_key_signed_stays_good(store, tmp_path):
    settings = SettlementSettings(key=str(tmp_path / "signing.pem"), retired=str(tmp_path / "retired"))
    exported = export()
    write(store, exported, signing_key(settings))
    assert trusted_keys(settings) == [public_pem(signing_key(settings))]
    retired = replace_key(settings)
    assert len(trusted_keys(settings)) == 2
    assert failing(store, exported.folder, keys=trusted_keys(settings)) == {}
    retired.unlink()
    assert set(failing(store, exported.folder, keys=trusted_keys(settings))) == {"signature"}


def test_an_owner_can_check_its_line_alone(store, folder):
    (proof,) = prove_line(store, folder, "ann")
    assert proof["line"].split(",")[2] == "ann"
    assert check_proof(json.loads(json.dumps(proof))).passed
    assert not check_proof(proof | {"line": proof["line"].replace("540", "541")}).passed
    assert proof["merkle_root"] == store.read_json(f"{folder}/manifest.json")["merkle_root"]
    with pytest.raises(StoreError, match="a line of anne in it, found none. Did you mean 'ann'"):
        prove_line(store, folder, "anne")


def test_swapped_lines_are_found_even_where_checksums_were_mended(store, folder):
    header, *lines = store.read(f"{folder}/payouts.csv").splitlines(keepends=True)
    forge(store, folder, header + b"".join(reversed(lines)), key=None)
    assert {"signature", "tree of lines"} <= set(failing(store, folder))
