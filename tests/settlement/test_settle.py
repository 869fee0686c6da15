"""A settlement's stages without Airflow: their errors, and their state after a kill."""

import re
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from urllib.parse import unquote

import killing
import polars as pl
import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from samples import enter, freeze

from provenance.core.errors import CheckFailed, InputError
from provenance.core.store import canonical_json, sha256
from provenance.settlement import ledger
from provenance.settlement.accounts import Account
from provenance.settlement.approvals import are_two
from provenance.settlement.bank import iso20022
from provenance.settlement.bank.status_reports import Outcome
from provenance.settlement.months import settling, stage
from provenance.settlement.months.periods import ClosingTerms, Payee
from provenance.settlement.months.unsettled import Unsettled, unsettled
from provenance.settlement.payees.register import import_payees, masked, remove_payee
from provenance.validation.status import status
from tasks.dag_parameters import approval
from tasks.where import opened

PERIOD, DAY = "2026-10", date(2026, 10, 15)
COLUMNS = "owner_id,name,town,country,currency,method,iban,paypal,routing,account,tax_residence,tax_id"
LINES = {
    "ann": "ann,Ann Ørsted,Berlin,DE,EUR,iso20022,DE89370400440532013000,,,,DE,36574261809",
    "bob": "bob,Bob,Lyon,FR,EUR,paypal,,bob@example.org,,,FR,",
    "cid": "cid,Cid,Boston,US,USD,nacha,,,111000025,12345,US,536-90-4399",
    "dee": "dee,Dee,Paris,FR,EUR,paypal,,dee@example.org,,,DE,36574261809",
}
PAYER = {
    "NAME": "Payer GmbH", "TOWN": "Hamburg", "COUNTRY": "DE", "IBAN": "DE02120300000000202051",
    "NACHA_ORIGIN": "111000025", "NACHA_COMPANY": "1234567890", "NACHA_BANK": "A BANK",
}  # fmt: skip
YES = {"chosen_options": ["Approve"]}
TWO = tuple(map(approval, (
    {"responded_by_user": {"id": "1", "name": "Ann"}, "responded_at": "2026-11-03T08:00:00+00:00", **YES},
    {"responded_by_user": {"id": "2", "name": "Bob"}, "responded_at": datetime(2026, 11, 3, 9, tzinfo=UTC), **YES},
)))  # fmt: skip


@pytest.fixture
def books(store, environment, monkeypatch):
    """Settings of a ledger with a day of October in it, and a file of payees."""
    environment(store, SETTLEMENT__MINIMUM='{"EUR": 50}')
    payer = {f"PROVENANCE_PAYER__{name}": value for name, value in PAYER.items()}
    enter(monkeypatch, payer | {"PROVENANCE_PAYEES__KEY": Fernet.generate_key().decode()})
    owed = {"ann": 700, "bob": 600, "cid": 500, "dee": 400, "eve": 300}
    amounts = {Account("payable", owner, "USD" if owner == "cid" else "EUR"): -amount for owner, amount in owed.items()}
    amounts |= {Account("receivable", "", "EUR"): 2000, Account("receivable", "", "USD"): 500}
    with opened() as where:
        ledger.book(where.ledger, DAY, amounts, night="n", cause="c")


@pytest.fixture
def engine(where):
    return where.ledger


def register(where, tmp_path, *owners, **changed):
    path = tmp_path / "payees.csv"
    path.write_text("\n".join([COLUMNS, *((LINES | changed)[owner] for owner in owners), ""]))
    return import_payees(where, path, by="me")


def test_every_method_has_a_file_of_its_own_and_they_reconcile(where, store, tmp_path, engine):
    register(where, tmp_path, *LINES)
    closed = stage.close(where, PERIOD)
    assert "EUR 11.00** in 2 payments" in closed["body"]
    assert "USD 5.00** in 1 payments" in closed["body"]
    keys = stage.pay(where, PERIOD, *TWO)
    assert sorted(key.rsplit("-", 1)[1] for key in keys) == ["iso20022.xml", "nacha.ach", "paypal.csv"]
    assert stage.reconcile(where, PERIOD) == 3
    assert all(check.passed for check in stage.check_period(where, PERIOD)[1])
    holds = {booking.facts["reason"]: booking.facts["owners"] for booking in ledger.bookings(engine, kind="hold")}
    assert holds == {"no payee data": ["eve"], "no tax data": ["bob"]}
    register(where, tmp_path, "ann", ann=LINES["ann"].replace("DE89370400440532013000", "DE02120300000000202051"))
    (order,) = [key for key in keys if key.endswith(".xml")]
    before = store.read(order)
    assert stage.pay(where, PERIOD, *TWO) == keys, "the same payments are the same files"
    assert store.read(order) == before, "to the account that was approved"


