"""What models of token sequences share: architecture, batches of token ids, their likelihood and their continuation."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from provenance.core.errors import ExampleError, ModelError, in_batch
from provenance.features.adapters.training import train_and_save

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from transformers import PretrainedConfig

IGNORED = -100
TOKENIZER = "tokenizer.json"


def pad(sequences: Sequence[Sequence[int]], *, context: int, unit: str) -> torch.Tensor:
    """Token ids `(n, longest)`, padded at the end with -100.

    Args:
        context: the most tokens that the model can read.
        unit: what to call tokens in an error.

    Raises:
        ExampleError: a sequence is longer than the context, or too short to have a likelihood. Nothing is cut.
    """
    longest = max(map(len, sequences))
    if longest > context + 1:  # the last token is predicted, never read
        row = max(range(len(sequences)), key=lambda i: len(sequences[i]))
        raise ExampleError(
            in_batch(row),
            expected=f"at most {context} {unit}, the model's context",
            found=f"{longest - 1} {unit}",
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


def sequence_loss(module: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each sequence under a `transformers` model, summed over its tokens: `(n,)`, in nats."""
    ids = ids.to(next(module.parameters()).device)
    # Padding stands at the end, where a causal model cannot see it from the tokens that count.
    logits = module(input_ids=ids[:, :-1].clamp(min=0), use_cache=False).logits
    # Flat, because the class axis in the middle costs cross_entropy several times as much on a CPU.
    targets = ids[:, 1:].flatten()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, reduction="none")
    return losses.view(len(ids), -1).sum(dim=1)


def read_config(folder: Path) -> PretrainedConfig:
    """The `transformers` configuration in a folder."""
    if not (folder / "config.json").is_file():
        raise ModelError(str(folder / "config.json"), expected="a transformers configuration", found="no such file")
    config: PretrainedConfig = AutoConfig.from_pretrained(folder)
    return config


def context_of(config: PretrainedConfig, asked: int | None) -> int:
    """How many tokens a model reads: as many as were asked for, or all that its architecture can."""
    most: int | None = getattr(config, "max_position_embeddings", None)
    if asked is not None and most is not None and not 0 < asked <= most:
        raise ModelError("adapter_args: context", expected=f"1 to {most}, the positions in config.json", found=str(asked))
    return asked or most or 1024


def fresh_module(config: PretrainedConfig) -> torch.nn.Module:
    """The architecture with fresh weights."""
    module: torch.nn.Module = AutoModelForCausalLM.from_config(config)
    return module


def train_sequences(adapter: Any, contents: Sequence[bytes], *, arguments: Mapping[str, Any], folder: Path, **run: Any) -> None:
    """Train an adapter of token sequences from scratch; arguments as for `training.train_and_save`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", TOKENIZER):
        if folder != adapter.folder and (adapter.folder / name).is_file():
            shutil.copyfile(adapter.folder / name, folder / name)

    def mean_loss(module: torch.nn.Module, batch: list[bytes], _: torch.Generator) -> torch.Tensor:
        ids = adapter.collate(batch)
        mean: torch.Tensor = sequence_loss(module, ids).sum() / (ids[:, 1:] != IGNORED).sum()
        return mean

    train_and_save(adapter, contents, mean_loss, adapter.recipe, arguments=arguments, folder=folder, **run)


def sample(
    module: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    begin: int | None,
    length: int,
    temperature: float,
    seed: int,
) -> list[list[int]]:
    """`length` new tokens after each prompt, all at once; prompts keep their last tokens only, as many as the shortest has.

    Args:
        begin: the token that begins a sequence, and that no continuation may hold; None for none.
    """
    shortest = min(map(len, prompts))
    ids = torch.tensor([[*([] if begin is None else [begin]), *prompt[-shortest:]] for prompt in prompts])
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
    found: list[list[int]] = sampled[:, ids.shape[1] :].tolist()
    return found
