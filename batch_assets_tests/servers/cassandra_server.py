"""A Cassandra of one node that tests may kill. It takes some ten seconds to start and a gigabyte of memory.

Every write is in its commit log on the disk before it is answered. By Cassandra's own default, `periodic`, a node that is
killed may forget what it has answered in the last tenth of a second.
"""

import json
import re
import socket
from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from batch_assets_tests.servers.jars import HERE, QUICK, JarServer, java
from batch_assets_tests.servers.server import ServerFailed

_MENDING = re.compile(r"DELETE FROM system_schema\.\w+ WHERE [^;]+;")
_SKIPS = "cassandra.ignore_corrupted_schema_tables"

EXPORTS = {
    "java.base": "jdk.internal.misc jdk.internal.ref sun.nio.ch",
    "java.management.rmi": "com.sun.jmx.remote.internal.rmi",
    "java.rmi": "sun.rmi.registry sun.rmi.server sun.rmi.transport.tcp",
    "java.sql": "java.sql",
}
OPENS = {
    "java.base": (
        "java.lang.module java.lang java.lang.reflect java.io java.net java.nio java.util java.util.concurrent"
        " java.util.concurrent.atomic jdk.internal.loader jdk.internal.ref jdk.internal.reflect jdk.internal.math"
        " jdk.internal.module jdk.internal.util.jar jdk.internal.vm sun.nio.ch"
    ),
    "jdk.management": "com.sun.management.internal",
    "jdk.management.agent": "jdk.internal.agent",
}
"""What Cassandra uses of the inner packages of Java 17, by module, as its own jvm17-server.options say."""


class CassandraServer(JarServer):
    """A Cassandra server.

    A node that is killed while it drops a table may have half of what describes it, and does not start again. Then it is
    started as its own message says, without that table, and the statements of that message are run; `mended` counts these.

    Args:
        settings: of cassandra.yaml.
    """

    wants: ClassVar[str] = "Cassandra"
    jars: ClassVar[str] = "cassandra"
    patience: ClassVar[float] = 240.0

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(settings)
        self.mended, self._skips = 0, False

    @override
    def start(self) -> None:
        said = len(self.log) if (self.folder / "server.log").exists() else 0
        try:
            super().start()
        except ServerFailed:
            statements = list(dict.fromkeys(_MENDING.findall(self.log[said:])))
            if not statements:
                raise
            self._skips = True
            try:
                super().start()
            finally:
                self._skips = False
            self._tell(statements)
            self.mended += 1
            self.stop()
            super().start()

    def prepare(self) -> None:
        folders = ("commitlog_directory", "hints_directory", "saved_caches_directory", "cdc_raw_directory")
        settings = {
            "cluster_name": "tests",
            "num_tokens": 1,
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch": "SimpleSnitch",
            "seed_provider": [
                {
                    "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                    "parameters": [{"seeds": f"127.0.0.1:{self.port + 1}"}],
                }
            ],
            "listen_address": "127.0.0.1",
            "rpc_address": "127.0.0.1",
            "native_transport_port": self.port,
            "storage_port": self.port + 1,
            "ssl_storage_port": self.port + 2,
            "commitlog_sync": "batch",
            "auto_snapshot": False,
            "authenticator": "AllowAllAuthenticator",
            "authorizer": "AllowAllAuthorizer",
            "data_file_directories": [str(self.folder / "data")],
            **{name: str(self.folder / name) for name in folders},
            **self.settings,
        }
        (self.folder / "cassandra.yaml").write_text(json.dumps(settings, indent=1))

    @property
    def command(self) -> list[str]:
        properties = {
            "cassandra.config": f"file://{self.folder}/cassandra.yaml",
            "cassandra.storagedir": self.folder,
            "cassandra-foreground": "yes",
            _SKIPS: str(self._skips).lower(),
            "cassandra.ring_delay_ms": 0,
            "cassandra.skip_wait_for_gossip_to_settle": 0,
            "cassandra.superuser_setup_delay_ms": 0,
            "java.io.tmpdir": self.folder,
            "jdk.attach.allowAttachSelf": "true",
            "logback.configurationFile": HERE / "cassandra.logback.xml",
        }
        return [
            *(str(java()), "-Xms512m", "-Xmx768m", *QUICK),
            *_inner("--add-exports", EXPORTS),
            *_inner("--add-opens", OPENS),
            *(f"-D{name}={value}" for name, value in properties.items()),
            *("-cp", f"{self.brought()}/*", "org.apache.cassandra.service.CassandraDaemon"),
        ]

    def _tell(self, statements: list[str]) -> None:
        from cassandra.cluster import Cluster

        with Cluster(["127.0.0.1"], port=self.port) as cluster, cluster.connect() as session:
            for statement in statements:
                session.execute(statement)

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answers(self) -> bool:
        """It is asked what it supports, in a frame of the native protocol, version 4, without a body."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                connection.sendall(b"\x04\x00\x00\x00\x05" + bytes(4))  # OPTIONS
                return connection.recv(5)[4:] == b"\x06"  # SUPPORTED
        except OSError:
            return False


def _inner(option: str, packages: dict[str, str]) -> list[str]:
    return [f"{option}={module}/{package}=ALL-UNNAMED" for module, names in packages.items() for package in names.split()]
