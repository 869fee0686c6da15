"""What banks really answer: every kind of file and entry, against payments that were sent."""

import bz2
import gzip
import io
import itertools
import lzma
import os
import re
import shutil
import tarfile
import uuid
import zipfile
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import ClassVar

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import enter

from provenance.core.errors import CheckFailed, InputError, InputErrors
from provenance.settlement import ledger
from provenance.settlement.accounts import Account, imbalances
from provenance.settlement.approvals import Approval
from provenance.settlement.bank.documents import known
from provenance.settlement.bank.incoming import book_answer, by_hand, opened, read_any, read_new
from provenance.settlement.bank.iso20022 import VERSIONS
from provenance.settlement.months import settling, stage
from provenance.settlement.months.bank_files import sent_messages
from provenance.settlement.payees.register import import_payees
from tasks.where import opened as opened_doors

PERIOD, DAY = "2026-10", date(2026, 10, 15)
COLUMNS = "owner_id,name,town,country,currency,method,iban,paypal,routing,account,tax_residence,tax_id"
TAX = "DE,36574261809"
PAYEES = {
    "ann": f"ann,Ann,Berlin,DE,EUR,iso20022,DE89370400440532013000,,,,{TAX}",
    "bob": f"bob,Bob,Berlin,DE,EUR,iso20022,DE89370400440532013000,,,,{TAX}",
    "cid": f"cid,Cid,Berlin,DE,EUR,iso20022,DE89370400440532013000,,,,{TAX}",
    "pam": f"pam,Pam,Paris,FR,EUR,paypal,,pam@example.org,,,{TAX}",
    "nat": "nat,Nat,Boston,US,USD,nacha,,,111000025,12345,US,536-90-4399",
}
# Two more, in a currency and so a group of their own.
MORE = {
    "eve": f"eve,Eve,Leeds,GB,GBP,iso20022,GB82WEST12345698765432,,,,{TAX}",
    "fay": f"fay,Fay,Leeds,GB,GBP,iso20022,GB82WEST12345698765432,,,,{TAX}",
}
OWED_MORE = {"eve": 400, "fay": 850}
CURRENCIES = {"nat": "USD", "eve": "GBP", "fay": "GBP"}
OWED = {"ann": 700, "bob": 1250, "cid": 99, "pam": 640, "nat": 880}
PAYER = {
    "NAME": "Payer GmbH", "TOWN": "Hamburg", "COUNTRY": "DE", "IBAN": "DE02120300000000202051",
    "NACHA_ORIGIN": "111000025", "NACHA_COMPANY": "1234567890", "NACHA_BANK": "A BANK",
}  # fmt: skip
AT = datetime(2026, 11, 3, 8, tzinfo=UTC)
TWO = Approval("Ann", AT, granted=True), Approval("Bob", AT, granted=True)


class Month:
    """A month that was paid: one payment of each owner, and the message that has it."""

    def __init__(self, where):
        self.where = where
        self.payments = {p.line.owner_id: p.payment_id for p in settling.payments(where.ledger, PERIOD)}
        self.messages = {name.rsplit("-", 1)[1]: name for name in sent_messages(where.store)}

    @property
    def message(self):
        return self.messages["iso20022"]

    @property
    def status(self):
        return {p.line.owner_id: p.status for p in settling.payments(self.where.ledger, PERIOD)}

    @property
    def owed(self):
        """Amounts owed by owner, in minor units."""
        balances = ledger.balances(self.where.ledger, through=ledger.newest(self.where.ledger))
        return {a.party_id: -amount for a, amount in balances.items() if a.account in ("payable", "held") and amount}

    @property
    def charges(self):
        balances = ledger.balances(self.where.ledger, through=ledger.newest(self.where.ledger))
        return sum(amount for account, amount in balances.items() if account.account == "charges")

    def book(self, data, name="answer.xml"):
        return book_answer(self.where, data, name)

    def check(self):
        through = ledger.newest(self.where.ledger)
        balances = ledger.balances(self.where.ledger, through=through)
        assert list(imbalances(balances, ledger.standing(self.where.ledger, through=through))) == []


@pytest.fixture(scope="module")
def paid_once():
    """By whether more payees are in it: a month that tests copy, as its settings, ledger and folder of its store."""
    return {}


@pytest.fixture
def paid_month(new_books, doors, tmp_path, monkeypatch, paid_once, tmp_path_factory):
    """Makes a month in a ledger of its own, paid to five owners by three methods."""

    def pay(*, more):
        path = tmp_path / "payees.csv"
        path.write_text("\n".join([COLUMNS, *PAYEES.values(), *(MORE.values() if more else ()), ""]))
        store = new_books(f"paid-{more}")
        environment = {f"PROVENANCE_PAYER__{name}": value for name, value in PAYER.items()}
        environment["PROVENANCE_PAYEES__KEY"] = Fernet.generate_key().decode()
        environment["PROVENANCE_SETTLEMENT__MINIMUM"] = "{}"
        enter(monkeypatch, environment)
        owed = OWED | (OWED_MORE if more else {})
        amounts = {Account("payable", owner, CURRENCIES.get(owner, "EUR")): -units for owner, units in owed.items()}
        for currency in {account.currency for account in amounts}:
            amounts[Account("receivable", "", currency)] = -sum(m for a, m in amounts.items() if a.currency == currency)
        with opened_doors() as where:
            ledger.book(where.ledger, DAY, amounts, night="n", cause="c")
            import_payees(where, path, by="me")
            stage.close(where, PERIOD)
            stage.pay(where, PERIOD, *TWO)
        folder = tmp_path_factory.mktemp("paid")  # a test's own goes when it has passed
        kept = shutil.copytree(store.path(""), folder / "store")
        environment["PROVENANCE_SETTLEMENT__KEY"] = shutil.copy(os.environ["PROVENANCE_SETTLEMENT__KEY"], str(folder))
        return environment, sa.make_url(os.environ["PROVENANCE_DATABASE__URL"]).database, kept

    def make(name="store", *, more=False):
        if more not in paid_once:
            paid_once[more] = pay(more=more)
        environment, database, kept = paid_once[more]
        shutil.copytree(kept, new_books(name, template=database).path(""))
        enter(monkeypatch, environment)
        return Month(doors())

    return make


@pytest.fixture
def month(paid_month):
    return paid_month()


def document(kind, root, inside):
    names = f'xmlns="urn:iso:std:iso:20022:tech:xsd:{kind}"'
    return f'<?xml version="1.0"?><Document {names}><{root}>{inside}</{root}></Document>'.encode()


def reason(code, tag="Cd"):
    return f"<StsRsnInf><Rsn><{tag}>{code}</{tag}></Rsn></StsRsnInf>" if code else ""


def told(payment_id="", status="RJCT", code="AC04", more=""):
    named = f"<OrgnlEndToEndId>{payment_id}</OrgnlEndToEndId>" if payment_id else ""
    return f"<TxInfAndSts>{named}<TxSts>{status}</TxSts>{reason(code)}{more}</TxInfAndSts>"


def report(
    month, *transactions, status="", code="", group="", group_status="", group_code="", kind="pain.002.001.10", message=""
):
    head = "<GrpHdr><MsgId>r1</MsgId><CreDtTm>2026-11-04T08:00:00</CreDtTm></GrpHdr>"
    whole = f"<GrpSts>{status}</GrpSts>" if status else ""
    whole = (
        f"<OrgnlMsgId>{message or month.message}</OrgnlMsgId><OrgnlMsgNmId>pain.001.001.09</OrgnlMsgNmId>{whole}{reason(code)}"
    )
    part = f"<PmtInfSts>{group_status}</PmtInfSts>{reason(group_code)}" if group_status else ""
    part = f"<OrgnlPmtInfId>{group or month.message + '-EUR'}</OrgnlPmtInfId>{part}{''.join(transactions)}"
    parts = f"<OrgnlPmtInfAndSts>{part}</OrgnlPmtInfAndSts>" if transactions or group_status else ""
    return document(kind, "CstmrPmtStsRpt", f"{head}<OrgnlGrpInfAndSts>{whole}</OrgnlGrpInfAndSts>{parts}")


def amount(units, currency="EUR", tag="Amt"):
    return f'<{tag} Ccy="{currency}">{units / 100:.2f}</{tag}>'


CODE = "<BkTxCd><Domn><Cd>PMNT</Cd><Fmly><Cd>ICDT</Cd><SubFmlyCd>ESCT</SubFmlyCd></Fmly></Domn></BkTxCd>"
BANKS_OWN = "<BkTxCd><Prtry><Cd>NTRF+159+00931</Cd><Issr>DK</Issr></Prtry></BkTxCd>"
BACK = "<RtrInf><Rsn><Cd>AC04</Cd></Rsn></RtrInf>"


def moved(units, name="", *, mark="DBIT", refs="", details="", more="", currency="EUR"):
    """A transaction; what stands before and after related parties is given as XML."""
    named = refs or (f"<EndToEndId>{name}</EndToEndId>" if name else "")
    return f"<TxDtls><Refs>{named}</Refs>{amount(units, currency)}<CdtDbtInd>{mark}</CdtDbtInd>{details}{more}</TxDtls>"


def entry(
    units, *transactions, mark="DBIT", code=CODE, batch="", charges="", more="", reversal="", status="BOOK", currency="EUR"
):
    """An entry; `charges` stands before its details, `more` after them."""
    undone = f"<RvslInd>{reversal}</RvslInd>" if reversal else ""
    details = f"<NtryDtls>{batch}{''.join(transactions)}</NtryDtls>" if transactions or batch else ""
    head = f"{amount(units, currency)}<CdtDbtInd>{mark}</CdtDbtInd>{undone}<Sts><Cd>{status}</Cd></Sts>"
    return f"<Ntry>{head}{code}{charges}{details}{more}</Ntry>"


def statement(*entries, kind="camt.053.001.08", number=1):
    inside = "".join(entries)
    if kind < "camt.053.001.07":
        inside = re.sub("<Sts><Cd>(.*?)</Cd></Sts>", r"<Sts>\1</Sts>", inside)
    balance = f"{amount(0)}<CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-11-04</Dt></Dt>"
    balance = f"<Bal><Tp><CdOrPrtry><Cd>CLBD</Cd></CdOrPrtry></Tp>{balance}</Bal>"
    account = "<Acct><Id><IBAN>DE02120300000000202051</IBAN></Id></Acct>"
    head = f"<Id>s{number}</Id><CreDtTm>2026-11-04T08:00:00</CreDtTm>{account}{balance}"
    at = f"<GrpHdr><MsgId>c{number}</MsgId><CreDtTm>2026-11-04T08:00:00</CreDtTm></GrpHdr>"
    return document(kind, "BkToCstmrStmt", f"{at}<Stmt>{head}{inside}</Stmt>")


