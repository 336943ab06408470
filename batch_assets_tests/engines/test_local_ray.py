"""A Ray that was started here: who reaches it, who may use it, and what is left of it."""

import contextlib
import ipaddress
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from batch_assets.engines.ray_engine import RayEngine
from batch_assets.errors import EngineError
from batch_assets_tests.conftest import PROJECT

NOBODY = 54_321
"""A uid that has no entry in /etc/passwd."""

pytestmark = pytest.mark.process

DRIVER = """
import ray, sys, time
from batch_assets.engines.ray_engine import RayEngine

class Idle:
    def work(self): time.sleep(600)
    def ready(self): return None

engine = RayEngine()
engine.connect()
stays = ray.remote(Idle).options(name="stays", namespace="kept", lifetime="detached").remote()
works = ray.remote(Idle).remote()
ray.get([stays.ready.remote(), works.ready.remote()])
works.work.remote()
print("ready", flush=True)
sys.stdin.read()
engine.close()
"""
CLIENT = "import ray; ray.init(logging_level='ERROR', log_to_driver=False); print(int(ray.cluster_resources()['CPU']))"
IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "2"}  # it would try twenty times


def python(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a process that knows of no Ray but what it is told."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    program, told = [sys.executable, "-c", code], {**plain, **environment}
    return subprocess.run(program, env=told, capture_output=True, text=True, timeout=120, cwd=PROJECT)


def family() -> list[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def listening() -> set[tuple[int, str, int]]:
    """Process, address and port of every socket of this process and its children that takes connections or datagrams."""
    found = set()
    for process in family():
        for one in process.net_connections(kind="inet"):
            if one.laddr and (one.status == psutil.CONN_LISTEN or (one.status == psutil.CONN_NONE and not one.raddr)):
                found.add((process.pid, one.laddr.ip, one.laddr.port))
    return found


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


@pytest.fixture(scope="module")
def others() -> set[tuple[int, str, int]]:
    """What listened before, and is none of Ray's."""
    return listening()


@pytest.fixture(scope="module")
def reached(others: set[tuple[int, str, int]]) -> Iterator[dict[str, str]]:
    """The environment that leads to a Ray with a worker."""
    import ray

    engine = RayEngine()
    reached = engine.connect()
    ray.get(ray.remote(lambda: os.getpid()).remote())
    yield reached
    engine.close()


class TestWhoReachesIt:
    def test_nothing_of_it_listens_beyond_this_machine(
        self, reached: dict[str, str], others: set[tuple[int, str, int]]
    ) -> None:
        found = listening() - others
        assert len({pid for pid, _, _ in found}) >= 4, "driver, head, raylet and worker"
        assert not [one for one in found if not is_loopback(one[1])]

    def test_a_process_that_is_told_the_way_uses_it(self, reached: dict[str, str]) -> None:
        done = python(CLIENT, **{**reached, **IMPATIENT})
        assert int(done.stdout) >= 1, done.stderr

    @pytest.mark.parametrize("wrong", [{"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}])
    def test_nobody_uses_it_without_its_token(self, reached: dict[str, str], wrong: dict[str, str]) -> None:
        done = python(CLIENT, **{**reached, **IMPATIENT, **wrong})
        assert done.returncode
        assert not done.stdout

    def test_the_token_is_written_nowhere(self, reached: dict[str, str]) -> None:
        import ray

        token = reached["RAY_AUTH_TOKEN"]
        assert not [process for process in family() if token in " ".join(process.cmdline())]
        session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
        files = [path for path in session.rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if token.encode() in path.read_bytes()]


def test_each_has_a_token_of_its_own_and_the_environment_is_put_back() -> None:
    code = """
import json, os
import ray
from batch_assets.engines.ray_engine import RayEngine

before, tokens = dict(os.environ), []
for _ in range(2):
    engine = RayEngine()
    tokens.append(engine.connect()["RAY_AUTH_TOKEN"])
    engine.close()
changed = [name for name in {*before, *os.environ} if os.environ.get(name) != before.get(name)]
print(json.dumps([tokens, [name for name in changed if "AUTH" in name or name == "RAY_ADDRESS"]]))
"""
    done = python(code)
    tokens, changed = json.loads(done.stdout)
    assert tokens[0] != tokens[1]
    assert changed == []


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root becomes a uid without an entry")
@pytest.mark.long
def test_it_needs_no_home_and_no_name() -> None:
    """As in a container that runs as any uid: nothing can be written but a folder for Ray's own files."""
    caps = "+dac_read_search"  # the interpreter may lie where only root looks
    become = [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        f"--inh-caps={caps}",
        f"--ambient-caps={caps}",
    ]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own folders are closed to others
        os.chmod(folder, 0o777)
        done = subprocess.run(
            [*become, sys.executable, "-c", DRIVER],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "HOME": "/", "RAY_TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=PROJECT,
        )
    assert done.stdout == "ready\n", done.stderr


@pytest.fixture
def driver() -> Iterator["subprocess.Popen[str]"]:
    """A process with a local Ray, one worker at work and one that stays; what is left of it is killed."""
    program, pipe = [sys.executable, "-c", DRIVER], subprocess.PIPE
    process = subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, cwd=PROJECT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = psutil.Process(process.pid).children(recursive=True)
    yield process
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.kill()
    process.communicate()


@pytest.mark.long
def test_nothing_of_it_is_left_when_its_driver_is_killed(driver: "subprocess.Popen[str]") -> None:
    daemons = psutil.Process(driver.pid).children(recursive=True)
    assert {"gcs_server", "raylet"} <= {process.name() for process in daemons}
    driver.kill()
    assert psutil.wait_procs(daemons, timeout=15)[1] == []


@pytest.mark.long
def test_nothing_of_it_is_left_when_its_head_is_killed(driver: "subprocess.Popen[str]") -> None:
    daemons = psutil.Process(driver.pid).children(recursive=True)
    next(process for process in daemons if process.name() == "gcs_server").kill()
    assert driver.wait(30) != 0, "Ray has ended it"
    assert psutil.wait_procs(daemons, timeout=15)[1] == []


def test_other_children_of_its_driver_are_left_alone() -> None:
    code = """
import subprocess
from batch_assets.engines.ray_engine import RayEngine

other = subprocess.Popen(["sleep", "60"])
engine = RayEngine()
engine.connect()
engine.close()
left_alone = other.poll() is None
other.kill()
other.wait()
raise SystemExit(0 if left_alone else "it was ended")
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_an_address_that_nobody_answers_is_a_sentence(tmp_path: Path) -> None:
    """In a process of its own: Ray would end it."""
    code = "from batch_assets.engines.ray_engine import RayEngine\nRayEngine('127.0.0.1:9').connect()"
    done = python(code)
    assert done.returncode == 1
    assert f"{EngineError.__name__}: Nobody answers at the Ray address 127.0.0.1:9" in done.stderr


@pytest.mark.long
def test_a_cluster_of_somebody_else_keeps_its_own_authentication() -> None:
    """Here one without any: what is ours is not asked for."""
    code = """
import json, os, ray
from ray.cluster_utils import Cluster
from batch_assets.engines.ray_engine import RayEngine

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
engine = RayEngine(cluster.address)
there = engine.connect() == {"RAY_ADDRESS": cluster.address}
print(json.dumps([there, os.environ["RAY_AUTH_MODE"], "RAY_AUTH_TOKEN" in os.environ]))
engine.close()
cluster.shutdown()
"""
    done = python(code, RAY_AUTH_MODE="disabled")
    assert json.loads(done.stdout.splitlines()[-1]) == [True, "disabled", False], done.stderr
