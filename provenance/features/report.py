"""Holds what is known of how a model is followed: its layout, the arrangement of batches, and the report of the check.

Whatever finds features without computing any reads only this: it loads neither torch nor a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from provenance.core.errors import ModelError
from provenance.features.projection import Block

# The arrangement of a batch in the rows of operations: the rows of an example side by side, or one row of each example in turn,
# or unknown, so that examples are computed one by one.
SIDE_BY_SIDE, TURN_BY_TURN, ONE_BY_ONE = "side by side", "turn by turn", "one by one"
# Verdicts on a weight. Biases and norms are left out by rule; so are weights that cannot be followed, where a setting says so.
FOLLOWED, UNUSED, SMALL, DEVIATES, TOO_LARGE = "followed", "without a gradient", "left out", "deviates", "too large to follow"
FAILED = (DEVIATES, TOO_LARGE)


@dataclass(frozen=True)
class Layout:
    """The trainable weights of a model as blocks of a feature row, and the part of them that the blocks cover.

    Attributes:
        left_out: sizes of the trainable parameters without a gradient feature, by name.
        parameters: number of trainable parameters.
    """

    blocks: tuple[Block, ...]
    left_out: dict[str, int]
    parameters: int

    @property
    def dense(self) -> list[Block]:
        """The inner layers."""
        return [block for block in self.blocks if block.kind == "dense"]

    @property
    def tokens(self) -> list[Block]:
        """The layers over the vocabulary."""
        return [block for block in self.blocks if block.kind != "dense"]

    @property
    def covered(self) -> float:
        """The part of all trainable parameters that features cover."""
        return 1 - sum(self.left_out.values()) / self.parameters

    @property
    def rank(self) -> int:
        """The rank of the projections of inner layers."""
        return max((max(block.rows, block.columns) for block in self.dense), default=0)


@dataclass(frozen=True)
class Arrangement:
    """How rows of operations belong to the examples of a batch.

    Attributes:
        order: `SIDE_BY_SIDE`, `TURN_BY_TURN` or `ONE_BY_ONE`.
        shared: blocks that are computed once for the whole batch, such as positions; each example gets its own gradient.
        rows: of each other block, the rows of each call for one example; 0 where they depend on the example's length.
    """

    order: str
    shared: tuple[str, ...] = ()
    rows: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def holds(self, called: dict[str, list[int]], examples: int) -> bool:
        """Whether a batch has the rows that this arrangement expects; `called` has the rows of each call by block."""
        if not called.keys() <= {*self.rows, *self.shared}:
            return False
        for name, rows in self.rows.items():
            found = called.get(name, [])
            if len(found) != len(rows):
                return False
            if any(count != each * examples if each else count % examples for each, count in zip(rows, found, strict=True)):
                return False
        return True


@dataclass(frozen=True)
class Following:
    """How the gradients of a model are followed.

    Attributes:
        sizes: bytes that autograd keeps for one example by its length in bytes, ascending; empty if not measured.
        room: bytes that it may keep in a pass on the GPU that the model was checked on; 0 for a check on a CPU.
    """

    layout: Layout
    arrangement: Arrangement
    sizes: tuple[tuple[int, int], ...] = ()
    room: int = 0


@dataclass(frozen=True)
class LayerCheck:
    """A weight, and how its features compare with autograd.

    Attributes:
        by: how its gradient is followed, `operation` or `autograd`; empty if it is not.
        deviation: of its features from autograd's, relative to the latter, over all examples; None if not compared.
    """

    weight: str
    parameters: int
    by: str
    deviation: float | None
    verdict: str


@dataclass(frozen=True)
class Report:
    """The check of a model.

    Attributes:
        following: how the model is followed; what failed is left out of it.
        tolerance: largest deviation of a weight that counts as followed; it depends on the type of the weights.
        repeated: deviation of the same pass, run again.
        batched: deviation of losses in a batch from those of each example alone.
        compared: number of examples with prompts and without that were compared with autograd.
    """

    checkpoint: str
    dtype: str
    compared: int
    tolerance: float
    repeated: float
    batched: float
    layers: tuple[LayerCheck, ...]
    following: Following

    @property
    def failed(self) -> list[LayerCheck]:
        """Weights that cannot be followed."""
        return [layer for layer in self.layers if layer.verdict in FAILED]

    @property
    def share(self) -> float:
        """The part of the trainable parameters that is followed."""
        return self.following.layout.covered

    def summary(self) -> dict[str, Any]:
        """What a manifest says of it."""
        followed = [layer for layer in self.layers if layer.verdict == FOLLOWED]
        by_autograd = [layer.weight for layer in followed if layer.by == "autograd"]
        return {
            "checkpoint": self.checkpoint,
            "compared": self.compared,
            "largest_deviation": max((layer.deviation or 0.0 for layer in followed), default=0.0),
            "tolerance": self.tolerance,
            "dtype": self.dtype,
            "followed": len(followed),
            "by_autograd": by_autograd,
            "without_gradient": [layer.weight for layer in self.layers if layer.verdict == UNUSED],
            "not_followed": {layer.weight: layer.deviation for layer in self.failed},
            "batches": self.following.arrangement.order,
            "rank": self.following.layout.rank,
            "numbers": sum(block.size for block in self.following.layout.dense),
        }


def require_followed(report: Report) -> None:
    """Raise ModelError for the first weight that cannot be followed."""
    if not report.failed:
        return
    worst = max(report.failed, key=lambda layer: layer.parameters)
    total = report.following.layout.parameters
    part = sum(layer.parameters for layer in report.failed) / total
    more = len(report.failed) - 1
    found = (
        f"a deviation of {worst.deviation:.2g}"
        if worst.deviation is not None
        else f"a use that only autograd can follow, and {worst.parameters:,} numbers"
    )
    raise ModelError(
        f"checkpoint {report.checkpoint}: weight {worst.weight!r} ({worst.parameters / total:.1%} of what is trained)",
        expected=f"features within {report.tolerance:g} of its gradient by autograd",
        found=found,
        hint=(f"So have {more} more. " if more else "")
        + f"Freeze such weights (requires_grad_(False)), or set features.unfollowed = 'leave_out' to go on without {part:.1%} "
        "of what is trained.",
    )


def to_json(report: Report) -> dict[str, Any]:
    """A report as JSON."""
    return asdict(report)


def from_json(value: Mapping[str, Any]) -> Report:
    """The inverse of `to_json`."""
    layers = tuple(LayerCheck(**layer) for layer in value["layers"])
    return Report(**{**value, "layers": layers, "following": _following_from_json(value["following"])})


def _following_from_json(value: Mapping[str, Any]) -> Following:
    """A following from the JSON of its fields."""
    shape, arrangement = value["layout"], value["arrangement"]
    blocks = tuple(Block(**block) for block in shape["blocks"])
    rows = {name: tuple(counts) for name, counts in arrangement["rows"].items()}
    return Following(
        Layout(blocks, dict(shape["left_out"]), shape["parameters"]),
        Arrangement(arrangement["order"], tuple(arrangement["shared"]), rows),
        tuple((length, size) for length, size in value["sizes"]),
        value.get("room", 0),
    )
