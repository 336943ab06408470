"""Tries a model before it is registered, as a night will: on rows that its contract permits, in shapes that a night uses.

A night gives the same rows to a model in batches of several sizes, in other orders and among other rows: the last batch is
padded, faulty rows are replaced, an audit and a replay score single rows again. So a row's outputs may depend on it alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_assets.errors import ModelMisfit
from batch_assets.features.contract import Column
from batch_assets.models.card import Card
from batch_assets.models.permitted import permitted_rows
from batch_assets.scoring.forward import Logits, Predictor
from batch_assets.scoring.inputs import SHAPE, SHORTEST_BUCKET, Array, Batch, Staging
from batch_assets.scoring.poison import few, first_line
from batch_assets.scoring.settings import DEFAULT_BATCH_ROWS, ScoringSettings

_RAISED = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError)
"""What a model may raise on a row or a shape."""

_RELATIVE, _ABSOLUTE = 1e-4, 1e-5
"""By how much outputs may differ where other kernels compute them; the absolute one is a share of usual outputs."""

_DYNAMIC = "export it with a dynamic number of rows, and of elements of its lists, as export_model does"


def check_model(model: bytes, card: Card, name: str, rows: pa.Table | None = None) -> tuple[str, ...]:
    """Load a model file as a night does and try it; gives what does not hinder it and should be known, as sentences.

    Args:
        model: the model file.
        card: what it says of itself.
        name: for messages.
        rows: features to try it on; by default rows that the contract permits, spread as the card says.

    Raises:
        ModelMisfit: it does not take the contract's columns or give what its card says, or a row's outputs depend on other
            rows, on chance, or on what ran before.
        ModelChanged: what it needs beside the file is not what its card names.
        UnsafeModel: the file is damaged, is no model, or would run what it brings along.
    """
    runtime = card.runtime
    predictor, reference = runtime.load(model, name), runtime.reference(model, name)
    runtime.check(reference, card.contract, name)
    trial = Trial(predictor, card, name, rows)
    notes = trial()
    (ours,) = predictor.forward([trial.passes[0]])
    try:
        (theirs,) = reference.forward([trial.passes[0]])
    except _RAISED as error:
        raise ModelMisfit(f"{name} takes only the shapes that it was exported with ({_said(error)}): {_DYNAMIC}.") from error
    runtime.require_same(ours, theirs, name)
    return notes


class Trial:
    """One model and the rows that it is tried on; raises ModelMisfit, or gives what should be known.

    `passes` are the batches of the smallest shape, each the model's inputs of shape (width, rows).
    """

    def __init__(self, predictor: Predictor, card: Card, name: str, rows: pa.Table | None = None) -> None:
        self._predictor, self._card, self._name = predictor, card, name
        self._real = rows is not None
        table = permitted_rows(card.contract, card.features or {}) if rows is None else rows
        self._staged = Staging(card.contract, len(table)).fill(table)
        self._rows = np.ones(len(table), dtype=bool)
        for _, mask in self._staged.faults:
            self._rows &= ~mask
        if not self._rows.any():
            raise ModelMisfit(f"{name} cannot be tried: not one of the {len(table):,} rows is permitted by its contract.")
        self._notes: list[str] = []
        self.passes: list[tuple[Array, ...]] = []

    def __call__(self) -> tuple[str, ...]:
        """Try everything. Raises ModelMisfit."""
        batches, found = self._first()
        self.passes = [self._staged.arrays(batch) for batch in batches]
        self._repeat(found)
        self._among_others(found)
        self._in_large_batches(batches, found)
        self._padded_further(found)
        values = np.concatenate([one[:, batch.slots] for batch, one in zip(batches, found, strict=True)], axis=1)
        self._finite(values)
        seen = self._card.head.misfit(values)
        if seen:
            raise ModelMisfit(f"{self._name} does not fit its card: {seen}.{self._on_real_rows()}")
        self._without_effect(found)
        return tuple(self._notes)

    def _forward(self, arrays: tuple[Array, ...]) -> Logits:
        """Outputs of one batch, of the shape that the card says. Raises ModelMisfit, and what the model raises."""
        before = [array.copy() for array in arrays]
        try:
            (found,) = self._predictor.forward([arrays])
        except RuntimeError as error:
            if self._predictor.out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise
        rows, head = arrays[0].shape[1], self._card.head
        if found.shape != (head.width, rows):
            raise ModelMisfit(f"{self._unfit()}: it gives {head.unlike(len(found))}.")
        if not all(np.array_equal(one, copy, equal_nan=True) for one, copy in zip(arrays, before, strict=True)):
            raise ModelMisfit(f"{self._name} writes into its inputs: copy them before changing them in place.")
        return found

    def _first(self) -> tuple[list[Batch], list[Logits]]:
        """The batches of the smallest shape and what the model gives for them, without rows that it may raise on."""
        batches = self._staged.batches(self._rows, SHAPE)
        with self._card.runtime.seeded(0):
            try:
                return batches, [self._forward(self._staged.arrays(batch)) for batch in batches]
            except _RAISED as error:
                self._explain(batches, error)
        batches = self._staged.batches(self._rows, SHAPE)
        with self._card.runtime.seeded(0):
            return batches, [self._forward(self._staged.arrays(batch)) for batch in batches]

    def _explain(self, batches: list[Batch], error: Exception) -> None:
        """Leave out the rows that the model raises on if a night can do without them. Raises ModelMisfit if it cannot."""
        large = self._staged.batches(self._rows, DEFAULT_BATCH_ROWS)
        if not any(self._raised(batch) for batch in large):
            raise ModelMisfit(
                f"{self._name} takes {large[0].size:,} rows at once, but not {SHAPE} ({_said(error)}), and a night's batches "
                f"have several sizes: {_DYNAMIC}."
            ) from error
        bad = [
            int(row)
            for batch in batches
            if self._raised(batch)
            for number, row in enumerate(batch.rows)
            if self._raised(batch.take(slice(number, number + 1)))
        ]
        if len(bad) == self._rows.sum():
            raise ModelMisfit(
                f"{self._unfit()} ({_said(error)}): it must take its contract's inputs, in batches of {SHAPE} rows and more."
            ) from error
        lengths = self._lengths()
        empty = [row for row in bad if lengths is not None and lengths[row].min() == 0]
        rest = len(bad) - len(empty)
        if bad and (
            not rest or (self._real and rest <= few(len(self._rows), ScoringSettings.model_fields["max_failed"].default))
        ):
            what = "an empty list" if empty and not rest else f"{len(bad):,} of the {len(self._rows):,} rows"
            self._notes.append(f"{self._name} raises on {what} ({_said(error)}): such rows become dead letters.")
            self._rows[bad] = False
            return
        shortest = min(int(lengths[row].max()) for row in bad) if bad and lengths is not None else 0
        where = f" with lists of {shortest:,} items or more" if shortest > SHORTEST_BUCKET else ""
        raise ModelMisfit(
            f"{self._name} raises on {len(bad) or len(self._rows):,} of {self._rows.sum():,} rows that its contract permits"
            f"{where} ({_said(error)}): let its min, max, categories and max_length permit what the model takes, and no more."
        ) from error

    def _repeat(self, found: list[Logits]) -> None:
        with self._card.runtime.seeded(1):
            other = [self._forward(arrays) for arrays in self.passes]
        if _same(found, other):
            return
        with self._card.runtime.seeded(0):
            again = [self._forward(arrays) for arrays in self.passes]
        why = (
            "it draws random numbers, as a dropout in train mode does: call eval() before exporting it"
            if _same(found, again)
            else "it keeps state from one call to the next: let it compute from its inputs alone"
        )
        raise ModelMisfit(f"{self._name} gives other values the second time: {why}.")

    def _among_others(self, found: list[Logits]) -> None:
        """The same rows in another order, then among other rows."""
        random = np.random.default_rng(1)
        same = True
        for arrays, expected in zip(self.passes, found, strict=True):
            order = random.permutation(arrays[0].shape[1])
            values = self._forward(_taken(arrays, order))
            if self._differ(values, expected[:, order]):
                raise ModelMisfit(
                    f"{self._name} gives a row other values in another place of the batch: it takes rows for steps in time, as "
                    "a recurrent network or an attention without batch_first=True does, or adds something by position."
                )
            same = same and np.array_equal(values, expected[:, order], equal_nan=True)
            for kept in (random.random(len(order)) < 0.5, np.arange(len(order)) == order[0]):
                stand_in = int(np.argmax(kept))  # as a night does: rows that must not be scored are replaced by one that is
                values = self._forward(_taken(arrays, np.where(kept, np.arange(len(order)), stand_in)))
                if self._differ(values[:, kept], expected[:, kept]):
                    raise ModelMisfit(f"{self._name} gives a row other values among other rows: {_across_rows(found)}.")
                same = same and np.array_equal(values[:, kept], expected[:, kept], equal_nan=True)
        if not same:
            self._notes.append(
                f"{self._name} gives a row other last bits in another place of the batch: an audit compares bits and may fail."
            )

    def _in_large_batches(self, batches: list[Batch], found: list[Logits]) -> None:
        values = np.full((self._card.head.width, len(self._rows)), np.nan, dtype=np.float32)
        for batch, one in zip(batches, found, strict=True):
            values[:, batch.rows] = one[:, batch.slots]
        for batch in self._staged.batches(self._rows, DEFAULT_BATCH_ROWS):
            try:
                large = self._forward(self._staged.arrays(batch))
            except _RAISED as error:
                raise ModelMisfit(
                    f"{self._name} takes {SHAPE} rows at once, but not {batch.size:,} ({_said(error)}), and a night's batches "
                    f"have several sizes: {_DYNAMIC}."
                ) from error
            if self._differ(large[:, batch.slots], values[:, batch.rows]):
                raise ModelMisfit(
                    f"{self._name} gives a row other values in a batch of {batch.size:,} than in one of {SHAPE}: "
                    f"{_across_rows(found)}."
                )

    def _padded_further(self, found: list[Logits]) -> None:
        """A list is padded as far as its own bucket goes, which was another length when the model was trained."""
        inputs = self._card.contract.inputs
        for arrays, expected in zip(self.passes, found, strict=True):
            longer = []
            for one, array in zip(inputs, arrays, strict=True):
                length = min(2 * len(array), one.max_length) if one.name in self._staged.sequences else len(array)
                rest = np.full((length - len(array), array.shape[1]), one.pad, dtype=array.dtype)
                longer.append(np.concatenate([array, rest]))
            if all(len(one) == len(array) for one, array in zip(longer, arrays, strict=True)):
                continue
            if self._differ(self._forward(tuple(longer)), expected):
                raise ModelMisfit(
                    f"{self._name} gives a row other values if its lists are padded further, as it cannot tell "
                    "what pads them: let it mask the value pad, or declare a list of fixed length and pad it in the query."
                )

    def _finite(self, values: Logits) -> None:
        rows = values.shape[1]
        bad = int((~np.isfinite(values).all(axis=0)).sum())
        if bad == rows:
            raise ModelMisfit(
                f"{self._name} gives no finite value for any of {rows:,} rows that its contract permits: give the columns the "
                f"min and max that they have.{self._on_real_rows()}"
            )
        if bad:
            self._notes.append(
                f"{self._name} gives no finite value for {bad:,} of {rows:,} rows that its contract permits: such rows become "
                "dead letters."
            )

    def _without_effect(self, found: list[Logits]) -> None:
        """Note the columns that change nothing: what one row has in them is given to the next."""
        if all((values == found[0][:, :1]).all() for values in found):
            return  # of none has any, which a person has confirmed
        idle = []
        for number, model_input in enumerate(self._card.contract.inputs):
            columns = self._card.contract.columns_of(model_input.name)
            dead = [column.name for column, place in _places(columns) if not self._has_effect(number, place, found)]
            idle += [f"the whole input {model_input.name}"] if len(dead) == len(columns) > 1 else dead
        if idle:
            named = ", ".join(idle[:8]) + (f" and {len(idle) - 8} more" if len(idle) > 8 else "")
            self._notes.append(
                f"{self._name} gives the same whatever is in {named}: is it trained without it, or was the export given one "
                "tensor for two inputs?"
            )

    def _has_effect(self, number: int, place: slice, found: list[Logits]) -> bool:
        """Whether a column changes an output; it counts as having an effect if all rows have the same in it."""
        varies = False
        for arrays, expected in zip(self.passes, found, strict=True):
            other = arrays[number].copy()
            other[place] = np.roll(other[place], 1, axis=1)
            if np.array_equal(other, arrays[number], equal_nan=True):
                continue
            varies = True
            changed = tuple(other if index == number else array for index, array in enumerate(arrays))
            try:
                values = self._forward(changed)
            except _RAISED:
                return True
            if not np.array_equal(values, expected, equal_nan=True):
                return True
        return not varies

    def _differ(self, values: Logits, expected: Logits) -> bool:
        """Whether outputs differ by more than other kernels explain, if there are any."""
        if self._card.runtime.any_shape:
            return not np.array_equal(values, expected, equal_nan=True)
        finite = np.abs(expected[np.isfinite(expected)])
        usual = max(float(np.quantile(finite, 0.9)) if len(finite) else 0.0, self._card.head.usual)
        return not np.allclose(values, expected, rtol=_RELATIVE, atol=_ABSOLUTE * usual, equal_nan=True)

    def _raised(self, batch: Batch) -> bool:
        try:
            self._forward(self._staged.arrays(batch))
        except _RAISED:
            return True
        return False

    def _lengths(self) -> npt.NDArray[np.int64] | None:
        """How many elements each row's lists have, shape (rows, lists)."""
        lists = list(self._staged.sequences.values())
        return np.stack([np.diff(one.offsets) for one in lists], axis=1) if lists else None

    def _unfit(self) -> str:
        return f"{self._name} does not map {len(self._card.contract.columns)} columns to {self._card.head.spoken} a row"

    def _on_real_rows(self) -> str:
        return "" if self._real else " To try it on the rows of a day: models register … --baseline PIPELINE DAY."


def _places(columns: Sequence[Column]) -> Iterator[tuple[Column, slice]]:
    """Each column of an input and its rows of the input's matrix."""
    position = 0
    for column in columns:
        width = column.length if isinstance(column.length, int) else 1
        yield column, slice(None) if column.length == "variable" else slice(position, position + width)
        position += width


def _taken(arrays: tuple[Array, ...], rows: npt.NDArray[np.intp]) -> tuple[Array, ...]:
    """Some rows of a batch, in C order as a night's batches are."""
    return tuple(array[:, rows].copy(order="C") for array in arrays)


def _same(found: list[Logits], other: list[Logits]) -> bool:
    return all(np.array_equal(one, two, equal_nan=True) for one, two in zip(found, other, strict=True))


def _across_rows(found: list[Logits]) -> str:
    """The likely cause of outputs that depend on other rows."""
    if all(np.allclose(values.sum(axis=1), 1, atol=1e-3) for values in found):
        return "it takes a softmax over dim 0, the rows, instead of dim 1, the classes"
    return (
        "it computes with statistics of the batch, as a BatchNorm in train mode does (call eval() before exporting it), takes "
        "a softmax or a mean over dim 0, or lets rows attend to each other (batch_first=True)"
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
