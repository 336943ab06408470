"""Who is at work: seen by others, dead at once on this host, after a minute on another one; by the storage's clock alone."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from typing_extensions import override

from batch_assets.errors import NotFound, StorageError
from batch_assets.process import Process
from batch_assets.storage import LocalStorage, S3Storage, Stamp, Storage
from batch_assets.storage import lease as leases
from batch_assets.storage.lease import LEASE_SECONDS, RENEW_SECONDS, at_work, lease, left_behind

FAR = Process("elsewhere", 1, 0.0)
OTHER = "x/_active/other.json"


class Ticks:
    """A pause that ends when the test says so."""

    def __init__(self) -> None:
        self.asked = list[float]()
        self._due, self._waits = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, over: threading.Event, seconds: float) -> bool:
        self.asked.append(seconds)
        self._waits.release()
        while not self._due.acquire(timeout=0.01):
            if over.is_set():
                return True
        return over.is_set()

    def renew(self) -> None:
        """Let the lease be renewed once; it is when this returns."""
        assert self._waits.acquire(timeout=60)
        self._due.release()
        assert self._waits.acquire(timeout=60)
        self._waits.release()


def announce(storage: Storage, process: Process, path: str = OTHER) -> None:
    storage.create(path, json.dumps(process.as_mapping()).encode())


def files(storage: Storage) -> list[str]:
    return [f"x/_active/{name}" for name in storage.names("x/_active") if name != "_tmp"]


class LeaseBehaviour:
    """What a lease does on every kind of storage root."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        raise NotImplementedError

    def age(self, storage: Storage, path: str, seconds: float) -> None:
        """Let a file have been written so many seconds earlier."""
        raise NotImplementedError

    def test_the_second_sees_the_first(self, storage: Storage) -> None:
        with lease(storage, "x") as others:
            assert others.alive == []
            announce(storage, FAR)
            with lease(storage, "x") as others:
                assert others.alive == [FAR]
        assert files(storage) == [OTHER]

    def test_the_dead_are_swept_away(self, storage: Storage) -> None:
        me = Process.current()
        dead = Process(me.host, 2**22 - 1, 0.0)
        recycled = Process(me.host, me.pid, me.started - 1_000)
        for name, process in (("dead", dead), ("recycled", recycled)):
            announce(storage, process, f"x/_active/{name}.json")
        with lease(storage, "x") as others:
            assert (others.alive, others.died) == ([], 2)
        with lease(storage, "x") as others:
            assert others.died == 0
        assert files(storage) == []

    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"host": "x"}'])
    def test_a_file_that_nobody_can_read_is_swept_away(self, storage: Storage, damage: bytes) -> None:
        storage.create(OTHER, damage)
        with lease(storage, "x") as others:
            assert others.alive == []
        assert files(storage) == []

    def test_a_worker_of_another_host_that_is_silent_is_dead_after_a_while(self, storage: Storage) -> None:
        announce(storage, FAR)
        self.age(storage, OTHER, LEASE_SECONDS - 10)
        assert (at_work(storage, "x"), left_behind(storage, "x")) == ([FAR], {})
        self.age(storage, OTHER, 20)
        assert (at_work(storage, "x"), list(left_behind(storage, "x"))) == ([], [OTHER])
        with lease(storage, "x") as others:
            assert others.alive == []
        assert files(storage) == []

    def test_one_that_renews_its_lease_is_not(self, storage: Storage) -> None:
        announce(storage, FAR)
        for _ in range(3):
            self.age(storage, OTHER, LEASE_SECONDS - 10)
            storage.touch(OTHER)
        assert (at_work(storage, "x"), left_behind(storage, "x")) == ([FAR], {})
        assert json.loads(storage.read(OTHER)) == FAR.as_mapping()

    def test_one_of_this_host_lives_as_long_as_its_process(self, storage: Storage) -> None:
        announce(storage, Process.current())
        self.age(storage, OTHER, 100 * LEASE_SECONDS)
        assert (at_work(storage, "x"), left_behind(storage, "x")) == ([Process.current()], {})

    def test_who_is_announced_twice_is_one(self, storage: Storage) -> None:
        with lease(storage, "x"), lease(storage, "x") as others:
            assert others.alive == []
            assert at_work(storage, "x") == [Process.current()]
        assert files(storage) == []

    def test_it_is_renewed_while_the_block_lasts(self, storage: Storage) -> None:
        ticks = Ticks()
        with lease(storage, "x", pause=ticks):
            (mine,) = files(storage)
            content, begun = storage.read(mine), storage.stamp(mine).written
            for _ in range(3):
                self.age(storage, mine, 2 * LEASE_SECONDS)
                assert storage.stamp(mine).written < begun - LEASE_SECONDS
                ticks.renew()
                assert storage.stamp(mine).written >= begun
            assert storage.read(mine) == content
        assert set(ticks.asked) == {RENEW_SECONDS}
        assert RENEW_SECONDS <= LEASE_SECONDS / 4
        assert files(storage) == []

    def test_whoever_was_taken_for_dead_announces_itself_again(self, storage: Storage) -> None:
        ticks = Ticks()
        with lease(storage, "x", pause=ticks):
            (mine,) = files(storage)
            storage.delete(mine)
            assert at_work(storage, "x") == []
            ticks.renew()
            assert at_work(storage, "x") == [Process.current()]
            assert files(storage) == [mine]
        assert files(storage) == []

    def test_it_ends_with_a_block_that_raises(self, storage: Storage) -> None:
        with pytest.raises(RuntimeError, match="work"), lease(storage, "x"):
            raise RuntimeError("work")
        assert files(storage) == []
        assert "lease" not in [thread.name for thread in threading.enumerate()]

    def test_touching_what_is_not_there_says_so(self, storage: Storage) -> None:
        with pytest.raises(NotFound, match="nowhere"):
            storage.touch("x/nowhere")
        assert storage.names("x") == {}


