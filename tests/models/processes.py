"""Recorded runs on two processes, started by torchrun: `processes.py OUT` writes OUT/ddp, OUT/fsdp and OUT/trainer."""

import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from trainers import BEGIN, corpus, pad, rows_of, tiny_llama, trainer

from provenance.models.recording import Recorder, record


def loop(module: torch.nn.Module, out: Path) -> None:
    works, contents = corpus(16)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    how = {"max_grad_norm": 0.0, "keep": (0.5, 1), "adapter_args": {"begin": BEGIN, "end": False}}
    with record(module, optimizer, out=out, steps=8, works=works, contents=contents, **how) as run:
        for _ in range(4):
            for start in (0, 8):
                rows = range(start + distributed.get_rank(), start + 8, 2)
                run.batch(rows)
                module(**pad(rows_of([contents[row] for row in rows]))).loss.backward()
                optimizer.step()
                optimizer.zero_grad()


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    distributed.init_process_group("gloo")
    loop(DistributedDataParallel(tiny_llama()), out / "ddp")
    loop(fully_shard(tiny_llama()), out / "fsdp")
    works, contents = corpus(16)
    recorder = Recorder(out / "trainer", works, contents)
    trainer(tiny_llama(), contents, out, recorder, gradient_accumulation_steps=1).train()
    distributed.destroy_process_group()
