"""Processes that look keys up while one release after another goes live and older ones are pruned, for tests and benchmarks."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from batch_assets.errors import NoPrediction
from batch_assets.serving.arrow_store import ArrowStore
from batch_assets.serving.live import current_log, go_live
from batch_assets.serving.reader import Reader
from batch_assets.serving.store import Release
from batch_assets.storage import LocalStorage
from batch_assets_tests.serving.store_swapping import SINGLY, TOGETHER, build, one_release

PIPELINE, KEPT, AT_ONCE = "swapped", 2, 50
UNDISTURBED = 10
"""The part of all reads (one in so many) that is asked before the first release is swapped."""


def publish(storage: LocalStorage, number: int, rows: int) -> Release:
    """Let a release go live whose every record holds its number; its keys are even."""
    release = build(ArrowStore(), storage, PIPELINE, number, rows)
    storage.create(release.description, release.model_dump_json().encode())
    go_live(storage, [release], approval=1)
    return release


def swapped(root: Path, releases: int, processes: int, rows: int, reads: int = 0) -> Counter[str]:
    """What all processes did together while releases were swapped; the newest two are kept, and their `reads` are at least.

    Between two releases each process opens what is live at least once. What single look-ups took is said of those before the
    first swap and of the others, in ns. Raises AssertionError with what a process said if it met an error.
    """
    storage, stop = LocalStorage(str(root)), root / "stop"
    kept, answered = [publish(storage, 0, rows)], 0
    command = [sys.executable, "-m", __spec__.name if __name__ == "__main__" else __name__, str(root), str(rows), str(stop)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    readers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    try:
        for number in range(releases + 1):
            if number:
                kept.append(publish(storage, number, rows))
            for gone in kept[:-KEPT]:
                storage.discard(gone.folder)
            kept, before = kept[-KEPT:], -1
            wanted = reads // UNDISTURBED + reads * (UNDISTURBED - 1) // UNDISTURBED * number // max(releases, 1)
            while before < answered and (before < 0 or answered < wanted):
                before = answered
                answered += sum(int(reader.stdout.readline() or 0) for reader in readers if reader.stdout)
    finally:
        stop.touch()
        done = [reader.communicate() for reader in readers]
    found, took = Counter[str](releases=releases, processes=processes), dict[str, list[int]]()
    for reader, (out, said) in zip(readers, done, strict=True):
        assert reader.returncode == 0, said
        counted, timed = json.loads(out.splitlines()[-1])
        found.update(counted)
        for when, some in timed.items():
            took.setdefault(when, []).extend(some)
    for when, some in took.items():
        found.update({f"{when}, {part} % within ns": int(np.percentile(some, part)) for part in (50, 99)})
    return found


def look(root: str, rows: int, stop: Path) -> None:
    """Ask what was opened before and what is opened now until there is the file `stop`; a line says how many answers came."""
    storage, random, found = LocalStorage(root), np.random.default_rng(os.getpid()), Counter[str]()
    standing, newest, took = Reader.open(PIPELINE, storage, fresh_s=0.05), -1, dict[str, list[int]]()
    while not stop.exists():
        some, singly, together = (random.integers(0, 2 * rows, count).tolist() for count in (AT_ONCE, SINGLY, 10 * TOGETHER))
        found.update(openings=1, overtaken=_opened_now(storage, some))
        for key in singly:
            began = time.perf_counter_ns()
            answer = standing.get(key)
            ended = time.perf_counter_ns()
            newest = max(newest, one_release([(key, answer)], newest))
            took.setdefault("swapped" if newest > 0 else "undisturbed", []).append(ended - began)
        newest = max(newest, one_release(list(zip(together, standing.get_many(together), strict=True)), newest))
        found.update(answers=2 * len(some) + len(singly) + len(together))
        print(2 * len(some) + len(singly) + len(together), flush=True)
    print(json.dumps([found, took]))


def _opened_now(storage: LocalStorage, keys: list[int]) -> bool:
    """Open what is live, ask it in both ways, and let go of it; whether another went live meanwhile."""
    reader, before = Reader.open(PIPELINE, storage), current_log(storage, PIPELINE).latest()
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
    return bool(before.body.partition != partition)


def _one(reader: Reader, key: int) -> dict[str, Any] | None:
    try:
        return reader.lookup(key).record
    except NoPrediction:
        return None


if __name__ == "__main__":
    look(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
