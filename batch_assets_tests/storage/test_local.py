"""A root in a folder of this machine."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typing_extensions import override

from batch_assets.storage import LocalStorage, Storage, open_storage
from batch_assets_tests.storage.storage_behaviour import StorageBehaviour


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