def debit(month, owner, **options):
    return entry(OWED[owner], moved(OWED[owner], month.payments[owner]), **options)


# The pairs of a message that we send and the report that answers it, by release of ISO 20022; and what banks send besides.
ANSWERS = {"pain.001.001.09": ("pain.002.001.03", "pain.002.001.10"), "pain.001.001.11": ("pain.002.001.11", "pain.002.001.12")}


def test_every_version_that_answers_what_we_send_is_read():
    assert set(ANSWERS) == set(VERSIONS)
    assert {kind for kinds in ANSWERS.values() for kind in kinds} <= set(known("pain.002"))
    assert set(known("pain.002")) == {f"pain.002.001.{n:02d}" for n in range(3, 16)}
    assert set(known("camt.053")) == {f"camt.053.001.{n:02d}" for n in range(2, 15)}


def test_every_version_is_booked(paid_month):
    for number, kind in enumerate(known("pain.002")):
        month = paid_month(f"of{number}")
        assert month.book(report(month, kind=kind, status="RJCT", code="DT01"))["rejected"] == 3, kind
        assert month.status["ann"] == "rejected"
        assert month.owed == {"ann": 700, "bob": 1250, "cid": 99}
    month = paid_month("statements")
    for kind in known("camt.053"):
        if kind > "camt.053.001.02":  # which has no amounts in transactions but in their details
            month.book(statement(debit(month, "ann"), kind=kind))
    assert month.status["ann"] == "paid"


CODES = ("AM05", "DUPL", "DU01", "DU02", "DU03", "DU04", "DU05", "am05")
BANKS_OWN_CODES = ("DUPLICATE_FILE", "Duplicate payment")


def rejections(month, code, tag="Cd"):
    """Reports that reject ann's payment: by itself, with its group, with its message."""
    ann = month.payments["ann"]
    own = f"<TxInfAndSts><OrgnlEndToEndId>{ann}</OrgnlEndToEndId><TxSts>RJCT</TxSts>{reason(code, tag)}</TxInfAndSts>"
    yield report(month, own)
    yield report(month, group_status="RJCT", group_code=code)
    yield report(month, status="RJCT", code=code)


@pytest.mark.parametrize("debited", [False, True])
def test_a_second_copy_that_is_rejected_leaves_the_first(month, debited):
    if debited:
        month.book(statement(debit(month, "ann")))
    for code in BANKS_OWN_CODES:
        assert month.book(next(rejections(month, code, "Prtry")))["stands"] == 1
    for code, tag in itertools.product(CODES, ("Cd", "Prtry")):
        for data in rejections(month, code, tag):
            result = month.book(data)
            assert (result["rejected"], result["problems"]) == (0, []), code
            assert result["stands"] >= 1
    assert month.status["ann"] == ("paid" if debited else "sent")
    assert month.owed == {}
    if not debited:
        assert month.book(statement(debit(month, "ann")))["paid"] == 1


@pytest.mark.parametrize("code", ["AC04", "DT01", ""])
def test_no_rejection_makes_a_booked_debit_owed_again(month, code):
    month.book(statement(debit(month, "ann"), debit(month, "bob"), debit(month, "cid")))
    before = ledger.newest(month.where.ledger)
    for data in rejections(month, code):
        with pytest.raises(
            InputError, match="no rejection of a payment whose debit a statement has booked.*ask the bank"
        ) as raised:
            month.book(data)
        assert "provenance answer-by-hand --entry" in str(raised.value)
    assert ledger.newest(month.where.ledger) == before
    assert (month.status["ann"], month.owed) == ("paid", {})
    back = entry(700, moved(700, month.payments["ann"], mark="CRDT", more=BACK), mark="CRDT")
    assert month.book(statement(back, number=2))["returned"] == 1, "what comes back is owed again"
    assert month.owed == {"ann": 700}


def test_what_is_rejected_before_it_is_debited_stops_at_the_debit(month):
    month.book(report(month, told(month.payments["ann"])))
    with pytest.raises(InputError, match="no later outcome of a rejected payment, found that it was paid"):
        month.book(statement(debit(month, "ann")))
    assert month.owed == {"ann": 700}


def key_of(error):
    return re.search("--entry ([0-9a-f]{12})", str(error))[1]


def test_a_contradiction_is_settled_by_hand_on_evidence_and_two_names(month, shown, refused, tmp_path):
    ann = month.payments["ann"]
    month.book(report(month, told(ann)))
    late = tmp_path / "late.xml"
    late.write_bytes(statement(debit(month, "ann")))
    key = key_of(refused("answer", str(late)))
    command = ("answer-by-hand", ann.upper(), "--status", "paid", "--entry", key, "--by", "Ann")
    assert "another who approves" in refused(*command, "--second", "ann ", "--evidence", "letter")
    assert "--evidence: expected some text" in refused(*command, "--second", "Bob", "--evidence", " ")
    assert "--status: expected paid, rejected or returned" in refused(
        "answer-by-hand", ann, "--status", "lost", "--by", "Ann", "--second", "Bob", "--evidence", "x"
    )
    shown(*command, "--second", "Bob", "--evidence", "letter of the bank")
    assert "Booked before" in shown(*command, "--second", "Bob", "--evidence", "letter of the bank")
    assert (month.status["ann"], month.owed) == ("paid", {})
    assert "booked" in shown("answer", str(late)), "the entry is settled"
    facts = ledger.bookings(month.where.ledger, kind="answer")[1].facts
    assert (facts["by"], facts["second"], facts["evidence"], facts["entry"]) == ("Ann", "Bob", "letter of the bank", key)
    month.check()
    with pytest.raises(InputError, match="expected one that is not paid yet"):
        by_hand(month.where, [ann], "paid", evidence="again", by="Ann", second="Bob")
    by_hand(month.where, [ann], "returned", evidence="credit slip", by="Ann", second="Bob")
    assert (month.status["ann"], month.owed) == ("returned", {"ann": 700})
    month.check()


def test_what_was_undone_is_booked_by_hand_again_in_the_same_words(month):
    ann, words = [month.payments["ann"]], {"evidence": "letter", "by": "Ann", "second": "Bob"}
    month.book(statement(debit(month, "ann")))
    for _ in range(2):
        by_hand(month.where, ann, "rejected", **words)
        assert month.owed == {"ann": 700}
        before = ledger.newest(month.where.ledger)
        by_hand(month.where, ann, "rejected", **words)
        assert ledger.newest(month.where.ledger) == before, "the same is booked once"
        by_hand(month.where, ann, "paid", **words)
        assert (month.status["ann"], month.owed) == ("paid", {})
    month.check()


@pytest.mark.parametrize(
    ("payments", "status", "entry_key", "expected"),
    [
        ([], "", "", "expected a payment, an entry of a bank's file, or both, found neither"),
        ([], "", "entry 2", "--entry: expected the key that `provenance answer` names"),
        ([], "paid", "0" * 12, "expected payments with their outcome, or neither"),
        (["0" * 32], "paid", "", "expected a payment of this ledger"),
    ],
)
def test_what_is_booked_by_hand_is_checked(month, payments, status, entry_key, expected):
    with pytest.raises(InputError, match=expected):
        by_hand(month.where, payments, status, entry=entry_key, evidence="x", by="Ann", second="Bob")
    assert [b.kind for b in ledger.bookings(month.where.ledger)].count("answer") == 0


CASES = {"as sent": str, "capitals": str.upper, "mixed": lambda text: text[:7].upper() + text[7:]}


@pytest.mark.parametrize("spelt", CASES)
@pytest.mark.parametrize("back", [False, True])
def test_an_id_in_any_letter_case_and_place_is_ours(month, spelt, back):
    ann, bob, cid = (CASES[spelt](month.payments[owner]) for owner in ("ann", "bob", "cid"))
    mark, code = ("CRDT", BANKS_OWN) if back else ("DBIT", CODE)
    broken = f"EREF+{cid[:20]} {cid[20:]} SVWZ+Royalties"
    result = month.book(
        statement(
            entry(700, moved(700, ann, mark=mark), mark=mark, code=code),
            entry(
                1250,
                moved(1250, refs=f"<InstrId>{bob}</InstrId><EndToEndId>NOTPROVIDED</EndToEndId>", mark=mark),
                mark=mark,
                code=code,
            ),
            entry(99, mark=mark, code=code, more=f"<AddtlNtryInf>{broken}</AddtlNtryInf>"),
            entry(300, moved(300, "invoice 7", mark=mark), mark=mark, code=code),
            entry(300, mark=mark, code=code),
        )
    )
    status = "returned" if back else "paid"
    assert (result[status], result["others"], result["problems"]) == (3, 2, [])
    assert {month.status[owner] for owner in ("ann", "bob", "cid")} == {status}
    assert month.owed == ({"ann": 700, "bob": 1250, "cid": 99} if back else {})


def test_the_beginning_of_an_id_in_the_remittance_is_ours(month):
    ann = month.payments["ann"]
    text = f"<RmtInf><Ustrd>Royalties 2026-10 {ann[:12]}</Ustrd></RmtInf>"
    assert month.book(statement(entry(700, moved(700, "NOTPROVIDED", more=text))))["paid"] == 1


@pytest.mark.parametrize("at", [1, 11, 12, 20, 31])
def test_an_id_that_a_bank_has_broken_into_lines_is_ours(month, at):
    ann = month.payments["ann"]
    lines = "".join(f"<Ustrd>{line}</Ustrd>" for line in ("SVWZ+Royalties", f"EREF+{ann[:at]}", f"{ann[at:]} ABWA+X"))
    assert month.book(statement(entry(700, moved(700, "NOTPROVIDED", more=f"<RmtInf>{lines}</RmtInf>"))))["paid"] == 1


def test_a_credit_in_another_amount_stops_by_name(month):
    data = statement(
        debit(month, "bob"), entry(650, moved(650, month.payments["ann"], mark="CRDT"), mark="CRDT", code=BANKS_OWN)
    )
    result = month.book(data)
    assert (result["paid"], result["others"]) == (1, 0)
    (problem,) = result["problems"]
    assert f"payment {month.payments['ann']}" in problem["problem"]
    assert "expected 700 minor units of EUR, as sent, found 650 of EUR" in problem["problem"]
    assert month.status["ann"] == "sent"


def test_the_id_of_another_ledger_stops_by_name_until_it_is_settled(month):
    data = statement(debit(month, "ann"), entry(700, moved(700, "AB" * 16)))
    (problem,) = month.book(data)["problems"]
    assert f"payment {'AB' * 16}: expected a payment of this ledger" in problem["problem"]
    assert month.book(data)["problems"] == [problem], "the same name whenever it is read"
    by_hand(month.where, [], "", entry=problem["key"], evidence="of the test system", by="Ann", second="Bob")
    assert month.book(data)["problems"] == []
    assert month.status["ann"] == "paid"


