"""Just enough SVG for the pictures that every night draws.

Importing a plotting library and laying out its figures takes longer than judging the night; see docs/decisions/gates.md.
"""

import math
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

INK = "#7d8590"
"""Of words and axes: readable on a light and on a dark page."""

_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_STEPS = (1, 2, 5, 10)

Point = tuple[float, float]


class Svg:
    """A picture of `width` x `height` pixels on a transparent ground; x grows to the right, y grows down."""

    def __init__(self, width: int, height: int, title: str) -> None:
        size = {"width": str(width), "height": str(height), "viewBox": f"0 0 {width} {height}"}
        self._root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "font-family": _FONT})
        ElementTree.SubElement(self._root, "title").text = title

    def rect(self, corner: Point, width: float, height: float, color: str) -> None:
        """A filled rectangle from its upper left corner."""
        place = {"x": corner[0], "y": corner[1], "width": width, "height": height}
        self._add("rect", **{name: _number(value) for name, value in place.items()}, fill=color)

    def line(self, points: Iterable[Point], color: str = INK, width: float = 1.0) -> None:
        """A line through points."""
        self._add("polyline", points=_points(points), fill="none", stroke=color, **{"stroke-width": _number(width)})

    def area(self, points: Iterable[Point], color: str, opacity: float) -> None:
        """A filled area within points."""
        self._add("polygon", points=_points(points), fill=color, **{"fill-opacity": _number(opacity)})

    def text(self, place: Point, text: str, *, size: int = 11, anchor: str = "start", color: str = INK) -> None:
        """Words at a place on their base line; `anchor` says whether it is their start, middle or end."""
        x, y = place
        kind = {"font-size": str(size), "text-anchor": anchor, "fill": color}
        self._add("text", x=_number(x), y=_number(y), **kind).text = text

    def legend(self, right: float, y: float, names: Sequence[tuple[str, str]]) -> None:
        """(name, color) pairs in one line that ends at `right`."""
        for name, color in reversed(names):
            right -= 6.3 * len(name)
            self.text((right, y), name)
            self.rect((right - 15, y - 9), 11, 9, color)
            right -= 29

    def bytes(self) -> bytes:
        """The picture as a file."""
        return ElementTree.tostring(self._root, encoding="unicode").encode()

    def _add(self, kind: str, **attributes: str) -> ElementTree.Element:
        return ElementTree.SubElement(self._root, kind, attributes)


def ticks(highest: float, count: int = 4) -> list[float]:
    """About `count` round numbers from zero to `highest`, evenly spaced."""
    if highest <= 0:
        return [0.0]
    size = 10.0 ** math.floor(math.log10(highest / count))
    step = next(size * one for one in _STEPS if size * one >= highest / count)
    return [round(step * number, 12) for number in range(int(highest / step * (1 + 1e-9)) + 1)]


def _points(points: Iterable[Point]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
