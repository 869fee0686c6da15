"""Reports on deliveries: made when a corpus is ingested, before it is put in force, and kept below `rights/quality/`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import polars as pl

from provenance.core.errors import CheckFailed, InputError
from provenance.core.store import Store, canonical_json
from provenance.corpus import records
from provenance.corpus.disclosures import page
from provenance.corpus.examples import Corpus, open_on, valid_on
from provenance.corpus.quality import BLOCK, WARN, Delivery, Report, Rule, assess

log = logging.getLogger("provenance.quality")

FOLDER = f"{records.ROOT}/quality"


def report_on(
    corpus: Corpus,
    *,
    rights: pl.DataFrame,
    duplicates: pl.DataFrame,
    registry: pl.DataFrame,
    rules: Mapping[str, Rule],
    now: datetime,
) -> Report:
    """What a checked delivery is like.

    Args:
        rights: the rights table, with `source_id`.
        registry: the registry of sources.
    """
    day = now.date()
    claimed = valid_on(corpus.claims, day)["work_id"].unique().implode()
    works = (
        corpus.examples.group_by("work_id")
        .agg(
            examples=pl.len(),
            source_uri=pl.col("source_uri").drop_nulls().min(),
            acquired_at=pl.col("acquired_at").min(),
            unmatched=pl.col("unmatched_reason").is_not_null().any(),
        )
        .with_columns(claimed=pl.col("work_id").is_in(claimed))
        .join(rights, on="work_id")
        .sort("work_id")
    )
    disputed = [] if corpus.disputes is None else sorted(set(open_on(corpus.disputes, day)["work_id"]))
    delivery = Delivery(
        works=works,
        claims=corpus.claims,
        assertions=corpus.assertions,
        duplicates=duplicates,
        disputed=tuple(disputed),
        sources=registry.height,
        contradictions=tuple(registry.filter(pl.col("conflicts").list.len() > 0)["source_id"].sort()),
        examples=corpus.examples.height,
        owners=corpus.owners.height,
    )
    return assess(delivery, rules, now)


def keep(store: Store, report: Report, now: datetime) -> str:
    """Keep a report as JSON and a page, unless it says what the last one said; returns the page's key, or CheckFailed."""
    data, there = canonical_json(report.as_json()), _reports(store)
    if there and store.read(there[-1]) == data:
        stem = there[-1].removesuffix(".json")
    else:
        stem = f"{FOLDER}/{now:%Y%m%dT%H%M%S%fZ}"
        store.write(f"{stem}.html", page.of_quality(report, str(now.date())))
        store.write(f"{stem}.json", data)
    for found in report.findings:
        if found.level in {WARN, BLOCK}:
            told = (found.level, found.count, found.total, found.meaning, found.rule, found.names[0])
            log.warning("%s: %d of %d %s (%s), the first: %r", *told)
    log.info("report on the delivery: %s.html", store.locate(stem))
    if report.blocking:
        because = "; ".join(f"{found.count} of {found.total} {found.meaning}" for found in report.blocking)
        raise CheckFailed(f"the delivery is not put in force: {because}. The report: {store.locate(stem)}.html")
    return f"{stem}.html"


def last_report(store: Store) -> dict[str, Any]:
    """The last report, as JSON, with `page`: where the page lies; raises InputError where there is none."""
    keys = _reports(store)
    if not keys:
        hint = "Run the DAG ingest_corpus first, or make demo."
        raise InputError(store.locate(FOLDER), expected="a report on a delivery", found="none", hint=hint)
    found: dict[str, Any] = json.loads(store.read(keys[-1]))
    return found | {"page": store.locate(keys[-1].replace(".json", ".html"))}


def _reports(store: Store) -> list[str]:
    """Keys of the reports as JSON, the last one last."""
    return [key for key in store.list(FOLDER) if key.endswith(".json")]