def batch_of(month, *, message=True, group=True, count=None, spelt=str):
    inside = f"<MsgId>{spelt(month.message)}</MsgId>" if message else ""
    inside += f"<PmtInfId>{spelt(month.message + '-EUR')}</PmtInfId>" if group else ""
    return f"<Btch>{inside}{f'<NbOfTxs>{count}</NbOfTxs>' if count else ''}</Btch>"


ALL = 700 + 1250 + 99


@pytest.mark.parametrize("spelt", CASES.values())
@pytest.mark.parametrize("named", [{"group": False}, {"message": False}, {"count": 3}, {}])
def test_a_batch_entry_that_names_the_message_is_booked_if_the_sum_fits(month, named, spelt):
    result = month.book(statement(entry(ALL, batch=batch_of(month, spelt=spelt, **named))))
    assert (result["paid"], result["others"]) == (3, 0)
    assert month.owed == {}


@pytest.mark.parametrize(
    ("units", "named", "expected"),
    [
        (ALL - 1, {}, f"expected {ALL} minor units of EUR for 3 payments, as sent, found {ALL - 1} of EUR"),
        (ALL, {"count": 2}, f"found {ALL} of EUR for 2"),
        (700, {}, "found 700 of EUR"),
    ],
)
def test_a_batch_entry_whose_sum_does_not_fit_stops_by_name(month, units, named, expected):
    with pytest.raises(InputError, match=f"{month.message}.*{expected}"):
        month.book(statement(entry(units, batch=batch_of(month, **named))))
    assert month.status["ann"] == "sent"


def test_a_batch_is_debited_without_what_was_rejected(month):
    data = statement(entry(ALL - 99, batch=batch_of(month)))
    with pytest.raises(InputError, match="3 payments, as sent"):
        month.book(data)
    month.book(report(month, told(month.payments["cid"])))
    assert month.book(data)["paid"] == 2, "it is read again, once the report has come"
    assert month.owed == {"cid": 99}


def test_transactions_of_a_batch_without_ids_are_booked_by_their_sum(month):
    refs = f"<MsgId>{month.message}</MsgId><PmtInfId>{month.message}-EUR</PmtInfId>"
    result = month.book(statement(entry(ALL, *(moved(OWED[owner], refs=refs) for owner in ("ann", "bob", "cid")))))
    assert (result["paid"], result["others"]) == (3, 0)


def test_a_batch_comes_back_as_one(month):
    month.book(statement(entry(ALL, batch=batch_of(month))))
    assert month.book(statement(entry(ALL, batch=batch_of(month), mark="CRDT", code=BANKS_OWN), number=2))["returned"] == 3
    assert month.owed == {"ann": 700, "bob": 1250, "cid": 99}


INSTRUCTED = f"<AmtDtls><InstdAmt>{amount(700)}</InstdAmt></AmtDtls>"


def charged(units, *, records=True):
    inside = f"<Rcrd>{amount(units)}<CdtDbtInd>DBIT</CdtDbtInd></Rcrd>" if records else amount(units, tag="TtlChrgsAndTaxAmt")
    return f"<Chrgs>{inside}</Chrgs>"


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("way", ["instructed", "in the transaction", "in all", "in the entry"])
def test_charges_of_banks_stand_in_the_books(month, back, way):
    mark, units = ("CRDT", 675) if back else ("DBIT", 725)
    ann, more = month.payments["ann"], BACK if back else ""
    entries = {
        "instructed": entry(units, moved(units, ann, mark=mark, details=INSTRUCTED, more=more), mark=mark),
        "in the transaction": entry(units, moved(units, ann, mark=mark, details=charged(25), more=more), mark=mark),
        "in all": entry(units, moved(units, ann, mark=mark, details=charged(25, records=False), more=more), mark=mark),
        "in the entry": entry(units, moved(700, ann, mark=mark, more=more), mark=mark, charges=charged(25)),
    }
    data = statement(entries[way])
    result = month.book(data)
    assert (result["paid"], result["returned"]) == ((0, 1) if back else (1, 0))
    assert month.charges == 25
    assert month.owed == ({"ann": 700} if back else {}), "the owner bears none"
    facts = ledger.bookings(month.where.ledger, kind="answer")[0].facts
    assert facts["charges"] == {f"{ann} {'returned' if back else 'paid'}": "25 EUR"}
    month.book(data)
    assert month.charges == 25
    month.check()


@pytest.mark.parametrize("units", [725, 675])
def test_a_difference_that_charges_do_not_explain_stops_by_name(month, units):
    for details in ("", charged(24)):
        with pytest.raises(InputError, match="expected 700 minor units of EUR, as sent"):
            month.book(statement(entry(units, moved(units, month.payments["ann"], details=details))))
    assert (month.status["ann"], month.charges) == ("sent", 0)


def test_a_batch_with_a_fee_is_booked(month):
    assert month.book(statement(entry(ALL + 40, batch=batch_of(month), charges=charged(40))))["paid"] == 3
    assert month.charges == 40


def acsc(month, owner):
    return report(month, told(month.payments[owner], "ACSC", ""))


def rejected(month, owner):
    return report(month, told(month.payments[owner]))


def test_a_debit_counts_though_a_report_told_it_before(month):
    month.book(acsc(month, "ann"))
    assert month.book(statement(debit(month, "ann")))["paid"] == 1
    assert month.book(acsc(month, "ann"))["again"]
    before = ledger.newest(month.where.ledger)
    with pytest.raises(InputError, match="no rejection of a payment whose debit a statement has booked"):
        month.book(rejected(month, "ann"))
    assert (month.status["ann"], month.owed, ledger.newest(month.where.ledger)) == ("paid", {}, before)
    month.check()


def test_a_debit_after_a_rejection_stops_though_a_report_told_it_before(month):
    month.book(acsc(month, "ann"))
    month.book(rejected(month, "ann"))
    with pytest.raises(InputError, match="no later outcome of a rejected payment, found that it was paid") as raised:
        month.book(statement(debit(month, "ann")))
    assert (month.status["ann"], month.owed) == ("rejected", {"ann": 700})
    by_hand(month.where, [month.payments["ann"]], "paid", entry=key_of(raised.value), evidence="slip", by="Ann", second="Bob")
    for data in (statement(debit(month, "ann")), acsc(month, "ann"), rejected(month, "ann")):
        assert month.book(data)["problems"] == []
    assert (month.status["ann"], month.owed) == ("paid", {})
    month.check()


def test_a_person_may_confirm_what_a_report_told_and_undo_a_debit(month):
    ann = month.payments["ann"]
    names = {"evidence": "slip", "by": "Ann", "second": "Bob"}
    month.book(acsc(month, "ann"))
    by_hand(month.where, [ann], "paid", **names)
    with pytest.raises(InputError, match="no rejection of a payment whose debit"):
        month.book(rejected(month, "ann"))
    month.book(statement(debit(month, "ann")))
    by_hand(month.where, [ann], "rejected", **names)
    assert (month.status["ann"], month.owed) == ("rejected", {"ann": 700})
    assert month.book(statement(debit(month, "ann")))["problems"] == [], "the debit that was undone"
    with pytest.raises(InputError, match="expected one that is not rejected yet"):
        by_hand(month.where, [ann], "rejected", **names | {"evidence": "another"})
    by_hand(month.where, [ann], "paid", **names | {"evidence": "another"})
    assert (month.status["ann"], month.owed) == ("paid", {})
    month.check()


def test_charges_count_though_a_report_told_the_debit_before(month):
    first = min(("ann", "bob", "cid"), key=month.payments.get)
    month.book(acsc(month, first))
    data = statement(entry(ALL + 25, batch=batch_of(month), charges=charged(25)))
    assert (month.book(data)["paid"], month.charges) == (3, 25)
    assert (month.book(data)["again"], month.charges) == (True, 25)
    assert month.owed == {}
    month.check()


def test_a_fee_on_one_debit_counts_though_a_report_told_it_before(month):
    ann = month.payments["ann"]
    month.book(acsc(month, "ann"))
    data = statement(entry(750, moved(750, ann, details=INSTRUCTED), charges=charged(50)))
    assert (month.book(data)["paid"], month.charges) == (1, 50)
    month.check()


def debited(month, day="", of_entry="", of_transaction=""):
    """A debit of ann's payment with the bank's references."""
    refs = f"<AcctSvcrRef>{of_transaction}</AcctSvcrRef>" if of_transaction else ""
    data = entry(700, moved(700, refs=f"{refs}<EndToEndId>{month.payments['ann']}</EndToEndId>"))
    booked = f"<BookgDt><Dt>{day}</Dt></BookgDt>" if day else ""
    booked += f"<AcctSvcrRef>{of_entry}</AcctSvcrRef>" if of_entry else ""
    return data.replace("</Sts>", f"</Sts>{booked}", 1)


SAME, SECOND = True, False


@pytest.mark.parametrize(
    ("first", "later", "same"),
    [
        ({}, {}, SAME),
        ({"day": "2026-11-04"}, {"day": "2026-11-04"}, SAME),
        ({"day": "2026-11-04"}, {"day": "2026-11-05"}, SECOND),
        ({"day": "2026-11-04", "of_entry": "A1"}, {"day": "2026-11-05", "of_transaction": "A 1"}, SAME),
        ({"day": "2026-11-04", "of_entry": "A1"}, {"day": "2026-11-04", "of_entry": "A2"}, SECOND),
        ({"day": "2026-11-04", "of_entry": "NONREF"}, {"day": "2026-11-04", "of_entry": "A2"}, SAME),
        ({"of_entry": "A1"}, {}, SAME),
    ],
)
@pytest.mark.parametrize("back", [False, True])
def test_a_second_debit_of_a_payment_stops_by_name(month, first, later, same, back):
    month.book(statement(debited(month, **first)))
    if back:
        month.book(statement(entry(700, moved(700, month.payments["ann"], mark="CRDT", more=BACK), mark="CRDT"), number=2))
    data = statement(debited(month, **later), number=3)
    if same:
        assert month.book(data)["problems"] == []
    else:
        with pytest.raises(InputError, match="expected one debit of a payment, found a second one"):
            month.book(data)
    assert month.book(statement(debited(month, **first)))["again"]
    assert month.status["ann"] == ("returned" if back else "paid")
    month.check()


