"""Measures how often spans of works rest on their own owners, on the newest night of a store.

    python bench/spans.py [--each 24]

Takes texts whose owner is known for outputs: works that the model was trained on, and works that were held out of training.
Beside it: how often the same is true by gradients alone and by words alone (TF-IDF), and how often the leading party has a
quarter of the influence (`firm`). By chance it is one of the owners.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from provenance.core.where import Where
    from provenance.inputs.night import Night

SEED = 1


def measure(where: Where, night: Night, texts: pl.DataFrame) -> dict[str, Any]:
    """Parts of the spans of texts whose leading party is the texts' owner.

    Args:
        texts: `output_id, content, prompt, modality, owner_id`.
    """
    from provenance.influence.night_spans import span_influence, spanned
    from provenance.inputs.holders import duplicate_rules
    from provenance.inputs.methods import WORDS
    from provenance.inputs.night import read_manifest

    names = read_manifest(where.store, night.folder, "scores")["components"]
    rule = duplicate_rules(night)[0]
    fitted = read_manifest(where.store, night.folder, "estimate")["copies"][rule]["components"]
    words = np.array([name.startswith(WORDS) for name in names], dtype=float)
    weights = {"spans": np.array([fitted[name] for name in names]), "gradients": 1 - words, "words": words}
    outputs = spanned(where, night, texts.drop("owner_id"), most=16)
    owners = texts.select("output_id", "owner_id")
    found: dict[str, Any] = {"texts": len(outputs), "spans": sum(len(output.spans) for output in outputs)}
    for name, weight in weights.items():
        table = span_influence(where, night, outputs, rule=rule, weights=weight).join(owners, on="output_id")
        leading = table.group_by("output_id", "start", maintain_order=True).first()
        own = (leading["party_id"] == leading["owner_id"]).to_numpy()
        firm = (leading["part"] >= 0.25).to_numpy()
        parts = {"own": own.mean(), "firm": firm.mean(), "own_of_firm": own[firm].mean() if firm.any() else 0.0}
        found[name] = {key: round(float(part), 3) for key, part in parts.items()}
    return found


def main() -> None:
    """Print the figures of the settings' store as JSON."""
    from provenance.core.published import night_in_force, published_days
    from provenance.corpus.delivery import read_corpus
    from provenance.influence.night_spans import SCRATCH
    from provenance.inputs.night import load_night
    from tasks.where import opened

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--each", type=int, default=24, help="texts of each kind")
    each = parser.parse_args().each
    with opened() as where:
        night = load_night(where.store, night_in_force(where.store, published_days(where.store)[-1]))
        corpus = read_corpus(where.store, where.settings.corpus.folder)
        sole = corpus.claims.group_by("work_id").agg(pl.col("owner_id").first(), pl.len()).filter(pl.col("len") == 1)
        known = corpus.examples.drop("owner_id").join(sole, on="work_id").rename({"example_id": "output_id"})
        columns = ["output_id", "content", "prompt", "modality", "owner_id"]
        figures: dict[str, Any] = {"owners": corpus.owners.height}
        for split in ("train", "held_out"):
            of_split = known.filter(pl.col("split") == split)
            texts = of_split.sample(min(each, of_split.height), seed=SEED).select(columns)
            figures[split] = measure(where, night, texts)
        for scratch in where.store.list(f"{night.folder}/{SCRATCH}"):
            where.store.remove(scratch)
    print(json.dumps(figures, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
