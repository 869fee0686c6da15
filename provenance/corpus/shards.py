"""A corpus cut into shards and frozen: immutable parts under their digests, and a manifest that names them.

Shards are cut where the content says so (content-defined chunking): a work added or withdrawn changes the shard that it
falls into and no other, so the features of all others stay good.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from provenance.core.errors import ContractError, ExampleError
from provenance.core.store import Store, canonical_json, digest, sha256, to_parquet
from provenance.core.words import words
from provenance.corpus.examples import Corpus
from provenance.corpus.rights.licences import stated

CURRENT = "frozen/corpus/current.json"
# Tables that a corpus may have, and that none had before it was known of them.
ADDED_LATER = ("disputes", "rights", "assertions")


def corpus_key(corpus_digest: str) -> str:
    """Where the manifest of a frozen corpus lies."""
    return f"frozen/corpus/{corpus_digest}.json"


def part_key(digest: str) -> str:
    """Where the frozen table with a SHA-256 lies in the store."""
    return f"frozen/parts/{digest}.parquet"


@dataclass(frozen=True)
class Part:
    """A frozen table.

    Attributes:
        sha256: of the file; also its name.
        content_digest: of what a model would see of it, in order; equal for parts that differ in labels alone.
    """

    sha256: str
    rows: int
    content_digest: str

    @property
    def key(self) -> str:
        """Where the part lies in the store."""
        return part_key(self.sha256)


@dataclass(frozen=True)
class FrozenCorpus:
    """What `ingest_corpus` commits: the digest names everything that a night reads of the corpus.

    Attributes:
        unmatched: `escrow_id, reason, works, examples` of what has no owner yet.
        duplicates: clusters of copies among the examples; None where nobody has looked for any.
        disputes: who says that a work is theirs, and when; None where nobody has said so.
        rights, assertions: under which terms works came, and on whose word; None in corpora that were frozen before these
            were kept, whose digests stay as they are.
    """

    shards: tuple[Part, ...]
    claims: Part
    owners: Part
    unmatched: Part
    examples: int
    held_out: int
    duplicates: Part | None = None
    disputes: Part | None = None
    rights: Part | None = None
    assertions: Part | None = None

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return digest(self.manifest)

    @property
    def manifest(self) -> dict[str, Any]:
        """What is written down; without what came later and is not there, so that earlier corpora keep their digests."""
        return {name: part for name, part in asdict(self).items() if part is not None or name not in ADDED_LATER}

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of its tables."""
        return (*self.shards, *(part for part in vars(self).values() if isinstance(part, Part)))


def freeze_part(store: Store, frame: pl.DataFrame) -> Part:
    """Write a table under its digest, unless it is there already."""
    data = to_parquet(frame)
    contents = frame["content_sha256"].to_list() if "content_sha256" in frame.columns else []
    part = Part(sha256(data), frame.height, digest(contents))
    if not store.exists(part.key):
        store.write(part.key, data)
    return part


