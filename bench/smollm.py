"""SmolLM2 with LoRA on the works of ten owners: time and memory of everything, then shares and influence against retraining.

    python bench/smollm.py [--examples 24] [--cut] [--parts make,passes,night,retraining] [--device cpu]

Run by `make smollm`, many hours on two cores; `make smollm-gpu` takes fewer trainings, for ten minutes of a GPU. `--examples`
takes fewer of each owner, in fewer epochs; `--cut` takes two layers of the model and three owners. Every part runs in a process
of its own, so that its peak memory is its own. What is made stays in `var/workloads/smollm`; the same command goes on there.
Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.settings import CHECKOUT

# Parts that run in this script's own processes, with what they measure.
PASSES = ("bare", "features", "training")
PARTS = ("make", "passes", "night", "retraining")
BATCH = 8
# Examples of an owner in the whole workload.
WHOLE = 24


def run_make(folder: Path, cut: bool, examples: int, device: str) -> dict[str, Any]:
    """Make the workload: unpack the base, tune it, and ask it."""
    from provenance.validation.workload import SMOLLM_CUT, WORKLOADS, make, smollm

    if examples == WHOLE:
        workload = SMOLLM_CUT if cut else WORKLOADS["smollm"]
    else:
        workload = smollm(examples_each=examples, held_out_each=2, epochs=2, batch_size=4)
    return make("smollm", folder, workload, device=device)


def clock(device: str) -> float:
    """Seconds of this process: of its processor, or on a GPU those that pass until the GPU is done."""
    if device == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def run_pass(folder: Path, what: str, device: str) -> dict[str, Any]:
    """Seconds (`clock`) of one pass over the corpus: `bare` (forward and backward, as in training), or `features` of examples.

    `training` makes a counterfactual model on all works but those of one owner.
    """
    from provenance.core.settings import Settings
    from provenance.features.gradients import gradient_features
    from provenance.features.projection import Projection
    from provenance.models.model import examples_in, forward_and_backward, read_model
    from provenance.models.trainer import train_model

    model, works = read_model(folder / "model"), pl.read_parquet(folder / "corpus/examples.parquet")
    if what == "training":
        owner = works["work_id"].str.split("==").list.first()
        started = clock(device)
        with tempfile.TemporaryDirectory() as out:
            train_model(model, works.filter(owner != owner[0]), seed=9, folder=Path(out) / "model", device=device)
        return {"of the pass": clock(device) - started, "examples": works.filter(owner != owner[0]).height}
    module = model.load(model.card.checkpoints[-1], device=device)
    adapter, examples = model.adapter(), examples_in(works)
    forward_and_backward(adapter, module, examples[:BATCH], BATCH)  # a warm start for either
    started = clock(device)
    if what == "bare":
        forward_and_backward(adapter, module, examples, BATCH)
        return {"of the pass": clock(device) - started}
    projection = Projection(**Settings().features.projection)
    rows = gradient_features(adapter, module, examples, projection=projection, checkpoint="last", batch_size=BATCH)
    return {"of the pass": clock(device) - started, "numbers per example": rows.dense.shape[1]}


def run_night(folder: Path, device: str) -> dict[str, Any]:
    """Influence on all outputs with nothing computed before, and then again with everything there."""
    from provenance.local.attribute import Request, attribute
    from tasks.where import local_settings, opened

    seconds = []
    with tempfile.TemporaryDirectory() as out:
        request = Request(folder / "corpus", folder / "model", folder / "outputs.parquet", Path(out), date(2026, 11, 20))
        with opened(local_settings(device=device, workers=1), ledger=False) as where:
            for _ in range(2):
                started = time.perf_counter()
                manifest = attribute(where, request)
                seconds.append(time.perf_counter() - started)
    return {"seconds": seconds[0], "again": seconds[1], "followed": manifest["parameters_covered"]["share"]}


def measured(*words: str) -> dict[str, Any]:
    """Run a part in a process of its own; its result, with the peak of its memory in GB and processor time in seconds."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, __file__, *words], cwd=CHECKOUT, stdout=output)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(words)}: exit code {process.returncode}")
        output.seek(0)
        result: dict[str, Any] = json.loads(output.read().splitlines()[-1])
    return result | {"peak_gb": used.ru_maxrss / 1e6, "processor_seconds": used.ru_utime + used.ru_stime}


def main() -> None:
    """Run the parts, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cut", action="store_true")
    parser.add_argument("--examples", type=int, default=WHOLE)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--trainings", default="8")
    parser.add_argument("--halves", default="16")
    parser.add_argument("--seeds", default="2")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.cut and asked.examples != WHOLE:
        parser.error("--cut has its own number of examples")
    kind = "-cut" if asked.cut else "" if asked.examples == WHOLE else f"-{asked.examples}"
    folder = CHECKOUT / f"var/workloads/smollm{kind}"
    if asked.part:
        if asked.part == "make":
            result = run_make(folder, asked.cut, asked.examples, asked.device)
        elif asked.part == "night":
            result = run_night(folder, asked.device)
        else:
            result = run_pass(folder, asked.part, asked.device)
        sys.stdout.write(json.dumps(result) + "\n")
        return
    same = ["--device", asked.device, "--examples", str(asked.examples), *(["--cut"] if asked.cut else [])]
    parts, figures = asked.parts.split(","), dict[str, Any]()
    if "make" in parts and not (folder / "outputs.parquet").exists():
        figures["make"] = measured("--part", "make", *same)
    if "passes" in parts:
        figures |= {what: measured("--part", what, *same) for what in PASSES}
    if "night" in parts:
        figures["night"] = measured("--part", "night", *same)
    if "retraining" in parts:
        options = {name: getattr(asked, name) for name in ("trainings", "halves", "seeds", "device")}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        script = [sys.executable, "bench/retraining.py", str(folder), *words]
        printed = subprocess.run(script, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, text=True).stdout
        figures["retraining"] = json.loads(printed)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
