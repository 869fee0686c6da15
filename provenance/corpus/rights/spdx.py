"""Parse SPDX expressions into one canonical spelling; by license-expression.

Beside what the library reads: `+` after any licence ("or any later version", SPDX annex D), the deprecated ids that had an
exception in their name, and the addresses at which stewards publish licences (`provenance.corpus.rights.licence_urls`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import license_expression as reader

from provenance.core.errors import did_you_mean
from provenance.corpus.rights.licence_urls import ADDRESS, id_of

# Names that a document defines itself.
REFERENCE = re.compile(r"(DocumentRef-[A-Za-z0-9.-]+:)?(LicenseRef|AdditionRef)-[A-Za-z0-9.-]+")
# Longer texts are no expressions.
LONGEST = 1_000
LATER = "+"
# Deprecated ids, and what SPDX's list has instead of each.
DEPRECATED = {
    "GPL-2.0-with-autoconf-exception": "GPL-2.0-only WITH Autoconf-exception-2.0",
    "GPL-2.0-with-bison-exception": "GPL-2.0-only WITH Bison-exception-2.2",
    "GPL-2.0-with-classpath-exception": "GPL-2.0-only WITH Classpath-exception-2.0",
    "GPL-2.0-with-font-exception": "GPL-2.0-only WITH Font-exception-2.0",
    "GPL-2.0-with-GCC-exception": "GPL-2.0-only WITH GCC-exception-2.0",
    "GPL-3.0-with-autoconf-exception": "GPL-3.0-only WITH Autoconf-exception-3.0",
    "GPL-3.0-with-GCC-exception": "GPL-3.0-only WITH GCC-exception-3.1",
    "eCos-2.0": "GPL-2.0-or-later WITH eCos-exception-2.0",
    "wxWindows": "LGPL-2.0-or-later WITH WxWindows-exception-3.1",
    "Net-SNMP": "BSD-3-Clause AND MIT-CMU",
}
_DEPRECATED = {old.lower(): f"({new})" for old, new in DEPRECATED.items()} | {"nokia-qt-exception-1.1": "Qt-LGPL-exception-1.1"}
_OLD_ID = re.compile(rf"(?<![\w.+:-])({'|'.join(map(re.escape, _DEPRECATED))})(?![\w.+:-])", re.IGNORECASE)
_SLASHED = re.compile(r"[\w.+-]+(?: ?/ ?[\w.+-]+)+", re.ASCII)
# The names that Creative Commons and the Free Software Foundation give their licences, such as CC BY-SA 4.0 and GPLv3+.
_OF_CC = re.compile(
    r"CC[- ](?P<elements>BY(?:[- ](?:NC|SA|ND)){0,2})[- ]v?(?P<version>\d\.\d)(?: (?P<port>[A-Z]{2,3}))?"
    r"(?: (?:International|Unported|Generic))?(?: DEED| licen[cs]e)?",
    re.IGNORECASE,
)
_CC0 = re.compile(r"CC ?0(?: ?v?1\.0)?(?: Universal)?(?: licen[cs]e)?", re.IGNORECASE)
_OF_FSF = re.compile(
    r"(?:GNU )?(?P<name>A?GPL|LGPL|FDL)[- ]?v?(?P<version>\d(?:\.\d)?)(?P<later>\+| or later| only)?", re.IGNORECASE
)
# A branch of a choice that may be an id which nobody has told us of, and not prose.
_ID = re.compile(r"[A-Za-z0-9][\w.-]*\+?", re.ASCII)


class Unreadable(Exception):
    """A text is no SPDX expression; the message says why."""


@cache
def licensing() -> reader.Licensing:
    """SPDX's licences and exceptions, without the library's LicenseRefs: the document that uses one defines it.

    Each licence has a symbol for its later versions, too, except for those of GNU, which have `-or-later`.
    """
    known = [s for s in reader.get_spdx_licensing().known_symbols.values() if not REFERENCE.fullmatch(s.key)]
    names = {name.lower() for symbol in known for name in (symbol.key, *symbol.aliases)}
    symbols = [
        reader.LicenseSymbol(
            symbol.key,
            aliases=[alias for alias in symbol.aliases if not REFERENCE.fullmatch(alias) and alias.lower() not in _DEPRECATED],
            is_exception=symbol.is_exception,
        )
        for symbol in known
        if symbol.key.lower() not in _DEPRECATED
    ]
    later = [
        reader.LicenseSymbol(
            symbol.key + LATER, aliases=[a + LATER for a in symbol.aliases if f"{a}{LATER}".lower() not in names]
        )
        for symbol in symbols
        if not symbol.is_exception
        and not symbol.key.endswith(("-only", "-or-later"))
        and f"{symbol.key}{LATER}".lower() not in names
    ]
    return reader.Licensing([*symbols, *later])


@cache
def known_ids(*, exceptions: bool = False) -> frozenset[str]:
    """The ids of SPDX's licences (without those for later versions), or of its exceptions."""
    symbols = licensing().known_symbols.items()
    return frozenset(key for key, symbol in symbols if symbol.is_exception is exceptions and not key.endswith(LATER))


@cache
def parse(text: str) -> Any:
    """Parse an expression: ids as SPDX writes them, sorted, without repetition. Unreadable: it is no expression."""
    expression, names = _parse(text)
    for symbol in licensing().license_symbols(expression, decompose=False):
        _check(symbol, names)
    return expression.simplify()


@cache
def parse_choices(text: str) -> tuple[Any, tuple[str, ...]]:
    """As `parse`, but of a choice between terms those that cannot be read are left out if others can.

    Whoever may choose needs to read only what is chosen.

    Returns:
        The expression, and the terms that were left out.
    """
    expression, names = _parse(text)
    left_out: list[str] = []
    readable = _readable(expression, names, left_out, loud=" OR " in text)
    return readable.simplify(), tuple(left_out)


