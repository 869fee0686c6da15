"""Freeze a corpus: immutable parts under digests, its shards among them, and a manifest that names them.

`corpus.layout` decides which shard an example lies in.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from provenance.core.errors import ContractError, ExampleError, InputError
from provenance.core.store import Store, canonical_json, digest, from_parquet, sha256, to_parquet
from provenance.core.tables import CORPORA
from provenance.core.where import SerialWorkers, Workers
from provenance.core.words import MODALITIES, SIGNS_IN_ASCII, count_words, texts_in_ascii
from provenance.corpus import records
from provenance.corpus.delivery import Corpus, identities
from provenance.corpus.layout import ORDER, Rows, arrange, brief, labels, marks
from provenance.corpus.rights.licences import join_assertions

if TYPE_CHECKING:
    from provenance.corpus.pieces import Leaves, Stretch

log = logging.getLogger("provenance.ingest")

CURRENT = "frozen/corpus/current.json"
# Rows and bytes of contents that are frozen at a time.
STRETCH_ROWS, STRETCH_BYTES = 2**13, 2**26
LIST_WORKS = "`provenance rights works` lists them."
# Optional tables, unknown to earlier corpora; left out of the manifest if missing.
ADDED_LATER = ("disputes", "rights", "assertions", "places")


def corpus_key(corpus_digest: str) -> str:
    """The key of the manifest of a frozen corpus."""
    return f"frozen/corpus/{corpus_digest}.json"


def part_key(digest: str) -> str:
    """The key of the frozen table with a SHA-256."""
    return f"frozen/parts/{digest}.parquet"


@dataclass(frozen=True)
class Part:
    """A frozen table.

    Attributes:
        sha256: digest of the file; also its name.
        content_digest: digest of the contents and prompts in order; equal for parts that differ only in labels.
    """

    sha256: str
    rows: int
    content_digest: str

    @property
    def key(self) -> str:
        """The key of the part."""
        return part_key(self.sha256)


@dataclass(frozen=True)
class FrozenCorpus:
    """The manifest of a frozen corpus; its digest names everything that a night reads of the corpus.

    Attributes:
        unmatched: `escrow_id, reason, works, examples` of works without an owner.
        duplicates: clusters of copies among the examples; None if copies were not searched.
        disputes: the disputes table; None without disputes.
        rights, assertions: terms of works and their assertions; None in corpora frozen before terms were judged.
        places: `work_id, shard`, the numbers of the shards of each work; None where shards follow one another in the order of
            works.
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
    places: Part | None = None

    @cached_property
    def digest(self) -> str:
        """The digest of the manifest."""
        return digest(self.manifest)

    @property
    def manifest(self) -> dict[str, Any]:
        """The stored manifest; omits missing optional tables, so that earlier corpora keep their digests."""
        return {name: part for name, part in asdict(self).items() if part is not None or name not in ADDED_LATER}

    @property
    def parts(self) -> tuple[Part, ...]:
        """All tables of the corpus."""
        return (*self.shards, *(part for part in vars(self).values() if isinstance(part, Part)))


def freeze_part(store: Store, frame: pl.DataFrame) -> Part:
    """Write a table under its digest, unless it exists."""
    data = to_parquet(frame)
    contents = identities(frame) if "content_sha256" in frame.columns else []
    part = Part(sha256(data), frame.height, digest(contents))
    if not store.exists(part.key):
        store.write(part.key, data)
    return part


def _lay_out(
    store: Store,
    corpus: Corpus,
    train: pl.DataFrame,
    *,
    shard_examples: int,
    before: FrozenCorpus | None,
    workers: Workers,
) -> tuple[tuple[Part, ...], Part | None]:
    """Freeze the shards of the examples that models are trained on, and their places; what is in leaves, on the workers."""
    ordered = train.sort(*ORDER, nulls_last=True)
    if corpus.contents is None:
        ordered = with_tokens(ordered)
    facts = ordered if corpus.contents else ordered.with_columns(marks(ordered), labels(ordered))
    columns = corpus.contents.columns if corpus.contents else ordered.clear()
    shards = arrange(facts, _known(store, before, columns, workers), shard_examples)
    parts = [before.shards[number] if before and number is not None else None for number, _ in shards]
    anew = [rows for part, (_, rows) in zip(parts, shards, strict=True) if part is None]
    if corpus.contents is None:
        written = iter([freeze_part(store, ordered[rows]) for rows in anew])
    else:
        items = list(_stretches(corpus.contents, ordered, anew))
        frozen = workers.map(_freeze_stretch, (store, corpus.contents), items, what="shards frozen")
        written = (part for parts in frozen for part in parts)
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *(rows for _, rows in shards)])
    of = np.repeat(np.arange(len(shards)), [len(rows) for _, rows in shards])
    places = None
    if (np.diff(rows) < 0).any():
        numbered = pl.DataFrame({"work_id": ordered["work_id"].gather(rows), "shard": of})
        places = freeze_part(store, numbered.unique().sort("work_id", "shard"))
    return tuple(part or next(written) for part in parts), places


