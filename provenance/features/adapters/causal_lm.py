"""Causal language models from a `transformers` folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from provenance.core.errors import ExampleError, ModelError, in_batch
from provenance.features.adapters.tokens import (
    TOKENIZER,
    context_of,
    fresh_module,
    pad,
    read_config,
    sample,
    sequence_loss,
    train_sequences,
)
from provenance.features.adapters.training import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

BEGIN = 256  # the one token of a byte-level model that is not a byte


class CausalLM:
    """A causal language model from a `transformers` folder.

    With a `tokenizer.json` in the folder, contents are UTF-8 and cut into its tokens; without one, token `b` is the byte
    `b` and 256 begins a document.

    Args:
        folder: holds `config.json` of a `transformers` architecture and, optionally, `tokenizer.json`.
        context: the longest content in tokens, by default the architecture's; longer ones are refused, never cut.
        epochs, batch_size, learning_rate, warmup, keep: how `train` trains (see `training.Recipe`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        context: int | None = None,
        epochs: float = 4.0,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        warmup: float = 0.05,
        keep: Sequence[float] = (0.1, 0.2, 0.4, 0.6, 1.0),
    ) -> None:
        self.folder = folder
        self.recipe = Recipe(epochs, batch_size, learning_rate, warmup, keep=tuple(keep))
        self.config = read_config(folder)
        self.tokenizer: Tokenizer | None = None
        if (folder / TOKENIZER).is_file():
            self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            self.tokenizer.no_truncation()
            self.tokenizer.no_padding()
        self.begin: int | None = self.config.bos_token_id if self.tokenizer else BEGIN
        wanted = self.tokenizer.get_vocab_size() if self.tokenizer else BEGIN + 1
        if self.config.vocab_size < wanted:
            what = TOKENIZER if self.tokenizer else "a byte-level model"
            where = f"{folder / 'config.json'}: vocab_size"
            raise ModelError(where, expected=f"at least {wanted} for {what}", found=str(self.config.vocab_size))
        self.context = context_of(self.config, context)

    def module(self) -> torch.nn.Module:
        """The architecture with fresh weights."""
        return fresh_module(self.config)

    def collate(self, contents: list[bytes]) -> torch.Tensor:
        """Token ids `(n, longest)`, begun by the token that begins a document and padded with -100."""
        begin = [] if self.begin is None else [self.begin]
        return pad([begin + ids for ids in self._encode(contents)], context=self.context, unit=self._unit)

    def loss(self, module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each content, summed over its tokens: `(n,)`, in nats."""
        return sequence_loss(module, batch)

    def train(
        self,
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
        arguments = {"context": self.context}
        train_sequences(self, contents, arguments=arguments, seed=seed, folder=folder, model_id=model_id, progress=progress)

    def complete(
        self, module: torch.nn.Module, prompts: Sequence[bytes], *, length: int, temperature: float, seed: int
    ) -> list[bytes]:
        """Sample a continuation of `length` tokens for each prompt, all at once; prompts keep their last tokens only."""
        tokens = self._encode(list(prompts))
        rows = sample(module, tokens, begin=self.begin, length=length, temperature=temperature, seed=seed)
        return [self._decode(row) for row in rows]

    @property
    def _unit(self) -> str:
        return "tokens" if self.tokenizer else "bytes"

    def _encode(self, contents: list[bytes]) -> list[list[int]]:
        if self.tokenizer is None:
            return [list(content) for content in contents]
        texts = []
        for row, content in enumerate(contents):
            try:
                texts.append(content.decode())
            except UnicodeDecodeError as error:
                found = f"{content[:24]!r}..., {error}"
                raise ExampleError(in_batch(row), expected="UTF-8, which the tokenizer reads", found=found) from error
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def _decode(self, tokens: list[int]) -> bytes:
        return bytes(tokens) if self.tokenizer is None else self.tokenizer.decode(tokens, skip_special_tokens=False).encode()
