"""What paying days would change, owner by owner, before anything is booked: the stages up to the shares, and no further.

What is computed is kept, so the night itself finds it done.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

from provenance.core.errors import InputError
from provenance.inputs.freeze import freeze
from provenance.settlement.anomaly_bounds import changes, figures
from provenance.settlement.review import amounts_and_booked, review
from provenance.validation.replay import STAGES
from tasks.settings import load


def preview(first: date, last: date) -> Iterator[dict[str, Any]]:
    """Yield, for each day in order, what booking it would change.

    Yields:
        `day`; `changes`: owner, currency, booked and new amount in minor units, the largest change first; `reasons` for which
        the night would wait for a person, as far as nights that are booked now tell; `problem`: why the night would fail,
        where its input is no good.

    Raises:
        InputError: there are no such days.
    """
    if last < first:
        raise InputError("days", expected=f"a last day not before the first, {first}", found=str(last))
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        try:
            yield {"day": str(day), **_of_day(day), "problem": ""}
        except InputError as error:
            yield {"day": str(day), "changes": [], "reasons": [], "problem": str(error)}


def _of_day(day: date) -> dict[str, Any]:
    folder = freeze(str(day))
    for stage in STAGES:
        stage(folder)
    wanted, booked = amounts_and_booked(load().store.open(), folder)
    return {"changes": changes(figures(day, wanted), figures(day, booked)), "reasons": review(folder)["reasons"]}
