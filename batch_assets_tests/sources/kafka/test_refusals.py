"""What cannot be read is told: messages with their places, a topic or a cluster in one sentence and in bounded time."""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType
from pydantic import ValidationError

from batch_assets.errors import ConfigError, SourceError
from batch_assets.sources import kafka_source
from batch_assets.sources.kafka.cluster import Cluster
from batch_assets.sources.kafka.extents import Window
from batch_assets.sources.kafka_source import KafkaSource
from batch_assets_tests.conftest import require
from batch_assets_tests.servers import KafkaServer
from batch_assets_tests.sources.kafka.topics import COLUMNS, Topic, row, users
from batch_assets_tests.sources.source_behaviour import SourceBehaviour

read = SourceBehaviour.read

PASSWORD = "hunter-2-the-secret"


class TestMessages:
    def test_those_that_cannot_be_decoded_are_counted_and_told_with_their_places(
        self, kafka_server: KafkaServer, tmp_path: Path
    ) -> None:
        topic = Topic.made(kafka_server.url, 2)
        topic.send((None, b"word"), ("1", row(1)), (None, b'{"user": 2.5}'), (None, b""), partition=1)
        topic.send(("2", row(2)), (None, b'{"user": 1e9}'))
        found, provenance = read(topic.source(), tmp_path)
        assert found["user"].to_pylist() == [1, 2]
        (table,) = provenance.tables
        assert (table.rows, table.unreadable, table.rows_of_day) == (6, 4, 6)
        (told,) = table.told
        first, second, third = told.removeprefix("4 messages cannot be decoded, like ").split("; ")
        assert first.startswith(f"{topic.name}/0 at offset 1: Failed to convert JSON to int64")
        assert second == f"{topic.name}/1 at offset 0: it is no JSON object"
        assert third.startswith(f"{topic.name}/1 at offset 2: ")

    def test_one_takes_the_place_of_its_key_until_another_message_does(self, kafka_server: KafkaServer, tmp_path: Path) -> None:
        topic = Topic.made(kafka_server.url)
        topic.send(
            ("1", row(1)), ("1", b"word"), ("2", row(2)), ("2", b"word"), ("2", row(2, 1.5)), ("3", b"word"), ("3", None)
        )
        found, provenance = read(topic.source(), tmp_path)
        assert users(found) == [(2, 1.5)]
        assert (provenance.tables[0].unreadable, provenance.tables[0].rows) == (1, 7)
        assert provenance.tables[0].told[0].startswith("3 messages cannot be decoded, like ")

    def test_a_topic_without_a_message_that_can_be_decoded_is_empty(self, kafka_server: KafkaServer, tmp_path: Path) -> None:
        topic = Topic.made(kafka_server.url)
        topic.send(*((str(user), b"word") for user in range(50)))
        found, provenance = read(topic.source(), tmp_path)
        assert (found.schema.names, found.num_rows, provenance.tables[0].unreadable) == (["user", "x"], 0, 50)


class TestClusters:
    def test_a_topic_that_is_not_there_is_named_and_not_made(self, kafka_server: KafkaServer, tmp_path: Path) -> None:
        source = KafkaSource(servers=kafka_server.url, topic="nobody", columns=COLUMNS, timeout_s=30)
        for _ in range(2):
            with pytest.raises(SourceError, match=rf"^There is no topic nobody at {kafka_server.url}; create it, or .*\.$"):
                read(source, tmp_path)

    def test_where_nobody_listens_it_says_so(self, tmp_path: Path) -> None:
        with (
            closed_port() as url,
            pytest.raises(SourceError, match=rf"^No broker of {url} answers within 0.5 s \(.*refused") as told,
        ):
            read(KafkaSource(servers=url, topic="t", columns=COLUMNS, timeout_s=0.5), tmp_path)
        assert "\n" not in str(told.value)

    def test_where_somebody_listens_and_never_answers_it_says_so(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises(SourceError, match=rf"^No broker of {url} answers within 0.5 s \(.*\); see whether .*\.$"):
                read(KafkaSource(servers=url, topic="t", columns=COLUMNS, timeout_s=0.5), tmp_path)

    def test_a_broker_that_stops_in_the_middle_is_told(
        self, kafka_server: KafkaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        topic = Topic.made(kafka_server.url)
        topic.send(("1", row(1)))
        listed = kafka_source.extents
        with ExitStack() as stopped:

            def then_stopped(cluster: Cluster, window: Window) -> Any:
                found = listed(cluster, window)
                stopped.enter_context(kafka_server.standing_still())
                return found

            monkeypatch.setattr(kafka_source, "extents", then_stopped)
            with pytest.raises(SourceError, match=rf"{topic.name}.* has come for 1 s; .*\.$|^No broker .*\.$"):
                read(topic.source(timeout_s=1), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_broker_that_is_killed_and_comes_back_in_the_middle_changes_nothing(
        self, start_server: Callable[[KafkaServer], KafkaServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = start_server(KafkaServer())
        topic = Topic.made(server.url)
        by = topic.producer(**{"batch.num.messages": 500})
        topic.send(*((str(number % 9_000), row(number % 9_000, number)) for number in range(30_000)), by=by)
        little: dict[str, Any] = {"queued.max.messages.kbytes": 1, "fetch.message.max.bytes": 1_000}  # is fetched ahead
        decoded, killed = kafka_source._decoded, list[int]()

        def then_killed(decoder: Any, batch: Any) -> Any:
            if not killed:
                killed.append(len(batch.messages))
                server.kill()
                server.start()
            return decoded(decoder, batch)

        monkeypatch.setattr(kafka_source, "_decoded", then_killed)
        found, provenance = read(topic.source(options=little, timeout_s=60), tmp_path)
        assert killed[0] < 30_000
        assert provenance.tables[0].rows == 30_000
        assert users(found) == [(user, 18_000 + user + 9_000 * (user < 3_000)) for user in range(9_000)]


@pytest.fixture(scope="class")
def guarded() -> Iterator[KafkaServer]:
    require(KafkaServer)
    with KafkaServer(accounts={"reader": PASSWORD, "stranger": PASSWORD}) as server:
        yield server


@pytest.fixture
def topic(guarded: KafkaServer) -> Topic:
    """A topic that `reader` may read."""
    topic = Topic.made(guarded.url)
    topic.send(("1", row(1)))
    anything = (ResourcePatternType.LITERAL, "User:reader", "*")
    acls = [
        AclBinding(ResourceType.TOPIC, topic.name, *anything, operation, AclPermissionType.ALLOW)
        for operation in (AclOperation.DESCRIBE, AclOperation.READ)
    ]
    admin = AdminClient({"bootstrap.servers": guarded.url})
    for made in admin.create_acls(acls).values():
        made.result(60)
    return topic


@pytest.mark.process
class TestAccounts:
    @staticmethod
    def source(server: KafkaServer, topic: Topic, user: str = "reader", **options: str) -> KafkaSource:
        said: dict[str, Any] = {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            **options,
        }
        return topic.source(
            servers=server.guarded_url, timeout_s=3, options={**said, **options, "sasl.password": {"env": "PASSWORD_OF_IT"}}
        )

    def test_who_may_read_it_does_and_the_password_appears_nowhere(
        self,
        guarded: KafkaServer,
        topic: Topic,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv("PASSWORD_OF_IT", PASSWORD)
        source = self.source(guarded, topic, debug="all", log_level="7")
        found, provenance = read(source, tmp_path)
        assert found["user"].to_pylist() == [1]
        out = capfd.readouterr()
        assert "rdkafka" in out.err
        for shown in (provenance.model_dump_json(), source.model_dump_json(), repr(source), *out, caplog.text):
            assert PASSWORD not in shown

    def test_who_may_not_read_it_is_told(
        self, guarded: KafkaServer, topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PASSWORD_OF_IT", PASSWORD)
        with pytest.raises(SourceError, match=rf"may not read the topic {topic.name} at {guarded.guarded_url} \(.*\.$") as told:
            read(self.source(guarded, topic, "stranger"), tmp_path)
        assert PASSWORD not in str(told.value)

    def test_who_may_only_look_at_it_is_told(
        self, guarded: KafkaServer, topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PASSWORD_OF_IT", PASSWORD)
        described = AclBinding(
            *(ResourceType.TOPIC, topic.name, ResourcePatternType.LITERAL, "User:stranger", "*"),
            *(AclOperation.DESCRIBE, AclPermissionType.ALLOW),
        )
        admin = AdminClient({"bootstrap.servers": guarded.url})
        admin.create_acls([described])[described].result(60)
        with pytest.raises(SourceError, match=rf"may not read the topic {topic.name} at {guarded.guarded_url} \(.*\.$"):
            read(self.source(guarded, topic, "stranger"), tmp_path)

    def test_who_is_not_known_is_told(
        self, guarded: KafkaServer, topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PASSWORD_OF_IT", "another-secret")
        with pytest.raises(SourceError, match=rf"^{guarded.guarded_url} does not let in who `options` say \(.*\.$") as told:
            read(self.source(guarded, topic), tmp_path)
        assert "another-secret" not in str(told.value)

    def test_a_secret_that_is_not_set_is_told(
        self, guarded: KafkaServer, topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PASSWORD_OF_IT", raising=False)
        with pytest.raises(ConfigError, match=r"^The environment variable PASSWORD_OF_IT is not set; .*\.$"):
            read(self.source(guarded, topic), tmp_path)


class TestSettings:
    @pytest.mark.parametrize(
        ("said", "sentence"),
        [
            ({"columns": {}}, "JSON needs columns, beside the key_column"),
            ({"key_column": "user", "columns": {"user": "int64"}}, "JSON needs columns, beside the key_column"),
            ({"avro_schema": "a.avsc"}, "has no Avro schema"),
            ({"schema_id": 7}, "has no Avro schema"),
            ({"format": "avro"}, "Avro needs an avro_schema"),
            ({"format": "avro", "avro_schema": "a.avsc"}, "only of the key_column a type can be said"),
            ({"columns": {"a": "int65"}}, "columns.a"),
            ({"columns": {"a": "list<list<int64>>"}}, "columns.a"),
            ({"options": {"bootstrap.servers": "b:1"}}, "bootstrap.servers cannot be one of the options"),
            ({"options": {"enable.partition.eof": False}}, "enable.partition.eof cannot be one of the options"),
            ({"options": {"sasl.password": PASSWORD}}, r"sasl.password is a secret: .* \{env: NAME\}"),
            ({"options": {"ssl.key.pem": PASSWORD}}, "ssl.key.pem is a secret"),
            ({"timeout_s": 0}, "timeout_s"),
        ],
    )
    def test_those_that_do_not_fit_together_are_refused(self, said: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ValidationError, match=sentence) as refused:
            KafkaSource(**{"servers": "a:1", "topic": "t", "columns": COLUMNS, **said})
        assert PASSWORD not in str(refused.value)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"nonsense": 1}, r'No such configuration property: "nonsense"'),
            ({"security.protocol": {"env": "PASSWORD_OF_IT"}}, r'Invalid value "…" for configuration property'),
            ({"fetch.wait.max.ms": "x"}, r"Invalid value for configuration property"),
        ],
    )
    def test_an_option_that_is_none_is_a_sentence(
        self, tmp_path: Path, options: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PASSWORD_OF_IT", PASSWORD)
        with pytest.raises(SourceError, match=rf"^The `options` of the topic t cannot be used: .*{sentence}.*\.$") as refused:
            read(KafkaSource(servers="127.0.0.1:1", topic="t", columns=COLUMNS, options=options), tmp_path)
        assert PASSWORD not in str(refused.value)


@contextmanager
def closed_port() -> Iterator[str]:
    """A port that is taken, and on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"