def _known(store: Store, corpus: FrozenCorpus | None, columns: pl.DataFrame, workers: Workers) -> pl.DataFrame:
    """`mark, labels, shard` of the examples of a frozen corpus; `labels` are null in shards that have other columns."""
    none = pl.DataFrame(schema={"mark": pl.Binary, "labels": pl.UInt64, "shard": pl.Int64})
    if corpus is None:
        return none
    present = set(store.list("frozen/parts"))
    numbers = [number for number, part in enumerate(corpus.shards) if part.key in present]
    if len(numbers) < len(corpus.shards):
        lost = len(corpus.shards) - len(numbers)
        log.warning("corpus %s: %d shards have no file, and are cut anew", corpus.digest[:12], lost)
    read = workers.map(_read_marks, (store, columns), [corpus.shards[number] for number in numbers], what="shards in force")
    return pl.concat([none, *(own.with_columns(shard=pl.lit(at, pl.Int64)) for at, own in zip(numbers, read, strict=True))])


def _read_marks(shared: tuple[Store, pl.DataFrame], part: Part) -> pl.DataFrame:
    """`mark, labels` of a shard's examples."""
    store, columns = shared
    frame = store.read_table(part.key)
    same = frame.schema == columns.schema
    return pl.DataFrame([marks(frame), labels(frame) if same else pl.Series("labels", [None] * frame.height, pl.UInt64)])


def _stretches(leaves: Leaves, ordered: pl.DataFrame, shards: Sequence[np.ndarray]) -> Iterator[tuple[Stretch, list[Rows]]]:
    """Neighbouring shards to freeze together: where their examples lie, and the rows of each shard among these, in order."""
    places, sizes = ordered["place"].to_numpy(), ordered["bytes"].to_numpy()
    start, count, size = 0, 0, 0
    for end, rows in enumerate(shards, 1):
        count, size = count + len(rows), size + int(sizes[rows].sum())
        if count >= STRETCH_ROWS or size >= STRETCH_BYTES or end == len(shards):
            together = np.sort(np.concatenate(shards[start:end]))
            yield leaves.stretch(places[together]), [brief(np.searchsorted(together, rows)) for rows in shards[start:end]]
            start, count, size = end, 0, 0


def _freeze_stretch(shared: tuple[Store, Leaves], item: tuple[Stretch, list[Rows]]) -> list[Part]:
    """Freeze the shards of a stretch, by their rows."""
    (store, leaves), (stretch, shards) = shared, item
    frame = leaves.read(stretch)
    return [freeze_part(store, frame[rows]) for rows in shards]


def freeze_corpus(
    store: Store,
    corpus: Corpus,
    *,
    shard_examples: int,
    duplicates: pl.DataFrame | None = None,
    rights: pl.DataFrame | None = None,
    before: FrozenCorpus | None = None,
    workers: Workers | None = None,
) -> FrozenCorpus:
    """Freeze a checked corpus and put it in force; the same corpus again changes nothing.

    Args:
        duplicates: the duplicates table, where copies have been looked for.
        rights: the rights table, where terms have been judged; what was asserted is kept with it.
        before: a corpus whose shards stay as far as their examples are there unchanged, so that their features stay valid.
    """
    train = corpus.examples.filter(pl.col("split") == "train")
    unmatched = (
        train.filter(pl.col("unmatched_reason").is_not_null())
        .group_by(escrow_id=pl.coalesce("owner_id", "work_id"))
        .agg(reason=pl.col("unmatched_reason").min(), works=pl.col("work_id").n_unique(), examples=pl.len())
        .sort("escrow_id")
    )
    shards, places = _lay_out(
        store, corpus, train, shard_examples=shard_examples, before=before, workers=workers or SerialWorkers()
    )
    frozen = FrozenCorpus(
        shards=shards,
        claims=freeze_part(store, corpus.claims),
        owners=freeze_part(store, corpus.owners),
        unmatched=freeze_part(store, unmatched),
        examples=train.height,
        held_out=corpus.examples.height - train.height,
        duplicates=None if duplicates is None else freeze_part(store, duplicates),
        disputes=None if corpus.disputes is None else freeze_part(store, corpus.disputes),
        rights=None if rights is None else freeze_part(store, rights),
        assertions=None if rights is None else freeze_part(store, join_assertions(corpus.examples, corpus.assertions)),
        places=places,
    )
    store.create(corpus_key(frozen.digest), canonical_json(frozen.manifest))
    if not store.exists(CURRENT) or store.read_json(CURRENT)["digest"] != frozen.digest:
        store.write(CURRENT, canonical_json({"digest": frozen.digest}))
    return frozen


