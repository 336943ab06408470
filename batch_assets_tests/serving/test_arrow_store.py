"""The embedded store: what it adds to the behaviour of every store, and that no damage of a file is an answer."""

import re
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_assets.errors import ReleaseBroken
from batch_assets.serving import arrow_file, arrow_search
from batch_assets.serving.arrow_file import sortable
from batch_assets.serving.arrow_store import ArrowStore
from batch_assets.serving.store import Release
from batch_assets.storage import LocalStorage
from batch_assets_tests.serving.store_behaviour import BINARY, KEYS, WIDE, StoreBehaviour, records
from batch_assets_tests.serving.swapping import swapped

PLACES = 400


class Behaviour(StoreBehaviour):
    def store(self, folder: Path) -> ArrowStore:
        return ArrowStore()


def file_of(storage: LocalStorage, release: Release) -> Path:
    return storage.local_path(f"{release.folder}/{release.built['folder']}/release.arrow")


class TestArrowStore(Behaviour):
    def test_a_file_is_a_table_for_whoever_reads_arrow(self, storage: LocalStorage, tmp_path: Path) -> None:
        for kind in (BINARY, WIDE):
            stored = records(kind, 1_000)
            release = self.built(storage, tmp_path, KEYS["int32"], stored, name=f"2024-03-10-{kind.score}")
            file = pa.ipc.open_file(pa.memory_map(str(file_of(storage, release))))
            table = file.read_all()
            table.validate(full=True)
            expected = pa.table({"user": KEYS["int32"], **stored.columns()})
            assert table.schema.names == expected.schema.names
            assert table.schema.types == expected.schema.types
            for name in expected.schema.names:
                one, other = (found[name].combine_chunks() for found in (table, expected))
                assert [str(value) for value in one.to_pylist()] == [str(value) for value in other.to_pylist()]

    def test_the_key_of_several_columns_is_called_as_they_are(self, storage: LocalStorage, tmp_path: Path) -> None:
        release = self.built(storage, tmp_path, KEYS["bytes"], records(BINARY, 3))
        schema = pa.ipc.open_file(str(file_of(storage, release))).schema
        assert (schema.names[0], schema.types[0]) == ("user,country", pa.binary())

    def test_a_file_is_little_larger_than_its_keys_and_records(self, storage: LocalStorage, tmp_path: Path) -> None:
        numbers = pa.array(np.arange(50_000))
        texts = pa.array([f"user-{n:08d}" for n in range(50_000)])
        for keys, width in ((numbers, 8 + 6), (texts, 13 + 4 + 6)):
            release = self.built(storage, tmp_path, keys, records(BINARY, 50_000), 50_000, name=f"2024-03-10-{keys.type}")
            assert int(release.built["size"]) <= 1.05 * width * 50_000

    def test_a_file_is_read_only(self, storage: LocalStorage, tmp_path: Path) -> None:
        release = self.built(storage, tmp_path, KEYS["int64"], records(BINARY, 7))
        assert file_of(storage, release).stat().st_mode & 0o777 == 0o444

    def test_an_open_one_survives_that_it_is_dropped(self, storage: LocalStorage, tmp_path: Path) -> None:
        release = self.built(storage, tmp_path, KEYS["int32"], records(BINARY, 1_000))
        table = release.store.open(storage, release)
        release.store.drop(storage, release)
        assert all(one is not None for one in table.get_many(KEYS["int32"].to_pylist()))
        table.close()

    def test_one_that_goes_away_while_it_is_opened_is_a_sentence(self, storage: LocalStorage, tmp_path: Path) -> None:
        release = self.built(storage, tmp_path, KEYS["int64"], records(BINARY, 7))
        size = int(release.built["size"])
        release.store.drop(storage, release)
        with mock.patch.object(LocalStorage, "names", return_value={"release.arrow": size}):
            for asked in (release.store.open, lambda *of: next(release.store.scan(*of))):
                with pytest.raises(ReleaseBroken, match=r"release\.arrow cannot be read"):
                    asked(storage, release)

    def test_after_it_was_closed_nothing_is_answered(self, storage: LocalStorage, tmp_path: Path) -> None:
        release = self.built(storage, tmp_path, KEYS["int64"], records(BINARY, 7))
        table = release.store.open(storage, release)
        table.close()
        table.close()
        for ask in (lambda: table.get(1), lambda: table.get_many([1])):
            with pytest.raises(AttributeError):
                ask()

    @pytest.mark.parametrize("asked", [[2**70, 1], [True], [1.5, 1], [-(2**63) - 1], [2**63, 2**63 - 1]])
    def test_numbers_that_nobody_has_are_not_found(self, storage: LocalStorage, tmp_path: Path, asked: list[Any]) -> None:
        release = self.built(storage, tmp_path, KEYS["int64"], records(BINARY, 7))
        table = release.store.open(storage, release)
        assert [one is not None for one in table.get_many(asked)] == [key in KEYS["int64"].to_pylist() for key in asked]
        assert [table.get(key) is not None for key in asked] == [key in KEYS["int64"].to_pylist() for key in asked]
        table.close()


