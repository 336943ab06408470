"""The embedded table beside a bare binary search over the same memory, in the same run.

    python benchmarks/embedded_table.py [--rows 20000000] [--keys int] [--folder FOLDER]
    python benchmarks/embedded_table.py --swap 200 [--processes 4] [--reads 10000000]

Made-up keys, whole numbers (`int`) or texts of 8 to 36 bytes (`text`), with records of 6 bytes (a probability, a decile, a
label), brought in chunks of 131,072 rows as a night brings them. The bare search knows nothing of releases: it finds the batch
and the row, and reads the three fields. Both are asked for keys that are there, in alternation; a median is the least of three
rounds. With `--swap`, processes look keys up so many times while so many releases go live one after another and older ones are
pruned; an error of any of them ends it. What single look-ups took is said of those before the first swap, too. Not compared:
other stores, cold disks, what a command or a server needs around a look-up.
"""

import argparse
import statistics
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent.parent))

from batch_assets.digest import Digest, hash_keys
from batch_assets.features.keys import Key
from batch_assets.records import RecordField, Records, RecordType
from batch_assets.runs.model_pin import ModelPin
from batch_assets.serving.arrow_file import ArrowFile
from batch_assets.serving.arrow_store import ArrowStore, schema_of
from batch_assets.serving.build import require_equal
from batch_assets.serving.store import Batch, Release
from batch_assets.storage import LocalStorage
from batch_assets_tests.serving.swapping import swapped

CHUNK_ROWS, ASKED, AT_ONCE = 131_072, 100_000, 10_000
RECORD = RecordType(
    fields=(
        RecordField(name="probability", dtype="f4"),
        RecordField(name="decile", dtype="i1"),
        RecordField(name="label", dtype="i1", names=("no", "yes")),
    ),
    score="probability",
)


