"""What models of token sequences share: architecture, batches of token ids, their likelihood and their continuation."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from provenance.core.errors import ExampleError, ModelError, in_batch
from provenance.models.adapters.training import Recipe, train_and_save

IGNORED = -100
TOKENIZER = "tokenizer.json"


class Sequences:
    """A causal `transformers` model of token sequences; what its tokens are, an adapter says with `encode` and `decode`.

    Args:
        context: the longest content in tokens, by default the architecture's.

    Attributes:
        begin: the token that begins a sequence, and that no continuation may hold; None for none.
        unit: what to call tokens in an error.
        arguments: of the adapter, besides the recipe's.
    """

    begin: int | None
    unit: str

    def __init__(self, folder: Path, context: int | None, recipe: Recipe) -> None:
        self.folder, self.recipe, path = folder, recipe, folder / "config.json"
        if not path.is_file():
            raise ModelError(str(path), expected="a transformers configuration", found="no such file")
        self.config = AutoConfig.from_pretrained(folder)
        most: int | None = getattr(self.config, "max_position_embeddings", None)
        if context is not None and most is not None and not 0 < context <= most:
            raise ModelError("adapter_args: context", expected=f"1 to {most}, the positions in config.json", found=str(context))
        self.context = context or most or 1024
        self.arguments: dict[str, Any] = {"context": self.context}

    def require(self, tokens: int, what: str) -> None:
        """Refuse an architecture with fewer tokens than what is read needs."""
        if self.config.vocab_size < tokens:
            where = f"{self.folder / 'config.json'}: vocab_size"
            raise ModelError(where, expected=f"at least {tokens} for {what}", found=str(self.config.vocab_size))

    def encode(self, contents: list[bytes]) -> list[list[int]]:
        """Tokens of each content."""
        raise NotImplementedError

    def decode(self, tokens: list[int]) -> bytes:
        """The inverse of `encode`, for one content."""
        raise NotImplementedError

    def module(self) -> torch.nn.Module:
        """The architecture with fresh weights."""
        module: torch.nn.Module = AutoModelForCausalLM.from_config(self.config)
        return module

    def collate(self, contents: list[bytes]) -> torch.Tensor:
        """Token ids `(n, longest)`, begun by the token that begins a sequence and padded with -100.

        Raises:
            ExampleError: a content is longer than the context, or too short to have a likelihood. Nothing is cut.
        """
        begin = [] if self.begin is None else [self.begin]
        sequences = [begin + tokens for tokens in self.encode(contents)]
        longest = max(map(len, sequences))
        if longest > self.context + 1:  # the last token is predicted, never read
            row = max(range(len(sequences)), key=lambda i: len(sequences[i]))
            raise ExampleError(
                in_batch(row),
                expected=f"at most {self.context} {self.unit}, the model's context",
                found=f"{longest - 1} {self.unit}",
                hint="Split longer works into examples.",
            )
        shortest = min(range(len(sequences)), key=lambda i: len(sequences[i]))
        if len(sequences[shortest]) < 2:
            found = f"{len(sequences[shortest])} tokens"
            raise ExampleError(in_batch(shortest), expected="at least one token to predict", found=found)
        ids = torch.full((len(sequences), longest), IGNORED)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.as_tensor(sequence)
        return ids

    def loss(self, module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each content, summed over its tokens: `(n,)`, in nats."""
        ids = batch.to(next(module.parameters()).device)
        # Padding stands at the end, where a causal model cannot see it from the tokens that count.
        logits = module(input_ids=ids[:, :-1].clamp(min=0), use_cache=False).logits
        # Flat, because the class axis in the middle costs cross_entropy several times as much on a CPU.
        targets = ids[:, 1:].flatten()
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, reduction="none")
        return losses.view(len(ids), -1).sum(dim=1)

    def complete(
        self, module: torch.nn.Module, prompts: Sequence[bytes], *, length: int, temperature: float, seed: int
    ) -> list[bytes]:
        """Sample a continuation of `length` tokens for each prompt, all at once; of prompts only their last tokens are read.

        They are as many as the shortest prompt has.
        """
        tokens, begin = self.encode(list(prompts)), self.begin
        shortest = min(map(len, tokens))
        ids = torch.tensor([[*([] if begin is None else [begin]), *prompt[-shortest:]] for prompt in tokens])
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
                suppress_tokens=None if begin is None else [begin],
                pad_token_id=0 if begin is None else begin,
                use_cache=True,
            )
        return [self.decode(row) for row in sampled[:, ids.shape[1] :].tolist()]


def train_sequences(
    self: Sequences,
    contents: Sequence[bytes],
    *,
    seed: int,
    folder: Path,
    model_id: str = "",
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train from scratch and write a model folder.

    Args:
        contents: what to train on.
        seed: of the fresh weights and of the order of examples.
        folder: where to write; `model.toml` comes last.
        model_id: by default the folder's name.
        progress: called after each step with the steps done, all steps, and the step's loss in nats per token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", TOKENIZER):
        if folder != self.folder and (self.folder / name).is_file():
            shutil.copyfile(self.folder / name, folder / name)

    def mean_loss(module: torch.nn.Module, batch: list[bytes], _: torch.Generator) -> torch.Tensor:
        ids = self.collate(batch)
        return self.loss(module, ids).sum() / (ids[:, 1:] != IGNORED).sum()

    train_and_save(self, contents, mean_loss, seed=seed, folder=folder, model_id=model_id, progress=progress)
