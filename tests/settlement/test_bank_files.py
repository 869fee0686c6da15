import csv
import io
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from samples import HOSTILE
from schwifty import IBAN

from provenance.core.errors import InputError
from provenance.settlement.bank import iso20022, nacha, paypal
from provenance.settlement.bank.batches import Batch, Instruction, Payer
from provenance.settlement.bank.character_set import latin
from provenance.settlement.bank.days import bank_day, calendar_of, is_bank_day
from provenance.settlement.bank.iso20022 import VERSIONS, credit_transfer, read_back, without_agent
from provenance.settlement.bank.nacha import clearing_file
from provenance.settlement.bank.paypal import payouts
from provenance.settlement.bank.sepa import SCOPE
from provenance.settlement.payees.details import Details

SEPA = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/-?:().,'+ ")
COUNTRIES = ["DE", "FR", "NL", "GB", "BR", "KW"] * 3
IBANS = [str(IBAN.random(country_code=code, random=Random(n))) for n, code in enumerate(COUNTRIES)]
DIGITS = {"EUR": 2, "JPY": 0, "KWD": 3}
PAYER = Payer(
    name="Modell & Söhne GmbH", street="Hauptstraße", building="1", post_code="10115", town="Köln", country="DE",
    iban="DE89370400440532013000", bic="COBADEFFXXX", nacha_origin="091000019", nacha_company="1234567890",
    nacha_bank="First Bank",
)  # fmt: skip
ANN = Details(
    owner_id="ann", name="Ann Møller", street="Rue de l'Église", building="3/a", post_code="75001", town="Orléans",
    country="FR", currency="EUR", method="iso20022", iban=IBANS[1],
)  # fmt: skip
BOB = Details(owner_id="bob", name="Bob", town="Lyon", country="FR", currency="USD", method="paypal", paypal="bob@example.org")
CAT = Details(
    owner_id="cat", name="Çatherine O'Neil-Wellington III", town="Austin", country="US", currency="USD", method="nacha",
    routing="111000025", account="123-45", savings=True,
)  # fmt: skip


def pay(number=1, payee=ANN, amount=1250, **change):
    return Instruction(f"{number:04d}abcdefghijklmnop", amount, payee.currency, payee, **change)


def batch(*instructions, **change):
    at = datetime(2026, 12, 1, 9, 30, tzinfo=UTC)
    whole = Batch("prov-2026-11-1", at, date(2026, 12, 3), PAYER, "Royalties 2026-11", instructions or (pay(),))
    return replace(whole, **change)


def with_payee(payee, **change):
    return Details.model_validate({**payee.model_dump(), **change})


def texts(data, path):
    root = etree.fromstring(data)
    return [node.text for node in root.iterfind("/".join(f"{{*}}{name}" for name in path.split("/")))]


def test_nothing_printed_shows_whom_is_paid():
    shown = f"{batch()!r} {pay()!r} {PAYER!r}"
    assert not [text for text in ("Møller", "Orl", IBANS[1], "Köln", "0532", "0910", "1234567890") if text in shown]


names = st.text(st.sampled_from("abzAZ äßéŁøЖλ-'/&.#"), min_size=1, max_size=70).map(lambda text: f"N{text.strip()}"[:70])
towns = names.map(lambda text: text[:35].strip())
WRONG = [
    (batch(instructions=()), "batch prov-2026-11-1: expected at least one payment, found none"),
    (batch(pay(), pay()), "payment 0001abcdefghijklmnop: expected payment ids that differ, found one twice"),
    (batch(replace(pay(), payment_id="a-b")), "expected an id of 1 to 35 letters and digits, found 'a-b'"),
    (batch(replace(pay(), payment_id="")), "expected an id of 1 to 35 letters and digits, found ''"),
    (batch(replace(pay(), payment_id="a" * 36)), "expected an id of 1 to 35 letters and digits"),
    (batch(replace(pay(), payment_id="a\n")), "expected an id of 1 to 35 letters and digits"),
    (batch(pay(amount=0)), "payment 0001abcdefghijklmnop: expected an amount above zero, found 0"),
    (batch(pay(amount=-5)), "expected an amount above zero, found -5"),
    (batch(replace(pay(), currency="USD")), "payment 0001abcdefghijklmnop: expected EUR, the currency of its payee, found USD"),
    (batch(pay(), pay(2, BOB)), "payment 0002abcdefghijklmnop: expected a payee that is paid by iso20022, found one by paypal"),
    (batch(payer=PAYER.model_copy(update={"iban": ""})), "payer: expected iban, which the method iso20022 needs"),
    (batch(message_id="a" * 32), "expected a message id of 1 to 31"),
    (batch(message_id="/a"), "expected a message id of 1 to 31"),
    (batch(created_at=datetime(2026, 12, 1)), "created_at: expected a time with its zone"),  # noqa: DTZ001
]


