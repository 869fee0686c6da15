"""Encoder-decoder language models from a `transformers` folder: T5, BART and their like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForSeq2SeqLM

from provenance.core.errors import ExampleError, ModelError, in_batch
from provenance.models.adapters.text import TOKENIZERS, find_text, texts_of
from provenance.models.adapters.tokens import IGNORED, train_sequences, without_cache
from provenance.models.adapters.training_loop import recipe_for
from provenance.models.adapters.transformer import Architecture, in_float32


class Batch(NamedTuple):
    """Tokens of the prompts `(n, s)` with their mask; those that the decoder reads and is to predict, `(n, t)`."""

    ids: torch.Tensor
    mask: torch.Tensor
    before: torch.Tensor
    targets: torch.Tensor

    @property
    def terms(self) -> int:
        """The number of tokens with a loss."""
        return int((self.targets != IGNORED).sum())


class Seq2SeqLM:
    """An encoder-decoder from a `transformers` folder: it reads the prompt and writes the content; both are UTF-8 text.

    The tokenizer puts its own special tokens around both, as in training: T5 ends each with `</s>`, BART also begins it with
    `<s>`. The loss is of all tokens of the content with these.

    Args:
        folder: holds `config.json` of a `transformers` architecture and a tokenizer of any kind; a base's may be in its folder.
        context: the longest prompt, and the longest content, in tokens, by default the architecture's; more is an error.
        base, dtype, base_bits, checkpointing: as in `transformer.Architecture`.
        recipe: keys of `recipe.Training`, for a first training.
    """

    train = train_sequences

    def __init__(
        self,
        folder: Path,
        *,
        context: int | None = None,
        base: Path | None = None,
        dtype: str = "float32",
        base_bits: int | None = None,
        checkpointing: bool = False,
        **recipe: Any,
    ) -> None:
        self.base = base
        self.folder, self.recipe = folder, recipe_for(folder, recipe, epochs=4.0)
        self.architecture = Architecture(
            AutoModelForSeq2SeqLM, folder, base=base, dtype=dtype, base_bits=base_bits, checkpointing=checkpointing
        )
        config, where = self.architecture.config, f"{(base or folder) / 'config.json'}"
        positions: int | None = getattr(config, "max_position_embeddings", None)
        if context is not None and not 0 < context <= (positions or context):
            raise ModelError("adapter_args: context", expected=f"1 to {positions}, the positions", found=str(context))
        self.context = context or positions or 1024
        text = find_text([folder, base] if base else [folder], config)
        if text is None:
            expected = f"a tokenizer: {', '.join(TOKENIZERS[:3])}, or vocab.json with merges.txt"
            raise ModelError(str(folder), expected=expected, found="none", hint="Copy the tokenizer's files from the run.")
        self.text, self.start, self.padding = text, config.decoder_start_token_id, config.pad_token_id
        for name, value in (("decoder_start_token_id", self.start), ("pad_token_id", self.padding)):
            if value is None:
                raise ModelError(f"{where}: {name}", expected="a token", found="none")
        if config.vocab_size < text.size:
            expected = f"at least {text.size} for its tokenizer"
            raise ModelError(f"{where}: vocab_size", expected=expected, found=str(config.vocab_size))
        self.arguments: dict[str, Any] = {"context": self.context, **self.architecture.arguments}

    def module(self) -> torch.nn.Module:
        """The architecture with fresh weights or, on a base, with its weights and a fresh adapter."""
        return self.architecture.module()

    def collate(self, contents: list[bytes], prompts: list[bytes | None] | None = None) -> Batch:
        """The batch of contents with their prompts; `ExampleError` if one has none, or one is too long."""
        asked = [prompt for prompt in prompts or [] if prompt is not None]
        if len(asked) < len(contents):
            row = next(row for row, prompt in enumerate(prompts or [None]) if prompt is None)
            raise ExampleError(in_batch(row), expected="a prompt, which the encoder reads", found="none")
        read = self._tokens(texts_of(asked, ": prompt"), ": prompt")
        written = self._tokens(texts_of(contents), "")
        before = [[self.start, *tokens[:-1]] for tokens in written]
        ids = _padded(read, self.padding)
        lengths = torch.tensor([len(tokens) for tokens in read])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return Batch(ids, mask, _padded(before, self.padding), _padded(written, IGNORED))

    def places(self, contents: list[bytes], prompts: list[bytes | None]) -> list[list[tuple[int, int]]]:
        """The first byte of each token of a content, and the one after its last (`model.Splittable`)."""
        del prompts
        ends = [len(content) for content in contents]
        special = self.text.places(texts_of(contents), framed=True)
        # The special token after a content says that it lies at its beginning.
        return [
            [(end, end) if at and (first, last) == (0, 0) else (first, last) for at, (first, last) in enumerate(own)]
            for own, end in zip(special, ends, strict=True)
        ]

    def restrict(self, batch: Batch, parts: Sequence[tuple[int, int] | None]) -> Batch:
        """A batch with a loss of some tokens alone (`model.Splittable`)."""
        targets = batch.targets.clone()
        for row, part in enumerate(parts):
            if part is not None:
                targets[row, : part[0]] = IGNORED
                targets[row, part[1] :] = IGNORED
        return batch._replace(targets=targets)

    def _tokens(self, texts: list[str], what: str) -> list[list[int]]:
        sequences = self.text.encode(texts, framed=True)
        for row, tokens in enumerate(sequences):
            where = in_batch(row) + what
            if len(tokens) > self.context:
                expected = f"at most {self.context} tokens, the model's context"
                raise ExampleError(where, expected=expected, found=f"{len(tokens)} tokens", hint="Split it.")
            if not tokens:
                raise ExampleError(where, expected="at least one token", found="none")
        return sequences

    def loss(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Negative log-likelihood of each content given its prompt, summed over its tokens: `(n,)`, in nats."""
        device = next(module.parameters()).device
        ids, mask, before, targets = (tensor.to(device) for tensor in batch)
        # The decoder's padding is at the end, and it does not see later tokens.
        output = module(input_ids=ids, attention_mask=mask, decoder_input_ids=before, **without_cache(module))
        logits = in_float32(output.logits).flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="none")
        return losses.view(targets.shape).sum(dim=1)


def _padded(sequences: list[list[int]], value: int) -> torch.Tensor:
    """`(n, longest)`, padded at the end with a value."""
    longest = max(map(len, sequences))
    return torch.tensor([[*tokens, *[value] * (longest - len(tokens))] for tokens in sequences])
