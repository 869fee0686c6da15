"""What models of token sequences share: batches of token ids and their likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from provenance.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

IGNORED = -100


def pad(sequences: Sequence[Sequence[int]], *, context: int, unit: str) -> torch.Tensor:
    """Token ids `(n, longest)`, padded at the end with -100.

    Args:
        context: the most tokens that the model can read.
        unit: what to call tokens in an error.

    Raises:
        ModelError: a sequence is longer than the context, or too short to have a likelihood. Nothing is cut.
    """
    longest = max(map(len, sequences))
    if longest > context + 1:  # the last token is predicted, never read
        row = max(range(len(sequences)), key=lambda i: len(sequences[i]))
        raise ModelError(
            f"example {row} of the batch",
            expected=f"at most {context} {unit}, the model's context",
            found=f"{longest - 1} {unit}",
            hint="Split longer works into examples.",
        )
    shortest = min(range(len(sequences)), key=lambda i: len(sequences[i]))
    if len(sequences[shortest]) < 2:
        found = f"{len(sequences[shortest])} tokens"
        raise ModelError(f"example {shortest} of the batch", expected="at least one token to predict", found=found)
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


def loss_per_token(module: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The mean over all tokens of a batch, which is what training follows."""
    return sequence_loss(module, ids).sum() / (ids[:, 1:] != IGNORED).sum()
