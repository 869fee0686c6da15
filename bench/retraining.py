"""How far shares and influence are from retraining without each owner, and on halves of the owners.

    python bench/retraining.py var/workloads/styles [--seeds 2] [--trainings 8] [--halves 16]

The folder is one of `provenance workload`. The truth of a share is the loss of an output's likelihood without the owner's works
(leave-one-owner-out), `max(0, v)` in parts of their sum. Beside it: every rule by counterfactual models worth so many trainings
(they have other seeds than the truth), summed influence, TF-IDF, BM25, shares by tokens and equal shares. And on halves of the
owners: the linear datamodelling score. Prints JSON. What was trained stays below `retraining/` of the folder, so that the same
command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from provenance.core.where import Where
from provenance.core.words import words
from provenance.inputs.night import Night
from provenance.local.attribute import Request, folder_night
from provenance.royalty.shares import BY_VALUE
from provenance.validation.audit import scores_of, units
from provenance.validation.coalitions import baselines, compare, estimates
from provenance.validation.lds import linear_datamodelling_score, noise_ceiling
from provenance.validation.retrain import retrain
from provenance.validation.subsets import halves
from tasks.where import local_settings, opened

SEED = 501  # the first; models in use, and those of other audits, have other seeds
KINDS = ("held-out", "own")  # of outputs
K1, B = 1.5, 0.75  # usual constants of BM25


def bm25(where: Where, night: Night) -> np.ndarray:
    """Okapi BM25 (Robertson and Zaragoza 2009, section 3) of examples, with outputs as queries: `(outputs, examples)`."""
    tables = (night.read_outputs(where.store), night.read_corpus(where.store, "content", "modality"))
    queries, documents = (
        [words(content, modality, 0) for content, modality in table.select("content", "modality").iter_rows()]
        for table in tables
    )  # fmt: skip
    vocabulary = {word: at for at, word in enumerate(sorted({word for document in documents for word in document}))}
    counts = np.zeros((len(documents), len(vocabulary)))
    for row, document in enumerate(documents):
        np.add.at(counts[row], [vocabulary[word] for word in document], 1)
    having, length = (counts > 0).sum(axis=0), counts.sum(axis=1, keepdims=True)
    rarity = np.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
    weight = rarity * counts * (K1 + 1) / (counts + K1 * (1 - B + B * length / length.mean()))
    return np.stack([weight[:, [vocabulary[word] for word in query if word in vocabulary]].sum(axis=1) for query in queries])


def measure(where: Where, night: Night, *, seeds: int, trainings: list[int], count: int) -> dict[str, Any]:
    """The figures, by method."""
    _, owner_of = units(where.store, night)
    owners = sorted(set(owner_of))
    member = np.array([[owner == own for own in owner_of] for owner in owners])
    masks = np.concatenate([np.ones_like(member[:1]), ~member])
    by_seed = [retrain(where, night, masks, SEED + at, "all works but one owner's") for at in range(seeds)]
    worth = np.stack([without[1:] - without[0] for without in by_seed])
    truth = worth.mean(axis=0)
    influence = {name: scores_of(where, night, name) for name in ("factored", "tfidf")} | {"bm25": bm25(where, night)}
    values = baselines(where, night, member.astype(float)) | {"sum of bm25": member @ influence["bm25"].T}
    shares, models = dict[str, np.ndarray](), dict[int, Any]()
    for worths in trainings:
        estimated, report = estimates(where, night, owners, worths)
        shares |= {f"{rule}, worth {worths}": estimated[rule][0] for rule in BY_VALUE}
        models[worths] = {"models": report["models"], "fidelity": report["lds"]}
    ids = night.read_outputs(where.store)["output_id"].to_list()
    result: dict[str, Any] = {"owners": owners, "counterfactual models": models, "shares": {}}
    for kind in KINDS:
        chosen = [at for at, output in enumerate(ids) if output.startswith(kind)]
        others = [np.delete(worth, at, axis=0).mean(axis=0) for at in range(seeds)] if seeds > 1 else []
        one_seed = [compare(one[:, chosen], other[:, chosen]) for one, other in zip(worth, others, strict=False)]
        result["shares"][kind] = {
            "outputs": len(chosen),
            "one seed against the others": one_seed,
            **{name: compare(value[:, chosen], truth[:, chosen]) for name, value in (values | shares).items()},
        }
    if count:
        masks = halves(owner_of, count, name="retraining")
        losses = np.stack([retrain(where, night, masks, SEED + at, "halves of the owners") for at in range(max(2, seeds))])
        scores = {name: linear_datamodelling_score(matrix, masks, losses.mean(axis=0)) for name, matrix in influence.items()}
        result["lds of owners"] = {"halves": len(masks), "ceiling": noise_ceiling(losses)[1], **scores}
    return result


def main() -> None:
    """Measure one workload and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--trainings", type=int, nargs="*", default=[8])
    parser.add_argument("--halves", type=int, default=0)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = parser.parse_args()
    folder = asked.workload
    request = Request(
        folder / "corpus", folder / "model", folder / "outputs.parquet", folder / "retraining", date(2026, 11, 20)
    )
    with opened(local_settings(device=asked.device, workers=asked.workers), ledger=False) as where:
        local, night = folder_night(where, request)
        result = measure(local, night, seeds=asked.seeds, trainings=asked.trainings, count=asked.halves)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