@pytest.mark.parametrize(("wrong", "expected"), WRONG)
def test_what_no_schema_finds_is_found(wrong, expected):
    with pytest.raises(InputError, match=expected):
        credit_transfer(wrong)


def test_a_payer_says_what_it_lacks():
    bare = Payer(name="M", town="Bonn", country="DE")
    needs = [bare.needs(method) for method in ("iso20022", "paypal", "nacha")]
    assert needs == [["iban"], [], ["nacha_origin", "nacha_company", "nacha_bank"]]
    with pytest.raises(InputError, match="expected nacha_origin, nacha_company, nacha_bank, which the method nacha needs"):
        clearing_file(batch(pay(payee=CAT), payer=bare))
    with pytest.raises(ValueError, match="a routing transit number"):
        Payer(name="M", town="Bonn", country="DE", nacha_origin="091000018")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_credit_transfer_says_what_the_batch_does(version):
    yen = with_payee(ANN, currency="JPY", iban=IBANS[4], bic="BOTKJPJT")
    data = credit_transfer(batch(pay(3, amount=999), pay(2, yen, 7), pay(1)), version)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="urn:iso:std:iso:20022:tech:xsd:'
    assert data.startswith(f"{head}{version}".encode())
    top = "CstmrCdtTrfInitn"
    assert texts(data, f"{top}/GrpHdr/CreDtTm") == ["2026-12-01T09:30:00Z"]
    assert texts(data, f"{top}/GrpHdr/NbOfTxs") == ["3"]
    assert texts(data, f"{top}/GrpHdr/CtrlSum") == ["29.49"]
    group = f"{top}/PmtInf"
    assert texts(data, f"{group}/PmtInfId") == ["prov-2026-11-1-EUR", "prov-2026-11-1-JPY"]
    assert texts(data, f"{group}/CtrlSum") == ["22.49", "7"]
    assert texts(data, f"{group}/ReqdExctnDt/Dt") == ["2026-12-03"] * 2
    assert texts(data, f"{group}/Dbtr/Nm") == ["Modell + Soehne GmbH"] * 2
    assert texts(data, f"{group}/DbtrAgt/FinInstnId/BICFI") == ["COBADEFFXXX"] * 2
    transfer = f"{group}/CdtTrfTxInf"
    assert texts(data, f"{transfer}/PmtId/EndToEndId") == [pay(n).payment_id for n in (1, 3, 2)]
    assert texts(data, f"{transfer}/Amt/InstdAmt") == ["12.50", "9.99", "7"]
    assert texts(data, f"{transfer}/PmtTpInf/SvcLvl/Cd") == ["SEPA"] * 2
    assert texts(data, f"{transfer}/ChrgBr") == ["SLEV", "SLEV", "SHAR"]
    assert texts(data, f"{transfer}/CdtrAgt/FinInstnId/BICFI") == ["BOTKJPJT"]
    assert texts(data, f"{transfer}/Cdtr/Nm") == ["Ann Moeller"] * 3
    for tag, text in {"StrtNm": "Rue de l'Eglise", "BldgNb": "3/a", "PstCd": "75001", "TwnNm": "Orleans", "Ctry": "FR"}.items():
        assert texts(data, f"{transfer}/Cdtr/PstlAdr/{tag}") == [text] * 3
    assert texts(data, f"{transfer}/RmtInf/Ustrd")[0] == "Royalties 2026-11 0001abcdefgh"


