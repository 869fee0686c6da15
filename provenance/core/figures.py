"""Figures inside pages: SVG with the same bytes for the same numbers, legible on dark and light pages."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from html import escape
from typing import Any

from lxml import etree

# A figure in a file takes its ink from the reader's colour scheme: it stands on light and on dark pages.
INK = {"light": "#1f2328", "dark": "#e6edf3"}
BY_SCHEME = (
    f"<style>text{{fill:{INK['light']}!important}}"
    f"@media (prefers-color-scheme:dark){{text{{fill:{INK['dark']}!important}}}}</style>"
)
SVG = "{http://www.w3.org/2000/svg}"
# Threads share Matplotlib's settings.
DRAWING = threading.Lock()


def draw_svg(draw: Callable[[Any], None], size: tuple[float, float], style: dict[str, Any]) -> bytes:
    """Draw a figure with Matplotlib and return it as an SVG file; local settings of Matplotlib are ignored."""
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


def draw_file(draw: Callable[[Any], None], size: tuple[float, float], title: str) -> bytes:
    """Draw a figure that stands in a file of its own, for documents: with a title for screen readers."""
    svg = draw_svg(draw, size, {"svg.hashsalt": title, "font.family": "sans-serif", "text.color": INK["light"]})
    head, tag, rest = svg.decode().partition("<defs>")
    return f"{head}<title>{escape(title)}</title>{BY_SCHEME}{tag}{rest}".encode()


def embed_svg(svg: bytes, caption: str, prefix: str = "") -> dict[str, str]:
    """A figure for a page (`svg`) with its caption (`caption`); `prefix` makes ids unique where a page has several figures."""
    root = etree.fromstring(svg, etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True))
    for element in [*root.iter(f"{SVG}metadata", f"{SVG}style")]:  # styles would affect the whole page
        element.getparent().remove(element)
    for element in root.iter() if prefix else ():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"{prefix}-{value}")
            elif "#" in value and (name.endswith("href") or "url(" in value):
                element.set(name, value.replace("#", f"#{prefix}-"))
    for name in ("width", "height"):
        del root.attrib[name]
    root.attrib.update({"role": "img", "aria-label": caption})
    return {"svg": etree.tostring(root, encoding="unicode"), "caption": caption}
