"""Which messages of a topic count: until when, of which key the last one, of which transactions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from batch_assets.errors import SourceError
from batch_assets.sources import kafka_source
from batch_assets.sources.kafka.cluster import Cluster
from batch_assets.sources.kafka.extents import Extent, Window
from batch_assets_tests.servers import KafkaServer
from batch_assets_tests.sources.kafka.topics import Topic, at, row, users
from batch_assets_tests.sources.source_behaviour import AFTER, BEFORE, DAY, SourceBehaviour

read = SourceBehaviour.read


@pytest.fixture
def topic(kafka_server: KafkaServer) -> Topic:
    return Topic.made(kafka_server.url, 2)


def test_of_each_key_the_last_message_until_the_days_end_counts(topic: Topic, tmp_path: Path) -> None:
    topic.send(("1", row(1, 0.5)), ("2", row(2, 0.5)), ("3", row(3, 0.5)), time=at(BEFORE))
    topic.send(("1", row(1, 1.5)), ("1", row(1, 2.5)), time=at(DAY))
    topic.send(("2", row(2, 9.5)), ("4", row(4, 9.5)), time=at(AFTER))
    found, provenance = read(topic.source(), tmp_path)
    assert users(found) == [(1, 2.5), (2, 0.5), (3, 0.5)]
    (table,) = provenance.tables
    assert (table.rows, table.rows_of_day, table.newest, table.pinned) == (5, 2, DAY, "0:[0,5) 1:[0,0)")
    assert [(file.path, file.rows, file.stamp) for file in table.files] == [
        (f"{topic.name}/0", 5, "0-4"),
        (f"{topic.name}/1", 0, ""),
    ]
    assert table.files[0].size == sum(len(row(user, x)) for user, x in [(1, 0.5), (2, 0.5), (3, 0.5), (1, 1.5), (1, 2.5)])
    assert (table.event_date, table.told, table.unreadable) == ("timestamp", (), 0)


def test_of_the_window_day_only_messages_of_the_day_count(topic: Topic, tmp_path: Path) -> None:
    topic.send(("1", row(1, 0.5)), ("2", row(2, 0.5)), time=at(BEFORE))
    topic.send(("1", row(1, 1.5)), ("1", row(1, 2.5)), time=at(DAY))
    topic.send(("2", row(2, 9.5)), time=at(AFTER))
    found, provenance = read(topic.source(window="day"), tmp_path)
    assert users(found) == [(1, 2.5)]
    assert (provenance.tables[0].rows, provenance.tables[0].pinned) == (2, "0:[2,4) 1:[0,0)")


def test_a_day_is_one_of_the_partitions_time_zone(topic: Topic, tmp_path: Path) -> None:
    topic.send(("1", row(1)), time=at(BEFORE, 22.9))
    topic.send(("2", row(2)), time=at(BEFORE, 23))
    topic.send(("3", row(3)), time=at(DAY, 22.99))
    topic.send(("4", row(4)), time=at(DAY, 23))
    for window, expected in {"state": [1, 2, 3], "day": [2, 3]}.items():
        found, provenance = read(topic.source(window=window), tmp_path, zone="Europe/Berlin")
        assert found["user"].to_pylist() == expected
        assert (provenance.tables[0].rows_of_day, provenance.tables[0].newest) == (2, DAY)


def test_messages_of_earlier_days_among_those_of_the_day_are_told(topic: Topic, tmp_path: Path) -> None:
    topic.send(("1", row(1)), time=at(DAY))
    topic.send(("2", row(2)), ("3", row(3)), time=at(BEFORE))
    found, provenance = read(topic.source(window="day"), tmp_path)
    assert found["user"].to_pylist() == [1]
    (told,) = provenance.tables[0].told
    assert told == f"{topic.name}/0: 2 messages of earlier days came among those of the day and do not count"
    assert read(topic.source(), tmp_path)[0]["user"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize("window", ["state", "day"])
def test_a_message_without_a_value_deletes_its_key(topic: Topic, tmp_path: Path, window: str) -> None:
    topic.send(("1", row(1)), ("2", row(2)), ("1", None), ("3", None), ("2", None), ("2", row(2, 1.5)))
    found, provenance = read(topic.source(window=window), tmp_path)
    assert users(found) == [(2, 1.5)]
    assert (provenance.tables[0].rows, provenance.tables[0].unreadable) == (6, 0)


def test_a_topic_of_deletions_alone_gives_no_row(topic: Topic, tmp_path: Path) -> None:
    topic.send(("1", None), ("2", None))
    found, provenance = read(topic.source(), tmp_path)
    assert (found.num_rows, provenance.tables[0].rows) == (0, 2)


def test_a_message_without_a_key_stands_for_itself(topic: Topic, tmp_path: Path) -> None:
    topic.send((None, row(1)), (None, row(2)), ("a", row(3)), ("a", row(4)))
    assert read(topic.source(), tmp_path)[0]["user"].to_pylist() == [1, 2, 4]


def test_of_a_key_in_two_partitions_the_newer_message_counts_and_that_is_told(topic: Topic, tmp_path: Path) -> None:
    topic.send(("1", row(1, 0.5)), ("2", row(2, 0.5)), ("3", row(3, 0.5)), time=at(DAY, 5))
    topic.send(("1", row(1, 1.5)), ("3", None), time=at(DAY, 4), partition=1)
    topic.send(("2", row(2, 1.5)), time=at(DAY, 6), partition=1)
    topic.send(("3", row(3, 1.5)), time=at(DAY, 3))  # the last one of its partition, although its time is not
    found, provenance = read(topic.source(), tmp_path)
    assert users(found) == [(1, 0.5), (2, 1.5)]
    assert provenance.tables[0].told == ("3 keys are in more than one partition: of each the newest message counts",)


def test_the_messages_key_may_be_a_column(topic: Topic, tmp_path: Path) -> None:
    topic.send(("12", b'{"x": 1.5}'), ("-3", b'{"x": 2.5, "user": 8}'), ("x", b'{"x": 3.5}'), (None, b'{"x": 4.5}'))
    found, provenance = read(topic.source(key_column="user"), tmp_path)
    assert users(found) == [(-3, 2.5), (12, 1.5), (None, 4.5)]
    (told,) = provenance.tables[0].told
    assert told.startswith(f"1 messages cannot be decoded, like {topic.name}/0 at offset 2: its key is no int64: ")


def test_what_is_written_after_reading_began_does_not_count(
    topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic.send(("1", row(1)), ("2", row(2)))
    listed = kafka_source.extents

    def then_written(cluster: Cluster, window: Window) -> Sequence[Extent]:
        found = listed(cluster, window)
        topic.send(("1", row(1, 9.5)), ("3", row(3)))
        topic.send(("4", row(4)), partition=1)
        return found

    for window in ("state", "day"):
        monkeypatch.setattr(kafka_source, "extents", then_written)
        source = topic.source(window=window)
        expected, before = read(source, tmp_path)
        monkeypatch.setattr(kafka_source, "extents", listed)
        assert users(expected) == ([(1, 0.0), (2, 0.0)] if window == "state" else [(1, 9.5), (2, 0.0), (3, 0.0), (4, 0.0)])
        assert before.tables[0].rows == (2 if window == "state" else 5)


class TestTransactions:
    def test_only_committed_messages_count_and_markers_end_nothing(self, topic: Topic, tmp_path: Path) -> None:
        topic.send_in_transaction(("1", row(1, 0.5)), ("2", row(2, 0.5)), end="commit")
        topic.send_in_transaction(("1", row(1, 9.5)), ("3", row(3)), end="abort")
        topic.send(("4", row(4)))
        topic.send_in_transaction(("5", row(5)), end="abort")
        found, provenance = read(topic.source(), tmp_path)
        assert users(found) == [(1, 0.5), (2, 0.5), (4, 0.0)]
        (table,) = provenance.tables
        assert (table.rows, table.pinned, table.files[0].stamp) == (3, "0:[0,9) 1:[0,0)", "0-6")
        assert table.told[0].startswith(f"{topic.name}/0: 6 offsets have no message, as transactions have them, or")

    @pytest.mark.parametrize("window", ["state", "day"])
    def test_a_marker_of_today_ends_no_day_of_old_messages(self, topic: Topic, tmp_path: Path, window: str) -> None:
        topic.send_in_transaction(("1", row(1)), end="commit", time=at(BEFORE))
        topic.send_in_transaction(("2", row(2)), end="commit", time=at(DAY))
        topic.send_in_transaction(("3", row(3)), end="commit", time=at(DAY))
        topic.send_in_transaction(("4", row(4)), end="commit", time=at(AFTER))
        found, _ = read(topic.source(window=window), tmp_path)
        assert found["user"].to_pylist() == ([1, 2, 3] if window == "state" else [2, 3])

    def test_an_open_one_is_refused_and_can_be_read_when_it_is_committed(self, topic: Topic, tmp_path: Path) -> None:
        topic.send(("1", row(1)))
        producer = topic.send_in_transaction(("2", row(2)), end="")
        with pytest.raises(SourceError, match=rf"^A transaction is open in {topic.name}/0 at offset 1, so .*\.$"):
            read(topic.source(timeout_s=1), tmp_path)
        uncommitted = topic.source(options={"isolation.level": "read_uncommitted"})
        assert read(uncommitted, tmp_path)[0]["user"].to_pylist() == [1, 2]
        producer.commit_transaction(60)
        assert read(topic.source(), tmp_path)[0]["user"].to_pylist() == [1, 2]


class TestDeleted:
    def test_what_retention_took_from_a_state_is_told(self, topic: Topic, tmp_path: Path) -> None:
        topic.send(("1", row(1)), ("2", row(2)), ("3", row(3)))
        topic.delete_before(2)
        found, provenance = read(topic.source(), tmp_path)
        assert found["user"].to_pylist() == [3]
        assert provenance.tables[0].told == (f"{topic.name}/0: what was before offset 2 was deleted",)

    @pytest.mark.parametrize("left", ["some", "none"])
    def test_a_day_of_which_messages_may_be_gone_is_refused(self, topic: Topic, tmp_path: Path, left: str) -> None:
        topic.send(("1", row(1)), ("2", row(2)), time=at(DAY))
        topic.send(("3", row(3)), time=at(AFTER))
        topic.delete_before(1 if left == "some" else 3)
        begin = {"some": 1, "none": 3}[left]
        sentence = rf"^Messages of {DAY} in {topic.name}/0 may have been deleted, as its offsets begin at {begin}, .*\.$"
        with pytest.raises(SourceError, match=sentence):
            read(topic.source(window="day"), tmp_path)

    def test_a_day_of_which_all_messages_are_there_is_read(self, topic: Topic, tmp_path: Path) -> None:
        topic.send(("1", row(1)), ("2", row(2)), time=at(BEFORE))
        topic.send(("3", row(3)), time=at(DAY))
        topic.delete_before(1)
        assert read(topic.source(window="day"), tmp_path)[0]["user"].to_pylist() == [3]

    def test_messages_that_are_deleted_while_they_are_read_are_refused(
        self, topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        topic.send(("1", row(1)), ("2", row(2)))
        listed = kafka_source.extents

        def then_deleted(cluster: Cluster, window: Window) -> Any:
            found = listed(cluster, window)
            topic.delete_before(1)
            return found

        monkeypatch.setattr(kafka_source, "extents", then_deleted)
        with pytest.raises(SourceError, match=rf"^Messages of the topic {topic.name} at .* were deleted while .*\.$"):
            read(topic.source(), tmp_path)

    def test_gaps_of_a_compacted_topic_are_passed_and_told(self, kafka_server: KafkaServer, tmp_path: Path) -> None:
        compacted = Topic.made(
            kafka_server.url,
            cleanup_policy="compact",
            segment_ms="1",
            min_cleanable_dirty_ratio="0.001",
        )
        for turn in range(6):
            compacted.send(*((str(user), row(user, turn + 0.5)) for user in range(5)))
        compacted.wait_until_compacted(30)
        found, provenance = read(compacted.source(), tmp_path)
        assert users(found) == [(user, 5.5) for user in range(5)]
        (table,) = provenance.tables
        assert (table.pinned, table.rows < 30) == ("0:[0,30)", True)
        assert table.told[0].startswith(f"{compacted.name}/0: {30 - table.rows} offsets have no message, ")