def test_what_a_month_leaves_open_waits(where, tmp_path, engine):
    register(where, tmp_path, "ann", "dee")
    assert unsettled(engine) == Unsettled()
    stage.close(where, PERIOD)
    stage.pay(where, PERIOD, *TWO)
    assert unsettled(engine).unanswered == {PERIOD: 2}
    first, _ = settling.payments(engine, PERIOD)
    outcome = Outcome(first.payment_id, "rejected", reason="unknown")
    settling.answer(engine, [outcome], day=date(2026, 11, 5), message="m", source="x")
    found = unsettled(engine)
    assert (found.unanswered, found.back, found.held) == ({PERIOD: 1}, {"rejected": 1}, ("bob", "cid", "eve"))
    assert list(found.in_words()) == ["1 payment without an answer", "1 payment rejected", "3 owners on hold"]
    frames = {"examples": [{"work_id": "w", "content": b"x"}], "owners": [{"owner_id": "ann", "name": "Ann"}]}
    claims = pl.DataFrame([{"work_id": "w", "owner_id": "ann", "stake_ppb": 10**9}])
    freeze(where.store, {name: pl.DataFrame(rows) for name, rows in frames.items()} | {"claims": claims})
    stands = status(where, today=date(2026, 11, 6))
    steps = {each.what: each.next_step for each in stands.waits}
    assert steps[f"1 payment of {PERIOD} has no answer of the bank"].startswith("provenance answer FILE")
    assert steps[f"1 payment of {PERIOD} was rejected: owed again"].startswith(f"provenance payments {PERIOD}")
    assert steps["3 owners on hold, and not paid: bob, cid, ..."].startswith("provenance balance")
    assert stands.paused is None


def test_a_month_is_not_closed_while_owners_have_nobody_to_write_to(where, doors, store, tmp_path, monkeypatch):
    register(where, tmp_path, "ann")
    for contact in ("the operator of this pipeline", " "):
        monkeypatch.setenv("PROVENANCE_SETTLEMENT__CONTACT", contact)
        for ask in (stage.close, stage.preview):
            with pytest.raises(
                InputError, match=r"settings: settlement.contact: expected an address .* PROVENANCE_SETTLEMENT__"
            ):
                ask(doors(), PERIOD)
    assert {booking.kind for booking in ledger.bookings(where.ledger)} == {"night"}
    assert store.list("exports") == []


def test_files_for_banks_that_were_sent_stay_as_they_are(where, store, tmp_path, monkeypatch):
    register(where, tmp_path, "ann", "dee")
    stage.close(where, PERIOD)
    keys = stage.pay(where, PERIOD, *TWO)
    before = {key: store.read(key) for key in store.list("bank")}
    monkeypatch.setattr(iso20022, "bank_day", lambda day, _: date(2030, 1, 2))  # as another version may write them
    assert stage.pay(where, PERIOD, *TWO) == keys
    assert {key: store.read(key) for key in store.list("bank")} == before
    assert stage.reconcile(where, PERIOD) == 2


def test_a_payment_asks_for_the_answers_itself(where, store, tmp_path, engine):
    register(where, tmp_path, "ann")
    request = stage.close(where, PERIOD)
    prepared, approved = TWO
    rejected = replace(approved, granted=False)
    for answers, expected in (
        ((None, approved), "nobody has approved the payments of 2026-10: clear settlement.prepare"),
        ((prepared, None), "nobody has approved the payments of 2026-10: clear settlement.approve"),
        ((None, None), "nobody has approved"),
        ((prepared, rejected), r"Bob \(2\) did not approve the payments"),
        ((rejected, prepared), r"Bob \(2\) did not approve the payments"),
    ):
        with pytest.raises(CheckFailed, match=expected):
            stage.pay(where, PERIOD, *answers, request)
    with pytest.raises(InputError, match="another who approves, found Ann .1. and Ann .1."):
        stage.pay(where, PERIOD, prepared, prepared, request)
    for change in ({"cause": "0" * 64}, {"period": "2026-09"}):
        with pytest.raises(CheckFailed, match="the answers are to another close than that of 2026-10: clear settlement.close"):
            stage.pay(where, PERIOD, *TWO, {**request, **change})
    assert [booking.kind for booking in ledger.bookings(engine)].count("payments") == 0
    assert store.list("bank") == []
    assert stage.close(where, PERIOD)["cause"] == request["cause"], "asked again, it is the same close"
    assert len(stage.pay(where, PERIOD, *TWO, request)) == 1