def cut(examples: pl.DataFrame, shard_examples: int) -> Iterator[pl.DataFrame]:
    """Cut examples, in the order of their works, into shards of about `shard_examples` (half to twice as many)."""
    ordered = examples.sort("work_id", "position", "example_id", nulls_last=True)
    smallest, spread, largest = max(1, shard_examples // 2), max(1, shard_examples // 2), 2 * shard_examples
    start = 0
    for index, content in enumerate(ordered["content_sha256"]):
        size = index + 1 - start
        if size >= largest or (size >= smallest and int(content[:8], 16) % spread == 0):
            yield ordered.slice(start, size)
            start = index + 1
    if start < ordered.height:
        yield ordered.slice(start)


def freeze_corpus(
    store: Store,
    corpus: Corpus,
    *,
    shard_examples: int,
    duplicates: pl.DataFrame | None = None,
    rights: pl.DataFrame | None = None,
) -> FrozenCorpus:
    """Freeze a checked corpus and put it in force; the same corpus again changes nothing.

    Args:
        duplicates: the duplicates table, where copies have been looked for.
        rights: the rights table, where terms have been judged; what was asserted is kept with it.
    """
    train = corpus.examples.filter(pl.col("split") == "train")
    train = train.with_columns(tokens=count_words(train))
    unmatched = (
        train.filter(pl.col("unmatched_reason").is_not_null())
        .group_by(escrow_id=pl.coalesce("owner_id", "work_id"))
        .agg(reason=pl.col("unmatched_reason").min(), works=pl.col("work_id").n_unique(), examples=pl.len())
        .sort("escrow_id")
    )
    frozen = FrozenCorpus(
        shards=tuple(freeze_part(store, shard) for shard in cut(train, shard_examples)),
        claims=freeze_part(store, corpus.claims),
        owners=freeze_part(store, corpus.owners),
        unmatched=freeze_part(store, unmatched),
        examples=train.height,
        held_out=corpus.examples.height - train.height,
        duplicates=None if duplicates is None else freeze_part(store, duplicates),
        disputes=None if corpus.disputes is None else freeze_part(store, corpus.disputes),
        rights=None if rights is None else freeze_part(store, rights),
        assertions=None if rights is None else freeze_part(store, stated(corpus.examples, corpus.assertions)),
    )
    store.create(corpus_key(frozen.digest), canonical_json(frozen.manifest))
    if not store.exists(CURRENT) or store.read_json(CURRENT)["digest"] != frozen.digest:
        store.write(CURRENT, canonical_json({"digest": frozen.digest}))
    return frozen


def count_words(examples: pl.DataFrame) -> pl.Series:
    """How many words, events or patches each example holds; an error names the example that cannot be cut."""
    counts = []
    for name, content, modality in examples.select("example_id", "content", "modality").iter_rows():
        try:
            counts.append(len(words(content, modality, 0)))
        except ExampleError as error:
            where = f"example_id {name!r}"
            raise ContractError(where, expected=error.expected, found=error.found, hint=error.hint) from error
    return pl.Series("tokens", counts, dtype=pl.Int64)


def corpus_in_force(store: Store) -> FrozenCorpus:
    """The corpus that nights read now; raises ContractError where there is none yet."""
    if not store.exists(CURRENT):
        hint = "Run the DAG ingest_corpus first, or make demo."
        raise ContractError(store.locate(CURRENT), expected="a corpus in force", found="none", hint=hint)
    return load_frozen(store, store.read_json(CURRENT)["digest"])


def read_examples(store: Store, corpus: FrozenCorpus, *columns: str, rows: Sequence[int] | None = None) -> pl.DataFrame:
    """Some columns of a corpus's examples, in the order of its shards.

    Args:
        rows: places in that order, ascending; by default all. Shards that have none of them are not read.
    """
    if rows is None:
        return pl.concat([store.read_table(part.key, columns=columns) for part in corpus.shards])
    found, start, wanted = [], 0, np.asarray(rows)
    for part in corpus.shards:
        mine = wanted[(wanted >= start) & (wanted < start + part.rows)] - start
        if mine.size:
            found.append(store.read_table(part.key, columns=columns)[mine])
        start += part.rows
    return pl.concat(found)


def works_of(store: Store, corpus: FrozenCorpus) -> list[str]:
    """All works of a corpus; such as are held out whole, too, where terms were judged."""
    parts = [corpus.rights] if corpus.rights else corpus.shards
    named = pl.concat([store.read_table(part.key, columns=["work_id"]) for part in parts])["work_id"]
    works: list[str] = named.unique().sort().to_list()
    return works


def load_frozen(store: Store, corpus_digest: str) -> FrozenCorpus:
    """The manifest of a frozen corpus."""
    stored: dict[str, Any] = store.read_json(corpus_key(corpus_digest))
    parts = {name: Part(**part) for name, part in stored.items() if isinstance(part, dict)}
    return FrozenCorpus(**(stored | parts | {"shards": tuple(Part(**shard) for shard in stored["shards"])}))
