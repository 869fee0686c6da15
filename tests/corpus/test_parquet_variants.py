"""Parquet as real tools write it: the same three outputs, in files of PyArrow 26, DuckDB 2.0 and Polars 2.1.

`parquet_variants.zip` has a file for each way of writing: compressions, versions, encodings, dictionaries, views, units and
zones of times, INT96, widths of integers, empty row groups, extra columns. Those whose name begins with `refused-` cannot be
paid as they are, and are refused with the column.
"""

import zipfile
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from samples import DAY

from provenance.core.errors import InputError
from provenance.corpus.outputs import read_outputs

VARIANTS = {}
with zipfile.ZipFile(Path(__file__).with_name("parquet_variants.zip")) as archive:
    VARIANTS = {name.removesuffix(".parquet"): archive.read(name) for name in archive.namelist()}
NOON = datetime(2026, 11, 19, 12, 0, 0, 123456, tzinfo=UTC)
# What a unit of time cannot hold is zero.
COARSE = {"time-ms-utc": 123000, "time-ms-naive": 123000, "time-s-utc": 0}
REFUSED = {
    "refused-column-missing": r"column 'currency': expected a required column",
    "refused-date": r"column 'served_at': expected type Datetime.*found type Date",
    "refused-decimal": r"column 'revenue_minor': expected type Int64, found type Decimal\(precision=10, scale=2\)",
    "refused-decimal-whole": r"column 'revenue_minor': expected type Int64, found type Decimal",
    "refused-double": r"column 'revenue_minor': expected type Int64, found type Float64",
    "refused-int-ids": r"column 'output_id': expected type String, found type Int64",
    "refused-null-revenue": r"row 1 \(output_id 'o1'\): column 'revenue_minor': expected a value, found none",
    "refused-text-content": r"column 'content': expected type Binary, found type String",
    "refused-text-time": r"column 'served_at': expected type Datetime.*found type String",
    "refused-time-offset": r"expected a Parquet file that Polars can read, found .*'\+05:30'.*Write times in UTC",
    "refused-uint64": r"column 'revenue_minor': expected type Int64, found type UInt64",
}


def read(store, name):
    store.write(f"outputs/day={DAY}/{name}.parquet", VARIANTS[name])
    return read_outputs(store, date.fromisoformat(DAY), model_id="tiny")


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("refused-")])
def test_every_way_of_writing_is_the_same_outputs(store, name):
    outputs = read(store, name)
    if name == "empty":
        assert outputs.height == 0
        return
    served = NOON.replace(microsecond=COARSE.get(name, 123456))
    columns = ("output_id", "content", "model_id", "revenue_minor", "currency", "served_at")
    assert outputs.select(columns).rows() == [
        (f"o{n}", f"text {n}".encode(), "tiny", 100 + n, currency, served) for n, currency in enumerate(("EUR", "USD", "EUR"))
    ]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_paid_as_it_is_names_the_column(store, name):
    with pytest.raises(InputError, match=REFUSED[name]):
        read(store, name)


def test_no_variant_is_left_out():
    assert {name for name in VARIANTS if name.startswith("refused-")} == set(REFUSED)
    assert len(VARIANTS) >= 52


def test_variants_of_one_day_are_read_together(store):
    """Folders of Hive and Spark hold files of several writers."""
    names = ["plain", "time-int96", "dictionary-currency", "revenue-int32", "string-view"]
    for number, name in enumerate(names):
        store.write(f"outputs/day={DAY}/part={number}/{name}.snappy.parquet", VARIANTS[name])
    with pytest.raises(InputError, match="output_id: expected a key that no other row has"):
        read_outputs(store, date.fromisoformat(DAY), model_id="tiny")
    for number, name in enumerate(names[1:], 1):
        store.remove(f"outputs/day={DAY}/part={number}/{name}.snappy.parquet")
    store.write(f"outputs/day={DAY}/part=9/empty.snappy.parquet", VARIANTS["empty"])
    assert read_outputs(store, date.fromisoformat(DAY), model_id="tiny").height == 3
