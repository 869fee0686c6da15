"""What payees were paid in a year, by owner and country."""

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from self_billed import LINES, PERIOD, answer, owed, register, settle

from provenance.core.errors import InputError
from provenance.core.store import from_csv
from provenance.core.tables import DAC7, FORM_1042_S, FORM_1099_MISC, PAID_IN_A_YEAR
from provenance.settlement import ledger
from provenance.settlement.bank.status_reports import RETURNED
from provenance.settlement.months import settling
from provenance.settlement.payees.details import read_details
from provenance.settlement.payees.register import remove_payee
from provenance.settlement.tax import years
from provenance.settlement.tax.years import Paid, tables_of

YEAR = datetime.now(UTC).year
RESIDENCES = {
    "ann": ("FR", "0701987765493"),
    "bob": ("DE", "36574261809"),
    "cid": ("US", "536-90-4399"),
    "dee": ("GB", ""),
    "eve": None,
}


@pytest.fixture
def books(store, environment, monkeypatch):
    owed(store, environment, monkeypatch)


def details(owner, residence, tax_id):
    place = {"name": owner.title(), "street": "High Street", "building": "1", "town": "X", "country": residence}
    payee = {"owner_id": owner, "currency": "EUR", "method": "paypal", "paypal": f"{owner}@example.org"}
    return read_details(payee | place | {"tax_residence": residence, "tax_id": tax_id}, "test")


DETAILS = {owner: details(owner, *known) for owner, known in RESIDENCES.items() if known}
PAID = st.builds(
    Paid, st.sampled_from(list(RESIDENCES)), st.sampled_from(["EUR", "USD"]), st.dates(date(2026, 1, 1), date(2026, 12, 31)),
    st.integers(100, 10**9), st.integers(0, 100), st.sampled_from([0, 15 * 10**7]), st.booleans(),
)  # fmt: skip


def total(tables, file, *columns):
    return sum(row[column] for row in tables.get(file, (None, []))[1] for column in columns)


@given(st.lists(PAID, min_size=1), st.sampled_from(["US", "DE"]))
def test_no_cent_is_lost_or_counted_twice(paid, country):
    tables = tables_of(2026, paid, DETAILS, payer=("Payer", country, "12-3456789"))
    assert total(tables, "payees.csv", "gross_minor", "advances_minor") == sum(one.gross for one in paid)
    for owner, known in RESIDENCES.items():
        gross = sum(one.gross for one in paid if one.owner_id == owner)
        withheld = sum(one.withheld for one in paid if one.owner_id == owner)
        residence = known and known[0]
        assert total(tables, f"owner={owner}/paid.csv", "gross_minor", "advances_minor") == gross
        quarters = [f"{name}_q{q}_minor" for name in ("consideration", "taxes") for q in range(1, 5)]
        assert total(tables, f"country={residence}/dac7.csv", *quarters) == gross * (residence in {"FR", "DE"})
        assert total(tables, f"country={residence}/1099-misc.csv", "box_2_royalties_minor") == gross * (residence == "US")
        foreign = bool(residence) and residence != "US" == country
        assert total(tables, f"country={residence}/1042-s.csv", "box_2_gross_income_minor") == gross * foreign
        assert total(tables, f"country={residence}/1042-s.csv", "box_7a_tax_withheld_minor") == withheld * foreign
    for schema, rows in tables.values():
        schema.frame(rows)
        keys = [tuple(row[name] for name in schema.key) for row in rows]
        assert len(set(keys)) == len(keys)
        assert all(set(row) == set(schema.columns) for row in rows)


def test_a_form_1042_s_has_one_rate():
    paid = [Paid("ann", "EUR", date(2026, 3, 3), 1000, 0, 0), Paid("ann", "EUR", date(2026, 9, 3), 1000, 300, 3 * 10**8)]
    rows = tables_of(2026, paid, DETAILS, payer=("P", "US", ""))["country=FR/1042-s.csv"][1]
    assert [(row["box_3b_tax_rate"], row["box_2_gross_income_minor"], row["box_1_income_code"]) for row in rows] == [
        ("0", 1000, "12"), ("30", 1000, "12"),
    ]  # fmt: skip


def test_a_year_follows_from_the_ledger(where, store, tmp_path, shown, refused):
    register(where, tmp_path, *LINES)
    settle(where)
    ledger.advance(where.ledger, "bob", "EUR", 250, day=date(YEAR, 1, 31), reason="contract", by="me")
    ledger.advance(where.ledger, "bob", "EUR", 999, day=date(YEAR - 1, 12, 31), reason="contract", by="me")
    answer(where, "ann", RETURNED, "s1")
    remove_payee(where, "dee")
    first = years.write_year(where, YEAR)
    table = from_csv(store.read(f"{first.folder}/payees.csv"), PAID_IN_A_YEAR.schema)
    assert table.select("owner_id", "payments", "gross_minor", "net_minor", "advances_minor").rows() == [
        ("bob", 1, 1000, 1000, 250), ("cid", 1, 1000, 1000, 0), ("dee", 1, 1000, 1000, 0),
    ]  # fmt: skip
    assert first.problems == {"dee": "no details: they were removed, or never imported"}
    dac7 = from_csv(store.read(f"{first.folder}/country=DE/dac7.csv"), DAC7.schema)
    quarter = (datetime.now(UTC).month + 2) // 3
    assert dac7.filter(pl.col("owner_id") == "bob")["account"].to_list() == ["DE89370400440532013000"]
    assert dac7.filter(pl.col("owner_id") == "bob").select(f"consideration_q{quarter}_minor").item() >= 1000
    manifest = store.read_json(f"{first.folder}/manifest.json")
    assert manifest["notice"].startswith("No filing")
    assert years.write_year(where, YEAR).folder == first.folder, "the same ledger has the same tables"
    ledger.advance(where.ledger, "cid", "EUR", 1, day=date(YEAR, 1, 31), reason="contract", by="me")
    assert shown("year", str(YEAR), "--json")["folder"] > first.folder, "a later ledger has a folder of its own"
    assert "No filing" in shown("year", str(YEAR), "--json")["notice"]
    assert not any("year=" in key for key in store.list("exports"))


@pytest.mark.parametrize("text", ["26", "2o26", str(YEAR + 1), "٢٠٢٦"])
def test_a_year_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="YEAR: expected a year as YYYY"):
        years.parse_year(text)


def test_a_year_without_payments_is_said(where):
    with pytest.raises(InputError, match="expected one with payments or advances, found none"):
        years.write_year(where, YEAR)
    assert settling.payments(where.ledger, PERIOD) == []


def test_the_shapes_have_the_columns_of_their_forms():
    assert {"box_2_royalties_minor", "box_4_tax_withheld_minor", "payer_tin"} <= set(FORM_1099_MISC.columns)
    assert {"box_1_income_code", "box_2_gross_income_minor", "box_7a_tax_withheld_minor"} <= set(FORM_1042_S.columns)