def test_what_is_not_given_is_left_out():
    data = credit_transfer(batch(pay(payee=with_payee(ANN, street="", building="", post_code=""))))
    assert texts(data, "CstmrCdtTrfInitn/PmtInf/CdtTrfTxInf/Cdtr/PstlAdr/StrtNm") == []
    data = credit_transfer(batch(payer=PAYER.model_copy(update={"bic": ""})))
    assert texts(data, "CstmrCdtTrfInitn/PmtInf/DbtrAgt/FinInstnId/Othr/Id") == ["NOTPROVIDED"]


def test_euros_outside_sepa_are_no_sepa_transfers():
    data = credit_transfer(batch(pay(payee=with_payee(ANN, iban=IBANS[4]))))
    assert texts(data, "CstmrCdtTrfInitn/PmtInf/CdtTrfTxInf/PmtTpInf/SvcLvl/Cd") == []
    assert texts(data, "CstmrCdtTrfInitn/PmtInf/CdtTrfTxInf/ChrgBr") == ["SHAR"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"iban": IBANS[4]}, ["ann"]),
        ({"iban": IBANS[4], "bic": "BRASBRRJXXX"}, []),
        ({"currency": "USD"}, ["ann"]),
        ({"iban": IBANS[0], "country": "DE", "currency": "USD"}, []),  # the payer's own country
        ({}, []),
    ],
)
def test_who_is_paid_abroad_without_the_bank_s_bic_is_named(change, named):
    assert without_agent(batch(pay(payee=with_payee(ANN, **change)))) == named


# Samples of the IBAN registry; what is outside of SEPA, and what came to it when.
SCOPES = [
    ("DE", "DE89370400440532013000", date(2026, 12, 3), True),
    ("CH", "CH9300762011623852957", date(2026, 12, 3), True),
    ("GI", "GI75NWBK000000007099453", date(2026, 12, 3), True),
    ("VA", "VA59001123000012345678", date(2026, 12, 3), True),
    ("MD", "MD24AG000225100013104168", date(2026, 12, 3), True),
    ("MD", "MD24AG000225100013104168", date(2025, 9, 30), False),
    ("AL", "AL47212110090000000235698741", date(2026, 12, 3), True),
    ("ME", "ME25505000012345678951", date(2026, 12, 3), True),
    ("MK", "MK07250120000058984", date(2026, 12, 3), True),
    ("RS", "RS35260005601001611379", date(2026, 12, 3), True),
    ("RS", "RS35260005601001611379", date(2026, 5, 4), False),
    ("RS", "RS35260005601001611379", date(2026, 5, 5), True),
    ("AL", "AL47212110090000000235698741", date(2025, 10, 3), False),
    ("AL", "AL47212110090000000235698741", date(2025, 10, 6), True),
    ("XK", "XK051212012345678906", date(2026, 12, 3), False),
    ("BA", "BA391290079401028494", date(2026, 12, 3), False),
    ("UA", "UA213223130000026007233566001", date(2026, 12, 3), False),
    ("TR", "TR330006100519786457841326", date(2026, 12, 3), False),
    ("BR", "BR1800360305000010009795493C1", date(2026, 12, 3), False),
    ("NC", "FR1420041010050500013M02606", date(2026, 12, 3), False),
    ("RE", "FR1420041010050500013M02606", date(2026, 12, 3), True),
]


@pytest.mark.parametrize(("country", "iban", "on", "inside"), SCOPES)
def test_sepa_is_what_the_dated_table_says_and_charges_follow(country, iban, on, inside):
    payee = with_payee(ANN, country=country, iban=iban)
    data = credit_transfer(batch(pay(payee=payee), on=on))
    transfer = "CstmrCdtTrfInitn/PmtInf/CdtTrfTxInf"
    assert texts(data, f"{transfer}/PmtTpInf/SvcLvl/Cd") == (["SEPA"] if inside else [])
    assert texts(data, f"{transfer}/ChrgBr") == ["SLEV" if inside else "SHAR"]
    assert texts(data, f"{transfer}/Cdtr/PstlAdr/Ctry") == [country]
    dollars = credit_transfer(batch(pay(payee=with_payee(payee, currency="USD")), on=on))
    assert texts(dollars, f"{transfer}/ChrgBr") == ["SHAR"], "SEPA is for euros"
    abroad = PAYER.model_copy(update={"iban": "BR1800360305000010009795493C1"})
    assert texts(credit_transfer(batch(pay(payee=payee), on=on, payer=abroad)), f"{transfer}/ChrgBr") == ["SHAR"]


