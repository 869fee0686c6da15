"""Finds what people see of a night's credits: the owners behind each span of an output, and what stands word for word in works.

nights/.../credits/<digest>/{spans,matches}.parquet
nights/.../credits.json                              the tables' digests, the outputs and the settings; the last write

Both are for reading: no amount depends on them, so the settings are no input of the night.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from provenance.core.errors import StoreError
from provenance.core.settings import CreditsSettings
from provenance.core.store import Store, from_parquet, sha256
from provenance.core.tables import MATCHES, SPANS, TableSchema
from provenance.core.where import Where
from provenance.corpus.ngrams import find_matches, index_missing
from provenance.inputs.night import Night, read_manifest

CREDITED = "credits"
# Increase when the meaning of a table changes.
VERSION = 1
TABLES = {"spans": SPANS, "matches": MATCHES}


def method_of(settings: CreditsSettings) -> dict[str, Any]:
    """All that decides a night's tables besides the night itself."""
    return {"version": VERSION, **settings.model_dump()}


def chosen_outputs(store: Store, night: Night, most: int) -> pl.DataFrame:
    """The outputs whose spans are followed: those with the most revenue, in the order of their ids."""
    outputs = night.read_outputs(store)
    if "prompt" not in outputs.columns:
        outputs = outputs.with_columns(prompt=pl.lit(None, pl.Binary))
    ranked = outputs.sort("revenue_minor", "output_id", descending=[True, False]).head(most)
    return ranked.sort("output_id").select("output_id", "content", "prompt", "modality")


def find_spans(where: Where, night: Night, settings: CreditsSettings) -> pl.DataFrame:
    """The spans table of a night; components are weighted as for the shares of each output's contract."""
    from provenance.influence.night_spans import span_influence, spanned  # with torch, which readers of credits do without

    store, folder = where.store, night.folder
    estimated, names = read_manifest(store, folder, "estimate"), read_manifest(store, folder, "scores")["components"]
    outputs = spanned(where, night, chosen_outputs(store, night, settings.outputs), most=settings.spans)
    rules = {contract.name: contract.duplicates for contract in night.contracts}
    tables = [SPANS.frame()]
    for rule, report in sorted(estimated["copies"].items()):
        own = [output for output in outputs if rules[estimated["contracts"][output.output_id]] == rule]
        if own:
            weights = np.array([report["components"][name] for name in names])
            tables.append(span_influence(where, night, own, rule=rule, weights=weights))
    return pl.concat(tables).sort(*SPANS.key[:2], "part", *SPANS.key[2:], descending=[False, False, True, False, False])


def find_verbatim(where: Where, night: Night) -> pl.DataFrame:
    """The matches table of a night: of all its outputs."""
    store, corpus = where.store, night.frozen_corpus(where.store)
    index_missing(where, corpus)  # of a corpus that was ingested before there was an index
    outputs = night.read_outputs(store).select("output_id", "content", "modality")
    return find_matches(where, corpus, outputs)


def read_credits(store: Store, folder: str) -> dict[str, pl.DataFrame]:
    """The tables `spans` and `matches` of a night; empty ones where they were not computed, or were removed."""
    key = f"{folder}/{CREDITED}.json"
    writes: Mapping[str, Mapping[str, str]] = store.read_json(key)["writes"] if store.exists(key) else {}
    return {name: _read(store, schema, writes.get(name)) for name, schema in TABLES.items()}


def _read(store: Store, schema: TableSchema, written: Mapping[str, str] | None) -> pl.DataFrame:
    if written is None:
        return schema.frame()
    data = store.read(written["key"])
    if sha256(data) != written["sha256"]:
        where = store.locate(written["key"])
        raise StoreError(where, expected=f"SHA-256 {written['sha256']}, as {CREDITED}.json says", found=sha256(data))
    return from_parquet(data, written["key"])
