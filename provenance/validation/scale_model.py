"""The model of `scale_night`: small enough to read a million texts, and to be trained forty times, in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from provenance.models.adapters.causal_lm import CausalLM

# Texts of which a model learns; bytes of a text that it reads.
LEARNT, READ = 64, 96


class Small(CausalLM):
    """A byte-level model that reads the beginnings of texts, and learns of no more than `LEARNT` of those that it is given."""

    def train(self, contents: Sequence[bytes], **options: Any) -> None:
        """Train on some of the contents, evenly spread."""
        places = np.linspace(0, len(contents) - 1, min(LEARNT, len(contents))).astype(int)
        CausalLM.train(self, [contents[place] for place in places], **options)

    def encode(self, contents: list[bytes]) -> list[list[int]]:
        """The bytes of each beginning."""
        return super().encode([content[:READ] for content in contents])

    def spots(self, contents: list[bytes], prompts: list[bytes | None]) -> list[list[tuple[int, int]]]:
        """The places of these bytes."""
        return super().spots([content[:READ] for content in contents], prompts)