def with_tokens(examples: pl.DataFrame) -> pl.DataFrame:
    """The examples with `tokens`: words, events, patches or, of opaque contents, bytes; an error names the example."""
    counts = np.zeros(examples.height, dtype=np.int64)
    rows, texts = texts_in_ascii(examples["content"], examples["modality"])
    counts[rows] = texts.str.count_matches(SIGNS_IN_ASCII).to_numpy()
    others = np.setdiff1d(np.arange(examples.height), rows)
    for row, (name, content, modality) in zip(
        others.tolist(), examples[others].select("example_id", "content", "modality").iter_rows(), strict=True
    ):
        try:
            counts[row] = count_words(content, modality, 0) if modality in MODALITIES else len(content)
        except ExampleError as error:
            where = f"example_id {name!r}"
            raise ContractError(where, expected=error.expected, found=error.found, hint=error.hint) from error
    return examples.with_columns(pl.Series("tokens", counts, dtype=pl.Int64))


def corpus_in_force(store: Store) -> FrozenCorpus:
    """The corpus that nights read now; ContractError if there is none yet."""
    if not store.exists(CURRENT):
        hint = "Run the DAG ingest_corpus first, or make demo."
        raise ContractError(store.locate(CURRENT), expected="a corpus in force", found="none", hint=hint)
    return load_frozen(store, store.read_json(CURRENT)["digest"])


def read_copies(store: Store, corpus: FrozenCorpus) -> pl.DataFrame:
    """`example_id, cluster_id` and more of the examples that have copies; none where copies were not looked for."""
    if corpus.duplicates is None:
        return pl.DataFrame(schema={"example_id": pl.String, "cluster_id": pl.String})
    return store.read_table(corpus.duplicates.key)


def read_examples(store: Store, corpus: FrozenCorpus, *columns: str, rows: Sequence[int] | None = None) -> pl.DataFrame:
    """Some columns of a corpus's examples, in the order of its shards.

    Args:
        rows: places in that order, ascending; by default all. Only shards with such rows are read.
    """
    if rows is None:
        return pl.concat([read_part(store, part.sha256, *columns) for part in corpus.shards])
    places, starts = np.asarray(rows), np.cumsum([0, *(part.rows for part in corpus.shards)])
    local = np.split(places, np.searchsorted(places, starts[1:-1]))
    parts = zip(corpus.shards, local, starts, strict=False)
    tables = [read_part(store, part.sha256, *columns)[own - start] for part, own, start in parts if own.size]
    return pl.concat(tables) if tables else read_part(store, corpus.shards[0].sha256, *columns).clear()


def read_part(store: Store, sha: str, *columns: str) -> pl.DataFrame:
    """Some columns of the frozen table with a SHA-256; tables frozen before prompts were kept have none."""
    key = part_key(sha)
    data = store.read(key)
    if "prompt" not in columns or "prompt" in pl.read_parquet_schema(io.BytesIO(data)):
        return from_parquet(data, store.locate(key), columns=columns)
    kept = [column for column in columns if column != "prompt"]
    frame = from_parquet(data, store.locate(key), columns=kept)
    return frame.with_columns(prompt=pl.lit(None, pl.Binary)).select(columns)


