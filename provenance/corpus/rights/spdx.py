"""Parse SPDX expressions into one canonical spelling; by license-expression."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import license_expression as reader

from provenance.core.errors import did_you_mean

# Names that a document defines itself.
REFERENCE = re.compile(r"(DocumentRef-[A-Za-z0-9.-]+:)?(LicenseRef|AdditionRef)-[A-Za-z0-9.-]+")
# Longer texts are no expressions.
LONGEST = 1_000


class Unreadable(Exception):
    """A text is no SPDX expression; the message says why."""


@cache
def licensing() -> reader.Licensing:
    """SPDX's licences and exceptions, without the library's LicenseRefs: the document that uses one defines it."""
    return reader.Licensing(
        reader.LicenseSymbol(
            symbol.key,
            aliases=[alias for alias in symbol.aliases if not REFERENCE.fullmatch(alias)],
            is_exception=symbol.is_exception,
        )
        for symbol in reader.get_spdx_licensing().known_symbols.values()
        if not REFERENCE.fullmatch(symbol.key)
    )


@cache
def known_ids(*, exceptions: bool = False) -> frozenset[str]:
    """The ids of SPDX's licences, or of its exceptions."""
    return frozenset(key for key, symbol in licensing().known_symbols.items() if symbol.is_exception is exceptions)


@cache
def parse(text: str) -> Any:
    """Parse an expression: ids as SPDX writes them, sorted, without repetition. Unreadable: it is no expression."""
    if len(text) > LONGEST:
        raise Unreadable(f"longer than {LONGEST:,} characters")
    if text.strip().upper() in {"", "NONE", "NOASSERTION"}:
        raise Unreadable("it asserts nothing")
    try:
        # The library answers "()" with an IndexError, thousands of terms with a TypeError, and "(AND 0" with an AssertionError.
        expression = licensing().parse(text)
        symbols = list(licensing().license_symbols(expression, decompose=False))
    except (reader.ExpressionError, IndexError, TypeError, AssertionError, RecursionError) as error:
        raise Unreadable(f"no SPDX expression: {error}") from error
    for symbol in symbols:
        _check(symbol)
    return expression.simplify()


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


def _check(symbol: Any) -> None:
    operator, names = parts(symbol)
    for name, exceptions in zip(names, (False, True), strict=False):
        ids = known_ids(exceptions=exceptions)
        if name.key not in ids and not REFERENCE.fullmatch(name.key):
            kind = "an exception" if operator and exceptions else "a licence"
            near = did_you_mean(name.key, sorted(ids))
            raise Unreadable(f"{name.key!r} is not {kind} that SPDX knows" + (f". {near}" if near else ""))
