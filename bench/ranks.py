"""Measures how much the rank of projections costs and gives, on a small GPT-2 that is trained on Python's own library.

Prints, by rank: numbers of an example, agreement of two seeds and of projected with unprojected inner products (plain, and with
curvature), as Spearman's correlation of influences on an output, averaged. Ten minutes on one core; 6 GB of memory.
"""

from __future__ import annotations

import sys
import sysconfig
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import GPT2Config, GPT2LMHeadModel

from provenance.features import layers
from provenance.features.following import find_following
from provenance.features.gradients import gradient_features
from provenance.features.projection import Block, Projection, matrix
from provenance.features.sampled import sampled_features
from provenance.influence.curvature import SCALE_FLOOR, SCALE_POWER, fit_dense, gram, shrinkage
from provenance.models.model import Example, example_losses

LAYERS, WIDTH, LENGTH, STEPS, BATCH = 12, 48, 96, 200, 10
EXAMPLES, OUTPUTS, DRAWS, SEEDS = 512, 24, 2, (1, 2, 3)
RANKS = (2, 3, 4, 5, 6, 8, 10, 12)


class Bytes:
    """Reads contents of one length as bytes; the first is not predicted."""

    def collate(self, contents: list[bytes]) -> torch.Tensor:
        """Ids of the bytes, `(n, length)`."""
        return torch.tensor([list(content) for content in contents])

    def loss(self, module: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each content."""
        logits = module(input_ids=ids[:, :-1], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return losses.view(len(ids), -1).sum(1)

    def module(self) -> torch.nn.Module:
        """A GPT-2 with fresh weights."""
        config = GPT2Config(vocab_size=256, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=LENGTH, resid_pdrop=0.0,
                            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)  # fmt: skip
        module: torch.nn.Module = GPT2LMHeadModel(config)
        return module


def main() -> None:
    """Train, compute gradients once, project them by every rank."""
    torch.manual_seed(0)
    examples = _texts(np.random.default_rng(0))
    adapter, module = Bytes(), Bytes().module()
    _train(adapter, module, examples[: 4 * EXAMPLES])
    layers.LARGEST_RANK = 10**6  # nothing is projected
    projection = Projection(dense=10**9)
    options: dict[str, Any] = {"checkpoint": "c", "batch_size": BATCH}
    following = find_following(adapter, module, examples[:8], projection, "c", xp=np)
    options |= {"projection": projection, "following": following}
    works, outputs = examples[:EXAMPLES], examples[-OUTPUTS:]
    rows, queries = (gradient_features(adapter, module, some, **options).dense for some in (works, outputs))
    terms = np.concatenate([part.terms for part in sampled_features(adapter, module, works, draws=DRAWS, **options)])
    plain, curved = queries @ rows.T, _curved(queries, rows, terms)
    blocks = following.layout.dense
    _say(f"{rows.shape[1]:,} inner numbers; plain against curved {_agree(plain, curved):.2f}")
    for rank in RANKS:
        sides = [[_projected(part, blocks, rank, seed) for part in (rows, queries, terms)] for seed in SEEDS]
        products = [q @ g.T for g, q, _ in sides]
        fitted = [fit_dense(gram(s), len(s), EXAMPLES).precondition(q) @ g.T for g, q, s in sides]
        _say(
            f"rank {rank}, {sides[0][0].shape[1]} numbers: plain, two seeds {_pairs(products):.2f}, "
            f"with unprojected {_mean(products, plain):.2f}; curved, two seeds {_pairs(fitted):.2f}, "
            f"with unprojected {_mean(fitted, curved):.2f}"
        )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _texts(draws: np.random.Generator) -> list[Example]:
    """Stretches of Python's library, in random order."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:120]
    texts = [data[at : at + LENGTH] for data in (file.read_bytes() for file in files) for at in range(0, 40 * LENGTH, LENGTH)]
    whole = [text for text in texts if len(text) == LENGTH]
    return [Example(whole[at]) for at in draws.permutation(len(whole))]


def _train(adapter: Bytes, module: torch.nn.Module, examples: list[Example]) -> None:
    optimizer, draws = torch.optim.Adam(module.parameters(), 2e-3), np.random.default_rng(1)
    for _ in range(STEPS):
        batch = [examples[at] for at in draws.integers(len(examples), size=BATCH)]
        optimizer.zero_grad()
        example_losses(adapter, module, batch).mean().div(LENGTH).backward()
        optimizer.step()
    module.eval()


def _projected(rows: np.ndarray, blocks: list[Block], rank: int, seed: int) -> np.ndarray:
    parts, start = [], 0
    for block in blocks:
        whole = rows[:, start : start + block.size].reshape(len(rows), block.inputs, block.outputs)
        a, b = (matrix(size, rank, seed, block.name, side) for size, side in ((block.inputs, "in"), (block.outputs, "out")))
        parts.append((np.tensordot(whole, a, axes=(1, 0)).transpose(0, 2, 1) @ b).reshape(len(rows), -1))
        start += block.size
    return np.concatenate(parts, axis=1)


def _curved(queries: np.ndarray, rows: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """`q' (F + lambda)^-1 g` by Woodbury's identity, with scale and lambda of `curvature.fit_dense`."""
    squares = np.einsum("ij,ij->j", terms, terms, dtype=np.float64) / len(terms)
    scale = ((squares + SCALE_FLOOR * squares.mean()) ** SCALE_POWER).astype(np.float32)
    q, g, s = queries * scale, rows * scale, terms * scale
    products = (s @ s.T).astype(np.float64) / len(s)
    damping = shrinkage(float(np.trace(products)), float((products**2).sum()), s.shape[1], len(rows))
    products[np.diag_indices_from(products)] += damping
    influence: np.ndarray = q @ g.T - (q @ s.T) @ np.linalg.solve(products, (s @ g.T).astype(np.float64) / len(s))
    return influence


def _agree(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean([spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]))


def _pairs(sides: list[np.ndarray]) -> float:
    return float(np.mean([_agree(*pair) for pair in combinations(sides, 2)]))


def _mean(sides: list[np.ndarray], whole: np.ndarray) -> float:
    return float(np.mean([_agree(side, whole) for side in sides]))


if __name__ == "__main__":
    main()
