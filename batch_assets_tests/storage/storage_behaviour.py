"""What every storage root does, whatever it lies on."""

import hashlib
import json
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import AlreadyExists, NotFound, OtherLayout, StorageError
from batch_assets.storage import LAYOUT, Storage, open_storage, root_id


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

    @pytest.mark.parametrize("said", [0, 60_000, 200_000])
    def test_a_parquet_file_is_read_however_long_its_footer_is(self, storage: Storage, said: int) -> None:
        sink, numbers = pa.BufferOutputStream(), np.arange(100_000)
        pq.write_table(pa.table({"a": numbers, "b": -numbers}).replace_schema_metadata({"said": "x" * said}), sink)
        storage.create("a/file.parquet", sink.getvalue())
        with storage.open("a/file.parquet") as file:
            assert len(pq.read_metadata(file).metadata[b"said"]) == said
        with storage.open("a/file.parquet") as file:
            assert pq.ParquetFile(file).read(["b"]).column("b").to_pylist() == (-numbers).tolist()

    def test_an_empty_file_is_read(self, storage: Storage) -> None:
        storage.create("a/empty", b"")
        assert storage.open("a/empty").read() == storage.read("a/empty") == b""

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
