"""Copies: examples that hold the same content, or nearly, whoever claims them.

Whoever copies a work into the corpus would be paid for it once more. Contents are compared by the runs of words that they
share (MinHash and locality-sensitive hashing: Broder 1997; datasketch). What comes of it is data: a person may decide that an
example stands alone, or is the same as another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from datasketch import MinHash, MinHashLSH
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from provenance.core.contracts import DUPLICATES, ESCROW
from provenance.core.errors import ContractError
from provenance.core.money import PPB, allocate
from provenance.core.words import words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# From this part of shared runs on (Jaccard), two contents are copies.
ALIKE = 0.5
# Words in a run: fewer, and what everybody writes would look copied. Patches of an image say where they stand.
RUN = {"text": 3, "code": 3, "music": 6, "image": 1}
# Contents of fewer runs are compared as a whole only.
FEWEST = 8
PERMUTATIONS, SEED = 128, 1


def find_duplicates(examples: pl.DataFrame, decisions: pl.DataFrame | None = None) -> pl.DataFrame:
    """Clusters of copies among examples.

    Args:
        examples: `example_id, content, content_sha256, modality`.
        decisions: the duplicate decisions of the delivery, checked by `check_decisions`.

    Returns:
        The duplicates table, one row for each example that has a copy.
    """
    ids = examples["example_id"].to_list()
    place = {example: at for at, example in enumerate(ids)}
    links = dict(_exact(examples["content_sha256"].to_list()))
    links |= dict(_near(examples["content"].to_list(), examples["modality"].to_list()))
    decided: dict[int, str] = {}
    for row in () if decisions is None else decisions.iter_rows(named=True):
        at = place[row["example_id"]]
        decided[at] = f"{row['decided_by']}: {row['reason']}"
        if row["same_as"] is None:
            links = {pair: alike for pair, alike in links.items() if at not in pair}
        else:
            links[_pair(at, place[row["same_as"]])] = 1.0
    if not links:
        return pl.DataFrame(schema=DUPLICATES.schema)
    pairs = np.asarray(list(links))
    count, label = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=(len(ids),) * 2), directed=False)
    size = np.bincount(label, minlength=count)
    first: dict[int, str] = {}
    for at in np.argsort(ids, kind="stable"):
        first.setdefault(int(label[at]), ids[at])
    alike = np.zeros(len(ids))
    for (one, two), value in links.items():
        alike[[one, two]] = np.maximum(alike[[one, two]], value)
    rows = [
        {
            "cluster_id": first[int(label[at])],
            "example_id": ids[at],
            "similarity": float(alike[at]),
            "decision": decided.get(int(at), ""),
        }
        for at in np.flatnonzero(size[label] > 1)
    ]
    return pl.DataFrame(rows, schema=DUPLICATES.schema).sort("cluster_id", "example_id")


def check_decisions(decisions: pl.DataFrame, examples: pl.DataFrame, file: str) -> None:
    """Raise ContractError where a decision names no example, itself, or the same example twice."""
    known = set(examples["example_id"])
    for row, decision in enumerate(decisions.iter_rows(named=True)):
        for column in ("example_id", "same_as"):
            value = decision[column]
            if value is not None and value not in known:
                raise ContractError(
                    f"{file}: row {row}: column {column!r}",
                    expected="an example that the model was trained on",
                    found=repr(value),
                )
        if decision["same_as"] == decision["example_id"]:
            raise ContractError(f"{file}: row {row}: column 'same_as'", expected="another example", found="the same one")


def claimants(held: pl.DataFrame, *, rule: str) -> pl.DataFrame:
    """Who gets what a cluster earns: `cluster_id, account, party_id, stake_ppb`, stakes summing to 1e9 per cluster.

    Args:
        held: `cluster_id, work_id, account, party_id, stake_ppb, since` (a date or nothing), one row per party of each member.
        rule: `earliest`: those whose claim began first (or, where none says when, whose work was acquired first), by stake; an
            undated claim comes after all dated ones, and escrow after both. `equal`: every member's parties, in equal parts.
    """
    if rule == "earliest":
        # A claim without a beginning may not push in before one that has proof of its date.
        late = pl.col("since").fill_null(pl.date(9999, 12, 31))
        for key in (pl.col("account") == ESCROW, late):
            held = held.filter(key == key.min().over("cluster_id"))
    weights = held.group_by("cluster_id", "account", "party_id").agg(weight=pl.col("stake_ppb").sum())
    rows = []
    for (cluster,), group in weights.sort("cluster_id", "account", "party_id").group_by("cluster_id", maintain_order=True):
        stakes = allocate(PPB, group["weight"].to_list())
        rows.append(group.select(pl.lit(cluster).alias("cluster_id"), "account", "party_id", pl.Series("stake_ppb", stakes)))
    return pl.concat(rows) if rows else weights.rename({"weight": "stake_ppb"})


def _exact(digests: Sequence[str]) -> Iterator[tuple[tuple[int, int], float]]:
    first: dict[str, int] = {}
    for at, digest in enumerate(digests):
        other = first.setdefault(digest, at)
        if other != at:
            yield (other, at), 1.0


def _near(contents: Sequence[bytes], modalities: Sequence[str]) -> Iterator[tuple[tuple[int, int], float]]:
    """Pairs that share half of their runs or more, by estimate."""
    index = MinHashLSH(threshold=ALIKE, num_perm=PERMUTATIONS)
    sketches: dict[int, MinHash] = {}
    for at, (content, modality) in enumerate(zip(contents, modalities, strict=True)):
        runs = _runs(words(content, modality, at), RUN[modality])
        if len(runs) < FEWEST:
            continue
        sketch = MinHash(num_perm=PERMUTATIONS, seed=SEED)
        sketch.update_batch(sorted(runs))
        for other in sorted(index.query(sketch)):
            alike = sketch.jaccard(sketches[other])
            if alike >= ALIKE:
                yield (other, at), alike
        index.insert(at, sketch)
        sketches[at] = sketch


def _runs(found: Sequence[bytes], size: int) -> set[bytes]:
    return {b"\x00".join(found[at : at + size]) for at in range(len(found) - size + 1)}


def _pair(one: int, two: int) -> tuple[int, int]:
    return min(one, two), max(one, two)
