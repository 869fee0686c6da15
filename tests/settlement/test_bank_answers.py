import re

import pytest

from provenance.core.errors import InputError
from provenance.settlement.bank.documents import known
from provenance.settlement.bank.status_reports import PAID, PENDING, REJECTED, RETURNED, Outcome, read_answers

REPORTS, STATEMENTS = known("pain.002"), known("camt.053")
AT = "2026-12-03T18:00:00"


def document(kind, root, inside, head=""):
    names = f'xmlns="urn:iso:std:iso:20022:tech:xsd:{kind}"'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}<Document {names}><{root}>{inside}</{root}></Document>'.encode()


def reasons(code="", *more, tag="Cd"):
    inside = (f"<Rsn><{tag}>{code}</{tag}></Rsn>" if code else "") + "".join(f"<AddtlInf>{text}</AddtlInf>" for text in more)
    return f"<StsRsnInf>{inside}</StsRsnInf>" if inside else ""


def answered(name="p1", status="RJCT", amount="", reason=""):
    xml = f'<OrgnlTxRef><Amt><InstdAmt Ccy="EUR">{amount}</InstdAmt></Amt></OrgnlTxRef>' if amount else ""
    named = f"<OrgnlEndToEndId>{name}</OrgnlEndToEndId>" if name else ""
    return f"<TxInfAndSts>{named}{f'<TxSts>{status}</TxSts>' if status else ''}{reason}{xml}</TxInfAndSts>"


def part(*transactions, name="m1-EUR", status="", reason=""):
    xml = f"<PmtInfSts>{status}</PmtInfSts>" if status else ""
    return f"<OrgnlPmtInfAndSts><OrgnlPmtInfId>{name}</OrgnlPmtInfId>{xml}{reason}{''.join(transactions)}</OrgnlPmtInfAndSts>"


def report(*parts, status="", reason="", kind="pain.002.001.03"):
    xml = f"<GrpSts>{status}</GrpSts>" if status else ""
    whole = f"<OrgnlMsgId>m1</OrgnlMsgId><OrgnlMsgNmId>pain.001</OrgnlMsgNmId>{xml}{reason}"
    head = f"<GrpHdr><MsgId>r1</MsgId><CreDtTm>{AT}</CreDtTm></GrpHdr>"
    inside = f"{head}<OrgnlGrpInfAndSts>{whole}</OrgnlGrpInfAndSts>{''.join(parts)}"
    return read_answers(document(kind, "CstmrPmtStsRpt", inside), "status.xml")


WHOLE_REPORT = (
    f"<GrpHdr><MsgId>r1</MsgId><CreDtTm>{AT}</CreDtTm></GrpHdr><OrgnlGrpInfAndSts><OrgnlMsgId>m1</OrgnlMsgId>"
    f"<OrgnlMsgNmId>pain.001</OrgnlMsgNmId></OrgnlGrpInfAndSts>{part(answered('p1', 'RJCT', '12.50'))}"
)


def amount(value, currency="EUR"):
    return f'<Amt Ccy="{currency}">{value}</Amt>'


def booked(name="p1", value="", *, mark="", details="", code="", returned="", more="", currency="EUR"):
    refs = f"<Refs><EndToEndId>{name}</EndToEndId></Refs>" if name else ""
    xml = (amount(value, currency) if value else "") + (f"<CdtDbtInd>{mark}</CdtDbtInd>" if mark else "")
    return f"<TxDtls>{refs}{xml}{details}{code}{returned}{more}</TxDtls>"


def coded(family="ICDT", part_of="ESCT"):
    return f"<BkTxCd><Domn><Cd>PMNT</Cd><Fmly><Cd>{family}</Cd><SubFmlyCd>{part_of}</SubFmlyCd></Fmly></Domn></BkTxCd>"


RETURN = "<RtrInf><Rsn><Cd>AC04</Cd></Rsn><AddtlInf>account closed</AddtlInf></RtrInf>"


def entry(*transactions, value="12.50", mark="DBIT", status="BOOK", reversal="", code=None, batch="", more="", currency="EUR"):
    """`status` is written as the version has it by `statement`."""
    undone = f"<RvslInd>{reversal}</RvslInd>" if reversal else ""
    details = f"<NtryDtls>{batch}{''.join(transactions)}</NtryDtls>" if transactions or batch else ""
    head = f"{amount(value, currency)}<CdtDbtInd>{mark}</CdtDbtInd>{undone}"
    return f"<Ntry>{head}<Sts>{status}</Sts>{code or coded()}{details}{more}</Ntry>"


