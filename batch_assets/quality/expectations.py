"""The feature suite: great-expectations judges the column profile, one row per column, not the data itself.

The suite is made from the feature contract, so it needs no words of its own; what a team knows beyond it is added in the
pipeline's YAML. It takes the same time for a thousand rows and for a billion. Where somebody wants that, great-expectations
reads all the data, too. The only room that knows great-expectations.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.contract import FeatureContract
from batch_assets.quality.outcome import CheckOutcome, Finding, Severity

_A_VALUE = 1e-12
"""The share of values that are there if there is one."""

_GX_SEVERITY = {"error": "critical", "warn": "warning"}
_SHOWN = 5
"""How many rows of the data are named for one finding."""


class Expectation(BaseModel):
    """What a team knows of one column of its own: between what values a number lies that the profile has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    statistic: Literal["mean", "minimum", "maximum", "missing", "zeros"] = Field(
        description="missing and zeros are shares of the rows; the others are of the finite values."
    )
    min: float | None = Field(None, description="Smallest value that is expected.")
    max: float | None = Field(None, description="Largest value that is expected.")
    severity: Literal["error", "warn"] = Field("error", description="Whether it blocks or warns where it does not hold.")

    @model_validator(mode="after")
    def _says_something(self) -> "Expectation":
        if self.min is None and self.max is None:
            raise ValueError(f"the expectation on {self.statistic} of {self.column} has neither min nor max")
        return self

    def __str__(self) -> str:
        bounds = [f"at least {self.min:g}"] if self.min is not None else []
        bounds += [f"at most {self.max:g}"] if self.max is not None else []
        return f"{self.statistic} {' and '.join(bounds)}"


class ExpectationSettings(BaseModel):
    """What the column profile must look like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_missing: float = Field(
        0.01,
        description="Share of null, NaN or infinite values that blocks where the contract does not permit them; any warns.",
        ge=0,
        le=1,
    )
    own: tuple[Expectation, ...] = Field((), description="What the team expects beyond the contract.")
    full_scan: bool = Field(False, description="Whether great-expectations reads every row, too: slower by far.")


def judge_profile(
    profile: pa.Table, contract: FeatureContract, settings: ExpectationSettings, *, allow_empty: bool = False
) -> CheckOutcome:
    """`expectations`: the suite's findings on a profile (see `features.profile`), worst first in the table."""
    frame = _frame(profile, contract, settings)
    results = _validate(frame, _suite(contract, settings, min_rows=0 if allow_empty else 1), "column")
    held = f"{len(results)} expectations hold for {len(frame)} columns."
    return _outcome("expectations", results, held, table=_table(frame, results))


def judge_data(
    tables: list[pa.Table], contract: FeatureContract, settings: ExpectationSettings, *, allow_empty: bool = False
) -> CheckOutcome:
    """`full_scan`: the same expectations on every row with its key, by great-expectations itself."""
    import pandas as pd

    frames = [table.to_pandas() for table in tables]  # float32 is slow there: a Python call for each row
    data = pd.concat([frame.astype(dict.fromkeys(frame.select_dtypes("float32"), "float64")) for frame in frames])
    suite = _data_suite(contract, settings, min_rows=0 if allow_empty else 1)
    results = _validate(data, suite, contract.key.name)
    return _outcome("full_scan", results, f"{len(results)} expectations hold for {len(data):,} rows.")


def _outcome(name: str, results: list[dict[str, Any]], held: str, table: str = "") -> CheckOutcome:
    failed = [result for result in results if not result["passed"]]
    failed.sort(key=lambda result: result["severity"] != "error")
    critical = [result for result in failed if result["severity"] == "error"]
    severity: Severity = "error" if critical or not failed else "warn"
    said = "; ".join(f"{result['check']} ({result['columns'] or 'the suite could not judge it'})" for result in failed)
    return CheckOutcome(
        name=name,
        asset="user_features",
        passed=not failed,
        severity=severity,
        observed=float(len(failed)),
        threshold=0.0,
        findings=tuple(finding for result in failed for finding in _findings(result)),
        message=said or held,
        table=table,
    )


def _findings(result: dict[str, Any]) -> Iterator[Finding]:
    """What an expectation that does not hold found, one by one for each column that it is about."""
    for column in result["subjects"] or [""]:
        place = column or result["columns"] or "the suite could not judge it"
        yield Finding(subject=column, kind=result["check"], message=f"{result['check']} ({place})", severity=result["severity"])


