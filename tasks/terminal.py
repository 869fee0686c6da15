"""A terminal that strangers' text is shown on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.segment import Segment

from provenance.core.text import on_screen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType


class Terminal(Console):
    """A console on which no text moves the cursor, sets a colour or turns the direction of writing; it is written out."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is shown, piece by piece."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(on_screen(segment.text), segment.style)
