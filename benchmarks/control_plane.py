"""The control plane of a great day: listing, resume, proof, manifest, verdict and pruning, without the rows.

    python benchmarks/control_plane.py [--rows 500000000] [--days 20] [--days-in-bucket 6] [--round-trip-ms 20]
    python benchmarks/control_plane.py --driver-memory [--rows 500000000]

A day of `--rows` rows in chunks of 65,536, of which all but 130 were committed when somebody was killed. Part files, row
groups, chunks, footers, rejects files (of each third chunk) and manifest are as many as that day has, and each is made by the
product; but a row group has 16 rows instead of 16,384. So what is timed is the cost of files and documents, hardly that of
reading rows, hashing keys or a model. It is measured in a folder, in a bucket on a versitygw of this machine (`make servers`),
and in that bucket behind a relay that lets each answer wait, as a network does.

Pruning is of days with the same files, about 10,000 each: hard links, which are as many to list and to remove.

`--driver-memory` lets a process of its own resume, finish and prove the day with one worker of Ray, and the day of a hundredth
of the rows as well, and samples the memory of that process every 50 ms. USS counts pages that nobody else has, and a library's
pages are anybody's who has loaded it: it depends on what else runs, RSS does not.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import psutil
from processes import SAMPLE_SECONDS
from relay import Relay

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.models.registry import Registry
from batch_assets.nightly.judge import judge
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.nightly.verdict import read_verdict
from batch_assets.operations.prune import prune
from batch_assets.proof.keys import prove
from batch_assets.runs.commit import day_folder, read_commits
from batch_assets.runs.commits import Commits
from batch_assets.runs.manifest import damage, manifest_log
from batch_assets.storage import open_storage
from batch_assets_tests.many_chunks import DAY, many_chunks, score_some
from batch_assets_tests.servers import S3Gateway
from batch_assets_tests.small import Quiet, Small, small_model

CHUNK_ROWS = 65_536
YEAR = 365
MISSING = 130
"""Chunks that were not committed when the run was killed."""


class Table:
    """Seconds by what was done and where."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, str]] = {}

    def time(self, what: str, where: str, work: Callable[[], object], times: int = 1) -> float:
        """Do some work so often, and note the seconds of one, which are returned."""
        started = time.perf_counter()
        work()
        seconds = (time.perf_counter() - started) / times
        self.note(what, where, f"{seconds:.2f}")
        return seconds

    def note(self, what: str, where: str, said: str) -> None:
        """Note a figure."""
        self._rows.setdefault(what, {})[where] = said
        print(f"  {where}: {what}: {said}", file=sys.stderr, flush=True)

    def print(self) -> None:
        """As Markdown."""
        places = list(dict.fromkeys(where for row in self._rows.values() for where in row))
        print(f"| | {' | '.join(places)} |\n|---|{'--:|' * len(places)}")
        for what, row in self._rows.items():
            print(f"| {what} | {' | '.join(row.get(where, '') for where in places)} |")


