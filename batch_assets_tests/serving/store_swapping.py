"""Processes that ask a store by its own pointer while one release after another goes live there and older ones are dropped."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from batch_assets.digest import Digest
from batch_assets.features.keys import Key
from batch_assets.records import RecordField, Records, RecordType
from batch_assets.runs.model_pin import ModelPin
from batch_assets.serving.reader import Answer, Reader
from batch_assets.serving.store import STORES, Batch, Release, Store
from batch_assets.storage import LocalStorage

KEPT, SINGLY, TOGETHER = 2, 20, 180
RECORD = RecordType(fields=(RecordField(name="number", dtype="f8"), RecordField(name="again", dtype="i4")), score="number")


def publish(store: Store, storage: LocalStorage, pipeline: str, number: int, rows: int) -> Release:
    """Let a release go live as the next one."""
    release = build(store, storage, pipeline, number, rows)
    store.publish(storage, release, number + 1)
    return release


def build(store: Store, storage: LocalStorage, pipeline: str, number: int, rows: int) -> Release:
    """Build a release whose every record holds its number; its keys are even."""
    day = (date(2024, 1, 1) + timedelta(days=number)).isoformat()
    release = Release(
        name=f"{day}-{number:016x}",
        pipeline=pipeline,
        partition=day,
        run_id=f"{number:016x}",
        snapshot="0" * 16,
        model=ModelPin(name="made up", version="v1", digest="0", sha256="0"),
        key=(Key(name="user", dtype="int64"),),
        record=RECORD,
        rows=rows,
        values=Digest(),
        store=store,
    )

    def batches() -> Iterator[Batch]:
        columns = {"number": np.full(rows, number, dtype=np.float64), "again": np.full(rows, number, dtype=np.int32)}
        yield pa.array(np.arange(0, 2 * rows, 2)), Records(RECORD, columns)

    return release.model_copy(update={"built": store.build(storage, release, batches())})


def swapped(store: Store, root: Path, pipeline: str, releases: int, processes: int, rows: int, reads: int = 0) -> Counter[str]:
    """What all processes did together while releases were swapped; the newest two are kept, and their `reads` are at least.

    Between two releases each process answers at least once. Raises AssertionError with what a process said if it met an error.
    """
    storage, stop = LocalStorage(str(root)), root / "stop"
    kept, answered = [publish(store, storage, pipeline, 0, rows)], 0
    command = [sys.executable, "-m", __name__, store.model_dump_json(), str(root), pipeline, str(rows), str(stop)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    readers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    try:
        for number in range(1, releases + 1):
            kept.append(publish(store, storage, pipeline, number, rows))
            for gone in kept[:-KEPT]:
                store.drop(storage, gone)
            kept, before = kept[-KEPT:], -1
            while before < answered and (before < 0 or answered < reads * number // releases):
                before = answered
                answered += sum(int(reader.stdout.readline() or 0) for reader in readers if reader.stdout)
    finally:
        stop.touch()
        done = [reader.communicate() for reader in readers]
    found = Counter[str](releases=releases, processes=processes)
    for reader, (out, said) in zip(readers, done, strict=True):
        assert reader.returncode == 0, said
        found.update(json.loads(out.splitlines()[-1]))
    return found


def look(store: Store, root: str, pipeline: str, rows: int, stop: Path) -> None:
    """Ask until there is the file `stop`; a line says how many answers there were in each round."""
    os.environ["BATCH_ASSETS_ROOT"] = root
    reader, random, found, newest = Reader.of_store(store, pipeline, fresh_s=0.05), np.random.default_rng(), Counter[str](), -1
    while not stop.exists():
        singly, together = (random.integers(0, 2 * rows, count).tolist() for count in (SINGLY, TOGETHER))
        rounds = [[(key, reader.get(key))] for key in singly]
        rounds.append(list(zip(together, reader.get_many(together), strict=True)))
        for answers in rounds:
            newest = max(newest, one_release(answers, newest))
        found.update(answers=SINGLY + TOGETHER, releases_seen=found["newest"] < newest)
        found["newest"] = newest
        print(SINGLY + TOGETHER, flush=True)
    del found["newest"]
    print(json.dumps(found))


def one_release(answers: list[tuple[int, Answer | None]], newest: int) -> int:
    """The number of the release of which all answers are: none is missing, and it is not older than one that was seen."""
    assert [answer is not None for _, answer in answers] == [key % 2 == 0 for key, _ in answers]
    told = {(one.record["number"], one.record["again"], one.record["partition"]) for _, one in answers if one}
    assert len(told) <= 1, told
    for number, again, partition in told:
        assert number == again
        assert number >= newest
        assert date.fromisoformat(partition) == date(2024, 1, 1) + timedelta(days=number)
    return max((int(number) for number, *_ in told), default=newest)


if __name__ == "__main__":
    asked: Store = TypeAdapter(Annotated[Store, STORES]).validate_json(sys.argv[1])
    look(asked, sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
