"""A figure as SVG, for a page or a file of its own, and as PNG."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from forgetkit.errors import OptionError
from forgetkit.results.plots.canvas import plot_style
from forgetkit.results.plots.styles import INK
from forgetkit.results.render.formatting import one_line
from forgetkit.storage import write_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_FONT = re.compile(r"(?:(?P<weight>bold|\d00)\s+)?(?P<size>[\d.]+)px\b")
_ALONE = f"svg{{color:{INK}}}@media(prefers-color-scheme:dark){{svg{{color:#e4e6ea}}}}"


def svg(figure: Figure, name: str, label: str = "") -> str:
    """Return ``figure`` as an element for a page: text stays text, in the page's colour, without a style sheet.

    Every id begins with ``name``, so that one page can have several pictures. Screen readers read out ``label``.
    """
    return ElementTree.tostring(_tree(figure, name, label), encoding="unicode")


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` to ``path``: an SVG for light and dark pages or a PNG on white, by its suffix."""
    if path.suffix == ".svg":
        root = _tree(figure, path.stem, "")
        root.set("font-family", "DejaVu Sans, Verdana, sans-serif")
        own = ElementTree.Element("style")
        own.text = _ALONE
        root.insert(0, own)
        write_output(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
    elif path.suffix == ".png":
        write_output(path, _render_figure(figure, "png", dpi=200, facecolor="white", metadata={"Software": None}))
    else:
        raise OptionError(f"{path}: a picture is written as .svg or .png")


def _render_figure(figure: Figure, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    with plot_style():
        figure.savefig(file, format=form, **options)
    return file.getvalue()


def _tree(figure: Figure, name: str, label: str) -> ElementTree.Element:
    """matplotlib's SVG without namespaces, styles and metadata such as its date, with ids of this picture."""
    root = ElementTree.fromstring(_render_figure(figure, "svg", transparent=True))
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.attrib.update(_attributes(_local(key), value, name))
    root.attrib.update({"xmlns": _SVG, "role": "img", "stroke-linejoin": "round"})
    if label:
        root.set("aria-label", one_line(label))
    for key in ("width", "height"):  # viewBox has the shape, the page the size
        root.attrib.pop(key, None)
    return root


def _attributes(key: str, value: str, name: str) -> dict[str, str]:
    """An attribute for a page; a style becomes attributes."""
    if key == "style":
        found: dict[str, str] = {}
        for declaration in filter(str.strip, value.split(";")):
            of, _, what = declaration.partition(":")
            found |= _attributes(of.strip(), what.strip(), name)
        return found
    if key == "font":
        match = _FONT.search(value)
        weight = {"font-weight": "bold"} if match and match["weight"] in ("bold", "700") else {}
        return weight | ({"font-size": match["size"]} if match else {})
    if key == "font-family":
        return {}  # the page's own
    if key == "id":
        return {key: f"{name}-{value}"}
    if key == "href" and value.startswith("#"):
        return {key: f"#{name}-{value[1:]}"}
    if value == INK:
        return {key: "currentColor"}
    return {key: value.replace("url(#", f"url(#{name}-")}


def _local(name: str) -> str:
    return name.rpartition("}")[2]
