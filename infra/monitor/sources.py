"""Opens ledger, store and Airflow's database for reading."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa

from infra.monitor import flow, nights, owners
from infra.monitor.frozen import read_frozen
from infra.monitor.months import Month, MonthDetail, month, months
from infra.monitor.runs import answers, open_runs, runs
from provenance.core.settings import Settings
from provenance.core.store import Store
from provenance.influence.audits import Audit, audits
from provenance.settlement.books import NIGHT
from provenance.settlement.ledger import bookings as bookings_of
from provenance.validation.model_card import ModelCard, model_card
from tasks.database import read_ledger
from tasks.settings import load


@dataclass(frozen=True)
class Sources:
    """Settings and sources, which are never written."""

    settings: Settings
    store: Store
    ledger: sa.Engine
    airflow: sa.Engine

    @classmethod
    def open(cls, airflow_url: str = "") -> Sources:
        """Open the sources that settings and environment name."""
        settings = load()
        return cls(settings, settings.store.open(), read_ledger(settings.database), open_runs(airflow_url))

    def nights(self, last: int) -> list[nights.WatchedNight]:
        """The last nights, oldest first."""
        return nights.nights(self.store, self.ledger, runs(self.airflow, last=last), last=last)

    def flow(self, day: date) -> flow.Flow:
        """One night in detail."""
        return flow.night(self.store, self.ledger, day, runs(self.airflow, day=str(day)).get(str(day), ()))

    def months(self, today: date) -> list[Month]:
        """The last months, newest first."""
        return months(self.ledger, answers(self.airflow), today)

    def month(self, period: str, today: date) -> MonthDetail:
        """One month in detail."""
        asked, names = answers(self.airflow).get(period, {}), owners.names(self.store, self.ledger)
        return month(self.store, self.ledger, period, answers=asked, names=names, today=today)

    def card(self, model_id: str, last: int) -> ModelCard:
        """The card of the model in use, or of another one by its name, with the times of the last run of each night."""
        bookings = bookings_of(self.ledger, kind=NIGHT)
        tries = runs(self.airflow, last=last)
        times = {booking.night: tries[str(booking.day)][-1].spent for booking in bookings if str(booking.day) in tries}
        booked = {booking.booking_id: booking.booked_at for booking in bookings}
        return model_card(self.store, self.settings, model_id=model_id, last=last, seconds=times, booked=booked)

    def audits(self, last: int) -> list[Audit]:
        """The audits that manifests of the last days cite, and the one in force."""
        return audits(self.store, last=last, read=read_frozen)
