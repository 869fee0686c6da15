"""Gathers what owners' earnings of a period rest on: outputs with questions and answers, works with titles and passages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from provenance.core.store import Store
from provenance.corpus.outputs import with_modality
from provenance.corpus.shards import corpus_key, load_frozen, part_key, read_part
from provenance.corpus.works import link_of, read_passages, read_titles, text_of, title_of
from provenance.settlement.months.excerpts import Excerpt, excerpt, shortened
from provenance.settlement.months.statements import Output, Work

# Outputs and works listed, largest first; works that are shown with a passage.
LISTED, SHOWN = 25, 5
OWNER_CURRENCY = ["owner_id", "currency"]


@dataclass(frozen=True)
class Credited:
    """What an owner's earnings in one currency rest on: the largest of `outputs_in_all` and `works_in_all`, largest first.

    Attributes:
        in_any_currency: outputs and works behind the owner's earnings in all currencies.
    """

    outputs: tuple[Output, ...]
    outputs_in_all: int
    works: tuple[Work, ...]
    works_in_all: int
    in_any_currency: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Served:
    prompt: str
    excerpt: Excerpt | None


def gather(
    store: Store, credits: pl.DataFrame, inputs: Mapping[str, Mapping[str, Any]], *, quote: bool
) -> dict[tuple[str, str], Credited]:
    """The outputs and works behind credits, by owner and currency.

    Args:
        credits: `day, output_id, owner_id, currency, share_ppb, low_ppb, high_ppb, amount_nanominor, top_works` of a period.
        inputs: of the manifests, by day.
        quote: whether to read what the model was asked and answered.
    """
    if credits.is_empty():
        return {}
    ranked = credits.sort("amount_nanominor", "day", "output_id", descending=[True, False, False])
    outputs = ranked.group_by(OWNER_CURRENCY, maintain_order=True).head(LISTED)
    # As `exports.works.works_behind` ranks the works of one owner; here of all owners at once.
    pieces = (
        credits.select(*OWNER_CURRENCY, "day", "output_id", "amount_nanominor", "top_works")
        .explode("top_works", empty_as_null=False)
        .unnest("top_works")
        .sort("influence", "example_id", "day", descending=[True, False, True])
    )
    once = pieces.unique([*OWNER_CURRENCY, "work_id", "day", "output_id"], keep="first", maintain_order=True)
    works = (
        once.group_by(*OWNER_CURRENCY, "work_id", maintain_order=True)
        .agg(
            pl.col("source_uri", "example_id", "day", "influence").first(),
            pl.len().alias("outputs"),
            pl.col("amount_nanominor").cast(pl.Int128).sum(),
        )
        .sort("amount_nanominor", "influence", "work_id", descending=[True, True, False])
    )
    listed = works.group_by(OWNER_CURRENCY, maintain_order=True).head(LISTED)
    passages = _passages(store, listed.group_by(OWNER_CURRENCY, maintain_order=True).head(SHOWN), inputs)
    served = _served(store, outputs, inputs) if quote else {}
    titles = read_titles(store, pieces["source_uri"].drop_nulls())

    def title(row: Mapping[str, Any]) -> str:
        return titles.get(row["source_uri"] or "") or title_of(row["work_id"])

    def output(row: Mapping[str, Any]) -> Output:
        numbers = (row["share_ppb"], row["low_ppb"], row["high_ppb"], row["amount_nanominor"])
        own = {work["work_id"]: title(work) for work in row["top_works"]}
        shown = served.get((row["day"], row["output_id"]), _Served("", None))
        return Output(row["day"], row["output_id"], *numbers, tuple(own.values()), shown.prompt, shown.excerpt)

    def work(row: Mapping[str, Any]) -> Work:
        passage, licence = passages.get(row["example_id"], (None, ""))
        uri = row["source_uri"] or ""
        counts = (row["outputs"], row["amount_nanominor"])
        return Work(row["work_id"], uri, *counts, title(row), link_of(uri), licence, passage)

    outputs_of = dict(credits.group_by("owner_id").agg(pl.struct("day", "output_id").n_unique()).iter_rows())
    works_by = dict(once.group_by("owner_id").agg(pl.col("work_id").n_unique()).iter_rows())
    counts = _by_owner(credits.group_by(OWNER_CURRENCY).len())
    works_in_all, works_of = _by_owner(works.group_by(OWNER_CURRENCY).len()), _by_owner(listed)
    return {
        key: Credited(
            tuple(map(output, rows)),
            counts[key][0]["len"],
            tuple(map(work, works_of.get(key, ()))),
            works_in_all[key][0]["len"] if key in works_in_all else 0,
            (outputs_of[key[0]], works_by.get(key[0], 0)),
        )
        for key, rows in _by_owner(outputs).items()
    }


def _by_owner(rows: pl.DataFrame) -> dict[tuple[str, str], Sequence[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows.iter_rows(named=True):
        found[row["owner_id"], row["currency"]].append(row)
    return dict(found)


def _passages(
    store: Store, works: pl.DataFrame, inputs: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[Excerpt | None, str]]:
    """Excerpt and licence of the examples that count most, each from the corpus of its night, unless that was removed."""
    wanted: dict[str, dict[str, str]] = defaultdict(dict)
    for day, example_id, work_id in works.select("day", "example_id", "work_id").iter_rows():
        wanted[inputs[day]["corpus"]][example_id] = work_id
    found: dict[str, tuple[Excerpt | None, str]] = {}
    for corpus, examples in wanted.items():
        if store.exists(corpus_key(corpus)):
            for name, passage in read_passages(store, load_frozen(store, corpus), examples).items():
                found[name] = excerpt(passage.content, passage.modality), passage.licence
    return found


def _served(store: Store, outputs: pl.DataFrame, inputs: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], _Served]:
    """What the model was asked and answered, by day and output, as far as the frozen outputs are kept."""
    found = {}
    for (day,), rows in outputs.group_by("day"):
        for sha in inputs[str(day)]["outputs"]:
            for row in _kept(store, sha, inputs[str(day)]["corpus"], rows["output_id"].unique()):
                found[str(day), row["output_id"]] = _Served(_asked(row["prompt"]), excerpt(row["content"], row["modality"]))
    return found


def _kept(store: Store, sha: str, corpus: str, wanted: pl.Series) -> Iterable[dict[str, Any]]:
    if not store.exists(part_key(sha)):
        return ()
    rows = read_part(store, sha, "output_id", "prompt", "content", "modality").filter(
        pl.col("output_id").is_in(wanted.implode())
    )
    if rows["modality"].null_count():
        kept = store.exists(corpus_key(corpus))
        rows = with_modality(store, load_frozen(store, corpus), rows) if kept else rows.with_columns(modality=pl.lit("text"))
    return rows.iter_rows(named=True)


def _asked(prompt: bytes | None) -> str:
    """A prompt as text; empty where it is none, such as a label or an embedding."""
    try:
        text = (prompt or b"").decode()
    except UnicodeDecodeError:
        return ""
    return shortened(text_of(text.encode(), "text")) if all(c.isprintable() or c in "\n\r\t" for c in text) else ""
