"""Collects one night in detail, from shards to files, and one output's credits, for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl
import sqlalchemy as sa

from infra.monitor.earned import ListedOutput, PartyOfNight, earlier_booking, leaders, of_export, of_shares
from infra.monitor.frozen import manifest_of, read_frozen
from infra.monitor.nights import WatchedNight, of_days
from infra.monitor.runs import Run
from provenance.core.errors import ContractError
from provenance.core.money import PPB
from provenance.core.published import MANIFEST, current_key, published_days, revision_folder
from provenance.core.store import Store, sha256
from provenance.core.tables import WITHDRAWN
from provenance.core.text import plain
from provenance.corpus.shards import corpus_key, load_frozen, part_key
from provenance.inputs.night import load_night, shares_stage
from provenance.royalty.opted_out import read_withdrawn
from provenance.royalty.support import fidelity_of
from provenance.settlement import ledger
from provenance.settlement.books import NIGHT, Booking
from provenance.settlement.exports.explain import explain

# Most outputs of a night that are listed, and characters of their excerpts.
LISTED = 192
EXCERPT = 160


@dataclass(frozen=True)
class Features:
    """Numbers of feature files of one source: for the corpus, and for the outputs."""

    source: str
    corpus: int
    outputs: int


@dataclass(frozen=True)
class NightContract:
    """A contract, with `weight`, the part of shares that its rule decides, and its number of outputs."""

    name: str
    rule: str
    fallback: str
    developer_ppb: int
    weight: float
    outputs: int


@dataclass(frozen=True)
class Published:
    """A published revision; `files` have name, SHA-256 and size in bytes."""

    revision: int
    booking_id: int
    folder: str
    manifest_sha256: str
    files: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Flow:
    """One night, from shards to files; empty where its stages have not written yet.

    Attributes:
        fidelity: the night's, also before it is published.
        parties: numbers of parties with a share, by account.
        opted_out: number of opted-out works; rests: by currency, the part of the day's pools that rests on them.
        listed: the first outputs.
        day_before: the night that changes of shares are counted from; empty without one.
    """

    night: WatchedNight
    corpus: str = ""
    shards: int = 0
    examples: int = 0
    held_out: int = 0
    model_id: str = ""
    model: str = ""
    method: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: tuple[str, ...] = ()
    features: tuple[Features, ...] = ()
    sample: int = 0
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    parties: Mapping[str, int] = field(default_factory=dict)
    opted_out: int = 0
    rests: Mapping[str, float] = field(default_factory=dict)
    contracts: tuple[NightContract, ...] = ()
    bookings: tuple[Booking, ...] = ()
    published: tuple[Published, ...] = ()
    listed: tuple[ListedOutput, ...] = ()
    owners: tuple[PartyOfNight, ...] = ()
    day_before: str = ""


def night(store: Store, engine: sa.Engine, day: date, runs: Sequence[Run] = ()) -> Flow:
    """One night in detail; raises ContractError if the day was neither run nor booked."""
    booked = ledger.bookings(engine, kind=NIGHT)
    bookings = [booking for booking in booked if booking.day == day]
    if not bookings and not runs:
        raise ContractError(f"night of {day}", expected="a night that was run or booked", found="none")
    in_force_of = {str(booking.day): booking for booking in booked}
    (watched,) = of_days(store, engine, in_force_of, [str(day)], {str(day): runs})
    folder = watched.night or _frozen_folder(store, str(day))
    if not folder:
        return Flow(watched)
    inputs = read_frozen(store, f"{folder}/inputs.json")
    corpus = read_frozen(store, corpus_key(inputs["corpus"]))
    plan = _stage(store, folder, "plan")
    shared, estimated = _stage(store, folder, "shares"), _stage(store, folder, shares_stage(store, folder))
    withdrawn = read_withdrawn(store, folder) if shared else WITHDRAWN.frame()
    last, previous = (bookings[-1] if bookings else None), earlier_booking(booked, day)
    parties = of_export(store, last, previous) if last else ()
    if not parties and "night_shares.parquet" in shared.get("writes", {}):
        names = dict(
            store.read_table(load_frozen(store, inputs["corpus"]).owners.key, columns=["owner_id", "name"]).iter_rows()
        )
        parties = of_shares(store, folder, names, previous)
    opted_out_parts = withdrawn.group_by("currency").agg(pl.col("share_ppb").sum() / PPB).sort("currency")
    return Flow(
        night=watched,
        corpus=inputs["corpus"],
        shards=len(corpus["shards"]),
        examples=corpus["examples"],
        held_out=corpus["held_out"],
        model_id=inputs["model_id"],
        model=inputs["model"],
        method=inputs["method"],
        checkpoints=tuple(inputs["checkpoints"]),
        features=_features(plan),
        sample=plan.get("sample", {}).get("rows", 0),
        fidelity=watched.fidelity or fidelity_of(store, load_night(store, folder)) or {},
        parties=_parties(store, folder, shared),
        opted_out=withdrawn["work_id"].n_unique(),
        rests=dict(opted_out_parts.iter_rows()),
        contracts=_contracts(inputs, shared.get("weights", {}), Counter(estimated.get("contracts", {}).values())),
        bookings=tuple(bookings),
        published=tuple(found for booking in bookings if (found := _published(store, booking))),
        listed=_listed(store, inputs, last),
        owners=parties,
        day_before=str(previous.day) if previous and any(party.before is not None for party in parties) else "",
    )


def output(store: Store, output_id: str, day: date | None = None, *, last: int = 60) -> dict[str, Any]:
    """One output's credits, as in `provenance explain`: of a day, or from the `last` published days."""
    days = published_days(store)[: -last - 1 : -1] if day is None else [str(day)] if store.exists(current_key(day)) else []
    output_facts = explain(store, output_id, days)
    if output_facts is None:
        raise ContractError(f"output {output_id!r}", expected=f"an output of {day or f'the last {last} days'}", found="none")
    return output_facts


