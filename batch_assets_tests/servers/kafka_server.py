"""A Kafka of one node that tests may kill, its own controller (KRaft). It takes some seconds to start.

Nothing that it keeps grows old: tests give messages the times of their days, which are long past.
"""

import base64
import uuid
from collections.abc import Mapping
from typing import ClassVar

from batch_assets_tests.servers.jars import QUICK, JarServer, java


class KafkaServer(JarServer):
    """A Kafka server; it makes no topic that nobody asked for.

    Who comes to `url` may do everything.

    Args:
        settings: lines of server.properties.
        accounts: passwords by name, of those who come to `guarded_url` by SASL/PLAIN; what they may do somebody has to say.
    """

    wants: ClassVar[str] = "Kafka"
    jars: ClassVar[str] = "kafka"
    patience: ClassVar[float] = 120.0

    def __init__(self, settings: Mapping[str, str] | None = None, accounts: Mapping[str, str] | None = None) -> None:
        super().__init__(settings)
        self._accounts = dict(accounts or {})

    def prepare(self) -> None:
        clients, controller = self.url, f"127.0.0.1:{self.port + 1}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{clients},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{clients}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "false",
            "log.retention.ms": "-1",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            "log.cleaner.backoff.ms": "200",
            "broker.session.timeout.ms": "3000",  # one that was killed is let in again only then
            "broker.heartbeat.interval.ms": "500",
            **self._guarded(),
            **self.settings,
        }
        (self.folder / "server.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self.run([*self._java("kafka.tools.StorageTool"), "format", f"--cluster-id={cluster}", "-c", "server.properties"])

    def _guarded(self) -> dict[str, str]:
        if not self._accounts:
            return {}
        known = "".join(f' user_{name}="{password}"' for name, password in self._accounts.items())
        open_, controller = f"PLAINTEXT://{self.url}", f"CONTROLLER://127.0.0.1:{self.port + 1}"
        return {
            "listeners": f"{open_},{controller},SASL_PLAINTEXT://{self.guarded_url}",
            "advertised.listeners": f"{open_},SASL_PLAINTEXT://{self.guarded_url}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
                f"org.apache.kafka.common.security.plain.PlainLoginModule required{known};"
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }

    @property
    def command(self) -> list[str]:
        return [*self._java("kafka.Kafka"), "server.properties"]

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def guarded_url(self) -> str:
        """Where accounts come in."""
        return f"127.0.0.1:{self.port + 2}"

    def answers(self) -> bool:
        """It is asked which brokers there are, and is one of them as soon as its controller says so."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            return bool(AdminClient({"bootstrap.servers": self.url, "log_level": 0}).list_topics(timeout=1).brokers)
        except KafkaException:
            return False

    def _java(self, program: str) -> list[str]:
        logging = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return [str(java()), "-Xmx512m", *QUICK, logging, "-cp", f"{self.brought()}/*", program]
