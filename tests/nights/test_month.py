"""A month of the demo is settled by one command: people, banks and statements included."""

import os
import subprocess
import sys
from datetime import date

import polars as pl
import pytest
import sqlalchemy as sa
from samples import corpus_frames, deliver, enter, outputs_frame

from infra import demo, month
from provenance.core.errors import InputError
from provenance.core.settings import CHECKOUT
from provenance.core.store import Store
from provenance.settlement import ledger
from provenance.settlement.account_actions import payments_of
from provenance.settlement.payees.details import read_details

DAY, PERIOD = "2026-10-15", "2026-10"


@pytest.mark.parametrize(
    ("days", "today", "found"),
    [
        (["2026-11-28"], date(2026, 11, 29), ("2026-10", date(2026, 10, 31))),
        (["2026-11-30"], date(2026, 12, 1), ("2026-11", None)),
        (["2026-10-31", "2026-11-28"], date(2026, 11, 29), ("2026-10", None)),
        (["2026-08-02"], date(2026, 11, 29), ("2026-08", None)),
        (["2027-01-01"], date(2027, 1, 2), ("2026-12", date(2026, 12, 31))),
    ],
)
def test_a_month_that_is_over_is_settled_whenever_the_demo_was_run(days, today, found):
    assert month.month_to_settle(days, today) == found


def test_sample_payees_are_good_but_for_two_that_lack_data(tmp_path):
    owners = ["ann", "bob", "cid", "dee", "eve"]
    header, *lines = month.sample_payees(owners).splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    details = [read_details({name: text for name, text in row.items() if text}, "line") for row in rows]
    assert [one.owner_id for one in details] == owners[:-1]
    assert [str(one.method) for one in details] == ["iso20022", "paypal", "iso20022", "iso20022"]
    assert [one.taxed for one in details] == [True, True, True, False]
    assert all(one.taxed for one in map(read_details_of, month.sample_payees(owners[:3]).splitlines()[1:], [header] * 3))


def read_details_of(line, header):
    return read_details({n: t for n, t in zip(header.split(","), line.split(","), strict=True) if t}, "line")


def test_a_store_without_the_demo_or_with_another_s_day_is_refused(store):
    with pytest.raises(InputError, match="expected a day that the demo has paid, found none. Run `make demo` first"):
        month.demo_days(store)
    store.write("exports/payouts/day=2026-10-15/rev=0001/manifest.json", b'{"notice": ""}')
    pointer = b'{"revision": 1, "folder": "exports/payouts/day=2026-10-15/rev=0001", "manifest_sha256": ""}'
    store.write("exports/payouts/day=2026-10-15/current.json", pointer)
    with pytest.raises(InputError, match="expected a day of the demo, with its notice, found another's"):
        month.demo_days(store)


@pytest.mark.night
def test_a_month_is_settled_from_sample_payees_to_the_bank_s_answer(new_operator, postgres, doors, tmp_path, monkeypatch):
    store = Store(f"file://{tmp_path}/store", {})
    operator = new_operator(store, tmp_path.name)
    deliver(store, corpus_frames(), days=())
    store.write_table(f"outputs/day={DAY}/part.parquet", outputs_frame(DAY).with_columns(notice=pl.lit(demo.NOTICE)))
    operator.ingest()
    operator.night(DAY)

    def settle(*options):
        command = [sys.executable, "-m", "infra.month", "--folder", str(tmp_path / "month"), *options]
        environment = {**os.environ, **operator.environment, "COLUMNS": "200"}
        return subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)

    prepared = settle("--by-hand")
    assert prepared.returncode == 0, prepared.stderr[-3000:]
    assert "Now approve" in prepared.stdout
    engine = sa.create_engine(operator.environment["PROVENANCE_DATABASE__URL"], poolclass=sa.NullPool)
    assert {booking.kind for booking in ledger.bookings(engine)} == {"night", "rate"}, "nothing is closed yet"

    settled = settle()
    assert settled.returncode == 0, (settled.stdout[-3000:], settled.stderr[-3000:])
    enter(monkeypatch, operator.environment)
    report = payments_of(doors(), PERIOD)
    assert (report["approvals"]["prepared_by"], report["approvals"]["approved_by"]) == ("ann", "bob")
    assert sorted({payment["status"] for payment in report["payments"]}) == ["paid", "rejected", "sent"]
    assert report["outcomes"]["held"] >= 2, "an owner without payee data, and one without tax data"
    for shown in ("Approved by bob", "rejected: 1 payments", "Owner 1, Ltd."):
        assert shown in settled.stdout
    assert store.list(f"exports/statements/period={PERIOD}")
    files = [key.rsplit(".", 1)[1] for key in store.list(f"bank/period={PERIOD}")]
    assert {"xml", "csv"} <= set(files)
    assert (tmp_path / "month/environment").stat().st_mode & 0o077 == 0, "it has a key"

    before = ledger.newest(engine)
    again = settle()
    assert again.returncode == 0, again.stderr[-3000:]
    assert ledger.newest(engine) == before, "settled once"
