"""A Ray of this machine alone: nobody else reaches it, nobody without its token uses it, and it ends with its process.

Whoever may talk to a Ray may run any code in it, so three things are said here instead of being left to Ray's defaults:

- It listens on loopback only. `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0` is how Ray is told that this machine is no part of a
  cluster: its address is then 127.0.0.1, and every server that is given this address binds to it. (Asked for 127.0.0.1
  directly, Ray takes the machine's outward address instead, and binds to all.)
- It asks for a token (`RAY_AUTH_MODE=token`, in Ray since 2.52), made anew for each Ray and handed on in the environment: it
  needs no file in a home folder, which may not be writable, and stands in no command line.
- It ends with the process that started it, however that ends: a guardian ends what Ray leaves, and who loses Ray's head (the
  GCS) learns of it within seconds.

And it starts nothing that only people who look at a cluster need. Autoscaler, dashboard and the forwarding of logs are three
Python processes, which took two of the four seconds of its start and one of its end.
"""

import ipaddress
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_assets.engines import ray_guardian
from batch_assets.errors import EngineError

if TYPE_CHECKING:
    import psutil

_HEAD_LOST_SECONDS = 10
"""How long Ray's processes look for a head that is gone. On one machine a lost connection means that it is dead."""

_GUARDIAN_SECONDS = 10

_SPARED = ("start_monitor", "start_api_server", "start_log_monitor")
"""What a head node of Ray starts for those who look at a cluster; a Ray that calls them otherwise starts them all the same."""


@contextmanager
def local_ray(**options: Any) -> Iterator[dict[str, str]]:
    """Start a Ray and connect to it; end it when the block ends. Gives the environment by which other processes reach it.

    Processes that are started inside the block inherit that environment, but for the address. `options` are ray.init's.

    Raises:
        EngineError: it could be reached from other machines.
    """
    import ray

    secured = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    with _environment(secured):
        guardian = None
        try:
            with _only_what_works():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    _system_config={"gcs_rpc_server_reconnect_timeout_s": _HEAD_LOST_SECONDS},
                    **options,
                )
            guardian = _guardian()
            address = str(ray.get_runtime_context().gcs_address)
            if not ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback:
                raise EngineError(
                    f"Ray {ray.__version__} listens on {address}, not on loopback only: take a version that does."
                )
            yield {"RAY_ADDRESS": address, **secured}
        finally:
            ray.shutdown()
            if guardian:
                guardian.communicate(timeout=_GUARDIAN_SECONDS)


@contextmanager
def _only_what_works() -> Iterator[None]:
    """Let Ray start without what nobody needs here, and its agents as if the dashboard's packages were not installed."""
    from ray._private import node, utils

    said: dict[tuple[Any, str], Any] = {
        (utils, "get_dashboard_dependency_error"): lambda: ImportError("no dashboard is wanted")
    }
    said |= {(node.Node, name): lambda *_, **__: None for name in _SPARED}
    before = {(owner, name): getattr(owner, name) for owner, name in said if hasattr(owner, name)}
    for owner, name in before:
        setattr(owner, name, said[owner, name])
    try:
        yield
    finally:
        for (owner, name), method in before.items():
            setattr(owner, name, method)


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set variables of this process, for Ray and for what is started, and put back what was there."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    _read_again(clustered=False)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_again(clustered=before["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] != "0")


def _read_again(*, clustered: bool) -> None:
    """Ray reads these variables once, when it is imported, and may have been imported before."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    ray_constants.ENABLE_RAY_CLUSTER = clustered
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _daemons() -> "list[psutil.Process]":
    """The processes of the Ray that this one has started, and what these have started: their command lines name its session."""
    import psutil
    import ray

    session = Path(ray._private.worker.global_worker.node.get_session_dir_path()).name
    own = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has ended
            if any(session in word for word in child.cmdline()):
                own += [child, *child.children(recursive=True)]
    return own


def _guardian() -> "subprocess.Popen[bytes]":
    """Have the processes that Ray has started ended when this one is gone; see `ray_guardian`."""
    daemons = (ray_guardian.identity(process.pid) for process in _daemons())
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-I", "-S", ray_guardian.__file__, *filter(None, daemons)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        start_new_session=True,  # what ends the driver's group leaves it alone
    )
