"""What Dagster's UI shows of a materialization and of a check: numbers are plotted over partitions, pictures are shown."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from batch_assets.features.provenance import read_provenance
from batch_assets.models.registry import ModelVersion
from batch_assets.nightly.freeze import Frozen
from batch_assets.nightly.publish import Published
from batch_assets.nightly.score import Scored
from batch_assets.nightly.throughput import Estimate
from batch_assets.nightly.verdict import Verdict
from batch_assets.pictures.plots import plot_scores, plot_shares, plot_work
from batch_assets.quality.drift import MEASURES
from batch_assets.quality.outcome import CheckOutcome
from batch_assets.runs.bottleneck import STAGES
from batch_assets.runs.manifest import Manifest, ModelPin

Metadata = dict[str, Any]

WARNING = "warning_"
"""In front of the name of a check whose finding did not block."""

_LEAST_LEFT, _MOST_LEFT = "seconds_left_at_least", "seconds_left_at_most"


def of_features(frozen: Frozen, verdict: Verdict, began: str) -> Metadata:
    """user_features: rows, rows/s, seconds, the snapshot and its column profile."""
    total = sum(frozen.seconds.values())
    left_out = read_provenance(frozen.storage, frozen.folder).forgotten
    return {
        "dagster/row_count": frozen.snapshot.rows,
        "dagster/column_schema": _columns(frozen.snapshot.schema_text),
        **({"excluded: forgotten": left_out.rows} if left_out else {}),
        "rows_per_s": _rate(frozen.snapshot.rows, total),
        "seconds_per_stage": _seconds_table(frozen.seconds),
        "resumed": "the snapshot that was frozen before" if frozen.reused else "no, frozen now",
        "snapshot": frozen.snapshot.digest,
        "folder": dg.MetadataValue.path(frozen.folder),
        "judged": _judged(verdict.of("user_features"), began),
        "rows_ratio": verdict.outcome("changes").figures.get("rows_ratio", verdict.outcome("changes").message),
        **_distances("features", verdict.outcome("feature_drift")),
        "column_profile": dg.MetadataValue.md(verdict.outcome("expectations").table),
    }


def of_predictions(scored: Scored, verdict: Verdict, model: ModelVersion, before: str | None, began: str) -> Metadata:
    """predictions: rows, rows/s, seconds per stage, run, model, PSI, and a picture of the scores against the baseline.

    Rows/s are of this execution. What is of an earlier one, or of all of them, says so. `before` is the newest accepted day
    before, if there is one.
    """
    manifest, card = scored.manifest, model.card
    of = f", when the run was finished, {scored.finished_before[:16]} UTC" if scored.finished_before else ""
    chunks = f" of all chunks, {scored.resumed_chunks} committed before" if scored.resumed_chunks and not of else of
    title = f"Scores of {manifest.partition} against the baseline of {card.baseline_partition}"
    return {
        "dagster/row_count": manifest.scored,
        "input_rows": manifest.rows,
        "excluded_rows": manifest.excluded,
        "dead_letter_rows": manifest.dead_lettered,
        "output_ratio": _observed(verdict.outcome("complete")),
        "rows_per_s": _rate(scored.rows_now, scored.seconds_now),
        "seconds_per_stage": _seconds_table({**manifest.seconds, "wall, with start-up": manifest.wall_seconds}, chunks),
        "workers_time": _picture(plot_work(manifest.work.seconds, STAGES), f"The workers' time{of}"),
        "engine": manifest.work.where() + of,
        "what_limits_it": manifest.work.sentence() + of,
        "audit": f"{manifest.audit.rows} rows scored again, {manifest.audit.bit_equal} of them bit-equal",
        "batch_rows": manifest.batch_rows,
        "precision": _precision(manifest),
        "resumed_chunks": scored.resumed_chunks,
        "run_id": manifest.run_id,
        "judged": _judged(verdict.of("predictions"), began),
        "model_version": f"{model.name} {model.version}",
        "model_sha256": manifest.model.sha256,
        **_distances("trailing", verdict.outcome("drift")),
        **_distances("previous_model", verdict.outcome("previous_model")),
        **_distances("baseline", verdict.outcome("baseline")),
        "scores": _picture(plot_scores(manifest.histogram, card.baseline, title, manifest.record.score), title),
        "who_moved": _who_moved(manifest, verdict, before),
        "digest": manifest.values.hex(),
        "folder": dg.MetadataValue.path(manifest.folder),
    }


def model_tags(model: ModelPin) -> dict[str, str]:
    """Tags of a materialization: which version made it."""
    return {"model/name": model.name, "model/version": model.version, "model/sha256": model.sha256[:16]}


def of_release(published: Published) -> Metadata:
    """serving_table: rows, rows/s, seconds, the release and what is live."""
    release = published.release
    return {
        "dagster/row_count": release.rows,
        "rows_per_s": _rate(release.rows, published.seconds),
        "seconds_per_stage": _seconds_table({"build, read back, publish": published.seconds}),
        "run_id": release.run_id,
        "model_version": f"{release.model.name} {release.model.version}",
        "model_sha256": release.model.sha256,
        "release": release.name,
        "live": "yes" if published.is_live else f"no: {published.live} is newer",
        **{f"{WARNING}{outcome.name}": outcome.explained() for outcome in published.warnings},
        **{f"{WARNING}{name}": why for name, why in published.lagging_tables.items()},
        **({f"{WARNING}export": published.not_exported} if published.not_exported else {}),
    }


def of_outcome(outcome: CheckOutcome, began: str) -> Metadata:
    """A check: what was observed and what was allowed; and when it was judged, if that was before its run `began`."""
    shown: Metadata = {"message": outcome.explained(began), "severity": outcome.severity}
    if outcome.judged:
        shown["judged"] = outcome.judged
    if outcome.observed is not None:
        shown["observed"] = outcome.observed
    if outcome.threshold is not None:
        shown["threshold"] = outcome.threshold
    shown |= outcome.figures
    if outcome.shares:
        shown["expected_and_observed"] = _picture(plot_shares(outcome.shares), outcome.shares.title)
    if outcome.table:
        shown["details"] = dg.MetadataValue.md(outcome.table)
    return shown


def severity(outcome: CheckOutcome) -> dg.AssetCheckSeverity:
    """Dagster's word for how bad an outcome is."""
    return dg.AssetCheckSeverity.ERROR if outcome.blocks or outcome.passed else dg.AssetCheckSeverity.WARN


