"""Works out what a million, a hundred million and a billion works take: hours, bytes and dollars, as a table in Markdown.

    python bench/sums.py [--gpu-dollars 2.5] [--core-dollars 0.04] [--gb-month-dollars 0.023]

Constants are slopes that were measured (docs/evidence.md), or assumptions that docs/production.md names. A model has a
twentieth as many weights as its corpus has tokens (Hoffmann et al. 2022, arXiv 2203.15556, section 3), and no fewer than GPT-2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, inf

# Assumed: operations that a GPU sustains in a second, in bfloat16; tokens of a work of 500 bytes, and of an output.
SUSTAINED = 250e12
WORK_TOKENS, OUTPUT_TOKENS = 128, 256
WEIGHTS_OF_GPT2, TOKENS_A_WEIGHT = 124e6, 20
OWNERS_A_WORK = 0.01
CHECKPOINTS, EPOCHS = 3, 1
# Counterfactual models, and what they cost in trainings on everything; the part of the size of a sibling.
MODELS, TRAININGS, SIBLING = 40, 16, 0.25
NEW = 0.01  # part of the works that is new in a night
# Measured. Passes of features against bare ones, and products of one example and output in a second: on an H100, by an earlier
# version. Bytes of an example's features at a checkpoint.
FEATURES, PRODUCTS, FEATURE_BYTES = 1.45, 17.6e6, 2_788
# Measured on two cores: seconds of a core for a work in an ingest; for a credit (an output and owner) in `estimate`, and in
# `share`, `book`, `publish` and `reconcile` together; bytes of a credit in the night's tables and in the export.
INGEST, ESTIMATE, SETTLE, CREDIT_BYTES = 138e-6, 33e-6, 8e-6, 102
# Likewise: for a work, to freeze a night and plan counterfactual models, and for the spans of 16 outputs (`royalty.credit`).
FREEZE, SPANS = 39e-6, 650e-6
# Measured: bytes of the process that merges an ingest's tables, at the start and for a work; of Dask's scheduler, for a task.
MERGE_START, MERGE_BYTES, TASK_BYTES = 450e6, 1_180, 4_400
SHARD, FILES_A_TASK = 384, 4  # examples in a shard; files of features in a task on a GPU (on cores 1)


@dataclass(frozen=True)
class Prices:
    """Dollars for an hour of a GPU and of a core, and for a GB in a month."""

    gpu: float
    core: float
    gb_month: float


@dataclass(frozen=True)
class Size:
    """A corpus with its model, and the outputs of a night."""

    works: float
    outputs: float

    @property
    def weights(self) -> float:
        """Of the model."""
        return max(WEIGHTS_OF_GPT2, self.works * WORK_TOKENS / TOKENS_A_WEIGHT)

    @property
    def owners(self) -> float:
        """A hundredth of the works."""
        return self.works * OWNERS_A_WORK

    @property
    def passes(self) -> float:
        """GPU hours of a forward and a backward pass over all works."""
        return 6 * self.weights * WORK_TOKENS * self.works / SUSTAINED / 3600


def rows(size: Size, prices: Prices) -> Iterator[tuple[str, str]]:
    """Names and figures."""

    def gpu(hours: float) -> str:
        return f"{_short(hours)} h, ${_short(hours * prices.gpu)}"

    def core(seconds: float) -> str:
        return f"{_short(seconds / 3600)} h, ${_short(seconds / 3600 * prices.core)}"

    def stored(count: float) -> str:
        return f"{_bytes(count)}, ${_short(count / 1e9 * prices.gb_month)} a month"

    def together(on_gpus: float) -> str:
        dollars = on_gpus * prices.gpu + on_cores * prices.core
        return f"${_short(dollars)}; GPUs: {ceil(on_gpus / 6):,}, cores: {ceil(on_cores / 6):,}"

    features = FEATURES * size.passes * CHECKPOINTS
    likelihoods = 2 * size.weights * OUTPUT_TOKENS * size.outputs * (MODELS + 2) / SUSTAINED / 3600
    credits = size.outputs * size.owners
    scores = size.works * size.outputs * CHECKPOINTS / PRODUCTS / 3600
    on_cores = ((ESTIMATE + SETTLE) * credits + (FREEZE + SPANS) * size.works) / 3600
    tasks = size.works / SHARD * CHECKPOINTS / FILES_A_TASK
    yield "owners; weights of the model", f"{_short(size.owners)}; {_short(size.weights)}"
    yield "**once for a model, GPU**: its own training", gpu(size.passes * EPOCHS)
    yield f"counterfactual models worth {TRAININGS} trainings", gpu(TRAININGS * size.passes * EPOCHS)
    yield "the same of a sibling of a quarter of the size", gpu(SIBLING * TRAININGS * size.passes * EPOCHS)
    yield "features", gpu(features)
    yield "tasks of features; the scheduler's memory for them", f"{_short(tasks)}; {_bytes(TASK_BYTES * tasks)}"
    yield "**once for a delivery, cores**: ingest", core(INGEST * size.works)
    yield "memory of the process that merges its tables", _bytes(MERGE_START + MERGE_BYTES * size.works)
    yield f"**every night, GPU**: features of {NEW:.0%} new works", gpu(NEW * features)
    yield "likelihoods under all models", gpu(likelihoods)
    yield "scores of every example", gpu(scores)
    yield "**every night, cores**: estimate", core(ESTIMATE * credits)
    yield "shares, booking, publishing", core(SETTLE * credits)
    yield "inputs and plans; spans of 16 outputs, for people to read", core((FREEZE + SPANS) * size.works)
    yield "**a night together**; to end within six hours", together(NEW * features + likelihoods + scores)
    yield "the same with scores of sums by owner (not built)", together(NEW * features + likelihoods + scores * OWNERS_A_WORK)
    yield "credits, and what a night of them costs", f"{_short(credits)}: {stored(CREDIT_BYTES * credits)}"
    yield "**stored**: features", stored(FEATURE_BYTES * size.works * CHECKPOINTS)
    yield f"{MODELS} counterfactual models, in two bytes a weight", stored(2 * size.weights * MODELS)


def _short(number: float) -> str:
    """A number with two digits."""
    rounded = float(f"{number:.2g}")
    for unit, name in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if rounded >= unit:
            return f"{rounded / unit:g}{name}"
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def _bytes(count: float) -> str:
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB")):
        if count >= unit:
            return f"{count / unit:.2g} {name}" if count / unit < 100 else f"{count / unit:.0f} {name}"
    return f"{count / 1e6:.0f} MB"


def _price(text: str) -> float:
    price = float(text)
    if not 0 <= price < inf:
        raise argparse.ArgumentTypeError(f"expected a price of 0 or more, found {text}")
    return price


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu-dollars", type=_price, default=2.5, help="for an hour (default: 2.50)")
    parser.add_argument("--core-dollars", type=_price, default=0.04, help="for an hour (default: 0.04)")
    parser.add_argument("--gb-month-dollars", type=_price, default=0.023, help="for a GB in a month (default: 0.023)")
    asked = parser.parse_args()
    prices = Prices(asked.gpu_dollars, asked.core_dollars, asked.gb_month_dollars)
    sizes = [Size(works, 1e6) for works in (1e6, 1e8, 1e9)]
    tables = [dict(rows(size, prices)) for size in sizes]
    sys.stdout.write("| | " + " | ".join(f"{_short(size.works)} works" for size in sizes) + " |\n|---|---|---|---|\n")
    for name in tables[0]:
        sys.stdout.write(f"| {name} | " + " | ".join(table[name] for table in tables) + " |\n")


if __name__ == "__main__":
    main()