def killed(folder: Path, chunks: int, root: str = "") -> Small:
    """A day of so many chunks, in a state as somebody left it who was killed at the end."""
    small = many_chunks(folder, small_model(), chunks, root)
    score_some(small.opened(), chunks - min(MISSING, chunks // 10))
    (folder / "config.json").write_text(small.config.model_dump_json())
    return small


def resumed(night: Night) -> Commits:
    """What is committed of a night."""
    card = night.model.card
    commits = Commits(card.baseline.edges, card.head.record)
    for commit in read_commits(night.storage, night.folder, night.plan, night.run_id):
        commits.add(commit)
    return commits


def begin(table: Table, where: str, small: Small) -> Night:
    """Open the night and look what is committed of it, by connections that are made for that."""
    storage = open_storage(small.storage.location)
    opened = partial(Night.open, small.config, storage, DAY, Registry(storage).resolve(small.config.model))
    night = opened()
    table.time("open the night: snapshot, plan, run id", where, opened)
    table.time("list the run", where, lambda: storage.names(night.folder))
    table.time("resume: listing and footers", where, lambda: resumed(night))
    return night


def read(table: Table, where: str, night: Night) -> None:
    """Prove a finished run once more and read what it left."""
    manifest, commits, snapshot = night.manifest(), resumed(night), night.frozen.snapshot
    proven = partial(prove, night.storage, snapshot, night.frozen.folder, night.folder, night.plan, commits)
    table.time("proof: the keys of all files", where, proven)
    table.time("read the manifest", where, lambda: manifest_log(night.storage, night.folder).latest())
    table.time("are all its files there", where, lambda: damage(night.storage, manifest))
    table.time("read the verdict", where, lambda: read_verdict(night.storage, night.folder))


def measure(table: Table, where: str, small: Small) -> None:
    """Resume, finish, judge and publish a day in a root, and read what was left."""
    night = begin(table, where, small)
    table.time("finish: resume, 130 chunks, proof, audit, manifest", where, lambda: score(night, LocalEngine(2), Quiet()))
    manifest, document = night.manifest(), f"{night.folder}/_manifest/000001.json"
    again = manifest_log(night.storage, f"{night.folder}/_measured")
    table.time("write the manifest", where, lambda: again.append(manifest, after=0, why="measured"))
    table.note("its size, MB", where, f"{len(night.storage.read(document)) / 1e6:.1f}")
    table.time("judge: footers and verdict", where, lambda: judge(night, manifest))
    table.time("publish: build, read back, go live", where, lambda: publish(night, Quiet()))
    read(table, where, night)


def measure_pruning(table: Table, where: str, small: Small, days: int, folder: Path) -> None:
    """Look at days that are kept, and remove days: half as many and so many of each; `folder` is where the root's files lie."""
    real = folder / small.opened().folder

    def link(back: int) -> None:
        _link(real, folder / day_folder(small.config.name, str(date.fromisoformat(DAY) - timedelta(back))) / real.name)

    def pruned(kept: int, *, dry: bool, removed: int) -> None:
        done = prune(small.config, small.storage, kept, dry_run=dry, progress=Quiet())
        if done.counts.get("runs", 0) != removed:
            raise SystemExit(f"prune removed {done.counts} instead of {removed} runs")

    link(1)  # which stays beside the real one, as two days are needed
    for size, count in (("half as many days", days // 2), ("all days", days)):
        for back in range(count):
            link(2 + back)
        looked, removed = partial(pruned, count + 2, dry=True, removed=0), partial(pruned, 2, dry=False, removed=count)
        kept = table.time(f"prune: a day that is kept ({size})", where, looked, count + 2)
        gone = table.time(f"prune: a day that goes ({size})", where, removed, count)
    table.note("by that: a year is kept, one day goes", where, f"{YEAR * kept + gone:.0f}")
    table.note("by that: a year goes at once", where, f"{YEAR * gone:.0f}")


def _link(real: Path, copy: Path) -> None:
    copy.mkdir(parents=True)
    for file in real.rglob("*"):
        if file.is_file():
            target = copy / file.relative_to(real)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, target)


def driver_memory(folder: Path, rows: int) -> tuple[int, int]:
    """The peak USS and RSS in bytes of a driver that finishes a day of so many rows."""
    killed(folder, math.ceil(rows / CHUNK_ROWS))
    command, uss, rss = [sys.executable, str(Path(__file__).with_name("driver.py")), str(folder), DAY], 0, 0
    with subprocess.Popen(command) as process:  # noqa: S603 - our own script
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                seen = driver.memory_full_info()
                uss, rss = max(uss, seen.uss), max(rss, seen.rss)
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(f"the driver of {rows:,} rows ended with {process.returncode}")
    return uss, rss


def compare_memory(rows: int) -> None:
    """Print the driver's memory for a day and for a hundredth of it."""
    with tempfile.TemporaryDirectory() as folder:
        small, great = (driver_memory(Path(folder, str(size)), size) for size in (rows // 100, rows))
    print(f"| peak of the driver, MB | {rows // 100:,} rows | {rows:,} rows | |\n|---|--:|--:|--:|")
    for name, one, other in zip(("USS", "RSS"), small, great, strict=True):
        print(f"| {name} | {one / 1e6:.0f} | {other / 1e6:.0f} | {other / one:.2f} : 1 |")


def compare(said: argparse.Namespace) -> None:
    """Print what a day costs in a folder, in a bucket, and in one that is far."""
    import great_expectations  # noqa: F401 - judging imports it, which is not what is timed

    chunks, table = math.ceil(said.rows / CHUNK_ROWS), Table()
    with tempfile.TemporaryDirectory() as place, S3Gateway() as gateway:
        folder = Path(place)
        here = killed(folder / "here", chunks)
        measure(table, "folder", here)
        measure_pruning(table, "folder", here, said.days, Path(here.storage.root))
        os.environ.update(gateway.environment, BATCH_ASSETS_CACHE=str(folder / "copies"))
        bucket = gateway.new_bucket()
        there = killed(folder / "there", chunks, f"{bucket}/root")
        measure(table, "bucket", there)
        with Relay(gateway.url, said.round_trip_ms) as relay:
            os.environ["AWS_ENDPOINT_URL"] = relay.url
            far = f"bucket, {said.round_trip_ms:g} ms away"
            read(table, far, begin(table, far, there))
        os.environ["AWS_ENDPOINT_URL"] = gateway.url
        files = gateway.folder / "buckets" / bucket.removeprefix("s3://") / "root"
        measure_pruning(table, "bucket", there, said.days_in_bucket, files)
    table.print()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000_000)
    parser.add_argument("--days", type=int, default=20)
    parser.add_argument("--days-in-bucket", type=int, default=6)
    parser.add_argument("--round-trip-ms", type=float, default=20.0)
    parser.add_argument("--driver-memory", action="store_true")
    said = parser.parse_args()
    if said.driver_memory:
        compare_memory(said.rows)
    else:
        compare(said)


if __name__ == "__main__":
    main()
