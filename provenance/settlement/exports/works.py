"""The works behind rows of the credits table, with passages: of one output, or of an owner over a period."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from provenance.core.published import MANIFEST, in_force
from provenance.core.store import Store
from provenance.corpus.shards import corpus_key, load_frozen
from provenance.corpus.works import Passage, link_of, read_passages, title_of


@dataclass(frozen=True)
class CreditedWork:
    """A work behind some outputs.

    Attributes:
        title, source_uri, link, licence: as in `Passage`.
        passages: the pieces of it that count most, most influential first; none once the night's corpus was removed.
        outputs: number of outputs for which it is among the most influential.
        amount_nanominor: amounts of those outputs; works may share outputs.
        influence: the largest influence of its passages on an output.
    """

    work_id: str
    title: str
    source_uri: str
    link: str
    licence: str
    passages: tuple[Passage, ...]
    outputs: int
    amount_nanominor: int
    influence: float


def works_behind(store: Store, credits: pl.DataFrame, *, most: int = 5, passages: int = 1) -> list[CreditedWork]:
    """The works behind rows of the credits table, those with the largest amounts first, then the most influential.

    Args:
        credits: `day, output_id, amount_nanominor, top_works` of published days, in one currency: an owner's row of one output,
            or all its rows of a period.
        most: works listed, at most; passages: of each.
    """
    pieces = (
        credits.select("day", "output_id", "amount_nanominor", "top_works")
        .explode("top_works", empty_as_null=False)
        .unnest("top_works")
        .sort("influence", "example_id", "day", descending=[True, False, True])
    )
    once = pieces.unique(["work_id", "day", "output_id"], keep="first", maintain_order=True)
    works = (
        once.group_by("work_id", maintain_order=True)
        .agg(
            pl.col("source_uri").first(),
            pl.len().alias("outputs"),
            pl.col("amount_nanominor").cast(pl.Int128).sum(),
            pl.col("influence").max(),
        )
        .sort("amount_nanominor", "influence", "work_id", descending=[True, True, False])
        .head(most)
    )
    shown = pieces.unique(["work_id", "example_id"], keep="first", maintain_order=True)
    shown = shown.filter(pl.col("work_id").is_in(works["work_id"].implode()))
    # Some more than are shown, because a work may repeat itself.
    shown = shown.group_by("work_id", maintain_order=True).head(3 * passages)
    found = _read(store, shown)
    examples = dict(shown.group_by("work_id", maintain_order=True).agg("example_id").iter_rows())
    return [
        _work(row, [found[name] for name in examples[row["work_id"]] if name in found], passages)
        for row in works.iter_rows(named=True)
    ]


def _work(row: Mapping[str, Any], own: Sequence[Passage], most: int) -> CreditedWork:
    uri, distinct = row["source_uri"] or "", dict[bytes, Passage]()
    for passage in own:
        distinct.setdefault(passage.content, passage)
    return CreditedWork(
        work_id=row["work_id"],
        title=own[0].title if own else title_of(row["work_id"]),
        source_uri=uri,
        link=link_of(uri),
        licence=own[0].licence if own else "",
        passages=tuple(distinct.values())[:most],
        outputs=row["outputs"],
        amount_nanominor=row["amount_nanominor"],
        influence=row["influence"],
    )


def _read(store: Store, shown: pl.DataFrame) -> dict[str, Passage]:
    """Passages by example, each from the corpus of its night."""
    passages: dict[str, Passage] = {}
    for (day,), rows in shown.group_by("day", maintain_order=True):
        corpus = store.read_json(f"{in_force(store, str(day))['folder']}/{MANIFEST}")["inputs"]["corpus"]
        if store.exists(corpus_key(corpus)):  # else removed by retention
            examples = dict(rows.select("example_id", "work_id").iter_rows())
            passages |= read_passages(store, load_frozen(store, corpus), examples)
    return passages
