"""Rows that somebody sends -> their records, as a night scores a chunk: the same inputs, shapes and head, so the same bits."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from batch_assets.errors import NotScored
from batch_assets.features.contract import Column, FeatureContract
from batch_assets.scoring.forward import ForwardPass, Predictor
from batch_assets.scoring.heads.head import Head
from batch_assets.scoring.inputs import SHAPE, Staging
from batch_assets.scoring.settings import Exclusion

Row = tuple[object, ...]
"""The features of a row, in the contract's order, as the contract permits them."""


class RowScorer:
    """Scores rows with one predictor; not for several threads at a time.

    scorer = RowScorer(card.contract, card.head, predictor)
    (record,) = scorer([permitted(card.contract, {"orders": 3, "amount": 41.5})])
    """

    def __init__(self, contract: FeatureContract, head: Head, predictor: Predictor, exclude: Sequence[Exclusion] = ()) -> None:
        self._contract, self._head, self._predictor, self._exclude = contract, head, predictor, tuple(exclude)

    def __call__(self, rows: list[Row]) -> list[np.void | NotScored]:
        """The record of each row, or why it has none, in their order. The model's own errors are those of single rows."""
        table = pa.table(
            [pa.array([row[place] for row in rows], arrow_type(column)) for place, column in enumerate(self._contract.columns)],
            names=self._contract.names,
        )
        staged = Staging(self._contract, len(rows)).fill(table)
        why: dict[int, str] = {}
        scored = np.ones(len(rows), dtype=bool)
        for rule in self._exclude:
            out = rule.applies(staged.scalars[rule.column]) & scored
            why |= dict.fromkeys(np.flatnonzero(out).tolist(), f"it is excluded, {rule.reason}")
            scored &= ~out
        if staged.faults:
            faulty = np.logical_or.reduce([mask for _, mask in staged.faults]) & scored
            why |= staged.reasons(faulty)
            scored &= ~faulty
        shape = -(-len(rows) // SHAPE) * SHAPE
        passed = ForwardPass(self._predictor, self._head.width, shape, max_failed=1.0)(staged, scored, "a request")
        records = self._head.records(passed.logits)
        why |= {place: f"the model raises on it, {said}" for place, said in passed.raised.items()}
        for place in np.flatnonzero(np.isnan(records.score)).tolist():
            why.setdefault(place, self._head.why_not(passed.logits[:, place]))
        packed = records.packed()
        return [_not_scored(why[place]) if place in why else packed[place] for place in range(len(rows))]


def permitted(contract: FeatureContract, features: Mapping[str, object]) -> Row:
    """Features that somebody sent, in the contract's order.

    Raises:
        NotScored: says everything that the contract does not permit about them.
    """
    wrong = [f"{name} is missing" for name in contract.names if name not in features]
    wrong += [f"{name} is no feature" for name in features if name not in contract.names]
    wrong += [
        phrase for column in contract.columns if column.name in features and (phrase := _wrong(column, features[column.name]))
    ]
    if wrong:
        raise _not_scored("; ".join(wrong))
    return tuple(features[column.name] for column in contract.columns)


def arrow_type(column: Column) -> pa.DataType:
    """The type of a column in a table of features."""
    single = pa.type_for_alias(column.dtype)
    if column.length is None:
        return single
    return pa.list_(single, column.length) if isinstance(column.length, int) else pa.list_(single)


def _wrong(column: Column, value: object) -> str:
    """What is not permitted about a value, as a phrase; nothing if it is permitted."""
    if value is None:
        return "" if column.nullable else f"{column.name} must not be missing"
    if column.length is None:
        return _wrong_number(column, column.name, value)
    if not isinstance(value, list):
        return f"{column.name} must be a list"
    if isinstance(column.length, int) and len(value) != column.length:
        return f"{column.name} must have {column.length} numbers, not {len(value)}"
    found = (_wrong_number(column, f"{column.name}[{place}]", one) for place, one in enumerate(value))
    return next(filter(None, found), "")


def _wrong_number(column: Column, name: str, value: object) -> str:
    if column.dtype == "bool":
        return "" if isinstance(value, bool) else f"{name} must be true or false"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{name} must be a number"
    if not column.dtype.startswith("float"):
        least, most = np.iinfo(column.dtype).min, np.iinfo(column.dtype).max
        if not isinstance(value, int) or not least <= value <= most:
            return f"{name} must be a whole number from {least} to {most}"
    elif not math.isfinite(value) or abs(value) > float(np.finfo(column.dtype).max):
        return f"{name} must be a finite {column.dtype}"
    if column.min is not None and value < column.min:
        return f"{name} is {value:g}, at least {column.min:g} is permitted"
    if column.max is not None and value > column.max:
        return f"{name} is {value:g}, at most {column.max:g} is permitted"
    return ""


def _not_scored(why: str) -> NotScored:
    return NotScored(f"This row is not scored: {why}.")
