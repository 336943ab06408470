"""Processes that read PostgreSQL, by SQL and by a Reader, while one release after another goes live. For tests, benchmarks."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa

from batch_assets.digest import Digest
from batch_assets.features.keys import Key
from batch_assets.records import RecordField, Records, RecordType
from batch_assets.runs.model_pin import ModelPin
from batch_assets.serving.postgres_store import PostgresStore
from batch_assets.serving.reader import Reader
from batch_assets.serving.store import Batch, Release
from batch_assets.storage import LocalStorage

PIPELINE, KEPT, AT_ONCE = "swapped", 3, 50
RECORD = RecordType(fields=(RecordField(name="number", dtype="f8"), RecordField(name="again", dtype="i4")), score="number")


def build(storage: LocalStorage, store: PostgresStore, number: int, rows: int) -> Release:
    """A release whose every record holds its number; its keys are even."""
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
        store=store,
    )

    def batches() -> Iterator[Batch]:
        columns = {"number": np.full(rows, number, dtype=np.float64), "again": np.full(rows, number, dtype=np.int32)}
        yield pa.array(np.arange(0, 2 * rows, 2)), Records(RECORD, columns)

    return release.model_copy(update={"built": store.build(storage, release, batches())})


def swapped(
    storage: LocalStorage, store: PostgresStore, releases: int, processes: int, rows: int, looks: int = 1
) -> Counter[str]:
    """What all processes did together while releases were swapped; of each only the newest three are kept.

    Between two releases each process asks at least `looks` times, each time for a hundred keys.

    Raises AssertionError with what a process said if it met an error, a key without an answer, or two releases in one answer.
    """
    stop = Path(storage.root) / "stop"
    stop.parent.mkdir(parents=True, exist_ok=True)
    kept = [build(storage, store, 1, rows)]
    store.publish(storage, kept[0], 1)
    command = [sys.executable, "-m", __name__, store.model_dump_json(), str(rows), str(stop)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    readers = [
        subprocess.Popen([*command, str(one)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for one in range(processes)
    ]
    found = Counter[str](releases=releases, processes=processes)
    try:
        for number in range(2, releases + 2):
            kept.append(build(storage, store, number, rows))
            started = time.perf_counter()
            store.publish(storage, kept[-1], number)
            found["slowest publish, ms"] = max(found["slowest publish, ms"], round((time.perf_counter() - started) * 1e3))
            for gone in kept[:-KEPT]:
                store.drop(storage, gone)
            kept = kept[-KEPT:]
            for reader in readers * looks:
                assert reader.stdout is not None
                reader.stdout.readline()
    finally:
        stop.touch()
        done = [reader.communicate() for reader in readers]
    for reader, (out, said) in zip(readers, done, strict=True):
        assert reader.returncode == 0, said
        found.update(json.loads(out.splitlines()[-1]))
    found["left behind"] = len(store.left_behind(storage, PIPELINE, kept))
    return found


def look(store: PostgresStore, rows: int, stop: Path, place: int) -> Counter[str]:
    """Ask until there is the file `stop`; a line is printed for each time. Every other process asks by SQL."""
    found, random = Counter[str](), np.random.default_rng(place)
    if place % 2:
        reader = Reader.of_store(store, PIPELINE, fresh_s=0.02)
        while not stop.exists():
            asked = random.integers(0, 2 * rows, AT_ONCE).tolist()
            _agree(asked, [_pair(answer.record if (answer := reader.get(key)) else None) for key in asked], one=False)
            _agree(asked, [_pair(answer.record if answer else None) for answer in reader.get_many(asked)], one=True)
            found.update({"answers of a Reader": 2 * len(asked)})
            print(reader.release.partition, flush=True)
        return found
    said = f"host={store.host} port={store.port} dbname={store.dbname} user={store.user}"
    view = f'"{store.schema_name}".{PIPELINE}_live'
    with psycopg.connect(said) as connection:
        while not stop.exists():
            for level in (psycopg.IsolationLevel.READ_COMMITTED, psycopg.IsolationLevel.REPEATABLE_READ):
                connection.isolation_level = level
                repeatable = level is psycopg.IsolationLevel.REPEATABLE_READ
                asked = random.integers(0, 2 * rows, AT_ONCE).tolist()
                with connection.transaction():
                    one = f'SELECT number, again FROM {view} WHERE "user" = %s'
                    answers = [connection.execute(one, [key], prepare=True).fetchone() for key in asked]
                    whole = f"SELECT count(*), min(number), max(again) FROM {view}"
                    ((count, least, most),) = connection.execute(whole, prepare=True).fetchall()
                _agree(asked, answers, one=repeatable)
                assert (count, least) == (rows, most), (count, least, most)
                assert not repeatable or {answer for answer in answers if answer} <= {(least, most)}
                found.update({"answers of SQL": len(asked), "whole tables by SQL": 1})
            print(least, flush=True)
    return found


def _agree(asked: list[int], answers: list[Any], *, one: bool) -> None:
    """Even keys have answers, the others none; no answer is of two releases and, if it must be so, all are of one."""
    missing = [key for key, answer in zip(asked, answers, strict=True) if (answer is not None) != (key % 2 == 0)]
    assert not missing, missing
    told = [answer for answer in answers if answer is not None]
    assert all(number == again for number, again in told), told
    assert told == sorted(told), told
    assert not one or len(set(told)) == 1, told


def _pair(record: dict[str, Any] | None) -> tuple[float, int] | None:
    if record is None:
        return None
    assert date.fromisoformat(record["partition"]) == date(2024, 1, 1) + timedelta(days=record["again"])
    return record["number"], record["again"]


if __name__ == "__main__":
    print(
        json.dumps(look(PostgresStore.model_validate_json(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
    )
