"""Limits of files and numbers are met before anything is booked, and said."""

import contextlib
import io
from datetime import UTC, date, datetime
from decimal import Decimal

import openpyxl
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import settings as running
from hypothesis import strategies as st

from provenance.core.checks import stack
from provenance.core.errors import ContractError, InputError
from provenance.core.money import MOST_MINOR, MOST_OF_AN_OUTPUT, NANO, PPB, format_minor, parse_minor
from provenance.core.store import Store, from_parquet, to_parquet
from provenance.core.tables import OUTPUTS, PAYOUTS, SOURCES
from provenance.corpus import records
from provenance.corpus.outputs import read_outputs
from provenance.settlement.accounts import Account
from provenance.settlement.accrual import accrue, credit_outputs
from provenance.settlement.exports import workbook as sheets
from provenance.settlement.months.periods import ClosingTerms, Payee, close

DAY = date(2026, 10, 15)


def outputs(*revenues, currency="EUR", **extra):
    rows = [
        {"output_id": f"o{n}", "content": b"x", "model_id": "m", "revenue_minor": revenue, "currency": currency,
         "served_at": datetime(2026, 10, 15, 12, tzinfo=UTC)}
        for n, revenue in enumerate(revenues)
    ]  # fmt: skip
    return pl.DataFrame(rows).with_columns(**extra)


def deliver(store, *files):
    for number, frame in enumerate(files):
        named = frame.with_columns(output_id=pl.format("{}-{}", pl.lit(number), "output_id"))
        store.write_table(f"outputs/day={DAY}/{number}.parquet", named)
    return read_outputs(store, DAY, model_id="m")


@given(st.lists(st.integers(0, MOST_OF_AN_OUTPUT), min_size=1, max_size=5), st.integers(0, PPB), st.integers(1, PPB - 1))
@example([MOST_OF_AN_OUTPUT] * 5, 0, 1)
@example([MOST_OF_AN_OUTPUT], PPB, 1)
def test_whatever_passes_the_border_is_booked_exactly(revenues, developer, share):
    served = outputs(*revenues).with_columns(developer_ppb=pl.lit(developer))
    rows = [
        (f"o{n}", "payable", party, part)
        for n in range(len(revenues))
        for party, part in (("ann", share), ("bob", PPB - share))
    ]
    shares = pl.DataFrame(rows, schema=["output_id", "account", "party_id", "share_ppb"], orient="row")
    credits = credit_outputs(served, shares)
    assert from_parquet(to_parquet(credits), "x").equals(credits)
    booked = accrue(served, [credits])
    assert sum(booked.values()) == 0
    assert booked.get(Account("receivable", "", "EUR"), 0) == sum(revenues)


@pytest.mark.parametrize("revenue", [MOST_OF_AN_OUTPUT + 1, 10**12, 2**63 - 1, -1])
def test_an_amount_that_no_file_holds_is_refused_when_it_is_read(store, revenue):
    with pytest.raises(
        ContractError, match=r"row 1 .*column 'revenue_minor': expected 0 or more minor units, at most 9,223,372,036"
    ):
        deliver(store, outputs(5, revenue))


def test_the_border_of_an_output_is_where_its_parts_overflow():
    assert MOST_OF_AN_OUTPUT * NANO < 2**63 <= (MOST_OF_AN_OUTPUT + 1) * NANO


def test_a_day_that_no_cell_holds_is_refused(store, monkeypatch):
    monkeypatch.setattr("provenance.corpus.outputs.MOST_MINOR", 100)
    assert deliver(store, outputs(60), outputs(40), outputs(100, currency="USD")).height == 3
    with pytest.raises(ContractError, match="at most 100 minor units of EUR in a day, .*, found 101"):
        deliver(store, outputs(60), outputs(41), outputs(100, currency="USD"))


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("currency", ["EUR", "JPY", "KWD"])
def test_an_amount_that_a_person_types_has_a_largest(currency, sign):
    largest = format_minor(MOST_MINOR, currency, symbol=False)
    assert abs(parse_minor("x", sign + largest, currency)) == MOST_MINOR
    for text in (format_minor(MOST_MINOR + 1, currency, symbol=False), "1e400", "9" * 400):
        with pytest.raises(InputError, match="x: expected at most"):
            parse_minor("x", sign + text, currency)


def test_a_rate_that_makes_a_payment_too_large_is_named_before_the_close_is_booked():
    balances, payees = {Account("payable", "ann", "EUR"): -1000}, {"ann": Payee("ann", "JPY")}
    assert close(balances, payees, ClosingTerms(rates={("EUR", "JPY"): Decimal(160)}))[0].paid == 1600
    with pytest.raises(InputError, match="owner ann: rate EUR to JPY: expected a payment of at most"):
        close(balances, payees, ClosingTerms(rates={("EUR", "JPY"): Decimal("1e17")}))


# Extra columns, by type: values that polars would change where it unites types.
EXTRAS = {
    "whole": pl.Series([1]), "short": pl.Series([1], dtype=pl.Int16), "unsigned": pl.Series([2**64 - 1], dtype=pl.UInt64),
    "decimal": pl.Series(["1.5"]).cast(pl.Decimal(9, 2)), "real": pl.Series([1.5]),
    "real32": pl.Series([1.5], dtype=pl.Float32),
    "text": pl.Series(["a"]), "bytes": pl.Series([b"a"]), "yes": pl.Series([True]), "day": pl.Series([DAY]),
    "time": pl.Series([1]).cast(pl.Datetime), "zoned": pl.Series([datetime(2026, 1, 1, tzinfo=UTC)]), "list": pl.Series([[1]]),
    "lists": pl.Series([["a"]]), "struct": pl.Series([{"a": 1}]), "structs": pl.Series([{"a": "x", "b": 2}]),
    "category": pl.Series(["a"], dtype=pl.Categorical), "nothing": pl.Series([None]),
}  # fmt: skip


