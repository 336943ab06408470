"""Nights whose root is a bucket, killed at random moments behind a network that fails: each must end as the undisturbed one.

    python benchmarks/kills_in_bucket.py [--kills 100] [--share 0.05] [--seed 1] [--rows 2000]

The bucket is on a versitygw of its own (`make servers`). Between it and each night is a proxy that tells 503, drops an answer
after the request was carried out, sends half of one, or waits, for a share of all requests. A night freezes, scores, judges
and publishes a small pipeline; it is killed by SIGKILL at a random moment, every second time while another process does the
same night. Then the night is done once more, and the root is pruned. Snapshot, run and every answer must be those of a night
on a local disk, and no file may be there that an undisturbed night in a bucket does not leave; prints one line a kill and a
summary, and exits 1 otherwise. Everything runs on this machine. Workers of Ray that are killed while the driver lives are in
`kills.py --bucket`.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from batch_assets_tests.servers import S3Gateway
from batch_assets_tests.servers.faulty_proxy import FaultyProxy

DAY = "2024-03-10"
LIMIT_SECONDS = 180


def main() -> None:
    """Kill and do again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=2_000)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, S3Gateway() as gateway, FaultyProxy(gateway.url, 0, said.seed) as proxy:
        os.environ.update(gateway.environment, AWS_ENDPOINT_URL=proxy.url, BATCH_ASSETS_CACHE=f"{folder}/copies")
        killed(Path(folder), gateway.new_bucket(), proxy, said)


def killed(folder: Path, bucket: str, proxy: FaultyProxy, said: argparse.Namespace) -> None:
    """All kills of a run of this program."""
    from batch_assets.operations.prune import prune
    from batch_assets_tests.small import Small, rows, small_model

    source, processes = random.Random(said.seed), multiprocessing.get_context("forkserver")  # noqa: S311 - no secret
    processes.set_forkserver_preload(["batch_assets_tests.small", "great_expectations", "obstore.store"])
    table, model = rows(said.rows), small_model()

    def made(name: str, root: str = "") -> Small:
        proxy.share = 0
        (folder / name).mkdir()
        return Small(folder / name, table, model, root=root, scoring={"chunk_rows": 64, "batch_size": 64})

    def start(small: Small) -> Any:
        process = processes.Process(target=night, args=(small.config, small.storage.location))
        process.start()
        return process

    def finish(small: Small) -> None:
        process = start(small)
        process.join(LIMIT_SECONDS)
        if process.exitcode != 0:
            process.kill()
            raise SystemExit(f"a night in {small.storage.location} ended with {process.exitcode}")
        prune(small.config, small.storage, None, dry_run=False, progress=small.progress)

    on_disk, undisturbed = made("on-disk"), made("undisturbed", f"{bucket}/undisturbed")
    finish(on_disk)
    began = time.monotonic()
    finish(undisturbed)
    took, expected, failed = time.monotonic() - began, files(undisturbed.storage.location), 0
    for number in range(said.kills):
        root, moment = f"{bucket}/{number}", source.random() * took * 1.2
        small = made(f"{number}", root)
        proxy.share = said.share
        victims = [start(small)]
        if number % 2:
            time.sleep(source.random() * moment)
            victims.append(start(small))
        time.sleep(moment)
        was_over = victims[0].exitcode is not None
        if not was_over:
            os.kill(victims[0].pid, signal.SIGKILL)
        for one in victims:
            one.join(LIMIT_SECONDS)
        finish(small)
        found = files(root)
        same = found == expected and summary(small) == summary(on_disk)
        failed += not same
        how = "was over before" if was_over else f"killed after {moment:.2f} s"
        second = f", a second ended with {victims[1].exitcode}" if len(victims) > 1 else ""
        print(f"{number + 1:>4} {how}{second}: {'equal' if same else f'DIFFERENT {sorted(found ^ expected)}'}", flush=True)
    print(json.dumps({"kills": said.kills, "different": failed, "faults": proxy.done, "undisturbed_s": round(took, 2)}))
    if failed:
        sys.exit(1)


def night(config: Any, root: str) -> None:
    """A whole night, as a process of its own."""
    from batch_assets.engines.local_engine import LocalEngine
    from batch_assets.models.registry import Registry
    from batch_assets.nightly.freeze import freeze
    from batch_assets.nightly.judge import judge
    from batch_assets.nightly.night import Night
    from batch_assets.nightly.publish import publish
    from batch_assets.nightly.score import score
    from batch_assets.storage import open_storage
    from batch_assets_tests.small import Quiet

    storage, registry, progress = open_storage(root), Registry(open_storage(root)), Quiet()
    freeze(config, storage, DAY, progress)
    scored = score(Night.open(config, storage, DAY, registry.resolve(config.model)), LocalEngine(1), progress)
    judge(scored.night, scored.manifest)
    publish(scored.night, progress)


def summary(small: Any) -> tuple[Any, ...]:
    """What must be the same: the snapshot, the run, all values, every answer."""
    from batch_assets.serving.reader import Reader

    reader = Reader.open(small.config.name, small.storage)
    release = reader.release
    answers = tuple(str(answer.record) for answer in reader.get_many(range(1, release.rows + 1)) if answer)
    reader.close()
    return release.snapshot, release.run_id, release.values, len(answers), hash(answers)


def files(root: str) -> set[str]:
    """What lies in a root, without the parts of names that are made up anew each time."""
    from batch_assets.storage.bucket import Bucket

    return {re.sub(r"[0-9a-f]{12,64}", "…", path) for path, _ in Bucket(root).walk()}


if __name__ == "__main__":
    main()
