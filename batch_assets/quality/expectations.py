"""The feature suite: great-expectations judges the column profile, one row per column, not the data itself.

The suite is made from the feature contract, so it needs no words of its own; what a team knows beyond it is added in the
pipeline's YAML. It takes the same time for a thousand rows and for a billion. Where somebody wants that, great-expectations
reads all the data, too. The only room that knows great-expectations.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from batch_assets.features.contract import Column, FeatureContract
from batch_assets.features.keys import in_words
from batch_assets.histogram import FLOAT_BINS, float_edges
from batch_assets.quality.gates import GATES
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

    def otherwise(self, value: float) -> str:
        """That the number is one that is not expected."""
        share = self.statistic in ("missing", "zeros")
        beyond = self.min if self.min is not None and value < self.min else self.max
        said = _share if share else _number
        bounds = [f"at least {said(self.min)}"] if self.min is not None else []
        bounds += [f"at most {said(self.max)}"] if self.max is not None else []
        found = said(value, beyond)
        what = f"is {self.statistic.removesuffix('s')} in {found} of the rows" if share else f"has the {self.statistic} {found}"
        return f"{self.column} {what}, {' and '.join(bounds)} expected"


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


Said = Callable[[Sequence[str], Mapping[str, Any]], Sequence[tuple[str, str]]]
"""Of places (columns, or the first keys) and what was observed: which columns are otherwise (empty: none of them), and how."""


@dataclass(frozen=True)
class _Rule:
    """An expectation of great-expectations, what it is about, and how it is told that it does not hold."""

    expectation: Any
    about: str
    said: Said


@dataclass(frozen=True)
class _Result:
    """What became of a rule: where it does not hold, and in words."""

    passed: bool
    severity: Severity
    places: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def judge_profile(
    profile: pa.Table, contract: FeatureContract, settings: ExpectationSettings, *, allow_empty: bool = False
) -> CheckOutcome:
    """`expectations`: the suite's findings on a profile (see `features.profile`), worst first in the table."""
    frame = _frame(profile, contract, settings)
    results = _validate(frame, _suite(frame, contract, settings, min_rows=0 if allow_empty else 1), ("column",))
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
    results = _validate(data, suite, contract.identity)
    return _outcome("full_scan", results, f"{len(results)} expectations hold for {len(data):,} rows.")


def _outcome(name: str, results: Sequence[_Result], held: str, table: str = "") -> CheckOutcome:
    failed = sorted((result for result in results if not result.passed), key=lambda result: result.severity != "error")
    severity: Severity = "error" if not failed or failed[0].severity == "error" else "warn"
    return GATES[name].outcome(
        passed=not failed,
        severity=severity,
        observed=float(len(failed)),
        threshold=0.0,
        findings=tuple(finding for result in failed for finding in result.findings),
        message="; ".join(finding.message for result in failed for finding in result.findings) or held,
        table=table,
    )


def _frame(profile: pa.Table, contract: FeatureContract, settings: ExpectationSettings) -> Any:
    """The profile of the contract's columns, with what each of them is allowed, as a pandas frame."""
    known = {row["column"]: row for row in profile.to_pylist()}
    columns = [column for column in contract.columns if column.name in known]
    import pandas as pd

    frame = pd.DataFrame([known[column.name] for column in columns], columns=profile.column_names)
    frame["missing"] = (frame["nulls"] + frame["nans"] + frame["infinities"]) / frame["rows"].clip(lower=1)
    frame["zeros"] = frame["zeros"] / frame["rows"].clip(lower=1)
    permitted = [None if column.nullable else settings.max_missing for column in columns]
    limit = pd.Series(permitted, dtype="float64")
    frame["permitted_missing"] = limit.where(frame["missing"] < 1)  # where all are missing, that is what is said
    frame["usual_missing"] = (limit * 0).where(frame["missing"] <= limit)
    frame["permitted_minimum"] = pd.Series([column.min for column in columns], dtype="float64")
    frame["permitted_maximum"] = pd.Series([column.max for column in columns], dtype="float64")
    return frame


