"""Whom money goes to: payees' bank and tax details, and how they are kept from everybody but a settlement.

Details are checked when they come in, and sealed (Fernet: AES-128-CBC with HMAC-SHA256) with a key that never lies beside them.
A sealed record names its owner and version inside, so that no record can be put in another's place. Nothing here prints them.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from schwifty import BIC, IBAN
from schwifty.exceptions import SchwiftyException
from stdnum.us import rtn

from provenance.core.errors import InputError, InputErrors
from provenance.core.money import currencies

# Kinds of numbers under which taxes are paid; of a country that has none of these by name, any that the library knows.
TAX_NUMBERS = frozenset(
    {"tin", "idnr", "vat", "ein", "itin", "ssn", "utr", "cpf", "cnpj", "nif", "nie", "dni", "cif", "bsn", "btw", "siren", "tva"}
    | {"nir", "codicefiscale", "iva", "pan", "gstin", "personalid"}
)
ALIASES = {"IS": "is_", "IN": "in_"}


class Method(StrEnum):
    """How a payee is paid: by a bank's credit transfer, by PayPal, or by the American clearing house."""

    iso20022 = "iso20022"
    paypal = "paypal"
    nacha = "nacha"


def _is_a_routing_number(text: str) -> str:
    if text and not rtn.is_valid(text):
        raise ValueError("a routing transit number whose check digit holds")
    return text


def spelt(pattern: str, words: str) -> AfterValidator:
    """Text that a pattern matches, and that errors call by words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(words)
        return text

    return AfterValidator(check)


COUNTRY = "two capital letters, a country of ISO 3166-1"
# Of an American bank: a payee's, or the one from which a payer's clearing files come.
RoutingNumber = Annotated[str, AfterValidator(_is_a_routing_number)]


class Place(BaseModel):
    """A structured postal address, as ISO 20022 has it; town and country must be there."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True)

    street: str = Field("", max_length=70, repr=False)
    building: str = Field("", max_length=16, repr=False)
    post_code: str = Field("", max_length=16, repr=False)
    town: str = Field(min_length=1, max_length=35, repr=False)
    country: Annotated[str, spelt("[A-Z]{2}", COUNTRY)] = Field(repr=False)

    @field_validator("country")
    @classmethod
    def _is_a_country(cls, code: str) -> str:
        import pycountry

        if pycountry.countries.get(alpha_2=code) is None:
            raise ValueError(COUNTRY)
        return code


class BankPlace(Place):
    """An account that an IBAN names, and whose it is: a payer's, or a payee's."""

    name: str = Field(min_length=1, max_length=70, repr=False)
    iban: str = Field("", repr=False)
    bic: str = Field("", repr=False)

    @field_validator("iban", "bic")
    @classmethod
    def _is_one(cls, text: str, info: ValidationInfo) -> str:
        kind, expected = (IBAN, "an IBAN whose check digits hold") if info.field_name == "iban" else (BIC, "a BIC")
        try:
            return str(kind(text)) if text else ""
        except SchwiftyException as error:
            raise ValueError(f"{expected} ({type(error).__name__})") from None


class Details(BankPlace):
    """One payee, whole and checked.

    Attributes:
        owner_id: whose payee it is; name: of the account's holder.
        method: by which it is paid: `iso20022` needs an `iban` and an address, `paypal` a `paypal` address, `nacha` a `routing`
            number and an `account`.
        currency: that it is paid in.
        tax_residence: country whose withholding applies, tax_id: its number there; without both it is held.
    """

    owner_id: str = Field(min_length=1)
    method: Method
    currency: str
    paypal: str = Field("", max_length=127, repr=False, validate_default=True)
    routing: RoutingNumber = Field("", repr=False, validate_default=True)
    account: Annotated[str, spelt("[A-Za-z0-9-]*", "letters, digits and hyphens")] = Field(
        "", max_length=17, repr=False, validate_default=True
    )
    savings: bool = Field(default=False, repr=False)
    tax_residence: Annotated[str, spelt("([A-Z]{2})?", COUNTRY)] = Field("", repr=False)
    tax_id: str = Field("", repr=False)

    # Validators of fields and not of the whole, which would run only where no field is wrong: all faults are told at once.
    @field_validator("method")
    @classmethod
    def _has_an_iban(cls, method: Method, info: ValidationInfo) -> Method:
        if method == Method.iso20022 and info.data.get("iban") == "":
            raise PydanticCustomError("absent", "iban, which the method iso20022 needs")
        return method

    @field_validator("currency")
    @classmethod
    def _is_a_currency(cls, code: str, info: ValidationInfo) -> str:
        if code not in currencies():
            raise ValueError("a currency of ISO 4217")
        if code != "USD" and info.data.get("method") == Method.nacha:
            raise ValueError("the currency USD, which alone nacha pays in")
        return code

    @field_validator("paypal", "routing", "account")
    @classmethod
    def _is_there(cls, text: str, info: ValidationInfo) -> str:
        method = Method.paypal if info.field_name == "paypal" else Method.nacha
        if not text and info.data.get("method") == method:
            raise PydanticCustomError("absent", "a value, which the method {method} needs", {"method": str(method)})
        return text

    @field_validator("paypal")
    @classmethod
    def _is_an_address(cls, text: str) -> str:
        if text and (text.count("@") != 1 or not all(text.split("@")) or any(c.isspace() or c in ',"' for c in text)):
            raise ValueError("a mail address")
        return text

    @field_validator("tax_id")
    @classmethod
    def _is_of_its_residence(cls, text: str, info: ValidationInfo) -> str:
        residence = info.data.get("tax_residence")
        if text and residence == "":
            raise PydanticCustomError("absent", "tax_residence beside tax_id")
        if text and residence and not _is_a_tax_number(residence, text):
            raise ValueError("a tax_id as its tax_residence gives them")
        return text

    @property
    def taxed(self) -> bool:
        """Whether it is known what tax to withhold."""
        return bool(self.tax_residence and self.tax_id)

    @property
    def account_of(self) -> str:
        """Where the money goes, as files for banks are read back."""
        return {Method.iso20022: self.iban, Method.paypal: self.paypal, Method.nacha: f"{self.routing} {self.account}"}[
            self.method
        ]

    @property
    def masked(self) -> str:
        """Where the money goes, to somebody who must recognise it but not learn it."""
        number = self.iban or self.account or self.paypal
        return f"{self.method} {number[:2]}...{number[-4:]}" if self.method != Method.paypal else f"paypal {number[:1]}...@..."