@pytest.mark.parametrize(
    ("refs", "stops"), [(({}, {}), True), (({"day": "2026-11-04"},) * 2, True), (({"of_entry": "A"},) * 2, False)]
)
def test_two_debits_of_a_payment_in_one_statement_stop_at_the_second(month, refs, stops):
    data = statement(*(debited(month, **each) for each in refs), debit(month, "bob"))
    problems = month.book(data)["problems"]
    assert len(problems) == stops
    assert month.book(data)["problems"] == problems, "whenever it is read"
    assert (month.status["ann"], month.status["bob"], month.owed) == ("paid", "paid", {})


@pytest.mark.parametrize("back", [False, True])
def test_a_reference_that_is_learnt_later_tells_a_second_entry(month, back):
    show = came_back if back else debited
    ref = "ref" if back else "of_entry"
    fee = {"units": 665} if back else {}
    month.book(statement(debit(month, "ann"), show(month, **fee)) if back else statement(show(month)))
    kept = month.charges
    month.book(statement(show(month, **{ref: "A1"}, **fee), number=2))
    assert month.book(statement(show(month, **{ref: "A1"}, **fee), number=3))["problems"] == []
    with pytest.raises(InputError, match="found a second one .- A2; the first: - A1"):
        month.book(statement(show(month, **{ref: "A2"}, **fee), number=4))
    assert (month.charges, month.owed) == (kept, {"ann": 700} if back else {}), "charges count once"
    month.check()


def said(month, owner, inside):
    """A report that rejects a payment for a reason given as XML."""
    name = f"<OrgnlEndToEndId>{month.payments[owner]}</OrgnlEndToEndId>"
    return f"<TxInfAndSts>{name}<TxSts>RJCT</TxSts><StsRsnInf>{inside}</StsRsnInf></TxInfAndSts>"


WORDS = {
    "in words": "<Rsn><Cd>NARR</Cd></Rsn><AddtlInf>Duplicate file, already processed</AddtlInf>",
    "a code in words": "<Rsn><Cd>NARR</Cd></Rsn><AddtlInf>AM05 Duplication</AddtlInf>",
    "without a code": "<AddtlInf>Datei wurde bereits verarbeitet</AddtlInf>",
    "late in the text": f"<Rsn><Cd>MS03</Cd></Rsn><AddtlInf>{'x' * 100}</AddtlInf><AddtlInf>{'y' * 60}; doublon</AddtlInf>",
    "a bank's code": "<Rsn><Prtry>DOUBLE</Prtry></Rsn>",
    "a bank's longer code": "<Rsn><Prtry>AM05X</Prtry></Rsn>",
    "a bank's words": "<Rsn><Prtry>Doppelt eingereicht</Prtry></Rsn>",
}


@pytest.mark.parametrize("words", WORDS)
def test_words_that_may_mean_a_second_copy_stop_by_name(month, words):
    inside = WORDS[words]
    whole = report(month, status="RJCT").replace(b"</GrpSts>", f"</GrpSts><StsRsnInf>{inside}</StsRsnInf>".encode())
    group = report(month, group_status="RJCT").replace(b"</PmtInfSts>", f"</PmtInfSts><StsRsnInf>{inside}</StsRsnInf>".encode())
    for data in (report(month, said(month, "ann", inside)), group, whole):
        with pytest.raises(
            InputError, match="a rejection of the payment itself, found words that may mean a second copy"
        ) as raised:
            month.book(data)
        assert "provenance answer-by-hand --entry" in str(raised.value)
    assert ({*month.status.values()}, month.owed) == ({"sent"}, {})
    month.book(statement(debit(month, "ann")))
    by_hand(month.where, [month.payments["bob"]], "rejected", evidence="mail", by="Ann", second="Bob")
    assert month.owed == {"bob": 1250}
    month.check()


@pytest.mark.parametrize(
    "inside", ["<Rsn><Cd>NARR</Cd></Rsn><AddtlInf>Account closed</AddtlInf>", "<Rsn><Prtry>Konto gesperrt</Prtry></Rsn>"]
)
def test_other_words_are_a_rejection(month, inside):
    assert month.book(report(month, said(month, "ann", inside)))["rejected"] == 1


def test_a_cancelled_message_or_group_is_rejected(paid_month):
    for number, how in enumerate(({"status": "CANC"}, {"group_status": "CANC"})):
        month = paid_month(f"cancelled{number}")
        assert month.book(report(month, kind="pain.002.001.12", **how))["rejected"] == 3
        assert month.owed == {"ann": 700, "bob": 1250, "cid": 99}


NAMED = ("ann", "bob", "cid")


@pytest.mark.parametrize(("above", "own"), [("AM05", "NARR"), ("DUPL", "MS03"), ("AM05", "AC04")])
@pytest.mark.parametrize("level", ["message", "group"])
def test_a_reason_of_its_own_beside_a_second_copy_stops_by_name(month, above, own, level):
    of_all = {"status": "RJCT", "code": above} if level == "message" else {"group_status": "RJCT", "group_code": above}
    with pytest.raises(InputError, match=rf"words that may mean a second copy \({own}; of all: {above}\)"):
        month.book(report(month, told(month.payments["ann"], code=own), **of_all))
    assert ({*month.status.values()}, month.owed) == ({"sent"}, {})
    own_copy = report(month, told(month.payments["ann"], code=above), status="RJCT", code="MS03")
    assert month.book(own_copy)["stands"] == 1, "its own code is certain"


def test_a_report_that_names_neither_message_nor_group_is_found_by_its_payments(month):
    nameless = {"message": "NOTPROVIDED", "group": "NOTPROVIDED"}
    assert month.book(report(month, told(month.payments["ann"]), status="RJCT", **nameless))["rejected"] == 1
    assert month.owed == {"ann": 700}, "it says nothing of the others"
    for strangers in ([told("f" * 32)], [told("rent")]):
        with pytest.raises(InputError, match="expected an answer to a message that was sent, found 'NOTPROVIDED'"):
            month.book(report(month, *strangers, **nameless))


@pytest.mark.parametrize("back", [False, True])
def test_an_entry_that_moves_a_payment_twice_stops_by_name(month, back):
    mark, more = ("CRDT", BACK) if back else ("DBIT", "")
    refs = (f"<AcctSvcrRef>T{n}</AcctSvcrRef><EndToEndId>{month.payments['ann']}</EndToEndId>" for n in (1, 2))
    twice = entry(1400, *(moved(700, refs=each, mark=mark, more=more) for each in refs), mark=mark)
    (problem,) = month.book(statement(twice, debit(month, "bob")))["problems"]
    assert f"payment {month.payments['ann']}: expected one transaction of it, found 2" in problem["problem"]
    assert (month.status["ann"], month.status["bob"], month.owed) == ("sent", "paid", {})


def test_a_pending_entry_that_names_a_payment_twice_moves_nothing_and_stops_nothing(month):
    result = month.book(statement(entry(1400, *[moved(700, month.payments["ann"])] * 2, status="PDNG")))
    assert (result["problems"], month.status["ann"]) == ([], "sent")


def came_back(month, day="", ref="", units=700):
    data = entry(units, moved(700, month.payments["ann"], mark="CRDT", more=BACK), mark="CRDT")
    booked = f"<BookgDt><Dt>{day}</Dt></BookgDt>" if day else ""
    return data.replace("</Sts>", f"</Sts>{booked}" + (f"<AcctSvcrRef>{ref}</AcctSvcrRef>" if ref else ""), 1)


@pytest.mark.parametrize(
    ("first", "later", "same"),
    [
        ({}, {}, SAME),
        ({"day": "2026-11-09"}, {"day": "2026-11-09"}, SAME),
        ({"day": "2026-11-09"}, {"day": "2026-11-10"}, SECOND),
        ({"day": "2026-11-09", "ref": "A1"}, {"day": "2026-11-10", "ref": "A1"}, SAME),
        ({"ref": "A1"}, {"ref": "A2"}, SECOND),
    ],
)
def test_a_payment_that_comes_back_twice_stops_by_name(month, first, later, same):
    month.book(statement(debit(month, "ann"), came_back(month, **first)))
    data = statement(came_back(month, **later), number=2)
    if same:
        assert month.book(data)["problems"] == []
    else:
        with pytest.raises(InputError, match="expected one return of a payment, found a second one") as raised:
            month.book(data)
        assert "--status" not in str(raised.value), "it is returned already"
    assert (month.status["ann"], month.owed) == ("returned", {"ann": 700})
    month.check()


def test_a_payment_that_comes_back_twice_in_one_statement_stops_by_name(month):
    (problem,) = month.book(statement(debit(month, "ann"), came_back(month), came_back(month)))["problems"]
    assert "expected one return of a payment" in problem["problem"]
    by_hand(month.where, [], "", entry=problem["key"], evidence="the bank's error", by="Ann", second="Bob")
    data = statement(debit(month, "ann"), came_back(month), came_back(month))
    assert (month.book(data)["problems"], month.owed) == ([], {"ann": 700})


def test_what_was_kept_of_a_return_counts_though_a_person_told_it_before(month):
    ann = month.payments["ann"]
    by_hand(month.where, [ann], "returned", evidence="letter", by="Ann", second="Bob")
    data = statement(entry(650, moved(650, ann, mark="CRDT", details=charged(50), more=BACK), mark="CRDT"))
    assert (month.book(data)["returned"], month.charges) == (1, 50)
    assert (month.book(data)["again"], month.charges, month.owed) == (True, 50, {"ann": 700})
    month.check()


@pytest.mark.parametrize("more", ["", BACK])
@pytest.mark.parametrize(("of_entry", "own"), [("CRDT", "DBIT"), ("DBIT", "CRDT")])
def test_a_transaction_against_the_direction_of_its_entry_stops_by_name(month, of_entry, own, more):
    month.book(statement(debit(month, "ann")))
    with pytest.raises(InputError, match="found a transaction in the other direction than its entry"):
        month.book(statement(entry(700, moved(700, month.payments["ann"], mark=own, more=more), mark=of_entry), number=2))
    assert (month.status["ann"], month.owed) == ("paid", {})


def test_transactions_against_the_direction_of_their_entry_stop_by_name(month):
    month.book(statement(*(debit(month, owner) for owner in NAMED)))
    marked = [moved(OWED[owner], month.payments[owner], more=BACK) for owner in NAMED]
    nameless = [
        f"<TxDtls><Refs><EndToEndId>{month.payments[o]}</EndToEndId></Refs><CdtDbtInd>DBIT</CdtDbtInd></TxDtls>" for o in NAMED
    ]
    for each, found in ((marked, "a debit with the mark of a return"), (nameless, "both, without the amount of each")):
        with pytest.raises(InputError, match=found):
            month.book(statement(entry(ALL, *each, mark="CRDT"), number=2))
    assert month.owed == {}