def _frame(profile: pa.Table, contract: FeatureContract, settings: ExpectationSettings) -> Any:
    """The profile of the contract's columns, with what each of them is allowed, as a pandas frame."""
    known = {row["column"]: row for row in profile.to_pylist()}
    columns = [column for column in contract.columns if column.name in known]
    import pandas as pd

    frame = pd.DataFrame([known[column.name] for column in columns], columns=profile.column_names)
    frame["missing"] = (frame["nulls"] + frame["nans"] + frame["infinities"]) / frame["rows"].clip(lower=1)
    frame["zeros"] = frame["zeros"] / frame["rows"].clip(lower=1)
    permitted = [None if column.nullable else settings.max_missing for column in columns]
    frame["permitted_missing"] = pd.Series(permitted, dtype="float64")
    frame["usual_missing"] = frame["permitted_missing"] * 0
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
        from great_expectations.expectations.row_conditions import Column as Name

    return [
        gxe.ExpectTableRowCountToEqual(
            value=sum(column.length is None for column in contract.columns),
            severity="critical",
            meta={"check": "every column is profiled"},
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="rows", min_value=min_rows, severity="critical", meta={"check": "enough rows"}
        ),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="permitted_missing",
            column_B="missing",
            or_equal=True,
            ignore_row_if="either_value_is_missing",
            severity="critical",
            meta={"check": f"at most {settings.max_missing:.2%} missing"},
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="missing", max_value=1.0, strict_max=True, severity="critical", meta={"check": "any value at all"}
        ),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="usual_missing",
            column_B="missing",
            or_equal=True,
            ignore_row_if="either_value_is_missing",
            severity="warning",
            meta={"check": "nothing missing"},
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
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=one.statistic,
                min_value=one.min,
                max_value=one.max,
                row_condition=Name("column") == one.column,
                severity=_GX_SEVERITY[one.severity],
                meta={"check": f"{one} of {one.column}"},
            )
            for one in settings.own
        ),
    ]


def _data_suite(contract: FeatureContract, settings: ExpectationSettings, min_rows: int) -> list[Any]:
    with _without_spark():
        import great_expectations.expectations as gxe

    key, single = contract.key.name, [column for column in contract.columns if column.length is None]
    own = {
        "mean": gxe.ExpectColumnMeanToBeBetween,
        "minimum": gxe.ExpectColumnMinToBeBetween,
        "maximum": gxe.ExpectColumnMaxToBeBetween,
    }
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=min_rows, severity="critical", meta={"check": "enough rows"}),
        gxe.ExpectColumnValuesToBeUnique(column=key, severity="critical", meta={"check": f"{key} is unique"}),
        gxe.ExpectColumnValuesToNotBeNull(column=key, severity="critical", meta={"check": f"{key} is never null"}),
        *(
            gxe.ExpectColumnValuesToNotBeNull(
                column=column.name,
                mostly=_A_VALUE if column.nullable else 1 - settings.max_missing,
                severity="critical",
                meta={"check": f"{column.name} is there"},
            )
            for column in single
        ),
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=column.name,
                min_value=column.min,
                max_value=column.max,
                severity="critical",
                meta={"check": f"{column.name} is permitted"},
            )
            for column in single
            if column.min is not None or column.max is not None
        ),
        *(
            own[one.statistic](
                column=one.column,
                min_value=one.min,
                max_value=one.max,
                severity=_GX_SEVERITY[one.severity],
                meta={"check": f"{one} of {one.column}"},
            )
            for one in settings.own
            if one.statistic in own
        ),
    ]


def _validate(frame: Any, expectations: list[Any], named_by: str) -> list[dict[str, Any]]:
    """Run the suite; one dict per expectation, in the suite's order. An expectation that raised has failed.

    `columns` says where it does not hold: the values of the frame's column `named_by`, of many the first few.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("profile").add_dataframe_asset("columns")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite("features", expectations=expectations)
    answer = batch.validate(suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [named_by]})
    by_check = {result.expectation_config.meta["check"]: result for result in answer.results}
    return [
        {
            "check": expectation.meta["check"],
            "passed": bool(by_check[expectation.meta["check"]].success),
            "severity": "warn" if str(expectation.severity.value) == "warning" else "error",
            "columns": _places(by_check[expectation.meta["check"]].result, named_by),
            "subjects": _subjects(by_check[expectation.meta["check"]].result, named_by, expectation),
        }
        for expectation in expectations
    ]


def _subjects(result: Any, named_by: str, expectation: Any) -> list[str]:
    """The columns of the data that an answer is about; none if it is about the whole."""
    if named_by == "column":
        return [str(place["column"]) for place in result.get("unexpected_index_list") or []]
    column = getattr(expectation, "column", named_by)
    return [] if column == named_by else [str(column)]


def _places(result: Any, named_by: str) -> str:
    found = [str(place[named_by]) for place in result.get("unexpected_index_list") or []]
    if named_by != "column" and len(found) > _SHOWN:
        return f"{len(found):,} rows, first {', '.join(found[:_SHOWN])}"
    if not found and result.get("observed_value") is not None:
        return f"it is {result['observed_value']}"
    return ", ".join(found)


def _table(frame: Any, results: list[dict[str, Any]]) -> str:
    import pandas as pd

    offending = {name for result in results for name in result["columns"].split(", ")}
    rows = sorted(frame.to_dict("records"), key=lambda row: row["column"] not in offending)
    lines = ["| column | rows | missing | minimum | mean | maximum |", "|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        numbers = " | ".join("" if pd.isna(row[name]) else f"{row[name]:,.4g}" for name in ("minimum", "mean", "maximum"))
        lines.append(f"| {row['column']} | {row['rows']:,} | {row['missing']:.2%} | {numbers} |")
    return "\n".join(lines)
