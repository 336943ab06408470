"""Ray on several machines that share nothing but a bucket; each is a network namespace with folders of its own."""

import json
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import batch_assets
from batch_assets_tests.engines import node_driver
from batch_assets_tests.servers import ServerMissing
from batch_assets_tests.servers.ray_nodes import BridgedGateway, RayNodes, ray_nodes
from batch_assets_tests.small import Small, Working, rows

pytestmark = pytest.mark.process

PATIENCE = 240.0


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
        small = Small(folder, rows(count), model, root=gateway.new_bucket(), scoring={"chunk_rows": 64, "batch_size": 64})
        self.working = Working(small)

    def start(self, **more: Any) -> "subprocess.Popen[str]":
        """A driver on the head that scores the night."""
        task = self.folder / "task.pickle"
        task.write_bytes(pickle.dumps((more.pop("task", self.working.task), self.working.run.plan)))
        return self.nodes.driver([sys.executable, node_driver.__file__, str(task)], **more)

    def committed(self) -> int:
        return sum(name.startswith("chunk-") for name in self.working.small.storage.names(self.working.run.folder))

    def wait(self, process: "subprocess.Popen[str]", chunks: int) -> None:
        """Until so many chunks are committed."""
        deadline = time.monotonic() + PATIENCE
        while self.committed() < chunks:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)


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


def test_a_node_killed_one_cut_off_and_one_added_in_mid_run_change_nothing(scene: Callable[[int], Scene]) -> None:
    there = scene(40_000)
    killed, cut = there.nodes.add(), there.nodes.add()
    process = there.start()
    there.wait(process, 60)
    killed.kill()
    added = there.nodes.add()
    there.wait(process, 200)
    cut.cut()
    found = finished(process)
    cut.kill()
    assert found["chunks"] == len(there.working.run.plan)
    assert added.name in found["hosts"]
    assert any("was lost" in line for line in found["said"])
    other = {commit.number: commit for commit in there.working.commits().values()}
    assert len(other) == 625
    assert there.working.prove().rows == 40_000


def test_the_model_comes_to_each_node_once_and_what_comes_is_counted(scene: Callable[[int], Scene]) -> None:
    there = scene(2_000)
    nodes = [there.nodes.add(), there.nodes.add()]
    found = finished(there.start())
    for node in nodes:
        copies = [file for file in (node.folder / "cache").iterdir() if file.suffix != ".lock"]
        assert [file.read_bytes() for file in copies] == [there.working.small.storage.read(there.working.small.model.path)]
        node.kill()
    assert found["received"] > 0


def test_a_root_that_a_node_does_not_see_is_a_sentence(scene: Callable[[int], Scene], make_small: Callable[..., Small]) -> None:
    there = scene(100)
    local = Working(make_small())
    node = there.nodes.add(TMPDIR="/nowhere")
    hidden = local.small.storage.local_path("_format.json")
    process = there.start(task=local.task)
    hidden_bytes = hidden.read_bytes()
    hidden.write_bytes(hidden_bytes.replace(b'"root"', b'"else"'))
    found = finished(process)
    node.kill()
    assert "Node " in found["error"]


def test_a_node_with_another_state_of_the_code_is_a_sentence(scene: Callable[[int], Scene], tmp_path: Path) -> None:
    there = scene(100)
    shutil.copytree(Path(batch_assets.__file__).parent, tmp_path / "older" / "batch_assets")
    with (tmp_path / "older" / "batch_assets" / "digest.py").open("a") as file:
        file.write("# as it was\n")
    node = there.nodes.add(PYTHONPATH=str(tmp_path / "older"))
    found = finished(there.start())
    node.kill()
    assert found["error"] == (
        f"Node {node.name} cannot score, as it has another state of the batch-assets code: install there what this machine has."
    )
