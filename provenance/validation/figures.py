"""Audits as figures."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def lds_figure(result: dict[str, Any]) -> bytes:
    """Each method's score with its interval, beside the ceiling that training noise sets; a PNG file."""
    figure, axes = _figure(len(result["families"]))
    for axis, (family, found) in zip(axes, result["families"].items(), strict=True):
        names = sorted(found["methods"], key=lambda name: found["methods"][name]["lds"])
        values = [found["methods"][name]["lds"] for name in names]
        low = [value - found["methods"][name]["low"] for name, value in zip(names, values, strict=True)]
        high = [found["methods"][name]["high"] - value for name, value in zip(names, values, strict=True)]
        axis.barh(names, values, xerr=[low, high], color="#4878a8", ecolor="#222222", capsize=3)
        ceiling = found["ceiling"]
        axis.axvline(ceiling, color="#a84848", linestyle="--")
        axis.text(ceiling, len(names) - 0.4, f" ceiling {ceiling:.2f}", color="#a84848", va="bottom", ha="right")
        axis.set_title(f"random halves of {family} ({found['subsets']})")
        axis.set_xlabel("linear datamodelling score")
        axis.set_xlim(min(0, *values), 1)
    return _png(figure)


def owners_figure(predicted: np.ndarray, actual: np.ndarray, correlation: float) -> bytes:
    """What leaving an owner out did to an output, against the owner's influence on it; a PNG file."""
    figure, (axis,) = _figure(1)
    axis.scatter(predicted.ravel(), actual.ravel(), s=6, alpha=0.4, color="#4878a8", linewidths=0)
    axis.axhline(0, color="#888888", linewidth=0.6)
    axis.axvline(0, color="#888888", linewidth=0.6)
    axis.set_xlabel("influence of the owner on the output")
    axis.set_ylabel("rise of the output's loss without the owner (nats)")
    axis.set_title(f"leave one owner out: mean rank correlation {correlation:.2f}")
    return _png(figure)


def _figure(panels: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * panels, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()
