"""What a cluster is asked of a topic, and the sentences that its refusals become."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal

from batch_assets.errors import SourceError
from batch_assets.ports import extra
from batch_assets.secret import Secret

Option = Secret | bool | int | float | str
"""A value of an option of librdkafka."""

OURS = frozenset({"bootstrap.servers", "enable.partition.eof", "enable.auto.commit", "auto.offset.reset"})
"""Options that nobody else may say."""

_DEFAULTS = {
    "group.id": "batch-assets",  # which librdkafka wants to hear, although nobody joins it and nothing is committed
    "isolation.level": "read_committed",
    "fetch.queue.backoff.ms": 5,  # by default a second is waited after 100,000 messages
    "fetch.wait.max.ms": 50,
    "log_level": 0,  # what it says goes into the errors
}
_ABSENT = frozenset({"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "UNKNOWN_TOPIC_ID"})
_GONE = frozenset({"OFFSET_OUT_OF_RANGE", "_AUTO_OFFSET_RESET"})
_SILENT = frozenset({"_TRANSPORT", "_TIMED_OUT", "_ALL_BROKERS_DOWN", "_RESOLVE", "REQUEST_TIMED_OUT"})
_STRANGER = frozenset({"_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "_SSL"})


class Cluster:
    """A cluster, spoken to about one topic.

    Args:
        servers: `host:port`, several with commas between them.
        topic: its name.
        options: of librdkafka.
        timeout_s: how long it may be silent.

    Raises:
        MissingExtra: confluent-kafka is not installed.
        ConfigError: the environment variable of a secret is not set.
        SourceError: there is no such option, or it cannot have that value.
    """

    def __init__(self, servers: str, topic: str, options: Mapping[str, Option], timeout_s: float) -> None:
        self.servers, self.topic, self.timeout_s = servers, topic, timeout_s
        self._kafka = extra("confluent_kafka", "kafka", "The source kafka")
        self._admin = extra("confluent_kafka.admin", "kafka", "The source kafka")
        self._secrets = [option.reveal() for option in options.values() if isinstance(option, Secret)]
        self._options = {**_DEFAULTS, **{name: _said(option) for name, option in options.items()}}
        self.message: Any = self._kafka.Message
        self._heard = list[Any]()
        self._asked = self._client(self._admin.AdminClient)

    def partitions(self) -> list[int]:
        """The numbers of the topic's partitions. Raises SourceError: there is no such topic, or nobody says so."""
        try:
            topic = self._asked.list_topics(self.topic, timeout=self.timeout_s).topics[self.topic]
        except self._kafka.KafkaException as error:
            raise self._silence(error.args[0]) from error
        if topic.error is not None:
            raise self.refused(topic.error)
        return sorted(topic.partitions)

    def offsets(self, partitions: Sequence[int], where: datetime | Literal["earliest", "end"]) -> dict[int, int]:
        """Of each partition the earliest offset that was not deleted, or the one after its last, also of open transactions.

        Of a moment: the first one of a message, or of a marker of a transaction, that is not older; -1 if there is none.

        Raises:
            SourceError: it may not be asked, or nobody answers.
        """
        spec = self._admin.OffsetSpec
        if isinstance(where, datetime):
            wanted = spec.for_timestamp(milliseconds(where))
        else:
            wanted = {"earliest": spec.earliest, "end": spec.latest}[where]()
        asked = {self._kafka.TopicPartition(self.topic, number): wanted for number in partitions}
        level = self._kafka.IsolationLevel.READ_UNCOMMITTED
        answers = self._asked.list_offsets(asked, isolation_level=level, request_timeout=self.timeout_s)
        try:
            return {place.partition: answer.result().offset for place, answer in answers.items()}
        except self._kafka.KafkaException as error:
            raise self._silence(error.args[0]) from error

    @contextmanager
    def consumer(self, starts: Mapping[int, int]) -> Iterator[Any]:
        """A confluent_kafka.Consumer of some partitions, from offset to offset; it says where each one ends."""
        ours = {"enable.partition.eof": True, "enable.auto.commit": False, "auto.offset.reset": "error"}
        consumer = self._client(self._kafka.Consumer, **ours)
        try:
            consumer.assign([self._kafka.TopicPartition(self.topic, number, start) for number, start in starts.items()])
            yield consumer
        finally:
            consumer.close()

    def leave(self, consumer: Any, partition: int) -> None:
        """Let a consumer fetch no more of a partition."""
        consumer.pause([self._kafka.TopicPartition(self.topic, partition)])

    def refused(self, error: Any) -> SourceError:
        """The sentence about a confluent_kafka.KafkaError."""
        name, said, where = error.name(), self._without_secrets(error.str()), f"the topic {self.topic} at {self.servers}"
        if name in _ABSENT:
            return SourceError(f"There is no topic {self.topic} at {self.servers}; create it, or correct `topic`.")
        if name.endswith("AUTHORIZATION_FAILED"):
            return SourceError(f"Who `options` say may not read {where} ({said}); permit to describe and to read it.")
        if name in _STRANGER:
            return SourceError(f"{self.servers} does not let in who `options` say ({said}); correct them.")
        if name in _GONE:
            return SourceError(f"Messages of {where} were deleted while it was read; read it again, and keep them longer.")
        if name in _SILENT:
            wanted = "see whether one runs there, and correct `servers` and `options`"
            return SourceError(f"No broker of {self.servers} answers within {self.timeout_s:g} s ({said}); {wanted}.")
        return SourceError(f"What {self.servers} says of the topic {self.topic} is no answer: {said}.")

    def answered(self) -> None:
        """A broker has answered: what was heard before is over."""
        self._heard.clear()

    def silence(self) -> SourceError | None:
        """The sentence about what was heard of the brokers since one has answered, if anything was."""
        telling = [error for error in self._heard if error.name() != "_ALL_BROKERS_DOWN"] or self._heard
        return self.refused(telling[-1]) if telling else None

    def _silence(self, error: Any) -> SourceError:
        """What is behind an error that says only that nobody has answered."""
        self._asked.poll(0)
        return (self.silence() if error.name() in _SILENT else None) or self.refused(error)

    def _client(self, kind: Any, **ours: Any) -> Any:
        try:
            return kind({**self._options, **ours, "bootstrap.servers": self.servers, "error_cb": self._heard.append})
        except self._kafka.KafkaException as error:
            said = self._without_secrets(error.args[0].str())
            raise SourceError(f"The `options` of the topic {self.topic} cannot be used: {said}.") from None

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return " ".join(text.split()).rstrip(".")


def milliseconds(moment: datetime) -> int:
    """What Kafka calls a moment: milliseconds since 1970."""
    return round(moment.timestamp() * 1_000)


def _said(option: Option) -> str:
    if isinstance(option, Secret):
        return option.reveal()
    return str(option).lower() if isinstance(option, bool) else str(option)
