"""A picture of two nights: who moved from which decile to which, readable on light and dark backgrounds alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batch_assets.pictures.svg import Svg

_SAME, _UP, _DOWN = "#9a9fa6", "#2f81f7", "#db6d28"
_WIDTH = 760
_CELL = 27
_LEFT, _TOP = 56, 62
_SMALLEST = 2.0
"""Pixels: what is there can be seen."""

_LINE = 18
_NAMES, _BARS, _LONGEST = 500, 508, 130


@dataclass(frozen=True)
class Bar:
    """How many keys something is true of; `way` is 1 if they moved up, -1 if down."""

    name: str
    rows: int
    way: int = 0


def plot_moves(
    title: str,
    days: tuple[str, str],
    deciles: Sequence[Sequence[int]] | None,
    bars: Mapping[str, Sequence[Bar]],
    total: int,
) -> bytes:
    """An SVG of moves.

    On the left a square for each decile before (across) and after (upwards), as large as the share of those who were in the one
    that are in the other now; who moved up is above the diagonal. On the right bars with counts.

    Args:
        title: what stands above it.
        days: the day before and the day after.
        deciles: for each decile before, how many are in each after, both from the lowest; None if there are none.
        bars: groups of bars by their heading.
        total: how many keys all counts are shares of.
    """
    lines = sum(len(group) + 2 for group in bars.values())
    grid = _TOP + _CELL * len(deciles) + 46 if deciles else 0
    svg = Svg(_WIDTH, max(grid, _TOP - 14 + _LINE * lines), title)
    svg.text((8, 16), title, size=12)
    if deciles:
        svg.legend(_LEFT + _CELL * len(deciles), 42, [("up", _UP), ("the same", _SAME), ("down", _DOWN)])
        _draw_squares(svg, days, deciles)
    y, longest = float(_TOP - 20), max((bar.rows for group in bars.values() for bar in group), default=0)
    for heading, group in bars.items():
        svg.text((_BARS, y), heading, size=12)
        _draw_bars(svg, y + 6, group, _LONGEST / max(longest, 1), total)
        y += _LINE * (len(group) + 2)
    return svg.bytes()


def _draw_squares(svg: Svg, days: tuple[str, str], deciles: Sequence[Sequence[int]]) -> None:
    count = len(deciles)
    bottom, right = _TOP + _CELL * count, _LEFT + _CELL * count
    svg.line([(_LEFT, _TOP), (_LEFT, bottom), (right, bottom)])
    for before, row in enumerate(deciles):
        middle = _LEFT + _CELL * (before + 0.5)
        svg.text((middle, bottom + 15), str(before + 1), anchor="middle", size=10)
        svg.text((_LEFT - 7, bottom - _CELL * (before + 0.5) + 4), str(before + 1), anchor="end", size=10)
        for after, rows in enumerate(row):
            if rows:
                side = max(_SMALLEST, (_CELL - 2) * (rows / sum(row)) ** 0.5)
                corner = middle - side / 2, bottom - _CELL * (after + 0.5) - side / 2
                svg.rect(corner, side, side, _UP if after > before else _DOWN if after < before else _SAME)
    svg.text((8, _TOP - 20), f"decile on {days[1]}")
    svg.text((right, bottom + 32), f"decile on {days[0]}", anchor="end")


def _draw_bars(svg: Svg, top: float, group: Sequence[Bar], scale: float, total: int) -> None:
    """The bars of a group, `scale` pixels long for each key."""
    for number, bar in enumerate(group):
        y, length = top + _LINE * number, scale * bar.rows
        share = f", {bar.rows / total:.1%}" if bar.rows and total else ""
        svg.text((_NAMES, y + 12), bar.name, anchor="end")
        svg.rect((_BARS, y + 2), length, _LINE - 5, (_SAME, _UP, _DOWN)[bar.way])
        svg.text((_BARS + 6 + length, y + 12), f"{bar.rows:,}{share}")