def count_new(store: Store, corpus: FrozenCorpus, earlier: FrozenCorpus) -> int:
    """How many examples of a corpus an earlier one did not have, with the same contents; reads only shards that differ."""

    def marks_in(one: FrozenCorpus, other: FrozenCorpus) -> pl.DataFrame:
        known = {part.content_digest for part in other.shards}
        parts = [part for part in one.shards if part.content_digest not in known]
        tables = (read_part(store, part.sha256, *ORDER, "content_sha256", "prompt") for part in parts)
        return pl.concat([pl.DataFrame(schema={"mark": pl.Binary}), *(marks(table).to_frame() for table in tables)])

    return marks_in(corpus, earlier).join(marks_in(earlier, corpus), on="mark", how="anti").height


def works_of(store: Store, corpus: FrozenCorpus) -> list[str]:
    """All works of a corpus; includes works held out whole if the corpus has a rights table."""
    parts = [corpus.rights] if corpus.rights else corpus.shards
    names = pl.concat([store.read_table(part.key, columns=["work_id"]) for part in parts])["work_id"]
    works: list[str] = names.unique().sort().to_list()
    return works


def load_frozen(store: Store, corpus_digest: str) -> FrozenCorpus:
    """Read the manifest of a frozen corpus."""
    stored: dict[str, Any] = store.read_json(corpus_key(corpus_digest))
    parts = {name: Part(**part) for name, part in stored.items() if isinstance(part, dict)}
    return FrozenCorpus(**(stored | parts | {"shards": tuple(Part(**shard) for shard in stored["shards"])}))


def find_frozen(store: Store, digest: str, where: str) -> FrozenCorpus:
    """A frozen corpus by its digest; InputError if there is none."""
    key = corpus_key(digest)
    if not digest.isalnum() or not store.exists(key):
        digests = sorted(key.rsplit("/", 1)[-1].removesuffix(".json") for key in store.list("frozen/corpus"))
        hint = f"There are: {', '.join(name for name in digests if name != 'current')}." if digests else ""
        raise InputError(where, expected="the digest of a frozen corpus", found=repr(digest), hint=hint)
    return load_frozen(store, digest)


def corpora(store: Store) -> list[str]:
    """Digests of corpora that were in force and still exist, the latest last."""
    names = records.read(store, CORPORA)["corpus_sha256"].to_list()
    if store.exists(CURRENT):
        names.append(store.read_json(CURRENT)["digest"])  # put in force before records were kept
    by_latest = dict.fromkeys(reversed(names))
    return [name for name in reversed(by_latest) if store.exists(corpus_key(name))]


def record_in_force(store: Store, corpus: str, now: datetime) -> None:
    """Record that a corpus is in force from now on, so that ownership as known at any time can be shown."""
    digests = records.read(store, CORPORA)["corpus_sha256"]
    if digests.is_empty() or digests[-1] != corpus:
        records.append(store, CORPORA, pl.DataFrame([{"corpus_sha256": corpus, "in_force_since": now}]), now=now)


def later_than(store: Store, corpus: str, day: date) -> str:
    """A notice that a corpus came in force after a day; empty if it did not, or without a record."""
    since = records.read(store, CORPORA).filter(pl.col("corpus_sha256") == corpus)["in_force_since"].min()
    if not isinstance(since, datetime) or since.date() <= day:
        return ""
    return f"The corpus {corpus[:12]} was put in force on {since:%Y-%m-%d}, after {day}: nobody knew it on that day."


def corpus_at(store: Store, moment: datetime) -> str:
    """The digest of the corpus in force at a time; InputError if it is unknown or removed."""
    history = records.read(store, CORPORA).sort("in_force_since", maintain_order=True)
    before = history.filter(pl.col("in_force_since") <= moment)
    if before.is_empty() and history.is_empty() and store.exists(CURRENT):
        return str(store.read_json(CURRENT)["digest"])  # put in force before records were kept
    where = f"corpus in force at {moment.isoformat(timespec='seconds')}"
    if before.is_empty():
        first = history["in_force_since"].min()
        found = f"none before {first:%Y-%m-%dT%H:%M:%SZ}" if isinstance(first, datetime) else "none; run the DAG ingest_corpus"
        raise InputError(where, expected="one that is known", found=found)
    corpus = str(before["corpus_sha256"][-1])
    if not store.exists(corpus_key(corpus)):
        hint = "Deliver it again, or ask for a published night (--night)."
        raise InputError(where, expected=f"the corpus {corpus[:12]}", found="that housekeeping has removed it", hint=hint)
    return corpus
