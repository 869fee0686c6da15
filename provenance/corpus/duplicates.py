"""Copies: examples that hold the same content, or nearly, whoever claims them.

Whoever copies a work into the corpus would be paid for it once more. Contents are compared by the runs of characters or
events that they share (MinHash and locality-sensitive hashing: Broder 1997; datasketch). Each is a copy of the earlier one that
it is most like, and of that one alone: what is a little like two works does not make them one. What comes of it is data: a
person may decide that an example stands alone, or is the same as another.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from datasketch import MinHash, MinHashLSH
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from provenance.core.contracts import DECISIONS, DUPLICATES, conform, is_unclaimed, reject, unique
from provenance.core.money import PPB, allocate
from provenance.core.store import Store
from provenance.core.words import words
from provenance.corpus.examples import delivered

# From this part of shared runs on (Jaccard), two contents are copies.
ALIKE = {"text": 0.4, "code": 0.4, "music": 0.5, "image": 0.5}
# Characters or events in a run: fewer, and what everybody writes would look copied. Patches of an image say where they stand.
RUN = {"text": 8, "code": 8, "music": 6, "image": 1}
# Contents of fewer runs are compared as a whole only.
FEWEST = 16
# The index may name too many, which are then compared, but should miss few.
PERMUTATIONS, SEED, MISSES = 128, 1, (0.1, 0.9)


def find_duplicates(examples: pl.DataFrame, decisions: pl.DataFrame | None = None) -> pl.DataFrame:
    """Clusters of copies among examples.

    Args:
        examples: `example_id, content, content_sha256, modality, since` (`examples.since`).
        decisions: the duplicate decisions of the delivery, checked by `check_decisions`.

    Returns:
        The duplicates table, one row for each example that has a copy.
    """
    # What nobody dates may not push in before what has a date.
    examples = examples.sort("since", "example_id", nulls_last=True)
    ids = examples["example_id"].to_list()
    place = {example: at for at, example in enumerate(ids)}
    decided = [] if decisions is None else decisions.to_dicts()
    alone = {place[row["example_id"]] for row in decided if row["same_as"] is None}
    joined = {place[row["example_id"]]: place[row["same_as"]] for row in decided if row["same_as"] is not None}
    links = dict(_links(examples, alone, joined)) | dict.fromkeys(joined.items(), 1.0)
    if not links:
        return pl.DataFrame(schema=DUPLICATES.schema)
    pairs = np.asarray(list(links))
    _, label = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=(len(ids),) * 2), directed=False)
    alike = np.zeros(len(ids))
    np.maximum.at(alike, pairs, np.asarray(list(links.values()))[:, None])
    reasons = {row["example_id"]: f"{row['decided_by']}: {row['reason']}" for row in decided}
    table = pl.DataFrame(
        {"example_id": ids, "similarity": alike, "decision": [reasons.get(i, "") for i in ids], "label": label}
    )
    clusters = table.filter(pl.len().over("label") > 1).with_columns(cluster_id=pl.col("example_id").min().over("label"))
    return clusters.select(*DUPLICATES.columns).sort("cluster_id", "example_id")


def read_decisions(store: Store, folder: str, examples: pl.DataFrame) -> pl.DataFrame | None:
    """What people have decided about copies, checked; None where nothing is delivered."""
    found, file = delivered(store, folder, "decisions")
    if found is None:
        return None
    decisions = conform(DECISIONS, found, file)
    check_decisions(decisions, examples, file)
    return decisions


def check_decisions(decisions: pl.DataFrame, examples: pl.DataFrame, file: str) -> None:
    """Raise ContractError where a decision names no example, itself, or the same example twice."""
    unique(DECISIONS, decisions, file)
    for column in ("example_id", "same_as"):
        unknown = ~pl.col(column).is_in(examples["example_id"].implode())
        reject(decisions, unknown, file, column, expected="an example that the model was trained on")
    same = pl.col("same_as") == pl.col("example_id")
    reject(decisions, same, file, "same_as", expected="another example", found="the same one")


def claimants(held: pl.DataFrame, *, rule: str) -> pl.DataFrame:
    """Who gets what a cluster earns: `cluster_id, account, party_id, stake_ppb`, stakes summing to 1e9 per cluster.

    Args:
        held: `cluster_id, work_id, account, party_id, stake_ppb, since` (a date or nothing), one row per party of each member.
        rule: `earliest`: those whose claim began first (or, where none says when, whose work was acquired first), by stake; an
            undated claim comes after all dated ones, and what nobody claims after both. `equal`: every member's parties, in
            equal parts.
    """
    if rule == "earliest":
        # A claim without a beginning may not push in before one that has proof of its date.
        late = pl.col("since").fill_null(pl.date(9999, 12, 31))
        for key in (is_unclaimed(), late):
            held = held.filter(key == key.min().over("cluster_id"))
    weights = held.group_by("cluster_id", "account", "party_id").agg(weight=pl.col("stake_ppb").sum())
    rows = []
    for (cluster,), group in weights.sort("cluster_id", "account", "party_id").group_by("cluster_id", maintain_order=True):
        stakes = allocate(PPB, group["weight"].to_list())
        rows.append(group.select(pl.lit(cluster).alias("cluster_id"), "account", "party_id", pl.Series("stake_ppb", stakes)))
    return pl.concat(rows) if rows else weights.rename({"weight": "stake_ppb"})


def _links(examples: pl.DataFrame, alone: Container[int], decided: Container[int]) -> Iterator[tuple[tuple[int, int], float]]:
    """Of each example that is a copy, the earlier one that it is most like, which is no copy itself; and how much it is.

    Args:
        examples: the earliest first.
        alone: rows that a person has set apart; decided: that a person has joined with another.
    """
    first: dict[str, int] = {}
    # Text and code are compared with one another.
    indices = {run: MinHashLSH(threshold=ALIKE[kind], num_perm=PERMUTATIONS, weights=MISSES) for kind, run in RUN.items()}
    known = _Known(examples["since"].to_list(), {}, {})
    for at, (content, digest, modality) in enumerate(examples.select("content", "content_sha256", "modality").iter_rows()):
        if at in alone:
            continue
        same = first.setdefault(digest, at)
        if same != at and at not in decided:
            yield (same, at), 1.0
            continue
        runs = _runs(content, modality, at)
        if len(runs) < FEWEST:
            continue
        sketch, index = MinHash(num_perm=PERMUTATIONS, seed=SEED), indices[RUN[modality]]
        sketch.update_batch(sorted(runs))
        found = None if at in decided else _original(known, at, sketch, index.query(sketch), ALIKE[modality])
        if found:
            original, alike = found
            first[digest] = original
            known.copies.setdefault(original, []).append(sketch)
            yield (original, at), alike
        else:
            index.insert(at, sketch)
            known.originals[at] = sketch


@dataclass(frozen=True)
class _Known:
    """What is known of the examples so far.

    Attributes:
        since: of all examples.
        originals: sketches of those that are no copies; copies: of theirs.
    """

    since: list[date | None]
    originals: dict[int, MinHash]
    copies: dict[int, list[MinHash]]


def _original(known: _Known, at: int, sketch: MinHash, others: list[int], least: float) -> tuple[int, float] | None:
    """Of what an example is a copy, and how like it is."""
    likeness = {other: sketch.jaccard(known.originals[other]) for other in others}
    for other, alike in sorted(likeness.items(), key=lambda pair: (-pair[1], pair[0])):
        # Of what began on the same day nobody knows which copied which: it has to be like one of the other copies, too.
        unsure = known.since[other] == known.since[at]
        copies = known.copies.get(other, []) if unsure else []
        if alike >= least and (not copies or any(sketch.jaccard(copy) >= least for copy in copies)):
            return other, alike
    return None


def _runs(content: bytes, modality: str, row: int) -> set[bytes]:
    """Runs of characters, whatever their case and the space between them; or of events or patches."""
    size = RUN[modality]
    if modality in ("text", "code"):
        plain = " ".join(content.decode(errors="replace").casefold().split())
        return {plain[at : at + size].encode() for at in range(len(plain) - size + 1)}
    found = words(content, modality, row)
    return {b"\x00".join(found[at : at + size]) for at in range(len(found) - size + 1)}