def _frozen_folder(store: Store, day: str) -> str:
    """The folder of the day's night that is not booked; empty if several of its nights have contracts."""
    manifests = [key for key in store.list(f"nights/day={day}") if key.endswith("/inputs.json")]
    paying = [key.removesuffix("/inputs.json") for key in manifests if read_frozen(store, key)["contract"]]
    return paying[0] if len(paying) == 1 else ""


def _stage(store: Store, folder: str, name: str) -> dict[str, Any]:
    """A stage's manifest; empty if the stage has not run."""
    key = f"{folder}/{name}.json"
    return store.read_json(key) if store.exists(key) else {}


def _features(plan: Mapping[str, Any]) -> tuple[Features, ...]:
    """Feature files by source."""
    counts = {
        name: Counter(file["checkpoint"] or file["kind"] for file in plan.get(name, ())) for name in ("corpus", "outputs")
    }
    sources = dict.fromkeys([*counts["corpus"], *counts["outputs"]])
    return tuple(Features(source, counts["corpus"][source], counts["outputs"][source]) for source in sources)


def _parties(store: Store, folder: str, shared: Mapping[str, Any]) -> dict[str, int]:
    if "night_shares.parquet" not in shared.get("writes", {}):  # nights of version 0.1 have none
        return {}
    table = store.read_table(f"{folder}/night_shares.parquet", columns=["account", "party_id"])
    return dict(table.group_by("account").agg(pl.col("party_id").n_unique()).sort("account").iter_rows())


def _contracts(
    inputs: Mapping[str, Any], weights: Mapping[str, float], outputs: Mapping[str, int]
) -> tuple[NightContract, ...]:
    return tuple(
        NightContract(
            **{key: terms[key] for key in ("name", "rule", "fallback", "developer_ppb")},
            weight=weights.get(terms["name"], 1.0),
            outputs=outputs.get(terms["name"], 0),
        )
        for terms in inputs["contract"]["contracts"]
    )


def _published(store: Store, booking: Booking) -> Published | None:
    manifest = manifest_of(store, booking)
    if manifest is None:
        return None
    folder = revision_folder(booking.day, booking.revision)
    files = tuple((name, entry["sha256"], entry["bytes"]) for name, entry in manifest["files"].items())
    return Published(booking.revision, manifest["booking_id"], folder, sha256(store.read(f"{folder}/{MANIFEST}")), files)


def _listed(store: Store, inputs: Mapping[str, Any], booking: Booking | None) -> tuple[ListedOutput, ...]:
    """The first outputs of a night; without excerpts once housekeeping has removed their contents."""
    rows: list[dict[str, Any]] = []
    for part in inputs["outputs"]:
        if len(rows) < LISTED and part["rows"] and store.exists(key := part_key(part["sha256"])):
            table = store.read_table(key)
            rows += table.head(LISTED - len(rows)).iter_rows(named=True)
    leading = leaders(store, booking, [row["output_id"] for row in rows]) if booking else {}
    return tuple(
        ListedOutput(
            row["output_id"],
            row["revenue_minor"],
            row["currency"],
            row.get("modality") or "",
            _begin(row.get("prompt") or b""),
            _begin(row["content"]),
            len(row["content"]),
            *leading.get(row["output_id"], ("", 0.0)),
        )
        for row in rows
    )


def _begin(content: bytes) -> str:
    """The beginning of a text on one line; empty for what is no text."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    line = plain(text[: 4 * EXCERPT])
    return line if len(line) <= EXCERPT else f"{line[:EXCERPT].rstrip()} ..."