class TestLeaseOnALocalDisk(LeaseBehaviour):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(str(tmp_path))

    @override
    def age(self, storage: Storage, path: str, seconds: float) -> None:
        made_older(storage.local_path(path), seconds)


class TestLeaseOnS3(LeaseBehaviour):
    @pytest.fixture
    def storage(self, bucket: str) -> Storage:
        return S3Storage(bucket)

    @override
    def age(self, storage: Storage, path: str, seconds: float) -> None:
        from moto.s3.models import s3_backends

        name = storage.location.removeprefix("s3://")
        (backend,) = (one["aws"] for one in s3_backends.values() if name in one["aws"].buckets)
        backend.buckets[name].keys[path].last_modified -= timedelta(seconds=seconds)


@dataclass(frozen=True)
class OtherClock(LocalStorage):
    """A file server whose clock is years behind."""

    @override
    def stamp(self, path: str) -> Stamp:
        found = super().stamp(path)
        return Stamp(found.size, found.token, found.written - 1e8)


@dataclass(frozen=True)
class Unreachable(LocalStorage):
    """A root that cannot be touched."""

    error: Exception

    @override
    def touch(self, path: str) -> None:
        raise self.error


def made_older(path: Path, seconds: float) -> None:
    written = path.stat().st_mtime - seconds
    os.utime(path, (written, written))


def test_the_clocks_of_the_hosts_do_not_matter(tmp_path: Path) -> None:
    storage = OtherClock(str(tmp_path))
    announce(storage, FAR)
    assert at_work(storage, "x") == [FAR]
    made_older(storage.local_path(OTHER), LEASE_SECONDS + 1)
    assert at_work(storage, "x") == []


@pytest.mark.parametrize("error", [StorageError("The root cannot be reached."), OSError(5, "input/output error")])
def test_a_renewal_that_fails_does_not_disturb_the_work(tmp_path: Path, error: Exception) -> None:
    ticks = Ticks()
    with lease(Unreachable(str(tmp_path), error), "x", pause=ticks):
        for _ in range(3):
            ticks.renew()
        assert len(files(LocalStorage(str(tmp_path)))) == 1
    assert len(ticks.asked) == 4


@pytest.mark.process
def test_a_process_of_this_host_that_is_killed_is_dead_at_once(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    program = (
        "import sys; from batch_assets.storage import LocalStorage; from batch_assets.storage.lease import lease;"
        "storage = LocalStorage(sys.argv[1])\n"
        "with lease(storage, 'x'), storage.scratch(): print('at work', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "at work\n"
        assert [process.pid for process in at_work(storage, "x")] == [worker.pid]
        with storage.scratch():
            assert len(list((tmp_path / "_tmp").iterdir())) == 2
        worker.kill()
        assert worker.wait() == -signal.SIGKILL
    assert (at_work(storage, "x"), list(left_behind(storage, "x"))) == ([], files(storage))
    with lease(storage, "x") as others, storage.scratch() as scratch:
        assert (others.alive, others.died, list((tmp_path / "_tmp").iterdir())) == ([], 1, [scratch])


class TestScratch:
    """A scratch folder is a lease too."""

    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        folder = tmp_path / "_tmp" / "elsewhere~1~0.00~abc"
        (folder / "snapshot").mkdir(parents=True)
        return folder

    @pytest.mark.parametrize(("silent", "kept"), [(LEASE_SECONDS - 10, True), (LEASE_SECONDS + 10, False)])
    def test_that_of_another_host_ends_when_it_is_silent(self, tmp_path: Path, other: Path, silent: float, kept: bool) -> None:
        made_older(other, silent)
        with LocalStorage(str(tmp_path)).scratch():
            assert other.exists() is kept

    def test_it_is_renewed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        renewed = threading.Event()
        utime = os.utime

        def seen(path: Path) -> None:
            utime(path)
            renewed.set()

        monkeypatch.setattr(leases, "RENEW_SECONDS", 0.01)
        monkeypatch.setattr(os, "utime", seen)
        with LocalStorage(str(tmp_path)).scratch() as scratch:
            os.rename(scratch, tmp_path / "adopted")  # whatever becomes of it, nobody is disturbed
            os.rename(tmp_path / "adopted", scratch)
            utime(scratch, (0.0, 0.0))
            renewed.clear()
            assert renewed.wait(60)
            assert scratch.stat().st_mtime > 0.0
        assert list((tmp_path / "_tmp").iterdir()) == []
