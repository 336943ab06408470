"""Pruning may be interrupted anywhere, and whoever reads meanwhile gets an answer."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batch_assets.errors import NoPrediction, ReleaseBroken
from batch_assets.models.registry import Registry
from batch_assets.operations.explain import explain
from batch_assets.operations.prune import prune
from batch_assets.process import Process
from batch_assets.serving.live import current_log, live_release
from batch_assets.serving.reader import Reader
from batch_assets.storage import LocalStorage, Storage
from batch_assets_tests.nights import DAYS, folders, judged, night, probability, pruned
from batch_assets_tests.small import Small, rows

pytestmark = pytest.mark.process


def racing(root: str, races: list[Callable[[], None]]) -> Storage:
    """A storage in which somebody does something between the look at the pointer and the opening of the release."""

    class Racing(LocalStorage):
        def read(self, path: str) -> bytes:
            if path.endswith("arrow.json") and races:
                races.pop(0)()
            return super().read(path)

    return Racing(root)


class TestAReaderThatLosesTheRace:
    def test_it_reads_the_pointer_again(self, four_days: Small) -> None:
        released = current_log(four_days.storage, "small").entry(4).body.release

        def publish_and_prune() -> None:
            four_days.replace_rows(rows(300, seed=2))
            for day in ("2024-04-01", "2024-04-02"):
                night(four_days, day)
            pruned(four_days)
            assert not four_days.storage.names(f"small/serving/releases/{released}")

        races = [publish_and_prune]
        reader = Reader.open("small", racing(four_days.storage.root, races))
        assert reader.lookup(7).record["partition"] == "2024-04-02"
        reader.close()
        assert races == []

    def test_it_may_lose_more_than_once(self, four_days: Small) -> None:
        def publish_and_prune(days: list[str]) -> None:
            for day in days:
                night(four_days, day)
            pruned(four_days)

        races = [partial(publish_and_prune, [f"2024-0{month}-01", f"2024-0{month}-02"]) for month in (4, 5)]
        reader = Reader.open("small", racing(four_days.storage.root, races))
        assert reader.lookup(7).record["partition"] == "2024-05-02"
        reader.close()

    def test_a_release_that_is_still_named_is_an_error(self, four_days: Small) -> None:
        release = current_log(four_days.storage, "small").entry(4).body.release
        shutil.rmtree(four_days.storage.local_path(f"small/serving/releases/{release}"))
        with pytest.raises(ReleaseBroken, match="publish the partition again"):
            Reader.open("small", four_days.storage)

    def test_a_reader_of_one_release_goes_on(self, four_days: Small) -> None:
        live = live_release(four_days.storage, "small")
        assert live is not None
        reader = Reader.of_release(four_days.storage, live)
        expected = reader.lookup(7).record
        for day in ("2024-04-01", "2024-04-02"):
            night(four_days, day)
        pruned(four_days)
        assert reader.lookup(7).record == expected
        with pytest.raises(NoPrediction):
            reader.lookup(301)
        reader.close()


class Interrupted(Exception):
    pass


class Fragile(LocalStorage):
    """Stops at the n-th removal: before it, in its middle, or after it; by an exception or outright."""

    def __init__(self, root: str, removals: int, moment: str, outright: bool = False) -> None:
        super().__init__(root)
        object.__setattr__(self, "state", {"left": removals, "moment": moment, "outright": outright})

    def discard(self, path: str) -> None:
        state: dict[str, Any] = self.state  # type: ignore[attr-defined]
        state["left"] -= 1
        if state["left"]:
            super().discard(path)
        elif state["moment"] == "before":
            self.stop()
        elif state["moment"] == "after":
            super().discard(path)
            self.stop()
        else:  # in its middle: it was taken out of its place and is half removed
            top = self.local_path("_tmp")
            folder = top / f"{Process.current().host}~{os.getpid()}~{Process.current().started:.2f}~half"
            folder.mkdir(parents=True)
            self.local_path(path).rename(folder / "discarded")
            next(file for file in (folder / "discarded").rglob("*") if file.is_file()).unlink()
            self.stop()

    def stop(self) -> None:
        if self.state["outright"]:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        raise Interrupted


def nothing_points_to_what_is_not_there(root: Path) -> None:
    there = folders(root)
    assert there["releases"] <= there["runs"] <= there["snapshots"]
    for run in Path(root, "small").glob("predictions/*/run=*"):
        manifest = json.loads((run / "_manifest" / "000001.json").read_text())["body"]
        assert all((run / file["name"]).exists() for file in manifest["files"])
        assert (root / manifest["snapshot_folder"] / "_snapshot.json").exists()


def still_works(small: Small, root: Path) -> None:
    """Look-up, explain and run, and a second prune that finishes."""
    storage = LocalStorage(str(root))
    small.storage, small.registry = storage, Registry(storage)
    nothing_points_to_what_is_not_there(root)
    found = explain(small.config, storage, small.registry, "7")
    assert found.prediction is not None
    assert probability(storage, 7) == found.prediction["probability"]
    assert judged(small, "2024-03-10").good
    prune(small.config, storage, None, False, small.progress)
    assert folders(root) == {"releases": {DAYS[3]}, "runs": {DAYS[3], "2024-03-10"}, "snapshots": {DAYS[3], "2024-03-10"}}


@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.long)])
@pytest.mark.parametrize("removals", range(1, 7))
def test_it_may_be_interrupted_at_every_removal(four_days: Small, tmp_path: Path, removals: int, moment: str) -> None:
    with pytest.raises(Interrupted):
        pruned(four_days, storage=Fragile(four_days.storage.root, removals, moment))
    still_works(four_days, Path(four_days.storage.root))


@pytest.mark.parametrize("removals", [3, *(pytest.param(number, marks=pytest.mark.long) for number in (1, 5))])
def test_it_may_be_killed_in_the_middle_of_a_removal(four_days: Small, removals: int) -> None:
    root = Path(four_days.storage.root)
    program = (
        "import sys; from batch_assets.config import PipelineConfig; from batch_assets.operations.prune import prune;"
        "from batch_assets_tests.operations.test_prune_interrupted import Fragile; from batch_assets_tests.small import Quiet;"
        "config = PipelineConfig.model_validate_json(sys.argv[1]);"
        "prune(config, Fragile(sys.argv[2], int(sys.argv[3]), 'middle', True), None, False, Quiet())"
    )
    arguments = [four_days.config.model_dump_json(), str(root), str(removals)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(root.glob("_tmp/*/discarded")), "what was taken out of its place is half removed"
    still_works(four_days, root)
    assert list(root.glob("_tmp/*")) == []
