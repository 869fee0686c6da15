"""Stage `corpus.ingest`: check the delivered corpus, cut it into shards and freeze it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import polars as pl

from provenance.core.locks import freezing
from provenance.core.where import Where
from provenance.corpus import quality
from provenance.corpus.delivery import Corpus
from provenance.corpus.duplicates import find_duplicates, read_decisions
from provenance.corpus.ngrams import index_missing
from provenance.corpus.ownership import since
from provenance.corpus.pieces import read_pieces
from provenance.corpus.rights.licences import rights_of
from provenance.corpus.rights.policy import read_policy
from provenance.corpus.rights.signals.in_files import read_missing
from provenance.corpus.rights.sources.lists import registry_in_force
from provenance.corpus.rights.sources.registry import source_ids
from provenance.corpus.shards import CURRENT, FrozenCorpus, corpus_in_force, freeze_corpus, record_in_force

log = logging.getLogger("provenance.ingest")


def ingest(where: Where) -> str:
    """Check the delivered corpus, freeze it and put it in force; returns its digest. CheckFailed: the rules block it."""
    settings, store, workers = where.settings, where.store, where.workers
    store.check_writable()
    policy, rules = read_policy(settings.rights.policy), quality.read_rules(settings.corpus.quality)
    with read_pieces(where, settings.corpus.folder) as corpus:
        duplicates = _find_duplicates(where, corpus)
        now, registry = datetime.now(UTC), registry_in_force(store)
        source_id = source_ids(registry, corpus.examples["source_uri"], workers)
        of_works = corpus.examples.select("work_id", "licence_spdx", "acquired_at", source_id=source_id)
        rights = rights_of(of_works, corpus.assertions, policy, now=now)
        report = quality.report_on(corpus, rights=rights, duplicates=duplicates, registry=registry, rules=rules, now=now)
        quality.keep(store, report, now)
        with freezing(where.databases.locks):
            before = corpus_in_force(store) if store.exists(CURRENT) else None
            frozen = freeze_corpus(
                store,
                corpus,
                shard_examples=settings.corpus.shard_examples,
                duplicates=duplicates,
                rights=rights,
                before=before,
                workers=workers,
            )
            record_in_force(store, frozen.digest, now)
    _say_what_stays(frozen, before)
    index_missing(where, frozen)
    reserved = read_missing(where, frozen, now)
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
    if reserved:
        log.info("corpus %s: %d statements on use in the files themselves", frozen.digest[:12], reserved)
    return frozen.digest


def _say_what_stays(frozen: FrozenCorpus, before: FrozenCorpus | None) -> None:
    """Log what part of a corpus lies in shards of the one in force before, whose features stay valid."""
    known = {part.content_digest for part in before.shards} if before else set()
    stay = [part.rows for part in frozen.shards if part.content_digest in known]
    log.info(
        "corpus %s: features of %.1f %% of its examples must be computed; %d of %d shards have the contents that they had",
        frozen.digest[:12],
        100 - 100 * sum(stay) / frozen.examples,
        len(stay),
        len(frozen.shards),
    )


def _find_duplicates(where: Where, corpus: Corpus) -> pl.DataFrame:
    """The copies among the examples that models are trained on."""
    train = corpus.examples.filter(pl.col("split") == "train")
    decisions = read_decisions(where.store, where.settings.corpus.folder, train)
    columns = ("example_id", "work_id", "content_sha256", "identity", "modality", "acquired_at", "runs", "place")
    dated = since(train.select(columns), corpus.claims).sort("place")
    sketched = corpus.contents.pieces if corpus.contents else ()
    return find_duplicates(dated, decisions, sketched=sketched, workers=where.workers)