def statement(*entries, kind="camt.053.001.08"):
    balance = f"{amount(0)}<CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-12-03</Dt></Dt>"
    account = "<Acct><Id><IBAN>DE89370400440532013000</IBAN></Id></Acct>"
    head = f"<Id>s1</Id><CreDtTm>{AT}</CreDtTm>{account}<Bal><Tp><CdOrPrtry><Cd>CLBD</Cd></CdOrPrtry></Tp>{balance}</Bal>"
    inside = "".join(entries)
    if kind >= "camt.053.001.07":
        for status in ("BOOK", "PDNG", "INFO"):
            inside = inside.replace(f"<Sts>{status}</Sts>", f"<Sts><Cd>{status}</Cd></Sts>")
    whole = f"<GrpHdr><MsgId>c1</MsgId><CreDtTm>{AT}</CreDtTm></GrpHdr><Stmt>{head}{inside}</Stmt>"
    return read_answers(document(kind, "BkToCstmrStmt", whole), "statement.xml")


def problem(answer):
    (error,) = answer.problems
    return str(error)


def test_versions_are_those_that_there_are_schemas_for():
    assert {f"pain.002.001.{version:02d}" for version in range(3, 16)} <= set(REPORTS)
    assert {f"camt.053.001.{version:02d}" for version in range(2, 15)} <= set(STATEMENTS)
    assert "camt.053.001.01" not in STATEMENTS


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_says_what_became_of_each_payment(kind):
    reason = reasons("AC04", "account  closed", "since May")
    answer = report(part(answered("p1", "RJCT", "12.5", reason), answered("p2", "ACSC"), answered("NOTPROVIDED")), kind=kind)
    rejected = Outcome("p1", REJECTED, 1250, "EUR", "AC04 account closed since May")
    assert (answer.kind, answer.message_id, answer.answers_to) == (kind, "r1", "m1")
    assert (answer.outcomes, answer.others, answer.problems) == ((rejected, Outcome("p2", PAID)), 1, ())


@pytest.mark.parametrize("kind", REPORTS)
def test_every_version_refuses_what_its_schema_does(kind):
    good = document(kind, "CstmrPmtStsRpt", WHOLE_REPORT).decode()
    assert len(read_answers(good.encode(), "x").outcomes) == 1
    for old, new, found in (
        ("<MsgId>r1</MsgId>", "", "Missing child element|not expected"),
        (f"<CreDtTm>{AT}</CreDtTm>", "<CreDtTm>today</CreDtTm>", "not a valid value"),
        ("<OrgnlMsgNmId>pain.001</OrgnlMsgNmId>", f"<OrgnlMsgNmId>{'x' * 36}</OrgnlMsgNmId>", "maxLength|length"),
        ("<GrpHdr>", "<Extra/><GrpHdr>", "not expected"),
        ("<OrgnlPmtInfId>m1-EUR</OrgnlPmtInfId>", "", "not expected|Missing child element"),
    ):
        assert old in good
        with pytest.raises(InputError, match=found):
            read_answers(good.replace(old, new).encode(), "x")
    for old, new in (('Ccy="EUR"', 'Ccy="euro"'), (">12.50<", ">12,50<"), ("<TxSts>RJCT", "<TxSts>rejected")):
        assert old in good
        broken = read_answers(good.replace(old, new).encode(), "x")
        assert (broken.outcomes, len(broken.problems)) == ((), 1), "the transaction alone"


STATUSES = {"RJCT": REJECTED, "ACSC": PAID} | dict.fromkeys(("ACTC", "ACCP", "ACSP", "ACWC", "PDNG"), PENDING)
NEWER = {"CANC": REJECTED, "ACCC": PAID, "RCVD": PENDING, "PATC": PENDING}


@pytest.mark.parametrize(("status", "outcome"), [*STATUSES.items(), *NEWER.items()])
def test_every_status_of_a_payment_is_understood(status, outcome):
    kind = "pain.002.001.03" if status in STATUSES else "pain.002.001.14"
    (answer,) = report(part(answered("p1", status)), kind=kind).outcomes
    assert answer.status == outcome


def test_a_payment_without_a_status_has_that_of_what_it_is_part_of():
    assert report(part(answered("p1", "")), status="ACSC").outcomes == (Outcome("p1", PAID),)
    assert report(part(answered("p1", ""))).outcomes == (Outcome("p1", PENDING),)
    answer = report(part(answered("p1", ""), status="RJCT", reason=reasons("AG01")), status="PART")
    assert answer.outcomes == (Outcome("p1", REJECTED, reason="AG01"),)
    assert report(part(answered("p1", "")), status="RJCT", reason=reasons("FF01")).outcomes[0].reason == "FF01"