def test_the_table_of_sepa_has_the_countries_of_the_list():
    assert len(SCOPE) == 41 + 1, "the list's 41 countries, and Gibraltar, whose IBAN is its own"
    assert all(IBAN.random(country_code=country).country_code == country for country in SCOPE)
    assert min(SCOPE.values()) == date(2008, 1, 28)


def test_kosovo_is_a_country_and_others_without_a_code_are_none():
    with pytest.raises(ValueError, match="two capital letters, a country of ISO 3166-1"):
        with_payee(ANN, country="XX")
    assert with_payee(ANN, country="XK", iban="XK051212012345678906").country == "XK"


def faults(party):
    """The faults of a party's name and address, by the rules since November 2026.

    EPC: the implementation guidelines of the SEPA credit transfer, customer to bank (EPC132-08), and the guidance on addresses
    (EPC153-22). CBPR+: the usage guidelines of pain.001. Both refuse unstructured addresses: town and country are needed, and
    at most two free lines of 70 letters may stand beside them, which repeat nothing.
    """
    name, address = party.findtext("{*}Nm"), party.find("{*}PstlAdr")
    limits = {"StrtNm": 70, "BldgNb": 16, "PstCd": 16, "TwnNm": 35, "Ctry": 2, "AdrLine": 70}
    if not name or len(name) > 70:
        yield "name: 1 to 70 letters (EPC), 140 (CBPR+)"
    if address is None:
        yield "no address"
        return
    fields = [(etree.QName(node).localname, node.text or "") for node in address]
    values = dict(fields)
    if not values.get("TwnNm") or not re.fullmatch("[A-Z]{2}", values.get("Ctry", "")):
        yield "town and country are needed"
    lines = [text for tag, text in fields if tag == "AdrLine"]
    if len(lines) > 2 or any(text in line for line in lines for tag, text in fields if tag != "AdrLine"):
        yield "more than two lines, or a line that repeats"
    for tag, text in fields:
        if tag not in limits or not 0 < len(text) <= limits[tag]:
            yield f"{tag}: not known, empty or too long"
        if not set(text) <= SEPA or text != text.strip(" /") or "//" in text or not re.search("[A-Za-z0-9]", text):
            yield f"{tag}: letters that both take, and some that say something"


@settings(max_examples=60)
@given(
    st.fixed_dictionaries({
        "name": names, "town": towns, "street": st.just("") | names, "building": st.sampled_from(["", "1", "12/b", "3 a"]),
        "post_code": st.sampled_from(["", "75001", "SW1A 1AA"]), "country": st.sampled_from(["FR", "GB", "BR", "XK", "MD"]),
    }),
    st.sampled_from(VERSIONS),
)  # fmt: skip
def test_addresses_keep_the_rules_of_the_epc_and_of_cbpr(place, version):
    data = credit_transfer(batch(pay(payee=with_payee(ANN, **place))), version)
    parties = [node for tag in ("Dbtr", "Cdtr") for node in etree.fromstring(data).iter(f"{{*}}{tag}")]
    assert len(parties) == 2
    assert [fault for party in parties for fault in faults(party)] == []


def test_the_rules_find_addresses_that_banks_refuse_since_november_2026():
    data = credit_transfer(batch())
    for old, new in (
        (b"<TwnNm>Orleans</TwnNm>", b""),
        (b"<TwnNm>Orleans</TwnNm>", b"<AdrLine>75001 Orleans</AdrLine>"),
        (b"<Ctry>FR</Ctry>", b""),
        (b"<Ctry>FR</Ctry>", b"<Ctry>FR</Ctry><AdrLine>Orleans</AdrLine>"),
        (b"<StrtNm>Rue", b"<StrtNm>/"),
    ):
        assert old in data
        wrong = etree.fromstring(data.replace(old, new))
        assert [fault for party in wrong.iter("{*}Cdtr") for fault in faults(party)] != []


