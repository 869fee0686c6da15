"""Read the files of a corpus for signals (`embedded`), and record them.

frozen/read/<version>/<SHA-256 of a shard>.json         its files were read for signals, by this version of the reader
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from provenance.core.store import Store
from provenance.core.tables import SIGNALS
from provenance.core.where import Where, batched
from provenance.corpus import records
from provenance.corpus.rights.signals import embedded
from provenance.corpus.shards import FrozenCorpus, Part, read_part

# Raised with what `embedded` reads, so that an ingest reads the files of known shards again.
READ = "frozen/read/2"
# Shards read by one task.
TASK = 16


def read_key(part: Part) -> str:
    """The key of the mark that a shard's files were read for signals."""
    return f"{READ}/{part.sha256}.json"


def read_missing(where: Where, corpus: FrozenCorpus, now: datetime) -> int:
    """Record the signals in files of shards that were not read yet, on the workers.

    Args:
        now: recorded time of the signals.

    Returns:
        The number of signals recorded.
    """
    present = set(where.store.list(READ))
    missing = [part for part in corpus.shards if read_key(part) not in present]
    batches = list(batched(missing, TASK))
    return sum(where.workers.map(_read, (where.store, now), batches, what="signals in files")) if missing else 0


def _read(shared: tuple[Store, datetime], parts: Sequence[Part]) -> int:
    store, now = shared
    count = 0
    for part in parts:
        frame = read_part(store, part.sha256, "content", "content_sha256").unique("content_sha256", maintain_order=True)
        signals = [fields for content, sha in frame.iter_rows() for fields in embedded.parse(content, sha, now=now)]
        if signals:
            records.append(store, SIGNALS, pl.DataFrame(signals, schema=SIGNALS.schema), now=now)
        # Last, so that a shard is read again if its signals were not recorded.
        store.write(read_key(part), b"{}\n")
        count += len(signals)
    return count
