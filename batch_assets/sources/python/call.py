"""What a process of the crew does: a batch as the bytes of an Arrow stream -> what the function makes of it, as such bytes.

It loads Arrow and what the function needs, and no more: each process waits for that.
"""

import importlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import wait
from threading import Thread

import pyarrow as pa
import pyarrow.compute as pc

Key = tuple[object, ...]
"""The values of a row's key columns."""


@dataclass(frozen=True)
class Made:
    """What the function made of a batch, and the keys of its first and last row, if there are any."""

    stream: bytes
    ends: tuple[Key, Key] | None


@dataclass(frozen=True)
class Failed:
    """Why the function made nothing of a batch."""

    reason: str


def end_with_parent() -> None:
    """End this process when the one that started it ends, however that ends: nobody else would tell it."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel] if parent else [])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def call(function: str, keys: tuple[str, ...], stream: bytes) -> Made | Failed:
    """The function `package.module:name`, applied to one batch; what it makes must be in ascending order of the keys."""
    with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
        batch = reader.read_next_batch()
    try:
        made = _imported(function)(batch)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code runs here; what it raised is told of
        said = " ".join(str(error).split())
        return Failed(f"{type(error).__name__}: {said}".rstrip(".: "))
    if not isinstance(made, pa.RecordBatch):
        return Failed(f"it gives a {type(made).__name__}, and must give a pyarrow.RecordBatch")
    if not made.num_rows or not set(keys) <= set(made.schema.names):
        return Made(as_stream(made), None)
    if not _ascends(made, keys):
        return Failed(out_of_order(keys))
    return Made(as_stream(made), (key_of(made, keys, 0), key_of(made, keys, made.num_rows - 1)))


def as_stream(batch: pa.RecordBatch) -> bytes:
    """A batch and its schema."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def key_of(batch: pa.RecordBatch, keys: Sequence[str], row: int) -> Key:
    """The key of one row."""
    return tuple(batch.column(name)[row].as_py() for name in keys)


def out_of_order(keys: Sequence[str]) -> str:
    """What is said of a function that does not keep the order of keys."""
    return f"it gives rows in another order of {', '.join(keys)} than it was given, and must keep it"


@cache
def _imported(function: str) -> Callable[[pa.RecordBatch], object]:
    module, _, name = function.partition(":")
    found: Callable[[pa.RecordBatch], object] = getattr(importlib.import_module(module), name)
    return found


def _ascends(batch: pa.RecordBatch, keys: Sequence[str]) -> bool:
    """Whether rows are where a stable sort by their keys would put them."""
    places = pc.sort_indices(batch.select(list(keys)), sort_keys=[(name, "ascending") for name in keys])
    return bool(places.equals(pa.array(range(batch.num_rows), pa.uint64())))
