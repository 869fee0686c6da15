"""Checks the answers of people who were asked to approve an unusual night or the payments of a period."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from provenance.core.errors import CheckFailed
from provenance.core.text import plain


@dataclass(frozen=True)
class Approval:
    """An answer: the person, the time, and whether it was yes (`granted`)."""

    by: str
    at: datetime
    granted: bool


def are_two(first: str, second: str) -> bool:
    """Whether two names are given, and differ by more than blanks, signs that nobody sees, and the case of letters."""
    names = [" ".join(plain(unicodedata.normalize("NFKC", name)).split()).casefold() for name in (first, second)]
    return all(names) and names[0] != names[1]


def approved(request: Mapping[str, Any], approval: Approval | None, cause: str) -> dict[str, Any]:
    """The facts of an approval that the ledger keeps; empty for a night that needs none.

    Args:
        request: as `review` returned it.
        cause: digest of the cause of the booking.

    Raises:
        CheckFailed: something else was reviewed, or there are reasons and nobody has approved.
    """
    if request["cause"] != cause:
        raise CheckFailed("the night has changed since its review: clear settlement.review, so that it is reviewed again")
    if not request["reasons"]:
        return {}
    if approval is None:
        raise CheckFailed("nobody has approved this night: clear settlement.approve, and have somebody answer it")
    if not approval.granted:
        raise CheckFailed(f"{approval.by} did not approve this night")
    return {"reasons": list(request["reasons"]), "approved_by": approval.by, "approved_at": approval.at.isoformat()}