def made_up(rows: int, kind: str) -> list[Batch]:
    """Keys in ascending order with gaps, numbers of them even, and random records, in chunks."""
    random, found = np.random.default_rng(1), []
    every = np.cumsum(random.integers(1, max((1 << 32) // rows, 2), rows))
    for start in range(0, rows, CHUNK_ROWS):
        some = every[start : start + CHUNK_ROWS]
        scores = random.random(len(some), dtype=np.float32)
        columns = {"probability": scores, "decile": (scores * 10).astype(np.int8), "label": (scores * 2).astype(np.int8)}
        found.append((pa.array(2 * some) if kind == "int" else texts(some, random), Records(RECORD, columns)))
    return found


def texts(numbers: np.ndarray, random: np.random.Generator) -> pa.Array:
    """Texts of 8 to 36 bytes in the order of some numbers: their eight hexadecimal digits, and random letters."""
    digits, shifts = np.frombuffer(b"0123456789abcdef", dtype=np.uint8), np.arange(28, -1, -4)
    lengths = random.integers(8, 37, len(numbers))
    letters = random.integers(ord("a"), ord("z") + 1, (len(numbers), 36), dtype=np.uint8)
    letters[:, :8] = digits[(numbers[:, None] >> shifts) & 15]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    data = letters[np.arange(36) < lengths[:, None]]
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(data))


def release_of(batches: list[Batch]) -> Release:
    """What a run would say of them."""
    values = Digest()
    for keys, records in batches:
        values = values + hash_keys(keys).with_values(records.flat()).digest()
    return Release(
        name="2024-03-10-0123456789abcdef",
        pipeline="benchmark",
        partition="2024-03-10",
        run_id="0123456789abcdef",
        snapshot="0" * 16,
        model=ModelPin(name="made up", version="v1", digest="0", sha256="0"),
        key=(Key(name="user", dtype="int64" if pa.types.is_integer(batches[0][0].type) else "string"),),
        record=RECORD,
        rows=values.count,
        values=values,
        store=ArrowStore(),
    )


def bare(file: ArrowFile) -> Callable[[Any], tuple[Any, ...]]:
    """A binary search over the file's memory and nothing else."""
    firsts, batches = file.firsts, [file.batch(number) for number in range(len(file))]
    fields = [[column.buffers()[-1] for column in batch.columns[1:]] for batch in batches]
    scores, deciles, labels = (
        [memoryview(one).cast(code) for one in column] for column, code in zip(zip(*fields, strict=True), "fbb", strict=True)
    )
    if pa.types.is_integer(file.schema.field(0).type):
        keys = [memoryview(batch.column(0).buffers()[1]).cast("q") for batch in batches]

        def number_found(key: int) -> tuple[Any, ...]:
            at = bisect_right(firsts, key) - 1
            row = bisect_left(keys[at], key)
            return scores[at][row], deciles[at][row], labels[at][row]

        return number_found
    offsets = [memoryview(batch.column(0).buffers()[1]).cast("i") for batch in batches]
    data = [memoryview(batch.column(0).buffers()[2]) for batch in batches]

    def text_found(key: str) -> tuple[Any, ...]:
        sought = key.encode()
        at = bisect_right(firsts, sought) - 1
        ends, text = offsets[at], data[at]
        low, high = 0, len(ends) - 1
        while low < high:
            middle = (low + high) >> 1
            if text[ends[middle] : ends[middle + 1]].tobytes() < sought:
                low = middle + 1
            else:
                high = middle
        return scores[at][low], deciles[at][low], labels[at][low]

    return text_found


def clocked(ask: Callable[[Any], object], keys: list[Any]) -> tuple[float, float]:
    """Microseconds of one look-up: the median and what 99 of 100 need at most."""
    taken, clock = [], time.perf_counter_ns
    for key in keys:
        started = clock()
        ask(key)
        taken.append(clock() - started)
    median, most = np.percentile(taken, [50, 99]) / 1_000
    return float(median), float(most)


def seconds(do: Callable[[], object]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def measure(folder: Path, rows: int, kind: str) -> dict[str, str]:
    """Build a release, read it back, ask it: figures by their names."""
    batches = made_up(rows, kind)
    storage, release, store = LocalStorage(str(folder)), release_of(batches), ArrowStore()
    started = time.perf_counter()
    release = release.model_copy(update={"built": store.build(storage, release, batches)})
    built = time.perf_counter() - started
    verified = seconds(lambda: require_equal(storage, release))
    size = int(release.built["size"])
    least = sum(keys.nbytes + len(keys) * RECORD.dtype.itemsize for keys, _ in batches)
    opened = statistics.median(seconds(lambda: store.open(storage, release)) for _ in range(20))
    random, every = np.random.default_rng(2), pa.chunked_array([keys for keys, _ in batches])
    asked = every.take(pa.array(random.integers(0, rows, ASKED))).to_pylist()
    table = store.open(storage, release)
    first = seconds(lambda: table.get(asked[0]))
    search = bare(ArrowFile(next(folder.rglob(store.file)), schema_of(release), release.built))
    clocked(search, asked), clocked(table.get, asked)  # whatever is touched from now on was touched before
    rounds = [(clocked(search, asked), clocked(table.get, asked)) for _ in range(3)]
    (least_half, least_most), (half, most) = (np.min(one, axis=0) for one in zip(*rounds, strict=True))
    groups = [asked[start : start + AT_ONCE] for start in range(0, ASKED, AT_ONCE)]
    many = AT_ONCE / min(seconds(partial(table.get_many, group)) for group in groups for _ in range(3))
    strangers = [f"{key}~" if isinstance(key, str) else key + 1 for key in asked]
    missed, _ = clocked(table.get, strangers)
    return {
        "build, synced": f"{rows / built:,.0f} rows/s",
        "read back and compared": f"{rows / verified:,.0f} rows/s",
        "both": f"{rows / (built + verified):,.0f} rows/s",
        "size": f"{size / 1e6:,.0f} MB",
        "size : key and record (and offset of a text)": f"{size / least:.4f}",
        "open": f"{opened * 1e3:.1f} ms",
        "first look-up in a batch": f"{first * 1e3:.1f} ms",
        "bare search, median and 99 %": f"{least_half:.2f} us, {least_most:.2f} us",
        "get, median and 99 %": f"{half:.2f} us, {most:.2f} us",
        "get : bare search, medians": f"{half / least_half:.2f}",
        "get of a key that is not there, median": f"{missed:.2f} us",
        f"get_many of {AT_ONCE:,} keys, best of {3 * len(groups)}": f"{many:,.0f} keys/s",
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--keys", choices=["int", "text"], default="int")
    parser.add_argument("--folder", type=Path, help="Where the release is built; by default a temporary folder.")
    parser.add_argument("--swap", type=int, metavar="RELEASES")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--reads", type=int, default=1_000_000, help="of all processes together, at least")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.swap:
            found = swapped(Path(folder), options.swap, options.processes, 20_000, options.reads)
            print("\n".join(f"{what}: {number:,}" for what, number in found.items()))
            return
        print(f"{options.rows:,} keys ({options.keys}), records of {RECORD.dtype.itemsize} bytes")
        for name, value in measure(Path(folder), options.rows, options.keys).items():
            print(f"{name:<48}{value:>22}")


if __name__ == "__main__":
    main()
