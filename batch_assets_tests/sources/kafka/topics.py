"""Topics of a Kafka for tests, and the messages that are put into them, with the times of their days."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from time import monotonic, sleep
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from batch_assets.sources.kafka_source import KafkaSource
from batch_assets_tests.sources.source_behaviour import AFTER, DAY

COLUMNS = {"user": "int64", "x": "float32"}


def at(day: date = DAY, hour: float = 9.5) -> int:
    """A time of a day in milliseconds; half past nine is of the same day from Los Angeles to Auckland."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return round((midnight + timedelta(hours=hour)).timestamp() * 1_000)


def row(user: int, x: float = 0.0, **more: Any) -> bytes:
    return json.dumps({"user": user, "x": x, **more}).encode()


@dataclass(frozen=True)
class Topic:
    """A topic of its own, with what was said of it."""

    url: str
    name: str

    @classmethod
    def made(cls, url: str, partitions: int = 1, name: str = "", **config: str) -> "Topic":
        topic = cls(url, name or f"t-{uuid.uuid4().hex}")
        admin = AdminClient({"bootstrap.servers": url})
        config = {name.replace("_", "."): value for name, value in config.items()}
        admin.create_topics([NewTopic(topic.name, partitions, config=config)])[topic.name].result(60)
        return topic

    def source(self, **said: Any) -> KafkaSource:
        return KafkaSource(**{"servers": self.url, "topic": self.name, "columns": COLUMNS, "timeout_s": 30, **said})

    def producer(self, **said: Any) -> "Producer":
        return Producer({"bootstrap.servers": self.url, **said})

    def send(
        self, *messages: tuple[str | None, bytes | None], time: int | None = None, partition: int = 0, by: Any = None
    ) -> None:
        """Put messages, keys and values, at the end of a partition, all with one time, and wait until they are there."""
        producer = by or self.producer()
        for key, value in messages:
            producer.produce(self.name, value, key, partition=partition, timestamp=at() if time is None else time)
        assert producer.flush(60) == 0

    def send_in_transaction(self, *messages: tuple[str | None, bytes | None], end: str, time: int | None = None) -> Any:
        """The same by a new producer in one transaction, which ends in a commit, an abort or not at all."""
        producer = self.producer(**{"transactional.id": uuid.uuid4().hex, "log_level": 0})
        producer.init_transactions(60)
        producer.begin_transaction()
        self.send(*messages, time=time, by=producer)
        if end == "commit":
            producer.commit_transaction(60)
        elif end == "abort":
            producer.abort_transaction(60)
        return producer

    def messages(self) -> int:
        """How many are there now."""
        consumer = Consumer({"bootstrap.servers": self.url, "group.id": "count", "enable.partition.eof": True})
        consumer.assign([TopicPartition(self.name, 0, 0)])
        try:
            count = 0
            while (message := consumer.poll(60)) is not None and message.error() is None:
                count += 1
        finally:
            consumer.close()
        return count

    def wait_until_compacted(self, written: int) -> None:
        """Wait until fewer messages are there than were written."""
        deadline = monotonic() + 120
        while self.messages() >= written:
            assert monotonic() < deadline
            self.send((uuid.uuid4().hex, row(9)), time=at(AFTER))  # it begins a new segment, as the last one is not compacted
            sleep(0.2)

    def delete_before(self, offset: int, partition: int = 0) -> None:
        admin = AdminClient({"bootstrap.servers": self.url})
        place = TopicPartition(self.name, partition, offset)
        admin.delete_records([place])[place].result(60)


def users(found: Any) -> Sequence[tuple[int, float]]:
    """Users with their x."""
    return list(zip(found["user"].to_pylist(), found["x"].to_pylist(), strict=True))
