"""Ray on several machines that share nothing but a bucket; each is a network namespace with folders of its own."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import batch_assets
from batch_assets.digest import Digest
from batch_assets.scoring.scorer import ScoringTask
from batch_assets_tests.engines import driver
from batch_assets_tests.faulty import Faulty
from batch_assets_tests.servers import ServerMissing
from batch_assets_tests.servers.ray_nodes import BridgedGateway, RayNodes, ray_nodes
from batch_assets_tests.small import Small, Working, rows, with_values

pytestmark = pytest.mark.process

Make = Callable[..., Small]
PATIENCE = 240.0
CHUNKS = {"scoring": {"chunk_rows": 64, "batch_size": 64}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[RayNodes, BridgedGateway]]:
    try:
        with ray_nodes() as made:
            yield made
    except ServerMissing as reason:
        pytest.skip(str(reason))


class Scene:
    """A cluster, and a night of a small pipeline in a bucket that its machines reach."""

    def __init__(self, nodes: RayNodes, gateway: BridgedGateway, folder: Path, model: bytes, count: int) -> None:
        self.nodes, self.folder = nodes, folder
        self.table = with_values(rows(count), "x", dict.fromkeys(range(0, count, 64), 0.0))
        small = Small(folder, self.table, model, root=gateway.new_bucket(), **CHUNKS)
        self.working = Working(small)
        self.keep_seconds = 0
        self.slow, self.said = folder / "slow", folder / "task.pickle.said"

    def slowly(self) -> ScoringTask:
        """The task, slow as long as there is a file."""
        self.slow.touch()
        return replace(self.working.task, load=Faulty(self.working.task.load, "slow", 0.0, str(self.slow)))

    def start(self, task: ScoringTask | None = None) -> "subprocess.Popen[str]":
        """A driver on the head that scores the night, or another task on the same chunks."""
        path = self.folder / "task.pickle"
        path.write_bytes(pickle.dumps((task or self.working.task, self.working.run.plan)))
        said = json.dumps({"kind": "ray", "keep_seconds": self.keep_seconds})
        return self.nodes.driver([sys.executable, driver.__file__, str(path), said])

    def committed(self) -> int:
        return sum(name.startswith("chunk-") for name in self.working.small.storage.names(self.working.run.folder))

    def hosts(self) -> set[str]:
        """The machines that have committed something."""
        return {commit.written.host for commit in self.working.commits().values()}

    def wait(self, process: "subprocess.Popen[str]", until: Callable[[], bool]) -> None:
        """Until something is so while the driver works."""
        deadline = time.monotonic() + PATIENCE
        while not until():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)


def finished(process: "subprocess.Popen[str]") -> dict[str, Any]:
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr[-3_000:]
    found: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
    return found


@pytest.fixture
def scene(
    cluster: tuple[RayNodes, BridgedGateway], tmp_path: Path, model_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Scene]:
    nodes, gateway = cluster
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BATCH_ASSETS_CACHE", str(tmp_path / "copies"))
    return lambda count: Scene(nodes, gateway, tmp_path, model_bytes, count)


def test_a_node_killed_one_cut_off_and_one_added_in_mid_run_change_nothing(
    scene: Callable[[int], Scene], make_small: Make
) -> None:
    there = scene(40_000)
    killed, cut = there.nodes.add(), there.nodes.add()
    process = there.start(task=there.slowly())
    there.wait(process, lambda: there.hosts() >= {killed.name, cut.name})
    killed.kill()
    added = there.nodes.add()
    there.wait(process, lambda: added.name in there.hosts())
    cut.cut()
    there.slow.unlink()
    found = finished(process)
    for node in (killed, cut, added):
        copies = [file for file in (node.folder / "cache" / "batch-assets").iterdir() if file.suffix != ".lock"]
        assert [file.read_bytes() for file in copies] == [there.working.small.storage.read(there.working.small.model.path)]
        node.kill()
    assert found["received"] > 0
    assert found["chunks"] == len(there.working.run.plan)
    assert any("was lost" in line for line in found["said"])
    assert there.working.prove().rows == 40_000
    alone = Working(make_small(there.table, **CHUNKS))
    assert found["digest"] == sum((commit.values for commit in alone.score_all().values()), Digest()).hex()


@pytest.mark.long
def test_a_node_that_will_be_taken_away_gets_nothing_more_and_loses_nothing(scene: Callable[[int], Scene]) -> None:
    """As a spot instance is: first Ray is told, then the machine gets SIGTERM."""
    there = scene(80_000)
    spot, kept = there.nodes.add(), there.nodes.add()
    process = there.start(task=there.slowly())
    there.wait(process, lambda: there.hosts() >= {spot.name, kept.name})
    there.nodes.drain(spot)
    there.wait(process, lambda: there.said.exists() and "will be taken away" in there.said.read_text())
    before = there.committed()
    there.wait(process, lambda: there.committed() > before + 30)  # three were in hand
    spot.kill(signal.SIGTERM)
    there.slow.unlink()
    found = finished(process)
    kept.kill()
    assert found["said"] == ["The node of a worker will be taken away; the worker finishes what it has in hand."]
    assert there.working.prove().rows == 80_000


@pytest.mark.long
def test_a_driver_that_died_on_another_host_leaves_no_worker_that_nobody_can_have(scene: Callable[[int], Scene]) -> None:
    """Its workers stay for the next run, and cannot look whether a process of another host lives; Ray can."""
    there = scene(40_000)
    there.keep_seconds = 300
    node = there.nodes.add()
    process = there.start(task=there.slowly())
    there.wait(process, lambda: node.name in there.hosts())
    (driving,) = [pid for pid in there.nodes.head.pids() if driver.__file__ in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(driving, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert process.returncode
    there.slow.unlink()
    found = finished(there.start())
    node.kill()
    assert found["chunks"] == len(there.working.run.plan)
    assert there.working.prove().rows == 40_000


@pytest.mark.long
def test_a_root_that_a_node_does_not_see_is_a_sentence(scene: Callable[[int], Scene], make_small: Make, tmp_path: Path) -> None:
    there, local = scene(100), Working(make_small())
    root = Path(local.small.storage.location)
    (tmp_path / "empty").mkdir()
    node = there.nodes.add(seen={root: tmp_path / "empty"})
    found = finished(there.start(task=local.task))
    node.kill()
    assert found["error"] == (
        f"Node {node.name} cannot score: this machine keeps everything under {root}, and the node does not see it; set "
        "BATCH_ASSETS_ROOT to a bucket, or to a folder that all machines share."
    )


@pytest.mark.long
def test_a_node_with_another_state_of_the_code_is_a_sentence(scene: Callable[[int], Scene], tmp_path: Path) -> None:
    there, package = scene(100), Path(batch_assets.__file__).parent
    shutil.copytree(package, tmp_path / "older")
    with (tmp_path / "older" / "digest.py").open("a") as file:
        file.write("# as it was\n")
    node = there.nodes.add(seen={package: tmp_path / "older"})
    found = finished(there.start())
    node.kill()
    assert found["error"] == (
        f"Node {node.name} cannot score, as it has another state of the code of batch_assets: install there what this machine "
        "has."
    )


@pytest.mark.long
@pytest.mark.parametrize(("off", "how"), [("-20m", "behind"), ("+20m", "ahead of"), ("+5m", "ahead of")])
def test_a_node_with_a_wrong_clock_is_a_sentence(scene: Callable[[int], Scene], off: str, how: str) -> None:
    """The bucket refuses who is a quarter of an hour off, so such a node does not see the root either: the clock is why."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("needs libfaketime (Debian: faketime)")
    there = scene(100)
    environment = {"LD_PRELOAD": str(library), "FAKETIME": off}
    node = there.nodes.add(environment=environment)
    found = finished(there.start())
    node.kill()
    sentence = rf"The clock of node {node.name} is at least ([\d,]+) s {how} this machine's: set both by NTP\."
    said = re.fullmatch(sentence, found["error"])
    assert said, found["error"]
    seconds = 60 * int(off[1:-1])
    assert seconds - 60 < int(said[1].replace(",", "")) <= seconds
