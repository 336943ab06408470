"""Have features moved? Against the comparable good days (warns, then blocks), and against the model card (warns).

A feature is compared with each of the days that are comparable (see `comparable`), and the nearest counts.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from batch_assets.histogram import float_edges
from batch_assets.quality.columns import Column
from batch_assets.quality.drift import DriftSettings, Levels, figures_of, named, nearest_of, shares_of, told
from batch_assets.quality.gates import GATES, Gate
from batch_assets.quality.guess import guessed
from batch_assets.quality.outcome import CheckOutcome, Finding
from batch_assets.quality.statistics import Distance, distance

Columns = Mapping[str, Column]


def judge_feature_drift(
    day: str, today: Columns, before: Mapping[str, Columns], settings: DriftSettings, newest: int = 7
) -> CheckOutcome:
    """`feature_drift`: of each feature, the distance to the nearest comparable one of the good days before, keyed by partition.

    `newest` of them are comparable where too few are of the same weekday.
    """
    found = {}
    for feature, column in today.items():
        known = {other: columns[feature] for other, columns in before.items() if feature in columns}
        alike = {other: one for other, one in known.items() if one.comparable(column)}
        near = nearest_of(day, column, alike, partial(_distance, len(today)), settings.warn, newest)
        if near is not None:
            found[feature] = near
    return _judge(GATES["feature_drift"], today, before, found, settings.warn, settings.block)


def judge_feature_baseline(today: Columns, baseline: Columns, partition: str, settings: DriftSettings) -> CheckOutcome:
    """`feature_baseline`: of each feature, the distance to what the model card says; it warns that the population has moved."""
    found = {
        name: (partition, _distance(len(today), baseline[name], column))
        for name, column in today.items()
        if name in baseline and baseline[name].comparable(column)
    }
    level = settings.baseline_warn
    return _judge(GATES["feature_baseline"], today, {partition: baseline}, found, level, None)


def _judge(
    gate: Gate,
    today: Columns,
    before: Mapping[str, Columns],
    found: Mapping[str, tuple[str, Distance]],
    warn: Levels,
    block: Levels | None,
) -> CheckOutcome:
    """The outcome of distances by feature, each with the day that it was measured from."""
    last = block or warn
    if not found:
        return gate.outcome(
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
            message=f"{one} is {told(far)} from what it was on {named(then)}{guessed(one, today, before[then]) or ''}",
        )
        for one in (blocking or warning)
        for then, far in [found[one]]
    )
    return gate.outcome(
        passed=not blocking and not warning,
        severity="warn" if block is None or (warning and not blocking) else "error",
        observed=worst.psi.value,
        threshold=warn.psi if warning and not blocking else last.psi,
        figures=figures_of(worst),
        shares=shares_of(
            worst, f"{ordered[0]} of this partition and of {named(day)}", None if today[ordered[0]].category else float_edges()
        ),
        table=_table([(one, *found[one]) for one in ordered], blocking, warning),
        findings=findings,
        message="; ".join(finding.message for finding in findings) + "."
        if findings
        else f"{len(found)} features are as before; the farthest is {ordered[0]}, {told(worst)} from {named(day)}.",
    )


def _distance(looks: int, expected: Column, observed: Column) -> Distance:
    return distance(expected.counts, observed.counts, looks, ordered=not observed.category)


def _table(found: Sequence[tuple[str, str, Distance]], blocking: Sequence[str], warning: Sequence[str]) -> str:
    lines = ["| feature | | PSI | KS | JS | nearest day |", "|---|---|--:|--:|--:|---|"]
    for name, day, one in found:
        mark = "blocks" if name in blocking else "warns" if name in warning else ""
        lines.append(f"| {name} | {mark} | {one.psi.value:.4f} | {one.ks.value:.4f} | {one.js.value:.4f} | {day} |")
    return "\n".join(lines)
