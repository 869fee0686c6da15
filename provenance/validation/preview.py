"""Previews the bookings of days, by owner: runs the stages up to the shares, and books nothing.

The results are kept, so the night itself reuses them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

from provenance.core.errors import InputError
from provenance.core.stages import COMPUTED
from provenance.core.where import Where
from provenance.inputs.stage import freeze
from provenance.settlement.anomaly_bounds import changes, figures
from provenance.settlement.reasons import amounts_and_booked
from provenance.settlement.stage import review


def preview(where: Where, first: date, last: date) -> Iterator[dict[str, Any]]:
    """Yield the changes that booking each day would make, in order.

    Yields:
        `day`; `changes`: owner, currency, booked and new amount in minor units, the largest change first; `reasons` for which
        the night would wait for a person, judged by the nights booked now; `problem`: the error in its input, if any.

    Raises:
        InputError: the last day is before the first.
    """
    if last < first:
        raise InputError("days", expected=f"a last day not before the first, {first}", found=str(last))
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        try:
            yield {"day": str(day), **_of_day(where, day), "problem": ""}
        except InputError as error:
            yield {"day": str(day), "changes": [], "reasons": [], "problem": str(error)}


def _of_day(where: Where, day: date) -> dict[str, Any]:
    folder = freeze(where, str(day))
    for stage in COMPUTED:
        stage.run(where, folder)
    wanted, booked = amounts_and_booked(where, folder)
    return {"changes": changes(figures(day, wanted), figures(day, booked)), "reasons": review(where, folder)["reasons"]}
