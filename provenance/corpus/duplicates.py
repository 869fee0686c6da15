"""Find copies: examples with the same or nearly the same content, so that copying a work does not pay.

Contents are compared by shared runs of characters or events (MinHash and locality-sensitive hashing: Broder 1997; datasketch).
A copy belongs to the most similar earlier example, and to that alone, so that an example similar to two works does not join
them. Clusters are data: a person may decide that an example is no copy, or is the same as another.
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

from provenance.core.checks import conform, reject, unique
from provenance.core.money import PPB, allocate
from provenance.core.store import Store
from provenance.core.tables import DECISIONS, DUPLICATES, is_unclaimed
from provenance.core.words import MODALITIES, words
from provenance.corpus.delivery import identities, read_delivered

# Two contents are copies from this Jaccard similarity of their runs on.
ALIKE = {"text": 0.4, "code": 0.4, "music": 0.5, "image": 0.5}
# Characters or events in a run: shorter runs would match common phrases. Patches of an image include their place.
RUN = {"text": 8, "code": 8, "music": 6, "image": 1}
# Contents with fewer runs are only compared as a whole, together with their prompts.
FEWEST = 16
# The index may return false candidates, which are compared, but should miss few.
PERMUTATIONS, SEED, MISSES = 128, 1, (0.1, 0.9)


def find_duplicates(examples: pl.DataFrame, decisions: pl.DataFrame | None = None) -> pl.DataFrame:
    """Clusters of copies among examples.

    Args:
        examples: `example_id, content, content_sha256, modality, since` (`ownership.since`) and, optionally, `prompt`.
        decisions: the duplicate decisions of the delivery, checked by `check_decisions`.

    Returns:
        The duplicates table, one row for each example that has a copy.
    """
    # Undated examples sort last and cannot claim priority.
    examples = examples.sort("since", "example_id", nulls_last=True)
    ids = examples["example_id"].to_list()
    place = {example: at for at, example in enumerate(ids)}
    rulings = [] if decisions is None else decisions.to_dicts()
    alone = {place[row["example_id"]] for row in rulings if row["same_as"] is None}
    joined = {place[row["example_id"]]: place[row["same_as"]] for row in rulings if row["same_as"] is not None}
    links = dict(_links(examples, alone, joined)) | dict.fromkeys(joined.items(), 1.0)
    if not links:
        return pl.DataFrame(schema=DUPLICATES.schema)
    pairs = np.asarray(list(links))
    _, label = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=(len(ids),) * 2), directed=False)
    alike = np.zeros(len(ids))
    np.maximum.at(alike, pairs, np.asarray(list(links.values()))[:, None])
    reasons = {row["example_id"]: f"{row['decided_by']}: {row['reason']}" for row in rulings}
    table = pl.DataFrame(
        {"example_id": ids, "similarity": alike, "decision": [reasons.get(i, "") for i in ids], "label": label}
    )
    clusters = table.filter(pl.len().over("label") > 1).with_columns(cluster_id=pl.col("example_id").min().over("label"))
    return clusters.select(*DUPLICATES.columns).sort("cluster_id", "example_id")


def read_decisions(store: Store, folder: str, examples: pl.DataFrame) -> pl.DataFrame | None:
    """Read and check people's decisions about copies; None if none are delivered."""
    table, file = read_delivered(store, folder, "decisions")
    if table is None:
        return None
    decisions = conform(DECISIONS, table, file)
    check_decisions(decisions, examples, file)
    return decisions


def check_decisions(decisions: pl.DataFrame, examples: pl.DataFrame, file: str) -> None:
    """Raise ContractError if a decision names an unknown example, itself, or an example twice."""
    unique(DECISIONS, decisions, file)
    for column in ("example_id", "same_as"):
        unknown = ~pl.col(column).is_in(examples["example_id"].implode())
        reject(decisions, unknown, file, column, expected="an example that the model was trained on")
    same = pl.col("same_as") == pl.col("example_id")
    reject(decisions, same, file, "same_as", expected="another example", found="the same one")


