"""Finds passages of outputs that stand word for word in works: an index of runs of words, made when a corpus is ingested.

    frozen/ngrams/<version>/<SHA-256 of a shard>.parquet     `run, row`: hashes of runs of words, and the examples with them

A run is eight words and signs of text or code, whatever blanks lie between them, or sixteen events of music. A hash only finds
candidates: what is reported was compared word by word, and is as long as possible.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain

import numpy as np
import polars as pl

from provenance.core.store import Store
from provenance.core.tables import MATCHES
from provenance.core.where import Where, batched
from provenance.core.words import SIGNS, SIGNS_IN_ASCII, texts_in_ascii, whole_runs
from provenance.corpus.shards import FrozenCorpus, Part, read_part

FOLDER = "frozen/ngrams/1"
RUNS = {"text": 8, "code": 8, "music": 16}
# A match has so many letters and digits, and so many words among its words and signs: shorter ones are nobody's.
LETTERS, WORDS = 20, 5
# Examples of a shard compared with one output: those that share most runs. Works named for one passage.
CANDIDATES, NAMED = 32, 3
# Shards indexed by one task.
AT_ONCE = 16
# Odd, so that no word loses its weight modulo 2 ** 64.
BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Cut:
    """A content as words.

    Attributes:
        words: as they are written.
        starts, ends: of each, its first byte and the one after its last.
        runs: hashes of the runs of words that begin at each word, `(len(words) - size + 1,)` uint64; empty for short contents.
    """

    words: list[bytes]
    starts: list[int]
    ends: list[int]
    runs: np.ndarray


@dataclass(frozen=True)
class Match:
    """A passage of an output that is in an example: numbers of its words, and the first byte of it in the example."""

    first: int
    end: int
    example_id: str
    work_id: str
    at: int


@dataclass(frozen=True)
class _Example:
    example_id: str
    work_id: str
    modality: str
    cut: Cut


@dataclass(frozen=True)
class _Query:
    store: Store
    modality: str
    outputs: dict[str, Cut] = field(default_factory=dict)


def index_key(part: Part) -> str:
    """The key of a shard's index."""
    return f"{FOLDER}/{part.sha256}.parquet"


def index_missing(where: Where, corpus: FrozenCorpus) -> int:
    """Index the shards that have no index yet, on the workers; returns their number."""
    present = set(where.store.list(FOLDER))
    missing = [part for part in corpus.shards if index_key(part) not in present]
    if missing:
        for _ in where.workers.map(_index_parts, where.store, list(batched(missing, AT_ONCE)), what="runs of words"):
            pass
    return len(missing)


def _index_parts(store: Store, parts: Sequence[Part]) -> None:
    known = _WordHashes()
    for part in parts:
        _index(store, part, known)


def _index(store: Store, part: Part, known: _WordHashes) -> None:
    frame = read_part(store, part.sha256, "content", "modality")
    runs, rows = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.uint32)]
    ascii_rows, texts = texts_in_ascii(frame["content"], frame["modality"])
    words_of = texts.str.extract_all(SIGNS_IN_ASCII)
    each = known.of_all(words_of.explode().drop_nulls())
    groups = [(ascii_rows, RUNS["text"], each, words_of.list.len().to_numpy())]
    others = frame.with_row_index("row")[np.setdiff1d(np.arange(frame.height), ascii_rows)]
    for (modality,), group in others.group_by("modality", maintain_order=True):
        words = [_words(content, str(modality)) for content in group["content"]]
        each = np.fromiter(map(known.__getitem__, chain.from_iterable(words)), dtype=np.uint64)
        groups.append((group["row"].to_numpy(), RUNS.get(str(modality), 1), each, np.array([len(own) for own in words])))
    for own, size, each, lengths in groups:
        hashes, counts = _hashes(each, lengths, size)
        runs.append(hashes)
        rows.append(np.repeat(own.astype(np.uint32), counts))
    run, row = _in_order(np.concatenate(runs), np.concatenate(rows))
    store.write_table(index_key(part), pl.DataFrame({"run": run, "row": row}))


