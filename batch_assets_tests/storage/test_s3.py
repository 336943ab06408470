"""A root in a bucket."""

import errno
import hashlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError
from obstore.store import S3Store
from typing_extensions import override

from batch_assets.errors import AlreadyExists, NotFound, StorageError, StorageFull
from batch_assets.storage import S3Storage, Storage, open_storage
from batch_assets.storage.bucket import Bucket, _AnswerLost
from batch_assets_tests.s3_server import S3Server
from batch_assets_tests.servers import S3Gateway
from batch_assets_tests.servers.faulty_proxy import FAULTS, FaultyProxy
from batch_assets_tests.storage.storage_behaviour import StorageBehaviour


class InABucket(StorageBehaviour):
    @override
    def write_directly(self, storage: Storage, path: str, data: bytes) -> None:
        S3Storage(storage.location.removesuffix("/prefix")).create(f"prefix/{path}", data)


class TestS3Storage(InABucket):
    @pytest.fixture
    def storage(self, bucket: str) -> Storage:
        return S3Storage(f"{bucket}/some/prefix")

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
        real = Bucket._put_once

        def lost(self: Bucket, *args: Any, **said: Any) -> None:
            monkeypatch.setattr(Bucket, "_put_once", real)
            raise _AnswerLost("503")

        monkeypatch.setattr(Bucket, "_put_once", lost)
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
        monkeypatch.setattr("batch_assets.storage.bucket._IN_PARTS", 1 << 20)
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

    def test_whatever_is_no_copy_is_left_alone(self, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Somebody's own folder is named, in which there are old files, and some are put beside the copies."""
        monkeypatch.setenv("BATCH_ASSETS_CACHE", str(tmp_path / "scratch"))
        storage.create("x/file", b"one")
        copies = storage.local_path("x/file").parent
        theirs = [tmp_path / "scratch" / "thesis.tex", tmp_path / "scratch" / ("a" * 32), copies / "thesis.tex"]
        begun = copies / f"{'a' * 32}.{'b' * 32}"
        for file in (*theirs, begun):
            file.write_text("begun long ago")
            os.utime(file, (0, 0))
        storage.create("x/another", b"two")
        storage.local_path("x/another")
        assert all(file.exists() for file in theirs)
        assert not begun.exists(), "who began to copy it died"

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
        assert [file.stat().st_size for file in (tmp_path / "copies" / "batch-assets").iterdir()] == [0], "its lock stays"

    def test_processes_that_ask_for_a_copy_at_once_fetch_it_once(
        self, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BATCH_ASSETS_CACHE", str(tmp_path / "copies"))
        storage.create("x/file", b"x" * 1_000_000)
        asking = [S3Storage(storage.location) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            copies = list(pool.map(lambda one: one.local_path("x/file").read_bytes(), asking))
        assert set(copies) == {b"x" * 1_000_000}
        assert sum(one.received for one in asking) == 1_000_000

    @pytest.mark.parametrize("look", [lambda root: root.names("a"), lambda root: root.create("a", b"")])
    def test_a_bucket_that_is_not_there_is_a_sentence(self, bucket: str, look: Callable[[Storage], object]) -> None:
        with pytest.raises(StorageError, match="s3://nobody"):
            look(S3Storage("s3://nobody"))

    def test_a_root_without_a_bucket_is_a_sentence(self) -> None:
        with pytest.raises(StorageError, match="s3://bucket/prefix"):
            open_storage("s3://")

    def test_a_small_file_is_opened_and_read_by_one_request(self, storage: Storage, s3_server: S3Server) -> None:
        storage.create("a", b"0123456789")
        s3_server.asked.clear()
        file = storage.open("a")
        file.seek(3)
        assert file.read() == b"3456789"
        assert [one.partition(" ")[0] for one in s3_server.asked] == ["GET"]

    def test_a_server_that_gives_no_ends_of_files_is_read_all_the_same(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data, real = os.urandom(200_000), S3Store.get
        storage.create("a", data)

        def get(store: S3Store, path: str, *, options: Any) -> Any:
            if "suffix" in str(options.get("range")):
                raise GenericError("Generic S3 error: Received non-partial response when range requested")
            return real(store, path, options=options)

        monkeypatch.setattr(S3Store, "get", get)
        assert storage.open("a").read() == data

    def test_without_the_client_the_extra_is_named(self, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("obstore", "obstore.store", "obstore.exceptions"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(StorageError, match=r"pip install 'batch-assets\[s3\]'"):
            S3Storage(bucket).read("a")

    def test_a_server_that_knows_no_conditions_is_refused(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        real = S3Store.put
        monkeypatch.setattr(S3Store, "put", lambda store, *said, mode, **more: real(store, *said, mode="overwrite", **more))
        with pytest.raises(StorageError, match=r"does not know If-None-Match"):
            storage.create("a", b"")


class TestOnAServer(InABucket):
    """On one that decides races as S3 itself does."""

    @pytest.fixture
    def storage(self, real_bucket: str) -> Storage:
        return S3Storage(f"{real_bucket}/some/prefix")

    def test_a_large_file_goes_in_parts_and_has_one_writer(self, storage: Storage, tmp_path: Path) -> None:
        (tmp_path / "large").mkdir()
        (tmp_path / "large" / "file").write_bytes(os.urandom(70 << 20))
        storage.adopt(tmp_path / "large", "a")
        assert storage.sha256("a/file") == hashlib.sha256((tmp_path / "large" / "file").read_bytes()).hexdigest()
        (tmp_path / "large" / "file").write_bytes(os.urandom(70 << 20))
        with pytest.raises(AlreadyExists):
            storage.adopt(tmp_path / "large", "a")

    def test_a_network_that_fails_changes_nothing(
        self, storage: Storage, s3_gateway: S3Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("batch_assets.storage.bucket._FIRST_PAUSE", 0.01)
        monkeypatch.setattr("batch_assets.storage.bucket._PIECE", 5_000)
        data = os.urandom(30_000)
        with FaultyProxy(s3_gateway.url, share=0.2) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            far = S3Storage(storage.location)
            for number in range(12):
                far.create(f"x/{number}", data)
                with pytest.raises(AlreadyExists):
                    far.create(f"x/{number}", b"another")
            (tmp_path / "folder").mkdir()
            (tmp_path / "folder" / "file").write_bytes(data)
            far.adopt(tmp_path / "folder", "y")
            for number in range(12):
                assert far.read(f"x/{number}") == data
                assert far.open(f"x/{number}").read() == data
                assert far.sha256(f"x/{number}") == hashlib.sha256(data).hexdigest()
                assert far.names("x") == {f"{one}": 30_000 for one in range(12)}
            assert far.names("y") == {"file": 30_000}
            assert min(proxy.done.values()) > 0
            assert proxy.done.keys() == set(FAULTS)
