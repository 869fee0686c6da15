"""Figures that stand inside pages: SVG, the same bytes for the same numbers, legible on dark and light."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

from lxml import etree

SVG = "{http://www.w3.org/2000/svg}"
# Matplotlib's settings are one for all threads.
DRAWING = threading.Lock()


def drawn(draw: Callable[[Any], None], size: tuple[float, float], style: dict[str, Any]) -> bytes:
    """What a function draws on a sheet of Matplotlib's, as an SVG file; nobody's own settings count."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    file = io.BytesIO()
    fixed: dict[Any, Any] = {"svg.fonttype": "none", **style}
    with DRAWING, mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(fixed)
        sheet = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(sheet)
        draw(sheet)
        sheet.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def embedded(svg: bytes, said: str, known: str = "") -> dict[str, str]:
    """A figure inside a page, and what it shows in words; `known` begins its ids where a page has several figures."""
    root = etree.fromstring(svg, etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True))
    for element in [*root.iter(f"{SVG}metadata", f"{SVG}style")]:  # styles would reach beyond the figure
        element.getparent().remove(element)
    for element in root.iter() if known else ():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"{known}-{value}")
            elif "#" in value and (name.endswith("href") or "url(" in value):
                element.set(name, value.replace("#", f"#{known}-"))
    for name in ("width", "height"):
        del root.attrib[name]
    root.attrib.update({"role": "img", "aria-label": said})
    return {"svg": etree.tostring(root, encoding="unicode"), "said": said}