def test_a_whole_message_can_be_rejected():
    answer = report(status="RJCT", reason=reasons("DUPL", tag="Prtry") + reasons("", "sent before"))
    assert (answer.outcomes, answer.all_rejected, answer.reason, answer.duplicate) == ((), True, "DUPL; sent before", True)
    assert not report(status="ACCP").all_rejected


def test_a_group_can_be_rejected():
    answer = report(part(status="RJCT", reason=reasons("AC01")), part(answered("p2", "ACSC"), name="m1-JPY"), status="PART")
    assert (answer.rejected_groups, answer.reason, answer.all_rejected) == (("m1-EUR",), "AC01", False)
    assert answer.outcomes == (Outcome("p2", PAID),)


@pytest.mark.parametrize("where", [{"status": "RJCT"}, {}])
def test_nothing_is_paid_of_what_is_rejected(where):
    inner = {} if where else {"status": "RJCT"}
    answer = report(part(answered("p1", "ACSC"), answered("p2", "RJCT"), **inner), **where)
    assert "line 2: payment p1: expected rejected, as all that it is part of, found paid" in problem(answer)
    assert [outcome.payment_id for outcome in answer.outcomes] == ["p2"], "the others are read"


def test_reasons_are_cut():
    (answer,) = report(part(answered(reason=reasons("AC04", "x" * 105, "y" * 105)))).outcomes
    assert len(answer.reason) == 140


@pytest.mark.parametrize("kind", STATEMENTS)
def test_a_statement_says_what_was_paid_and_what_came_back(kind):
    # The second version tells amounts of transactions in details alone.
    plain = {"details": f"<AmtDtls><TxAmt>{amount('12.50')}</TxAmt></AmtDtls>"} if kind.endswith(".02") else {"value": "12.50"}
    debit, credit = ({} if kind.endswith(".02") else {"mark": mark} for mark in ("DBIT", "CRDT"))
    sent, back = entry(booked("p1", **plain, **debit)), booked("p2", **plain, **credit, returned=RETURN)
    not_yet = [entry(booked(name, **plain, **debit), status=said) for name, said in (("p3", "PDNG"), ("p4", "INFO"))]
    answer = statement(sent, entry(back, mark="CRDT"), *not_yet, kind=kind)
    paid, returned = Outcome("p1", PAID, 1250, "EUR"), Outcome("p2", RETURNED, 1250, "EUR", "AC04 account closed")
    assert (answer.kind, answer.message_id, answer.answers_to) == (kind, "c1", "")
    assert answer.outcomes == (paid, returned, Outcome("p3", PENDING, 1250, "EUR"))
    assert answer.problems == ()


@pytest.mark.parametrize(
    ("change", "inner", "reason"),
    [
        ({"reversal": "true"}, {}, ""),
        ({"reversal": "1", "more": "<AddtlNtryInf>taken back</AddtlNtryInf>"}, {}, "taken back"),
        ({"code": coded(part_of="RRTN")}, {"more": "<AddtlTxInf>no such account</AddtlTxInf>"}, "no such account"),
        ({}, {"code": coded(part_of="RPCR")}, ""),
        ({}, {"returned": RETURN}, "AC04 account closed"),
    ],
)
def test_a_return_is_known_by_any_of_its_marks(change, inner, reason):
    answer = statement(entry(booked("p1", **inner), mark="CRDT", **change))
    assert answer.outcomes == (Outcome("p1", RETURNED, 1250, "EUR", reason),)


def test_what_names_no_payment_is_another_s():
    received = (entry(booked("invoice7"), mark="CRDT"), entry(booked("", returned=RETURN), mark="CRDT"))
    of_a_batch = entry(batch="<Btch><PmtInfId>m1-EUR</PmtInfId></Btch>")
    answer = statement(entry(), entry(booked("")), entry(booked("NOTPROVIDED")), *received, of_a_batch)
    assert (answer.outcomes, answer.others) == ((), 6)
    assert statement(entry(status="PDNG"), entry(booked("p1"), mark="CRDT", status="PDNG")).others == 0


def test_what_was_debited_as_one_is_told_one_by_one():
    three = [booked("p1", "5.00"), booked("NOTPROVIDED", "10.00"), booked("p3", "2.50", mark="CRDT", returned=RETURN)]
    answer = statement(entry(*three))
    assert answer.outcomes == (Outcome("p1", PAID, 500, "EUR"), Outcome("p3", RETURNED, 250, "EUR", "AC04 account closed"))
    assert answer.others == 1
    batch = "<Btch><NbOfTxs>1</NbOfTxs></Btch>"
    assert statement(entry(booked("p1", "12.50"), batch=batch)).outcomes == (Outcome("p1", PAID, 1250, "EUR"),)
    for entries in (entry(booked("p1", "5.00"), booked("p2", "7.49")), entry(booked("p1", "12.49"), batch=batch)):
        expected = "line 2: entry 2 of statement s1: expected transactions that add up to 12.50 EUR"
        assert expected in problem(statement(entry(), entries))
    assert len(statement(entry(booked("p1", "5.00"), booked("p2", "7.49"), status="PDNG")).outcomes) == 2


