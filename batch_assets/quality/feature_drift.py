"""Have features moved? Against the newest good days (warns, then blocks), and against the model card (warns).

A feature is compared with each of the days, and the nearest counts: a Sunday is like a Sunday, and what ages day by day is like
yesterday.
"""

from collections.abc import Mapping, Sequence

from batch_assets.histogram import float_edges
from batch_assets.quality.columns import Column
from batch_assets.quality.distance import Distance, distance
from batch_assets.quality.drift import DriftSettings, Levels, figures_of, shares_of, told
from batch_assets.quality.outcome import Asset, CheckOutcome, Finding

Columns = Mapping[str, Column]

_LIKE = 0.02
"""A Jensen-Shannon divergence up to which a column looks like another one."""


def judge_feature_drift(today: Columns, before: Mapping[str, Columns], settings: DriftSettings) -> CheckOutcome:
    """`feature_drift`: of each feature, the distance to the nearest of the newest good days, keyed by partition."""
    return _judge("feature_drift", "user_features", today, before, settings.warn, settings.block)


def judge_feature_baseline(today: Columns, baseline: Columns, partition: str, settings: DriftSettings) -> CheckOutcome:
    """`feature_baseline`: of each feature, the distance to what the model card says; it warns that the population has moved."""
    return _judge("feature_baseline", "predictions", today, {partition: baseline}, settings.baseline_warn, None)


def _judge(
    name: str, asset: Asset, today: Columns, before: Mapping[str, Columns], warn: Levels, block: Levels | None
) -> CheckOutcome:
    nearest = {feature: _nearest(column, before, len(today)) for feature, column in today.items()}
    found = {feature: near for feature, near in nearest.items() if near is not None}
    last = block or warn
    if not found:
        return CheckOutcome(
            name=name,
            asset=asset,
            passed=True,
            severity="info",
            threshold=last.psi,
            message="not_compared: nothing that was good before has such columns.",
        )
    blocking = [one for one in found if block and block.reached(found[one][1])]
    warning = [one for one in found if one not in blocking and warn.reached(found[one][1])]
    ordered = sorted(found, key=lambda one: (one not in blocking, one not in warning, -found[one][1].js.value))
    day, worst = found[ordered[0]]
    findings = tuple(
        Finding(
            subject=one,
            kind="moved",
            severity="error" if blocking else "warn",
            message=f"{one} is {told(found[one][1])} from what it was on {found[one][0]}{_taken_for(one, today, before)}",
        )
        for one in (blocking or warning)
    )
    return CheckOutcome(
        name=name,
        asset=asset,
        passed=not blocking and not warning,
        severity="warn" if block is None or (warning and not blocking) else "error",
        observed=worst.psi.value,
        threshold=warn.psi if warning and not blocking else last.psi,
        figures=figures_of(worst),
        shares=shares_of(
            worst, f"{ordered[0]} of this partition and of {day}", None if today[ordered[0]].category else float_edges()
        ),
        table=_table([(one, *found[one]) for one in ordered], blocking, warning),
        findings=findings,
        message="; ".join(finding.message for finding in findings) + "."
        if findings
        else f"{len(found)} features are as before; the farthest is {ordered[0]}, {told(worst)} from {day}.",
    )


def _nearest(column: Column, before: Mapping[str, Columns], looks: int) -> tuple[str, Distance] | None:
    """The day on which a column was nearest, and how far it is from that; None if there is nothing to compare."""
    found = [
        (day, distance(columns[column.name].counts, column.counts, looks, ordered=not column.category))
        for day, columns in before.items()
        if column.name in columns and columns[column.name].comparable(column)
    ]
    return min(found, key=lambda near: near[1].js.value, default=None)


def _taken_for(name: str, today: Columns, before: Mapping[str, Columns]) -> str:
    """Whether a column that moved far is now what another one was, which is what a swap looks like."""
    newest = before[max(before)]
    mine = {
        other: distance(column.counts, today[name].counts, ordered=not column.category).js.value
        for other, column in newest.items()
        if other != name and column.comparable(today[name])
    }
    like = min(mine, key=lambda other: mine[other], default=None)
    if like is None or mine[like] > _LIKE:
        return ""
    return f" and looks like {like} then, as if they were swapped"


def _table(found: Sequence[tuple[str, str, Distance]], blocking: Sequence[str], warning: Sequence[str]) -> str:
    lines = ["| feature | | PSI | KS | JS | nearest day |", "|---|---|--:|--:|--:|---|"]
    for name, day, one in found:
        mark = "blocks" if name in blocking else "warns" if name in warning else ""
        lines.append(f"| {name} | {mark} | {one.psi.value:.4f} | {one.ks.value:.4f} | {one.js.value:.4f} | {day} |")
    return "\n".join(lines)
