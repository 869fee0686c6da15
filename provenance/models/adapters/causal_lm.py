"""Causal language models from a `transformers` folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from provenance.core.errors import ExampleError, ModelError, in_batch
from provenance.models.adapters.text import TOKENIZERS, Text, find_text, texts_of
from provenance.models.adapters.tokens import OPTIONS, Sequences, train_sequences
from provenance.models.adapters.training_loop import recipe_for

BEGIN = 256  # a byte-level model's only token that is not a byte
CHAT = "chat"


class CausalLM(Sequences):
    """A causal language model from a `transformers` folder.

    With a tokenizer in the folder (or in its base's), contents are UTF-8 text and become its tokens. Without one, tokens are
    bytes.

    With `template = "chat"` a content is the answer of a chat, and its prompt the turns before it: the user's turn or, as a
    JSON list, messages with `role` and `content`. The tokenizer's chat template puts them into one text. What it adds after the
    answer, such as the token that ends the turn, has a loss with the answer, as in a fine-tune on prompts and completions. The
    text becomes tokens as a whole where these begin with those of the prompt alone, else the prompt and the rest one by one.

    Args:
        folder: holds `config.json` of a `transformers` architecture and, optionally, a tokenizer of any kind.
        begin: the token before each sequence, or false for none. By default `bos_token_id` of `config.json`; 256 for bytes.
        end: the token after each content, which the model has learnt to predict; by default none.
        template: `chat`, or None.
        bytes: tokens are bytes although the vocabulary has not just 257 tokens.
        others: `context`, `long`, `base`, `dtype`, `base_bits` and `checkpointing` of `Sequences`; and keys of
            `recipe.Training`, for a first training.
    """

    train = train_sequences

    def __init__(
        self,
        folder: Path,
        *,
        begin: int | bool | None = None,
        end: int | bool | None = None,
        template: str | None = None,
        bytes: bool = False,
        **others: Any,
    ) -> None:
        options = {name: others.pop(name) for name in OPTIONS if name in others}
        super().__init__(folder, recipe_for(folder, others, epochs=4.0), **options)
        base = self.architecture.base
        self.text: Text | None = find_text([folder, base] if base else [folder], self.architecture.config)
        if self.text is None and not bytes and self.config.vocab_size != BEGIN + 1:
            raise ModelError(
                str(folder),
                expected=f"a tokenizer: {', '.join(TOKENIZERS[:3])}, or vocab.json with merges.txt",
                found=f"none, and {self.config.vocab_size} tokens in config.json",
                hint="Copy the tokenizer's files from the run; for a model of bytes set bytes = true in [adapter_args].",
            )
        if self.text is not None and bytes:
            raise ModelError("adapter_args: bytes", expected="no tokenizer beside it", found=f"one in {self.text.folder}")
        if template is not None:
            self._check_template(template, begin, end)
        default = None if template else getattr(self.config, "bos_token_id", None) if self.text else BEGIN
        self.begin = default if begin is None else self._token("begin", begin)
        self.end = None if end is None else self._token("end", end)
        self.template = template
        self.unit = "tokens" if self.text else "bytes"
        tokens = self.text.size if self.text else BEGIN + 1
        self.check_vocabulary(tokens, "its tokenizer" if self.text else "a byte-level model")
        stated = {"begin": begin, "end": end, "template": template, "bytes": bytes or None}
        self.arguments |= {name: value for name, value in stated.items() if value is not None}

    def _token(self, name: str, value: int | bool) -> int | None:
        """The token of an argument; None for false."""
        if value is False:
            return None
        if value is True or not 0 <= value < self.config.vocab_size:
            expected = f"the number of a token, below {self.config.vocab_size}, or false for none"
            raise ModelError(f"adapter_args: {name}", expected=expected, found=repr(value))
        return value

    def _check_template(self, template: str, begin: int | bool | None, end: int | bool | None) -> None:
        where = "adapter_args: template"
        if template != CHAT:
            raise ModelError(where, expected=f"{CHAT!r}", found=repr(template))
        if begin or end:
            expected = "no begin or end beside it, because the template has its own"
            raise ModelError(where, expected=expected, found=f"begin = {begin}, end = {end}")
        if self.text is None or not self.text.auto.chat_template:
            hint = "Copy chat_template.jinja or tokenizer_config.json from the run."
            found = "none" if self.text is None else f"one without a template, in {self.text.folder}"
            raise ModelError(where, expected="a tokenizer with a chat template", found=found, hint=hint)

    def encode(self, contents: list[bytes]) -> list[list[int]]:
        """Tokens, or bytes, of each content."""
        return [list(content) for content in contents] if self.text is None else self.text.encode(texts_of(contents))

    def decode(self, tokens: list[int]) -> bytes:
        """The inverse of `encode`, for one content."""
        return bytes(tokens) if self.text is None else self.text.decode(tokens).encode()

    def framed(self, contents: list[bytes], prompts: list[bytes | None]) -> list[tuple[list[int], list[int]]]:
        """The tokens of each sequence in two parts: those that are only given, and those with a loss."""
        if self.template is None:
            return super().framed(contents, prompts)
        assert self.text is not None
        missing = next((row for row, prompt in enumerate(prompts) if prompt is None), None)
        if missing is not None:
            expected = "a prompt, the turns that the content answers, because of template = 'chat'"
            raise ExampleError(in_batch(missing), expected=expected, found="none")
        turns = texts_of([prompt for prompt in prompts if prompt is not None], ": prompt")
        asked = [self.text.asked(row, turn) for row, turn in enumerate(turns)]
        answers = enumerate(zip(turns, texts_of(contents), strict=True))
        whole = [self.text.answered(row, turn, answer) for row, (turn, answer) in answers]
        for row, (before, text) in enumerate(zip(asked, whole, strict=True)):
            if not text.startswith(before):
                expected = "a chat template whose answer follows the text that asks for it"
                found = f"{before[-60:]!r} without, {text[:60]!r}... with the answer"
                raise ExampleError(in_batch(row), expected=expected, found=found)
        parts = zip(self.text.encode(asked), self.text.encode(whole), strict=True)
        sequences = [(before, tokens[len(before) :] if tokens[: len(before)] == before else None) for before, tokens in parts]
        rest = self.text.encode([text.removeprefix(before) for before, text in zip(asked, whole, strict=True)])
        return [(before, one if tokens is None else tokens) for (before, tokens), one in zip(sequences, rest, strict=True)]

    def spots(self, contents: list[bytes], prompts: list[bytes | None]) -> list[list[tuple[int, int]]]:
        """The first byte of each token of a content, and the one after its last; empty if the tokenizer does not tell."""
        if self.text is None:
            return [[(at, at + 1) for at in range(len(content))] for content in contents]
        answers = texts_of(contents)
        if self.template is None:
            return self.text.places(answers)
        turns = texts_of([prompt or b"" for prompt in prompts], ": prompt")
        asked = [self.text.asked(row, turn) for row, turn in enumerate(turns)]
        whole = [self.text.answered(row, turn, answer) for row, (turn, answer) in enumerate(zip(turns, answers, strict=True))]
        apart = self.text.places([text.removeprefix(before) for before, text in zip(asked, whole, strict=True)])
        places = []
        parts = zip(self.framed(contents, prompts), self.text.places(whole), apart, strict=True)
        for before, text, answer, ((given, tokens), together, rest) in zip(asked, whole, answers, parts, strict=True):
            own, start = rest, 0
            if len(given) + len(tokens) == len(together):
                own, start = together[len(given) :], len(before.encode())
            # Templates may strip an answer.
            first, ahead = text.find(answer.strip(), len(before)), len(answer) - len(answer.lstrip())
            end = len(answer.encode())
            shift = len(answer[:ahead].encode()) - len(text[len(before) : first].encode()) - start
            known = first >= 0 and len(own) == len(tokens)
            places.append([(min(max(0, a + shift), end), min(max(0, b + shift), end)) for a, b in own] if known else [])
        return places

    def complete(
        self, module: torch.nn.Module, prompts: Sequence[bytes], *, length: int, temperature: float, seed: int
    ) -> list[bytes]:
        """Sample a continuation of each prompt: `length` tokens, or an answer of at most so many with `template = "chat"`."""
        if self.template is None:
            return super().complete(module, prompts, length=length, temperature=temperature, seed=seed)
        assert self.text is not None
        torch.manual_seed(seed)
        end, answers = self.text.auto.eos_token_id, []
        for row, turn in enumerate(texts_of(prompts, ": prompt")):
            ids = torch.tensor(self.text.encode([self.text.asked(row, turn)]), device=next(module.parameters()).device)
            with torch.inference_mode():
                sampled = module.generate(  # type: ignore[operator]
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=temperature,
                    top_k=0,
                    max_new_tokens=length,
                    eos_token_id=end,
                    pad_token_id=0 if end is None else end,
                )
            answers.append(self.text.decode(sampled[0, ids.shape[1] :].tolist(), special=False).encode())
        return answers
