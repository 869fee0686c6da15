"""Stages of a night's money: review, book, publish, reconcile.

Amounts are booked by difference from those booked for the day. Exports follow the order of booking, so their manifests chain.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from provenance.core.errors import CheckFailed
from provenance.core.locks import publishing
from provenance.core.published import revision_folder
from provenance.inputs.night import load_night
from provenance.settlement import ledger
from provenance.settlement.accrual import accrued, cause_of
from provenance.settlement.anomaly_bounds import Bounds, figures, unusual
from provenance.settlement.approvals import Approval, approved
from provenance.settlement.books import NIGHT
from provenance.settlement.exports.export import finish, write
from provenance.settlement.exports.keys import signing_key
from provenance.settlement.exports.nights import check_day, count_published, make_export
from provenance.settlement.reasons import amounts_and_booked, falling_audits, nights_before, request_text, unsupported_rules

if TYPE_CHECKING:
    from provenance.core.where import Where

review_log, book_log, publish_log, reconcile_log = (
    logging.getLogger(f"provenance.{name}") for name in ("review", "book", "publish", "reconcile")
)


def review(where: Where, folder: str) -> dict[str, Any]:
    """Compare a night with the nights before, ahead of booking it.

    Returns:
        `reasons`: empty for a usual night; `subject`, `body`: the request to a person, in Markdown; `cause`: digest of the
        cause of the booking, so that the approval counts for nothing else.
    """
    night, bounds = load_night(where.store, folder), Bounds(**where.settings.review.model_dump())
    now, then = (figures(night.date, amounts) for amounts in amounts_and_booked(where, folder))
    before = nights_before(where.ledger, night.date, bounds.nights)
    reasons = [
        *unusual(now, before, bounds, booked=then),
        *falling_audits(where.store, bounds.nights),
        *unsupported_rules(where.store, night),
    ]
    if reasons:
        review_log.warning("%s waits for a person, under Required Actions in Airflow's UI: %s", night.day, "; ".join(reasons))
    else:
        review_log.info("%s: usual, compared with %d nights before", night.day, len(before))
    return {
        "cause": cause_of(where.store, folder),
        "reasons": reasons,
        "subject": f"Pay {night.day}? {len(reasons)} reason{'' if len(reasons) == 1 else 's'} to look at it first",
        "body": request_text(night.day, reasons, now, then, before),
    }


def book(where: Where, folder: str, request: Mapping[str, Any] | None = None, approval: Approval | None = None) -> str:
    """Book a night, by difference from the amounts booked for its day; returns its day.

    Args:
        request: the result of `review`; without it no approval is needed.
        approval: a person's answer to the request.

    Raises:
        CheckFailed: the request has reasons, and nobody has approved this very booking.
    """
    night = load_night(where.store, folder)
    amounts = accrued(where.store, night, night.read_outputs(where.store))
    cause = cause_of(where.store, folder)
    facts = approved(request, approval, cause) if request else {}
    before = len(ledger.bookings(where.ledger, night.date))
    booking = ledger.book(where.ledger, night.date, amounts, night=folder, cause=cause, facts=facts)
    news = "new" if booking.revision > before else "as it was"
    book_log.info("booking %d of %s, revision %d: %s", booking.booking_id, night.day, booking.revision, news)
    return night.day


def publish(where: Where, day: str) -> str:
    """Publish all bookings without an export, in their order; returns the folder of the day's revision in force."""
    store = where.store
    with publishing(where.ledger):
        booked = ledger.bookings(where.ledger, kind=NIGHT)
        first = count_published(store, booked)
        if first:  # the process may have been killed after the manifest
            finish(store, booked[first - 1].day, booked[first - 1].revision)
        key = signing_key(where.settings.settlement)
        for index in range(first, len(booked)):
            export = make_export(store, where.ledger, booked[index], booked[index - 1] if index else None)
            write(store, export, key)
            publish_log.info("published %s", store.locate(export.folder))
    last = [booking for booking in booked if str(booking.day) == day][-1]
    if first == len(booked):
        publish_log.info("nothing new: revision %d of %s stays in force", last.revision, day)
    return revision_folder(last.day, last.revision)


def reconcile(where: Where, day: str) -> str:
    """Check the day's revision in force against the ledger; returns its folder, or raises CheckFailed with all problems."""
    folder, checks = check_day(where, day)
    problems = [f"{check.name}: {problem}" for check in checks for problem in check.problems]
    if problems:
        raise CheckFailed(f"{folder} does not hold: {'; '.join(problems)}")
    reconcile_log.info("%s holds: %s", folder, ", ".join(check.name for check in checks))
    return folder
