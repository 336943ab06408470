import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from batch_assets.errors import AlreadyExists, LostEntry, LostRace, NotFound, OtherLayout, StorageError, StorageFull, TornEntry
from batch_assets.logs import NumberedLog
from batch_assets.storage import LAYOUT, LocalStorage, S3Storage, Storage, open_storage, root_id, s3
from batch_assets.storage.s3 import _AnswerLost
from batch_assets_tests.forgery import Anything, forge, numbered, witnesses
from batch_assets_tests.s3_server import S3Server


class StorageBehaviour:
    """What every kind of storage root does; a new kind inherits these tests."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        raise NotImplementedError

    def test_what_was_created_can_be_read(self, storage: Storage) -> None:
        storage.create("a/b.bin", b"bytes")
        assert storage.read("a/b.bin") == b"bytes"
        assert storage.names("a")["b.bin"] == 5

    def test_the_first_writer_wins(self, storage: Storage) -> None:
        storage.create("a/b", b"first")
        with pytest.raises(AlreadyExists):
            storage.create("a/b", b"second")
        assert storage.read("a/b") == b"first"

    def test_of_many_writers_exactly_one_wins(self, storage: Storage) -> None:
        barrier, won = threading.Barrier(8), []

        def write(number: int) -> None:
            barrier.wait()
            try:
                storage.create("race", bytes([number]) * 10_000)
                won.append(number)
            except AlreadyExists:
                pass

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert storage.read("race") == bytes([won[0]]) * 10_000

    def test_what_is_finished_is_no_leftover(self, storage: Storage) -> None:
        storage.create("a/b", b"x")
        assert storage.leftovers("a") == storage.leftovers("nothing") == {}

    def test_nothing_temporary_stays_behind(self, storage: Storage) -> None:
        storage.create("a/b", b"x")
        with pytest.raises(AlreadyExists):
            storage.create("a/b", b"y")
        assert storage.names("a/_tmp") == {}

    def test_a_folder_is_adopted_whole_and_once(self, storage: Storage) -> None:
        for content in ("first", "second"):
            with storage.scratch() as scratch:
                (scratch / "file").write_text(content)
                if content == "first":
                    storage.adopt(scratch, "x/folder")
                else:
                    with pytest.raises(AlreadyExists):
                        storage.adopt(scratch, "x/folder")
        assert storage.read("x/folder/file") == b"first"

    def test_what_is_not_there_is_said(self, storage: Storage) -> None:
        for look in (storage.read, storage.open, storage.stamp):
            with pytest.raises(NotFound, match="nowhere"):
                look("nowhere")
        assert storage.names("nowhere") == {}

    @pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\\b", "a\0b"])
    def test_a_path_cannot_leave_the_root(self, storage: Storage, path: str) -> None:
        with pytest.raises(StorageError):
            storage.read(path)
        with pytest.raises(StorageError):
            storage.create(path, b"")

    def test_a_stamp_tells_other_content_of_the_same_size(self, storage: Storage) -> None:
        storage.create("a", b"same")
        before = storage.stamp("a")
        assert storage.stamp("a") == before
        storage.delete("a")
        storage.create("a", b"also")
        assert before.size == storage.stamp("a").size
        assert before != storage.stamp("a")

    def test_a_listing_names_direct_children_and_their_sizes(self, storage: Storage) -> None:
        for path in ("top/one", "top/date=2024-01-01/part-0.parquet", "top/date=2024-01-01/deep/two", "top-2/three"):
            storage.create(path, b"12345")
        assert {name: size for name, size in storage.names("top").items() if name != "_tmp"} == {"one": 5, "date=2024-01-01": 0}
        assert {"part-0.parquet", "deep"} <= storage.names("top/date=2024-01-01").keys()

    def test_arrow_reads_it_from_any_place(self, storage: Storage) -> None:
        table = pa.table({"n": np.arange(100_000)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=10_000)
        storage.create("a/table.parquet", sink.getvalue())
        with storage.open("a/table.parquet") as file:
            assert pq.ParquetFile(file).read_row_group(7).equals(table.slice(70_000, 10_000))

    def test_a_file_is_digested(self, storage: Storage) -> None:
        data = os.urandom(3_000_000)
        storage.create("a/b", data)
        assert storage.sha256("a/b") == hashlib.sha256(data).hexdigest()

    def test_what_is_deleted_or_discarded_can_be_made_again(self, storage: Storage) -> None:
        for path in ("x/folder/a", "x/folder/b/c", "x/folder-2/a"):
            storage.create(path, b"old")
        storage.discard("x/folder")
        storage.discard("x/nothing")
        assert storage.names("x/folder") == {}
        assert storage.read("x/folder-2/a") == b"old"
        storage.delete("x/folder-2/a")
        storage.delete("x/folder-2/a")
        storage.create("x/folder/a", b"new")
        storage.create("x/folder-2/a", b"new")
        assert storage.read("x/folder/a") == storage.read("x/folder-2/a") == b"new"

    def test_it_can_be_sent_to_another_process(self, storage: Storage) -> None:
        storage.create("a", b"bytes")
        again: Storage = pickle.loads(pickle.dumps(storage))
        assert (again, again.read("a")) == (storage, b"bytes")

    def test_the_layout_is_written_with_the_first_file(self, storage: Storage) -> None:
        assert open_storage(storage.location).names("x") == {}
        with pytest.raises(NotFound):
            storage.read("_format.json")
        storage.create("a", b"")
        named = root_id(storage)
        assert json.loads(storage.read("_format.json")) == {"layout": LAYOUT, "root": named}
        open_storage(storage.location).create("b", b"")
        assert root_id(storage) == named
        assert len(named) == 32

    def test_an_older_layout_is_refused(self, storage: Storage) -> None:
        self.write_directly(storage, "_format.json", json.dumps({"layout": LAYOUT - 1}).encode())
        with pytest.raises(OtherLayout, match=r"of an earlier batch-assets, .*: set BATCH_ASSETS_ROOT to a new folder"):
            open_storage(storage.location)

    def test_a_newer_layout_is_refused(self, storage: Storage) -> None:
        self.write_directly(storage, "_format.json", json.dumps({"layout": LAYOUT + 1}).encode())
        with pytest.raises(OtherLayout, match="upgrade"):
            open_storage(storage.location)

    def test_a_root_with_another_format_file_is_refused(self, storage: Storage) -> None:
        self.write_directly(storage, "_format.json", b"hello")
        with pytest.raises(StorageError, match="layout"):
            open_storage(storage.location)

    def write_directly(self, storage: Storage, path: str, data: bytes) -> None:
        """Put bytes there as somebody else would."""
        raise NotImplementedError


class TestLocalStorage(StorageBehaviour):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(str(tmp_path))

    @override
    def write_directly(self, storage: Storage, path: str, data: bytes) -> None:
        storage.local_path(path).write_bytes(data)

    def test_a_stamp_tells_a_file_that_was_made_again(self, tmp_path: Path) -> None:
        storage = LocalStorage(str(tmp_path))
        storage.create("a", b"same")
        before = storage.stamp("a")
        storage.delete("a")
        storage.create("b", b"other")
        storage.create("a", b"same")
        assert before != storage.stamp("a")

    def test_reading_makes_nothing(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path / "new"))
        assert storage.names("x") == {}
        assert not (tmp_path / "new").exists()

    def test_a_full_disk_is_a_sentence_and_leaves_nothing(self, tmp_path: Path) -> None:
        """A file-size limit of the operating system stands in for the full disk: the write really fails half-way."""
        program = """if True:
            import os, resource, signal, sys
            from batch_assets.errors import StorageFull
            from batch_assets.storage import LocalStorage
            storage = LocalStorage(sys.argv[1])
            storage.create("first", b"x")
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            try:
                storage.create("big", bytes(100_000))
            except StorageFull as error:
                print("full", sorted(os.listdir(sys.argv[1])), os.listdir(sys.argv[1] + "/_tmp"), error)
        """
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("full ['_format.json', '_tmp', 'first'] []")
        assert "BATCH_ASSETS_ROOT" in done.stdout


class TestS3Storage(StorageBehaviour):
    @pytest.fixture
    def storage(self, bucket: str) -> Storage:
        return S3Storage(f"{bucket}/some/prefix")

    @override
    def write_directly(self, storage: Storage, path: str, data: bytes) -> None:
        S3Storage(storage.location.removesuffix("/prefix")).create(f"prefix/{path}", data)

    def test_a_listing_of_many_pages_is_whole(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")  # the server runs in this process
        for number in range(10):
            storage.create(f"many/{number}", b"x")
        assert len(storage.names("many")) == 10
        storage.discard("many")
        assert storage.names("many") == {}

    def test_of_many_who_adopt_one_wins_and_its_folder_is_whole(self, storage: Storage) -> None:
        barrier, won = threading.Barrier(4), []

        def adopt(number: int) -> None:
            with storage.scratch() as scratch:
                for name in ("_document.json", "part-0", "part-1"):
                    (scratch / name).write_text(str(number))
                barrier.wait()
                try:
                    storage.adopt(scratch, "x/folder")
                    won.append(number)
                except AlreadyExists:
                    pass

        threads = [threading.Thread(target=adopt, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert {storage.read(f"x/folder/{name}") for name in storage.names("x/folder")} == {str(won[0]).encode()}

    def test_the_document_of_a_folder_comes_last(self, storage: Storage) -> None:
        storage.create("x/folder/z.parquet", b"somebody was here")
        with storage.scratch() as scratch:
            (scratch / "_document.json").write_text("{}")
            (scratch / "z.parquet").write_text("rows")
            with pytest.raises(AlreadyExists):
                storage.adopt(scratch, "x/folder")
        assert storage.names("x/folder").keys() == {"z.parquet"}

    def test_what_a_bucket_cannot_do_is_said(self, storage: Storage) -> None:
        assert storage.free_bytes() is None

    def test_a_put_whose_answer_was_lost_is_ones_own(self, storage: Storage, s3_server: S3Server) -> None:
        storage.create("first", b"so that the root is claimed")
        s3_server.answers_to_lose = 2
        storage.create("x/1", b"who: me")
        assert s3_server.answers_to_lose == 0
        assert storage.read("x/1") == b"who: me"
        with pytest.raises(AlreadyExists):
            storage.create("x/1", b"who: me")

    def test_what_another_wrote_while_an_answer_was_lost_is_theirs(
        self, storage: Storage, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage.create("x/1", b"who: they")
        real = S3Storage._put_once

        def lost(self: S3Storage, *args: Any, **said: Any) -> None:
            monkeypatch.setattr(S3Storage, "_put_once", real)
            raise _AnswerLost("503")

        monkeypatch.setattr(S3Storage, "_put_once", lost)
        with pytest.raises(AlreadyExists):
            storage.create("x/1", b"who: me!")
        assert storage.read("x/1") == b"who: they"

    def test_whoever_died_while_putting_a_folder_is_gone_on_for(self, storage: Storage) -> None:
        storage.create("x/folder/a.parquet", b"rows")
        with storage.scratch() as scratch:
            (scratch / "_document.json").write_text("{}")
            (scratch / "a.parquet").write_text("rows")
            storage.adopt(scratch, "x/folder")
            assert storage.names("x/folder").keys() == {"a.parquet", "_document.json"}
            with pytest.raises(AlreadyExists):
                storage.adopt(scratch, "x/folder")

    def test_a_large_file_goes_in_parts(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(s3, "_IN_PARTS", 1 << 20)
        data = os.urandom(6 << 20)
        with storage.scratch() as scratch:
            (scratch / "large").write_bytes(data)
            storage.adopt(scratch, "x/folder")
            assert storage.read("x/folder/large") == data
            (scratch / "large").write_bytes(data[:-1] + b"!")
            with pytest.raises(AlreadyExists):
                storage.adopt(scratch, "x/folder")
        assert storage.sha256("x/folder/large") == hashlib.sha256(data).hexdigest()

    def test_a_local_copy_is_made_once_and_is_another_for_another_content(
        self, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BATCH_ASSETS_CACHE", str(tmp_path / "copies"))
        storage.create("x/file", b"one")
        copy = storage.local_path("x/file")
        assert copy.read_bytes() == b"one"
        inode = copy.stat().st_ino
        assert storage.local_path("x/file").stat().st_ino == inode
        os.utime(copy, (0, 0))
        storage.delete("x/file")
        storage.create("x/file", b"two")
        assert storage.local_path("x/file").read_bytes() == b"two"
        assert not copy.exists(), "nobody has asked for it in a week"
        with pytest.raises(NotFound):
            storage.local_path("x/nothing")

    def test_a_full_disk_leaves_no_part_of_a_copy(
        self, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BATCH_ASSETS_CACHE", str(tmp_path / "copies"))
        storage.create("x/file", b"one")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", full)
            with pytest.raises(StorageFull, match=r"There is no room for a copy of x/file .* set BATCH_ASSETS_CACHE"):
                storage.local_path("x/file")
        assert list((tmp_path / "copies").iterdir()) == []

    @pytest.mark.parametrize("look", [lambda root: root.names("a"), lambda root: root.create("a", b"")])
    def test_a_bucket_that_is_not_there_is_a_sentence(self, bucket: str, look: Callable[[Storage], object]) -> None:
        with pytest.raises(StorageError, match="s3://nobody"):
            look(S3Storage("s3://nobody"))

    def test_a_root_without_a_bucket_is_a_sentence(self) -> None:
        with pytest.raises(StorageError, match="s3://bucket/prefix"):
            open_storage("s3://")

    def test_without_the_client_the_extra_is_named(self, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "obstore.store", None)
        with pytest.raises(StorageError, match=r"pip install 'batch-assets\[s3\]'"):
            S3Storage(bucket).read("a")


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


def test_a_file_is_never_seen_half_written(tmp_path: Path) -> None:
    """A reader that polls while files are created sees each of them whole or not at all."""
    storage, stop, torn = LocalStorage(str(tmp_path)), threading.Event(), []

    def poll() -> None:
        while not stop.is_set():
            torn.extend(name for name, size in storage.names("files").items() if name != "_tmp" and size != 200_000)

    reader = threading.Thread(target=poll)
    reader.start()
    for number in range(50):
        storage.create(f"files/{number}", os.urandom(200_000))
    stop.set()
    reader.join()
    assert torn == []