@contextmanager
def _without_spark() -> Iterator[None]:
    """great-expectations imports Spark's Python package where it finds one, a part of which ends processes (`sys.exit(0)`)."""
    known = [name for name in sys.modules if name.partition(".")[0] == "pyspark"]
    hidden = {name: sys.modules.pop(name) for name in known}
    sys.modules["pyspark"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["pyspark"]
        sys.modules |= hidden


def _suite(frame: Any, contract: FeatureContract, settings: ExpectationSettings, min_rows: int) -> list[_Rule]:
    with _without_spark():
        import great_expectations.expectations as gxe
        from great_expectations.expectations.row_conditions import Column as Name

    profiled = {row["column"]: row for row in frame.to_dict("records")}
    single = [column.name for column in contract.columns if column.length is None]

    def each(phrase: Callable[[Any], str]) -> Said:
        return lambda places, _: [(place, f"{place} {phrase(profiled[place])}") for place in places]

    def no_rows(places: Sequence[str], _: Mapping[str, Any]) -> list[tuple[str, str]]:
        if len(places) == len(profiled):
            return [("", f"there are no rows, at least {min_rows} is wanted")]
        return [(place, f"{place} has no rows, at least {min_rows} is wanted") for place in places]

    def a_above_b(a: str, b: str, severity: str) -> Any:
        return gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A=a, column_B=b, or_equal=True, ignore_row_if="either_value_is_missing", severity=severity
        )

    def own(one: Expectation) -> _Rule:
        condition = Name("column") == one.column
        bounds = {"column": one.statistic, "min_value": one.min, "max_value": one.max, "row_condition": condition}
        expectation = gxe.ExpectColumnValuesToBeBetween(**bounds, severity=_GX_SEVERITY[one.severity])
        return _Rule(
            expectation,
            f"the {one.statistic} of {one.column}",
            lambda places, _: [(place, one.otherwise(float(profiled[place][one.statistic]))) for place in places],
        )

    return [
        _Rule(
            gxe.ExpectTableRowCountToEqual(value=len(single), severity="critical"),
            "whether every column is profiled",
            lambda *_: [(name, f"{name} is not there, or is no number") for name in single if name not in profiled],
        ),
        _Rule(
            gxe.ExpectColumnValuesToBeBetween(column="rows", min_value=min_rows, severity="critical"),
            "whether there are enough rows",
            no_rows,
        ),
        _Rule(
            a_above_b("permitted_missing", "missing", "critical"),
            "how many values are missing",
            each(lambda row: f"{_missing(row, settings.max_missing)} is allowed"),
        ),
        _Rule(
            gxe.ExpectColumnValuesToBeBetween(column="missing", max_value=1.0, strict_max=True, severity="critical"),
            "whether there is a value",
            each(lambda row: f"has no value in any of {row['rows']:,} rows, at least one is wanted"),
        ),
        _Rule(
            a_above_b("usual_missing", "missing", "warning"),
            "whether a value is missing",
            each(lambda row: f"{_missing(row, 0.0)} is expected"),
        ),
        _Rule(
            a_above_b("minimum", "permitted_minimum", "critical"),
            "the smallest values",
            each(
                lambda row: (
                    f"is {_number(row['minimum'], row['permitted_minimum'])} at the lowest, at least "
                    f"{_number(row['permitted_minimum'])} is permitted{_beyond(row, below=True)}"
                )
            ),
        ),
        _Rule(
            a_above_b("permitted_maximum", "maximum", "critical"),
            "the largest values",
            each(
                lambda row: (
                    f"is {_number(row['maximum'], row['permitted_maximum'])} at the highest, at most "
                    f"{_number(row['permitted_maximum'])} is permitted{_beyond(row, below=False)}"
                )
            ),
        ),
        *map(own, settings.own),
    ]


def _missing(row: Mapping[str, Any], limit: float) -> str:
    missing = row["nulls"] + row["nans"] + row["infinities"]
    said = f"at most {_share(limit)}" if limit else "none"
    return f"is missing in {missing:,} of {row['rows']:,} rows ({_share(row['missing'], limit)}), {said}"


def _beyond(row: Mapping[str, Any], *, below: bool) -> str:
    """In how many rows a column is beyond its limit, as exactly as the profile's histogram says it."""
    if "bins" not in row:
        return ""
    bins, counts = np.asarray(row["bins"], np.int64), np.asarray(row["counts"], np.int64)
    if row["category"]:
        least, most = np.where(bins == 0, -np.inf, bins), np.where(bins == FLOAT_BINS - 1, np.inf, bins)
        surely, maybe = (most < row["permitted_minimum"], least < row["permitted_minimum"])
        if not below:
            surely, maybe = (least > row["permitted_maximum"], most > row["permitted_maximum"])
    else:
        edges = np.append(float_edges(), np.nan)
        least, after = edges[bins], np.nan_to_num(edges[bins + 1], nan=np.inf)
        surely, maybe = (after <= row["permitted_minimum"], least < row["permitted_minimum"])
        if not below:
            surely, maybe = (least > row["permitted_maximum"], after > row["permitted_maximum"])
    low, high = max(int(counts[surely].sum()), 1), int(counts[maybe].sum())
    found = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f", in {found} of {row['rows']:,} rows ({_share(high / max(row['rows'], 1))}{'' if low == high else ' at most'})"


def _share(value: float, limit: float | None = None) -> str:
    """A share in percent, with as many digits as tell it from its limit."""
    digits = next((some for some in range(2, 12) if limit is None or f"{value:.{some}%}" != f"{limit:.{some}%}"), 12)
    return f"{value:.{digits}%}"


def _number(value: float, limit: float | None = None) -> str:
    """A number, with as many digits as tell it from its limit."""
    digits = next((some for some in range(6, 17) if limit is None or f"{value:.{some}g}" != f"{limit:.{some}g}"), 17)
    return f"{value:,.{digits}g}"


