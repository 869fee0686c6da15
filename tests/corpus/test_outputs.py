from datetime import UTC, date, datetime

import polars as pl
import pytest
from samples import DAY, outputs_frame

from provenance.core.errors import ContractError
from provenance.corpus.outputs import read_outputs

TODAY = date.fromisoformat(DAY)


def read(store, *frames):
    for number, frame in enumerate(frames):
        store.write_table(f"outputs/day={DAY}/{number}.parquet", frame)
    return read_outputs(store, TODAY, model_id="tiny")


def test_files_of_a_day_are_read_together_and_sorted(store):
    frame = outputs_frame()
    outputs = read(store, frame[4:].with_columns(extra=pl.lit(1)), frame[:4])
    assert outputs["output_id"].to_list() == frame["output_id"].to_list()
    assert outputs["extra"].to_list() == [None] * 4 + [1] * 4


@pytest.mark.parametrize(("change", "message"), [
    ({"revenue_minor": pl.lit(-1)}, r"row 0 \(output_id '2026-11-19-000'\): column 'revenue_minor': expected 0 or more"),
    ({"currency": pl.lit("XQZ")}, r"column 'currency': expected an ISO 4217 code, found 'XQZ' \(and 7 more rows\)"),
    ({"model_id": pl.lit("other")}, r"column 'model_id': expected the night's model, 'tiny', found 'other'"),
    ({"output_id": pl.lit("one")}, r"row 1: output_id: expected a key that no other row has, found 'one'"),
    ({"modality": pl.lit("txt")}, r"column 'modality': expected text, code, image, music, or a word unlike them, found 'txt'"),
    ({"content": pl.lit(b"")}, r"column 'content': expected at least one byte"),
    ({"revenue_minor": pl.lit(1.5)}, r"column 'revenue_minor': expected type Int64, found type Float64"),
    ({"served_at": pl.lit(datetime(2026, 11, 20, tzinfo=UTC))},
     r"column 'served_at': expected a time on 2026-11-19 \(UTC\), found 2026-11-20T"),
])  # fmt: skip
def test_a_broken_file_names_row_column_expected_and_found(store, change, message):
    with pytest.raises(ContractError, match=r"0\.parquet.*" + message):
        read(store, outputs_frame().with_columns(**change))


def test_a_day_without_files_says_what_to_do_and_the_same_output_in_two_is_refused(store):
    with pytest.raises(ContractError, match=r"day=2026-11-19: expected the day's outputs .* deliver a file without rows"):
        read(store)
    with pytest.raises(ContractError, match=r"1.parquet: row 0: output_id: .*, which row 0 of 0.parquet has too"):
        read(store, outputs_frame(), outputs_frame().head(1))
