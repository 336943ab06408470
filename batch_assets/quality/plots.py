"""Pictures of what was judged, readable on light and dark backgrounds alike."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from batch_assets.histogram import Histogram
from batch_assets.quality.outcome import Shares

_INK, _EXPECTED, _OBSERVED = "#7d8590", "#9a9fa6", "#2f81f7"


def plot_scores(observed: Histogram, baseline: Histogram, title: str) -> bytes:
    """A PNG of the score distribution against the baseline, as densities over a logarithmic axis of probability."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.9), dpi=110, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    for histogram, color, name, fill in (
        (baseline, _EXPECTED, "baseline of the model card", True),
        (observed, _OBSERVED, "this partition", False),
    ):
        edges, shares = _shares(histogram, observed, baseline)
        axes.stairs(shares, edges, fill=fill, color=color, alpha=0.45 if fill else 1.0, linewidth=1.8, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("probability", color=_INK)
    axes.set_ylabel("share of users", color=_INK)
    axes.set_title(title, color=_INK, fontsize=10)
    axes.tick_params(colors=_INK, which="both")
    for spine in axes.spines.values():
        spine.set_color(_INK)
    axes.legend(frameon=False, labelcolor=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def plot_shares(shares: Shares) -> bytes:
    """A PNG of what share of rows was expected and observed, two bars for each group."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 2.7), dpi=110, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    places = np.arange(len(shares.groups))
    axes.bar(places - 0.2, shares.expected, 0.4, color=_EXPECTED, label="expected")
    axes.bar(places + 0.2, shares.observed, 0.4, color=_OBSERVED, label="observed")
    axes.set_xticks(places, [_from(group) for group in shares.groups], fontsize=8)
    axes.set_ylabel("share of rows", color=_INK)
    axes.set_title(shares.title, color=_INK, fontsize=10, loc="left")
    axes.tick_params(colors=_INK, which="both")
    for spine in axes.spines.values():
        spine.set_color(_INK)
    axes.legend(frameon=False, labelcolor=_INK, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderpad=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _from(group: str) -> str:
    """The label of a group that begins at a value, or of the first, which has none."""
    return group if group.startswith("<") or group == "all" else f"≥ {group}"


def plot_work(seconds: Mapping[str, float], stages: Sequence[str]) -> bytes:
    """A PNG of the workers' time by stage, one bar a stage in the order given, as shares of the whole."""
    from matplotlib.figure import Figure

    shown = [stage for stage in stages if seconds.get(stage)]
    total = sum(seconds[stage] for stage in shown) or 1.0
    shares = [seconds[stage] / total for stage in shown]
    figure = Figure(figsize=(7.2, 0.6 + 0.3 * len(shown)), dpi=110, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    colors = [_OBSERVED if share == max(shares) else _EXPECTED for share in shares]
    bars = axes.barh(shown, shares, color=colors)
    axes.bar_label(
        bars,
        [f"{share:.1%}, {seconds[stage]:,.1f} s" for stage, share in zip(shown, shares, strict=True)],
        padding=4,
        color=_INK,
    )
    axes.set_xlim(0, 1.25 * max(shares, default=1.0))
    axes.invert_yaxis()
    axes.set_title("The workers' time", color=_INK, fontsize=10)
    axes.tick_params(colors=_INK, which="both", length=0)
    axes.xaxis.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


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
        one.tick_params(colors=_INK, which="both")
        for spine in one.spines.values():
            spine.set_color(_INK)
    axes.set_xscale("log", base=2)
    axes.axvline(picked, color=_OBSERVED, linestyle=":", linewidth=1.2)
    axes.annotate(
        f"{picked:,} rows", (picked, rates[sizes.index(picked)]), xytext=(6, -14), textcoords="offset points", color=_INK
    )
    axes.set_xlabel("rows in a batch", color=_INK)
    axes.set_title(title, color=_INK, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _shares(histogram: Histogram, observed: Histogram, baseline: Histogram) -> tuple[list[float], list[float]]:
    """The histogram in 40 bins of equal width on the logarithmic axis, a bin's rows spread evenly over its width."""
    low = max(min(h.minimum for h in (observed, baseline) if h.minimum is not None), 1e-6)
    high = max(h.maximum for h in (observed, baseline) if h.maximum is not None)
    grid = np.geomspace(low, max(high, low * 1.01), 41)
    inner = [edge for edge in histogram.edges if low < edge < high]
    bounds = np.log([low, *inner, max(high, low * 1.01)])
    first = next((i for i, edge in enumerate(histogram.edges) if edge > low), len(histogram.edges))
    counts = np.asarray(histogram.counts[first : first + len(inner) + 1], dtype=float)
    cumulative = np.interp(np.log(grid), bounds, np.concatenate([[0.0], np.cumsum(counts)]))
    return grid.tolist(), (np.diff(cumulative) / max(histogram.total, 1)).tolist()
