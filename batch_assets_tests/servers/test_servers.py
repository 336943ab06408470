"""Servers start, answer, are killed, start again with their data, and end with their owner."""

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from batch_assets_tests.conftest import PROJECT, require
from batch_assets_tests.servers import (
    CassandraServer,
    KafkaServer,
    PostgresServer,
    RedisServer,
    S3Gateway,
    Server,
    SharedServer,
)
from batch_assets_tests.servers.server import wait_until_ended

pytestmark = pytest.mark.process

OWNER = """
import sys, threading, batch_assets_tests.servers as servers

server = getattr(servers, sys.argv[1])()
starter = threading.Thread(target=server.__enter__)
starter.start()
starter.join()
print(*(process.pid for process in server.processes()), flush=True)
sys.stdin.read()
"""


class ServerBehaviour:
    """What every server does. `made` is one that has not started; `write` and `read` keep one word in it."""

    def made(self) -> Server:
        raise NotImplementedError

    def write(self, server: Server, word: str) -> None:
        raise NotImplementedError

    def read(self, server: Server) -> str:
        raise NotImplementedError

    def configured(self, server: Server) -> bool:
        """Whether it has the settings that `made` gives it."""
        raise NotImplementedError

    def test_what_was_written_outlives_a_kill_and_a_stop(self, start_server: Callable[[Server], Server]) -> None:
        server = start_server(self.made())
        port = server.port
        self.write(server, "first")
        processes = server.processes()
        server.kill()
        assert wait_until_ended(processes, 0) == []
        assert not server.answers()
        server.start()
        assert (self.read(server), server.port) == ("first", port)
        self.write(server, "second")
        server.stop()
        assert server.processes() == []
        server.start()
        assert self.read(server) == "second"

    def test_it_has_its_settings_and_listens_on_the_loopback_alone(self, start_server: Callable[[Server], Server]) -> None:
        server = start_server(self.made())
        assert self.configured(server)
        pids = {process.pid for process in server.processes()}
        connections = [connection for connection in psutil.net_connections("inet") if connection.pid in pids]
        listening = {connection.laddr.ip for connection in connections if not connection.raddr}
        assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}  # Java says it as one of IPv6

    def test_it_ends_when_its_owner_is_killed(self) -> None:
        require(type(self.made()))
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, type(self.made()).__name__],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with owner:
            assert owner.stdout is not None
            pids = [int(pid) for pid in owner.stdout.readline().split()]
            assert pids
            processes = [process for process in psutil.process_iter() if process.pid in pids]  # some work for a moment only
            owner.kill()
        assert wait_until_ended(processes, 30) == []


class TestRedis(ServerBehaviour):
    def made(self) -> Server:
        return RedisServer({"maxmemory": "32mb", "user": "reader on >its-word ~* +get"}, password="a-word")

    def write(self, server: Server, word: str) -> None:
        import redis

        with redis.Redis.from_url(server.url) as client:
            client.set("word", word)

    def read(self, server: Server) -> str:
        import redis

        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            return str(client.get("word"))

    def configured(self, server: Server) -> bool:
        import redis

        with redis.Redis.from_url(server.url) as client:
            return bool(client.config_get("maxmemory") == {"maxmemory": str(32 * 2**20)})

    def test_who_does_not_know_the_password_is_refused(self, start_server: Callable[[Server], Server]) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        server = start_server(self.made())
        with (
            redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            client.get("word")

    def test_an_account_may_do_what_its_line_says(self, start_server: Callable[[Server], Server]) -> None:
        import redis

        server = start_server(self.made())
        with redis.Redis(port=server.port, username="reader", password="its-word") as reader:
            assert reader.get("word") is None
            with pytest.raises(redis.exceptions.NoPermissionError):
                reader.set("word", "third")


class TestPostgres(ServerBehaviour):
    def made(self) -> Server:
        return PostgresServer({"max_connections": "12"})

    def write(self, server: Server, word: str) -> None:
        import psycopg

        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS words AS SELECT '' AS word")
            connection.execute("UPDATE words SET word = %s", [word])

    def read(self, server: Server) -> str:
        import psycopg

        with psycopg.connect(server.url) as connection:
            return str(connection.execute("SELECT word FROM words").fetchall()[0][0])

    def configured(self, server: Server) -> bool:
        import psycopg

        with psycopg.connect(server.url) as connection:
            shown = [connection.execute(f"SHOW {name}").fetchone() for name in ("max_connections", "fsync")]
            return shown == [("12",), ("on",)]


@pytest.mark.long
class TestCassandra(ServerBehaviour):
    def made(self) -> Server:
        return CassandraServer({"cluster_name": "these tests"})

    def write(self, server: Server, word: str) -> None:
        with connected(server.port) as session:
            session.execute(
                "CREATE KEYSPACE IF NOT EXISTS k WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
            )
            session.execute("CREATE TABLE IF NOT EXISTS k.words (id int PRIMARY KEY, word text)")
            session.execute("INSERT INTO k.words (id, word) VALUES (1, %s)", [word])

    def read(self, server: Server) -> str:
        with connected(server.port) as session:
            return str(session.execute("SELECT word FROM k.words").one().word)

    def configured(self, server: Server) -> bool:
        with connected(server.port) as session:
            return bool(session.execute("SELECT cluster_name FROM system.local").one().cluster_name == "these tests")


class TestS3(ServerBehaviour):
    def made(self) -> Server:
        return S3Gateway({"health": "/alive"})

    @staticmethod
    def bucket(server: Server) -> Any:
        from obstore.store import S3Store

        assert isinstance(server, S3Gateway)
        (server.folder / "buckets" / "words").mkdir(exist_ok=True)
        said = {name.lower(): value for name, value in server.environment.items()}
        return S3Store("words", config=said, client_options={"allow_http": True})

    def write(self, server: Server, word: str) -> None:
        self.bucket(server).put("word", word.encode())

    def read(self, server: Server) -> str:
        return bytes(self.bucket(server).get("word").bytes()).decode()

    def configured(self, server: Server) -> bool:
        with urllib.request.urlopen(f"{server.url}/alive", timeout=5) as answer:
            return bool(answer.status == 200)


@pytest.mark.long
class TestKafka(ServerBehaviour):
    def made(self) -> Server:
        return KafkaServer({"message.max.bytes": "12345"})

    def write(self, server: Server, word: str) -> None:
        from confluent_kafka import Producer
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": server.url})
        if "words" not in admin.list_topics(timeout=30).topics:
            admin.create_topics([NewTopic("words", 1)])["words"].result()
        producer = Producer({"bootstrap.servers": server.url})
        producer.produce("words", word.encode())
        assert producer.flush(30) == 0

    def read(self, server: Server) -> str:
        """The last word."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": server.url, "group.id": "reader"})
        try:
            _, end = consumer.get_watermark_offsets(TopicPartition("words", 0), timeout=30)
            consumer.assign([TopicPartition("words", 0, end - 1)])
            return str(consumer.consume(1, timeout=30)[0].value().decode())
        finally:
            consumer.close()

    def configured(self, server: Server) -> bool:
        from confluent_kafka.admin import AdminClient, ConfigResource

        broker = ConfigResource(ConfigResource.Type.BROKER, "1")
        admin = AdminClient({"bootstrap.servers": server.url})
        described = admin.describe_configs([broker])[broker].result(30)
        return bool(described["message.max.bytes"].value == "12345")


@contextmanager
def connected(port: int) -> Iterator[Any]:
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
    from cassandra.policies import RoundRobinPolicy

    profiles = {EXEC_PROFILE_DEFAULT: ExecutionProfile(RoundRobinPolicy(), request_timeout=60)}
    cluster = Cluster(
        ["127.0.0.1"],
        port=port,
        protocol_version=5,
        execution_profiles=profiles,
        connect_timeout=60,
        control_connection_timeout=60,
    )
    with cluster, cluster.connect() as session:
        yield session


def test_a_run_has_one_cassandra(cassandra_server: SharedServer) -> None:
    with connected(cassandra_server.port) as session:
        assert session.execute("SELECT rpc_port FROM system.local").one() is not None
