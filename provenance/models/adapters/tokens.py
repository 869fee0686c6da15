"""Shared code of adapters for token sequences: architecture, batches of token ids, loss, continuations and training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from provenance.core.errors import ExampleError, ModelError, in_batch
from provenance.models.adapters.training_loop import Recipe, train_and_save

IGNORED = -100
TOKENIZER = "tokenizer.json"


class Batch(NamedTuple):
    """Token ids `(n, longest)`, padded at the end with `IGNORED`; and the targets at each place, `IGNORED` outside contents."""

    ids: torch.Tensor
    targets: torch.Tensor

    @property
    def terms(self) -> int:
        """The number of tokens with a loss."""
        return int((self.targets != IGNORED).sum())


class Sequences:
    """A causal `transformers` model of token sequences; an adapter defines its tokens with `encode` and `decode`.

    A sequence is the `begin` token, the tokens of the prompt, and those of the content, which alone have a loss.

    Args:
        context: the longest content in tokens, by default the architecture's.

    Attributes:
        begin: the token that begins a sequence and never occurs in a continuation; None for none.
        unit: the word for tokens in errors.
        arguments: the adapter's arguments without the recipe.
    """

    begin: int | None
    unit: str

    def __init__(self, folder: Path, context: int | None, recipe: Recipe) -> None:
        self.folder, self.recipe, path = folder, recipe, folder / "config.json"
        if not path.is_file():
            raise ModelError(str(path), expected="a transformers configuration", found="no such file")
        self.config = AutoConfig.from_pretrained(folder)
        positions: int | None = getattr(self.config, "max_position_embeddings", None)
        if context is not None and positions is not None and not 0 < context <= positions:
            expected = f"1 to {positions}, the positions in config.json"
            raise ModelError("adapter_args: context", expected=expected, found=str(context))
        self.context = context or positions or 1024
        self.arguments: dict[str, Any] = {"context": self.context}

    def check_vocabulary(self, tokens: int, purpose: str) -> None:
        """Raise ModelError if the architecture has fewer tokens than `purpose` needs."""
        if self.config.vocab_size < tokens:
            where = f"{self.folder / 'config.json'}: vocab_size"
            raise ModelError(where, expected=f"at least {tokens} for {purpose}", found=str(self.config.vocab_size))

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

    def collate(self, contents: list[bytes], prompts: list[bytes | None] | None = None) -> Batch:
        """The batch of contents, each after its prompt if it has one.

        Raises:
            ExampleError: a content and its prompt are longer than the context, or a content has no token to predict.
        """
        asked = [(row, prompt) for row, prompt in enumerate(prompts or ()) if prompt is not None]
        before: list[list[int]] = [[] for _ in contents]
        for (row, _), tokens in zip(asked, self.encode([prompt for _, prompt in asked]), strict=True):
            before[row] = tokens
        begin = [] if self.begin is None else [self.begin]
        rows = [(begin + prompt, content) for prompt, content in zip(before, self.encode(contents), strict=True)]
        for row, (known, content) in enumerate(rows):
            # The last token is only predicted, so it needs no position.
            if len(known) + len(content) > self.context + 1:
                found = f"{len(content)} {self.unit}"
                found += f" after a prompt of {len(before[row])}" if before[row] else ""
                expected = f"at most {self.context} {self.unit}, the model's context"
                raise ExampleError(in_batch(row), expected=expected, found=found, hint="Split longer works into examples.")
            if len(known) + len(content) < 2 or not content:
                raise ExampleError(in_batch(row), expected="at least one token to predict", found=f"{len(content)} tokens")
        longest = max(len(known) + len(content) for known, content in rows)
        ids, targets = torch.full((len(rows), longest), IGNORED), torch.full((len(rows), longest), IGNORED)
        for row, (known, content) in enumerate(rows):
            end = len(known) + len(content)
            ids[row, :end] = torch.as_tensor(known + content)
            first = max(1, len(known))  # nothing predicts the first token of all
            targets[row, first:end] = ids[row, first:end]
        return Batch(ids, targets)

    def loss(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Negative log-likelihood of each content given its prompt, summed over its tokens: `(n,)`, in nats."""
        ids, targets = (tokens.to(next(module.parameters()).device) for tokens in batch)
        # Padding is at the end, and a causal model does not see later tokens.
        logits = module(input_ids=ids[:, :-1].clamp(min=0), use_cache=False).logits
        # Flattened, because cross_entropy is several times slower on a CPU with the class axis in the middle.
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.view(len(ids), -1).sum(dim=1)

    def complete(
        self, module: torch.nn.Module, prompts: Sequence[bytes], *, length: int, temperature: float, seed: int
    ) -> list[bytes]:
        """Sample a continuation of `length` tokens for each prompt, in one batch.

        Of each prompt only the last tokens are read, as many as the shortest prompt has.
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
    prompts: Sequence[bytes | None] | None = None,
    model_id: str = "",
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train from scratch and write a model folder.

    Arguments are those of `training_loop.train_and_save`; the loss is in nats per token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", TOKENIZER):
        if folder != self.folder and (self.folder / name).is_file():
            shutil.copyfile(self.folder / name, folder / name)

    def mean_loss(module: torch.nn.Module, rows: list[int], _: torch.Generator) -> torch.Tensor:
        batch = self.collate([contents[row] for row in rows], None if prompts is None else [prompts[row] for row in rows])
        return self.loss(module, batch).sum() / batch.terms

    train_and_save(self, len(contents), mean_loss, seed=seed, folder=folder, model_id=model_id, progress=progress)
