import pytest
from cryptography.fernet import Fernet

from provenance.core.errors import InputError, InputErrors
from provenance.settlement.payees.details import read_details, seal, sealing, unseal

ANN = {
    "owner_id": "ann", "name": "Ann Møller", "street": "Hauptstr.", "building": "1", "post_code": "10115", "town": "Berlin",
    "country": "DE", "currency": "EUR", "method": "iso20022", "iban": "DE89 3704 0044 0532 0130 00",
    "tax_residence": "DE", "tax_id": "36574261809",
}  # fmt: skip


def test_details_are_checked_and_their_printed_form_shows_none():
    ann = read_details(ANN, "payees.csv line 2")
    assert ann.iban == "DE89370400440532013000"
    assert ann.taxed
    shown = f"{ann!r} {ann} {ann.masked}"
    assert not [text for text in ("Møller", "0532", "Berlin", "Hauptstr", "365742") if text in shown]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"iban": "DE88370400440532013000"}, "iban: expected an IBAN whose check digits hold"),
        ({"iban": ""}, "expected iban, which the method iso20022 needs"),
        ({"bic": "NOBIC"}, "bic: expected a BIC"),
        ({"country": "XX"}, "country: expected two capital letters, a country of ISO 3166-1, found something else"),
        ({"country": "de"}, "country: expected two capital letters, a country of ISO 3166-1, found something else"),
        ({"tax_residence": "Germany"}, "tax_residence: expected two capital letters, a country of ISO 3166-1"),
        ({"town": ""}, "town: expected a value, found none"),
        ({"name": "Ann" * 24}, "name: expected at most 70 characters"),
        ({"method": "by hand"}, "method: expected 'iso20022', 'paypal' or 'nacha'"),
        ({"savings": "perhaps"}, "savings: expected true or false"),
        ({"currency": "XAU"}, "currency: expected a currency of ISO 4217"),
        ({"method": "paypal", "paypal": "ann"}, "paypal: expected a mail address"),
        ({"method": "paypal", "paypal": "@ann.example"}, "paypal: expected a mail address"),
        ({"method": "paypal", "paypal": "a@ann.example\n=1"}, "paypal: expected a mail address"),
        ({"method": "paypal"}, "paypal: expected a value, which the method paypal needs, found none"),
        (
            {"method": "nacha", "currency": "USD", "routing": "123456789", "account": "1"},
            "routing: expected a routing transit number",
        ),
        ({"method": "nacha", "routing": "111000025", "account": "1"}, "currency: expected the currency USD"),
        ({"account": "12 34"}, "account: expected letters, digits and hyphens"),
        ({"tax_id": "36574261808"}, "tax_id: expected a tax_id as its tax_residence gives them"),
        ({"tax_residence": ""}, "expected tax_residence beside tax_id"),
        ({"colour": "red"}, "colour: expected one of"),
    ],
)
def test_what_is_wrong_is_said_without_repeating_it(change, expected):
    with pytest.raises(InputError, match=expected) as raised:
        read_details({**ANN, **change}, "payees.csv line 2")
    assert str(raised.value).startswith("payees.csv line 2")
    assert not [value for name, value in change.items() if len(value) > 4 and value in str(raised.value) and name != "method"]


def test_all_that_is_wrong_with_a_payee_is_said_at_once():
    wrong = {"country": "Germany", "iban": "DE88370400440532013000", "method": "nacha", "tax_id": "36574261808", "name": ""}
    with pytest.raises(InputErrors) as raised:
        read_details({**ANN, **wrong}, "payees.csv line 2")
    fields = [error.where.removeprefix("payees.csv line 2: ") for error in raised.value.errors]
    assert sorted(fields) == ["account", "country", "currency", "iban", "name", "routing", "tax_id"]
    messages = "\n".join(map(str, raised.value.errors))
    assert "String" not in messages
    assert not [value for name, value in wrong.items() if value and value in messages and name != "method"]


def test_a_sealed_record_opens_with_its_key_in_its_own_place_alone():
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    ann = read_details(ANN, "x")
    sealed = seal(sealing([old], "key"), ann, 3)
    assert b"0532" not in sealed
    assert unseal(sealing([new, old], "key"), sealed, "ann", 3) == ann
    with pytest.raises(InputError, match="expected a record that the key opens"):
        unseal(sealing([new], "key"), sealed, "ann", 3)
    for owner, version in (("bob", 3), ("ann", 4)):
        with pytest.raises(InputError, match="expected its own record, found another owner's"):
            unseal(sealing([old], "key"), sealed, owner, version)
    for keys in ([], ["short"]):
        with pytest.raises(InputError, match="provenance payee key"):
            sealing(keys, "environment: PROVENANCE_PAYEES__KEY")
