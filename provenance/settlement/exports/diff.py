"""What changed from one published revision of a day to another: for whom, and because of which inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from provenance.core.errors import InputError
from provenance.core.store import Store
from provenance.inputs.night import Night, load_night
from provenance.settlement.exports.export import MANIFEST, in_force, revision_folder

# What a night names besides tables that can be compared row by row; an audit that decides stands in the contract.
FACTS = ("model_id", "model", "method", "contract", "code_version")


def diff(store: Store, day: str, before: int, after: int) -> dict[str, Any]:
    """What changed between two revisions of a day.

    Returns:
        `causes`: inputs that differ, in words; `owners`: earned before and after, by owner and currency, largest change first;
        `totals`: the same of control totals.

    Raises:
        InputError: one of them was never published.
    """
    manifests = [_manifest(store, day, revision) for revision in (before, after)]
    tables = [store.read_table(f"{revision_folder(day, revision)}/payouts.parquet") for revision in (before, after)]
    earned: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    names: dict[str, str] = {}
    for place, table in enumerate(tables):
        for owner, name, currency, amount in table.select("owner_id", "owner_name", "currency", "earned_minor").iter_rows():
            earned[owner, currency][place] = amount
            names[owner] = name
    changed = {whose: amounts for whose, amounts in earned.items() if amounts[0] != amounts[1]}
    owners = [
        {"owner_id": whose[0], "owner_name": names[whose[0]], "currency": whose[1], "before_minor": was, "after_minor": now}
        for whose, (was, now) in sorted(changed.items(), key=lambda row: (-abs(row[1][1] - row[1][0]), row[0]))
    ]
    return {
        "day": day,
        "before": before,
        "after": after,
        "causes": list(_causes(store, *manifests)) or ["none: the inputs are the same"],
        "totals": [dict(sorted(manifest["totals"].items())) for manifest in manifests],
        "owners": owners,
    }


def _manifest(store: Store, day: str, revision: int) -> dict[str, Any]:
    key = f"{revision_folder(day, revision)}/{MANIFEST}"
    if not store.exists(key):
        last = in_force(store, day)["revision"]
        if last == 1:
            raise InputError(day, expected="two revisions to compare", found="one: the day was published and never corrected")
        raise InputError(f"revision {revision} of {day}", expected=f"one of 1 to {last}", found="none")
    return store.read_json(key)


def _causes(store: Store, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Every input that differs, in words."""
    nights = [load_night(store, manifest["night"]) for manifest in (before, after)]
    facts = [{**manifest["inputs"], **manifest} for manifest in (before, after)]
    if nights[0].outputs != nights[1].outputs:
        yield from _outputs(*(night.read_outputs(store) for night in nights))
    if nights[0].corpus != nights[1].corpus:
        yield from _corpus(store, *nights)
    if nights[0].choices != nights[1].choices:
        yield from _choices(*(night.read_choices(store) for night in nights))
    if nights[0].counterfactuals != nights[1].counterfactuals:
        old, new = (set(night.counterfactuals.items()) for night in nights)
        counts = f"{len(new - old)} added, {len(old - new)} removed, {len(new)} in all"
        yield f"counterfactual models: {counts}"
    for name in FACTS:
        was, now = facts[0].get(name), facts[1].get(name)
        if was != now:
            yield f"{name.replace('_', ' ')}: {', '.join(_leaves(was, now))}"
    # What was held or claimed in between stands in the ledger, and moves amounts without any input.
    was, now = ({row["escrow_id"] for row in manifest["escrow"]} for manifest in (before, after))
    if gone := sorted(was - now):
        yield f"escrow: nothing lies there any more for {', '.join(gone)}"


def _outputs(before: pl.DataFrame, after: pl.DataFrame) -> Iterator[str]:
    keys = ["output_id", "content_sha256", "revenue_minor", "currency", "product"]
    was, now = before.select(keys), after.select(keys)
    both = was.join(now, on="output_id", suffix="_now")
    found = {"added": now.join(was, on="output_id", how="anti"), "withdrawn": was.join(now, on="output_id", how="anti")}
    for name in keys[1:]:
        what = f"with another {name.removesuffix('_sha256').removesuffix('_minor')}"
        found[what] = both.filter(pl.col(name).ne_missing(pl.col(f"{name}_now")))
    said = [f"{rows.height} {what}{_some(sorted(rows['output_id']))}" for what, rows in found.items() if rows.height]
    yield f"outputs: {', '.join(said) or 'the same, in other files'}"


def _corpus(store: Store, before: Night, after: Night) -> Iterator[str]:
    was, now = (night.frozen_corpus(store) for night in (before, after))
    if was.shards != now.shards:
        examples = [night.read_corpus(store, "example_id", "work_id") for night in (before, after)]
        added = examples[1].join(examples[0], on="example_id", how="anti")
        removed = examples[0].join(examples[1], on="example_id", how="anti")
        works = sorted({*added["work_id"], *removed["work_id"]})
        yield f"corpus: {added.height} examples added, {removed.height} withdrawn{_some(works)}"
    if was.claims != now.claims:
        old, new = (store.read_table(corpus.claims.key) for corpus in (was, now))
        works = sorted(_differing(old, new)["work_id"].unique())
        yield f"claims: on {len(works)} works{_some(works)}"
    for name in ("owners", "unmatched", "duplicates", "disputes", "rights"):
        if getattr(was, name) != getattr(now, name):
            yield f"corpus: {name} differ"


def _choices(before: pl.DataFrame, after: pl.DataFrame) -> Iterator[str]:
    changed = _differing(before, after)
    owners, works = (sorted(changed[name].unique()) for name in ("owner_id", "work_id"))
    yield f"opt-outs: of {len(owners)} owners{_some(owners)}, of {len(works)} works{_some(works)}"


def _differing(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Rows that stand on one side alone."""
    sides = ((before, after), (after, before))
    return pl.concat(one.join(other, on=one.columns, how="anti", nulls_equal=True) for one, other in sides)


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f" ({', '.join(names[:most])}{more})" if names else ""


def _leaves(was: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted({*was, *now}):
            yield from _leaves(was.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for place, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from _leaves(one, other, f"{path}[{place}]")
    elif was != now:
        yield f"{path + ' ' if path else ''}{was} -> {now}"
