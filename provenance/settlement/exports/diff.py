"""Compares two published revisions of a day: changed amounts by owner, and changed inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from provenance.core.errors import InputError
from provenance.core.published import MANIFEST, in_force, revision_folder
from provenance.core.store import Store
from provenance.inputs.night import Night, load_night

# Facts in a manifest that are compared as they are; tables are compared row by row.
FACTS = ("model_id", "model", "method", "contract", "code_version")


def diff(store: Store, day: str, before: int, after: int) -> dict[str, Any]:
    """Compare two revisions of a day.

    Returns:
        `causes`: inputs that differ, in words; `owners`: amounts earned before and after, by owner and currency, largest
        change first; `totals`: control totals before and after.

    Raises:
        InputError: a revision was never published.
    """
    manifests = [_manifest(store, day, revision) for revision in (before, after)]
    tables = [store.read_table(f"{revision_folder(day, revision)}/payouts.parquet") for revision in (before, after)]
    earned: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    names: dict[str, str] = {}
    for index, table in enumerate(tables):
        for owner, name, currency, amount in table.select("owner_id", "owner_name", "currency", "earned_minor").iter_rows():
            earned[owner, currency][index] = amount
            names[owner] = name
    changed = {key: amounts for key, amounts in earned.items() if amounts[0] != amounts[1]}
    owners = [
        {"owner_id": key[0], "owner_name": names[key[0]], "currency": key[1], "before_minor": earlier, "after_minor": later}
        for key, (earlier, later) in sorted(changed.items(), key=lambda row: (-abs(row[1][1] - row[1][0]), row[0]))
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
        earlier, later = facts[0].get(name), facts[1].get(name)
        if earlier != later:
            yield f"{name.replace('_', ' ')}: {', '.join(leaves(earlier, later))}"
    # Claims between the revisions are in the ledger alone; they move amounts while inputs stay.
    earlier, later = ({row["escrow_id"] for row in manifest["escrow"]} for manifest in (before, after))
    if emptied := sorted(earlier - later):
        yield f"escrow: nothing is left for {', '.join(emptied)}"


def _outputs(before: pl.DataFrame, after: pl.DataFrame) -> Iterator[str]:
    keys = ["output_id", "content_sha256", "revenue_minor", "currency", "product"]
    earlier, later = before.select(keys), after.select(keys)
    joined = earlier.join(later, on="output_id", suffix="_now")
    added, withdrawn = (a.join(b, on="output_id", how="anti") for a, b in ((later, earlier), (earlier, later)))
    changes = {"added": added, "withdrawn": withdrawn}
    for name in keys[1:]:
        change = f"with another {name.removesuffix('_sha256').removesuffix('_minor')}"
        changes[change] = joined.filter(pl.col(name).ne_missing(pl.col(f"{name}_now")))
    parts = [f"{rows.height} {change}{named(sorted(rows['output_id']))}" for change, rows in changes.items() if rows.height]
    yield f"outputs: {', '.join(parts) or 'the same, in other files'}"


def _corpus(store: Store, before: Night, after: Night) -> Iterator[str]:
    earlier, later = (night.frozen_corpus(store) for night in (before, after))
    if earlier.shards != later.shards:
        examples = [night.read_corpus(store, "example_id", "work_id") for night in (before, after)]
        added = examples[1].join(examples[0], on="example_id", how="anti")
        removed = examples[0].join(examples[1], on="example_id", how="anti")
        works = sorted({*added["work_id"], *removed["work_id"]})
        yield f"corpus: {added.height} examples added, {removed.height} withdrawn{named(works)}"
    if earlier.claims != later.claims:
        old, new = (store.read_table(corpus.claims.key) for corpus in (earlier, later))
        works = sorted(rows_of_one(old, new)["work_id"].unique())
        yield f"claims: on {len(works)} works{named(works)}"
    for name in ("owners", "unmatched", "duplicates", "disputes", "rights"):
        if getattr(earlier, name) != getattr(later, name):
            yield f"corpus: {name} differ"


def _choices(before: pl.DataFrame, after: pl.DataFrame) -> Iterator[str]:
    changed = rows_of_one(before, after)
    owners, works = (sorted(changed[name].unique()) for name in ("owner_id", "work_id"))
    yield f"opt-outs: of {len(owners)} owners{named(owners)}, of {len(works)} works{named(works)}"


def rows_of_one(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Rows that only one of the tables has."""
    sides = ((before, after), (after, before))
    return pl.concat(left.join(right, on=left.columns, how="anti", nulls_equal=True) for left, right in sides)


def named(names: list[str], most: int = 5) -> str:
    """Some names in brackets, with the number of the others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f" ({', '.join(names[:most])}{more})" if names else ""


def leaves(earlier: Any, later: Any, path: str = "") -> Iterator[str]:
    """Paths at which two JSON values differ, with both values."""
    if isinstance(earlier, dict) and isinstance(later, dict):
        for key in sorted({*earlier, *later}):
            yield from leaves(earlier.get(key), later.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(earlier, list) and isinstance(later, list) and len(earlier) == len(later):
        for index, (old, new) in enumerate(zip(earlier, later, strict=True)):
            yield from leaves(old, new, f"{path}[{index}]")
    elif earlier != later:
        yield f"{path + ' ' if path else ''}{earlier} -> {later}"
