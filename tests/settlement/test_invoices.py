"""Self-billed invoices: their VAT, their numbers, and what EN 16931 says of them."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

import killing
import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import settings as running
from hypothesis import strategies as st
from lxml import etree
from self_billed import DAY, LINES, NUMBER, PERIOD, answer, book, owed, register, settle

from provenance.core.errors import CheckFailed, InputError
from provenance.core.store import from_csv, sha256
from provenance.core.tables import INVOICES
from provenance.core.text import plain
from provenance.settlement import books as books_tables
from provenance.settlement import ledger
from provenance.settlement.accounts import Account
from provenance.settlement.bank.batches import Payer
from provenance.settlement.bank.status_reports import PAID, REJECTED, RETURNED
from provenance.settlement.months import settling, stage
from provenance.settlement.payees.details import read_details
from provenance.settlement.payees.register import remove_payee
from provenance.settlement.tax import documents, numbering
from provenance.settlement.tax.documents import CREDIT_NOTE, INVOICE, Document, amounts, as_ubl, broken_rules, treatment

BUYER = Payer(name="Payer GmbH", town="Hamburg", country="DE", iban="DE02120300000000202051")
COMMON = {"owner_id": "ann", "name": "Ann & Cie <Ørsted>", "town": "Paris", "currency": "EUR", "method": "paypal",
          "paypal": "a@example.org", "self_billed_since": "2026-01-01"}  # fmt: skip
# Payees as they are in the wild, each with the category of VAT that is right for a payer in Germany.
PAYEES = {
    "a company in France": ("AE", {"country": "FR", "vat_id": "FR 40 303 265 045"}),
    "a company in Greece": ("AE", {"country": "GR", "vat_id": "EL 094259216"}),
    "a company in Ireland": ("AE", {"country": "IE", "vat_id": "IE 6433435F"}),
    "a person in the United States": ("AE", {"country": "US", "tax_residence": "US", "tax_id": "536-90-4399"}),
    "a company in Switzerland": ("AE", {"country": "CH", "vat_id": "CHE-107.787.577 IVA"}),
    "a company at home": ("S", {"country": "DE", "vat_id": NUMBER, "vat_rate": "19"}),
    "an author at home": ("S", {"country": "DE", "tax_residence": "DE", "tax_id": "36574261809", "vat_rate": "7"}),
    "a small business at home": (
        "E",
        {"country": "DE", "tax_residence": "DE", "tax_id": "36574261809", "vat_exempt": "Small business, section 19 UStG"},
    ),
}


def payee(**fields):
    return read_details(COMMON | fields, "test")


def document(fields, kind=INVOICE, total=12_345, withheld=0, currency="EUR", buyer=BUYER, number=NUMBER):
    seller = payee(**fields)
    how = treatment(seller, buyer, number)
    return Document(
        "SB-000042", kind, date(2026, 12, 3), "2026-11", "ab12" * 8, "EUR 1.00", currency,
        amounts(total, withheld, how.rate), how, seller, buyer, number,
        ("SB-000041", date(2026, 11, 3)) if kind == CREDIT_NOTE else None,
    )  # fmt: skip


def found(data, path):
    return [node.text for node in etree.fromstring(data).iterfind(f".//{{*}}{path}")]


@pytest.mark.parametrize("kind", [INVOICE, CREDIT_NOTE])
@pytest.mark.parametrize("name", PAYEES)
def test_en_16931_accepts_every_kind_of_payee(name, kind):
    category, fields = PAYEES[name]
    of = document(fields, kind, withheld=345)
    assert of.treatment.category == category
    data = as_ubl(of)
    assert found(data, {INVOICE: "InvoiceTypeCode", CREDIT_NOTE: "CreditNoteTypeCode"}[kind]) == [documents.TYPES[kind]]
    assert found(data, "PayableAmount") == ["120.00"]
    assert found(data, "PrepaidAmount") == ["3.45"]
    assert any(note.startswith("Self-billing") for note in found(data, "Note"))
    assert b"Ann &amp; Cie &lt;\xc3\x98rsted&gt;" in data


def test_a_payer_outside_the_union_writes_invoices_outside_its_vat():
    of = document(
        {"country": "FR", "vat_id": "FR40303265045"}, buyer=Payer(name="Payer", town="Boston", country="US"), number=""
    )
    assert of.treatment.category == "O"
    assert found(as_ubl(of), "ID")[:1] == ["SB-000042"]


@given(
    total=st.integers(1, 10**15), part=st.integers(0, 100),
    rate=st.decimals("0.01", "99", places=2) | st.sampled_from(list(map(Decimal, ("5.5", "7", "19", "20", "25")))),
)  # fmt: skip
@example(total=1, part=0, rate=Decimal(19))
@example(total=2, part=100, rate=Decimal(25))
def test_vat_is_within_the_amount_that_is_owed_to_the_cent(total, part, rate):
    of = amounts(total, total * part // 100, rate)
    assert of.taxable + of.vat + of.rounding == total == of.due + of.withheld
    assert abs(of.rounding) <= 1
    assert abs(of.vat - of.taxable * rate / 100) <= Decimal("0.5")


@running(max_examples=40)
@given(
    total=st.integers(1, 10**12), part=st.integers(0, 99), name=st.sampled_from(list(PAYEES)),
    kind=st.sampled_from([INVOICE, CREDIT_NOTE]),
    currency=st.sampled_from(["EUR", "USD", "JPY", "GBP"]),
)  # fmt: skip
def test_en_16931_accepts_any_amount(total, part, name, kind, currency):
    as_ubl(document(PAYEES[name][1], kind, total, total * part // 100, currency))


@running(max_examples=60)
@given(name=st.text(min_size=1, max_size=70), street=st.text(max_size=70), reason=st.text(min_size=1, max_size=200))
@example(name="\ufffe\x00", street="", reason="\u202e")
@example(name="]]> & <b>", street="'\"", reason="&amp;")
def test_any_name_is_written_or_refused_and_never_shown(name, street, reason):
    fields = {"country": "DE", "vat_id": NUMBER, "name": name, "street": street, "vat_exempt": reason}
    refused, data = "", b""
    try:
        data = as_ubl(document(fields))
    except InputError as error:
        refused = str(error)
    assert not data or found(data, "RegistrationName") == [plain(name), "Payer GmbH"]
    assert not refused or len(name) < 5 or name not in refused


@pytest.mark.parametrize(
    ("currency", "country", "rates", "stated"),
    [
        ("USD", "DE", {("USD", "EUR"): "0.8642"}, ("EUR", 1703)),
        ("USD", "DE", {("EUR", "USD"): "1.25"}, ("EUR", 1577)),
        ("JPY", "DE", {("JPY", "EUR"): "0.0061"}, ("EUR", 1202)),
        ("EUR", "HU", {("EUR", "HUF"): "389.5"}, ("HUF", 767705)),
        ("EUR", "DE", {}, ("", 0)),
        ("USD", "US", {}, ("", 0)),
        ("USD", "DE", {("USD", "GBP"): "0.8"}, None),
    ],
)
def test_vat_is_stated_in_the_currency_of_the_country_too(currency, country, rates, stated):
    rates = {pair: Decimal(rate) for pair, rate in rates.items()}
    if stated is None:
        with pytest.raises(InputError, match="x: expected a rate of USD to EUR for its period.*provenance rate"):
            documents.national_vat(1971, currency, country, rates, "x")
        return
    assert documents.national_vat(1971, currency, country, rates, "x") == stated
    assert documents.national_vat(0, currency, country, {}, "x") == ("", 0), "none of a reverse charge"
    if country == "DE":
        for kind in (INVOICE, CREDIT_NOTE):
            of = document(PAYEES["a company at home"][1], kind, currency=currency)
            data = as_ubl(replace(of, vat_currency=stated[0], vat_in_it=stated[1]))
            totals = list(etree.fromstring(data).iterfind("{*}TaxTotal/{*}TaxAmount"))
            assert [node.get("currencyID") for node in totals] == [currency, *filter(None, stated[:1])]
            assert found(data, "TaxCurrencyCode") == [*filter(None, stated[:1])]


def test_an_invoice_in_another_currency_states_vat_by_the_period_s_rate(where, store, tmp_path):
    dollars = {Account("payable", "bob", "USD"): -2000, Account("receivable", "", "USD"): 2000}
    ledger.book(where.ledger, date(2026, 9, 16), dollars, night="n", cause="dollars")
    register(where, tmp_path, "bob")
    with pytest.raises(InputError, match="invoices of payee bob: expected a rate of USD to EUR.*provenance rate"):
        settle(where)
    assert {booking.kind for booking in ledger.bookings(where.ledger)} == {"night"}, "before anything is booked"
    settling.record_rate(where.ledger, PERIOD, ("USD", "EUR"), Decimal("0.5"), day=DAY, evidence="ECB", by="me")
    settle(where)
    run = numbering.issue(where)
    (key,) = (key for key in store.list(run.folders[0]) if key.endswith(".xml") and b"TaxCurrencyCode" in store.read(key))
    assert [node.text for node in etree.fromstring(store.read(key)).iterfind("{*}TaxTotal/{*}TaxAmount")] == ["3.19", "1.60"]


def test_kosovo_has_the_code_that_the_norm_gives_it():
    of = document(PAYEES["a company in Switzerland"][1])
    data = as_ubl(replace(of, seller=of.seller.model_copy(update={"country": "XK"})))
    assert found(data, "IdentificationCode")[0] == "1A"


def test_the_schematron_sees_a_wrong_sum():
    data = as_ubl(document(PAYEES["a company at home"][1]))
    assert broken_rules(data) == []
    wrong = data.replace(b'<cbc:PayableAmount currencyID="EUR">123.45', b'<cbc:PayableAmount currencyID="EUR">123.46')
    assert any("BR-CO-16" in rule for rule in broken_rules(wrong))
    with pytest.raises(InputError, match=r"expected a document of UBL 2\.1"):
        documents.check(data.replace(b"IssueDate>2026-12-03", b"IssueDate>soon"), INVOICE, "x")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"country": "FR"}, "payee ann: vat_id: expected its VAT number"),
        ({"country": "FR", "vat_id": "FR40303265045", "vat_rate": "20"}, "expected none: it is not in the payer's country"),
        ({"country": "DE", "vat_id": NUMBER}, "vat_rate, or vat_exempt: it is in the payer's country, found neither"),
        ({"country": "DE", "vat_id": NUMBER, "vat_rate": "19", "vat_exempt": "x"}, "found both"),
        ({"country": "DE", "vat_rate": "19"}, "payee ann: vat_id"),
    ],
)
def test_what_an_invoice_lacks_is_said(fields, said):
    with pytest.raises(InputError, match=said):
        treatment(payee(**fields), BUYER, NUMBER)


@pytest.mark.parametrize("number", ["", "DE136695977", "FR40303265045"])
def test_the_payer_s_own_number_is_checked(number):
    with pytest.raises(InputError, match=r"settings: tax\.vat_id"):
        treatment(payee(**PAYEES["a company in France"][1]), BUYER, number)


@pytest.mark.parametrize(
    ("fields", "column"),
    [
        ({"country": "FR", "vat_id": "FR40303265046"}, "vat_id"),
        ({"country": "FR", "vat_id": NUMBER}, "vat_id"),
        ({"country": "DE", "vat_rate": "0"}, "vat_rate"),
        ({"country": "DE", "vat_rate": "nineteen"}, "vat_rate"),
        ({"country": "DE", "self_billed_since": "1 May"}, "self_billed_since"),
    ],
)
def test_details_for_invoices_are_checked_when_they_are_imported(fields, column):
    with pytest.raises(InputError, match=f"test: {column}"):
        payee(**fields)


def test_a_currency_of_three_decimals_is_refused_by_name():
    with pytest.raises(InputError, match="at most 2 decimals, as EN 16931 allows, found KWD"):
        as_ubl(document(PAYEES["a company in France"][1], currency="KWD"))


@pytest.fixture
def books(store, environment, monkeypatch):
    owed(store, environment, monkeypatch)


def numbers(where, *columns):
    return numbering.register(where.ledger).select("invoice_id", *columns).rows()


def test_payments_that_left_get_an_invoice_and_those_that_came_back_a_credit_note(where, store, tmp_path):
    register(where, tmp_path, *LINES)
    settle(where)
    first = numbering.issue(where)
    assert first.issued == ("SB-000001", "SB-000002")
    assert {row[1] for row in numbers(where, "owner_id")} == {"ann", "bob"}, "who agreed, for the months since"
    assert numbering.issue(where).issued == (), "once"
    answer(where, "bob", RETURNED, "s1")
    second = numbering.issue(where)
    (credit,) = numbering.register(where.ledger).filter(kind=CREDIT_NOTE).rows(named=True)
    invoice = numbering.register(where.ledger).row(by_predicate=pl_owner("bob", INVOICE), named=True)
    assert (credit["invoice_id"], credit["corrects"]) == ("SB-000003", invoice["invoice_id"])
    same = ("taxable_minor", "vat_minor", "rounding_minor", "total_minor", "due_minor", "vat_rate", "vat_category")
    assert [credit[name] for name in same] == [invoice[name] for name in same]
    assert (invoice["taxable_minor"], invoice["vat_minor"], invoice["total_minor"]) == (840, 160, 1000)
    assert second.folders == ("tax/invoices/batch=0002",)
    table = from_csv(store.read(f"{second.folders[0]}/invoices.csv"), INVOICES.schema)
    assert table["document_sha256"].to_list() == [sha256(store.read(f"{second.folders[0]}/SB-000003.xml"))]
    assert [
        check.problems for check in stage.verify(store, second.folders[0], keys=stage.trusted_keys(where.settings.settlement))
    ] != []
    assert not any("invoice" in key for key in store.list("exports")), "addresses are no export"


def pl_owner(owner, kind):
    import polars as pl

    return (pl.col("owner_id") == owner) & (pl.col("kind") == kind)


def test_what_was_paid_and_what_was_invoiced_are_one_sum(where, tmp_path):
    register(where, tmp_path, "ann", "bob", "dee")
    settle(where)
    numbering.issue(where)
    answer(where, "ann", REJECTED, "s1")
    numbering.issue(where)
    book("ann", "bob", "dee", day=date(2026, 10, 5), amount=500)
    settle(where, "2026-10")
    numbering.issue(where)
    signed = {INVOICE: 1, CREDIT_NOTE: -1}
    for owner, paid in (("ann", 1500), ("bob", 1500), ("dee", 500)):
        rows = numbering.register(where.ledger).filter(owner_id=owner).rows(named=True)
        assert sum(signed[row["kind"]] * row["total_minor"] for row in rows) == paid
    assert [name for (name,) in numbers(where)] == [f"SB-{n:06d}" for n in range(1, 7)]


def test_a_rejected_payment_that_turns_out_to_be_paid_is_invoiced_again(where, tmp_path):
    register(where, tmp_path, "ann")
    settle(where)
    numbering.issue(where)
    answer(where, "ann", REJECTED, "s1")
    numbering.issue(where)
    (payment,) = settling.payments(where.ledger, PERIOD)
    with books_tables.booking_transaction(where.ledger) as connection:
        row = books_tables.booking_row(connection, books_tables.ANSWER, DAY, {"by": "hand"})
        paid = {"payment_id": payment.payment_id, "status": PAID, "reason": ""}
        booked = books_tables.post(connection, row, {}).booking_id
        connection.execute(sa.insert(books_tables.OUTCOME), {**paid, "booking_id": booked})
    numbering.issue(where)
    assert numbering.issue(where).issued == ()
    kinds = [row["kind"] for row in numbering.register(where.ledger).rows(named=True)]
    assert kinds == [INVOICE, CREDIT_NOTE, INVOICE]


def test_who_lacks_what_invoices_need_is_named_before_anything_is_booked(where, tmp_path):
    register(where, tmp_path, "ann", "bob", bob=LINES["bob"].removesuffix(",19") + ",")
    for ask in (stage.close, stage.preview):
        with pytest.raises(InputError, match="payee bob: vat_rate"):
            ask(where, PERIOD)
    assert {booking.kind for booking in ledger.bookings(where.ledger)} == {"night"}


def test_a_document_that_cannot_be_written_takes_no_number_and_stays_due(where, tmp_path):
    register(where, tmp_path, "ann", "bob")
    settle(where)
    register(where, tmp_path, "bob", bob=LINES["bob"].removesuffix(",19") + ",")
    run = numbering.issue(where)
    assert (run.issued, len(run.refused)) == (("SB-000001",), 1)
    assert "payee bob: vat_rate" in run.refused[0]
    with pytest.raises(CheckFailed, match="1 invoices stay due after the payments of 2026-09: payee bob"):
        numbering.issue_for(where, PERIOD)
    register(where, tmp_path, "bob")
    assert numbering.issue(where).issued == ("SB-000002",)
    remove_payee(where, "ann")
    answer(where, "ann", RETURNED, "s")
    assert "credit note for SB-0" in numbering.issue(where).refused[0]


def test_without_the_setting_nothing_is_written(doors, books, store, tmp_path, monkeypatch):
    monkeypatch.setenv("PROVENANCE_TAX__INVOICES", "")
    where = doors()
    register(where, tmp_path, *LINES)
    settle(where)
    assert numbering.issue(where) == numbering.Issued()
    assert store.list("tax") == []


def test_a_killed_run_leaves_no_gap_and_no_second_document(where, store, tmp_path):
    register(where, tmp_path, "ann", "bob")
    settle(where)
    writes = 0
    while True:
        try:
            with killing.dying(writes, "tax/"):
                numbering.issue(where)
        except killing.Killed:
            writes += 1
        else:
            break
    assert writes > 3, "documents, their table, the signature, the manifest"
    assert len(numbers(where)) == len(store.list("tax")) - 3 == 2
    assert numbering.issue(where) == numbering.Issued()


def test_a_run_publishes_what_a_killed_one_has_registered(where, store, tmp_path):
    register(where, tmp_path, "ann", "bob")
    settle(where)
    with pytest.raises(killing.Killed), killing.dying(2, "tax/"):
        numbering.issue(where)
    before = {key: store.read(key) for key in store.list("tax") if key.endswith(".xml")}
    run = numbering.issue(where)
    assert (run.folders, run.issued) == (("tax/invoices/batch=0001",), ())
    assert {key: store.read(key) for key in store.list("tax") if key.endswith(".xml")} == before
    assert len(numbers(where)) == 2


def test_the_database_refuses_gaps_and_changes(where, tmp_path):
    register(where, tmp_path, "ann")
    settle(where)
    numbering.issue(where)
    for statement in ("UPDATE invoice SET total_minor = 1", "DELETE FROM invoice"):
        with pytest.raises(sa.exc.DBAPIError), where.ledger.begin() as connection:
            connection.execute(sa.text(statement))
    columns = [column.name for column in books_tables.INVOICE.columns]
    changed = {"number": "number + 2", "invoice_id": "'X'", "kind": "'credit note'", "corrects": "invoice_id"}
    insert = f"INSERT INTO invoice ({', '.join(columns)}) SELECT {', '.join(changed.get(c, c) for c in columns)} FROM invoice"
    with pytest.raises(sa.exc.DBAPIError, match="does not follow"), where.ledger.begin() as connection:
        connection.execute(sa.text(insert))


def test_the_command_lists_and_issues_them(where, tmp_path, shown):
    register(where, tmp_path, "ann", "bob")
    settle(where)
    assert shown("invoices", "--json")["invoices"] == []
    assert shown("invoices", "--issue", "--json")["issued"] == ["SB-000001", "SB-000002"]
    assert [row["invoice_id"] for row in shown("invoices", PERIOD, "--json")["invoices"]] == ["SB-000001", "SB-000002"]
    assert shown("invoices", "2026-01", "--json")["invoices"] == []
    answer(where, "bob", RETURNED, "s")
    shown("invoices", "--issue", "--json")
    assert {"SB-000003", "credit", "note"} <= set(shown("invoices").split())
