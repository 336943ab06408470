"""Functions that a python source applies in tests, in processes of its own."""

import os
from pathlib import Path
from threading import Event

import pyarrow as pa
import pyarrow.compute as pc


class Refused(Exception):
    """One that does not come through a pickle."""

    def __init__(self, user: int, why: str) -> None:
        super().__init__(f"{user} is refused:\n{why}")


def same(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch


def words(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.append_column("words", pc.list_value_length(pc.split_pattern(batch["text"], " ")))


def twice_and_odd(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows with an odd number, twice."""
    odd = batch.filter(pc.equal(pc.bit_wise_and(batch["user"], 1), 1))
    return odd.take(pa.array([place for place in range(len(odd)) for _ in range(2)], pa.int64()))


def process(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.append_column("process", pa.array([os.getpid()] * len(batch), pa.int64()))


def length(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.append_column("length", pa.array([len(batch)] * len(batch), pa.int64()))


def raises(batch: pa.RecordBatch) -> pa.RecordBatch:
    if 7 in batch["user"].to_pylist():
        raise Refused(7, "it is odd")
    return batch


def leaves(batch: pa.RecordBatch) -> pa.RecordBatch:
    raise SystemExit(3)


def dies(batch: pa.RecordBatch) -> pa.RecordBatch:
    if 7 in batch["user"].to_pylist():
        os._exit(1)
    return batch


def waits(batch: pa.RecordBatch) -> pa.RecordBatch:
    """For ever, once it has begun with rows, which a file says then."""
    if batch.num_rows:
        Path(os.environ["BEGUN"]).touch()
        Event().wait()
    return batch


def other_types(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.append_column("sum", pa.array(batch["user"].to_pylist()))  # of no rows it is null


def backwards(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.take(pa.array(range(len(batch))[::-1], pa.int64()))


def negative(batch: pa.RecordBatch) -> pa.RecordBatch:
    """In order within each batch."""
    return batch.set_column(0, "user", pc.negate(batch["user"])).sort_by("user")


def without_key(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.drop_columns(["user"])


def table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])
