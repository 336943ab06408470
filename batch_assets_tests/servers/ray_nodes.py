"""Machines of a Ray cluster that tests may kill, cut off and add: network namespaces of this machine, joined by a bridge.

Each has an address, a folder, a home and a cache of its own, and one core. They share the network, and on it a bucket. Nothing
outside of this machine can reach them.
"""

import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil

from batch_assets_tests.servers.s3_gateway import S3Gateway
from batch_assets_tests.servers.server import ServerFailed, ServerMissing

WANTS = "network namespaces, which need root and iproute2"

_QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
"""A node that is cut off is missed within some seconds instead of half a minute."""

_PATIENCE = 60.0
_GROUPS = Path("/sys/fs/cgroup/cpu")
"""Where Linux bounds the processor time of groups of processes (cgroup v1, as on the machine that this was run on)."""

_RAY = str(Path(sys.executable).parent / "ray")


class BridgedGateway(S3Gateway):
    """A versitygw server that listens on the bridge."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address

    @property
    def host(self) -> str:
        return self._address

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "AWS_ALLOW_HTTP": "true"}


class Machine:
    """One machine of a network: a namespace with an address."""

    def __init__(self, network: "Network", number: int) -> None:
        self.name, self.address = f"{network.name}n{number}", f"{network.subnet}.{number}"
        self.folder = network.folder / str(number)
        self.folder.mkdir()
        self._started: list[subprocess.Popen[str]] = []
        self._link, self._group = f"{network.name}v{number}", _GROUPS / self.name
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", self._link, "master", network.name, "up")
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.name, "link", "set", device, "up")

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """What programs on it find: nothing of this machine's own folders."""
        own = {"HOME": str(self.folder), "BATCH_ASSETS_CACHE": str(self.folder / "cache"), "TMPDIR": str(self.folder)}
        return {**os.environ, **own, **more}

    def run(
        self, command: list[str], environment: Mapping[str, str], seen: Mapping[Path, Path] | None = None, **options: Any
    ) -> "subprocess.Popen[str]":
        """Start a program on it; `seen` are folders in whose place it sees others."""
        mounts = [
            f"mount --bind {shlex.quote(str(other))} {shlex.quote(str(folder))}" for folder, other in (seen or {}).items()
        ]
        named = ["unshare", "--uts", "--mount", "sh", "-c", " && ".join([*mounts, 'hostname "$0"', 'exec "$@"']), self.name]
        inside = ["ip", "netns", "exec", self.name, *named, *command]
        started = subprocess.Popen(inside, env=self.environment(environment), text=True, start_new_session=True, **options)
        self._started.append(started)
        return started

    def pids(self) -> list[int]:
        """Its processes."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(word) for word in found.stdout.split()]

    def share(self, of_a_core: float) -> None:
        """Bound the processor time of all of its processes, and of those that they start; as root, with cgroup v1.

        Raises:
            ServerMissing: the machine bounds it in another way.
        """
        if not (_GROUPS / "cpu.cfs_quota_us").exists():
            raise ServerMissing("A share of a core needs cgroup v1's cpu controller.")
        self._group.mkdir()
        (self._group / "cpu.cfs_quota_us").write_text(str(round(of_a_core * 100_000)))  # of each 100 ms, Linux's period
        while outside := set(self.pids()) - set(map(int, (self._group / "cgroup.procs").read_text().split())):
            for pid in outside:
                with suppress(ProcessLookupError):
                    (self._group / "cgroup.procs").write_text(str(pid))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End everything on it, as when a machine loses its power."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def cut(self) -> None:
        """Take it off the network; its processes live on."""
        _ip("link", "set", self._link, "down")

    def mend(self) -> None:
        """Put it back."""
        _ip("link", "set", self._link, "up")

    def remove(self) -> None:
        """End it for good."""
        if not self.folder.exists():
            return
        self.kill()
        for process in self._started:
            process.wait()
        _ip("netns", "del", self.name)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._group.exists():
            while (self._group / "cgroup.procs").read_text():  # killed, and not quite gone
                time.sleep(0.01)
            self._group.rmdir()


class Network:
    """A context manager: machines and the bridge between them; all of it goes with the block."""

    def __init__(self) -> None:
        self.name, self.subnet, self._numbers = "", "", 0

    @classmethod
    def require(cls) -> None:
        """Raises ServerMissing where there can be no namespaces."""
        if os.getuid() != 0 or shutil.which("ip") is None:
            raise ServerMissing(f"needs {WANTS}")
        probe = f"bat{os.getpid()}p"
        if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
            raise ServerMissing(f"needs {WANTS}")
        _ip("netns", "del", probe)

    def __enter__(self) -> Self:
        _sweep()
        taken = subprocess.run(["ip", "-4", "addr"], capture_output=True, text=True, check=True).stdout
        free = next(number for number in range(1, 250) if f"10.213.{number}." not in taken)
        self.name, self.subnet = f"bat{os.getpid()}", f"10.213.{free}"
        self.folder = Path(tempfile.mkdtemp(prefix="bat", dir="/tmp"))  # Ray's sockets need short names
        self.machines: list[Machine] = []
        _ip("link", "add", self.name, "type", "bridge")
        _ip("addr", "add", f"{self.subnet}.1/24", "dev", self.name)
        _ip("link", "set", self.name, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            machine.remove()
        _ip("link", "del", self.name)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def gateway(self) -> str:
        """The address of what is not in a namespace."""
        return f"{self.subnet}.1"

    def machine(self) -> Machine:
        """One more."""
        self._numbers += 1
        made = Machine(self, 1 + self._numbers)
        self.machines.append(made)
        return made


class RayNodes:
    """A Ray cluster on a network: a head without cores, which drivers run on, and workers of one core each."""

    def __init__(self, network: Network, environment: Mapping[str, str]) -> None:
        self._network = network
        self.environment = {
            **environment,
            **_QUICK,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(Path(__file__).parent.parent.parent),
        }
        self.head = self._started("--head", "--port=6379", "--include-dashboard=false", cores=0)

    @property
    def address(self) -> str:
        """Where drivers on the head find it."""
        return f"{self.head.address}:6379"

    def add(
        self,
        core: int | None = None,
        seen: Mapping[Path, Path] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Machine:
        """One more worker; on one core of this machine if that is said. `seen` are folders in whose place it sees others."""
        return self._started(f"--address={self.address}", cores=1, core=core, seen=seen, environment=environment)

    def driver(self, command: list[str]) -> "subprocess.Popen[str]":
        """Start a program on the head, with the cluster's address."""
        said = {**self.environment, "RAY_ADDRESS": self.address}
        return self.head.run(command, said, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def drain(self, machine: Machine) -> None:
        """Tell Ray that a machine will be taken away in a minute, as it is told of spot instances."""
        ids = f"[one['NodeID'] for one in ray.nodes() if one['NodeManagerAddress'] == '{machine.address}']"
        look = f"import ray; ray.init(log_to_driver=False); print({ids}[0])"
        named = self.driver([sys.executable, "-c", look]).communicate(timeout=_PATIENCE)[0].split()[-1]
        said = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=60"]
        process = self.driver([_RAY, "drain-node", f"--address={self.address}", f"--node-id={named}", *said])
        found = process.communicate(timeout=_PATIENCE)
        if process.returncode:
            raise ServerFailed(f"The node cannot be drained: {found}")

    def _started(
        self,
        *options: str,
        cores: int,
        core: int | None = None,
        seen: Mapping[Path, Path] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Machine:
        machine = self._network.machine()
        pinned = ["taskset", "-c", str(core)] if core is not None else []
        program = [*pinned, _RAY, "start", *options, f"--num-cpus={cores}", "--block"]
        program += [
            f"--node-ip-address={machine.address}",
            f"--temp-dir={machine.folder}/ray",
            "--object-store-memory=80000000",
        ]
        log = machine.folder / "log"
        with log.open("w") as file:
            process = machine.run(program, {**self.environment, **(environment or {})}, seen, stdout=file, stderr=file)
        deadline = time.monotonic() + _PATIENCE
        while "Ray runtime started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerFailed(f"A node of Ray did not start: {log.read_text()[-2_000:]}")
            time.sleep(0.05)
        return machine


@contextmanager
def ray_nodes() -> Iterator[tuple[RayNodes, BridgedGateway]]:
    """A cluster whose machines share nothing but a bucket."""
    Network.require()
    BridgedGateway.require()
    with Network() as network, BridgedGateway(network.gateway) as gateway:
        yield RayNodes(network, gateway.environment), gateway


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _sweep() -> None:
    """Remove the namespaces and bridges of those that could not do so themselves, as they were killed."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    for name in re.findall(r"^bat(\d+)[np]\d*", names, re.MULTILINE):
        if not psutil.pid_exists(int(name)):
            for one in re.findall(rf"^bat{name}[np]\d*", names, re.MULTILINE):
                subprocess.run(["ip", "netns", "del", one], check=False, capture_output=True)
    for link in re.findall(r"^(bat(\d+)) ", links, re.MULTILINE):
        if not psutil.pid_exists(int(link[1])):
            subprocess.run(["ip", "link", "del", link[0]], check=False, capture_output=True)
