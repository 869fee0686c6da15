"""Measures what a night costs by the number of works: from a delivery that is made up to a reconciled export.

    provenance bench --parts scale --examples 100000

The corpus is `scale`'s: 10,000 owners. A byte-level transformer of a few thousand parameters and its counterfactual models are
trained on 64 texts of their parts each: a night reads models, it does not ask how they came about. Features have few numbers,
and one checkpoint. Every stage runs in a process of its own, as Airflow runs it, with two workers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.settings import Settings
from provenance.core.stages import BOOK, BY_NAME, COMPUTED, CREDIT, FREEZE, PUBLISH, RECONCILE, REVIEW
from provenance.validation.scale import OpenWorkers, deliver, in_new_process, measured, texts
from provenance.validation.scale_model import READ, Small

log = logging.getLogger("provenance.bench")

DAY = date(2026, 11, 20)
OUTPUTS, FIRST_OUTPUT = 1_000, 10**9
CLUSTER = {"address": "", "processes": True, "device": "cpu"}
# Worth of the counterfactual models in trainings: 32 models.
TRAININGS = 10
# A small model needs few numbers for each example.
FEATURES = {"dense": 128, "dense_alone": 128, "dense_most": 128, "token_rank": 8}


def lay_out(folder: Path, examples: int) -> None:
    """Write a delivery, a day of outputs and a trained model."""
    from transformers import LlamaConfig

    deliver(folder / "corpus", examples)
    contents = texts(FIRST_OUTPUT, OUTPUTS)["content"]
    noon = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC)
    outputs = pl.DataFrame({"output_id": [f"o{number:06d}" for number in range(OUTPUTS)], "content": contents}).with_columns(
        model_id=pl.lit("model"), revenue_minor=pl.lit(100, pl.Int64), currency=pl.lit("EUR"), served_at=pl.lit(noon)
    )
    (folder / f"outputs/day={DAY}").mkdir(parents=True)
    outputs.write_parquet(folder / f"outputs/day={DAY}/part.parquet")
    LlamaConfig(
        vocab_size=257,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=READ + 2,
        tie_word_embeddings=False,
        bos_token_id=256,
        eos_token_id=None,
    ).save_pretrained(folder / "model")
    first = pl.read_parquet(folder / "corpus/examples.parquet/part-0000.parquet")["content"].to_list()
    Small(folder / "model", epochs=1, batch_size=16, learning_rate=1e-2).train(first, seed=1, folder=folder / "model")


def settings_at(folder: Path, settings: Settings, workers: int) -> Settings:
    """Settings of a night in a folder, with some workers and a ledger of its own."""
    at = settings.at(folder, folder / "model")
    update = {
        "cluster": CLUSTER | {"workers": workers},
        "features": FEATURES,
        "influence": {"method": "fitted", "checkpoints": 1},
        "counterfactuals": {"trainings": TRAININGS},
        "database": {"url": "", "folder": str(folder / "postgres")},
        "settlement": {"key": folder / "signing.pem", "retired": folder / "retired"},
        "lineage": {"url": "", "folder": ""},
    }
    return at.model_copy(update={name: getattr(at, name).model_copy(update=values) for name, values in update.items()})


def scale(folder: Path, settings: Settings, open_workers: OpenWorkers, examples: int, *, workers: int = 2) -> dict[str, Any]:
    """The cost of every stage: seconds, of the processor as well, peak memory in MB, and bytes that it added to the store."""
    in_new_process(lay_out, folder, examples)
    at, stages = settings_at(folder, settings, workers), dict[str, Any]()

    def run(stage: str, *arguments: Any) -> Any:
        before = _bytes(folder)
        result, cost = in_new_process(_measured_stage, at, open_workers, stage, arguments)
        stages[stage] = cost | {"bytes": _bytes(folder) - before}
        log.info("%s: %.0f s", stage, cost["seconds"])
        return result

    run("corpus.ingest")
    run("counterfactuals.train", [name for group in run("counterfactuals.plan") for name in group])
    night = run(FREEZE.name, str(DAY))
    for stage in COMPUTED:
        run(stage.name, night)
    run(REVIEW.name, night)
    run(BOOK.name, night)
    for stage in (PUBLISH, RECONCILE):
        run(stage.name, str(DAY))
    run(CREDIT.name, night)
    return {"examples": examples, "outputs": OUTPUTS, "stages": stages}


def _measured_stage(
    settings: Settings, open_workers: OpenWorkers, stage: str, arguments: Sequence[Any]
) -> tuple[Any, dict[str, float]]:
    """The result of a stage, and its cost."""
    results = []

    def run() -> None:
        with open_workers(settings) as where:
            results.append(BY_NAME[stage].run(where, *arguments))

    cost = measured(run)
    return results[0], vars(cost)


def _bytes(folder: Path) -> int:
    """Bytes of a store and its ledger."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
