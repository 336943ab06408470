"""What was measured, for people: a table and a picture."""

from pathlib import Path
from typing import Any

_STAGES = {
    "start-up": "#9a9fa6",
    "features": "#2f81f7",
    "scoring": "#2da44e",
    "publishing": "#bf8700",
    "checks": "#a371f7",
    "dagster": "#cf6d8f",
    "summary": "#444c56",
    "not shown": "#6e7781",
}
"""The stages of a night in their order, and the colors in which they are drawn."""

_INK, _OURS, _OTHER = "#7d8590", "#2f81f7", "#9a9fa6"
_TITLES = {
    "ours": "batch-assets",
    "ours_ray": "batch-assets (ray)",
    "ours_spark": "batch-assets (spark)",
    "ours_local": "batch-assets (local)",
    "daft": "Daft",
    "ray_data": "Ray Data",
    "spark": "Spark mapInArrow",
    "one_get_per_batch": "one ray.get per batch",
    "forward_only": "model alone",
    "stages": "five stages alone",
}


def print_table(report: dict[str, Any]) -> None:
    """Rows per second, seconds, and how many times as fast batch-assets is with its default engine."""
    from rich.console import Console
    from rich.table import Table

    ours = report.get("ours", {})
    rows, small = report["rows"], report["rows"] // 5
    table = Table(title=f"{rows:,} rows x 64 float32, MLP 64-256-256-3, medians of {report['rounds']} rounds", box=None)
    table.add_column("")
    for heading in ("steady rows/s", f"s for {rows:,}", f"s for {small:,}"):
        table.add_column(heading, justify="right")
        table.add_column("ours : it", justify="right")
    for name, title in _TITLES.items():
        found = report.get(name)
        if found is None:
            continue
        cells = []
        for key in ("steady_rows_per_s", "total_rows_per_s", "total_rows_per_s_small"):
            rate = found.get(key)
            seconds = found.get(key.replace("rows_per_s", "s").removeprefix("steady_"))
            shown = f"{rate:,.0f}" if rate and key == "steady_rows_per_s" else f"{seconds:,.1f}" if rate else ""
            comparable = ours and rate and (key == "steady_rows_per_s" or found.get("rows", rows) == rows)
            cells += [shown, f"{ours[key] / rate:.2f}" if comparable else ""]
        note = f" ({found['rows']:,} and {found['rows'] // 5:,} rows)" if found.get("rows", rows) != rows else ""
        table.add_row(title + note, *cells)
    console = Console(width=150)
    console.print(table)
    for key in ("stages", "proof", "memory", "resume"):
        if key in report:
            console.print(key, report[key])
    console.print(report["machine"])


def draw(report: dict[str, Any], path: Path) -> None:
    """A PNG of rows per second in steady work, readable on light and dark backgrounds."""
    rates = {name: report[name]["steady_rows_per_s"] for name in _TITLES if name in report}
    names = list(reversed(rates))
    figure, axes = _clear(0.6 + 0.4 * len(names))
    colors = [_OURS if name.startswith("ours") else _OTHER for name in names]
    bars = axes.barh([_TITLES[name] for name in names], [rates[name] for name in names], color=colors, height=0.62)
    axes.bar_label(bars, labels=[f"{rates[name]:,.0f}" for name in names], color=_INK, padding=4, fontsize=9)
    axes.margins(x=0.14)
    axes.set_title(f"rows per second, steady, {report['machine']['cores']} cores", color=_INK, fontsize=10)
    figure.savefig(path, format="png")


def draw_nights(nights: dict[str, dict[str, float]], path: Path) -> None:
    """A PNG of the seconds of nights by stage, one bar for each, readable on light and dark backgrounds."""
    figure, axes = _clear(1.1 + 0.45 * len(nights))
    names, starts = list(reversed(nights)), dict.fromkeys(nights, 0.0)
    for stage, color in _STAGES.items():
        seconds = [nights[name].get(stage, 0.0) for name in names]
        if any(seconds):
            bars = axes.barh(names, seconds, left=[starts[name] for name in names], color=color, height=0.6, label=stage)
            shown = [f"{one:.0f}" if one > 0.02 * max(one["total"] for one in nights.values()) else "" for one in seconds]
            axes.bar_label(bars, labels=shown, label_type="center", color="white", fontsize=8)
            starts = {name: starts[name] + nights[name].get(stage, 0.0) for name in names}
    for name in names:
        axes.text(starts[name], name, f"  {nights[name]['total']:.0f} s", color=_INK, va="center", fontsize=9)
    axes.margins(x=0.08)
    axes.set_title("seconds of a night of 20M rows x 16, by stage", color=_INK, fontsize=10)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, labelcolor=_INK, fontsize=8)
    figure.savefig(path, format="png")


def _clear(inches: float) -> tuple[Any, Any]:
    """A figure of some height without background, frame and marks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, inches), dpi=150, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.tick_params(colors=_INK, which="both", length=0)
    axes.xaxis.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes
