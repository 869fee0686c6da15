"""Opt-outs and models that are trained already: which still hold the works, and how much nights rest on them."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import polars as pl

from provenance.core.errors import StoreError
from provenance.core.store import Store
from provenance.corpus.rights.clearance import read_manifest
from provenance.corpus.rights.optout_records import recorded
from provenance.corpus.rights.optouts import OPTOUT, PAIR, in_force, latest
from provenance.inputs.night import Night, load_night
from provenance.royalty.opted_out import read_withdrawn
from provenance.settlement.exports.export import MANIFEST, published_days
from provenance.settlement.exports.export import in_force as export_in_force

BY_MANIFEST, BY_CORPUS = "manifest", "corpus"


def report(store: Store, *, last: int = 30, now: datetime | None = None) -> list[dict[str, Any]]:
    """Every opt-out that is in force, with the models of published nights that hold the work, and what rested on it.

    A model holds what its training run states, or else what the corpora of its nights have.

    Args:
        last: published nights to look at, the latest.

    Returns:
        `work_id, owner_id, choice, since`; `models`: `model_id, model, by, nights, first, last`; `nights`: `day, currency,
        share_ppb, influence_ppb` of those on or after its day whose tables are still there.
    """
    today = (now or datetime.now(UTC)).date()
    rows = recorded(store)
    started = latest(rows.filter((pl.col("action") == OPTOUT) & (pl.col("effective_on") <= today)))
    since = {(work, owner): day for work, owner, day in started.select(*PAIR, "effective_on").iter_rows()}
    nights = list(_nights(store, last))
    # Nights commonly share model and corpus, which are large.
    distinct = {(night.model, night.corpus): night for night in nights}
    held = {which: works_held(store, night) for which, night in distinct.items()}
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
                [(night, by) for night in nights for by, works in [held[night.model, night.corpus]] if work in works]
            ),
            "nights": rests[work, owner],
        }
        for work, owner, choice in in_force(rows, today).iter_rows()
    ]


def works_held(store: Store, night: Night) -> tuple[str, frozenset[str]]:
    """What the model of a night was trained on, and whether that is stated or taken from the night's corpus."""
    folder = f"frozen/models/{night.model}"
    card = tomllib.loads(store.read(f"{folder}/model.toml").decode())
    if name := card.get("training", {}).get("manifest"):
        key = f"{folder}/{name}"
        return BY_MANIFEST, frozenset(read_manifest(store.read(key), store.locate(key)).works)
    return BY_CORPUS, frozenset(night.read_corpus(store, "work_id")["work_id"])


def _nights(store: Store, last: int) -> list[Night]:
    """The last published nights whose inputs are still there, oldest first."""
    found = []
    for day in published_days(store)[-last:]:
        try:
            found.append(load_night(store, store.read_json(f"{export_in_force(store, day)['folder']}/{MANIFEST}")["night"]))
        except StoreError as error:
            if not error.found.startswith("nothing"):
                raise  # what retention has removed is no error here
    return found


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