def test_who_approves_reads_names_and_opens_the_file(where, store, tmp_path):
    register(where, tmp_path, "ann", "dee")
    owners = [{"owner_id": owner, "name": name} for owner, name in (("ann", "Ann & Co."), ("dee", "Ann & Co."), ("bob", "Bob"))]
    works = [{"work_id": row["owner_id"], "content": b"x"} for row in owners]
    claims = [{"work_id": row["owner_id"], "owner_id": row["owner_id"], "stake_ppb": 10**9} for row in owners]
    freeze(store, {"examples": pl.DataFrame(works), "claims": pl.DataFrame(claims), "owners": pl.DataFrame(owners)})
    body = stage.close(where, PERIOD, "http://airflow/payouts/files")["body"]
    assert "| Ann & Co\\. \\(ann\\) | EUR 7.00 | EUR 7.00 |" in body, "two owners of one name are told apart"
    key = f"exports/periods/period={PERIOD}/closing/closing.csv"
    link = re.search(r"\[closing\.csv\]\(http://airflow/payouts/files/(.*?)\)", body)[1]
    assert unquote(link) == key
    assert sha256(store.read(key)) in body
    assert f"All lines: `{store.locate(key)}`" in stage.close(where, PERIOD)["body"], "where no page is there to link to"


@pytest.mark.parametrize(
    "other", ["ann lee", " Ann  Lee ", "Ann\u200b Lee", "\uff21nn Lee", "Ann\u00a0Lee", "Ann Lee\u202c", "\u200b", ""]
)
def test_one_person_in_another_spelling_is_one(other):
    assert not are_two("Ann Lee", other)
    assert are_two("Ann Lee", "Anne Lee")


def test_payments_name_who_prepared_and_who_approved_them(where, tmp_path, shown):
    register(where, tmp_path, "ann")
    stage.close(where, PERIOD)
    assert shown("payments", PERIOD, "--json")["approvals"] == {}
    stage.pay(where, PERIOD, *TWO)
    text = shown("payments", PERIOD)
    assert "Prepared by Ann (1), 2026-11-03 08:00 UTC" in text
    assert "Approved by Bob (2), 2026-11-03 09:00 UTC" in text


def test_who_approves_is_told_who_is_not_paid_and_why(where, tmp_path, engine):
    register(where, tmp_path, "ann", "bob", "dee")
    for owner, reason in (("dee", "disputed | by *A*"), ("eve", "opt-out under review")):
        ledger.hold(engine, owner, day=DAY, reason=reason, by="me")
    body = stage.close(where, PERIOD)["body"].splitlines()
    start = body.index("| not paid, because on hold | owners | owed |")
    assert body[start + 2 : start + 9] == [
        "| no payee data | 1 | USD 5.00 |",
        "| no tax data | 1 | EUR 6.00 |",
        "| disputed \\| by \\*A\\* | 1 | EUR 4.00 |",
        "| no payee data; opt\\-out under review | 1 | EUR 3.00 |",
        "",
        "A close holds owners without payee or tax data. `provenance payee import` adds the data;",
        "the next close then releases and pays these owners.",
    ]
    assert body[start - 1] == "", "a table of Markdown has an empty line before it"
    register(where, tmp_path, "ann", "cid")
    assert stage.close(where, PERIOD)["body"].splitlines() == body, "what was found, whatever has come since"


