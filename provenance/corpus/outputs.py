"""Read and check the outputs of a day: the model's answers and their revenue."""

from __future__ import annotations

import hashlib
from datetime import date

import polars as pl

from provenance.core.checks import conform, reject, stack, unique_across
from provenance.core.errors import ContractError
from provenance.core.money import MOST_MINOR, MOST_OF_AN_OUTPUT, currencies
from provenance.core.store import Store
from provenance.core.tables import OUTPUTS, TableSchema
from provenance.corpus.delivery import check_contents, check_no_log, files_below, log_files, log_left_out, read_parts
from provenance.corpus.shards import FrozenCorpus

OUTPUT_COLUMNS = ("output_id", "content", "prompt", "modality", "product")


def read_outputs(store: Store, day: date, *, model_id: str) -> pl.DataFrame:
    """Read and check all outputs of a day: sorted by id, with `content_sha256` added.

    Files that are no data (`provenance.corpus.delivery.files_below`) are left out, and named in the log. A table with a log of
    its own, which says which files count, is refused (`provenance.corpus.delivery.check_no_log`).
    """
    folder = f"outputs/day={day}"
    files = files_below(store, folder)
    log_left_out(files, store.locate(folder))
    check_no_log(files, store.locate(folder))
    check_no_log(log_files(store, "outputs"), store.locate("outputs"))  # of a table that is split by day
    if not files.parquet:
        raise ContractError(
            store.locate(folder),
            expected="the day's outputs as Parquet files",
            found=f"none; left out: {files.named()}" if files.left_out else "none",
            hint="If nothing was served, deliver a file without rows.",
        )
    parts = read_parts(store, files.parquet, folder, OUTPUTS)
    frames = {place: check_outputs(frame, place, day, model_id=model_id) for place, frame in parts.items()}
    unique_across(OUTPUTS, frames)
    outputs = stack(OUTPUTS, frames)
    for currency, total in (
        outputs.group_by("currency").agg(pl.col("revenue_minor").cast(pl.Int128).sum()).sort("currency").iter_rows()
    ):
        if total > MOST_MINOR:
            expected = f"at most {MOST_MINOR:,} minor units of {currency} in a day, which every file holds exactly"
            raise ContractError(store.locate(folder), expected=expected, found=f"{total:,}")
    return _in_order(outputs)


def read_output_file(store: Store, key: str) -> pl.DataFrame:
    """As `read_outputs`, for influence without money: only `output_id` and `content` are required."""
    file = store.locate(key)
    if not store.exists(key):
        raise ContractError(file, expected="outputs as a Parquet file", found="no such file")
    needed = TableSchema("outputs", OUTPUTS.written_by, {name: OUTPUTS.columns[name] for name in OUTPUT_COLUMNS}, OUTPUTS.key)
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
    expected = f"0 or more minor units, at most {MOST_OF_AN_OUTPUT:,}"
    reject(frame, ~pl.col("revenue_minor").is_between(0, MOST_OF_AN_OUTPUT), file, "revenue_minor", expected=expected)
    codes = pl.Series(sorted(currencies())).implode()
    reject(frame, ~pl.col("currency").is_in(codes), file, "currency", expected="an ISO 4217 code")
    served = pl.col("served_at").dt.date()
    reject(frame, served != day, file, "served_at", expected=f"a time on {day} (UTC)")
    return frame


def with_modality(store: Store, corpus: FrozenCorpus, outputs: pl.DataFrame) -> pl.DataFrame:
    """The outputs with every modality filled in; the default is that of the corpus's first example."""
    first = store.read_table(corpus.shards[0].key, columns=["modality"])["modality"][0]
    return outputs.with_columns(pl.col("modality").fill_null(first))
