"""Shared code of adapters for token sequences: architecture, batches of token ids, loss, continuations and training."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM

from provenance.core.errors import ExampleError, ModelError, in_batch
from provenance.models.adapters.text import BESIDES, TOKENIZERS
from provenance.models.adapters.training_loop import in_order, train_and_save
from provenance.models.adapters.transformer import ADAPTER, Architecture, in_float32
from provenance.models.recipe import Training

IGNORED = -100
# Files of a model folder that belong to its architecture, if it has them.
FILES = (
    "config.json",
    ADAPTER,
    *TOKENIZERS,
    *BESIDES,
)
REFUSE, CUT = "refuse", "cut"
# Arguments of `Sequences`; the others of an adapter are its own, or its recipe's.
OPTIONS = ("context", "long", "base", "dtype", "base_bits", "checkpointing")


class Batch(NamedTuple):
    """Token ids `(n x windows, longest)`, padded with `IGNORED`; and the targets at each place, `IGNORED` outside contents.

    A content has one window, or several side by side if it is longer than the context and is cut; a batch has as many for each.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    windows: int = 1

    @property
    def terms(self) -> int:
        """The number of tokens with a loss."""
        return int((self.targets != IGNORED).sum())


class Sequences:
    """A causal `transformers` model of token sequences; an adapter defines its tokens with `encode` and `decode`.

    A sequence is the `begin` token, the tokens of the prompt, those of the content, and the `end` token. Content and `end` have
    a loss. Prompt and content are turned into tokens one by one, so that no token has parts of both.

    Args:
        context: the longest content and prompt together in tokens, by default the architecture's.
        long: what is done with a content that is longer with its prompt: `refuse`, or `cut` into windows. The prompt then keeps
            as many of its last tokens as the content leaves room for, or half of the context if that is more. The content is
            cut into windows that each fill the context and begin with `begin` and this prompt, and its loss is the sum of
            theirs. Without either, a window begins with the last token of the one before, so that each token but the first is
            predicted once.
        base, dtype, base_bits, checkpointing: as in `transformer.Architecture`.
        recipe: keys of `recipe.Training`.

    Attributes:
        begin, end: the tokens around a sequence, None for none; `begin` never occurs in a continuation.
        unit: the word for tokens in errors.
        arguments: the adapter's arguments without the recipe.
    """

    begin: int | None = None
    end: int | None = None
    unit: str

    def __init__(
        self,
        folder: Path,
        recipe: Training,
        *,
        context: int | None = None,
        long: str = REFUSE,
        base: Path | None = None,
        dtype: str = "float32",
        base_bits: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        self.base = base
        self.folder, self.recipe = folder, recipe
        self.architecture = Architecture(
            AutoModelForCausalLM, folder, base=base, dtype=dtype, base_bits=base_bits, checkpointing=checkpointing
        )
        self.config = self.architecture.text
        if not isinstance(getattr(self.config, "vocab_size", None), int):
            where = f"{(base or folder) / 'config.json'}: vocab_size"
            raise ModelError(where, expected="the number of tokens of a language model", found=type(self.config).__name__)
        positions: int | None = getattr(self.config, "max_position_embeddings", None)
        if context is not None and positions is not None and not 0 < context <= positions:
            expected = f"1 to {positions}, the positions in config.json"
            raise ModelError("adapter_args: context", expected=expected, found=str(context))
        if long not in (REFUSE, CUT):
            raise ModelError("adapter_args: long", expected=f"{REFUSE} or {CUT}", found=repr(long))
        self.context, self.long = context or positions or 1024, long
        self.arguments: dict[str, Any] = {"context": self.context, **self.architecture.arguments}
        if long != REFUSE:
            self.arguments["long"] = long

    def check_vocabulary(self, tokens: int, purpose: str) -> None:
        """Raise ModelError if the architecture has fewer tokens than `purpose` needs."""
        if self.config.vocab_size < tokens:
            where = f"{(self.architecture.base or self.folder) / 'config.json'}: vocab_size"
            raise ModelError(where, expected=f"at least {tokens} for {purpose}", found=str(self.config.vocab_size))

    def encode(self, contents: list[bytes]) -> list[list[int]]:
        """Tokens of each content."""
        raise NotImplementedError

    def decode(self, tokens: list[int]) -> bytes:
        """The inverse of `encode`, for one content."""
        raise NotImplementedError

    def module(self) -> torch.nn.Module:
        """The architecture with fresh weights or, on a base, with its weights and a fresh adapter."""
        return self.architecture.module()

    def framed(self, contents: list[bytes], prompts: list[bytes | None]) -> list[tuple[list[int], list[int]]]:
        """The tokens of each sequence in two parts: those that are only given, and those with a loss."""
        begin = [] if self.begin is None else [self.begin]
        end = [] if self.end is None else [self.end]
        try:
            asked = self.encode([prompt or b"" for prompt in prompts]) if any(prompts) else [[] for _ in prompts]
        except ExampleError as error:
            raise ExampleError(f"{error.where}: prompt", expected=error.expected, found=error.found, hint=error.hint) from error
        given = [begin + (tokens if prompt else []) for prompt, tokens in zip(prompts, asked, strict=True)]
        return [(known, tokens + end) for known, tokens in zip(given, self.encode(contents), strict=True)]

    def spots(self, contents: list[bytes], prompts: list[bytes | None]) -> list[list[tuple[int, int]]]:
        """The first byte of each token of a content, and the one after its last; empty where that is not known.

        Tokens after the content may be left out.
        """
        del prompts
        return [[] for _ in contents]

    def places(self, contents: list[bytes], prompts: list[bytes | None]) -> list[list[tuple[int, int]]]:
        """The first byte of each token with a loss, and the one after its last (`model.Splittable`)."""
        places = []
        framed, spots = self.framed(contents, prompts), self.spots(contents, prompts)
        for content, (given, tokens), own in zip(contents, framed, spots, strict=True):
            after = [(len(content), len(content))] * (len(tokens) - len(own))
            with_loss = 0 if given else 1  # nothing predicts the first token of all
            places.append([*own, *after][with_loss:] if own and len(own) <= len(tokens) else [])
        return places

    def restrict(self, batch: Batch, parts: Sequence[tuple[int, int] | None]) -> Batch:
        """A batch with a loss of some tokens alone (`model.Splittable`), without the tokens after all of these."""
        counted = (batch.targets != IGNORED).view(len(parts), -1)
        number = counted.cumsum(dim=1) - 1  # of each token among those of its content
        kept = counted.clone()
        for row, part in enumerate(parts):
            if part is not None:
                kept[row] &= (number[row] >= part[0]) & (number[row] < part[1])
        targets = batch.targets.masked_fill(~kept.view_as(batch.targets), IGNORED)
        end = int((targets != IGNORED).any(dim=0).nonzero().max()) + 1 if bool(kept.any()) else targets.shape[1]
        return Batch(batch.ids[:, :end], targets[:, :end], batch.windows)

    def collate(self, contents: list[bytes], prompts: list[bytes | None] | None = None) -> Batch:
        """The batch of contents, each after its prompt if it has one.

        Raises:
            ExampleError: a content and its prompt are longer than the context, or a content has no token to predict.
        """
        framed = self.framed(contents, prompts or [None] * len(contents))
        cut = [self._windows(row, given, content) for row, (given, content) in enumerate(framed)]
        most = max(map(len, cut))
        shape = len(cut) * most, max(len(given) + len(content) for windows in cut for given, content in windows)
        ids, targets = torch.full(shape, IGNORED), torch.full(shape, IGNORED)
        for row, windows in enumerate(cut):
            for place, (given, content) in enumerate(windows, row * most):
                end = len(given) + len(content)
                ids[place, :end] = torch.as_tensor(given + content)
                first = max(1, len(given))  # nothing predicts the first token of all
                targets[place, first:end] = ids[place, first:end]
        return Batch(ids, targets, most)

    def _windows(self, row: int, given: list[int], content: list[int]) -> list[tuple[list[int], list[int]]]:
        """The windows of a sequence, each as in `framed`: one, or several for a sequence that is cut."""
        if not content or len(given) + len(content) < 2:
            raise ExampleError(in_batch(row), expected="at least one token to predict", found=f"{len(content)} tokens")
        begin = 0 if self.begin is None or given[:1] != [self.begin] else 1
        room = self.context + 1  # the last token is only predicted, so it needs no position
        if len(given) + len(content) <= room:
            return [(given, content)]
        if self.long == REFUSE:
            asked = len(given) - begin
            found = f"{len(content)} {self.unit}" + (f" after a prompt of {asked}" if asked else "")
            expected = f"at most {self.context} {self.unit}, the model's context"
            hint = 'Split longer works into examples, or set long = "cut" in [adapter_args].'
            raise ExampleError(in_batch(row), expected=expected, found=found, hint=hint)
        kept = max(room - begin - len(content), self.context // 2)
        prompt = given[begin:]
        given = given[:begin] + (prompt[-kept:] if kept < len(prompt) else prompt)
        if not given:
            return [([], content[start : start + room]) for start in range(0, len(content) - 1, self.context)]
        step = room - len(given)
        return [(given, content[start : start + step]) for start in range(0, len(content), step)]

    def loss(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Negative log-likelihood of each content given its prompt, summed over its tokens: `(n,)`, in nats.

        Losses that an architecture adds in training, such as those of the routers of a mixture of experts, are no part of it.
        """
        device = next(module.parameters()).device
        ids, targets = batch.ids.to(device), batch.targets[:, 1:].to(device)
        # Logits are needed from the first token with a loss on; those of long prompts and large vocabularies fill the memory.
        kept = targets.shape[1] - int((batch.targets[:, 1:] != IGNORED).any(dim=0).int().argmax())
        # Padding is at the end, and a causal model does not see later tokens.
        logits = in_float32(module(input_ids=ids[:, :-1].clamp(min=0), **_options(module, kept)).logits)[:, -kept:]
        # Flattened, because cross_entropy is several times slower on a CPU with the class axis in the middle.
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets[:, -kept:].flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.view(len(ids) // batch.windows, -1).sum(dim=1)

    def complete(
        self, module: torch.nn.Module, prompts: Sequence[bytes], *, length: int, temperature: float, seed: int
    ) -> list[bytes]:
        """Sample a continuation of `length` tokens for each prompt, in batches of prompts with equally many tokens.

        A model with an `end` token stops there: its continuations have 1 to `length` tokens.
        """
        begin, end, answers = self.begin, self.end, [b""] * len(prompts)
        asked = [([] if begin is None else [begin]) + tokens for tokens in self.encode(list(prompts))]
        torch.manual_seed(seed)
        for size in sorted(set(map(len, asked))):
            rows = [row for row, tokens in enumerate(asked) if len(tokens) == size]
            ids = torch.tensor([asked[row] for row in rows])
            with torch.inference_mode():
                sampled = module.generate(  # type: ignore[operator]
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=temperature,
                    top_k=0,
                    max_new_tokens=length,
                    min_new_tokens=length if end is None else 1,
                    **({} if end is None else {"eos_token_id": end}),
                    suppress_tokens=None if begin is None else [begin],
                    pad_token_id=0 if begin is None else begin,
                    use_cache=True,
                )
            for row, tokens in zip(rows, sampled[:, size:].tolist(), strict=True):
                answers[row] = self.decode(tokens[: tokens.index(end)] if end in tokens else tokens)
        return answers


def without_cache(module: torch.nn.Module) -> dict[str, bool]:
    """The argument that keeps a module from storing keys and values for a continuation, if it has one."""
    parameters = inspect.signature(module.forward).parameters
    takes = "use_cache" in parameters or any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return {"use_cache": False} if takes else {}


def _options(module: torch.nn.Module, kept: int) -> dict[str, Any]:
    """The arguments of a pass that needs no cache, and logits at the last `kept` places alone."""
    keeps = "logits_to_keep" in inspect.signature(module.forward).parameters
    return without_cache(module) | ({"logits_to_keep": kept} if keeps else {})


def train_sequences(
    self: Any,
    contents: Sequence[bytes],
    *,
    seed: int,
    folder: Path,
    prompts: Sequence[bytes | None] | None = None,
    **run: Any,
) -> None:
    """Train by the recipe and write a model folder.

    Arguments are those of `training_loop.train_and_save`; the loss is in nats per token.
    """
    copy_files(self.folder, folder)
    train_and_save(self, len(contents), summed_losses(self, contents, prompts), seed=seed, folder=folder, **run)


def copy_files(source: Path, folder: Path) -> None:
    """Copy the files of an architecture to a model folder that a training writes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if folder != source and (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def summed_losses(adapter: Any, contents: Sequence[bytes], prompts: Sequence[bytes | None] | None) -> Any:
    """The summed loss and the number of tokens of a batch of contents by their places, for `train_and_save`."""
    order = in_order(contents, prompts)

    def loss(module: torch.nn.Module, places: list[int], _: torch.Generator) -> tuple[torch.Tensor, int]:
        rows = [order[place] for place in places]
        batch = adapter.collate([contents[row] for row in rows], None if prompts is None else [prompts[row] for row in rows])
        return adapter.loss(module, batch).sum(), batch.terms

    return loss