def _data_suite(contract: FeatureContract, settings: ExpectationSettings, min_rows: int) -> list[_Rule]:
    with _without_spark():
        import great_expectations.expectations as gxe

    keys, single = contract.identity, [column for column in contract.columns if column.length is None]
    aggregates = {
        "mean": gxe.ExpectColumnMeanToBeBetween,
        "minimum": gxe.ExpectColumnMinToBeBetween,
        "maximum": gxe.ExpectColumnMaxToBeBetween,
    }

    def rows(name: str, what: str, limit: str, most: float | None = None) -> Said:
        def said(places: Sequence[str], found: Mapping[str, Any]) -> list[tuple[str, str]]:
            wrong, of = found.get("unexpected_count", 0), max(found.get("element_count", 0), 1)
            first = f", first {in_words(keys)} {', '.join(places[:_SHOWN])}" if places else ""
            told = f"{name} {what} in {wrong:,} of {of:,} rows ({_share(wrong / of, most)}), {limit}{first}"
            return [("" if name in (*keys, in_words(keys)) else name, told)]

        return said

    def there(column: Column) -> _Rule:
        mostly = _A_VALUE if column.nullable else 1 - settings.max_missing
        expectation = gxe.ExpectColumnValuesToNotBeNull(column=column.name, mostly=mostly, severity="critical")
        most = settings.max_missing
        limit = "at least one value is wanted" if column.nullable else f"at most {_share(most)} is allowed"
        return _Rule(expectation, f"whether {column.name} is there", rows(column.name, "is missing", limit, most))

    def within(column: Column) -> _Rule:
        bounds = {"min_value": column.min, "max_value": column.max}
        expectation = gxe.ExpectColumnValuesToBeBetween(column=column.name, **bounds, severity="critical")
        limits = [f"below {_number(column.min)}"] if column.min is not None else []
        limits += [f"above {_number(column.max)}"] if column.max is not None else []
        said = rows(column.name, f"is {' or '.join(limits)}", "none is permitted")
        return _Rule(expectation, f"the values of {column.name}", said)

    def own(one: Expectation) -> _Rule:
        bounds = {"column": one.column, "min_value": one.min, "max_value": one.max}
        expectation = aggregates[one.statistic](**bounds, severity=_GX_SEVERITY[one.severity])
        about = f"the {one.statistic} of {one.column}"
        return _Rule(expectation, about, lambda _, found: [(one.column, one.otherwise(float(found["observed_value"])))])

    return [
        _Rule(
            gxe.ExpectTableRowCountToBeBetween(min_value=min_rows, severity="critical"),
            "whether there are enough rows",
            lambda *_: [("", f"there are no rows, at least {min_rows} is wanted")],
        ),
        _Rule(
            gxe.ExpectColumnValuesToBeUnique(column=keys[0], severity="critical")
            if len(keys) == 1
            else gxe.ExpectCompoundColumnsToBeUnique(column_list=list(keys), severity="critical"),
            f"whether {in_words(keys)} is unique",
            rows(in_words(keys), "is that of another row", "none is permitted"),
        ),
        *(
            _Rule(
                gxe.ExpectColumnValuesToNotBeNull(column=key, severity="critical"),
                f"whether {key} is there",
                rows(key, "is null", "none is permitted"),
            )
            for key in keys
        ),
        *map(there, single),
        *(within(column) for column in single if column.min is not None or column.max is not None),
        *(own(one) for one in settings.own if one.statistic in aggregates),
    ]


def _validate(frame: Any, rules: Sequence[_Rule], named_by: Sequence[str]) -> list[_Result]:
    """Run the suite; one finding per rule, in the suite's order. An expectation that raised has failed.

    Its places are where it does not hold: the values of the frame's columns `named_by`.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("profile").add_dataframe_asset("columns")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    for number, rule in enumerate(rules):
        rule.expectation.meta = {"rule": number}
    suite = gx.ExpectationSuite("features", expectations=[rule.expectation for rule in rules])
    answer = batch.validate(suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": list(named_by)})
    by_rule = {result.expectation_config.meta["rule"]: result for result in answer.results}
    return [_result(rule, by_rule[number], named_by) for number, rule in enumerate(rules)]


def _result(rule: _Rule, result: Any, named_by: Sequence[str]) -> _Result:
    severity: Literal["error", "warn"] = "warn" if str(rule.expectation.severity.value) == "warning" else "error"
    if result.success:
        return _Result(True, severity)
    places = tuple(in_words([place[name] for name in named_by]) for place in result.result.get("unexpected_index_list") or [])
    judged = places or result.result.get("observed_value") is not None
    told = rule.said(places, result.result) if judged else [("", f"{rule.about} could not be judged")]
    findings = (Finding(subject=subject, kind=rule.about, message=text, severity=severity) for subject, text in told)
    return _Result(False, severity, places, tuple(findings))


def _table(frame: Any, results: Sequence[_Result]) -> str:
    import pandas as pd

    offending = {name for result in results for name in result.places}
    rows = sorted(frame.to_dict("records"), key=lambda row: row["column"] not in offending)
    lines = ["| column | rows | missing | minimum | mean | maximum |", "|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        numbers = " | ".join("" if pd.isna(row[name]) else f"{row[name]:,.4g}" for name in ("minimum", "mean", "maximum"))
        lines.append(f"| {row['column']} | {row['rows']:,} | {row['missing']:.2%} | {numbers} |")
    return "\n".join(lines)