DAYS = [
    ("EUR", date(2026, 12, 3), date(2026, 12, 3)),
    ("EUR", date(2026, 12, 5), date(2026, 12, 7)),
    ("EUR", date(2026, 12, 25), date(2026, 12, 28)),
    ("EUR", date(2027, 1, 1), date(2027, 1, 4)),
    ("EUR", date(2027, 3, 26), date(2027, 3, 30)),  # Good Friday to Easter Monday
    ("EUR", date(2026, 10, 3), date(2026, 10, 5)),
    ("EUR", date(2026, 11, 11), date(2026, 11, 11)),  # a holiday of dollars alone
    ("USD", date(2026, 11, 11), date(2026, 11, 12)),
    ("USD", date(2026, 11, 26), date(2026, 11, 27)),
    ("USD", date(2027, 7, 4), date(2027, 7, 6)),  # on a Sunday: the Monday is off
    ("USD", date(2027, 6, 18), date(2027, 6, 18)),  # before a holiday on a Saturday: the Federal Reserve works
    ("JPY", date(2027, 1, 1), date(2027, 1, 4)),
    ("GBP", date(2026, 12, 25), date(2026, 12, 29)),
    ("XOF", date(2026, 12, 25), date(2026, 12, 25)),  # of no one country: weekends alone
    ("XOF", date(2026, 12, 26), date(2026, 12, 28)),
]


@pytest.mark.parametrize(("currency", "day", "paid"), DAYS)
def test_payments_are_dated_by_bank_days(currency, day, paid):
    data = credit_transfer(batch(pay(payee=with_payee(ANN, currency=currency)), on=day))
    assert texts(data, "CstmrCdtTrfInitn/PmtInf/ReqdExctnDt/Dt") == [paid.isoformat()]
    if currency == "USD":
        assert clearing_file(batch(pay(payee=CAT), on=day)).decode().split("\n")[1][69:75] == f"{paid:%y%m%d}"


@given(st.dates(date(2026, 1, 1), date(2035, 12, 31)), st.sampled_from(sorted({currency for currency, *_ in DAYS})))
def test_a_bank_day_is_the_first_that_is_none_before(day, currency):
    calendar = calendar_of(currency)
    paid = bank_day(day, calendar)
    assert is_bank_day(paid, calendar)
    assert paid.weekday() < 5
    assert bank_day(paid, calendar) == paid
    assert not any(is_bank_day(day + timedelta(days=n), calendar) for n in range((paid - day).days))


@pytest.mark.parametrize("version", VERSIONS)
def test_debits_are_asked_to_be_booked_one_by_one(version):
    assert texts(credit_transfer(batch(), version), "CstmrCdtTrfInitn/PmtInf/BtchBookg") == ["false"]


def test_a_time_is_written_in_utc():
    tokyo = datetime(2026, 12, 1, 9, 30, tzinfo=UTC).astimezone(timezone(timedelta(hours=9)))
    assert credit_transfer(batch(created_at=tokyo)) == credit_transfer(batch())


def test_what_a_bank_would_not_take_is_an_error():
    with pytest.raises(InputError, match="version: expected one of pain.001.001.09, pain.001.001.11, found 'pain.001.001.03'"):
        credit_transfer(batch(), "pain.001.001.03")
    with pytest.raises(InputError, match=r"payment 0001\w+: expected at most EUR 999,999,999.99 in SEPA"):
        credit_transfer(batch(pay(amount=10**11)))
    yen = with_payee(ANN, currency="JPY")
    assert read_back(credit_transfer(batch(pay(payee=yen, amount=10**18 - 1))))[0][1] == 10**18 - 1
    with pytest.raises(InputError, match="expected a sum of at most 18 digits"):
        credit_transfer(batch(pay(payee=yen, amount=10**18)))