class TestSmallBatches(Behaviour):
    """The same, and every second key begins a batch."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arrow_file, "BATCH_ROWS", 2)

    def test_threads_that_touch_a_batch_together_find_the_same(self, storage: LocalStorage, tmp_path: Path) -> None:
        keys = KEYS["int32"]
        stored = records(BINARY, len(keys))
        release = self.built(storage, tmp_path, keys, stored, batch=1_000)
        table, packed = release.store.open(storage, release), stored.packed()
        begin, wrong = threading.Barrier(8), list[int]()

        def look() -> None:
            begin.wait()
            for place, key in enumerate(keys.to_pylist()):
                found = table.get(key)
                if found is None or found.tobytes() != packed[place].tobytes():
                    wrong.append(key)

        threads = [threading.Thread(target=look) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        table.close()


DAMAGED = {"numbers": KEYS["int32"].slice(0, 600), "texts": pa.array(sorted(f"user-{n * 7919:x}" for n in range(600)))}


@pytest.mark.parametrize("keys", DAMAGED.values(), ids=DAMAGED)
class TestDamage:
    """Wherever a file is damaged: it is refused, or the batch is named, or the answer is the right one."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        return LocalStorage(str(tmp_path / "root"))

    @pytest.fixture
    def release(self, storage: LocalStorage, tmp_path: Path, keys: pa.Array, monkeypatch: pytest.MonkeyPatch) -> Release:
        monkeypatch.setattr(arrow_file, "BATCH_ROWS", 99)
        release = Behaviour().built(storage, tmp_path, keys, records(BINARY, len(keys)), 600)
        file_of(storage, release).chmod(0o600)
        return release

    @staticmethod
    def asked(keys: pa.Array) -> list[Any]:
        """Keys that are there, and keys before, between and after them that are not."""
        some = keys.to_pylist()[::11]
        return [*some, *(f"{key}~" for key in some), "", "~"] if keys.type == pa.string() else [*some, -501, 100, 2**40]

    @staticmethod
    def answers(storage: LocalStorage, release: Release, asked: list[Any]) -> list[bytes | str | None]:
        """What is answered, or the sentence instead of an answer; one for all if the file is refused."""

        def told(found: np.void | None) -> bytes | None:
            return None if found is None else found.tobytes()

        def one(key: Any) -> bytes | str | None:
            try:
                return told(table.get(key))
            except ReleaseBroken as error:
                return str(error)

        try:
            table = release.store.open(storage, release)
        except ReleaseBroken as error:
            return [str(error)]
        answers = [one(key) for key in asked]
        if broken := [answer for answer in answers if isinstance(answer, str)]:
            with pytest.raises(ReleaseBroken, match=re.escape(broken[0])):
                table.get_many(asked)
        else:
            assert [told(found) for found in table.get_many(asked)] == answers
        table.close()
        return answers

    def require_safe(self, storage: LocalStorage, release: Release, asked: list[Any], truth: list[Any]) -> bool:
        """No wrong answer, no miss that is none, and whoever reads all of it notices; returns whether it was refused."""
        found = self.answers(storage, release, asked)
        said = [one for one in found if isinstance(one, str)]
        with pytest.raises(ReleaseBroken):
            for _ in release.store.scan(storage, release):
                pass
        if len(found) == 1:
            assert "was changed" in said[0] or "bytes instead of" in said[0]
            return True
        assert all(sentence.startswith("Batch ") and "was changed" in sentence for sentence in said)
        assert len(set(said)) <= 1, "one byte is of one batch"
        for answer, right in zip(found, truth, strict=True):
            assert isinstance(answer, str) or answer == right
        return False

    def test_a_byte_that_was_flipped(self, storage: LocalStorage, release: Release, keys: pa.Array) -> None:
        path, asked = file_of(storage, release), self.asked(keys)
        truth, intact = self.answers(storage, release, asked), path.read_bytes()
        end, random = int(release.built["batches"]), np.random.default_rng(5)
        anywhere = random.choice(len(intact), PLACES, replace=False).tolist()
        edges = [*range(64), *range(end - 32, end + 64), *range(len(intact) - 64, len(intact))]
        refused = set()
        for place in (*anywhere, *edges):
            data = bytearray(intact)
            data[place] ^= int(random.integers(1, 256))
            path.write_bytes(data)
            assert self.require_safe(storage, release, asked, truth) == (place >= end)
            refused.add(place >= end)
        assert refused == {True, False}

    def test_a_file_that_was_cut(self, storage: LocalStorage, release: Release, keys: pa.Array) -> None:
        """Shorter, it is refused; where a disk has lost the rest and gives zeros for it, too, or the batches are named."""
        path, asked = file_of(storage, release), self.asked(keys)
        truth, intact = self.answers(storage, release, asked), path.read_bytes()
        for place in np.linspace(0, len(intact) - 1, PLACES // 2, dtype=int).tolist():
            path.write_bytes(intact[:place])
            assert self.require_safe(storage, release, asked, truth)
            if place < len(intact.rstrip(b"\0")):
                path.write_bytes(intact[:place].ljust(len(intact), b"\0"))
                assert self.require_safe(storage, release, asked, truth)

    def test_a_page_that_was_lost(self, storage: LocalStorage, release: Release, keys: pa.Array) -> None:
        path, asked = file_of(storage, release), self.asked(keys)
        truth, intact = self.answers(storage, release, asked), path.read_bytes()
        for place in range(0, len(intact), 512):
            lost = intact[:place] + bytes(min(512, len(intact) - place)) + intact[place + 512 :]
            path.write_bytes(lost)
            found = self.answers(storage, release, asked)
            assert len(found) == 1 or all(isinstance(one, str) or one == right for one, right in zip(found, truth, strict=True))


KEYS_OF = {
    "int64": (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    "int32": (st.integers(-(2**31), 2**31 - 1), pa.int32()),
    "string": (st.text(min_size=1, max_size=40), pa.string()),
    "alike": (st.text("ab\0", min_size=1, max_size=20), pa.string()),
    "begun alike": (st.text("ab\0", max_size=20).map("user-0000".__add__), pa.string()),
    "date": (st.dates(), pa.date32()),
    "bytes": (st.binary(min_size=1, max_size=24), pa.binary()),
}


@pytest.mark.parametrize("kind", KEYS_OF)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_key_is_found_where_it_is_and_nowhere_else(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    """Of no row, of one, and at the borders of batches, too."""
    one, arrow = KEYS_OF[kind]
    keys = sorted(data.draw(st.sets(one, max_size=30)), key=sortable)
    strangers = data.draw(st.lists(one, max_size=10))
    stored, folder, near = records(BINARY, len(keys)), tmp_path_factory.mktemp("release"), data.draw(st.integers(1, 6))
    with mock.patch.object(arrow_file, "BATCH_ROWS", data.draw(st.integers(1, 12))):
        storage = LocalStorage(str(folder))
        release = Behaviour().built(storage, folder, pa.array(keys, arrow), stored, data.draw(st.integers(1, 12)))
    table = release.store.open(storage, release)
    right = {key: record.tobytes() for key, record in zip(keys, stored.packed(), strict=True)}
    asked = data.draw(st.permutations([*keys, *strangers]))
    with mock.patch.object(arrow_search, "NEAR", near):
        answers = [table.get(key) for key in asked], table.get_many(asked)
    for found in answers:
        assert [one if one is None else one.tobytes() for one in found] == [right.get(key) for key in asked]
    assert [key for some, _ in release.store.scan(storage, release) for key in some.to_pylist()] == keys
    table.close()


@pytest.mark.process
def test_processes_read_while_releases_are_swapped_and_pruned(tmp_path: Path) -> None:
    """The short version of `benchmarks/embedded_table.py --swap`."""
    found = swapped(tmp_path / "root", releases=6, processes=3, rows=1_000)
    assert found["openings"] >= 6 * 3
    assert found["answers"] == 1_920 * found["openings"]
