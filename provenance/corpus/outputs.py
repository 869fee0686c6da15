"""The outputs of one day, checked: what the model answered and what it earned."""

from __future__ import annotations

import hashlib
from datetime import date

import polars as pl

from provenance.core.contracts import OUTPUTS, Contract, conform, reject, unique_across
from provenance.core.errors import ContractError
from provenance.core.money import currencies
from provenance.core.store import Store
from provenance.corpus.examples import check_contents

OUTPUT_COLUMNS = ("output_id", "content", "modality", "product")


def read_outputs(store: Store, day: date, *, model_id: str) -> pl.DataFrame:
    """All outputs of a day, checked, sorted by id, with `content_sha256` added."""
    folder = f"outputs/day={day}"
    files = [key for key in store.list(folder) if key.endswith(".parquet")]
    if not files:
        raise ContractError(
            store.locate(folder),
            expected="the day's outputs as Parquet files",
            found="none",
            hint="If nothing was served, deliver a file without rows.",
        )
    frames = {
        store.locate(key): check_outputs(store.read_table(key), store.locate(key), day, model_id=model_id) for key in files
    }
    unique_across(OUTPUTS, frames)
    return _in_order(pl.concat(frames.values(), how="diagonal_relaxed"))


def read_output_file(store: Store, key: str) -> pl.DataFrame:
    """Outputs whose influences alone are asked for: `output_id` and `content` will do. Otherwise as `read_outputs`."""
    file = store.locate(key)
    if not store.exists(key):
        raise ContractError(file, expected="outputs as a Parquet file", found="no such file")
    needed = Contract("outputs", OUTPUTS.written_by, {name: OUTPUTS.columns[name] for name in OUTPUT_COLUMNS}, OUTPUTS.key)
    frame = conform(needed, store.read_table(key), file)
    check_contents(frame, file)
    unique_across(needed, {file: frame})
    return _in_order(frame)


def _in_order(outputs: pl.DataFrame) -> pl.DataFrame:
    digests = [hashlib.sha256(content).hexdigest() for content in outputs["content"]]
    return outputs.with_columns(content_sha256=pl.Series(digests, dtype=pl.String)).sort("output_id")


def check_outputs(frame: pl.DataFrame, file: str, day: date, *, model_id: str) -> pl.DataFrame:
    """Check one file of a day's outputs."""
    frame = conform(OUTPUTS, frame, file)
    check_contents(frame, file)
    reject(frame, pl.col("model_id") != model_id, file, "model_id", expected=f"the night's model, {model_id!r}")
    reject(frame, pl.col("revenue_minor") < 0, file, "revenue_minor", expected="0 or more minor units")
    known = pl.Series(sorted(currencies())).implode()
    reject(frame, ~pl.col("currency").is_in(known), file, "currency", expected="an ISO 4217 code")
    served = pl.col("served_at").dt.date()
    reject(frame, served != day, file, "served_at", expected=f"a time on {day} (UTC)")
    return frame
