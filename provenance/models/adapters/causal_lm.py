"""Causal language models from a `transformers` folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from provenance.core.errors import ExampleError, in_batch
from provenance.models.adapters.tokens import TOKENIZER, Sequences, train_sequences
from provenance.models.adapters.training_loop import Recipe

BEGIN = 256  # a byte-level model's only token that is not a byte


class CausalLM(Sequences):
    """A causal language model from a `transformers` folder.

    With a `tokenizer.json` in the folder, contents are UTF-8 text and become its tokens. Without one, tokens are bytes, and
    token 256 begins a document.

    Args:
        folder: holds `config.json` of a `transformers` architecture and, optionally, `tokenizer.json`.
        context: the longest content in tokens, by default the architecture's; longer ones are an error, never cut.
        recipe: fields of `training_loop.Recipe`, for `train`.
    """

    train = train_sequences

    def __init__(self, folder: Path, *, context: int | None = None, **recipe: Any) -> None:
        super().__init__(folder, context, Recipe(**{"epochs": 4.0, **recipe}))
        self.tokenizer: Tokenizer | None = None
        if (folder / TOKENIZER).is_file():
            self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            self.tokenizer.no_truncation()
            self.tokenizer.no_padding()
        self.begin = self.config.bos_token_id if self.tokenizer else BEGIN
        self.unit = "tokens" if self.tokenizer else "bytes"
        tokens = self.tokenizer.get_vocab_size() if self.tokenizer else BEGIN + 1
        self.check_vocabulary(tokens, TOKENIZER if self.tokenizer else "a byte-level model")

    def encode(self, contents: list[bytes]) -> list[list[int]]:
        """Tokens, or bytes, of each content."""
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

    def decode(self, tokens: list[int]) -> bytes:
        """The inverse of `encode`, for one content."""
        return bytes(tokens) if self.tokenizer is None else self.tokenizer.decode(tokens, skip_special_tokens=False).encode()
