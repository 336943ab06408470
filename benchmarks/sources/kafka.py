"""A topic of JSON messages: the source kafka beside the fastest consumer and decoder that was found.

    python benchmarks/sources/kafka.py [--messages 1000000] [--keys 300000] [--partitions 4] [--rounds 3]
    python benchmarks/sources/kafka.py --memory 2000000 20000000 [--memory-limit 512MB]

It starts a Kafka of its own on this machine and fills a topic, which both read in alternation. The bare consumer asks for
10,000 messages at once, joins them, decodes them by `pyarrow.json` and keeps nothing; it is tried alone and with decoding on a
thread of its own, with the source's settings of librdkafka and with librdkafka's defaults. It does not look for the last
message of a key, does not sort and keeps no provenance, as the source does. With --memory, topics of these sizes are read in a
process each, and their peaks of memory compared. Not compared: a network, compression other than lz4, Avro, several brokers.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.pop(0)  # in this file's own folder `kafka` would be another module
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import pyarrow as pa
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from pyarrow import json

from batch_assets.sources.kafka_source import KafkaSource
from batch_assets_tests.servers import KafkaServer

DAY, MIDNIGHT = "2024-03-10", 1_710_028_800_000
COLUMNS = {"user": "int64", "visits": "int32", "minutes": "float64", "country": "string", "score": "float32"}
SCHEMA = pa.schema({**COLUMNS, "minutes": pa.float64(), "score": pa.float32()})
AT_ONCE = 10_000
TUNED = {"fetch.queue.backoff.ms": 5, "fetch.wait.max.ms": 50}


def fill(url: str, topic: str, messages: int, keys: int, partitions: int) -> None:
    """Make a topic of messages of some 75 bytes; keys come again and again, each one in one partition."""
    admin = AdminClient({"bootstrap.servers": url})
    admin.create_topics([NewTopic(topic, partitions)])[topic].result(60)
    producer = Producer({"bootstrap.servers": url, "linger.ms": 50, "batch.size": 1 << 20, "compression.type": "lz4"})
    for number in range(messages):
        user = number * 7_919 % keys
        said = (user, number % 97, number / 7 % 1_000, number / 13 % 1)
        written = MIDNIGHT + number * 86_000_000 // messages
        value = b'{"user":%d,"visits":%d,"minutes":%.3f,"country":"DE","score":%.6f}' % said
        while True:
            try:
                producer.produce(topic, value, b"%d" % user, user % partitions, timestamp=written)
                break
            except BufferError:
                producer.poll(0.1)
        if number % AT_ONCE == 0:
            producer.poll(0)
    producer.flush()


def consumed(url: str, topic: str, partitions: int, messages: int, options: dict[str, Any]) -> Iterator[Sequence[bytes]]:
    """The values of a topic's messages."""
    consumer = Consumer({"bootstrap.servers": url, "group.id": "bare", "enable.auto.commit": False, **options})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    while messages:
        found = consumer.consume(AT_ONCE, 0.1)
        if any(message.error() is not None for message in found):
            raise SystemExit("a message cannot be read")
        messages -= len(found)
        yield list(map(Message.value, found))
    consumer.close()


def decoded(values: Sequence[bytes]) -> int:
    """How many rows they are."""
    text = b"\n".join(values)
    table = json.read_json(
        pa.py_buffer(text),
        read_options=json.ReadOptions(block_size=len(text) + 1, use_threads=False),
        parse_options=json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore"),
    )
    return int(table.num_rows)


def bare(batches: Iterator[Sequence[bytes]], on_a_thread: bool) -> int:
    """The rows of all messages, decoded."""
    if not on_a_thread:
        return sum(map(decoded, filter(None, batches)))
    with ThreadPoolExecutor(1) as thread:
        return sum(found.result() for found in [thread.submit(decoded, values) for values in batches if values])


def source_rows(source: KafkaSource) -> int:
    """The rows of the source, in the order of their keys."""
    with tempfile.TemporaryDirectory() as spill, source.read(DAY, ["user"], Path(spill)) as read:
        return sum(len(batch) for batch in read.rows)


def compare(said: argparse.Namespace, url: str) -> None:
    """Print messages a second of both."""
    topic = "compared"
    fill(url, topic, said.messages, said.keys, said.partitions)
    source = KafkaSource(servers=url, topic=topic, columns=COLUMNS)

    def by(options: dict[str, Any], on_a_thread: bool) -> Callable[[], int]:
        return lambda: bare(consumed(url, topic, said.partitions, said.messages, options), on_a_thread)

    asked: dict[str, tuple[Callable[[], int], int]] = {
        "the source": (lambda: source_rows(source), min(said.keys, said.messages)),
        "bare": (by(TUNED, False), said.messages),
        "bare, decoding on a thread": (by(TUNED, True), said.messages),
        "bare, librdkafka's defaults": (by({}, False), said.messages),
    }
    seconds = dict[str, list[float]]()
    for _ in range(said.rounds):
        for who, (ask, expected) in asked.items():
            started = time.perf_counter()
            if ask() != expected:
                raise SystemExit(f"{who} has other rows")
            seconds.setdefault(who, []).append(time.perf_counter() - started)
    ours = seconds.pop("the source")
    print(f"{said.messages:,} messages, {said.keys:,} keys, medians of {said.rounds} rounds")
    print(f"{'the source':28} {said.messages / statistics.median(ours):9,.0f} messages/s")
    for who, theirs in seconds.items():
        rounds = ", ".join(f"{b / a:.2f}" for a, b in zip(ours, theirs, strict=True))
        ratio = statistics.median(theirs) / statistics.median(ours)
        print(f"{who:28} {said.messages / statistics.median(theirs):9,.0f} messages/s  {ratio:.2f} : 1  (rounds {rounds})")


def compare_memory(said: argparse.Namespace, url: str) -> None:
    """Print the peaks of memory of processes that read topics of several sizes."""
    peaks = []
    for messages in said.memory:
        topic = f"of-{messages}"
        fill(url, topic, messages, messages // 2, said.partitions)
        source = KafkaSource(servers=url, topic=topic, columns=COLUMNS, memory_limit=said.memory_limit)
        command = [sys.executable, __file__, "--peak-of", source.model_dump_json()]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"{messages:12,} messages: {peaks[-1] / 1e6:7,.0f} MB at most  {peaks[-1] / peaks[0]:.2f} : 1", flush=True)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=300_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+", help="messages of the topics whose peaks of memory are compared")
    parser.add_argument("--memory-limit", default="512MB", help="of the source")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.peak_of:
        source_rows(KafkaSource.model_validate_json(said.peak_of))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024)
        return
    with KafkaServer() as server:
        (compare_memory if said.memory else compare)(said, server.url)


if __name__ == "__main__":
    main()