@given(st.lists(st.sampled_from([*EXTRAS, ""]), min_size=1, max_size=4))
def test_extra_columns_are_united_without_a_change_or_refused_by_name(kinds):
    frames = {f"f/{n}": outputs(1) if not kind else outputs(1, note=EXTRAS[kind]) for n, kind in enumerate(kinds)}
    wanted = [EXTRAS[kind].to_list()[0] if kind else None for kind in kinds]
    united = None
    with contextlib.suppress(ContractError):
        united = stack(OUTPUTS, frames)
    if united is None:
        assert len({*kinds} - {"", "nothing"}) > 1, "one type is never refused"
        with pytest.raises(ContractError, match="column 'note': expected type"):
            stack(OUTPUTS, frames)
        return
    found = united["note"].to_list() if "note" in united.columns else [None] * len(kinds)
    assert found == wanted
    assert all(type(a) is type(b) for a, b in zip(found, wanted, strict=True))
    assert from_parquet(to_parquet(united), "x").height == len(kinds)


def test_files_of_a_day_with_two_types_of_a_column_are_refused_with_both_files_named(store):
    with pytest.raises(
        ContractError, match=r"1\.parquet: column 'note': expected type Int64, as in 0\.parquet, found type String"
    ):
        deliver(store, outputs(1, note=pl.lit(1, pl.Int64)), outputs(1, note=pl.lit("a")))
    assert deliver(store, outputs(1, note=pl.lit(1, pl.Int64)), outputs(1))["note"].to_list() == [1, None]


def test_a_record_that_could_not_be_read_with_the_others_is_not_added(store):
    row = {
        "source_uri": "https://example.org/a",
        "acquired_at": datetime(2026, 1, 1, tzinfo=UTC),
        "collector": "c",
        "evidence": "e",
    }
    records.append(store, SOURCES, pl.DataFrame([row | {"note": 1}]))
    with pytest.raises(ContractError, match="column 'note': expected type Int64, as in what is recorded, found type List"):
        records.append(store, SOURCES, pl.DataFrame([row | {"note": ["a"]}]))
    records.append(store, SOURCES, pl.DataFrame([row]))
    assert records.read(store, SOURCES)["note"].to_list() == [1, None]


def payouts(count):
    amounts = dict.fromkeys([name for name in PAYOUTS.columns if name.endswith("_minor")], 0)
    same = {**amounts, "day": str(DAY), "revision": 1, "owner_name": "x", "outputs": 1, "status": "payable"}
    rows = [
        {**same, "owner_id": f"owner-{n:03d}", "currency": "EUR" if n % 2 else "JPY", "earned_minor": n,
         "closing_balance_minor": n, "held_minor": n * (n % 3 == 0), "hold_reason": "r" * n}
        for n in range(count)
    ]  # fmt: skip
    return PAYOUTS.frame(rows)


@running(max_examples=25)
@given(st.integers(0, 25))
@example(7)
@example(8)
@example(14)
@example(15)
def test_a_sheet_that_is_full_goes_on_in_the_next(count):
    table = payouts(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheets, "ROWS", 7)
        data = sheets.workbook(DAY, 1, payouts=table, totals={}, balances={}, notice="")
    book = openpyxl.load_workbook(io.BytesIO(data))
    parts = [sheet for sheet in book if sheet.title.startswith("Payouts")]
    found = [row[2] for sheet in parts for row in sheet.iter_rows(min_row=2, values_only=True) if row[2]]
    assert found == table["owner_id"].to_list()
    assert all(sheet.max_row <= 8 for sheet in book if sheet.title != "Totals")
    held = [
        row
        for sheet in book
        if sheet.title.startswith("Held")
        for row in sheet.iter_rows(min_row=2, values_only=True)
        if row[0]
    ]
    assert len(held) == table.filter(pl.col("held_minor") != 0).height
    text = " ".join(str(cell) for row in book["Totals"].iter_rows(values_only=True) for cell in row if cell)
    assert ("more than a sheet holds" in text) == (count > 7)
    if count:
        assert text.count("SUMIFS(payouts[earned],payouts[currency]") == table["currency"].n_unique()
        assert ("SUMIFS(payouts_2[earned]" in text) == (count > 7)


def test_the_limits_are_those_of_excel():
    assert sheets.ROWS + 1 == 2**20


@pytest.mark.parametrize("ignored", ["mode", "IfMatch"])
def test_a_store_that_ignores_conditions_is_refused_by_name(bucket, ignored, monkeypatch):
    bucket.check_writable()
    server, real = bucket.fs, bucket.fs.pipe_file

    def gateway(path, data, **options):
        return real(path, data, **{name: value for name, value in options.items() if name != ignored})

    monkeypatch.setattr(server, "pipe_file", gateway)
    with pytest.raises(InputError, match="a store that honours conditional writes, found one that ignores If-"):
        bucket.check_writable()
    assert list(bucket.describe()) == [], "no probe stays"


def test_a_disk_that_replaces_what_it_should_keep_is_refused(store, monkeypatch):
    store.check_writable()
    monkeypatch.setattr(Store, "create", lambda self, key, data: self.write(key, data) or True)
    with pytest.raises(InputError, match="ignores If-None-Match"):
        store.check_writable()
