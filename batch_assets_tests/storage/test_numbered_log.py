"""Numbered logs, on every kind of root."""

import multiprocessing
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_assets.errors import LostEntry, LostRace, TornEntry
from batch_assets.logs import NumberedLog
from batch_assets.storage import LocalStorage, S3Storage, Storage
from batch_assets_tests.forgery import Anything, forge, numbered, witnesses


def _append(
    storage: Storage, number: int, barrier: "multiprocessing.synchronize.Barrier", results: "multiprocessing.Queue[bool]"
) -> None:
    log = NumberedLog(storage, "log", Anything)
    barrier.wait()
    try:
        log.append(Anything({"writer": number}), after=0, why="race")
        results.put(True)
    except LostRace:
        results.put(False)


class NumberedLogBehaviour:
    """What a numbered log does on every kind of storage root."""

    @pytest.fixture
    def log(self, tmp_path: Path) -> NumberedLog[Anything]:
        raise NotImplementedError

    def test_the_highest_integer_is_in_force(self, log: NumberedLog[Anything]) -> None:
        assert log.latest() is None
        for number in range(12):
            log.append(Anything({"n": number}), after=number, why="because")
        latest = log.latest()
        assert latest is not None
        assert (latest.number, latest.body.root, latest.why) == (12, {"n": 11}, "because")
        assert "@" in latest.who

    def test_of_many_processes_one_gets_the_number(self, log: NumberedLog[Anything]) -> None:
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(4), context.Queue()
        workers = [context.Process(target=_append, args=(log.storage, number, barrier, results)) for number in range(4)]
        for worker in workers:
            worker.start()
        outcomes = [results.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
        assert sorted(outcomes) == [False, False, False, True]

    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"number": 1}'])
    def test_a_torn_entry_is_named_and_its_number_not_used_again(self, log: NumberedLog[Anything], damage: bytes) -> None:
        log.append(Anything({"n": 1}), after=0, why="")
        log.storage.create("log/000002.json", damage)
        with pytest.raises(TornEntry, match="000002"):
            log.latest()
        with pytest.raises(LostRace):
            log.append(Anything({"n": 2}), after=1, why="")

    def test_an_edited_entry_is_torn(self, log: NumberedLog[Anything]) -> None:
        log.append(Anything({"version": "v1"}), after=0, why="")
        written = log.storage.read("log/000001.json")
        log.storage.delete("log/000001.json")
        log.storage.create("log/000001.json", written.replace(b"v1", b"v2"))
        with pytest.raises(TornEntry):
            log.latest()

    @pytest.mark.parametrize("lost", [1, 2, 3])
    def test_an_entry_that_is_missing_is_named(self, log: NumberedLog[Anything], lost: int) -> None:
        three(log)
        log.storage.delete(numbered(log, lost))
        with pytest.raises(LostEntry, match=f"00000{lost}.json under .* was written and is missing: restore it from a copy"):
            log.latest()
        with pytest.raises(LostEntry, match=f"00000{lost}"):
            log.append(Anything({"n": "another"}), after=lost - 1, why="")

    def test_so_is_the_only_one(self, log: NumberedLog[Anything]) -> None:
        log.append(Anything({"n": 1}), after=0, why="")
        log.storage.delete(numbered(log, 1))
        for look in (log.latest, lambda: list(log.history()), lambda: log.append(Anything({}), after=0, why="")):
            with pytest.raises(LostEntry, match="000001"):
                look()

    def test_the_message_says_how_to_go_on_without_it(self, log: NumberedLog[Anything]) -> None:
        three(log)
        log.storage.delete(numbered(log, 3))
        with pytest.raises(LostEntry) as lost:
            log.latest()
        (witness,) = [one for one in witnesses(log) if one in str(lost.value)]
        log.storage.delete(witness)
        assert [entry.body.root["n"] for entry in log.history()] == [2, 1]
        assert log.append(Anything({"n": "3, again"}), after=2, why="").number == 3
        assert log.latest() is not None

    @pytest.mark.parametrize("rewritten", [1, 2, 3])
    def test_an_entry_that_was_written_anew_with_its_own_sha256_is_noticed(
        self, log: NumberedLog[Anything], rewritten: int
    ) -> None:
        three(log)
        forge(log, rewritten, body={"n": "forged"})
        with pytest.raises(LostEntry, match=f"00000{rewritten}"):
            list(log.history())

    @pytest.mark.parametrize(("one", "other"), [(1, 2), (2, 3), (1, 3)])
    def test_two_that_changed_places_are_noticed(self, log: NumberedLog[Anything], one: int, other: int) -> None:
        three(log)
        first, second = log.storage.read(numbered(log, one)), log.storage.read(numbered(log, other))
        for number, data in ((one, second), (other, first)):
            log.storage.delete(numbered(log, number))
            log.storage.create(numbered(log, number), data)
        with pytest.raises(TornEntry):
            list(log.history())

    def test_also_if_they_got_each_others_numbers(self, log: NumberedLog[Anything]) -> None:
        three(log)
        bodies = {number: log.entry(number).body.root for number in (1, 2)}
        forge(log, 1, body=bodies[2])
        forge(log, 2, body=bodies[1])
        with pytest.raises(LostEntry):
            list(log.history())

    def test_a_process_that_was_killed_before_it_was_done_has_lost_nothing(self, log: NumberedLog[Anything]) -> None:
        """The entry is there, and nobody has seen it yet: it counts, and the next one follows it."""
        three(log)
        log.storage.delete(witnesses(log)[-1])
        latest = log.latest()
        assert latest is not None
        assert latest.number == 3
        log.append(Anything({"n": 4}), after=3, why="")
        assert [entry.body.root["n"] for entry in log.history()] == [4, 3, 2, 1]

    def test_an_entry_names_what_it_was_made_from(self, log: NumberedLog[Anything]) -> None:
        of, empty = NumberedLog(log.storage, "folder/of", Anything), NumberedLog(log.storage, "folder/empty", Anything)
        three(of)
        entry = log.append(Anything({}), after=0, why="", seen=[of, empty])
        assert log.require_seen(entry).seen == {"folder/of": 3}
        for path in (numbered(of, 3), witnesses(of)[-1]):
            log.storage.delete(path)
        with pytest.raises(
            LostEntry, match=r"folder/of/000003\.json under .*, from which log/000001\.json was made, is missing"
        ):
            log.require_seen(entry)

    def test_whoever_looks_while_others_write_finds_nothing_missing(self, log: NumberedLog[Anything]) -> None:
        over, found = threading.Event(), []

        def look() -> None:
            while not over.is_set():
                found.append([entry.number for entry in log.history()])

        looking = threading.Thread(target=look)
        looking.start()
        for number in range(20):
            log.append(Anything({"n": number}), after=number, why="")
        over.set()
        looking.join()
        assert found
        assert all(numbers == list(range(len(numbers), 0, -1)) for numbers in found)


