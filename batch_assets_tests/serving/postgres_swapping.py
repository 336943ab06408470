"""Processes that read PostgreSQL, every other by SQL, while one release after another goes live there and older ones go."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg import IsolationLevel

from batch_assets.serving.postgres_store import PostgresStore
from batch_assets.storage import LocalStorage
from batch_assets_tests.serving import store_swapping
from batch_assets_tests.serving.store_swapping import build

PIPELINE, KEPT, AT_ONCE = "swapped", 3, 50


def swapped(root: Path, store: PostgresStore, releases: int, processes: int, rows: int, looks: int = 1) -> Counter[str]:
    """What all processes did together while releases were swapped; of those only the newest three are kept.

    Between two releases each process asks at least `looks` times, each time for at least a hundred keys.

    Raises AssertionError with what a process said if it met an error, a key without an answer, or two releases in one answer.
    """
    storage, stop = LocalStorage(str(root)), root / "stop"
    kept = [build(store, storage, PIPELINE, 0, rows)]
    store.publish(storage, kept[0], 1)
    said = [store.model_dump_json(), str(root), PIPELINE, str(rows), str(stop)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    readers = [
        subprocess.Popen(
            [sys.executable, "-m", (__name__, store_swapping.__name__)[one % 2], *said],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for one in range(processes)
    ]
    found = Counter[str](releases=releases, processes=processes)
    try:
        for number in range(1, releases + 1):
            kept.append(build(store, storage, PIPELINE, number, rows))
            started = time.perf_counter()
            store.publish(storage, kept[-1], number + 1)
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
    for reader, (out, error) in zip(readers, done, strict=True):
        assert reader.returncode == 0, error
        found.update(json.loads(out.splitlines()[-1]))
    for gone in store.left_behind(storage, PIPELINE, kept):  # what could not be dropped while they read
        store.drop(storage, gone)
        found["left, dropped later"] += 1
    return found


def look(store: PostgresStore, rows: int, stop: Path) -> Counter[str]:
    """Ask the view until there is the file `stop`, in transactions and by prepared statements; a line is printed each time."""
    found, random = Counter[str](), np.random.default_rng()
    view = f'"{store.schema_name}".{PIPELINE}_live'
    one, whole = f'SELECT number, again FROM {view} WHERE "user" = %s', f"SELECT count(*), min(number), max(again) FROM {view}"
    with psycopg.connect(f"host={store.host} port={store.port} dbname={store.dbname} user={store.user}") as connection:
        while not stop.exists():
            for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ):
                connection.isolation_level = level
                asked = random.integers(0, 2 * rows, AT_ONCE).tolist()
                with connection.transaction():
                    answers = [connection.execute(one, [key], prepare=True).fetchone() for key in asked]
                    ((count, least, most),) = connection.execute(whole, prepare=True).fetchall()
                assert (count, least) == (rows, most), (count, least, most)
                agree(asked, answers)
                if level is IsolationLevel.REPEATABLE_READ:
                    assert {answer for answer in answers if answer} <= {(least, most)}, answers
                found.update({"answers by SQL": len(asked), "whole tables by SQL": 1})
            print(2 * AT_ONCE, flush=True)
    return found


def agree(asked: list[int], answers: list[Any]) -> None:
    """Even keys have answers, the others none; no answer is of two releases, and none is older than the one before."""
    missing = [key for key, answer in zip(asked, answers, strict=True) if (answer is not None) != (key % 2 == 0)]
    assert not missing, missing
    told = [answer for answer in answers if answer is not None]
    assert all(number == again for number, again in told), told
    assert told == sorted(told), told


if __name__ == "__main__":
    print(json.dumps(look(PostgresStore.model_validate_json(sys.argv[1]), int(sys.argv[4]), Path(sys.argv[5]))))
