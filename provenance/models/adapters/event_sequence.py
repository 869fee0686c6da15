"""Reads music as a sequence of events, each an integer of fixed width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from provenance.core.errors import ExampleError, in_batch
from provenance.models.adapters.tokens import OPTIONS, Sequences, train_sequences
from provenance.models.adapters.training_loop import recipe_for


class EventSequence(Sequences):
    """A causal model of event sequences; a content is a string of events, each an unsigned integer of `width` bytes.

    The corpus decides the meaning of events (`provenance.corpus.packages.music` has one code: pitches, rests, durations). Token
    number `events` begins a sequence.

    Args:
        folder: holds `config.json` of a `transformers` architecture with `events + 1` tokens or more.
        events: number of different events.
        width: bytes per event, most significant first.
        others: `context`, `long`, `base`, `dtype`, `base_bits` and `checkpointing` of `Sequences`; and keys of
            `recipe.Training`, for a first training.
    """

    unit = "events"
    train = train_sequences

    def __init__(self, folder: Path, *, events: int = 256, width: int = 1, **others: Any) -> None:
        options = {name: others.pop(name) for name in OPTIONS if name in others}
        super().__init__(folder, recipe_for(folder, others, epochs=20.0), **options)
        self.begin, self.events, self.width = events, events, width
        self.arguments = {"events": events, "width": width, **self.arguments}
        self.check_vocabulary(events + 1, f"{events} events")

    def encode(self, contents: list[bytes]) -> list[list[int]]:
        """Events of each content."""
        sequences = []
        for row, content in enumerate(contents):
            where = in_batch(row)
            if len(content) % self.width:
                raise ExampleError(where, expected=f"whole events of {self.width} bytes", found=f"{len(content)} bytes")
            events = np.frombuffer(content, dtype=f">u{self.width}").astype(np.int64)
            if len(events) and events.max() >= self.events:
                raise ExampleError(where, expected=f"events below {self.events}", found=f"event {events.max()}")
            sequences.append(events.tolist())
        return sequences

    def spots(self, contents: list[bytes], prompts: list[bytes | None]) -> list[list[tuple[int, int]]]:
        """The first byte of each event of a content, and the one after its last."""
        del prompts
        return [[(at, at + self.width) for at in range(0, len(content), self.width)] for content in contents]

    def decode(self, tokens: list[int]) -> bytes:
        """The inverse of `encode`, for one content."""
        return b"".join(event.to_bytes(self.width) for event in tokens)
