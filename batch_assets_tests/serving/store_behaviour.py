"""What every store does, told through the port alone; a store's own tests inherit it and say how one is made."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.digest import Digest, hash_keys
from batch_assets.errors import ReleaseBroken, StoreUnavailable
from batch_assets.features.keys import Key, identity
from batch_assets.records import RecordField, Records, RecordType
from batch_assets.runs.manifest import ModelPin
from batch_assets.serving.store import Release, Store
from batch_assets.storage import LocalStorage

BINARY = RecordType(
    fields=(
        RecordField(name="probability", dtype="f4"),
        RecordField(name="decile", dtype="i1"),
        RecordField(name="label", dtype="i1", names=("no", "yes")),
    ),
    score="probability",
)
WIDE = RecordType(
    fields=(
        RecordField(name="value", dtype="f8"),
        RecordField(name="place", dtype="i8"),
        RecordField(name="scores", dtype="f4", length=20),
    ),
    score="value",
)


def records(kind: RecordType, count: int, seed: int = 3) -> Records:
    """Random bytes as records: a store must not care what they mean, NaN and infinity included."""
    packed = np.frombuffer(np.random.default_rng(seed).bytes(count * kind.dtype.itemsize), dtype=kind.dtype).copy()
    for field in kind.fields:
        if field.names:
            packed[field.name] = np.abs(packed[field.name]) % len(field.names)
    return kind.unpacked(packed)


KEYS = {
    "int32": pa.array(range(-500, 500), pa.int32()),
    "int64": pa.array([-(2**63), -1, 0, 1, 255, 256, 2**63 - 1]),
    "string": pa.array(sorted(["a", "b", "ä", "user-1", "user-10", "x" * 500], key=str.encode)),
    "date": pa.array([-700_000, -1, 0, 1, 20_000], pa.int32()).cast(pa.date32()),
    "bytes": identity(pa.table({"user": [1, 1, 2], "country": ["de", "fr", "de"]}), ["user", "country"]),
}
STRANGERS = {
    pa.int32(): [77_777, -(2**40)],
    pa.int64(): [77_777, -(2**40)],
    pa.string(): ["", "nobody", "x" * 10_000],
    pa.date32(): [date(1999, 1, 1)],
    pa.binary(): [b"", b"nobody", b"x" * 10_000],
}


class StoreBehaviour:
    """Inherit it and give `store`."""

    def store(self, folder: Path) -> Store:
        """The store that is tested."""
        raise NotImplementedError

    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        """A storage root of its own."""
        return LocalStorage(str(tmp_path / "root"))

    @staticmethod
    def _columns(keys: pa.Array) -> list[tuple[str, Any]]:
        """The columns of a key; identities of bytes are those of two."""
        if keys.type == pa.binary():
            return [("user", "int64"), ("country", "string")]
        return [("user", str(keys.type).replace("date32[day]", "date"))]

    def built(
        self, storage: LocalStorage, folder: Path, keys: pa.Array, stored: Records, batch: int = 3, **said: Any
    ) -> Release:
        """A release with these keys and records, brought in batches."""
        release = Release(
            **{
                "name": "2024-03-10-0123456789abcdef",
                "pipeline": "small",
                "partition": "2024-03-10",
                "run_id": "0123456789abcdef",
                "snapshot": "0" * 16,
                "model": ModelPin(name="small", version="v1", digest="0", sha256="0"),
                "key": tuple(Key(name=name, dtype=kind) for name, kind in self._columns(keys)),
                "record": stored.kind,
                "rows": len(keys),
                "values": hash_keys(keys).with_values(stored.flat()).digest(),
                **({} if "store" in said else {"store": self.store(folder)}),
                **said,
            }
        )
        batches = ((keys[at : at + batch], stored.take(slice(at, at + batch))) for at in range(0, len(keys), batch))
        return release.model_copy(update={"built": release.store.build(storage, release, batches)})

    @pytest.mark.parametrize("kind", [BINARY, WIDE], ids=["6 bytes", "96 bytes"])
    @pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
    def test_what_was_stored_is_found(self, storage: LocalStorage, tmp_path: Path, keys: pa.Array, kind: RecordType) -> None:
        stored = records(kind, len(keys))
        release = self.built(storage, tmp_path, keys, stored, batch=100)
        packed, table = stored.packed(), release.store.open(storage, release)
        for place, key in enumerate(keys.to_pylist()):
            found = table.get(key)
            assert found is not None
            assert (found.dtype, found.tobytes()) == (kind.dtype, packed[place].tobytes())
        for stranger in STRANGERS[keys.type]:
            assert table.get(stranger) is None
        table.close()

    @pytest.mark.parametrize("kind", [BINARY, WIDE], ids=["6 bytes", "96 bytes"])
    @pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
    def test_many_are_found_as_each_of_them_is(
        self, storage: LocalStorage, tmp_path: Path, keys: pa.Array, kind: RecordType
    ) -> None:
        release = self.built(storage, tmp_path, keys, records(kind, len(keys)), batch=100)
        table = release.store.open(storage, release)
        asked = [*keys.to_pylist()[::-7], *STRANGERS[keys.type], *keys.to_pylist()[:5], *STRANGERS[keys.type]]
        for some in (asked, asked[:1], STRANGERS[keys.type], []):
            one_by_one = [table.get(key) for key in some]
            assert [one and one.tobytes() for one in table.get_many(some)] == [one and one.tobytes() for one in one_by_one]
            assert {one.dtype for one in table.get_many(some) if one is not None} <= {kind.dtype}
        table.close()

    @pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
    def test_what_was_stored_is_read_back(self, storage: LocalStorage, tmp_path: Path, keys: pa.Array) -> None:
        stored = records(BINARY, len(keys))
        release = self.built(storage, tmp_path, keys, stored)
        found, digest = dict[Any, bytes](), Digest()
        for some, kept in release.store.scan(storage, release):
            assert some.type == keys.type
            found |= dict(zip(some.to_pylist(), (one.tobytes() for one in kept.packed()), strict=True))
            digest = digest + hash_keys(some).with_values(kept.flat()).digest()
        assert found == dict(zip(keys.to_pylist(), (one.tobytes() for one in stored.packed()), strict=True))
        assert digest == release.values

    def test_nothing_is_a_release_too(self, storage: LocalStorage, tmp_path: Path) -> None:
        release = self.built(storage, tmp_path, pa.array([], pa.int64()), records(BINARY, 0))
        assert [key for some, _ in release.store.scan(storage, release) for key in some.to_pylist()] == []
        table = release.store.open(storage, release)
        assert table.get(1) is None
        assert table.get_many([1, 2]) == [None, None]
        table.close()

    @pytest.mark.parametrize("keys", [[1, 1], [2, 1], [1, 2, 3, 3], [1, 2, 3, 0]])
    def test_doubled_or_unordered_keys_are_refused(self, storage: LocalStorage, tmp_path: Path, keys: list[int]) -> None:
        with pytest.raises(ReleaseBroken, match="doubled or out of order"):
            self.built(storage, tmp_path, pa.array(keys), records(BINARY, len(keys)))

    def test_a_try_that_ends_early_does_not_hinder_the_next(self, storage: LocalStorage, tmp_path: Path) -> None:
        def ends() -> Iterator[Any]:
            yield pa.array([1]), records(BINARY, 1)
            raise KeyboardInterrupt

        keys = pa.array([1, 2, 3])
        release = self.built(storage, tmp_path, keys, records(BINARY, 3))
        with pytest.raises(KeyboardInterrupt):
            release.store.build(storage, release, ends())
        again = self.built(storage, tmp_path, keys, records(BINARY, 3))
        for one in (release, again):
            assert sum(len(some) for some, _ in one.store.scan(storage, one)) == 3

    def test_two_of_one_name_do_not_touch_each_other(self, storage: LocalStorage, tmp_path: Path) -> None:
        """Two processes may publish the same run at once; one of them is dropped then."""
        keys = pa.array([1, 2, 3])
        one, other = (self.built(storage, tmp_path, keys, records(BINARY, 3)) for _ in range(2))
        other.store.drop(storage, other)
        table = one.store.open(storage, one)
        assert table.get(2) is not None
        table.close()

    def test_several_releases_lie_beside_each_other(self, storage: LocalStorage, tmp_path: Path) -> None:
        keys = pa.array([1, 2, 3])
        built = {
            name: self.built(storage, tmp_path, keys, records(BINARY, 3, seed), name=name)
            for seed, name in enumerate(["2024-03-09-0123456789abcdef", "2024-03-10-0123456789abcdef"])
        }
        for seed, release in enumerate(built.values()):
            table = release.store.open(storage, release)
            found = table.get(3)
            assert found is not None
            assert found.tobytes() == records(BINARY, 3, seed).packed()[2].tobytes()
            table.close()

    def test_what_was_dropped_is_not_there(self, storage: LocalStorage, tmp_path: Path) -> None:
        release = self.built(storage, tmp_path, pa.array([1]), records(BINARY, 1))
        release.store.drop(storage, release)
        with pytest.raises(ReleaseBroken):
            release.store.open(storage, release)

    def test_without_some_keys_it_answers_the_others_as_before(self, storage: LocalStorage, tmp_path: Path) -> None:
        """Keys that are forgotten: the release is built anew without them beside the one that had them, which is dropped."""
        keys, stored = KEYS["int32"], records(BINARY, 1_000)
        left = np.array([key not in (-500, 7, 8, 499) for key in keys.to_pylist()])
        name = "2024-03-10-0123456789abcdef"
        before = self.built(storage, tmp_path, keys, stored, batch=100, name=name)
        without = keys.filter(pa.array(left)), stored.take(left)
        after = self.built(storage, tmp_path, *without, batch=100, name=f"{name}.f1", instead_of=(name,))
        before.store.drop(storage, before)
        table = after.store.open(storage, after)
        wanted = [one.tobytes() if there else None for one, there in zip(stored.packed(), left, strict=True)]
        assert [one and one.tobytes() for one in table.get_many(keys.to_pylist())] == wanted
        assert [table.get(key) for key in (-500, 7, 8, 499)] == [None] * 4
        table.close()
        assert sum(
            (hash_keys(some).with_values(kept.flat()).digest() for some, kept in after.store.scan(storage, after)), Digest()
        ) == (after.values)

    def test_it_comes_back_from_its_description(self, storage: LocalStorage, tmp_path: Path) -> None:
        release = self.built(storage, tmp_path, pa.array([7]), records(BINARY, 1))
        read = Release.model_validate_json(release.model_dump_json())
        assert (read, read.fingerprint()) == (release, release.fingerprint())
        table = read.store.open(storage, read)
        assert table.get(7) is not None
        table.close()

    def test_who_has_one_release_open_opens_another(self, storage: LocalStorage, tmp_path: Path) -> None:
        keys = pa.array([1, 2, 3])
        one, other = (self.built(storage, tmp_path, keys, records(BINARY, 3, seed)) for seed in range(2))
        table = one.store.open(storage, one)
        again = table.reopen(storage, other)
        for seed, opened in enumerate((table, again)):
            found = opened.get(2)
            assert found is not None
            assert found.tobytes() == records(BINARY, 3, seed).packed()[1].tobytes()
        again.close()


class ServerStoreBehaviour(StoreBehaviour):
    """What every store with a pointer of its own does beyond that: its readers may know nothing of the storage root."""

    def published(self, storage: LocalStorage, folder: Path, number: int) -> Release:
        """A release of three keys, built and published; its records are those of the seed `number`."""
        release = self.built(storage, folder, pa.array([1, 2, 3]), records(BINARY, 3, number))
        release.store.publish(storage, release, number)
        return release

    def seen(self, storage: LocalStorage, folder: Path) -> tuple[int, bytes]:
        """The number of what the store's readers see, and the record of key 2 there."""
        pointer = self.store(folder).pointer(storage, "small")
        assert pointer is not None
        table = pointer.release.store.open(storage, pointer.release)
        found = table.get(2)
        table.close()
        assert found is not None
        return pointer.number, found.tobytes()

    @staticmethod
    def told(number: int) -> tuple[int, bytes]:
        """What `seen` is when that number is published."""
        return number, records(BINARY, 3, number).packed()[1].tobytes()

    def test_nothing_was_ever_published(self, storage: LocalStorage, tmp_path: Path) -> None:
        self.built(storage, tmp_path, pa.array([1]), records(BINARY, 1))
        assert self.store(tmp_path).pointer(storage, "small") is None

    def test_its_readers_see_what_was_published(self, storage: LocalStorage, tmp_path: Path) -> None:
        for number in (1, 2, 5):
            self.published(storage, tmp_path, number)
            assert self.seen(storage, tmp_path) == self.told(number)

    def test_the_pointer_never_goes_back(self, storage: LocalStorage, tmp_path: Path) -> None:
        newest = self.published(storage, tmp_path, 5)
        self.published(storage, tmp_path, 4)
        newest.store.publish(storage, newest, 5)
        assert self.seen(storage, tmp_path) == self.told(5)

    def test_an_older_release_comes_back_under_a_higher_number(self, storage: LocalStorage, tmp_path: Path) -> None:
        older = self.published(storage, tmp_path, 1)
        self.published(storage, tmp_path, 2)
        older.store.publish(storage, older, 3)
        assert self.seen(storage, tmp_path) == (3, self.told(1)[1])

    def test_of_many_that_publish_at_once_the_highest_is_seen(self, storage: LocalStorage, tmp_path: Path) -> None:
        built = [self.built(storage, tmp_path, pa.array([1, 2, 3]), records(BINARY, 3, number)) for number in range(1, 7)]
        with ThreadPoolExecutor(len(built)) as pool:
            for done in [pool.submit(one.store.publish, storage, one, n) for n, one in enumerate(built, start=1)]:
                done.result()
        assert self.seen(storage, tmp_path) == self.told(6)

    def test_another_root_does_not_take_its_place(self, storage: LocalStorage, tmp_path: Path) -> None:
        stranger = LocalStorage(str(tmp_path / "stranger"))
        for root in (storage, stranger):
            root.create("something", b"")  # with it a root gets its name
        self.published(storage, tmp_path, 1)
        with pytest.raises(StoreUnavailable, match="another storage root"):
            self.published(stranger, tmp_path, 2)
        assert self.seen(storage, tmp_path) == self.told(1)
        assert self.store(tmp_path).left_behind(storage, "small", []) == []

    def test_its_readers_do_not_find_keys_that_were_forgotten(self, storage: LocalStorage, tmp_path: Path) -> None:
        before = self.published(storage, tmp_path, 1)
        stored = records(BINARY, 3, 1).take(slice(1, 3))
        after = self.built(storage, tmp_path, pa.array([2, 3]), stored, name=f"{before.name}.f2", instead_of=(before.name,))
        after.store.publish(storage, after, 2)
        before.store.drop(storage, before)
        assert self.seen(storage, tmp_path) == (2, self.told(1)[1])
        pointer = self.store(tmp_path).pointer(storage, "small")
        assert pointer is not None
        assert pointer.release.instead_of == (before.name,)
        table = pointer.release.store.open(storage, pointer.release)
        assert table.get_many([1, 2]) == [None, table.get(2)]
        table.close()
        with pytest.raises(ReleaseBroken):
            before.store.open(storage, before).get(1)

    def test_what_its_readers_see_is_not_dropped(self, storage: LocalStorage, tmp_path: Path) -> None:
        release = self.published(storage, tmp_path, 1)
        release.store.drop(storage, release)
        assert self.seen(storage, tmp_path) == self.told(1)

    def test_a_try_that_ended_early_is_found_and_dropped(self, storage: LocalStorage, tmp_path: Path) -> None:
        def ends() -> Iterator[Any]:
            yield pa.array([1]), records(BINARY, 1)
            raise KeyboardInterrupt

        live, named = self.published(storage, tmp_path, 1), self.built(storage, tmp_path, pa.array([1]), records(BINARY, 1))
        with pytest.raises(KeyboardInterrupt):
            named.store.build(storage, named.model_copy(update={"built": {}}), ends())
        store = self.store(tmp_path)
        (left,) = store.left_behind(storage, "small", [named])
        assert left.built not in ({}, live.built, named.built)
        store.drop(storage, left)
        assert store.left_behind(storage, "small", [named]) == []
        assert store.left_behind(storage, "small", []) == [named]
        assert self.seen(storage, tmp_path) == self.told(1)
