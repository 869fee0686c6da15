"""Turns texts and chats into tokens with the tokenizer of a model folder, of any kind that `transformers` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedConfig

from provenance.core.errors import ExampleError, ModelError, in_batch

TOKENIZER = "tokenizer.json"
# Any of these makes a folder one with a tokenizer.
TOKENIZERS = (
    TOKENIZER,
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer_config.json",
)
# What a tokenizer is read from besides.
BESIDES = (
    *("special_tokens_map.json", "added_tokens.json", "merges.txt", "normalizer.json"),
    *("chat_template.jinja", "chat_template.json"),
)


class Text:
    """The tokenizer of a folder.

    `tokenizer.json` is read by `tokenizers` itself, any other kind by `AutoTokenizer` of `transformers`; nothing is downloaded.
    """

    def __init__(self, folder: Path, config: PreTrainedConfig) -> None:
        self.folder, self.config = folder, config
        self._auto: Any = None
        self._fast: Tokenizer | None = None
        if (folder / TOKENIZER).is_file():
            try:
                self._fast = Tokenizer.from_file(str(folder / TOKENIZER))
            except Exception as error:  # tokenizers raises no other class
                raise ModelError(str(folder / TOKENIZER), expected="a tokenizer", found=str(error)) from error
            self._fast.no_truncation()
            self._fast.no_padding()

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self._fast.get_vocab_size() if self._fast else len(self.auto)

    @property
    def auto(self) -> Any:
        """The tokenizer as `transformers` reads it, which has the chat template."""
        if self._auto is None:
            try:
                self._auto = AutoTokenizer.from_pretrained(
                    self.folder, config=self.config, local_files_only=True, trust_remote_code=False
                )
            except Exception as error:  # many readers, and each has its own errors
                hint = "Save it where it was trained: AutoTokenizer.from_pretrained(...).save_pretrained writes tokenizer.json."
                found = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                raise ModelError(str(self.folder), expected="a tokenizer of transformers", found=found, hint=hint) from error
        return self._auto

    def encode(self, texts: Sequence[str], *, framed: bool = False) -> list[list[int]]:
        """The tokens of each text.

        Args:
            framed: with the special tokens that the tokenizer itself puts around a text.
        """
        if not texts:
            return []
        if self._fast:
            return [encoding.ids for encoding in self._fast.encode_batch(list(texts), add_special_tokens=framed)]
        ids: list[list[int]] = self.auto(list(texts), add_special_tokens=framed)["input_ids"]
        return ids

    def places(self, texts: Sequence[str], *, framed: bool = False) -> list[list[tuple[int, int]]]:
        """The first byte of each token of each text, and the one after its last; empty if the tokenizer does not tell.

        Args:
            framed: as in `encode`; special tokens have equal ends.
        """
        if self._fast:
            found = [encoding.offsets for encoding in self._fast.encode_batch(list(texts), add_special_tokens=framed)]
        elif self.auto.is_fast:
            found = self.auto(list(texts), add_special_tokens=framed, return_offsets_mapping=True)["offset_mapping"]
        else:
            return [[] for _ in texts]
        places = []
        for text, offsets in zip(texts, found, strict=True):
            at = [0, *accumulate(len(character.encode()) for character in text)]
            places.append([(at[first], at[end]) for first, end in offsets])
        return places

    def decode(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """The text of tokens; `special` tokens are written as they are, or left out."""
        if self._fast:
            return self._fast.decode(list(tokens), skip_special_tokens=not special)
        text: str = self.auto.decode(tokens, skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        return text

    def asked(self, row: int, prompt: str) -> str:
        """The text of a chat up to where the answer begins."""
        return self._rendered(row, messages(row, prompt), add_generation_prompt=True)

    def answered(self, row: int, prompt: str, answer: str) -> str:
        """The text of a chat with its answer, up to the end of the answer's turn."""
        turns = [*messages(row, prompt), {"role": "assistant", "content": answer}]
        return self._rendered(row, turns, add_generation_prompt=False)

    def _rendered(self, row: int, turns: list[dict[str, Any]], **options: bool) -> str:
        try:
            text: str = self.auto.apply_chat_template(turns, tokenize=False, **options)
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            where, found = f"{in_batch(row)}: prompt", f"{type(error).__name__}: {error}"
            raise ExampleError(where, expected="messages that the chat template takes", found=found) from error
        return text


def messages(row: int, prompt: str) -> list[dict[str, Any]]:
    """The turns before an answer: a JSON list of messages, each with `role` and `content`, or else the user's one turn."""
    try:
        value = json.loads(prompt) if prompt.lstrip().startswith("[") else None
    except ValueError:
        value = None
    turns = (
        value
        if isinstance(value, list) and value and all(isinstance(turn, dict) and "role" in turn for turn in value)
        else None
    )
    if turns is None:
        return [{"role": "user", "content": prompt}]
    if turns[-1]["role"] == "assistant":
        where, expected = f"{in_batch(row)}: prompt", "messages before the answer"
        raise ExampleError(where, expected=expected, found="an answer of the assistant as the last")
    return turns


def texts_of(contents: Sequence[bytes], what: str = "") -> list[str]:
    """The contents as text; `ExampleError` names the row, and `what` there, of one that is not UTF-8."""
    texts = []
    for row, content in enumerate(contents):
        try:
            texts.append(content.decode())
        except UnicodeDecodeError as error:
            where, found = in_batch(row) + what, f"{content[:24]!r}..., {error}"
            raise ExampleError(where, expected="UTF-8, which the tokenizer reads", found=found) from error
    return texts


def find_text(folders: Sequence[Path], config: PreTrainedConfig) -> Text | None:
    """The tokenizer of the first folder that has one."""
    for folder in folders:
        if any((folder / name).is_file() for name in TOKENIZERS):
            return Text(folder, config)
    return None