@pytest.mark.parametrize("field", ["name", "street", "building", "post_code", "town"])
def test_what_cannot_be_written_is_named_but_not_shown(field):
    no_latin = f"payment 0001abcdefghijklmnop: {field}: expected letters that have a Latin"
    with pytest.raises(InputError, match=no_latin) as raised:
        credit_transfer(batch(pay(payee=with_payee(ANN, **{field: "王小明"}))))
    assert "王" not in str(raised.value)
    with pytest.raises(InputError, match="payer: name"):
        credit_transfer(batch(payer=PAYER.model_copy(update={"name": "王"})))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Jürgen Groß", "Juergen Gross"),
        ("JU\u0308RGEN STRAẞE", "JUeRGEN STRASSE"),
        ("Łukasz Żółć", "Lukasz Zolc"),
        ("Ægir Þórsson Ðæl", "Aegir Thorsson Dael"),
        ("Đặng Thị Ånd", "Dang Thi And"),
        ("Αθηνά Ψύλλου", "Athina Psyllou"),
        ("Юлия Щёкина", "Yuliya Shtekina"),
        ("Œuvre “d\u2019or” \u2013 №5", "Oeuvre 'd'or' - No5"),
        ("A&B; C_D = #4 ½", "A+B, C-D . .4 1/2"),
        ("//a//b / / c//", "a/b / / c"),
        ("  a \t b\u00a0c ", "a b c"),
        ("ﬁn \uff21\uff22", "fin AB"),
        ("/ /a", "a"),
    ],
)
def test_letters_are_written_as_banks_take_them(text, written):
    assert latin(text, "x", 70) == written


@pytest.mark.parametrize("text", ["王", "ann ♥", "محمد", "a\x00b", "a\u200bb", "/", " ", "//"])
def test_what_has_no_latin_form_is_refused(text):
    with pytest.raises(InputError, match="x: expected"):
        latin(text, "x", 70)


@given(st.text() | st.sampled_from(HOSTILE), st.integers(1, 70))
def test_whatever_is_written_is_in_the_latin_set(text, limit):
    try:
        written = latin(text, "x", limit)
    except InputError as error:
        written, refused = "", str(error)
    if not written:
        assert len(text) < 3 or text not in refused, "what cannot be written is not shown"
        return
    assert set(written) <= SEPA
    assert len(written) <= limit
    assert written == written.strip(" /")
    assert "//" not in written
    assert latin(written, "x", limit) == written


places = st.fixed_dictionaries({"name": names, "town": towns, "street": st.just("") | names})
drawn = st.tuples(places, st.sampled_from(IBANS), st.sampled_from(sorted(DIGITS)), st.integers(1, 10**11 - 1))


@settings(max_examples=50)
@given(st.lists(drawn, min_size=1, max_size=8), st.randoms(), st.sampled_from(VERSIONS))
def test_any_batch_is_ordered_as_it_is_whatever_its_order(payments, random, version):
    payments = [
        pay(number, with_payee(ANN, iban=iban, currency=currency, **place), amount)
        for number, (place, iban, currency, amount) in enumerate(payments)
    ]
    data = credit_transfer(batch(*payments), version)
    shuffled = random.sample(payments, len(payments))
    assert credit_transfer(batch(*shuffled), version) == data
    assert sorted(read_back(data)) == sorted((i.payment_id, i.amount, i.currency, i.payee.iban) for i in payments)
    total = sum(Decimal(i.amount).scaleb(-DIGITS[i.currency]) for i in payments)
    assert Decimal(texts(data, "CstmrCdtTrfInitn/GrpHdr/CtrlSum")[0]) == total


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b">12.50</InstdAmt>", b">12.51</InstdAmt>", "payment 0001abcdefghijklmnop: the file does not order"),
        (IBANS[1].encode(), IBANS[2].encode(), "payment 0001abcdefghijklmnop: the file does not order"),
        (b"0001abcdefghijklmnop", b"0003abcdefghijklmnop", "payment 0003abcdefghijklmnop: the file does not order"),
        (b'Ccy="EUR"', b'Ccy="USD"', "payment 0001abcdefghijklmnop: the file does not order"),
        (b"<NbOfTxs>2</NbOfTxs>", b"<NbOfTxs>3</NbOfTxs>", "a count or control sum is not that of its payments"),
        (b"<CtrlSum>25.00</CtrlSum>", b"<CtrlSum>25.01</CtrlSum>", "a count or control sum is not that of its payments"),
        (b"<PmtMtd>TRF</PmtMtd>", b"", "line 16: Element 'BtchBookg': This element is not expected"),
        (b"<ChrgBr>SLEV", b"<ChrgBr>secret", "Element 'ChrgBr'.*value .not shown. is not"),
    ],
)
def test_a_file_that_says_something_else_is_not_handed_out(old, new, expected):
    whole = batch(pay(1), pay(2))
    data = credit_transfer(whole)
    assert old in data
    with pytest.raises(AssertionError, match=expected) as raised:
        iso20022.verify(whole, data.replace(old, new, 1))
    assert "secret" not in str(raised.value)
    with pytest.raises(AssertionError, match="payment 0002abcdefghijklmnop: not in the file"):
        iso20022.verify(whole, credit_transfer(batch(pay(1))))


