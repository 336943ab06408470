"""A run of tests shares what it can, and says what it has not run."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from batch_assets_tests.conftest import PROJECT, require
from batch_assets_tests.servers import CassandraServer
from batch_assets_tests.servers.server import wait_until_ended

pytestmark = pytest.mark.process

WORKER = """
import os, sys
from pathlib import Path
from batch_assets_tests.servers import shared_cassandra

print(shared_cassandra(Path(sys.argv[1]), os.getppid()).port, flush=True)
"""

RUN = """
import json, subprocess, sys

command = [sys.executable, "-c", *sys.argv[1:]]
workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
print(json.dumps([int(worker.communicate()[0]) for worker in workers]), flush=True)
sys.stdin.read()
"""


@pytest.mark.long
def test_a_runs_processes_share_a_cassandra_that_outlives_them_and_not_the_run(tmp_path: Path) -> None:
    require(CassandraServer)
    command = [sys.executable, "-c", RUN, WORKER, str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        port, other = json.loads(run.stdout.readline())
        assert port == other
        listening = [connection for connection in psutil.net_connections("tcp") if connection.laddr.port == port]
        server = psutil.Process(next(connection.pid for connection in listening if connection.pid and not connection.raddr))
        assert server.is_running()
        run.kill()
    assert wait_until_ended([server], 30) == []


def run_without_servers(environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """The run of one test by a process of its own, on a machine whose PATH has no program."""
    test = "batch_assets_tests/servers/test_servers.py::TestRedis::test_who_does_not_know_the_password_is_refused"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses", "1", test]
    environment = {**os.environ, "PATH": "/nowhere", **environment}
    return subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=180)


@pytest.mark.long
def test_the_last_line_says_what_has_not_run_and_why() -> None:
    run = run_without_servers({"BATCH_ASSETS_SERVERS": ""})
    expected = "not run: 1 test of batch_assets_tests/servers/test_servers.py: needs redis-server: run `make servers`"
    assert (run.stdout.splitlines()[-1], run.returncode) == (expected, 0)


@pytest.mark.long
def test_where_servers_are_required_a_missing_one_fails_its_tests() -> None:
    run = run_without_servers({"BATCH_ASSETS_SERVERS": "required"})
    assert "needs redis-server: run `make servers`" in run.stdout
    assert run.returncode == 1