def test_a_preview_says_what_closing_would_find_and_books_nothing(where, store, tmp_path, shown, refused, engine):
    cid = "cid,Cid,Boston,US,EUR,paypal,,cid@example.org,,,US,536-90-4399"
    register(where, tmp_path, "ann", "bob", "cid", cid=cid)
    before = ledger.newest(engine), store.list("")
    out = shown("payments", PERIOD, "--preview")
    for row in (
        "held 3 EUR 13.00",
        "pay 1 EUR 7.00 EUR 7.00",
        "no rate 1 USD 5.00",
        "no payee data 2 EUR 7.00",
        "bob no tax data EUR 6.00",
        "No rate is noted for USD to EUR, and USD 5.00 waits for it",
        "No night has paid 2026-10-01 to 2026-10-14, 2026-10-16 to 2026-10-31.",
    ):
        assert row in " ".join(out.split())
    assert "not over" not in out
    assert (ledger.newest(engine), store.list("")) == before
    assert ledger.standing(engine, through=before[0]).holds == {}
    settling.record_rate(engine, PERIOD, ("USD", "EUR"), Decimal("0.8"), day=DAY, evidence="ECB", by="me")
    result = shown("payments", PERIOD, "--preview", "--json")
    assert result["holds"] == {"bob": ["no tax data"], "dee": ["no payee data"], "eve": ["no payee data"]}
    running = f"{datetime.now(UTC):%Y-%m}"
    assert "The month is not over" in shown("payments", running, "--preview")
    stage.close(where, PERIOD)
    _, lines = settling.lines(engine, PERIOD)
    assert result["lines"] == [asdict(line) for line in lines]
    said = refused("payments", PERIOD, "--preview")
    assert "expected a period after the last closed one, found 2026-10 is closed" in said
    refused("payments", "--preview")


def test_a_month_closes_with_its_own_days_whoever_was_on_hold_when(where, tmp_path, engine):
    register(where, tmp_path, "ann", "dee")
    ledger.hold(engine, "dee", day=date(2026, 11, 1), reason="dispute", by="me")
    of_november = {Account("payable", owner, "EUR"): -40 for owner in ("ann", "dee", "eve")}
    ledger.book(engine, date(2026, 11, 2), of_november | {Account("receivable", "", "EUR"): 120}, night="n2", cause="c2")
    stage.close(where, PERIOD)
    _, lines = settling.lines(engine, PERIOD)
    result = {line.owner_id: (line.outcome, line.owed) for line in lines if line.currency == "EUR"}
    assert result == {"ann": ("pay", 700), "bob": ("held", 600), "dee": ("held", 400), "eve": ("held", 300)}
    stage.pay(where, PERIOD, *TWO)
    ledger.release(engine, "dee", day=date(2026, 11, 20), reason="dispute", by="me")
    register(where, tmp_path, "eve", eve=LINES["dee"].replace("dee,Dee", "eve,Eve"))
    payees = {owner: Payee(owner, "EUR") for owner in ("ann", "bob", "cid", "dee", "eve")}
    terms = ClosingTerms(rates={("USD", "EUR"): Decimal("0.8")})
    _, lines = settling.close(engine, "2026-11", payees, terms, day=date(2026, 12, 3), by="me")
    paid = {line.owner_id: line.paid for line in lines if line.outcome == "pay"}
    assert paid == {"ann": 40, "bob": 600, "cid": 400, "dee": 440, "eve": 340}


def test_a_payment_turned_to_another_account_is_found_even_where_checksums_were_mended(where, store, tmp_path):
    register(where, tmp_path, "ann")
    stage.close(where, PERIOD)
    (key,) = stage.pay(where, PERIOD, *TWO)
    manifest = f"bank/period={PERIOD}/manifest.json"
    turned = store.read(key).replace(b"DE89370400440532013000", b"DE02100100100006820101")
    said = store.read_json(manifest)
    said["files"][key.rsplit("/", 1)[-1]]["sha256"] = sha256(turned)
    store.write(key, turned)
    store.write(manifest, canonical_json(said))
    with pytest.raises(CheckFailed, match="goes to another account than that of its payee") as raised:
        stage.reconcile(where, PERIOD)
    assert "DE02" not in str(raised.value)
    failed = {check.name for check in stage.check_period(where, PERIOD)[1] if not check.passed}
    assert failed == {"bank: signature", "files for banks"}
    store.remove(manifest)
    failed = {check.name: check.problems for check in stage.check_period(where, PERIOD)[1] if not check.passed}
    assert "1 payments are in the ledger, but there is no" in failed["files for banks"][0]