def test_paypal_takes_one_currency_and_5000_rows_a_file():
    euros = with_payee(BOB, currency="EUR")
    payments = [pay(number, BOB, number + 1) for number in range(5001)]
    files = payouts(batch(*payments[::-1], pay(9999, euros, 5), reference="Royalties, 2026-11"))
    assert [data.count(b"\r\n") for data in files] == [1, 5000, 1]
    rows = [list(csv.reader(io.StringIO(data.decode()))) for data in files]
    assert rows[0] == [["bob@example.org", "0.05", "EUR", "9999abcdefghijklmnop", "Royalties, 2026-11", "PAYPAL"]]
    assert rows[1][0][1:4] == ["0.01", "USD", "0000abcdefghijklmnop"]
    assert rows[2][0][1:4] == ["50.01", "USD", "5000abcdefghijklmnop"]


def test_paypal_knows_no_parts_of_some_currencies():
    assert paypal.read_back(payouts(batch(pay(1, with_payee(BOB, currency="HUF"), 7700)))[0])[0][1:3] == (7700, "HUF")
    assert payouts(batch(pay(1, with_payee(BOB, currency="HUF"), 7700)))[0].split(b",")[1] == b"77"


@pytest.mark.parametrize(
    ("change", "amount", "expected"),
    [
        ({"paypal": "=cmd@example.org"}, 1, "paypal: expected a mail address in ASCII that begins with a letter or digit"),
        ({"paypal": "+a@example.org"}, 1, "paypal: expected a mail address"),
        ({"paypal": "-a@example.org"}, 1, "paypal: expected a mail address"),
        ({"paypal": "bøb@example.org"}, 1, "paypal: expected a mail address"),
        ({"paypal": "a\x00b@example.org"}, 1, "paypal: expected a mail address"),
        ({"currency": "KWD"}, 1, "expected a currency of PayPal's: AUD, .*, found KWD"),
        ({"currency": "HUF"}, 7701, "expected whole HUF, which PayPal alone pays, found 77.01"),
    ],
)
def test_what_paypal_would_not_take_is_an_error(change, amount, expected):
    with pytest.raises(InputError, match=f"payment 0001abcdefghijklmnop.*{expected}") as raised:
        payouts(batch(pay(1, with_payee(BOB, **change), amount)))
    assert change.get("paypal", "\n") not in str(raised.value)


def test_paypals_note_and_ids_are_checked():
    with pytest.raises(InputError, match="reference: expected a letter or digit first, found '\\+'"):
        payouts(batch(pay(1, BOB), reference="+1"))
    long = [replace(pay(1, BOB), payment_id="a" * 30 + end) for end in "bc"]
    with pytest.raises(InputError, match="expected ids that differ in their first 30 letters"):
        payouts(batch(*long))
    files = payouts(batch(pay(1, BOB)))
    with pytest.raises(AssertionError, match="payment 0001abcdefghijklmnop: the file does not order"):
        paypal.verify(batch(pay(1, BOB, 1)), files)
    with pytest.raises(AssertionError, match="payment 0002abcdefghijklmnop: not in the files"):
        paypal.verify(batch(pay(1, BOB), pay(2, BOB)), files)
    with pytest.raises(AssertionError, match="0 rows"):
        paypal.verify(batch(pay(1, BOB)), [*files, b""])