def _in_order(runs: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs and their rows, sorted by both; each pair once."""
    # Few runs stand in several rows: to sort by runs, and then those few by rows, takes a fifth of a sort by both.
    order = np.argsort(runs)
    runs, rows = runs[order], rows[order]
    equal = runs[1:] == runs[:-1]
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    rows[tied] = rows[tied][np.lexsort((rows[tied], runs[tied]))]
    new = np.append(True, ~equal | (rows[1:] != rows[:-1]))[: len(runs)]
    return runs[new], rows[new]


def _words(content: bytes, modality: str) -> Sequence[bytes | str]:
    """A content's words, as `cut` has them; those of text are not encoded yet."""
    if modality == "music":
        return [content[at : at + 1] for at in range(len(content))]
    if modality not in RUNS:
        return []
    return SIGNS.findall(content.decode(errors="surrogateescape"))


def cut(content: bytes, modality: str) -> Cut:
    """A content as words; nothing of images and opaque contents."""
    if modality == "music":
        words, starts = [content[at : at + 1] for at in range(len(content))], list(range(len(content)))
    elif modality in RUNS:
        words, starts, at, seen = [], [], 0, 0
        text = content.decode(errors="surrogateescape")
        for match in SIGNS.finditer(text):
            at += len(text[seen : match.start()].encode(errors="surrogateescape"))
            words.append(match[0].encode(errors="surrogateescape"))
            starts.append(at)
            at, seen = at + len(words[-1]), match.end()
    else:
        words, starts = [], []
    ends = [start + len(word) for start, word in zip(starts, words, strict=True)]
    known = _WordHashes()
    each = np.array([known[word] for word in words], dtype=np.uint64)
    return Cut(words, starts, ends, _hashes(each, np.array([len(words)]), RUNS.get(modality, 1))[0])


class _WordHashes(dict[bytes | str, int]):
    """Hashes of words, of 64 bits; each is computed once."""

    def __missing__(self, word: bytes | str) -> int:
        data = word if isinstance(word, bytes) else word.encode(errors="surrogateescape")
        self[word] = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
        return self[word]

    def of_all(self, words: pl.Series) -> np.ndarray:
        """The hashes of many words, (n,) uint64: those of a text, one after another."""
        numbered = words.cast(self._kind)
        self._last = numbered.clear()  # without any such series Polars would forget the numbers
        codes = numbered.to_physical().to_numpy()
        more = max(0, int(codes.max(initial=0)) + 1 - len(self._by_code))
        self._by_code = np.append(self._by_code, np.zeros(more, dtype=np.uint64))
        new = pl.DataFrame({"code": codes, "word": words}).filter(self._by_code[codes] == 0).unique("code")
        self._by_code[new["code"]] = [self[word] for word in new["word"]]
        hashes: np.ndarray = self._by_code[codes]
        return hashes

    @cached_property
    def _kind(self) -> pl.Categorical:
        """A type that numbers words."""
        return pl.Categorical(pl.Categories.random())

    @cached_property
    def _by_code(self) -> np.ndarray:
        """Hashes by such a number, uint64; 0 where none is known yet."""
        return np.zeros(0, dtype=np.uint64)


def _hashes(each: np.ndarray, lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the runs of `size` words of contents, one after another, uint64; and their number in each content.

    Args:
        each: the hashes of the words of all contents, uint64; lengths: the number of words of each content.
    """
    lengths = lengths.astype(np.int64)
    count, sums = max(0, len(each) - size + 1), np.zeros(max(0, len(each) - size + 1), dtype=np.uint64)
    for at in range(size):
        sums = sums * BASE + each[at : at + count]
    return sums[whole_runs(lengths, size)], np.maximum(lengths - size + 1, 0)


def find_matches(where: Where, corpus: FrozenCorpus, outputs: pl.DataFrame) -> pl.DataFrame:
    """The passages of outputs that stand word for word in works of a corpus.

    Args:
        outputs: `output_id, content, modality`.

    Returns:
        The matches table. A passage that is a part of a longer one is not reported by itself.
    """
    cuts = {name: (cut(content, modality), modality) for name, content, modality in outputs.iter_rows()}
    queries = {kind: _Query(where.store, kind, {n: own for n, (own, m) in cuts.items() if m == kind}) for kind in RUNS}
    found: dict[str, list[Match]] = defaultdict(list)
    for kind, query in queries.items():
        if any(len(own.runs) for own in query.outputs.values()):
            for matches in where.workers.map(_match_shard, query, corpus.shards, what=f"word for word in {kind}"):
                for name, own in matches.items():
                    found[name] += own
    rows = [row for name in cuts for row in _longest(name, cuts[name][0], found[name])]
    return MATCHES.frame(rows)


def _match_shard(query: _Query, part: Part) -> dict[str, list[Match]]:
    """The matches of outputs with the examples of a shard."""
    index = query.store.read_table(index_key(part))
    runs = index["run"].to_numpy()
    rows: dict[str, list[int]] = {}
    for name, own in query.outputs.items():
        wanted = np.unique(own.runs)
        first, last = (np.searchsorted(runs, wanted, side=side) for side in ("left", "right"))
        hits = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)]) if len(wanted) else np.zeros(0)
        shared, counts = np.unique(index["row"].to_numpy()[hits.astype(np.int64)], return_counts=True)
        if len(shared):
            rows[name] = shared[np.lexsort((shared, -counts))][:CANDIDATES].tolist()
    if not rows:
        return {}
    examples = read_part(query.store, part.sha256, "example_id", "work_id", "content", "modality")
    example = partial(_example, examples, {})
    matches = {}
    for name, chosen in rows.items():
        matches[name] = [match for row in chosen for match in _compare(query.outputs[name], example(row), query.modality)]
    return matches


def _example(examples: pl.DataFrame, kept: dict[int, _Example], row: int) -> _Example:
    """An example of a shard, cut once."""
    if row not in kept:
        example_id, work_id, content, modality = examples.row(row)
        kept[row] = _Example(example_id, work_id, modality, cut(content, modality))
    return kept[row]


def _compare(output: Cut, example: _Example, kind: str) -> Iterable[Match]:
    """Passages that an output and an example share, each as long as possible."""
    if RUNS.get(example.modality) != RUNS[kind]:  # text may stand in code, and code in text, but neither in music
        return
    places: dict[int, list[int]] = defaultdict(list)
    for at, run in enumerate(example.cut.runs.tolist()):
        places[run].append(at)
    ours, theirs = output.words, example.cut.words
    for first, run in enumerate(output.runs.tolist()):
        for at in places.get(run, ()):
            if first and at and ours[first - 1] == theirs[at - 1]:
                continue  # a part of the passage that began a word before
            length = 0
            while first + length < len(ours) and at + length < len(theirs) and ours[first + length] == theirs[at + length]:
                length += 1
            if length >= RUNS[kind] and (kind == "music" or _says_something(ours[first : first + length])):
                yield Match(first, first + length, example.example_id, example.work_id, example.cut.starts[at])


def _says_something(words: Sequence[bytes]) -> bool:
    """Whether a passage has enough words and letters to be somebody's."""
    spoken = [word for word in words if word[:1].isalnum() or word[:1] == b"_" or word[0] > 127]
    return len(spoken) >= WORDS and sum(map(len, spoken)) >= LETTERS


def _longest(output_id: str, output: Cut, matches: Iterable[Match]) -> Iterable[tuple[object, ...]]:
    """Rows of the matches table of an output: passages that are in no longer one, each with some of the works that have it."""
    by_passage: dict[tuple[int, int], list[Match]] = defaultdict(list)
    for match in matches:
        by_passage[match.first, match.end].append(match)
    longest: list[tuple[int, int]] = []
    for first, end in sorted(by_passage, key=lambda passage: (passage[0] - passage[1], passage)):
        if not any(a <= first and end <= b for a, b in longest):
            longest.append((first, end))
    for first, end in sorted(longest):
        having = {m.work_id: m for (a, b), own in by_passage.items() if a <= first and end <= b for m in reversed(own)}
        exact = {
            match.work_id: match for match in sorted(by_passage[first, end], key=lambda m: (m.example_id, m.at), reverse=True)
        }
        for work_id, match in sorted(exact.items())[:NAMED]:
            yield output_id, output.starts[first], output.ends[end - 1], work_id, match.example_id, match.at, len(having)
