"""Reports opt-outs: the trained models that still hold the works, and the part of nights that rests on them."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import polars as pl

from provenance.core.errors import StoreError
from provenance.core.published import night_in_force, published_days
from provenance.core.store import Store
from provenance.corpus.rights.manifest import read_manifest
from provenance.corpus.rights.optout_records import read_optouts
from provenance.corpus.rights.optouts import OPTOUT, PAIR, in_force, latest
from provenance.inputs.night import Night, load_night
from provenance.royalty.opted_out import read_withdrawn

BY_MANIFEST, BY_CORPUS = "manifest", "corpus"


def report(store: Store, *, last: int = 30, now: datetime | None = None) -> list[dict[str, Any]]:
    """Every opt-out in force, with the models of published nights that hold the work, and the shares that rested on it.

    A model holds the works of its training manifest, or else the works of its nights' corpora.

    Args:
        last: number of published nights to read, from the latest.

    Returns:
        `work_id, owner_id, choice, since`; `models`: `model_id, model, by, nights, first, last`; `nights`: `day, currency,
        share_ppb, influence_ppb` of nights on or after its day that still have their tables.
    """
    today = (now or datetime.now(UTC)).date()
    rows = read_optouts(store)
    started = latest(rows.filter((pl.col("action") == OPTOUT) & (pl.col("effective_on") <= today)))
    since = {(work, owner): day for work, owner, day in started.select(*PAIR, "effective_on").iter_rows()}
    nights = list(_nights(store, last))
    # Nights commonly share a model and a corpus, which are large.
    distinct = {(night.model, night.corpus): night for night in nights}
    works_by_model = {key: _works(store, night) for key, night in distinct.items()}
    rests: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for night in nights:
        for row in _rests(store, night).iter_rows(named=True):
            numbers = {name: row[name] for name in ("currency", "share_ppb", "influence_ppb")}
            rests[row["work_id"], row["owner_id"]].append({"day": night.day, **numbers})
    return [
        {
            "work_id": work,
            "owner_id": owner,
            "choice": choice,
            "since": since[work, owner],
            "models": _models(
                [(night, by) for night in nights for by, works in [works_by_model[night.model, night.corpus]] if work in works]
            ),
            "nights": rests[work, owner],
        }
        for work, owner, choice in in_force(rows, today).iter_rows()
    ]


def _works(store: Store, night: Night) -> tuple[str, frozenset[str]]:
    """The source (training manifest, or corpus), and the works that the model of a night was trained on."""
    folder = f"frozen/models/{night.model}"
    card = tomllib.loads(store.read(f"{folder}/model.toml").decode())
    if name := card.get("training", {}).get("manifest"):
        key = f"{folder}/{name}"
        return BY_MANIFEST, frozenset(read_manifest(store.read(key), store.locate(key)).works)
    return BY_CORPUS, frozenset(night.read_corpus(store, "work_id")["work_id"])


def _nights(store: Store, last: int) -> list[Night]:
    """The last published nights whose inputs are still there, oldest first."""
    nights = []
    for day in published_days(store)[-last:]:
        try:
            nights.append(load_night(store, night_in_force(store, day)))
        except StoreError as error:
            if not error.found.startswith("nothing"):  # removed by retention
                raise
    return nights


def _rests(store: Store, night: Night) -> pl.DataFrame:
    try:
        return read_withdrawn(store, night.folder)
    except StoreError as error:
        if not error.found.startswith("nothing"):
            raise
        return pl.DataFrame()


def _models(nights: list[tuple[Night, str]]) -> list[dict[str, Any]]:
    by_model: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for night, by in nights:
        by_model[night.model_id, night.model, by].append(night.day)
    return [
        {"model_id": name, "model": digest, "by": by, "nights": len(days), "first": min(days), "last": max(days)}
        for (name, digest, by), days in by_model.items()
    ]
