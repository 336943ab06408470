"""Bring what tests start and this machine lacks, the servers and the programs that read from them: `make servers`.

Redis and PostgreSQL are packages of Debian, whose services are neither started nor enabled. Cassandra and Kafka are what
cassandra.pom.xml and kafka.pom.xml ask Maven for; each jar has to be the one that the list beside it says. Go builds the S3
server, and compares what it fetches with its own checksum database. Packages of node are those that a lock file names, with
their digests. Feast gets an environment of its own. What is here already is left as it is.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from batch_assets_tests.readers.programs import HERE as READERS
from batch_assets_tests.readers.programs import Feast, Node
from batch_assets_tests.servers import CassandraServer, KafkaServer, PostgresServer, RedisServer
from batch_assets_tests.servers.jars import JarServer, digests, java
from batch_assets_tests.servers.s3_gateway import PROGRAM, VERSION, S3Gateway

PATIENCE = 900.0
"""Seconds that a download may take."""

JAVA = 17
"""The newest that Cassandra 5.0 runs on, and the oldest that Kafka 4 does."""

INSTALL = r"""
set -eu
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d  # Debian's own way to say that packages start no service
if [ ! -e $policy ]; then
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
fi
apt-get update -qq
apt-get install -qq --no-install-recommends "$@"
for service in "$@"; do
  if command -v systemctl >/dev/null; then systemctl disable --quiet "$service" 2>/dev/null || true; fi
done
"""


class CannotBeHad(RuntimeError):
    """Something cannot be brought here; one sentence."""


def main() -> int:
    """Bring all that can be had, and say of the rest why it cannot; the exit status, which is of the servers alone."""
    refused = False
    for bring in (_redis, _postgres, _cassandra, _kafka, _s3, _node, _feast):
        try:
            bring()
        except CannotBeHad as reason:
            print(reason, file=sys.stderr)
            refused |= bring not in (_node, _feast)
    return int(refused)


def _redis() -> None:
    if RedisServer.missing():
        _install("redis-server")


def _postgres() -> None:
    if PostgresServer.missing():
        _install("postgresql")


def _cassandra() -> None:
    _jars(CassandraServer)


def _kafka() -> None:
    _jars(KafkaServer)


def _jars(server: type[JarServer]) -> None:
    if shutil.which("java") is None and java() is None:
        _install(f"openjdk-{JAVA}-jre-headless")
    if _java_version() != JAVA:
        raise CannotBeHad(f"{server.wants} needs Java {JAVA}, and here is {java() or 'none'}; say in JAVA_HOME where one is.")
    listed, jars = server.listed(), server.brought()
    if jars.exists() and digests(jars) == listed:
        return
    if shutil.which("mvn") is None:
        _install("maven")
    jars.parent.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=jars.parent) as temporary:
        new = Path(temporary) / "jars"
        copy = ["mvn", "-q", "-B", "-f", str(server.pom()), "dependency:copy-dependencies", f"-DoutputDirectory={new}"]
        _run(server.wants, copy)
        others = sorted({name for name, _ in listed.items() ^ digests(new).items()})
        if others:
            raise CannotBeHad(
                f"{server.wants} is not what {jars.name}.sha256 says; these jars are others: {', '.join(others)}."
            )
        shutil.rmtree(jars, ignore_errors=True)
        new.rename(jars)


def _s3() -> None:
    if not S3Gateway.missing():
        return
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        raise CannotBeHad("versitygw needs Go 1.24 or newer, which is not here; install it in your own way.")
    module = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
    _run("versitygw", ["env", f"GOBIN={PROGRAM.parent}", go, "install", module])


def _node() -> None:
    if not Node.missing():
        return
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise CannotBeHad(
            "Readers in JavaScript need node 20 or newer and npm, which are not here; install them in your own way."
        )
    Node.packages.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(READERS / name, Node.packages)
    try:
        _run("Packages of node", ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], Node.packages)
    except CannotBeHad:
        (Node.packages / "package-lock.json").unlink()
        raise


def _feast() -> None:
    if not Feast.missing():
        return
    shutil.rmtree(Feast.environment, ignore_errors=True)
    _run("Feast", [sys.executable, "-m", "venv", str(Feast.environment)])
    python = str(Feast.environment / "bin" / "python")
    _run("Feast", [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"feast=={Feast.version}"])


def _java_version() -> int:
    if java() is None:
        return 0
    said = subprocess.run([str(java()), "-version"], capture_output=True, text=True, timeout=PATIENCE).stderr
    version = re.search(r'version "(\d+)', said)
    return int(version[1]) if version else 0


def _install(*packages: str) -> None:
    what = ", ".join(packages)
    if shutil.which("apt-get") is None:
        raise CannotBeHad(f"{what} cannot be installed, as this machine has no apt-get; install it in your system's own way.")
    if os.getuid() and shutil.which("sudo") is None:
        raise CannotBeHad(f"{what} cannot be installed, as you are not root and there is no sudo.")
    _run(what, [*(["sudo"] if os.getuid() else []), "sh", "-c", INSTALL, "install", *packages])


def _run(what: str, command: list[str], folder: Path | None = None) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE, cwd=folder)
    except subprocess.TimeoutExpired:
        raise CannotBeHad(f"{what} cannot be had: {command[0]} takes more than {PATIENCE:.0f} s.") from None
    except subprocess.CalledProcessError as failed:
        lines = (failed.stderr + failed.stdout).strip().splitlines() or [f"{command[0]} ended with {failed.returncode}"]
        raise CannotBeHad(f"{what} cannot be had: {lines[0]}") from None


if __name__ == "__main__":
    sys.exit(main())
