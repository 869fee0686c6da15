"""Causal language models from a `transformers` folder."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from provenance.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

BEGIN = 256  # the one token that is not a byte
IGNORED = -100


class CausalLM:
    """A causal language model over bytes: token `b` is the byte `b`, and 256 begins a document.

    Args:
        folder: holds `config.json` of a `transformers` architecture with at least 257 tokens.
        context: the longest content in bytes; longer ones are refused, never cut.
        epochs, batch_size, learning_rate, warmup: how `train` trains.
        keep: parts of the run at which `train` keeps a checkpoint, besides its base.
    """

    def __init__(
        self,
        folder: Path,
        *,
        context: int = 256,
        epochs: float = 4.0,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        warmup: float = 0.05,
        keep: Sequence[float] = (0.2, 0.4, 0.6, 1.0),
    ) -> None:
        self.folder, self.context = folder, context
        self.epochs, self.batch_size, self.learning_rate, self.warmup = epochs, batch_size, learning_rate, warmup
        self.keep = tuple(keep)
        if not (folder / "config.json").is_file():
            raise ModelError(str(folder / "config.json"), expected="a transformers configuration", found="no such file")
        self.config = AutoConfig.from_pretrained(folder)
        if self.config.vocab_size <= BEGIN:
            raise ModelError(
                f"{folder / 'config.json'}: vocab_size",
                expected="at least 257 for a byte-level model",
                found=str(self.config.vocab_size),
            )

    def module(self) -> torch.nn.Module:
        """The architecture with fresh weights."""
        module: torch.nn.Module = AutoModelForCausalLM.from_config(self.config)
        return module

    def collate(self, contents: list[bytes]) -> torch.Tensor:
        """Token ids `(n, 1 + longest)`, begun by 256 and padded with -100."""
        longest = max(map(len, contents))
        if longest > self.context:
            row = max(range(len(contents)), key=lambda i: len(contents[i]))
            raise ModelError(
                f"example {row} of the batch ({contents[row][:24]!r}...)",
                expected=f"at most {self.context} bytes, the model's context",
                found=f"{longest} bytes",
                hint="Split longer works into examples.",
            )
        ids = torch.full((len(contents), 1 + longest), IGNORED)
        ids[:, 0] = BEGIN
        for row, content in enumerate(contents):
            ids[row, 1 : 1 + len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return ids

    def loss(self, module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each content, summed over its bytes: `(n,)`, in nats."""
        batch = batch.to(next(module.parameters()).device)
        # Padding stands at the end, where a causal model cannot see it from the bytes that count.
        logits = module(input_ids=batch[:, :-1].clamp(min=0), use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], ignore_index=IGNORED, reduction="none")
        return losses.sum(dim=1)

    def train(
        self,
        contents: Sequence[bytes],
        *,
        seed: int,
        folder: Path,
        model_id: str = "",
        progress: Callable[[int, int, float], None] | None = None,
    ) -> None:
        """Train from scratch and write a model folder: AdamW, linear warm-up, cosine decay.

        Args:
            contents: what to train on.
            seed: of the fresh weights and of the order of examples.
            folder: where to write; `model.toml` comes last.
            model_id: by default the folder's name.
            progress: called after each step with the steps done, all steps, and the step's loss in nats per byte.
        """
        torch.manual_seed(seed)
        module = self.module().train()
        order = torch.Generator().manual_seed(seed)
        steps = max(1, round(self.epochs * len(contents) / self.batch_size))
        keep_at = {max(1, round(part * steps)): part for part in self.keep}
        optimizer = torch.optim.AdamW(module.parameters(), lr=self.learning_rate, weight_decay=0.01)
        folder.mkdir(parents=True, exist_ok=True)
        if folder != self.folder:
            shutil.copyfile(self.folder / "config.json", folder / "config.json")
        checkpoints = [self._save(module, folder, 0, 0.0)]
        queue: list[int] = []
        rate_sum = 0.0
        for step in range(1, steps + 1):
            while len(queue) < self.batch_size:
                queue += torch.randperm(len(contents), generator=order).tolist()
            chosen, queue = queue[: self.batch_size], queue[self.batch_size :]
            rate = self.learning_rate * _schedule(step / steps, self.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = self.collate([contents[i] for i in chosen])
            loss = self.loss(module, batch).sum() / (batch[:, 1:] != IGNORED).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            rate_sum += rate
            if step in keep_at:
                checkpoints.append(self._save(module, folder, step, rate_sum))
            if progress:
                progress(step, steps, loss.item())
        self._write_card(folder, model_id or folder.name, checkpoints)

    def complete(
        self, module: torch.nn.Module, prompts: Sequence[bytes], *, length: int, temperature: float, seed: int
    ) -> list[bytes]:
        """Sample a continuation of `length` bytes for each prompt, all at once; prompts keep their last bytes only."""
        shortest = min(map(len, prompts))
        ids = self.collate([prompt[-shortest:] for prompt in prompts])
        torch.manual_seed(seed)
        with torch.inference_mode():
            sampled = module.generate(  # type: ignore[operator]
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=temperature,
                top_k=0,
                max_new_tokens=length,
                min_new_tokens=length,
                suppress_tokens=[BEGIN],
                pad_token_id=BEGIN,
                use_cache=True,
            )
        return [bytes(row) for row in sampled[:, ids.shape[1] :].tolist()]

    def _save(self, module: torch.nn.Module, folder: Path, step: int, rate_sum: float) -> dict[str, Any]:
        name = f"step-{step:04d}.safetensors"
        tensors = dict(module.named_parameters())  # a tied tensor is listed, and so saved, once
        save_file({key: value.detach().contiguous() for key, value in tensors.items()}, folder / name)
        return {"file": name, "step": step, "learning_rate_sum": rate_sum}

    def _write_card(self, folder: Path, model_id: str, checkpoints: list[dict[str, Any]]) -> None:
        lines = [
            f'model_id = "{model_id}"',
            'adapter = "CausalLM"',
            "",
            "[adapter_args]",
            f"context = {self.context}",
            "",
            "[training]",
            'optimizer = "adamw"',
            f"batch_size = {self.batch_size}",
            f"epochs = {self.epochs}",
            "",
        ]
        for checkpoint in checkpoints:
            lines += [
                "[[checkpoints]]",
                f'file = "{checkpoint["file"]}"',
                f"step = {checkpoint['step']}",
                f"learning_rate_sum = {checkpoint['learning_rate_sum']!r}",
                "",
            ]
        (folder / "model.toml").write_text("\n".join(lines))


def _schedule(part: float, warmup: float) -> float:
    """The learning rate at a part of the run, of its peak: linear warm-up, then a cosine down to a tenth."""
    if part < warmup:
        return part / warmup
    cosine = torch.cos(torch.tensor(torch.pi * (part - warmup) / (1 - warmup)))
    return 0.1 + 0.45 * (1 + float(cosine))