@pytest.mark.parametrize("units", [7000, 750, 736, 70])
@pytest.mark.parametrize("back", [False, True])
def test_an_entry_that_moves_another_amount_than_its_transaction_stops_by_name(month, units, back):
    mark, more, units = ("CRDT", BACK, 1400 - units) if back else ("DBIT", "", units)
    if units > 0:
        with pytest.raises(InputError, match=f"expected 700 minor units of EUR, as sent, found {units} of EUR"):
            month.book(statement(entry(units, moved(700, month.payments["ann"], mark=mark, more=more), mark=mark)))
    small = 665 if back else 735
    month.book(statement(entry(small, moved(700, month.payments["ann"], mark=mark, more=more), mark=mark)))
    assert (month.status["ann"], month.charges) == ("returned" if back else "paid", 35), "a small one is the bank's fee"
    month.check()


def test_each_payment_of_an_entry_is_settled_by_itself(month):
    month.book(report(month, told(month.payments["ann"]), told(month.payments["bob"])))
    data = statement(entry(1950, moved(700, month.payments["ann"]), moved(1250, month.payments["bob"])))
    with pytest.raises(InputErrors) as raised:
        month.book(data)
    errors = dict(zip(("ann", "bob"), raised.value.errors, strict=True))
    for owner, error in errors.items():
        assert f"answer-by-hand {month.payments[owner]} --status paid --entry {key_of(error)}" in str(error)
    by_hand(month.where, [month.payments["ann"]], "paid", entry=key_of(errors["ann"]), evidence="slip", by="Ann", second="Bob")
    with pytest.raises(InputError, match=month.payments["bob"]):
        month.book(data)
    assert month.owed == {"bob": 1250}, "bob's is not settled with ann's"
    by_hand(month.where, [month.payments["bob"]], "paid", entry=key_of(errors["bob"]), evidence="slip", by="Ann", second="Bob")
    assert (month.book(data)["problems"], month.owed) == ([], {})
    month.check()


@pytest.mark.parametrize(
    ("account", "mark", "stops"),
    [
        ("<IBAN>DE89370400440532013000</IBAN>", "", True),
        ("<Othr><Id>0532013000</Id></Othr>", "", True),
        ("<Othr><Id>00202051</Id></Othr>", "", False),
        ("<IBAN>DE02120300000000202051</IBAN>", "", False),
        ("<Othr><Id>1203 0000/0000 2020 51</Id></Othr>", "", False),
        ("<IBAN>DE89370400440532013000</IBAN>", BACK, False),
    ],
)
def test_the_credit_of_a_payee_s_own_account_is_no_return(month, account, mark, stops):
    iban = month.where.settings.payer.model_copy(update={"iban": "de02 1203 0000 0000 2020 51"})  # as a person may write it
    month.where = replace(month.where, settings=month.where.settings.model_copy(update={"payer": iban}))
    month.book(statement(debit(month, "ann")))
    data = statement(
        entry(700, moved(700, month.payments["ann"], mark="CRDT", more=mark), mark="CRDT", code=BANKS_OWN), number=2
    )
    data = data.replace(b"<IBAN>DE02120300000000202051</IBAN>", account.encode())
    if stops:
        with pytest.raises(InputError, match="a credit of another account without one"):
            month.book(data)
    else:
        assert month.book(data)["returned"] == 1
    assert month.owed == ({} if stops else {"ann": 700})


def test_strangers_ids_that_are_uuids_stop_nothing(month):
    ids = [uuid.UUID(int=n * 0x0123456789ABCDEF0123456789ABCDEF % 2**128, version=4).hex for n in range(1, 9)]
    result = month.book(statement(*(entry(300, moved(300, name.upper())) for name in ids), debit(month, "ann")))
    assert (result["paid"], result["others"], result["problems"]) == (1, 8, [])


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("way", ["of all", "of each", "without amounts", "beside a stranger's"])
def test_charges_of_an_entry_of_several_transactions_stand_in_the_books(month, back, way):
    mark, sign, more = ("CRDT", -1, BACK) if back else ("DBIT", 1, "")
    each = [moved(OWED[owner], month.payments[owner], mark=mark, more=more) for owner in NAMED]
    units, fee = ALL, charged(50)
    if way == "of each":
        each = [
            moved(OWED[o], month.payments[o], mark=mark, details=charged(n), more=more)
            for o, n in zip(NAMED, (20, 30, 0), strict=True)
        ]
        fee = ""
    elif way == "without amounts":
        each = [f"<TxDtls><Refs><EndToEndId>{month.payments[o]}</EndToEndId></Refs>{more}</TxDtls>" for o in NAMED]
    elif way == "beside a stranger's":
        each, units = [moved(300, "rent", mark=mark), *each], ALL + 300
    data = statement(entry(units + sign * 50, *each, mark=mark, charges=fee))
    result = month.book(data)
    assert (result["returned" if back else "paid"], result["problems"], month.charges) == (3, [], 50)
    assert (month.book(data)["again"], month.charges) == (True, 50)
    assert month.owed == ({owner: OWED[owner] for owner in NAMED} if back else {})
    month.check()


def test_several_returns_whose_sum_does_not_fit_stop_by_name(month):
    each = [moved(OWED[owner], month.payments[owner], mark="CRDT", more=BACK) for owner in ("ann", "bob")]
    for fee in ("", charged(49)):
        with pytest.raises(InputError, match="expected transactions that add up to 1950, found 1900 of EUR"):
            month.book(statement(entry(1900, *each, mark="CRDT", charges=fee)))
    strangers = [moved(OWED[owner], owner, mark="CRDT") for owner in ("ann", "bob")]
    assert month.book(statement(entry(1900, *strangers, mark="CRDT")))["others"] == 2


@pytest.mark.parametrize(
    ("units", "back", "charge"),
    [(735, False, 35), (736, False, None), (70000, False, None), (665, True, 35), (664, True, None), (1, True, None)],
)
def test_a_difference_that_no_charge_states_is_one_only_if_it_is_small(month, units, back, charge):
    mark, more = ("CRDT", BACK) if back else ("DBIT", "")
    data = statement(entry(units, moved(units, month.payments["ann"], mark=mark, details=INSTRUCTED, more=more), mark=mark))
    if charge is None:
        with pytest.raises(InputError, match="expected 700 minor units of EUR, as sent"):
            month.book(data)
        assert (month.charges, month.owed) == (0, {})
        stated = statement(
            entry(
                units, moved(units, month.payments["ann"], mark=mark, more=more), mark=mark, charges=charged(abs(units - 700))
            )
        )
        month.book(stated)
        assert month.charges == abs(units - 700), "what the bank states is booked"
    else:
        month.book(data)
        assert month.charges == charge