@pytest.mark.parametrize("count", [1, 5, 6, 7, 16])
def test_a_clearing_file_adds_up_by_nachas_columns(count):
    plain = with_payee(CAT, name="Bob", savings=False, routing="091000019", account="9" * 17)
    payments = [pay(number, CAT if number % 2 else plain, 100 * number) for number in range(1, count + 1)]
    data = clearing_file(batch(*payments[::-1]))
    assert data == clearing_file(batch(*payments))
    lines = data.decode("ascii").split("\n")[:-1]
    assert {len(line) for line in lines} == {94}
    assert len(lines) % 10 == 0
    head, group, entries, control, end = lines[0], lines[1], lines[2 : 2 + count], lines[2 + count], lines[3 + count]
    names = "FIRST BANK".ljust(23) + "MODELL + SOEHNE GMBH".ljust(31)
    assert head == "101 0910000191234567890" + "2612010930" + "A094101" + names
    assert group[:4] + group[40:63] == "5220" + "1234567890PPDROYALTIES "
    assert group[69:94] == "261203   1091000010000001"
    first = entries[0]
    assert first[:29] == "632111000025" + "123-45".ljust(17)
    assert first[29:54] == "0000000100" + "0001abcdefghijk"
    assert first[54:] == "CATHERINE O'NEIL-WELLI" + "  0" + "091000010000001"
    assert [line[1:3] for line in entries] == [("22", "32")[number % 2] for number in range(1, count + 1)]
    assert [int(line[79:]) for line in entries] == [91000010000000 + number for number in range(1, count + 1)]
    hashed = sum(int(line[3:11]) for line in entries) % 10**10
    total = sum(int(line[29:39]) for line in entries)
    assert total == 50 * count * (count + 1)
    sums = f"{hashed:010d}{0:012d}{total:012d}"
    assert control == f"8220{count:06d}{sums}1234567890{'':25}091000010000001"
    assert end == f"9000001{len(lines) // 10:06d}{count:08d}{sums}{'':39}"
    assert set("".join(lines[4 + count :])) <= {"9"}


def test_what_the_clearing_house_would_not_take_is_an_error():
    for amount in (10**10, 10**12):
        with pytest.raises(InputError, match="payment 0001abcdefghijklmnop: expected less than 10000000000 cents"):
            clearing_file(batch(pay(1, CAT, amount)))
    with pytest.raises(InputError, match="batch prov-2026-11-1: expected less than 1000000000000 cents"):
        clearing_file(batch(*(pay(number, CAT, 10**10 - 1) for number in range(101))))
    with pytest.raises(InputError, match="expected ids that differ in their first 15 letters"):
        clearing_file(batch(*(replace(pay(1, CAT), payment_id="a" * 15 + end) for end in "bc")))
    with pytest.raises(InputError, match="payment 0001abcdefghijklmnop: name: expected letters"):
        clearing_file(batch(pay(1, with_payee(CAT, name="王"))))


def test_a_clearing_file_that_says_something_else_is_not_handed_out():
    whole = batch(pay(1, CAT), pay(2, CAT))
    data = clearing_file(whole)
    for old, new, expected in (
        (b"0000001250", b"0000001251", "payment 0001abcdefghijk: the file does not order"),
        (b"123-45", b"123-46", "payment 0001abcdefghijk: the file does not order"),
        (b"8220000002", b"8220000003", "a control record"),
        (b"9000001000001", b"7000001000001", "a control record"),
        (b"9" * 94 + b"\n", b"", "not in blocks of 10 lines"),
    ):
        assert old in data
        with pytest.raises(AssertionError, match=expected):
            nacha.verify(whole, data.replace(old, new, 1))
    with pytest.raises(AssertionError, match="payment 0003abcdefghijk: not in the file"):
        nacha.verify(batch(pay(1, CAT), pay(2, CAT), pay(3, CAT)), data)