# What a file of payees may have, and must.
COLUMNS = {
    "owner_id": "the owner, as owners.parquet names it (required)",
    "name": "of the account's holder, up to 70 letters (required)",
    "street": "of the address, without the house number",
    "building": "house number",
    "post_code": "ZIP",
    "town": "(required)",
    "country": "ISO 3166-1, such as DE (required)",
    "currency": "that the payee is paid in, ISO 4217 (required)",
    "method": "iso20022 (credit transfer), paypal or nacha (required)",
    "iban": "for iso20022",
    "bic": "for iso20022, where the bank asks for it",
    "paypal": "mail address, for paypal",
    "routing": "routing transit number, for nacha",
    "account": "account number, for nacha",
    "savings": "true for a savings account, for nacha",
    "tax_residence": "ISO 3166-1; without it and tax_id the owner is held",
    "tax_id": "its number there",
}


NEEDED = tuple(name for name, meaning in COLUMNS.items() if "(required)" in meaning)


def _is_a_tax_number(country: str, number: str) -> bool:
    """Whether the number holds as any kind that the library knows for the country; one that it knows none of passes."""
    try:
        package = importlib.import_module(f"stdnum.{ALIASES.get(country, country.lower())}")
    except ModuleNotFoundError:
        return True
    there = {module.name for module in pkgutil.iter_modules(package.__path__)}
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in sorted(there & TAX_NUMBERS or there)]
    return any(module.is_valid(number) for module in modules if hasattr(module, "is_valid"))


def read_details(values: Mapping[str, Any], where: str) -> Details:
    """A payee from what somebody delivered; errors name each field that is wrong, and never what was found in it."""
    try:
        return Details.model_validate(values)
    except ValidationError as error:
        raise explain(error, where) from None


def explain(error: ValidationError, where: str) -> InputError:
    """What is wrong with somebody's details, without repeating any."""
    errors = []
    for fault in error.errors(include_input=False, include_url=False):
        name = ".".join(str(part) for part in fault["loc"])
        expected, found = _expected_and_found(fault)
        errors.append(InputError(f"{where}: {name}" if name else where, expected=expected, found=found))
    return InputErrors(errors) if len(errors) > 1 else errors[0]


def _expected_and_found(fault: ErrorDetails) -> tuple[str, str]:
    """A fault in words that are not a library's."""
    other, said = "something else (not shown)", fault.get("ctx", {})
    match fault["type"]:
        case "missing" | "string_too_short":
            return "a value", "none"
        case "absent":
            return fault["msg"], "none"
        case "string_too_long":
            return f"at most {said['max_length']} characters", other
        case "enum" | "bool_parsing":
            return str(said.get("expected", "true or false")), other
        case "extra_forbidden":
            return f"one of {', '.join(Details.model_fields)}", "an unknown field"
        case _:
            return fault["msg"].removeprefix("Value error, "), other


def sealing(keys: Sequence[str], where: str) -> MultiFernet:
    """What seals and opens: the first key seals, any opens, so that keys can be replaced one after the other."""
    hint = "`provenance payee key` makes one."
    if not keys:
        raise InputError(where, expected="a key, or several with commas between", found="none", hint=hint)
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        raise InputError(where, expected="32 bytes in URL-safe base64", found="something else", hint=hint) from None


def seal(box: MultiFernet, details: Details, version: int) -> bytes:
    """A sealed record; another one each time."""
    return box.encrypt(json.dumps({"version": version, **details.model_dump(mode="json")}).encode())


def unseal(box: MultiFernet, sealed: bytes, owner_id: str, version: int) -> Details:
    """A record as it was sealed; raises InputError where no key opens it, or it is another's or another version."""
    where = f"payee {owner_id}, version {version}"
    try:
        values = json.loads(box.decrypt(sealed))
    except InvalidToken:
        hint = "It was sealed with another key, or changed since."
        raise InputError(where, expected="a record that the key opens", found="one that it does not", hint=hint) from None
    if (values["owner_id"], values.pop("version")) != (owner_id, version):
        raise InputError(where, expected="its own record", found="another owner's, or another version's")
    return read_details(values, where)
