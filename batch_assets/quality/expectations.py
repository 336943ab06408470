"""The feature suite: great-expectations judges the column profile, one row per column, not the data itself.

The suite is made from the feature contract, so it needs no words of its own. It takes the same time for a thousand rows
and for a billion. The only room that knows great-expectations.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from batch_assets.contract import FeatureContract
from batch_assets.quality.outcome import CheckOutcome, Severity


class ExpectationSettings(BaseModel):
    """What the column profile must look like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_missing: float = Field(
        0.01, description="Share of null, NaN or infinite values in a column that blocks; any at all warns.", ge=0, le=1
    )


def judge_profile(
    profile: pa.Table, contract: FeatureContract, settings: ExpectationSettings, *, allow_empty: bool = False
) -> CheckOutcome:
    """`expectations`: the suite's findings on a profile (see `features.profile`), worst first in the table."""
    frame = _frame(profile, contract)
    results = _validate(frame, _suite(contract, settings, min_rows=0 if allow_empty else 1))
    failed = [result for result in results if not result["passed"]]
    critical = [result for result in failed if result["severity"] == "error"]
    severity: Severity = "error" if critical or not failed else "warn"
    findings = "; ".join(f"{result['check']} ({result['columns'] or 'the suite could not judge it'})" for result in failed)
    return CheckOutcome(
        name="expectations",
        asset="user_features",
        passed=not failed,
        severity=severity,
        observed=float(len(failed)),
        threshold=0.0,
        message=findings or f"{len(results)} expectations hold for {len(frame)} columns.",
        table=_table(frame, results),
    )


def _frame(profile: pa.Table, contract: FeatureContract) -> Any:
    """The profile of the contract's columns, with what each of them is allowed, as a pandas frame."""
    known = {row["column"]: row for row in profile.to_pylist()}
    columns = [column for column in contract.columns if column.name in known]
    import pandas as pd

    frame = pd.DataFrame([known[column.name] for column in columns], columns=profile.column_names)
    frame["missing"] = (frame["nulls"] + frame["nans"] + frame["infinities"]) / frame["rows"].clip(lower=1)
    frame["permitted_minimum"] = pd.Series([column.min for column in columns], dtype="float64")
    frame["permitted_maximum"] = pd.Series([column.max for column in columns], dtype="float64")
    return frame


@contextmanager
def _without_spark() -> Iterator[None]:
    """great-expectations imports Spark's Python package where it finds one, which ends some processes (`sys.exit(0)`)."""
    if "pyspark" in sys.modules:
        yield
        return
    sys.modules["pyspark"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["pyspark"]


def _suite(contract: FeatureContract, settings: ExpectationSettings, min_rows: int) -> list[Any]:
    with _without_spark():
        import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToEqual(
            value=sum(column.length is None for column in contract.columns),
            severity="critical",
            meta={"check": "every column is profiled"},
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="rows", min_value=min_rows, severity="critical", meta={"check": "enough rows"}
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="missing",
            max_value=settings.max_missing,
            severity="critical",
            meta={"check": f"at most {settings.max_missing:.2%} missing"},
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="missing", max_value=0.0, severity="warning", meta={"check": "nothing missing"}
        ),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="minimum",
            column_B="permitted_minimum",
            or_equal=True,
            ignore_row_if="either_value_is_missing",
            severity="critical",
            meta={"check": "minimum is permitted"},
        ),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="permitted_maximum",
            column_B="maximum",
            or_equal=True,
            ignore_row_if="either_value_is_missing",
            severity="critical",
            meta={"check": "maximum is permitted"},
        ),
    ]


def _validate(frame: Any, expectations: list[Any]) -> list[dict[str, Any]]:
    """Run the suite; one dict per expectation, in the suite's order. An expectation that raised has failed."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("profile").add_dataframe_asset("columns")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite("features", expectations=expectations)
    answer = batch.validate(suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["column"]})
    by_check = {result.expectation_config.meta["check"]: result for result in answer.results}
    return [
        {
            "check": expectation.meta["check"],
            "passed": bool(by_check[expectation.meta["check"]].success),
            "severity": "warn" if str(expectation.severity.value) == "warning" else "error",
            "columns": ", ".join(
                str(place["column"]) for place in by_check[expectation.meta["check"]].result.get("unexpected_index_list") or []
            ),
        }
        for expectation in expectations
    ]


def _table(frame: Any, results: list[dict[str, Any]]) -> str:
    import pandas as pd

    offending = {name for result in results for name in result["columns"].split(", ")}
    rows = sorted(frame.to_dict("records"), key=lambda row: row["column"] not in offending)
    lines = ["| column | rows | missing | minimum | mean | maximum |", "|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        numbers = " | ".join("" if pd.isna(row[name]) else f"{row[name]:,.4g}" for name in ("minimum", "mean", "maximum"))
        lines.append(f"| {row['column']} | {row['rows']:,} | {row['missing']:.2%} | {numbers} |")
    return "\n".join(lines)