PURPOSE = "<Purp/>"
ODD = {
    "an empty element": entry(300, moved(300, "OTHER", more=PURPOSE)),
    "an unknown element": entry(300, moved(300, "OTHER", more="<Extra>1</Extra>")),
    "an amount that is none": entry(300, moved(300, "OTHER")).replace(">3.00<", ">3,00<"),
    "an unknown currency": entry(300, moved(300, "OTHER", currency="XAU"), currency="XAU"),
    "a sum that does not fit": entry(300, moved(100, "OTHER"), moved(100, "ANOTHER")),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("first", [False, True])
def test_one_awkward_entry_stops_itself_alone(month, odd, first):
    entries = [debit(month, "ann"), ODD[odd], debit(month, "bob")]
    store = month.where.store
    store.write("bank/answers/a.xml", statement(*(entries[::-1] if first else entries)))
    with pytest.raises(CheckFailed, match="entry 2 of statement s1") as raised:
        read_new(month.where)
    assert (month.status["ann"], month.status["bob"]) == ("paid", "paid")
    with pytest.raises(CheckFailed):
        read_new(month.where)
    by_hand(month.where, [], "", entry=key_of(raised.value), evidence="a supplier's", by="Ann", second="Bob")
    assert read_new(month.where) == 1
    month.check()


def test_an_awkward_entry_of_ours_is_booked_by_hand(month):
    ann = month.payments["ann"]
    data = statement(entry(700, moved(700, ann, more=PURPOSE)), debit(month, "bob"))
    (problem,) = month.book(data)["problems"]
    assert f"payment {ann}" in problem["problem"]
    by_hand(month.where, [ann], "paid", entry=problem["key"], evidence="statement, page 1", by="Ann", second="Bob")
    assert month.book(data)["problems"] == []
    assert month.status["ann"] == "paid"
    with pytest.raises(InputError, match="no rejection of a payment whose debit"):
        month.book(report(month, told(ann)))


def test_one_awkward_transaction_of_a_report_stops_itself_alone(month):
    ann, bob = month.payments["ann"], month.payments["bob"]
    odd = told(ann, more="<Extra/>")
    result = month.book(report(month, odd, told(bob), group_status="RJCT", group_code="AC01"))
    assert (result["rejected"], len(result["problems"])) == (2, 1), "bob's by itself, cid's with its group"
    assert month.status["ann"] == "sent"
    cid = report(month, told(month.payments["bob"]), message="NOTPROVIDED", kind="pain.002.001.12")
    assert month.book(cid)["problems"] == [], "a report that names its group alone"
    with pytest.raises(InputError, match="allows"):
        month.book(report(month, odd).replace(b"<GrpHdr><MsgId>r1</MsgId>", b"<GrpHdr>"))


def test_transactions_of_a_report_without_an_id_are_found_or_stop(month):
    ann = month.payments["ann"]
    of_ann = "<OrgnlTxRef><Amt><InstdAmt Ccy='EUR'>7.00</InstdAmt></Amt></OrgnlTxRef>"
    assert month.book(report(month, told("", "ACSP", ""), told("NOTPROVIDED", "PDNG", "")))["pending"] == 2
    with pytest.raises(InputError, match="a transaction without one, that may be of 3"):
        month.book(report(month, told()))
    assert month.book(report(month, told("NOTPROVIDED", more=of_ann)))["rejected"] == 1
    assert month.status["ann"] == "rejected"
    other = f"<TxInfAndSts><OrgnlInstrId>{month.payments['bob'].upper()}</OrgnlInstrId><TxSts>RJCT</TxSts></TxInfAndSts>"
    assert month.book(report(month, other))["rejected"] == 1
    with pytest.raises(InputError, match="expected payments of the message .*, found one that is not in it"):
        month.book(report(month, told(month.payments["pam"])))
    assert month.owed == {"ann": 700, "bob": 1250}
    assert ann in {p.payment_id for p in settling.payments(month.where.ledger, PERIOD)}


@pytest.mark.parametrize("spelt", CASES.values())
def test_a_report_names_its_message_and_groups_in_any_letter_case(month, spelt):
    group = spelt(f"{month.message}-EUR")
    result = month.book(report(month, message=spelt(month.message), group=group, group_status="RJCT", group_code="AC01"))
    assert result["rejected"] == 3
    for wrong, expected in (("other", "an answer to a message that was sent"), (month.message, "groups of the message")):
        with pytest.raises(InputError, match=expected):
            month.book(report(month, message=wrong, group="other", group_status="RJCT", group_code="AC01"))


def test_a_debit_that_takes_a_credit_back_stops_by_name(month):
    with pytest.raises(InputError, match="a debit that takes a credit back"):
        month.book(statement(debit(month, "ann", reversal="true")))


def zipped(*files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files:
            archive.writestr(name, content)
    return data.getvalue()


def test_archives_are_opened(month):
    files = [(f"{owner}.xml", statement(debit(month, owner), number=n)) for n, owner in enumerate(("ann", "bob"))]
    result = month.book(zipped(*files, ("__MACOSX/._ann.xml", b"\0"), ("note.txt", b"hello")), "month.zip")
    assert result["paid"] == 2
    (problem,) = result["problems"]
    assert "month.zip: note.txt: expected a status report (pain.002)" in problem["problem"]
    assert month.book(gzip.compress(statement(debit(month, "cid"), number=3)), "cid.xml.gz")["paid"] == 1
    for data, expected in (
        (zipped(), "expected a ZIP of 1 to 1000 files of a bank, found 0"),
        (zipped(("a.zip", zipped(files[0]))), "a.zip: expected a file of a bank, found an archive in an archive"),
        (zipped(*files)[:-30], "expected a ZIP, found a broken one"),
        (gzip.compress(files[0][1])[:40], "expected a file compressed by gzip, found a broken one"),
        (b":20:STARTUMS\r\n:25:1/2\r\n", "found a statement as MT940. Ask the bank for camt.053"),
        (b"%PDF-1.7", "found a PDF"),
        (b"", "found an empty file"),
        (b"\x00\x01\x02", "expected a status report .pain.002., .* found something else"),
    ):
        with pytest.raises(InputError, match=expected):
            month.book(data, "x")
    encrypted = bytearray(zipped(files[0]))
    at = encrypted.rfind(b"PK\x01\x02")
    encrypted[at + 8] |= 1
    with pytest.raises(InputError, match="expected a file without a password, found an encrypted one"):
        month.book(bytes(encrypted), "x.zip")


def test_statements_of_one_name_in_a_file_are_told_apart(month):
    odd = [entry(650, moved(650, month.payments[owner])) for owner in ("ann", "bob")]
    first, second = (re.search(rb"<Stmt>.*</Stmt>", statement(each))[0] for each in odd)
    data = statement(odd[0]).replace(first, first + second)
    with pytest.raises(InputErrors) as raised:
        month.book(data)
    keys = [key_of(error) for error in raised.value.errors]
    assert len({*keys}) == 2
    by_hand(month.where, [month.payments["ann"]], "paid", entry=keys[0], evidence="x", by="Ann", second="Bob")
    with pytest.raises(InputError, match=f"payment {month.payments['bob']}: expected 1250 minor units"):
        month.book(data)
    assert month.book(statement(odd[0]).replace(first, first.replace(b"6.50", b"7.00")))["problems"] == []


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\x00" * 20, b"\n\x1a"])
@pytest.mark.parametrize(
    ("start", "encoding"), [("", "utf-8"), ("\ufeff\n ", "utf-8"), ("", "utf-16"), ("", "utf-16-le"), ("", "iso-8859-1")]
)
def test_a_document_is_read_in_the_encodings_of_banks(start, encoding, end):
    named = "UTF-16" if "16" in encoding else encoding
    text = statement(debit(Sent, "ann")).decode().replace('"1.0"?>', f'"1.0" encoding="{named}"?>')
    data = f"{start}{text}".encode(encoding) + (end if "16" not in encoding else b"")
    assert [outcome.payment_id for outcome in read_any(data, "x.xml").outcomes] == [Sent.payments["ann"]]


@pytest.mark.parametrize("kind", ["camt.054.001.08", "camt.052.001.08"])
def test_what_is_no_statement_names_the_one_that_is(kind):
    with pytest.raises(InputError, match=f"found '{kind}'. Ask the bank for camt.053"):
        read_any(document(kind, "BkToCstmrDbtCdtNtfctn", ""), "x.xml")


@pytest.mark.parametrize("state", ["<Prtry>BOOKED</Prtry>", "<Prtry>Gebucht</Prtry>", "<Prtry>BOOK</Prtry>", "<Cd>INFO</Cd>"])
@pytest.mark.parametrize("by", ["payment", "message"])
def test_an_entry_of_ours_in_an_unknown_state_stops_by_name(month, state, by):
    ours = debit(month, "ann") if by == "payment" else entry(ALL, batch=batch_of(month))
    strangers = entry(300, moved(300, "rent"))
    data = statement(*(each.replace("<Cd>BOOK</Cd>", state) for each in (ours, strangers)), debit(month, "bob"))
    result = month.book(data)
    (problem,) = result["problems"]
    assert "expected an entry that is booked (BOOK) or pending (PDNG), found one that is" in problem["problem"]
    assert (result["paid"], result["others"], month.status["ann"]) == (1, 0, "sent")


def test_an_entry_of_the_future_is_pending(month):
    assert month.book(statement(debit(month, "ann", status="FUTR")))["pending"] == 1


def test_a_group_that_a_report_does_not_name_stops_no_transaction(paid_month):
    month = paid_month("unnamed")
    result = month.book(report(month, told(month.payments["ann"]), group="NOTPROVIDED", group_status="RJCT"))
    assert (result["rejected"], result["problems"]) == (1, [])
    result = month.book(report(month, told(month.payments["bob"]), group="other", group_status="RJCT"))
    assert result["rejected"] == 1
    (problem,) = result["problems"]
    assert f"expected groups of the message: {month.message}-EUR" in problem["problem"]
    by_hand(month.where, [], "", entry=problem["key"], evidence="asked", by="Ann", second="Bob")
    assert month.book(report(month, told(month.payments["bob"]), group="other", group_status="RJCT"))["problems"] == []
    with pytest.raises(InputError, match="groups of the message.*--entry"):
        month.book(report(month, group="NOTPROVIDED", group_status="RJCT"))
    assert month.status["cid"] == "sent"
    assert month.book(report(month, status="RJCT", code="FF01", group="NOTPROVIDED", group_status="RJCT"))["rejected"] == 1
    assert month.owed == {"ann": 700, "bob": 1250, "cid": 99}


@pytest.mark.parametrize("name", ["{}9", "{} and 22", "{}-EUR", "x{}", "KREF+{}PURP+RTR"])
def test_a_message_is_named_by_its_id_and_by_none_that_goes_on(month, name):
    text = name.format(month.message)
    for spelt in (text, f"{text[:14]} {text[14:]}"):
        data = statement(entry(ALL, more=f"<AddtlNtryInf>{spelt}</AddtlNtryInf>"))
        if name == "{}9":
            with pytest.raises(InputError, match="expected a message that was sent, found an id that goes on"):
                month.book(data)
        else:
            month.book(data)
    assert month.status["ann"] == ("sent" if name == "{}9" else "paid")


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda data: b"\r\n\n " + data,
        lambda data: (
            b'<BizMsgEnvlp xmlns="urn:x"><AppHdr xmlns="urn:iso:std:iso:20022:tech:xsd:head.001.001.02"/>'
            + data.split(b"?>", 1)[1]
            + b"</BizMsgEnvlp>"
        ),
        lambda data: (
            b'<?xml version="1.0"?>\n<e:Envelope xmlns:e="urn:e"><e:Body>' + data.split(b"?>", 1)[1] + b"</e:Body></e:Envelope>"
        ),
    ],
)
def test_a_document_is_read_in_an_envelope_and_below_empty_lines(month, wrapped):
    odd = ODD["an empty element"]
    result = month.book(wrapped(statement(debit(month, "ann"), odd)))
    assert (result["paid"], len(result["problems"])) == (1, 1)
    assert month.book(wrapped(report(month, told(month.payments["bob"]))))["rejected"] == 1
    inside = statement().split(b"?>", 1)[1]
    with pytest.raises(InputError, match="expected one Document in an envelope, found 2"):
        month.book(b"<e>" + inside + inside + b"</e>")


def test_what_stands_beside_a_statement_in_an_archive_is_named_and_stops_nothing(month):
    files = [("a/s.xml", statement(debit(month, "ann"))), ("a/s.PDF", b"%PDF-1.4"), ("a/s.xml.sha256", b"ab12")]
    result = month.book(zipped(*files), "day.zip")
    assert (result["paid"], result["problems"]) == (1, [])
    assert result["left_out"] == ["day.zip: a/s.PDF", "day.zip: a/s.xml.sha256"]
    month.where.store.write("bank/answers/day.zip", zipped(*files, ("Readme.txt", b"hello"), ("a/other.pdf", b"%PDF-1.7")))
    for _ in range(2):
        with pytest.raises(CheckFailed) as raised:
            read_new(month.where)
        keys = re.findall("--entry ([0-9a-f]{12})", str(raised.value))
        by_hand(month.where, [], "", entry=keys[0], evidence="no statement", by="Ann", second="Bob")
    assert read_new(month.where) == 1
    assert len({*keys}) == 1


def test_a_file_that_cannot_be_read_is_settled_by_its_key(month):
    other = report(month, told(month.payments["ann"]), message="other")
    archived = zipped(("b.xml", statement(debit(month, "bob"))), ("a.zip", zipped(("c", b"x"))))
    for number, data in enumerate((b"%PDF-1.4", archived[:-30], other, b"\x1f\x8b broken")):
        with pytest.raises(InputError, match="answer-by-hand --entry") as raised:
            month.book(data, "f")
        by_hand(month.where, [], "", entry=key_of(raised.value), evidence=f"letter {number}", by="Ann", second="Bob")
        assert month.book(data, "f")["problems"] == []
    (problem,) = month.book(archived, "f")["problems"]
    assert "f: a.zip: expected a file of a bank, found an archive in an archive" in problem["problem"]
    assert (month.status["bob"], len(problem["key"])) == ("paid", 12)


def tarred(name, content):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        about = tarfile.TarInfo(name)
        about.size = len(content)
        archive.addfile(about, io.BytesIO(content))
    return data.getvalue()


