"""Stage `ingest`: the corpus as data teams delivered it, checked, cut into shards and frozen."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import polars as pl

from provenance.core.contracts import CORPORA
from provenance.core.store import Store
from provenance.corpus import quality_report as quality
from provenance.corpus import records
from provenance.corpus.duplicates import find_duplicates, read_decisions
from provenance.corpus.examples import read_corpus, since
from provenance.corpus.quality import read_rules
from provenance.corpus.rights.licences import rights_of
from provenance.corpus.rights.policy import read_policy
from provenance.corpus.rights.registry import registry_in_force
from provenance.corpus.rights.sources import source_ids
from provenance.corpus.shards import freeze_corpus
from provenance.settlement import ledger
from tasks.database import open_locks
from tasks.settings import with_store

log = logging.getLogger("provenance.ingest")


def ingest() -> str:
    """Judge the delivered corpus, freeze it and put it in force; returns its digest. CheckFailed: the rules block it."""
    settings, store = with_store()
    store.check_writable()
    policy, rules = read_policy(settings.rights.policy), read_rules(settings.corpus.quality)
    corpus = read_corpus(store, settings.corpus.folder)
    train = corpus.examples.filter(pl.col("split") == "train")
    duplicates = find_duplicates(since(train, corpus.claims), read_decisions(store, settings.corpus.folder, train))
    now, registry = datetime.now(UTC), registry_in_force(store)
    named = corpus.examples.with_columns(source_id=source_ids(registry, corpus.examples["source_uri"]))
    rights = rights_of(named, corpus.assertions, policy, now=now)
    report = quality.report_on(corpus, rights=rights, duplicates=duplicates, registry=registry, rules=rules, now=now)
    quality.keep(store, report, now)
    with ledger.freezing(open_locks(settings.database)):
        frozen = freeze_corpus(
            store, corpus, shard_examples=settings.corpus.shard_examples, duplicates=duplicates, rights=rights
        )
        _record(store, frozen.digest, now)
    log.info(
        "corpus %s: %d examples in %d shards, %d held out, %d owners, %d unmatched, %d copies of one another",
        frozen.digest[:12],
        frozen.examples,
        len(frozen.shards),
        frozen.held_out,
        corpus.owners.height,
        frozen.unmatched.rows,
        duplicates.height,
    )
    return frozen.digest


def _record(store: Store, corpus: str, now: datetime) -> None:
    """Put down since when a corpus is in force, so that it can be told who owned what, as it was believed at any time."""
    known = records.read(store, CORPORA)["corpus_sha256"]
    if known.is_empty() or known[-1] != corpus:
        records.append(store, CORPORA, pl.DataFrame([{"corpus_sha256": corpus, "in_force_since": now}]), now=now)
