"""What the demo paid beside retraining without each owner: mean shares of a day's outputs by owner, and their distance.

    .venv/bin/python bench/demo.py 2026-11-22 [--seeds 2]

The day must be published. The truth of an output's shares is the loss of its likelihood without each owner's works
(leave-one-owner-out), `max(0, v)` in parts of their sum, by trainings of other seeds than those that shares rest on; it costs
about one training on everything for each owner and seed. Beside it: shares by TF-IDF, by tokens, and equal shares. Prints JSON.
Trained models' losses stay in the store, so that the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
import polars as pl

from provenance.core.arrays import positive_shares
from provenance.core.money import PPB
from provenance.core.published import night_in_force
from provenance.core.where import Where
from provenance.inputs.night import load_night
from provenance.settlement.exports.export import read_export
from provenance.validation.audit import units
from provenance.validation.coalitions import baselines, compare
from provenance.validation.retrain import retrain
from tasks.where import local_settings, opened

SEED = 501  # the first; models in use have other seeds


def measure(where: Where, day: str, *, seeds: int) -> dict[str, Any]:
    """The figures of a published day."""
    night = load_night(where.store, night_in_force(where.store, day))
    _, owner_of = units(where.store, night)
    owners = sorted(set(owner_of))
    member = np.array([[owner == own for own in owner_of] for owner in owners])
    masks = np.concatenate([np.ones_like(member[:1]), ~member])
    by_seed = [retrain(where, night, masks, SEED + at, "all works but one owner's") for at in range(seeds)]
    worth = np.stack([without[1:] - without[0] for without in by_seed])
    truth = worth.mean(axis=0)
    outputs = night.read_outputs(where.store)["output_id"].to_list()
    manifest, _, credits = read_export(where.store, day)
    paid = np.zeros((3, len(owners), len(outputs)))
    rows = credits.select(pl.coalesce("owner_id", "escrow_id", pl.lit("")), "output_id", "share_ppb", "low_ppb", "high_ppb")
    for owner, output, *numbers in rows.filter(pl.nth(0).is_in(owners)).iter_rows():
        paid[:, owners.index(owner), outputs.index(output)] = np.array(numbers) / PPB
    true, methods = positive_shares(truth), {"paid": paid[0], **baselines(where, night, member.astype(float))}
    if seeds > 1:
        methods["one seed against the others"] = worth[0]
    others = worth[1:].mean(axis=0) if seeds > 1 else truth
    return {
        "day": day,
        "outputs": len(outputs),
        "fidelity": manifest.get("fidelity"),
        "owners": {
            owner: {"paid": float(paid[0, at].mean()), "retrained": float(true[at].mean())} for at, owner in enumerate(owners)
        },
        "methods": {
            name: compare(values, others if name.startswith("one seed") else truth)
            | {"same first": float((values.argmax(axis=0) == truth.argmax(axis=0)).mean())}
            for name, values in methods.items()
        },
        "largest share": {"paid": float(paid[0].max(axis=0).mean()), "retrained": float(true.max(axis=0).mean())},
        "true shares inside intervals": float(((true >= paid[1] - 1e-9) & (true <= paid[2] + 1e-9)).mean()),
    }


def main() -> None:
    """Measure one day and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("day", help="a published day, YYYY-MM-DD")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int)
    asked = parser.parse_args()
    with opened(local_settings(device="cpu", workers=asked.workers), ledger=False) as where:
        result = measure(where, asked.day, seeds=asked.seeds)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
