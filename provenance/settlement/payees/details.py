"""Checks and seals payees' bank and tax details, so that only a settlement can read them.

Details are sealed by Fernet (AES-128-CBC with HMAC-SHA256); the key is kept elsewhere. A sealed record has its owner and
version inside, so no record can replace another. Nothing here prints details.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Mapping, Sequence
from datetime import date
from enum import StrEnum
from typing import Annotated, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from schwifty import BIC, IBAN
from schwifty.exceptions import SchwiftyException
from stdnum.eu import vat
from stdnum.us import rtn

from provenance.core.errors import InputError, InputErrors
from provenance.core.money import currencies

# Modules of `stdnum` for tax numbers; for a country with none of these, all its modules count.
TAX_NUMBERS = frozenset(
    {"tin", "idnr", "vat", "ein", "itin", "ssn", "utr", "cpf", "cnpj", "nif", "nie", "dni", "cif", "bsn", "btw", "siren", "tva"}
    | {"nir", "codicefiscale", "iva", "pan", "gstin", "personalid"}
)
ALIASES = {"IS": "is_", "IN": "in_"}
# Countries of the European Union, whose VAT numbers begin with the country; Greece writes EL.
EUROPEAN_UNION = frozenset(code.upper() for code in vat.MEMBER_STATES) - {"XI"}


class Method(StrEnum):
    """The method of payment: a bank's credit transfer, PayPal, or the American clearing house."""

    iso20022 = "iso20022"
    paypal = "paypal"
    nacha = "nacha"


def _is_a_routing_number(text: str) -> str:
    if text and not rtn.is_valid(text):
        raise ValueError("a routing transit number whose check digit holds")
    return text


def spelt(pattern: str, words: str) -> AfterValidator:
    """A validator of text by a pattern; errors describe it by `words`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(words)
        return text

    return AfterValidator(check)


COUNTRY = "two capital letters, a country of ISO 3166-1"
# Kosovo has no code in ISO 3166-1; XK is the one of the IBAN registry, of SWIFT and of the EU.
KOSOVO = "XK"
# Routing number of an American bank: a payee's, or the one that originates a payer's clearing files.
RoutingNumber = Annotated[str, AfterValidator(_is_a_routing_number)]


class Place(BaseModel):
    """A structured postal address of ISO 20022; town and country are required."""

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

        if code != KOSOVO and pycountry.countries.get(alpha_2=code) is None:
            raise ValueError(COUNTRY)
        return code


class BankPlace(Place):
    """A bank account by IBAN, and its holder: a payer or a payee."""

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
    """The checked details of one payee.

    Attributes:
        owner_id: the owner that is paid; name: of the account's holder.
        method: `iso20022` needs an `iban` and an address, `paypal` a `paypal` address, `nacha` a `routing` number and an
            `account`.
        currency: of its payments.
        tax_residence: country for the rate of withholding tax; tax_id: tax number there; without both the owner is held.
        self_billed_since: first day of the agreement by which the payer writes the owner's invoices (ISO 8601); empty: none.
        vat_id: VAT number in `country`. vat_rate: percent of VAT within the amounts owed; vat_exempt: why there is none.
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
    self_billed_since: str = Field("", repr=False)
    vat_id: str = Field("", max_length=20, repr=False)
    vat_rate: Annotated[str, spelt(r"(\d{1,2}(\.\d{1,2})?)?", "a percentage such as 19 or 5.5")] = Field("", repr=False)
    vat_exempt: str = Field("", max_length=200, repr=False)

    # Validators of fields, not of the model, which would run only if no field is wrong: all errors are reported at once.
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

    @field_validator("self_billed_since")
    @classmethod
    def _is_a_day(cls, text: str) -> str:
        try:
            return date.fromisoformat(text).isoformat() if text else ""
        except ValueError:
            raise ValueError("a day as YYYY-MM-DD") from None

    @field_validator("vat_id")
    @classmethod
    def _is_of_its_country(cls, text: str, info: ValidationInfo) -> str:
        country = info.data.get("country")
        if not text or country is None:
            return text
        number = "".join(text.split()).upper()
        good = vat.is_valid(number) if country in EUROPEAN_UNION else _is_a_tax_number(country, number)
        if not good or not number.startswith({"GR": "EL"}.get(country, country)):
            raise ValueError("a VAT number of its country, with the country before it, such as DE136695976")
        return vat.compact(number) if country in EUROPEAN_UNION else number

    @field_validator("vat_rate")
    @classmethod
    def _is_above_zero(cls, text: str) -> str:
        if text and not float(text):
            raise ValueError("a percentage above 0; vat_exempt says why there is no VAT")
        return text

    @property
    def taxed(self) -> bool:
        """Whether tax data is complete."""
        return bool(self.tax_residence and self.tax_id)

    @property
    def account_of(self) -> str:
        """The account that is paid, as reading back a bank file shows it."""
        return {Method.iso20022: self.iban, Method.paypal: self.paypal, Method.nacha: f"{self.routing} {self.account}"}[
            self.method
        ]

    @property
    def masked(self) -> str:
        """The account that is paid, masked so that its holder recognises it and nobody else learns it."""
        number = self.iban or self.account or self.paypal
        return f"{self.method} {number[:2]}...{number[-4:]}" if self.method != Method.paypal else f"paypal {number[:1]}...@..."