def of_progress(stage: str, done: int, total: int, estimate: Estimate | None) -> Metadata:
    """A stage under way: rows, and when it will be done."""
    shown: Metadata = {"stage": stage, "rows_done": done, "rows": total, "share_done": round(done / total, 4) if total else 1.0}
    if estimate is not None:
        shown |= {
            "rows_per_s": round(estimate.rate, 1),
            _LEAST_LEFT: round(estimate.low, 1),
            _MOST_LEFT: round(estimate.high, 1),
        }
    return shown


def seconds_left(progress: Mapping[str, dg.MetadataValue[Any]]) -> tuple[float, float] | None:
    """At least and at most how many seconds a stage under way said that it takes; None if it said nothing of that."""
    if _MOST_LEFT not in progress:
        return None
    return float(progress[_LEAST_LEFT].value), float(progress[_MOST_LEFT].value)


def _columns(schema_text: str) -> dg.TableSchema:
    """The columns of a snapshot, which Dagster's catalog shows and finds, with what they lead to."""
    fields = [line.partition(": ") for line in schema_text.splitlines()]
    return dg.TableSchema([dg.TableColumn(name, kind.removesuffix(" not null")) for name, _, kind in fields])


def _precision(manifest: Manifest) -> str:
    precision = manifest.environments[0].get("precision", "float32") if manifest.environments else "float32"
    if manifest.agreement is None:
        return precision
    found = manifest.agreement
    return f"{precision}: within {found.largest_difference:.3g} of float32, rank agreement {found.rank_agreement:.6f}"


def _who_moved(manifest: Manifest, verdict: Verdict, before: str | None) -> Any:
    """The command that compares the night with the one before, key by key; a night does not take the time to do it."""
    if not verdict.good:
        return "This run is not accepted, and only accepted ones are compared."
    if before is None:
        return "No earlier day has an accepted run."
    return dg.MetadataValue.md(f"`batch-assets diff {manifest.pipeline} {before} {manifest.partition}`")


def _rate(rows: int, seconds: float) -> Any:
    return round(rows / seconds, 1) if seconds else "nothing was computed now"


def _distances(to: str, outcome: CheckOutcome) -> Metadata:
    """PSI, KS and Jensen-Shannon as numbers, which Dagster plots; else why there are none."""
    return {f"{name}_{to}": outcome.figures[name] for name in MEASURES} if outcome.figures else {f"psi_{to}": outcome.message}


def _observed(outcome: CheckOutcome) -> Any:
    """A number if there is one, so that Dagster plots it; else why there is none."""
    return outcome.observed if outcome.observed is not None else outcome.message


def _judged(outcomes: Sequence[CheckOutcome], began: str) -> str:
    """When checks were judged, which is all at once: in the run that `began`, or before it and kept."""
    judged = max((one.judged for one in outcomes), default="")
    return "now" if judged >= began else f"{judged[:16]} UTC, and kept: it would be compared with the same now"


def _seconds_table(seconds: dict[str, float], of: str = "") -> Any:
    lines = "".join(f"| {stage} | {value:.3f} |\n" for stage, value in seconds.items())
    return dg.MetadataValue.md(f"| stage | seconds{of} |\n|---|--:|\n{lines}") if lines else "nothing was computed now"


def _picture(svg: bytes, title: str) -> Any:
    return dg.MetadataValue.md(f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg).decode()})")