def test_an_amount_that_is_not_told_is_not_made_up():
    answer = statement(entry(booked("p1"), booked("p2", "5.00")))
    assert answer.outcomes == (Outcome("p1", PAID), Outcome("p2", PAID, 500, "EUR"))


def test_what_was_ordered_in_another_currency_is_told_in_it():
    ordered = f"<AmtDtls><InstdAmt>{amount('2000', 'JPY')}</InstdAmt></AmtDtls>"
    yen = Outcome("p1", PAID, 2000, "JPY")
    assert statement(entry(booked("p1", "12.50", details=ordered))).outcomes == (yen,)
    assert statement(entry(booked("p1", details=ordered), booked("p2", "1.00"))).outcomes[0] == yen
    back = statement(entry(booked("p1", "12.50", details=ordered, returned=RETURN), mark="CRDT")).outcomes
    assert (back[0].amount, back[0].currency) == (1250, "EUR")


def test_amounts_are_exact():
    assert statement(entry(booked("p1", "1.500", currency="KWD"), currency="KWD", value="1.5")).outcomes[0].amount == 1500
    wrong = statement(entry(booked("p1"), currency="JPY", value="1.5"), entry(booked("p2", "12.50")))
    assert "statement.xml line 2: expected an amount in JPY, found '1.5'" in problem(wrong)
    assert wrong.outcomes == (Outcome("p2", PAID, 1250, "EUR"),)
    wrong = problem(statement(entry(booked("p1"), currency="XAU")))
    assert "statement.xml line 2: expected a currency of ISO 4217, found 'XAU'" in wrong


MINE = document("camt.053.001.08", "BkToCstmrStmt", "<GrpHdr/>")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "x.xml line 1: expected XML, found Document is empty"),
        (b"a,b\n", "x.xml line 1: expected XML, found Start tag expected"),
        (MINE.replace(b"</Document>", b""), "x.xml line 2: expected XML, found "),
        (b"<html/>", "x.xml line 1: expected a Document of pain.002.001.03, .*, found ''"),
        (document("camt.053.001.99", "BkToCstmrStmt", ""), "camt.053.001.14, found 'camt.053.001.99'. Did you mean 'camt.053"),
        (document("camt.053.001.01", "BkToCstmrStmtV01", ""), "expected a Document of .*, found 'camt.053.001.01'"),
        (document("pain.001.001.09", "CstmrCdtTrfInitn", ""), "expected a Document of .*, found 'pain.001.001.09'"),
        (document("camt.053.001.08", "Other", ""), "line 2: expected what camt.053.001.08 allows, found Element 'Other': This"),
        (MINE.replace(b"Document", b"Paper"), "allows, found Element 'Paper': No matching global declaration"),
        (MINE, "line 2: expected what camt.053.001.08 allows, found Element 'GrpHdr': Missing child element.*MsgId"),
    ],
)
def test_what_is_no_answer_is_refused(data, expected):
    with pytest.raises(InputError, match=expected):
        read_answers(data, "x.xml")


@pytest.mark.parametrize("value", ["1e5", "Ann O'Neil"])
def test_what_breaks_the_schema_is_not_repeated(value):
    wrong = problem(statement(entry(value=value)))
    assert re.search("Element 'Amt': .not shown. is not a valid value", wrong)
    assert value not in wrong


BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x" * 10}">' for n in range(10))


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE Document>",
        f"<!DOCTYPE Document [{BOMB}]>",
        '<!DOCTYPE Document [<!ENTITY e9 SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE Document SYSTEM "http://127.0.0.1:9/x.dtd">',
    ],
)
@pytest.mark.parametrize("inside", ["", "<GrpHdr>&e9;</GrpHdr>", '<GrpHdr a="&e9;"/>'])
def test_a_doctype_is_refused_and_nothing_in_it_expanded(doctype, inside):
    with pytest.raises(InputError, match="expected (no DOCTYPE|XML)") as raised:
        read_answers(document("camt.053.001.08", "BkToCstmrStmt", inside, doctype), "x.xml")
    assert len(str(raised.value)) < 300
