from datetime import date

import polars as pl
import pytest

from provenance.core.checks import conform, reject, unique
from provenance.core.errors import ContractError
from provenance.core.tables import CLAIMS, EXAMPLES, OUTPUTS


def test_defaults_are_filled_in_and_extra_columns_carried_along():
    frame = conform(EXAMPLES, pl.DataFrame({"mood": ["glad"], "work_id": ["w"], "content": [b"x"]}), "f")
    assert frame.columns[:2] == ["work_id", "content"]
    assert frame.columns[-1] == "mood"
    assert frame.row(0, named=True)["split"] == "train"
    assert frame.select(*EXAMPLES.columns).schema == EXAMPLES.schema


@pytest.mark.parametrize(("contract", "columns", "message"), [
    (OUTPUTS, {"a": [1]}, r"f: column 'output_id': expected a required column .* found only a"),
    (EXAMPLES, {"work_id": ["w"], "content": ["text"]}, r"f: column 'content': expected type Binary, found type String"),
    (CLAIMS, {"work_id": ["w"], "owner_id": ["o"], "stake_ppb": [1e9]}, "'stake_ppb': expected type Int64, found type Float64"),
    (EXAMPLES, {"work_id": ["w", None], "content": [b"x"] * 2}, r"f: row 1: column 'work_id': expected a value, found none"),
])  # fmt: skip
def test_missing_columns_wrong_types_and_empty_values_are_named(contract, columns, message):
    with pytest.raises(ContractError, match=message):
        conform(contract, pl.DataFrame(columns), "f")


def test_narrower_types_are_widened():
    frame = pl.DataFrame({"work_id": ["w"], "owner_id": ["o"], "stake_ppb": [7], "valid_from": [date(2026, 1, 1)]})
    narrow = frame.with_columns(pl.col("stake_ppb").cast(pl.Int32), pl.col("owner_id").cast(pl.Categorical))
    assert conform(CLAIMS, narrow, "f").equals(conform(CLAIMS, frame, "f"))


def test_repeated_key_names_both_rows():
    frame = conform(EXAMPLES, pl.DataFrame({"work_id": ["w"] * 3, "content": [b"x"] * 3, "example_id": ["a", "b", "a"]}), "f")
    with pytest.raises(ContractError, match=r"f: row 2: example_id: expected a key .* found 'a', which row 0 has too"):
        unique(EXAMPLES, frame, "f")


def test_rejected_rows_are_counted_and_the_first_is_named():
    frame = pl.DataFrame({"output_id": ["a", "b", "c"], "x": [1, -2, -3]})
    with pytest.raises(ContractError, match=r"row 1 \(output_id 'b'\): column 'x': expected 0 or more, found -2 \(and 1 more"):
        reject(frame, pl.col("x") < 0, "f", "x", expected="0 or more")
