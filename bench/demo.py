"""What the demo paid beside what retraining says: mean shares of a day's outputs by owner, and their distance.

    .venv/bin/python bench/demo.py 2026-11-22 [--diagonal 64] [--seeds 2]

The day must be published. Two truths, both by trainings of other seeds than those that shares rest on, `max(0, v)` in parts of
their sum:

- `diagonal`: what the rule `faithful` estimates, the slopes of an output's likelihood along the diagonal, on which every
  owner has the same part of their works in the corpus (as `provenance audit srs`). It costs about 1.5 trainings on everything
  for each of `--diagonal`.
- `without`: another question, the loss of likelihood without all of an owner's works. It costs about one training for each
  owner and seed.

Beside them: shares by TF-IDF, by tokens, and equal shares. Prints JSON. Trained models' losses stay in the store, so that the
same command goes on from there.
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
from provenance.settlement.exports.export import read_credits, read_export
from provenance.validation.audit import units
from provenance.validation.coalitions import baselines, compare, retrained_on_diagonal
from provenance.validation.retrain import retrain
from tasks.where import local_settings, opened

SEED = 501  # the first; models in use have other seeds


def measure(where: Where, day: str, *, diagonal: int, seeds: int) -> dict[str, Any]:
    """The figures of a published day."""
    night = load_night(where.store, night_in_force(where.store, day))
    _, owner_of = units(where.store, night)
    owners = sorted(set(owner_of))
    member = np.array([[owner == own for own in owner_of] for owner in owners])
    masks = np.concatenate([np.ones_like(member[:1]), ~member])
    by_seed = [retrain(where, night, masks, SEED + at, "all works but one owner's") for at in range(seeds)]
    without = np.stack([losses[1:] - losses[0] for losses in by_seed])
    truths = {"without": without.mean(axis=0)}
    if diagonal:
        truths["diagonal"] = retrained_on_diagonal(where, night, owner_of, diagonal)
    outputs = night.read_outputs(where.store)["output_id"].to_list()
    manifest, _ = read_export(where.store, day)
    credits = read_credits(where.store, manifest["folder"])
    paid = np.zeros((3, len(owners), len(outputs)))
    rows = credits.select(pl.coalesce("owner_id", "escrow_id", pl.lit("")), "output_id", "share_ppb", "low_ppb", "high_ppb")
    for owner, output, *numbers in rows.filter(pl.nth(0).is_in(owners)).iter_rows():
        paid[:, owners.index(owner), outputs.index(output)] = np.array(numbers) / PPB
    methods = {"paid": paid[0], **baselines(where, night, member.astype(float))}
    true = {name: positive_shares(values) for name, values in truths.items()}
    mean_shares = {"paid": paid[0], **true}
    result: dict[str, Any] = {
        "day": day,
        "outputs": len(outputs),
        "fidelity": manifest.get("fidelity"),
        "owners": {owner: {name: float(of[at].mean()) for name, of in mean_shares.items()} for at, owner in enumerate(owners)},
        "largest share": {name: float(of.max(axis=0).mean()) for name, of in mean_shares.items()},
    }
    for truth, values in truths.items():
        result[truth] = {
            "methods": {
                name: compare(method, values) | {"same first": float((method.argmax(axis=0) == values.argmax(axis=0)).mean())}
                for name, method in methods.items()
            },
            "inside intervals": float(((true[truth] >= paid[1] - 1e-9) & (true[truth] <= paid[2] + 1e-9)).mean()),
        }
    if seeds > 1:
        result["without"]["one seed against the others"] = compare(without[0], without[1:].mean(axis=0))
    if diagonal:
        middle = diagonal // 4 * 2  # pairs stay together
        parts = (slice(middle), slice(middle, None))
        result["diagonal"]["one half of the trainings against the other"] = compare(
            *(retrained_on_diagonal(where, night, owner_of, diagonal, part) for part in parts)
        )
    return result


def main() -> None:
    """Measure one day and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("day", help="a published day, YYYY-MM-DD")
    parser.add_argument("--diagonal", type=int, default=64, help="trainings at each of three parts of the corpus; 0: none")
    parser.add_argument("--seeds", type=int, default=2, help="trainings without each owner")
    parser.add_argument("--workers", type=int)
    asked = parser.parse_args()
    with opened(local_settings(device="cpu", workers=asked.workers), ledger=False) as where:
        result = measure(where, asked.day, diagonal=asked.diagonal, seeds=asked.seeds)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