GERMAN = '"Datum","Name","Typ","Status","Währung","Brutto"\r\n"04.11.2026","x","Zahlung","Abgeschlossen","EUR","-6,40"\r\n'


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (gzip.compress(tarred("s.xml", b"<a/>")), "found an archive of tar. Unpack it"),
        (tarred("s.xml", b"<a/>"), "found an archive of tar. Unpack it"),
        (gzip.compress(zipped(("s.xml", b"<a/>"))), "found a ZIP. Unpack it"),
        (bz2.compress(b"<a/>"), "found a file compressed by bzip2"),
        (lzma.compress(b"<a/>"), "found a file compressed by xz"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "found an archive of 7-Zip"),
        (GERMAN.encode(), "found a report of PayPal's in another language. Set PayPal's language to English"),
        (GERMAN.encode("utf-16"), "found a report of PayPal's in another language"),
    ],
    ids=["tar.gz", "tar", "zip.gz", "bz2", "xz", "7z", "german", "german-utf-16"],  # bytes of archives have the time in them
)
def test_what_is_not_read_is_named(month, data, found):
    with pytest.raises(InputError, match=found):
        month.book(data, "x")


REPORT = "Payout Item ID,Sender Item ID,Status,Currency,Amount,Reason\r\n"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("SUCCESS", "paid"), ("Completed", "paid"), ("FAILED", "rejected"), ("Denied", "rejected"), ("RETURNED", "returned"),
        ("Refunded", "returned"), ("REVERSED", "returned"), ("UNCLAIMED", "sent"), ("Pending", "sent"), ("ONHOLD", "sent"),
    ],
)  # fmt: skip
def test_a_report_of_paypal_says_what_became_of_payouts(month, status, outcome):
    pam = month.payments["pam"][:30]
    result = month.book(f"{REPORT}8AE,{pam},{status},EUR,6.40,\r\n9AE,someone,SUCCESS,EUR,1.00,\r\n".encode(), "report.csv")
    assert (month.status["pam"], result["others"], result["problems"]) == (outcome, 1, [])
    assert month.owed == ({"pam": 640} if outcome in ("rejected", "returned") else {})


SPELT = {
    "comma": ("-6,40", ";"), "point": ("6.40", ","), "tab": ("6.40", "\t"), "with the currency": ("EUR 6.40", ","),
    "without decimals": ("6.4", ","),
}  # fmt: skip


@pytest.mark.parametrize("spelt", SPELT)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_report_of_paypal_in_any_spelling(month, spelt, encoding):
    value, separator = SPELT[spelt]
    rows = [
        ["Batch summary é", "1"], [],
        ["Date", "Type", "Transaction status", "Currency", "Gross", "Custom number"],
        ["2026-11-04", "Mass Payment", "Completed", "EUR", value, month.payments["pam"][:30].upper()],
        ["2026-11-04", "Mass Payment Fee", "Completed", "EUR", "-0.25", ""],
    ]  # fmt: skip
    text = "\r\n".join(separator.join(f'"{cell}"' for cell in row) for row in rows)
    result = month.book(text.encode(encoding), "report.csv")
    assert (result["kind"], result["paid"], month.status["pam"]) == ("paypal payouts", 1, "paid")
    back = text.replace('"Mass Payment"', '"Mass Payment Reversal"')
    assert month.book(back.encode(encoding), "report.csv")["returned"] == 1
    assert month.owed == {"pam": 640}


def test_a_row_of_paypals_that_does_not_fit_stops_itself_alone(month):
    pam = month.payments["pam"][:30]
    for row, expected in (
        (f"1,{pam},SUCCESS,EUR,6.41,", "expected 640 minor units of EUR, as sent, found 641 of EUR"),
        (f"1,{pam},EXPLODED,EUR,6.40,", "line 2: status: payment .*: expected one of success, .*found 'EXPLODED'"),
        (f"1,{pam},SUCCESS,XAU,6.40,", "currency: payment .*: expected one of AUD"),
        (f"1,{pam},SUCCESS,EUR,much,", "amount: payment .*: expected an amount in EUR, found 'much'"),
        (f"1,{pam},SUCCESS,EUR,6.4012,", "amount: payment .*: expected an amount in EUR"),
    ):
        with pytest.raises(InputError, match=expected):
            month.book(f"{REPORT}{row}\r\n".encode(), "report.csv")
    assert month.book(f"{REPORT}1,{pam},FAILED,EUR,6.40,DUPLICATE_ITEM\r\n".encode(), "r.csv")["stands"] == 1
    assert month.status["pam"] == "sent"


ACTIVITY = "Date,Type,Description,Status,Currency,Gross,Custom number\r\n"


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (["Mass Payment,Refundable royalties,Completed,EUR,-6.40,PAM"], "paid"),
        (["Mass Payment,Returns of licences,Completed,EUR,-6.40,PAM"], "paid"),
        (["Mass Payment,Licence fees 2026-10,Completed,EUR,-6.40,PAM"], "paid"),
        (["Mass Payment,x,Completed,EUR,-6.40,PAM", "Cancelled payout,x,Completed,EUR,6.40,PAM"], "returned"),
        (["Cancelled payout,x,Completed,EUR,6.40,PAM"], "returned"),
        (["Payout Hold,x,Completed,EUR,-6.40,PAM"], "a row of the type 'Payout Hold'"),
        (["Reversal of General Account Hold,x,Completed,EUR,6.40,PAM"], "a row of the type 'Reversal of General"),
        (["Cancellation of Hold for Dispute Resolution,x,Completed,EUR,6.40,PAM"], "a row of the type 'Cancellation"),
        (["Payout Fee Refund,x,Completed,EUR,6.40,PAM"], "a row of the type 'Payout Fee Refund'"),
        (["General Currency Conversion,x,Completed,EUR,-6.40,PAM"], "a row of the type 'General Currency"),
        (["Bonus,x,Completed,EUR,-6.40,PAM"], "a row of the type 'Bonus'"),
        (["MassPay Payment,x,Completed,EUR,-6.40,PAM"], "paid"),
        (["Payment Refund,x,Completed,EUR,6.40,PAM"], "returned"),
        (["Mass Payment,x,Reversed,EUR,-6.40,PAM", "Payment Reversal,x,Completed,EUR,6.40,PAM"], "returned"),
        (["Licence fees 2026-10,x,Completed,EUR,-6.40,PAM"], "a row of the type 'Licence fees 2026-10'"),
        (["Mass Payment,x,Completed,EUR,-9.00,other", "Adjustment,x,Completed,EUR,6.40,PAM"], "money that came in"),
        (["Mass Payment,x,Completed,EUR,(9.00),other", "Adjustment,x,Completed,EUR,6.40,PAM"], "money that came in"),
        (["Mass Payment,x,Completed,EUR,-6.40,PAM"] * 2, "a second one"),
    ],
)
def test_rows_of_paypals_activity_are_booked_or_stop_by_name(month, rows, found):
    strangers = ["Payout Hold,x,Completed,EUR,-1.00,", "Payment Fee,x,Completed,EUR,-0.25,", "Sale,x,Completed,EUR,50.00,shop"]
    strangers += ["Express Checkout Payment,x,Partially Refunded,EUR,9.00,shop", "Payment,x,Completed,ARS,much,shop"]
    table = ACTIVITY + "".join(f"2026-11-04,{row}\r\n" for row in [*rows, *strangers])
    data = table.replace("PAM", month.payments["pam"][:30]).encode()
    if found in ("paid", "returned"):
        result = month.book(data, "activity.csv")
        assert (month.status["pam"], result["problems"], result["others"]) == (found, [], 5)
    else:
        try:
            (problem,) = month.book(data, "activity.csv")["problems"]
        except InputError as error:
            problem = {"problem": str(error)}
        assert found in problem["problem"]
        assert f"payment {month.payments['pam']}" in problem["problem"]
        assert "answer-by-hand --entry" in problem["problem"]
    assert month.owed == ({"pam": 640} if found == "returned" else {})


def test_a_payout_that_was_uploaded_twice_stops_by_name_in_whichever_report(month):
    row = f"Mass Payment,x,Completed,EUR,-6.40,{month.payments['pam'][:30]}\r\n"
    month.book(f"{REPORT}1,{month.payments['pam'][:30]},SUCCESS,EUR,6.40,\r\n".encode(), "batch.csv")
    for name in ("november.csv", "again.csv"):
        assert (
            month.book(f"{ACTIVITY}2026-11-04,{row}2026-11-04,Sale,x,Completed,EUR,1.00,\r\n".encode(), name)["problems"] == []
        )
    with pytest.raises(InputError, match="expected one debit of a payment, found a second one .2026-12-04"):
        month.book(f"{ACTIVITY}2026-12-04,{row}".encode(), "december.csv")
    assert (month.status["pam"], month.owed) == ("paid", {})


def test_the_row_of_names_decides_what_separates_the_columns_of_paypals_reports(month):
    row = ["2026-11-04", "Mass Payment", "one, two, three; four, five, six, seven, eight", "Completed", "EUR", "-6.40"]
    names = ACTIVITY.strip().split(",")
    for separator in "\t;":
        text = "\r\n".join([separator.join(names), separator.join(f'"{cell}"' for cell in [*row, month.payments["pam"][:30]])])
        assert read_any(text.encode(), "r.csv").parts[0].outcomes[0].amount == 640
    assert month.book(text.encode(), "r.csv")["paid"] == 1


@pytest.mark.parametrize(
    ("currency", "text", "units"),
    [
        ("EUR", "1,234.50", 123450), ("EUR", "1.234,50", 123450), ("EUR", "1,234", 123400), ("EUR", "1.234.567,8", 123456780),
        ("JPY", "1,234", 1234), ("JPY", "1234", 1234), ("HUF", "77", 7700), ("USD", "$0.05", 5), ("EUR", "0", 0),
        ("HUF", "640.00", 64000), ("HUF", "1.234,00", 123400), ("JPY", "-1,234.00", 1234), ("TWD", "10.0", 1000),
    ],
)  # fmt: skip
def test_amounts_of_paypal_are_read_as_people_spell_them(currency, text, units):
    answer = read_any(f'{REPORT}1,x,SUCCESS,{currency},"{text}",\r\n'.encode(), "r.csv")
    assert answer.parts[0].outcomes[0].amount == units


def returns(*entries, control=None):
    """A NACHA file of returns: `(id, cents, addenda type, code)` each."""
    lines = [
        f"101 0910000191234567890{'2611041200'}A094101{'FIRST BANK':<23}{'PAYER':<23}{'':8}",
        f"5200{'PAYER':<16}{'':20}1234567890PPD{'ROYALTIES':<10}{'':6}261104{'':3}109100001{1:07d}",
    ]
    for number, (name, cents, kind, code) in enumerate(entries, 1):
        lines.append(f"621091000019{'12345':<17}{cents:010d}{name:<15}{'NAT':<22}{'':2}109100001{number:07d}")
        lines.append(f"7{kind}{code}{number:015d}{'':6}09100001{'':44}09100001{number:07d}")
    count = 2 * len(entries) if control is None else control
    lines.append(f"8200{count:06d}{0:010d}{0:012d}{0:012d}1234567890{'':25}09100001{1:07d}")
    lines.append(f"9{1:06d}{1:06d}{count:08d}{0:010d}{0:012d}{0:012d}{'':39}")
    lines += ["9" * 94] * (-len(lines) % 10)
    assert {len(line) for line in lines} == {94}
    return "\n".join(lines).encode()


