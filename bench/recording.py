"""What recording costs a training: seconds with and without it, as JSON.

    python bench/recording.py [--steps 60] [--turns 3]

A Llama of 3 million parameters reads batches of 8 x 128 tokens on one thread, by `transformers.Trainer` and by a plain loop;
runs with and without the recorder take turns. Recording hashes contents, notes batches and keeps eight checkpoints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from provenance.models.recording import Recorder, record

if TYPE_CHECKING:
    from collections.abc import Callable

TOKENS, BATCH, EXAMPLES, VOCABULARY = 128, 8, 512, 2000


def make() -> LlamaForCausalLM:
    """A new model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def by_trainer(rows: list[torch.Tensor], known: dict[str, Any], steps: int, folder: Path, *, recorded: bool) -> None:
    """Train with `transformers.Trainer`."""
    arguments = TrainingArguments(
        output_dir=str(folder / "run"), per_device_train_batch_size=BATCH, max_steps=steps, save_strategy="no", report_to=[],
        disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, logging_strategy="no",
    )  # fmt: skip
    data: Any = [{"input_ids": row, "labels": row} for row in rows]
    # The tokens are no text, so they are not compared with an adapter's.
    callbacks: list[Any] = [Recorder(folder / "model", **known)] if recorded else []
    Trainer(model=make(), args=arguments, train_dataset=data, callbacks=callbacks).train()


def by_loop(rows: list[torch.Tensor], known: dict[str, Any], steps: int, folder: Path, *, recorded: bool) -> None:
    """Train with a plain loop."""
    module = make()
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-5)
    recording = record(module, optimizer, out=folder / "model", steps=steps, **known) if recorded else nullcontext()
    draws = torch.Generator().manual_seed(0)
    with recording as run:
        for _ in range(steps):
            chosen = torch.randint(len(rows), (BATCH,), generator=draws)
            ids = torch.stack([rows[row] for row in chosen.tolist()])
            module(input_ids=ids, labels=ids).loss.backward()
            if run is not None:
                run.batch(chosen)
            optimizer.step()
            optimizer.zero_grad()


def measure(train: Callable[..., None], data: list[Any], steps: int, turns: int) -> dict[str, Any]:
    """Median seconds without and with recording, and the part that it adds."""
    seconds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for turn in range(turns + 1):
        for recorded in (False, True) if turn % 2 else (True, False):
            with tempfile.TemporaryDirectory() as scratch:
                wall, cpu = time.perf_counter(), time.process_time()
                train(*data, steps, Path(scratch), recorded=recorded)
                if turn:  # the first warms up
                    seconds[recorded].append((time.process_time() - cpu, time.perf_counter() - wall))
    medians = {
        recorded: [statistics.median(values) for values in zip(*pairs, strict=True)] for recorded, pairs in seconds.items()
    }
    added = [with_ / without - 1 for without, with_ in zip(medians[False], medians[True], strict=True)]
    return {"without": medians[False], "with": medians[True], "added": added}


def main() -> None:
    """Measure both and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    draws = torch.Generator().manual_seed(1)
    rows = [torch.randint(VOCABULARY, (TOKENS,), generator=draws) for _ in range(EXAMPLES)]
    contents = [row.to(torch.int32).numpy().tobytes() for row in rows]
    works = [f"work-{at // 8}" for at in range(EXAMPLES)]
    known = {"works": works, "contents": contents, "adapter": "recording:none"}
    print(  # noqa: T201
        json.dumps(
            {
                "parameters": sum(parameter.numel() for parameter in make().parameters()),
                "steps": asked.steps,
                "units": "median seconds of CPU and on the clock",
                "trainer": measure(by_trainer, [rows, known], asked.steps, asked.turns),
                "loop": measure(by_loop, [rows, known], asked.steps, asked.turns),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
