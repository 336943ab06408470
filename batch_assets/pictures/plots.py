"""Pictures of what was judged, readable on light and dark backgrounds alike."""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from batch_assets.histogram import Histogram
from batch_assets.pictures.svg import INK, Point, Svg, ticks
from batch_assets.quality.outcome import Shares

_EXPECTED, _OBSERVED = "#9a9fa6", "#2f81f7"
_WIDTH, _HEIGHT = 760, 270
_LEFT, _TOP, _BOTTOM = 48, 42, 40


def plot_scores(observed: Histogram, baseline: Histogram, title: str, name: str = "probability") -> bytes:
    """An SVG of the score distribution against the baseline, as shares over an axis of scores, which are called `name`.

    The axis is logarithmic unless some scores are negative.
    """
    grid = _grid(observed, baseline)
    expected, found = _shares(baseline, grid), _shares(observed, grid)
    frame = _Frame(title, (("baseline of the model card", _EXPECTED), ("this partition", _OBSERVED)), [*expected, *found])
    places = [_place(edge, grid) for edge in grid]
    outline = frame.steps(places, expected)
    frame.svg.area([*outline, (outline[-1][0], frame.y(0)), (outline[0][0], frame.y(0))], _EXPECTED, 0.45)
    frame.svg.line(frame.steps(places, found), _OBSERVED, 1.8)
    for value, named in _marks(grid):
        if 0 <= _place(value, grid) <= 1:
            frame.tick(_place(value, grid), f"{value:g}" if named else "")
    frame.svg.text((frame.x(0.5), _HEIGHT - 6), name, anchor="middle")
    return frame.svg.bytes()


def _marks(grid: Sequence[float]) -> list[tuple[float, bool]]:
    """What is marked on an axis of scores, and whether its number is written."""
    if grid[0] <= 0:
        step = 10.0 ** math.floor(math.log10(grid[-1] - grid[0]))
        return [(n * step, True) for n in range(math.ceil(grid[0] / step), math.floor(grid[-1] / step) + 1)]
    low, high = math.log10(grid[0]), math.log10(grid[-1])
    powers = range(math.ceil(low - 1), math.floor(high) + 1)
    few = high - low < 2
    return [(digit * 10.0**power, digit == 1 or (few and digit in (2, 5))) for power in powers for digit in range(1, 10)]


def _place(value: float, grid: Sequence[float]) -> float:
    """Where a score lies on the axis, as a share of it."""
    low, high = _stretched(np.asarray([grid[0], grid[-1]]), grid)
    return float((_stretched(np.asarray([value]), grid)[0] - low) / (high - low))