def three(log: NumberedLog[Anything]) -> None:
    for number in (1, 2, 3):
        log.append(Anything({"n": number}), after=number - 1, why="")


class TestNumberedLog(NumberedLogBehaviour):
    @pytest.fixture
    def log(self, tmp_path: Path) -> NumberedLog[Anything]:
        return NumberedLog(LocalStorage(str(tmp_path)), "log", Anything)

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none()), max_size=5))
    def test_history_is_kept_as_it_was_written(
        self, tmp_path_factory: pytest.TempPathFactory, bodies: list[dict[str, object]]
    ) -> None:
        log = NumberedLog(LocalStorage(str(tmp_path_factory.mktemp("log"))), "log", Anything)
        for number, body in enumerate(bodies):
            log.append(Anything(body), after=number, why="")
        assert [log.entry(number).body.root for number in log.numbers()] == bodies


class TestNumberedLogOnS3(NumberedLogBehaviour):
    @pytest.fixture
    def log(self, bucket: str) -> NumberedLog[Anything]:
        return NumberedLog(S3Storage(bucket), "log", Anything)


class TestNumberedLogOnAServer(NumberedLogBehaviour):
    @pytest.fixture
    def log(self, real_bucket: str) -> NumberedLog[Anything]:
        return NumberedLog(S3Storage(real_bucket), "log", Anything)
