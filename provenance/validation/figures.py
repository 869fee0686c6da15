"""Draws audits as figures, PNG files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from provenance.core.arrays import positive_shares


def lds_figure(result: dict[str, Any]) -> bytes:
    """The score of each method with its interval, beside the ceiling that training noise sets; a PNG file."""
    figure, axes = _figure(len(result["families"]))
    for axis, (family, report) in zip(axes, result["families"].items(), strict=True):
        methods = dict(sorted(report["methods"].items(), key=lambda item: item[1]["lds"]))
        values, low, high = (np.array([scores[name] for scores in methods.values()]) for name in ("lds", "low", "high"))
        axis.barh(list(methods), values, xerr=[values - low, high - values], color="#4878a8", ecolor="#222222", capsize=3)
        ceiling = report["ceiling"]
        axis.axvline(ceiling, color="#a84848", linestyle="--")
        axis.text(ceiling, -0.45, f"ceiling {ceiling:.2f} ", color="#a84848", va="bottom", ha="right")
        axis.set_title(f"{report['subsets']} random halves of {family}")
        axis.set_xlabel("linear datamodelling score")
        axis.set_xlim(min(0.0, low.min() - 0.05), 1)
        axis.axvline(0, color="#888888", linewidth=0.6)
    figure.suptitle(f"{result['night']['model_id']}: predicted and actual effects of training on halves of the corpus")
    return _png(figure)


def shares_figure(
    result: dict[str, Any], truths: dict[str, np.ndarray], estimated: dict[str, np.ndarray], baselines: dict[str, np.ndarray]
) -> bytes:
    """Estimated shares against those from retraining, a point for each owner and output; a PNG file.

    Args:
        truths: values by rule, `(owners, outputs)`; estimated: shares by rule; baselines: values by other methods.
    """
    most = max(result["trainings"], key=int)
    panels = []
    for rule, true in truths.items():
        panels.append((rule, f"{rule}, {most} trainings", estimated[rule], true, result["trainings"][most][rule]))
        name = "sum of factored"
        panels.append((rule, name, positive_shares(baselines[name]), true, result["methods"][name][rule]))
    figure, axes = _figure(len(panels))
    for axis, (rule, name, shares, true, figures) in zip(axes, panels, strict=True):
        for owner, x, y in zip(result["owners"], shares, positive_shares(true), strict=True):
            axis.scatter(x, y, s=16, alpha=0.7, linewidths=0, label=owner)
        axis.axline((0, 0), slope=1, color="#888888", linewidth=0.6)
        axis.set_xlabel(f"share: {name}")
        axis.set_ylabel(f"share: {rule}, retrained")
        axis.set_title("L1 error {l1:.2f}, rank correlation {spearman:.2f}".format(**figures))
    figure.suptitle(f"{result['night']['model_id']}: owners' shares of each output, estimated and by retraining")
    return _png(figure)


def attacks_figure(result: dict[str, Any]) -> bytes:
    """The gain of each attack under every rule, and the part that the added works earn; a PNG file."""
    figure, axes = _figure(len(result["rules"]))
    names = [row["attack"] for row in result["attacks"]][::-1]
    for axis, rule in zip(axes, result["rules"], strict=True):
        gains = [row["gain"][rule] for row in result["attacks"]][::-1]
        axis.barh(names, gains, color=["#a84848" if gain > 0 else "#4878a8" for gain in gains])
        axis.barh(names, [row["added"][rule] for row in result["attacks"]][::-1], height=0.3, color="#222222")
        axis.axvline(0, color="#222222", linewidth=0.8)
        axis.set_title(rule)
        axis.set_xlabel("gain in mean share; dark: share of the added works")
    figure.suptitle(f"{result['night']['model_id']}: gains of {result['attacker']} by attacking")
    return _png(figure)


def _figure(panels: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * panels, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _png(figure: Any) -> bytes:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names are text, also those with dollars
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()