def test_a_payee_that_is_removed_before_the_approval_stops_it_and_nothing_is_booked(where, store, tmp_path):
    register(where, tmp_path, "ann")
    stage.close(where, PERIOD)
    assert remove_payee(where, "ann") == 1
    assert masked(where) == []
    assert register(where, tmp_path, "ann") == {"ann": 2}, "whoever comes again is not whom the period was closed with"
    with pytest.raises(InputError, match="payee ann, version 1: expected its details, found none: they were removed"):
        stage.pay(where, PERIOD, *TWO)
    assert "payments" not in {booking.kind for booking in ledger.bookings(where.ledger)}
    assert store.list("bank") == []


def test_banks_that_contradict_themselves_and_rates_that_slipped_are_refused(where, tmp_path, engine):
    note = {"day": date(2026, 10, 31), "evidence": "ECB", "by": "me"}
    settling.record_rate(engine, PERIOD, ("USD", "EUR"), Decimal("0.8642"), **note)
    with pytest.raises(InputError, match=r"rate EUR to USD of 2026-10: expected about 1.15714, .* found 115.7"):
        settling.record_rate(engine, PERIOD, ("EUR", "USD"), Decimal("115.7"), **note)
    settling.record_rate(engine, PERIOD, ("EUR", "USD"), Decimal("1.157"), **note)
    register(where, tmp_path, "ann")
    assert "USD to EUR: **0\\.8642 \\(ECB\\)**" in stage.close(where, PERIOD)["body"]
    stage.pay(where, PERIOD, *TWO)
    (sent,) = [p for p in settling.payments(engine, PERIOD) if p.status == "sent"]
    answer = {"day": date(2026, 11, 5), "message": "m"}
    settling.answer(engine, [Outcome(sent.payment_id, "rejected")], **answer, source="1")
    with pytest.raises(InputError, match="expected no later outcome of a rejected payment, found that it was paid"):
        settling.answer(engine, [Outcome(sent.payment_id, "paid")], **answer, source="2")


def test_a_rate_far_from_the_last_one_needs_the_option_unusual(where, store, shown, refused):
    def note(period, value, *more, command=shown):
        return command("rate", period, "USD", "EUR", value, "--evidence", "ECB", "--by", "me", *more)

    note(PERIOD, "0.8642")  # the first rate of two currencies is compared with nothing
    for far in ("8.642", "0.08642", "1.73"):
        err = note("2026-11", far, command=refused)
        assert f"rate USD to EUR of 2026-11: expected one near 0.8642, as recorded for 2026-10, found {far}." in err
        assert "add --unusual" in err
    for value in (("1.7",), ("0.9",), ("9", "--unusual")):
        note("2026-11", *value)
    assert "Booked before" in note("2026-11", "9"), "the same again is noted once"
    assert settling.rates(where.ledger, "2026-11")["USD", "EUR"][0] == 9


def test_a_payment_that_differs_is_named(where, store, tmp_path):
    register(where, tmp_path, "ann")
    stage.close(where, PERIOD)
    (key,) = stage.pay(where, PERIOD, *TWO)
    (payment,) = [p for p in settling.payments(where.ledger, PERIOD) if p.status == "sent"]
    store.write(key, store.read(key).replace(b">7.00<", b">9.00<"))
    with pytest.raises(CheckFailed, match=rf"SHA-256 is .*payment {payment.payment_id}: the bank files say \(900, 'EUR'\)"):
        stage.reconcile(where, PERIOD)
    table = f"exports/periods/period={PERIOD}/payments/payments.csv"
    store.write(table, store.read(table).replace(b",700,", b",900,"))
    store.remove(f"exports/periods/period={PERIOD}/closing/manifest.json")
    failed = {check.name: check.problems for check in stage.check_period(where, PERIOD)[1] if not check.passed}
    assert set(failed) == {"closing", "payments: checksums", "payments: ledger", "bank: checksums", "files for banks"}
    assert "payments.csv line 2: 'period" not in failed["payments: ledger"][0]
    assert "900" in failed["payments: ledger"][0]
    assert "are in the ledger, but there is no" in failed["closing"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ann": LINES["ann"].replace("DE89", "DE88")}, "line 2: iban: expected an IBAN whose check digits hold"),
        ({"ann": LINES["ann"] + ",x"}, "line 2: expected as many fields as the header has"),
        ({"ann": LINES["bob"]}, "line 3: expected one line for each owner, found a second one of bob"),
        ({"ann": LINES["ann"].replace("ann,", "amn,")}, "owner amn: expected an owner in the ledger .* Did you mean 'ann'"),
        ({"ann": LINES["ann"].replace("Berlin", ""), "bob": LINES["bob"].replace("FR", "XX")}, "town: .*1 more: .*line 3"),
        ({"ann": LINES["ann"].replace("DE89", "DE88").replace("Berlin", "")}, "line 2: town: .*1 more: .*line 2: iban"),
    ],
)
def test_a_file_of_payees_is_taken_whole_or_not_at_all(where, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        register(where, tmp_path, "ann", "bob", **change)
    assert masked(where) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the columns owner_id, name"),
        (f"{COLUMNS}\n", "expected a line for each payee, found none; nothing was changed"),
        (COLUMNS.replace(",", ";"), "line 1: expected commas between columns, found semicolons"),
        (COLUMNS.replace("town", "Town"), "line 1: expected some of owner_id, .* found 'Town'. Did you mean 'town'"),
        ("owner_id,name\n", "line 1: expected the columns .* found no town"),
        (COLUMNS.replace(",", "\t"), "line 1: expected commas between columns, found tabs"),
        (LINES["ann"], "line 1: expected the names of columns, found none of them"),
        (f'{COLUMNS}\nann,"Ann', "line 2: expected CSV, found unexpected end of data"),
    ],
)
def test_a_file_that_is_no_file_of_payees_is_told_what_is_wrong_with_it(where, tmp_path, text, message):
    path = tmp_path / "payees.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        import_payees(where, path, by="me")
    with pytest.raises(InputError, match="expected a CSV file, found no such file"):
        import_payees(where, tmp_path / "none.csv", by="me")


