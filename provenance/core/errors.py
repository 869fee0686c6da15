"""Errors that a person can act on. Import-light: Airflow loads this module while it parses DAGs."""

import difflib
from collections.abc import Iterable, Sequence
from datetime import date

from provenance.core.text import visible

# A hint compares at most so many names, and looks for a part of at least so many letters.
MOST_COMPARED, SHORTEST_PART = 50_000, 4


class InputError(Exception):
    """Bad input: never retried, exit code 2.

    The message names the file, the row or key, what was expected and what was found; `hint` is the next step.
    """

    def __init__(self, where: str, *, expected: str, found: str, hint: str = "") -> None:
        self.where, self.expected, self.found, self.hint = where, expected, found, hint
        super().__init__(f"{where}: expected {expected}, found {found}" + (f". {hint}" if hint else ""))

    def __str__(self) -> str:
        # Strangers choose names: none may fake a line of a log or move a terminal's cursor.
        return visible(super().__str__())

    def __reduce__(self) -> tuple[object, ...]:
        # Default pickling loses keyword-only arguments, and workers raise these errors across processes.
        return (_rebuild, (type(self), self.where, self.expected, self.found, self.hint))


def _rebuild(kind: type[InputError], where: str, expected: str, found: str, hint: str) -> InputError:
    return kind(where, expected=expected, found=found, hint=hint)


class InputErrors(InputError):
    """Several mistakes in one input (`errors`). The message is that of the first, followed by the places of the others."""

    def __init__(self, errors: Sequence[InputError]) -> None:
        self.errors = tuple(errors)
        first, *more = self.errors
        places = f"{len(more)} more: {'; '.join(error.where for error in more[:9])}." if more else ""
        hint = " ".join(filter(None, (first.hint, places)))
        super().__init__(first.where, expected=first.expected, found=first.found, hint=hint)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.errors,))


class ContractError(InputError):
    """A table breaks its contract."""


class ModelError(InputError):
    """A model folder, its weights or its adapter cannot be used."""


class ExampleError(ModelError):
    """One example of a batch cannot be used; callers that know its name add it."""


def in_batch(row: int) -> str:
    """Name an example by its row in the batch, for ExampleError."""
    return f"example {row} of the batch"


class SettingsError(InputError):
    """A setting is unknown or out of range."""


class StoreError(InputError):
    """The store cannot be reached, read or written, and a person must act."""


class NotNow(Exception):
    """A service does not answer now. Retried; the message says what to do if it lasts."""


class StoreUnavailable(NotNow):
    """The store cannot be reached, read or written now."""


class ClusterUnavailable(NotNow):
    """The cluster does not answer, or has no worker."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint with a known name that contains `name` or is close to it; empty if there is none."""
    names = list(known)
    near = [candidate for candidate in names if len(name) >= SHORTEST_PART and name in candidate][:1]
    if not near and len(names) > MOST_COMPARED:  # takes half a minute for a million
        names = [candidate for candidate in names if candidate[:2] == name[:2]][:MOST_COMPARED]
    near = near or difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {near[0]!r}?" if near else ""


def parse_day(where: str, text: str) -> date:
    """Parse a day written as YYYY-MM-DD, and in no other way; `where` names it in the error."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise InputError(where, expected="a day as YYYY-MM-DD", found=repr(text))
    return day


class CheckFailed(Exception):
    """A check of published or delivered data failed: exit code 1, never retried."""

    def __str__(self) -> str:
        return visible(super().__str__())