# Columns of a file of payees.
COLUMNS = {
    "owner_id": "the owner, as owners.parquet names it (required)",
    "name": "of the account's holder, up to 70 letters (required)",
    "street": "of the address, without the house number",
    "building": "house number",
    "post_code": "ZIP",
    "town": "(required)",
    "country": "ISO 3166-1, such as DE, or XK for Kosovo (required)",
    "currency": "of the payee's payments, ISO 4217 (required)",
    "method": "iso20022 (credit transfer), paypal or nacha (required)",
    "iban": "for iso20022",
    "bic": "for iso20022; give it outside SEPA, where banks ask for it",
    "paypal": "mail address, for paypal",
    "routing": "routing transit number, for nacha",
    "account": "account number, for nacha",
    "savings": "true for a savings account, for nacha",
    "tax_residence": "ISO 3166-1; without it and tax_id the owner is held",
    "tax_id": "its number there",
    "self_billed_since": "first day of the agreement by which you write the owner's invoices, YYYY-MM-DD; empty: none",
    "vat_id": "VAT number in its country",
    "vat_rate": "percent of VAT within the amounts owed, such as 19; for payees in the payer's country",
    "vat_exempt": "why such a payee charges no VAT, as the invoice says it",
}


NEEDED = tuple(name for name, meaning in COLUMNS.items() if "(required)" in meaning)


def _is_a_tax_number(country: str, number: str) -> bool:
    """Whether a number is valid as any tax number of the country that `stdnum` knows; unknown countries pass."""
    try:
        package = importlib.import_module(f"stdnum.{ALIASES.get(country, country.lower())}")
    except ModuleNotFoundError:
        return True
    names = {module.name for module in pkgutil.iter_modules(package.__path__)}
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in sorted(names & TAX_NUMBERS or names)]
    return any(module.is_valid(number) for module in modules if hasattr(module, "is_valid"))


def read_details(values: Mapping[str, Any], where: str) -> Details:
    """Details from delivered values; errors name each wrong field, and never its value."""
    try:
        return Details.model_validate(values)
    except ValidationError as error:
        raise explain(error, where) from None


def explain(error: ValidationError, where: str) -> InputError:
    """Pydantic's errors as InputErrors, without values."""
    errors = []
    for fault in error.errors(include_input=False, include_url=False):
        name = ".".join(str(part) for part in fault["loc"])
        expected, found = _expected_and_found(fault)
        errors.append(InputError(f"{where}: {name}" if name else where, expected=expected, found=found))
    return InputErrors(errors) if len(errors) > 1 else errors[0]


def _expected_and_found(fault: ErrorDetails) -> tuple[str, str]:
    """A fault in our words: what was expected, and what was found."""
    hidden, context = "something else (not shown)", fault.get("ctx", {})
    match fault["type"]:
        case "missing" | "string_too_short":
            return "a value", "none"
        case "absent":
            return fault["msg"], "none"
        case "string_too_long":
            return f"at most {context['max_length']} characters", hidden
        case "enum" | "bool_parsing":
            return str(context.get("expected", "true or false")), hidden
        case "extra_forbidden":
            return f"one of {', '.join(Details.model_fields)}", "an unknown field"
        case _:
            return fault["msg"].removeprefix("Value error, "), hidden


def sealing(keys: Sequence[str], where: str) -> MultiFernet:
    """The box that seals and opens: the first key seals, any key opens, so keys can be replaced one by one."""
    hint = "`provenance payee key` makes one."
    if not keys:
        raise InputError(where, expected="a key, or several with commas between", found="none", hint=hint)
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        raise InputError(where, expected="32 bytes in URL-safe base64", found="something else", hint=hint) from None


def seal(box: MultiFernet, details: Details, version: int) -> bytes:
    """Seal details; the bytes differ each time."""
    return box.encrypt(json.dumps({"version": version, **details.model_dump(mode="json")}).encode())


def unseal(box: MultiFernet, sealed: bytes, owner_id: str, version: int) -> Details:
    """Open a sealed record; raises InputError if no key opens it, or its owner or version differs."""
    where = f"payee {owner_id}, version {version}"
    try:
        values = json.loads(box.decrypt(sealed))
    except InvalidToken:
        hint = "It was sealed with another key, or changed since."
        raise InputError(where, expected="a record that the key opens", found="one that it does not", hint=hint) from None
    if (values["owner_id"], values.pop("version")) != (owner_id, version):
        raise InputError(where, expected="its own record", found="another owner's, or another version's")
    return read_details(values, where)