@pytest.mark.parametrize(("encoding", "result"), [("utf-16", "UTF-16"), ("latin-1", "another encoding")])
def test_a_file_of_payees_in_another_encoding_is_told_which_one_to_save_it_in(where, tmp_path, encoding, result):
    path = tmp_path / "payees.csv"
    path.write_bytes(f"{COLUMNS}\n{LINES['ann']}\n".encode(encoding))
    with pytest.raises(InputError, match=f"expected a CSV file in UTF-8, found {result}. .*save it as CSV UTF-8") as raised:
        import_payees(where, path, by="me")
    assert "Ann" not in str(raised.value)


def test_what_cannot_be_paid_stops_the_close_and_nothing_moves(where, doors, store, tmp_path, monkeypatch, engine):
    register(where, tmp_path, "ann", ann=LINES["ann"].replace("Ann Ørsted", "王小明"))
    with pytest.raises(InputError, match="payee ann: expected letters that have a Latin form"):
        stage.close(where, PERIOD)
    register(where, tmp_path, "ann", ann=LINES["ann"].replace(",DE,36574261809", ",BR,52998224725"))
    with pytest.raises(InputError, match=r"withholding.toml: owner ann: expected a rate for its residence, found none"):
        stage.close(where, PERIOD)
    register(where, tmp_path, "ann")
    monkeypatch.setenv("PROVENANCE_PAYER__IBAN", "DE03120300000000202051")
    with pytest.raises(InputError, match="settings: payer: iban: expected an IBAN whose check digits hold"):
        stage.close(doors(), PERIOD)
    monkeypatch.setenv("PROVENANCE_PAYER__IBAN", "")
    with pytest.raises(InputError, match="settings: payer: expected iban: 1 payees are paid by iso20022, found nothing"):
        stage.close(doors(), PERIOD)
    monkeypatch.delenv("PROVENANCE_PAYEES__KEY")
    with pytest.raises(InputError, match="environment: PROVENANCE_PAYEES__KEY: expected a key"):
        stage.close(doors(), PERIOD)
    assert [booking.kind for booking in ledger.bookings(engine)] == ["night"]
    assert store.list("exports") == store.list("bank") == []
    with pytest.raises(InputError, match="period 2026-10: expected one that is closed, found one that is open"):
        stage.pay(where, PERIOD, *TWO)


def test_nobody_else_may_read_payees_and_nobody_may_change_the_books(where, store, tmp_path):
    register(where, tmp_path, "ann")
    for engine, statement in (
        (where.ledger, "SELECT * FROM payees.payee"),
        (where.databases.payees, "SELECT * FROM entry"),
        (where.ledger, "UPDATE entry SET amount_minor = 1"),
    ):
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), engine.begin() as connection:
            connection.execute(sa.text(statement))
    with where.databases.payees.connect() as connection:
        sealed = str(connection.execute(sa.text("SELECT * FROM payees.payee")).all())
    assert "DE8937" not in sealed
    assert masked(where)[0]["paid_by"] == "iso20022 DE...3000"


