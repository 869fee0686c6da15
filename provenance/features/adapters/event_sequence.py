"""Music as a sequence of events, one or two bytes each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from provenance.core.errors import ExampleError, ModelError, in_batch
from provenance.features.adapters.tokens import (
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


class EventSequence:
    """A causal model of event sequences: content is a string of events, each an unsigned integer of `width` bytes.

    What an event means is the corpus' affair (`provenance.corpus.scores` has one code: pitches, rests, durations). The
    token after the last event begins a sequence.

    Args:
        folder: holds `config.json` of a `transformers` architecture with `events + 1` tokens or more.
        events: how many different events there are.
        width: bytes per event, most significant first.
        context: the longest content in events, by default the architecture's; longer ones are refused, never cut.
        epochs, batch_size, learning_rate, warmup, keep: how `train` trains (see `training.Recipe`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        events: int = 256,
        width: int = 1,
        context: int | None = None,
        epochs: float = 20.0,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        warmup: float = 0.05,
        keep: Sequence[float] = (0.1, 0.2, 0.4, 0.6, 1.0),
    ) -> None:
        self.folder, self.events, self.width = folder, events, width
        self.recipe = Recipe(epochs, batch_size, learning_rate, warmup, keep=tuple(keep))
        self.config = read_config(folder)
        if self.config.vocab_size <= events:
            where = f"{folder / 'config.json'}: vocab_size"
            raise ModelError(where, expected=f"at least {events + 1} for {events} events", found=str(self.config.vocab_size))
        self.context = context_of(self.config, context)

    def module(self) -> torch.nn.Module:
        """The architecture with fresh weights."""
        return fresh_module(self.config)

    def collate(self, contents: list[bytes]) -> torch.Tensor:
        """Event ids `(n, longest)`, begun by the token after the last event and padded with -100."""
        return pad([[self.events, *ids] for ids in self._encode(contents)], context=self.context, unit="events")

    def loss(self, module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each sequence, summed over its events: `(n,)`, in nats."""
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
        """Train from scratch and write a model folder; arguments as for `CausalLM.train`."""
        arguments = {"events": self.events, "width": self.width, "context": self.context}
        train_sequences(self, contents, arguments=arguments, seed=seed, folder=folder, model_id=model_id, progress=progress)

    def complete(
        self, module: torch.nn.Module, prompts: Sequence[bytes], *, length: int, temperature: float, seed: int
    ) -> list[bytes]:
        """Sample a continuation of `length` events for each prompt, all at once; prompts keep their last events only."""
        events = self._encode(list(prompts))
        rows = sample(module, events, begin=self.events, length=length, temperature=temperature, seed=seed)
        return [b"".join(event.to_bytes(self.width) for event in row) for row in rows]

    def _encode(self, contents: list[bytes]) -> list[list[int]]:
        found = []
        for row, content in enumerate(contents):
            where = in_batch(row)
            if len(content) % self.width:
                raise ExampleError(where, expected=f"whole events of {self.width} bytes", found=f"{len(content)} bytes")
            events = np.frombuffer(content, dtype=f">u{self.width}").astype(np.int64)
            if len(events) and events.max() >= self.events:
                raise ExampleError(where, expected=f"events below {self.events}", found=f"event {events.max()}")
            found.append(events.tolist())
        return found
