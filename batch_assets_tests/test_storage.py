import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.errors import AlreadyExists, LayoutTooNew, LostRace, NotFound, StorageError, TornEntry
from batch_assets.numbered_log import NumberedLog
from batch_assets.storage import LAYOUT, LocalStorage, Storage, open_storage


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

    def test_what_is_finished_or_young_is_no_leftover(self, storage: Storage) -> None:
        storage.create("a/b", b"x")
        storage.local_path("a/_tmp/young").touch()
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

    def test_a_stamp_tells_another_file(self, storage: Storage) -> None:
        storage.create("a", b"same")
        before = storage.stamp("a")
        storage.delete("a")
        storage.create("b", b"other")
        storage.create("a", b"same")
        assert before.size == storage.stamp("a").size
        assert before != storage.stamp("a")


class TestLocalStorage(StorageBehaviour):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(str(tmp_path))

    def test_reading_makes_nothing(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path / "new"))
        assert storage.names("x") == {}
        assert not (tmp_path / "new").exists()

    def test_a_newer_layout_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "_format.json").write_text(json.dumps({"layout": LAYOUT + 1}))
        with pytest.raises(LayoutTooNew, match="upgrade"):
            open_storage(str(tmp_path))

    def test_the_layout_is_written_with_the_first_file(self, tmp_path: Path) -> None:
        open_storage(str(tmp_path)).create("a", b"")
        assert json.loads((tmp_path / "_format.json").read_bytes()) == {"layout": LAYOUT}
        open_storage(str(tmp_path)).create("b", b"")

    def test_a_folder_with_another_format_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "_format.json").write_text("hello")
        with pytest.raises(StorageError, match="layout"):
            open_storage(str(tmp_path))

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


def _append(
    root: str, number: int, barrier: "multiprocessing.synchronize.Barrier", results: "multiprocessing.Queue[bool]"
) -> None:
    log = NumberedLog(LocalStorage(root), "log")
    barrier.wait()
    try:
        log.append({"writer": number}, after=0, why="race")
        results.put(True)
    except LostRace:
        results.put(False)


class TestNumberedLog:
    def test_the_highest_integer_is_in_force(self, tmp_path: Path) -> None:
        log = NumberedLog(LocalStorage(str(tmp_path)), "log")
        assert log.latest() is None
        for number in range(12):
            log.append({"n": number}, after=number, why="because")
        latest = log.latest()
        assert latest is not None
        assert (latest.number, latest.body, latest.why) == (12, {"n": 11}, "because")
        assert "@" in latest.who

    @given(st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none()), max_size=5))
    def test_history_is_kept_as_it_was_written(
        self, tmp_path_factory: pytest.TempPathFactory, bodies: list[dict[str, object]]
    ) -> None:
        log = NumberedLog(LocalStorage(str(tmp_path_factory.mktemp("log"))), "log")
        for number, body in enumerate(bodies):
            log.append(body, after=number, why="")
        assert [log.entry(number).body for number in log.numbers()] == bodies

    def test_of_many_processes_one_gets_the_number(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(4), context.Queue()
        workers = [context.Process(target=_append, args=(str(tmp_path), number, barrier, results)) for number in range(4)]
        for worker in workers:
            worker.start()
        outcomes = [results.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
        assert sorted(outcomes) == [False, False, False, True]

    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"number": 1}'])
    def test_a_torn_entry_is_named_and_its_number_not_used_again(self, tmp_path: Path, damage: bytes) -> None:
        log = NumberedLog(LocalStorage(str(tmp_path)), "log")
        log.append({"n": 1}, after=0, why="")
        (tmp_path / "log" / "000002.json").write_bytes(damage)
        with pytest.raises(TornEntry, match="000002"):
            log.latest()
        with pytest.raises(LostRace):
            log.append({"n": 2}, after=1, why="")

    def test_an_edited_entry_is_torn(self, tmp_path: Path) -> None:
        log = NumberedLog(LocalStorage(str(tmp_path)), "log")
        log.append({"version": "v1"}, after=0, why="")
        path = tmp_path / "log" / "000001.json"
        path.write_text(path.read_text().replace("v1", "v2"))
        with pytest.raises(TornEntry):
            log.latest()


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