def claimants(stakes: pl.DataFrame, *, rule: str) -> pl.DataFrame:
    """Divide each cluster among claimants: `cluster_id, account, party_id, stake_ppb`; stakes sum to 1e9 per cluster.

    Args:
        stakes: `cluster_id, work_id, account, party_id, stake_ppb, since` (a date or null), one row per party of each member.
        rule: `earliest`: the parties with the earliest claim (or, undated, the earliest acquired work), by
            stake; undated claims come after dated ones, and unclaimed works last. `equal`: the parties of all members, each
            member with the same weight.
    """
    if rule == "earliest":
        # Undated claims sort last and cannot claim priority.
        began = pl.col("since").fill_null(pl.date(9999, 12, 31))
        for key in (is_unclaimed(), began):
            stakes = stakes.filter(key == key.min().over("cluster_id"))
    weights = stakes.group_by("cluster_id", "account", "party_id").agg(weight=pl.col("stake_ppb").sum())
    rows = []
    for (cluster,), group in weights.sort("cluster_id", "account", "party_id").group_by("cluster_id", maintain_order=True):
        parts = allocate(PPB, group["weight"].to_list())
        rows.append(group.select(pl.lit(cluster).alias("cluster_id"), "account", "party_id", pl.Series("stake_ppb", parts)))
    return pl.concat(rows) if rows else weights.rename({"weight": "stake_ppb"})


def _links(examples: pl.DataFrame, alone: Container[int], decided: Container[int]) -> Iterator[tuple[tuple[int, int], float]]:
    """Yield `(original, copy), similarity` of rows; the original is earlier and is no copy itself.

    Args:
        examples: sorted, the earliest first.
        alone: rows that are no copies by a person's decision.
        decided: rows that are copies by a person's decision.
    """
    first: dict[str, int] = {}
    # Text and code are compared with one another.
    indices = {run: MinHashLSH(threshold=ALIKE[kind], num_perm=PERMUTATIONS, weights=MISSES) for kind, run in RUN.items()}
    sketches = _Sketches(examples["since"].to_list(), {}, {})
    with_prompts = identities(examples)
    for at, (content, digest, modality) in enumerate(examples.select("content", "content_sha256", "modality").iter_rows()):
        if at in alone:
            continue
        runs = _runs(content, modality, at)
        # A short answer, such as a number, is nobody's until it is the answer to something.
        short = modality in MODALITIES and len(runs) < FEWEST
        same = first.setdefault(with_prompts[at] if short else digest, at)
        if same != at and at not in decided:
            yield (same, at), 1.0
            continue
        if len(runs) < FEWEST:
            continue
        sketch, index = MinHash(num_perm=PERMUTATIONS, seed=SEED), indices[RUN[modality]]
        sketch.update_batch(sorted(runs))
        match = None if at in decided else _original(sketches, at, sketch, index.query(sketch), ALIKE[modality])
        if match:
            original, alike = match
            first[digest] = original
            sketches.copies.setdefault(original, []).append(sketch)
            yield (original, at), alike
        else:
            index.insert(at, sketch)
            sketches.originals[at] = sketch


@dataclass(frozen=True)
class _Sketches:
    """The sketches of the examples so far.

    Attributes:
        since: dates of all examples.
        originals: sketches of examples that are no copies, by row.
        copies: sketches of their copies, by row of the original.
    """

    since: list[date | None]
    originals: dict[int, MinHash]
    copies: dict[int, list[MinHash]]


def _original(sketches: _Sketches, at: int, sketch: MinHash, candidates: list[int], least: float) -> tuple[int, float] | None:
    """The original of an example and their similarity; None if it is no copy."""
    similarities = {candidate: sketch.jaccard(sketches.originals[candidate]) for candidate in candidates}
    for candidate, similarity in sorted(similarities.items(), key=lambda pair: (-pair[1], pair[0])):
        # Examples of the same day have no known order: a copy must also be similar to one of the other copies.
        same_day = sketches.since[candidate] == sketches.since[at]
        copies = sketches.copies.get(candidate, []) if same_day else []
        if similarity >= least and (not copies or any(sketch.jaccard(copy) >= least for copy in copies)):
            return candidate, similarity
    return None


def _runs(content: bytes, modality: str, row: int) -> set[bytes]:
    """Runs of characters, regardless of case and spaces; or runs of events or patches."""
    if modality not in MODALITIES:
        return set()
    size = RUN[modality]
    if modality in ("text", "code"):
        plain = " ".join(content.decode(errors="replace").casefold().split())
        return {plain[at : at + size].encode() for at in range(len(plain) - size + 1)}
    pieces = words(content, modality, row)
    return {b"\x00".join(pieces[at : at + size]) for at in range(len(pieces) - size + 1)}
