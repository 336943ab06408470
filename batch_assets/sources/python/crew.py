"""A function on processes of its own: batches in the order of their keys -> what it makes of them, in the same order.

A batch goes there and comes back as the bytes of an Arrow stream. So many are under way at once that no process waits for the
next one, and no more.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from batch_assets.errors import SourceError
from batch_assets.features.keys import in_words
from batch_assets.sources.closed import require_keys
from batch_assets.sources.python.call import Failed, Key, Made, as_stream, call, end_with_parent, key_of, out_of_order

_UNDER_WAY = 2
"""Batches for each process: the one that it computes, and the next."""


@contextmanager
def applied(
    function: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, keys: Sequence[str], workers: int
) -> Iterator[pa.RecordBatchReader]:
    """What a function makes of batches, one after the other, within the block.

    Args:
        function: `package.module:name`; a batch without rows is the first that it is given, which says what columns it makes.
        batches: in ascending order of their keys.
        schema: theirs.
        keys: the columns of a key, which must be there in ascending order afterwards, too.
        workers: how many processes there are.

    Raises:
        SourceError: on entering or while rows are read: the function raises, or gives no batch, a batch of other columns or
            rows in another order; or a process ends.
    """
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        crew = _Crew(function, tuple(keys), pool, workers)
        try:
            (none,) = crew.made_of([pa.RecordBatch.from_pylist([], schema=schema)])
            require_keys(function, none.schema.names, keys)
            yield pa.RecordBatchReader.from_batches(none.schema, crew.alike(none.schema, batches))
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Crew:
    """Processes that apply one function."""

    function: str
    keys: tuple[str, ...]
    pool: ProcessPoolExecutor
    workers: int

    def alike(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """What the function makes of batches, all of one schema."""
        for batch in self.made_of(batches):
            if batch.schema != schema:
                raise SourceError(
                    f"{self.function} gives {_columns(batch.schema)} for some rows and {_columns(schema)} for a batch without "
                    "rows; give the same columns of the same types always, as by RecordBatch.from_arrays with a schema."
                )
            yield batch

    def made_of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """What the function makes of batches, in their order."""
        last: Key | None = None
        for first, made in self._answers(batches):
            if isinstance(made, Failed):
                raise SourceError(f"{self.function} fails on {_batch(first)}: {made.reason}.")
            if made.ends is not None:
                if last is not None and _descends(last, made.ends[0]):
                    raise SourceError(f"{self.function} fails on {_batch(first)}: {out_of_order(self.keys)}.")
                last = made.ends[1]
            yield from pa.ipc.open_stream(pa.py_buffer(made.stream))

    def _answers(self, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[Key | None, Made | Failed]]:
        """The key of each batch's first row, and what became of the batch."""
        under_way = deque[tuple[Key | None, Future[Made | Failed]]]()
        first: Key | None = None
        try:
            for batch in batches:
                first = key_of(batch, self.keys, 0) if batch.num_rows else None
                under_way.append((first, self.pool.submit(call, self.function, self.keys, as_stream(batch))))
                if len(under_way) >= _UNDER_WAY * self.workers:
                    first, future = under_way.popleft()
                    yield first, future.result()
            while under_way:
                first, future = under_way.popleft()
                yield first, future.result()
        except BrokenProcessPool:
            raise SourceError(
                f"A process of {self.function} ended while {_batch(first)}, or one near it, was computed; look whether it ends "
                "itself, or needs more memory than there is (then say fewer workers or batch_rows)."
            ) from None


def _descends(one: Key, next_one: Key) -> bool:
    """Whether a key is behind the one that follows it; of a key that is null nobody can say."""
    values = (*one, *next_one)
    return None not in values and one > next_one


def _batch(first: Key | None) -> str:
    return f"the batch that begins with the key {in_words(first)}" if first else "a batch without rows"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
