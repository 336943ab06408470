"""Processes that look keys up while one release after another goes live and older ones are pruned, for tests and benchmarks."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from batch_assets.digest import Digest
from batch_assets.errors import NoPrediction
from batch_assets.features.keys import Key
from batch_assets.records import RecordField, Records, RecordType
from batch_assets.runs.model_pin import ModelPin
from batch_assets.serving.arrow_store import ArrowStore
from batch_assets.serving.live import current_log, go_live
from batch_assets.serving.reader import Reader
from batch_assets.serving.store import Batch, Release
from batch_assets.storage import LocalStorage

PIPELINE, KEPT, AT_ONCE = "swapped", 2, 50
RECORD = RecordType(fields=(RecordField(name="number", dtype="f8"), RecordField(name="again", dtype="i4")), score="number")


def publish(storage: LocalStorage, number: int, rows: int) -> Release:
    """Let a release go live whose every record holds its number; its keys are even."""
    day = (date(2024, 1, 1) + timedelta(days=number)).isoformat()
    release = Release(
        name=f"{day}-{number:016x}",
        pipeline=PIPELINE,
        partition=day,
        run_id=f"{number:016x}",
        snapshot="0" * 16,
        model=ModelPin(name="made up", version="v1", digest="0", sha256="0"),
        key=(Key(name="user", dtype="int64"),),
        record=RECORD,
        rows=rows,
        values=Digest(),
        store=ArrowStore(),
    )

    def batches() -> Iterator[Batch]:
        columns = {"number": np.full(rows, number, dtype=np.float64), "again": np.full(rows, number, dtype=np.int32)}
        yield pa.array(np.arange(0, 2 * rows, 2)), Records(RECORD, columns)

    release = release.model_copy(update={"built": release.store.build(storage, release, batches())})
    storage.create(release.description, release.model_dump_json().encode())
    go_live(storage, [release], approval=1)
    return release


def swapped(root: Path, releases: int, processes: int, rows: int) -> Counter[str]:
    """What all processes did together while releases were swapped; of each only the newest two are kept.

    Between two releases each process opens what is live at least once. Raises AssertionError with what a process said if it
    met an error.
    """
    storage, stop = LocalStorage(str(root)), root / "stop"
    kept = [publish(storage, 0, rows)]
    command = [sys.executable, "-m", __spec__.name if __name__ == "__main__" else __name__, str(root), str(rows), str(stop)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    readers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    try:
        for number in range(1, releases + 1):
            kept.append(publish(storage, number, rows))
            for gone in kept[:-KEPT]:
                storage.discard(gone.folder)
            kept = kept[-KEPT:]
            for reader in readers:
                assert reader.stdout is not None
                reader.stdout.readline()
    finally:
        stop.touch()
        done = [reader.communicate() for reader in readers]
    found = Counter[str](releases=releases, processes=processes)
    for reader, (out, said) in zip(readers, done, strict=True):
        assert reader.returncode == 0, said
        found.update(json.loads(out.splitlines()[-1]))
    return found


def look(root: str, rows: int, stop: Path) -> None:
    """Open what is live, ask, and let go of it, until there is the file `stop`; a line is printed for each time."""
    storage, random, found = LocalStorage(root), np.random.default_rng(os.getpid()), Counter[str]()
    while not stop.exists():
        reader, before = Reader.open(PIPELINE, storage), current_log(storage, PIPELINE).latest()
        keys = random.integers(0, 2 * rows, AT_ONCE).tolist()
        answers = [_one(reader, key) for key in keys]
        assert answers == [one.record if one else None for one in reader.get_many(keys)]
        assert [answer is not None for answer in answers] == [key % 2 == 0 for key in keys]
        told = {(answer["number"], answer["again"], answer["partition"]) for answer in answers if answer}
        assert len(told) == 1, told
        ((number, again, partition),) = told
        assert number == again
        assert date.fromisoformat(partition) == date(2024, 1, 1) + timedelta(days=number)
        assert before is not None
        reader.close()
        found.update(openings=1, answers=2 * len(keys), overtaken=before.body.partition != partition)
        print(partition, flush=True)
    print(json.dumps(found))


def _one(reader: Reader, key: int) -> dict[str, object] | None:
    try:
        return reader.lookup(key).record
    except NoPrediction:
        return None


if __name__ == "__main__":
    look(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