@pytest.mark.parametrize(("code", "words"), [("R03", "R03 no account"), ("R99", "R99")])
def test_returns_of_the_clearing_house_are_read(month, code, words):
    nat = month.payments["nat"][:15]
    result = month.book(returns((nat, 880, "99", code), ("SOMEBODY ELSE", 5, "99", "R01")), "returns.ach")
    assert (result["kind"], result["returned"], result["others"]) == ("nacha returns", 1, 1)
    (payment,) = (p for p in settling.payments(month.where.ledger, PERIOD) if p.line.owner_id == "nat")
    assert (payment.status, month.owed) == ("returned", {"nat": 880})
    assert payment.reason.startswith(words)


@pytest.mark.parametrize("written", [lambda d: d.replace(b"\n", b""), lambda d: d.replace(b"\n", b"\r\n") + b"\r\n\x1a"])
def test_returns_without_separators_or_with_the_end_of_old_systems_are_read(month, written):
    data = written(returns((month.payments["nat"][:15], 880, "99", "R03"), ("SOMEBODY ELSE", 5, "99", "R01")))
    result = month.book(data, "returns.ach")
    assert (result["returned"], result["others"], month.owed) == (1, 1, {"nat": 880})


def test_a_change_of_bank_details_is_no_return_and_a_duplicate_stops(month):
    nat = month.payments["nat"][:15].upper()
    assert month.book(returns((nat, 880, "98", "C01")), "noc.ach")["pending"] == 1
    for data, expected in (
        (returns((nat, 881, "99", "R03")), "expected 880 minor units of USD, as sent, found 881 of USD"),
        (returns((nat, 880, "99", "R24")), "that a second copy came back .R24 duplicate entry"),
        (returns((nat, 880, "05", "R03")), "expected an addenda record of type 99 or 98, found type 05"),
        (returns((nat, 880, "99", "R03"), control=9), "expected 9 entries and addenda, as its control record says, found 2"),
    ):
        with pytest.raises(InputError, match=expected):
            month.book(data, "returns.ach")
    assert month.status["nat"] == "sent"


class Sent:
    """Ids of a month that nobody has paid, for what is only read."""

    message = "0a1b2c3d-5-iso20022"
    payments: ClassVar = {owner: f"{number:02d}" * 16 for number, owner in enumerate(OWED)}


WHOLE = [
    statement(debit(Sent, "ann"), ODD["an empty element"], entry(ALL, batch=batch_of(Sent, count=3), charges=charged(5))),
    report(Sent, told(Sent.payments["ann"]), told(), group_status="RJCT", group_code="AC01"),
    f"{REPORT}1,{Sent.payments['pam'][:30]},SUCCESS,EUR,6.40,x\r\n".encode(),
    returns((Sent.payments["nat"][:15], 880, "99", "R03")),
    zipped(("a.xml", statement(debit(Sent, "bob")))),
    gzip.compress(statement(debit(Sent, "cid"))),
]


@settings(max_examples=150)
@given(data=st.data(), which=st.integers(0, len(WHOLE) - 1))
def test_a_file_that_is_broken_anywhere_is_read_or_refused_and_nothing_else(data, which):
    whole = WHOLE[which]
    for _ in range(data.draw(st.integers(1, 3))):
        first = data.draw(st.integers(0, len(whole)))
        last = data.draw(st.integers(first, min(len(whole), first + 40)))
        put = data.draw(st.sampled_from([b"", b"<", b"&x;", b"\xff\xfe", b"\0", b"9" * 30, b"\r\n", b"-1.5", b'"', whole[:60]]))
        whole = whole[:first] + put + whole[last:]
    try:
        for name, content in opened(whole, "x"):
            if isinstance(content, InputError):
                raise content
            answer = read_any(content, name)
            assert answer.parts is not None
    except InputError as error:
        refused = str(error)
        if not refused.startswith("x"):
            raise AssertionError(refused) from error


NUMBERS = itertools.count()


def all_kinds(month):
    """A month with every kind of answer that does not contradict another."""
    ann, bob, cid = (month.payments[owner] for owner in ("ann", "bob", "cid"))
    pam, nat = month.payments["pam"][:30], month.payments["nat"][:15]
    return [
        report(month, told(ann, "ACSP", ""), told(bob, "ACSC", "")),
        report(month, told(cid, code="AC01")),
        report(month, status="RJCT", code="AM05"),
        report(month, group_status="RJCT", group_code="DUPL"),
        statement(entry(300, moved(300, "rent")), ODD["an empty element"], number=1),
        statement(entry(700, moved(700, ann), status="PDNG"), number=7),
        statement(entry(ALL - 99 + 25, batch=batch_of(month), charges=charged(25)), number=2),
        statement(entry(1200, moved(1200, bob, mark="CRDT", details=charged(50), more=BACK), mark="CRDT"), number=3),
        statement(
            entry(1200, moved(1200, bob.upper(), mark="CRDT", details=charged(50)), mark="CRDT", code=BANKS_OWN), number=4
        ),
        f"{REPORT}1,{pam},SUCCESS,EUR,6.40,\r\n".encode(),
        f"{REPORT}1,{pam},UNCLAIMED,EUR,6.40,\r\n".encode(),
        f"{REPORT}1,{pam},RETURNED,EUR,6.40,\r\n".encode(),
        returns((nat, 880, "99", "R02")),
        zipped(("b.xml", statement(entry(300, moved(300, "rent")), number=6)), ("b.pdf", b"%PDF-1.4")),
    ]


def with_contradictions(month):
    """A month with every kind of answer, in which a report tells a debit, a statement shows it, and a report rejects it.

    With it: fees beside several debits, a batch in another currency with a fee, PayPal's and NACHA's answers, second copies,
    pending and odd entries, an archive.
    """
    bob, cid, pam, nat, eve = (month.payments[owner] for owner in ("bob", "cid", "pam", "nat", "eve"))
    first = min(("bob", "cid"), key=month.payments.get)
    return [
        acsc(month, "ann"),
        statement(debited(month, "2026-11-04", "A1"), number=1),
        rejected(month, "ann"),
        acsc(month, first),
        statement(entry(1250 + 99 + 50, moved(1250, bob), moved(99, cid), charges=charged(50)), number=2),
        statement(
            entry(
                1900 - 551 - 30,
                moved(1250, bob, mark="CRDT", more=BACK),
                moved(99, cid, mark="CRDT", more=BACK),
                mark="CRDT",
                charges=charged(30),
            ),
            number=3,
        ),
        f"{ACTIVITY}2026-11-04,Mass Payment,Refundable,Completed,EUR,-6.40,{pam[:30]}\r\n".encode(),
        report(month, said(month, "cid", WORDS["in words"])),
        report(month, told(eve, "ACSC", ""), group=f"{month.message}-GBP"),
        statement(
            entry(1250 + 20, batch=f"<Btch><PmtInfId>{month.message}-GBP</PmtInfId><NbOfTxs>2</NbOfTxs></Btch>",
                  charges=charged(20).replace("EUR", "GBP"), currency="GBP"),
            number=4,
        ),
        f"{REPORT}1,{pam[:30]},UNCLAIMED,EUR,6.40,\r\n".encode(),
        f"{ACTIVITY}2026-12-04,Payment Reversal,x,Completed,EUR,6.40,{pam[:30]}\r\n".encode(),
        returns((nat[:15], 880, "99", "R02")),
        returns((nat[:15], 880, "98", "C01")),
        report(month, status="RJCT", code="AM05"),
        zipped(("odd.xml", statement(entry(300, moved(300, "rent")), ODD["an empty element"], number=5))),
        statement(entry(700, moved(700, month.payments["ann"]), status="PDNG"), number=6),
    ]  # fmt: skip


def read_until_nothing_new(month):
    """Read the folder as the daily run does; returns what stays open."""
    before, left = -1, ""
    while ledger.newest(month.where.ledger) != before:
        before = ledger.newest(month.where.ledger)
        try:
            read_new(month.where)
            left = ""
        except CheckFailed as error:
            left = str(error)
    return left


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(14)), again=st.lists(st.integers(0, 13), max_size=6))
def test_all_kinds_of_answers_in_any_order_and_repeated_end_in_the_same_books(paid_month, order, again):
    month = paid_month(f"order-{next(NUMBERS)}")
    answers = all_kinds(month)
    for number, index in enumerate([*order, *again]):
        month.where.store.write(f"bank/answers/{number:03d}", answers[index])
        if number % 6 == 0:
            read_until_nothing_new(month)
    left = read_until_nothing_new(month)
    assert month.status == {"ann": "paid", "bob": "returned", "cid": "rejected", "pam": "returned", "nat": "returned"}
    assert month.owed == {"bob": 1250, "cid": 99, "pam": 640, "nat": 880}
    assert "entry 2 of statement s1" in left
    assert left.count("provenance answer-by-hand") == 1 + again.count(4), "the odd entry alone stays open"
    assert month.charges == 75
    month.check()


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(17)), again=st.lists(st.integers(0, 16), max_size=4), step=st.integers(1, 17))
def test_answers_that_contradict_each_other_stop_by_name_and_end_in_the_same_books(paid_month, order, again, step):
    month = paid_month(f"contradiction-{next(NUMBERS)}", more=True)
    answers, ann = with_contradictions(month), month.payments["ann"]
    for number, index in enumerate([*order, *again]):
        month.where.store.write(f"bank/answers/{number:03d}", answers[index])
        if number % step == 0:
            read_until_nothing_new(month)
    left = read_until_nothing_new(month)
    assert f"payment {ann}" in left, "whichever came first, the other stops"
    assert month.owed.get("ann", 0) == (700 if month.status["ann"] == "rejected" else 0)
    if month.status["ann"] == "rejected":
        by_hand(month.where, [ann], "paid", evidence="slip", by="Ann", second="Bob")
    while left := read_until_nothing_new(month):
        by_hand(month.where, [], "", entry=key_of(left), evidence=f"{left[:40]}", by="Ann", second="Bob")
    paid, returned = dict.fromkeys(("ann", "eve", "fay"), "paid"), dict.fromkeys(("bob", "cid", "pam", "nat"), "returned")
    assert month.status == paid | returned
    assert month.owed == {"bob": 1250, "cid": 99, "pam": 640, "nat": 880}
    assert month.charges == 80 + 20
    month.check()