def _parse(text: str) -> tuple[Any, dict[str, str]]:
    """The library's reading of an expression, unknown names included; and addresses among these, by the name in their place."""
    if len(text) > LONGEST:
        raise Unreadable(f"longer than {LONGEST:,} characters")
    if text.strip().upper() in {"", "NONE", "NOASSERTION"}:
        raise Unreadable("it asserts nothing")
    names: dict[str, str] = {}

    def known(match: re.Match[str]) -> str:
        licence = id_of(match[0], _spellings())
        if licence is None:
            licence = f"address-{len(names)}"
            names[licence] = match[0]
        return licence

    text = _of_steward(" ".join(text.split())) or text
    if _SLASHED.fullmatch(text.strip()) and all(part.strip().lower() in _spellings() for part in text.split("/")):
        text = " OR ".join(text.split("/"))  # as packages of Rust were allowed to state a choice
    named = ADDRESS.sub(known, text)
    named = _OLD_ID.sub(lambda match: _DEPRECATED[match[0].lower()], named)
    try:
        # The library answers "()" with an IndexError, thousands of terms with a TypeError, and "(AND 0" with an AssertionError.
        expression = licensing().parse(named)
        list(licensing().license_symbols(expression, decompose=False))
    except (reader.ExpressionError, IndexError, TypeError, AssertionError, RecursionError) as error:
        raise Unreadable(f"no SPDX expression: {error}") from error
    if expression is None:
        raise Unreadable("it asserts nothing")
    return expression, names


def _of_steward(name: str) -> str | None:
    """The id of a licence by its steward's own name for it; None for other texts."""
    if _CC0.fullmatch(name):
        return "CC0-1.0"
    if match := _OF_CC.fullmatch(name):
        elements = [element for element in ("BY", "NC", "ND", "SA") if element in re.split("[- ]", match["elements"].upper())]
        whole = f"CC-{'-'.join(elements)}-{match['version']}"
        ported = f"{whole}-{match['port'].upper()}" if match["port"] else whole
        return _spellings().get(ported.lower(), whole)
    if match := _OF_FSF.fullmatch(name):
        version = match["version"] if "." in match["version"] else f"{match['version']}.0"
        ending = "-or-later" if (match["later"] or "").strip() in {"+", "or later"} else "-only"
        return f"{match['name'].upper().replace('FDL', 'GFDL')}-{version}{ending}"
    return None


@cache
def _spellings() -> dict[str, str]:
    """The licence, or the expression, of each id and alias in small letters."""
    symbols = [(key, symbol) for key, symbol in licensing().known_symbols.items() if not symbol.is_exception]
    aliases = {alias.lower(): key for key, symbol in symbols for alias in symbol.aliases}
    return aliases | {key.lower(): key for key, _ in symbols} | _DEPRECATED


def _readable(expression: Any, names: Mapping[str, str], left_out: list[str], *, loud: bool) -> Any:
    """The expression without branches of choices that cannot be read; Unreadable if nothing is left.

    Args:
        loud: whether choices are written as SPDX has them (OR), and not as in a sentence.
    """
    operator, terms = parts(expression)
    if operator in {"", "WITH"}:
        _check(expression, names)
        return expression
    if operator == "AND":
        return licensing().AND(*(_readable(term, names, left_out, loud=loud) for term in terms))
    branches, first = [], None
    for term in terms:
        try:
            branches.append(_readable(term, names, left_out, loud=loud))
        except Unreadable as error:
            words = names.get(str(term), str(term))
            if not loud and not (_ID.fullmatch(words) and re.search(r"[\d-]", words)) and words == str(term):
                raise
            first = first or error
            left_out.append(words)
    if not branches:
        assert first is not None
        raise first
    return licensing().OR(*branches) if len(branches) > 1 else branches[0]


def join(*texts: str) -> str:
    """Join terms that all hold into one expression."""
    return str(parse(" AND ".join(f"({text})" for text in texts)))


def parts(expression: Any) -> tuple[str, tuple[Any, ...]]:
    """Operator and parts of an expression: `OR` or `AND` and terms; `WITH`, licence and exception; or empty and one licence."""
    if isinstance(expression, reader.LicenseWithExceptionSymbol):
        return "WITH", (expression.license_symbol, expression.exception_symbol)
    if isinstance(expression, reader.LicenseSymbol):
        return "", (expression,)
    assert isinstance(expression, reader.LicenseExpression | licensing().OR | licensing().AND)
    return ("OR" if isinstance(expression, licensing().OR) else "AND"), tuple(expression.args)


def names(expression: Any) -> list[str]:
    """The licences and exceptions of an expression."""
    operator, terms = parts(expression)
    if operator in {"", "WITH"}:
        return [term.key for term in terms]
    return [name for term in terms for name in names(term)]


def _check(symbol: Any, addresses: Mapping[str, str]) -> None:
    operator, names = parts(symbol)
    for name, exceptions in zip(names, (False, True), strict=False):
        ids = known_ids(exceptions=exceptions)
        key = name.key if exceptions or name.key not in licensing().known_symbols else name.key.removesuffix(LATER)
        if key not in ids and not REFERENCE.fullmatch(name.key):
            kind = "an exception" if operator and exceptions else "a licence"
            near = did_you_mean(name.key, sorted(ids))
            raise Unreadable(
                f"{addresses.get(name.key, name.key)!r} is not {kind} that SPDX knows" + (f". {near}" if near else "")
            )