def test_accountants_settle_a_month_with_commands_but_for_the_approval(where, tmp_path, shown, refused):
    path = tmp_path / "payees.csv"
    paid_in_euro = "cid,Cid,Boston,US,EUR,paypal,,cid@example.org,,,US,536-90-4399"
    path.write_text(f"{COLUMNS}\n{LINES['ann']}\n{paid_in_euro}\n")
    by = ("--by", "J. Doe")
    shown("payee", "import", str(path), *by)
    assert "owner" in shown("payee", "list")
    listed = str(shown("payee", "list", "--json"))
    assert "iso20022 DE...3000" in listed
    assert "DE893704" not in listed
    assert len(shown("payee", "key").strip()) == 44
    assert "tax_residence" in shown("payee", "columns")
    assert "2 records are sealed" in shown("payee", "reseal")
    refused("payee", "remove", "bob")
    shown("rate", PERIOD, "USD", "EUR", "0.8642", "--evidence", "ECB", *by)
    for wrong in ("zero", "-1", "0"):
        refused("rate", PERIOD, "USD", "EUR", "--evidence", "ECB", *by, "--", wrong)
    shown("advance", "ann", "2.50", "EUR", "--reason", "contract", *by)
    for amount in ("2.505", "much", "0"):
        refused("advance", "ann", amount, "EUR", "--reason", "contract", *by)
    refused("payments")
    assert "provenance payments 2026-10 --preview" in refused("payments", PERIOD)
    stage.close(where, PERIOD)
    waiting = shown("payments", PERIOD)
    assert "waiting: 2 payments, EUR 8.82" in waiting
    assert "Closed; nothing is booked until two people have approved (Required Actions in Airflow)." in waiting
    stage.pay(where, PERIOD, *TWO)
    assert "approved" not in shown("payments", PERIOD)
    payments = shown("payments", PERIOD, "--json")["payments"]
    result = {p["owner_id"]: (p["paid_minor"], p["currency"], p["status"]) for p in payments}
    assert result == {"ann": (450, "EUR", "sent"), "cid": (432, "EUR", "sent")}, "less the advance; at the rate, rounded down"
    assert "sent: 2 payments, EUR 8.82" in shown("payments")
    shown("verify", PERIOD)
    refused("rate", PERIOD, "USD", "EUR", "0.9", "--evidence", "ECB", *by)  # the period is closed
    answer = tmp_path / "answer.xml"
    answer.write_text("<Document/>")
    assert "expected a Document of" in refused("answer", str(answer))
    refused("answer", str(tmp_path / "none.xml"))


def left_behind(where):
    """All that a settlement leaves, but for when it was."""
    engine, store = where.ledger, where.store
    kinds = [(booking.kind, ledger.entries(engine, booking.booking_id)) for booking in ledger.bookings(engine)]
    orders = [iso20022.read_back(store.read(key)) for key in store.list("bank") if key.endswith(".xml")]
    names = sorted(key for key in [*store.list("bank"), *store.list("exports/periods")])
    tables = [store.read(key) for key in names if key.endswith(("closing.csv", "escrow.csv"))]
    return kinds, orders, names, tables, [p.status for p in settling.payments(engine, PERIOD)]


def test_a_settlement_killed_at_every_write_ends_as_one_that_was_not(where, doors, store, tmp_path, new_books, engine):
    register(where, tmp_path, *LINES)
    close, pay = (f"provenance.settlement.months.stage:{name}" for name in ("close", "pay"))
    assert killing.at_every_boundary(close, PERIOD) >= 4, "a booking, two tables, signature and manifest"
    assert killing.at_every_boundary(pay, PERIOD, *TWO) >= 6
    result = left_behind(where)

    new_books("undisturbed").write("store.json", store.read("store.json"))
    undisturbed = doors()
    amounts = ledger.day_amounts(engine, DAY, through=1)
    ledger.book(undisturbed.ledger, DAY, amounts, night="n", cause="c")
    register(undisturbed, tmp_path, *LINES)
    stage.close(undisturbed, PERIOD)
    stage.pay(undisturbed, PERIOD, *TWO)
    assert left_behind(undisturbed) == result
