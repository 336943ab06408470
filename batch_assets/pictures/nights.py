"""Draws played nights: who did what in one of them, and how long all of them were."""

import math
from collections.abc import Sequence

import numpy as np

from batch_assets.pictures.svg import INK, Svg, ticks

_SCORED, _LOST, _AWAY, _OTHER = "#2f81f7", "#d29922", "#f85149", "#9a9fa6"
_COLORS = {"scored": _SCORED, "lost": _LOST, "away": _AWAY}
_WIDTH, _LEFT, _RIGHT, _TOP = 760, 64, 16, 56
_HIGHEST, _TALL, _BINS, _NARROWEST = 168, 130, 40, 3

Row = tuple[int, float, float, str]
"""A worker, from which second of the night to which, and what: scored, lost or away."""


def plot_played(title: str, rows: Sequence[Row], night: float, totals: Sequence[float], deadline: float | None) -> bytes:
    """An SVG of one night by worker, `night` seconds long, and of the lengths of all nights beside a deadline in seconds."""
    workers = 1 + max((worker for worker, *_ in rows), default=0)
    row = min(22.0, _HIGHEST / workers)
    lower = _TOP + workers * row + 72
    svg = Svg(_WIDTH, round(lower + _TALL + 44), title)
    svg.text((_LEFT, 16), title, size=12)
    names = [("scores", _SCORED), ("work that is lost", _LOST), ("nobody there", _AWAY), ("before and after scoring", _OTHER)]
    svg.legend(_WIDTH - _RIGHT, 38, names)
    unit, name = (3600.0, "h") if max(night, *totals, deadline or 0.0) >= 5400 else (60.0, "min")
    _draw_night(svg, rows, workers, row, night, (unit, name))
    _draw_lengths(svg, lower, totals, deadline, (unit, name))
    return svg.bytes()


def _draw_night(svg: Svg, rows: Sequence[Row], workers: int, row: float, night: float, unit: tuple[float, str]) -> None:
    scale, bottom = (_WIDTH - _LEFT - _RIGHT) / night, _TOP + workers * row
    begin, end = min((start for _, start, _, _ in rows), default=0.0), max((end for _, _, end, _ in rows), default=night)
    for start, stop in ((0.0, begin), (end, night)):
        svg.rect((_LEFT + start * scale, _TOP), (stop - start) * scale, bottom - _TOP, _OTHER)
    gap = 2.0 if row > 6 else 0.5 if row > 2 else 0.0
    for worker, start, stop, kind in _joined(rows):
        width = max((stop - start) * scale, 0.6)
        svg.rect((_LEFT + start * scale, _TOP + worker * row), width, row - gap, _COLORS[kind])
    svg.text((_LEFT - 8, _TOP + 10), "worker 1", anchor="end", size=10)
    if workers > 1:
        svg.text((_LEFT - 8, max(bottom - 2, _TOP + 21)), str(workers), anchor="end", size=10)
    _axis(svg, bottom + 4, (0.0, night), unit, "one night, of median length")


def _joined(rows: Sequence[Row]) -> list[Row]:
    """What one worker did without a break is one bar."""
    found: list[Row] = []
    for worker, start, end, kind in sorted(rows):
        if found and found[-1][0] == worker and found[-1][3] == kind and start - found[-1][2] < 1e-6:
            found[-1] = (worker, found[-1][1], end, kind)
        else:
            found.append((worker, start, end, kind))
    return found


def _draw_lengths(svg: Svg, top: float, totals: Sequence[float], deadline: float | None, unit: tuple[float, str]) -> None:
    """The histogram; its axis begins a little before the shortest night, so that what differs can be seen."""
    seen = [*totals, *([deadline] if deadline is not None else [])]
    room = max(max(seen) - min(seen), max(seen) / 10) / 4
    begin, end, bottom = max(min(seen) - room, 0.0), max(seen) + room, top + _TALL
    scale = (_WIDTH - _LEFT - _RIGHT) / (end - begin)
    fit = int((max(totals) - min(totals)) * scale / _NARROWEST)
    counts, edges = np.histogram(totals, bins=max(min(_BINS, len(totals) // 5, fit), 1))
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        height = (_TALL - 22) * count / float(counts.max())
        width = max((right - left) * scale - 0.8, 0.8)
        svg.rect((_LEFT + (left - begin) * scale, bottom - height), width, height, _SCORED)
    svg.text((_LEFT - 8, bottom - _TALL + 26), f"{counts.max():,}", anchor="end", size=10)
    svg.text((_LEFT - 8, bottom - 2), "nights", anchor="end", size=10)
    if deadline is not None:
        place, held = _LEFT + (deadline - begin) * scale, sum(total <= deadline for total in totals) / len(totals)
        svg.line([(place, top - 2), (place, bottom)], color=_AWAY, width=1.6)
        words, right = f"deadline, held by {held:.1%}", place > _WIDTH / 2
        svg.text((place - 6 if right else place + 6, top + 8), words, anchor="end" if right else "start")
    _axis(svg, bottom, (begin, end), unit, f"how long {len(totals):,} nights were")


def _axis(svg: Svg, y: float, ends: tuple[float, float], unit: tuple[float, str], name: str) -> None:
    seconds, called = unit
    begin, end = (one / seconds for one in ends)
    scale, (_, step, *_) = (_WIDTH - _LEFT - _RIGHT) / (end - begin), [*ticks(end - begin, 6), end - begin]
    svg.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], color=INK)
    for number in range(math.ceil(begin / step - 1e-9), int(end / step + 1e-9) + 1):
        x = _LEFT + (number * step - begin) * scale
        svg.line([(x, y), (x, y + 4)])
        svg.text((x, y + 16), f"{number * step:.6g}", anchor="middle", size=10)
    svg.text((_WIDTH - _RIGHT, y + 32), f"{name}, {called}", anchor="end")