def _stretched(scores: npt.NDArray[np.float64], grid: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.log(scores) if grid[0] > 0 else scores


def plot_shares(shares: Shares) -> bytes:
    """An SVG of what was expected and observed, two bars for each group."""
    series = (("expected", _EXPECTED, shares.expected), ("observed", _OBSERVED, shares.observed))
    legend = [(name, color) for name, color, _ in series]
    frame = _Frame(shares.title, legend, [*shares.expected, *shares.observed], shares.unit)
    width = (frame.x(1) - frame.x(0)) / len(shares.groups)
    for number, group in enumerate(shares.groups):
        left = frame.x(0) + width * number
        for place, (_, color, values) in enumerate(series):
            top = frame.y(values[number])
            frame.svg.rect((left + width * (0.1 + 0.4 * place), top), 0.4 * width, frame.y(0) - top, color)
        frame.svg.text((left + width / 2, frame.y(0) + 15), group, anchor="middle", size=10)
    return frame.svg.bytes()


def plot_work(seconds: Mapping[str, float], stages: Sequence[str]) -> bytes:
    """An SVG of the workers' time by stage, one bar a stage in the order given, as shares of the whole."""
    shown = [stage for stage in stages if seconds.get(stage)]
    total = sum(seconds[stage] for stage in shown) or 1.0
    longest = max((seconds[stage] for stage in shown), default=1.0)
    svg = Svg(_WIDTH, 28 + 22 * len(shown), "The workers' time")
    svg.text((_LEFT + 50, 14), "The workers' time", size=12)
    for number, stage in enumerate(shown):
        top, length = 24 + 22 * number, 440 * seconds[stage] / longest
        svg.text((_LEFT + 42, top + 12), stage, anchor="end")
        svg.rect((_LEFT + 50, top), length, 16, _OBSERVED if seconds[stage] == longest else _EXPECTED)
        svg.text((_LEFT + 56 + length, top + 12), f"{seconds[stage] / total:.1%}, {seconds[stage]:,.1f} s")
    return svg.bytes()


class _Frame:
    """A picture with a title, a legend and two axes; `values` are the shares that it must have room for."""

    def __init__(
        self, title: str, legend: Sequence[tuple[str, str]], values: Sequence[float], unit: str = "share of rows"
    ) -> None:
        self.svg = Svg(_WIDTH, _HEIGHT, title)
        self._highest = max(values, default=0.0) * 1.05 or 1.0
        self.svg.text((_LEFT, 14), title, size=12)
        self.svg.legend(_WIDTH - 8, 32, legend)
        for value in ticks(self._highest):
            self.svg.line([(_LEFT - 4, self.y(value)), (_LEFT, self.y(value))])
            self.svg.text((_LEFT - 7, self.y(value) + 4), f"{value:g}", anchor="end", size=10)
        self.svg.text((0, 32), unit)
        self.svg.line([(_LEFT, _TOP), (_LEFT, self.y(0)), (_WIDTH - 8, self.y(0))])

    def x(self, share: float) -> float:
        """The place of a share of the width."""
        return _LEFT + share * (_WIDTH - 8 - _LEFT)

    def y(self, value: float) -> float:
        """The place of a value of the upright axis."""
        return _HEIGHT - _BOTTOM - value / self._highest * (_HEIGHT - _BOTTOM - _TOP)

    def tick(self, share: float, name: str) -> None:
        """A mark on the lower axis."""
        x, y = self.x(share), self.y(0)
        self.svg.line([(x, y), (x, y + (5 if name else 3))])
        if name:
            self.svg.text((x, y + 17), name, anchor="middle", size=10)

    def steps(self, places: Sequence[float], values: Sequence[float]) -> list[Point]:
        """The outline of a histogram: `values` between `places`, of which there is one more."""
        sides = zip(places[:-1], places[1:], values, strict=True)
        return [(self.x(side), self.y(value)) for left, right, value in sides for side in (left, right)]


def plot_sweep(curve: Sequence[tuple[int, float, int]], picked: int, title: str) -> bytes:
    """A PNG of rows/s and memory in bytes by batch size, both axes logarithmic; the size that was picked is marked."""
    from matplotlib.figure import Figure

    sizes, rates, memory = zip(*curve, strict=True)
    figure = Figure(figsize=(7.2, 3.2), dpi=110, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    other = axes.twinx()
    for one, values, color, name in (
        (axes, rates, _OBSERVED, "rows/s"),
        (other, [n / 1e6 for n in memory], _EXPECTED, "peak MB"),
    ):
        one.set_facecolor("none")
        one.plot(sizes, values, color=color, marker="o", markersize=3, linewidth=1.6)
        one.set_ylabel(name, color=color)
        one.set_yscale("log")
        one.tick_params(colors=INK, which="both")
        for spine in one.spines.values():
            spine.set_color(INK)
    axes.set_xscale("log", base=2)
    axes.axvline(picked, color=_OBSERVED, linestyle=":", linewidth=1.2)
    axes.annotate(
        f"{picked:,} rows", (picked, rates[sizes.index(picked)]), xytext=(6, -14), textcoords="offset points", color=INK
    )
    axes.set_xlabel("rows in a batch", color=INK)
    axes.set_title(title, color=INK, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _grid(observed: Histogram, baseline: Histogram) -> list[float]:
    """The edges of 40 bins of equal width on an axis that both fit on."""
    low = min(h.minimum for h in (observed, baseline) if h.minimum is not None)
    high = max(h.maximum for h in (observed, baseline) if h.maximum is not None)
    if low < 0:
        return [float(edge) for edge in np.linspace(low, max(high, low + abs(low) / 100), 41)]
    low = max(low, 1e-6 * high, 1e-30)
    return [float(edge) for edge in np.geomspace(low, max(high, low * 1.01), 41)]


def _shares(histogram: Histogram, grid: Sequence[float]) -> list[float]:
    """The histogram over other bins, its bins' rows spread evenly over their width on the axis."""
    low, high = grid[0], grid[-1]
    inner = [edge for edge in histogram.edges if low < edge < high]
    first = next((i for i, edge in enumerate(histogram.edges) if edge > low), len(histogram.edges))
    counts = np.asarray(histogram.counts[first : first + len(inner) + 1], dtype=float)
    known = _stretched(np.asarray([low, *inner, high]), grid)
    cumulative = np.interp(_stretched(np.asarray(grid), grid), known, np.concatenate([[0.0], np.cumsum(counts)]))
    return [float(rows) / max(histogram.total, 1) for rows in np.diff(cumulative)]
