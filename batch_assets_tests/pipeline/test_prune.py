"""Pruning takes away what nobody needs, touches nothing that is in use, and may be interrupted anywhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from batch_assets.config import PipelineConfig
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import ConfigError, NoPrediction, NotFound, ReleaseBroken, TornEntry
from batch_assets.models.registry import Registry
from batch_assets.pipeline.explain import explain
from batch_assets.pipeline.freeze import freeze
from batch_assets.pipeline.judge import Verdict, accepted_log, judge
from batch_assets.pipeline.presence import presence
from batch_assets.pipeline.prune import Pruned, prune
from batch_assets.pipeline.publish import Published, publish
from batch_assets.pipeline.replay import replay
from batch_assets.pipeline.score import score
from batch_assets.process import Process
from batch_assets.serving.reader import Reader
from batch_assets.serving.release import current_log
from batch_assets.snapshot import current_log as snapshot_log
from batch_assets.storage import LocalStorage, Storage
from batch_assets_tests.small import Quiet, Small, rows, small_model, with_values

Make = Callable[..., Small]
DAYS = ["2024-03-06", "2024-03-07", "2024-03-08", "2024-03-09"]
SETTINGS = {"quality": {"drift": {"trailing_days": 2}}, "retention": {"keep_days": 2}}


def judged(small: Small, day: str) -> Verdict:
    freeze(small.config, small.storage, day, small.watch)
    score(small.config, small.storage, day, small.model, LocalEngine(1), small.watch)
    return judge(small.config, small.storage, day, small.model)


def night(small: Small, day: str) -> Published:
    judged(small, day)
    return publish(small.config, small.storage, day, small.model, small.watch)


def pruned(small: Small, *, dry_run: bool = False, storage: Storage | None = None, watch: Any = None) -> Pruned:
    return prune(small.config, storage or small.storage, None, dry_run, watch or small.watch)


def probability(storage: Storage, key: int) -> float:
    """What readers are told."""
    reader = Reader.live(storage, "small")
    try:
        return float(reader.lookup(key).record["probability"])
    finally:
        reader.close()


def files(root: Path | str) -> dict[str, int]:
    """Every file and its size; what is being written or thrown away is not counted."""
    found = {path.relative_to(root): path for path in Path(root).rglob("*") if path.is_file()}
    return {str(name): path.stat().st_size for name, path in found.items() if name.parts[0] != "_tmp"}


def folders(root: Path | str) -> dict[str, set[str]]:
    """The days of which there are releases, runs and snapshots."""
    top = Path(root, "small")
    return {
        "releases": {path.name[:10] for path in top.glob("serving/releases/*")},
        "runs": {path.parent.name.removeprefix("date=") for path in top.glob("predictions/*/run=*")},
        "snapshots": {path.parent.name.removeprefix("date=") for path in top.glob("user_features/*/snapshot=*")},
    }


@pytest.fixture
def four_days(make_small: Make) -> Small:
    """Four published days of 300 rows, of which two are to be kept."""
    small = make_small(rows(300), **SETTINGS)
    for day in DAYS:
        night(small, day)
    return small


class TestWhatIsRemoved:
    def test_older_days_go_and_their_logs_stay(self, four_days: Small) -> None:
        root = four_days.storage.root
        before = files(root)
        found = pruned(four_days)
        after = files(root)
        kept = set(DAYS[2:])
        assert folders(root) == {"releases": kept, "runs": kept, "snapshots": kept}
        assert found.counts == {"releases": 2, "runs": 2, "snapshots": 2}
        assert sum(found.sizes.values()) == sum(before.values()) - sum(after.values()) > 0
        assert after.items() <= before.items(), "nothing is changed"
        gone = before.keys() - after.keys()
        assert all("run=" in name or "snapshot=" in name or "releases/" in name for name in gone)
        assert found.first_kept == DAYS[2]

    def test_a_dry_run_says_the_same_and_removes_nothing(self, four_days: Small) -> None:
        before = files(four_days.storage.root)
        said = pruned(four_days, dry_run=True)
        assert files(four_days.storage.root) == before
        done = pruned(four_days)
        assert (said.counts, said.sizes, said.first_kept) == (done.counts, done.sizes, done.first_kept)

    def test_a_second_prune_finds_nothing(self, four_days: Small) -> None:
        pruned(four_days)
        before = files(four_days.storage.root)
        again = pruned(four_days)
        assert (again.counts, again.first_kept, files(four_days.storage.root)) == ({}, None, before)

    def test_days_are_counted_from_the_newest_with_data(self, four_days: Small) -> None:
        """Years later, when nothing was scored since, nothing more is removed; a newer day moves the window."""
        pruned(four_days)
        night(four_days, "2024-12-01")
        assert pruned(four_days).first_kept == DAYS[3]
        assert folders(four_days.storage.root)["runs"] == {DAYS[3], "2024-12-01"}

    def test_the_live_release_is_kept_with_its_run_and_rows(self, make_small: Make) -> None:
        small = make_small(rows(300), **SETTINGS)
        for day in DAYS[:2]:
            night(small, day)
        for day in DAYS[2:]:
            judged(small, day)
        night(small, "2024-03-01")
        expected = probability(small.storage, 7)
        assert pruned(small).counts == {"releases": 2, "runs": 2, "snapshots": 2}
        assert folders(small.storage.root) == {
            "releases": {DAYS[1]},
            "runs": set(DAYS[1:]),
            "snapshots": set(DAYS[1:]),
        }
        assert probability(small.storage, 7) == expected
        assert explain(small.config, small.storage, small.registry, "7").partition == DAYS[1]
        assert replay(small.config, small.storage, small.registry, "7").bit_equal

    def test_too_few_days_are_refused(self, four_days: Small) -> None:
        before = files(four_days.storage.root)
        with pytest.raises(ConfigError, match="small needs its last 2 days, so 1 are too few"):
            prune(four_days.config, four_days.storage, 1, False, four_days.watch)
        assert files(four_days.storage.root) == before
        assert prune(four_days.config, four_days.storage, 3, False, four_days.watch).first_kept == DAYS[1]

    @pytest.mark.parametrize("changes", [{"retention": {"keep_days": 1}}, {"model": {"name": "small", "rescore_days": 3}}])
    def test_so_are_settings_that_would_keep_too_few(self, four_days: Small, changes: dict[str, Any]) -> None:
        with pytest.raises(ValidationError, match="days are needed by"):
            PipelineConfig.model_validate({**four_days.config.model_dump(), **changes})

    def test_nothing_is_removed_if_nobody_can_say_what_is_live(self, four_days: Small) -> None:
        path = four_days.storage.local_path("small/serving/_current/000004.json")
        path.write_text(path.read_text()[:50])
        before = files(four_days.storage.root)
        with pytest.raises(TornEntry):
            pruned(four_days)
        assert files(four_days.storage.root) == before

    def test_strangers_are_left_alone(self, four_days: Small) -> None:
        strangers = [
            "serving/releases/mine",
            "predictions/notes.txt",
            f"predictions/date={DAYS[0]}/notes",
            "user_features/x=1/y",
        ]
        for name in strangers:
            path = four_days.storage.local_path(f"small/{name}/file")
            path.parent.mkdir(parents=True)
            path.touch()
        pruned(four_days)
        assert all(four_days.storage.local_path(f"small/{name}/file").exists() for name in strangers)


class TestAfterwards:
    def test_a_pruned_day_can_be_run_again(self, four_days: Small) -> None:
        day = DAYS[0]
        before = accepted_log(four_days.storage, "small", day).latest()
        expected = probability(four_days.storage, 7)
        pruned(four_days)
        with pytest.raises(NotFound, match="not kept any more: materialize user_features"):
            score(four_days.config, four_days.storage, day, four_days.model, LocalEngine(1), four_days.watch)
        four_days.watch.said.clear()
        published = night(four_days, day)
        assert any("are computed again" in line for line in four_days.watch.said)
        entries = snapshot_log(four_days.storage, "small", day)
        assert [entries.entry(number).why for number in entries.numbers()] == [
            "first frozen",
            "frozen again, as the snapshot was not kept",
        ]
        assert before is not None
        assert (published.release.run_id, published.is_live) == (before.body["run_id"], False), "the same rows are the same run"
        found = explain(four_days.config, four_days.storage, four_days.registry, "7", day)
        assert (found.chosen, found.release.name) == ("accepted", published.release.name)
        assert probability(four_days.storage, 7) == expected
        assert pruned(four_days).counts == {"releases": 1, "runs": 1, "snapshots": 1}

    def test_other_rows_are_another_run_of_a_pruned_day(self, four_days: Small) -> None:
        pruned(four_days)
        four_days.replace_rows(rows(300, seed=8))
        published = night(four_days, DAYS[0])
        accepted = accepted_log(four_days.storage, "small", DAYS[0])
        latest = accepted.latest()
        assert latest is not None
        assert (accepted.numbers(), latest.body["run_id"]) == ([1, 2], published.release.run_id)

    def test_an_earlier_approval_takes_a_day_whose_run_is_gone(self, four_days: Small) -> None:
        first = four_days.model
        four_days.register("v2", small_model([1.0, -0.5, 0.3]))
        later = judged(four_days, DAYS[0])
        pruned(four_days)
        freeze(four_days.config, four_days.storage, DAYS[0], four_days.watch)
        score(four_days.config, four_days.storage, DAYS[0], first, LocalEngine(1), four_days.watch)
        verdict = judge(four_days.config, four_days.storage, DAYS[0], first)
        latest = accepted_log(four_days.storage, "small", DAYS[0]).latest()
        assert latest is not None
        assert later.subject != verdict.subject == latest.body["run_id"]

    def test_what_was_pruned_is_said(self, four_days: Small) -> None:
        pruned(four_days)
        with pytest.raises(NotFound, match=f"of small {DAYS[0]} is accepted, but it is not kept any more"):
            explain(four_days.config, four_days.storage, four_days.registry, "7", DAYS[0])
        with pytest.raises(NotFound, match="not kept any more"):
            replay(four_days.config, four_days.storage, four_days.registry, "7", DAYS[0])

    def test_later_days_are_judged_as_if_nothing_had_been_pruned(self, four_days: Small) -> None:
        twin = Path(four_days.storage.root).parent / "twin"
        shutil.copytree(four_days.storage.root, twin)
        pruned(four_days)
        verdict = judged(four_days, "2024-03-10")
        four_days.storage = LocalStorage(str(twin))
        four_days.registry = Registry(four_days.storage)
        assert judged(four_days, "2024-03-10") == verdict
        assert len(verdict.compared_with) == 2


class TestWhatIsInUse:
    @pytest.mark.parametrize("where", ["day", "run"])
    def test_a_day_on_which_somebody_is_at_work_is_left_alone(self, four_days: Small, where: str) -> None:
        root = Path(four_days.storage.root)
        (run,) = root.glob(f"small/predictions/date={DAYS[0]}/run=*")
        folder = run if where == "run" else run.parent
        with presence(four_days.storage, str(folder.relative_to(root))):
            found = pruned(four_days)
        assert found.counts == {"releases": 1, "runs": 1, "snapshots": 1}
        assert "is at work on it" in found.busy[DAYS[0]]
        kept = {DAYS[0], *DAYS[2:]}
        assert folders(root) == {"releases": kept, "runs": kept, "snapshots": kept}
        assert pruned(four_days).busy == {}
        assert folders(root)["runs"] == set(DAYS[2:])

    def test_a_day_that_goes_live_meanwhile_is_left_alone(self, four_days: Small) -> None:
        log = current_log(four_days.storage, "small")
        old = log.entry(2)

        class Mover(Quiet):
            def progress(self, stage: str, done: int, total: int | None) -> None:
                if done == 1:  # the first release is gone; now somebody goes back to the second day
                    log.append(old.body, after=4, why="rolled back")

        found = pruned(four_days, watch=Mover())
        assert found.busy == {DAYS[1]: "it went live just now"}
        assert folders(four_days.storage.root)["runs"] == set(DAYS[1:])
        reader = Reader.live(four_days.storage, "small")
        assert reader.lookup(7).record["partition"] == DAYS[1]
        reader.close()

    def test_two_at_once_do_no_more_than_one(self, four_days: Small) -> None:
        twin = Path(four_days.storage.root).parent / "twin"
        shutil.copytree(four_days.storage.root, twin)
        pruned(four_days)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: pruned(four_days, storage=LocalStorage(str(twin))), range(2)))
        assert files(twin) == files(four_days.storage.root)


class TestKeptDays:
    def rejects(self, small: Small, folder: str) -> set[str]:
        return {name for name in small.storage.names(folder) if ".rejects." in name}

    @pytest.fixture
    def one_day(self, make_small: Make) -> tuple[Small, str]:
        small = make_small(
            with_values(rows(300), "x", {5: None, 280: None}), quality={"completeness": {"min_output_ratio": 0.5}}
        )
        freeze(small.config, small.storage, DAYS[0], small.watch)
        manifest = score(small.config, small.storage, DAYS[0], small.model, LocalEngine(1), small.watch).manifest
        return small, manifest.folder

    def test_rejects_that_no_footer_names_are_removed(self, one_day: tuple[Small, str]) -> None:
        small, folder = one_day
        named = self.rejects(small, folder)
        for name in ("chunk-00000.rejects.abcdef012345.parquet", "chunk-00007.rejects.abcdef012345.parquet"):
            small.storage.create(f"{folder}/{name}", b"12345")
        with presence(small.storage, folder):
            assert pruned(small).counts == {}
        found = pruned(small)
        assert (found.counts, found.sizes) == ({"rejects files": 2}, {"rejects files": 10})
        assert self.rejects(small, folder) == named
        assert len(named) == 2
        assert explain(small.config, small.storage, small.registry, "6", DAYS[0]).fate == "dead letter"

    def test_rejects_of_a_chunk_that_cannot_be_read_are_kept(self, one_day: tuple[Small, str]) -> None:
        small, folder = one_day
        small.storage.local_path(f"{folder}/chunk-00000.parquet").write_bytes(b"damaged")
        before = self.rejects(small, folder)
        pruned(small)
        assert self.rejects(small, folder) == before

    def test_an_unfinished_run_is_kept_and_resumes(self, one_day: tuple[Small, str]) -> None:
        small, folder = one_day
        shutil.rmtree(small.storage.local_path(f"{folder}/_manifest"))
        small.storage.local_path(f"{folder}/chunk-00001.parquet").unlink()
        assert pruned(small).counts == {"rejects files": 1}
        scored = score(small.config, small.storage, DAYS[0], small.model, LocalEngine(1), small.watch)
        assert scored.resumed_chunks == 1

    def test_what_writers_left_is_removed_after_a_day(self, one_day: tuple[Small, str]) -> None:
        small, folder = one_day
        yesterday = time.time() - 25 * 3600
        places = [f"{folder}/_tmp", f"{folder}/_manifest/_tmp", "small/serving/_current/_tmp"]
        for place in places:
            for name, written in (("old", yesterday), ("young", time.time())):
                path = small.storage.local_path(f"{place}/{name}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"123")
                os.utime(path, (written, written))
        found = pruned(small)
        assert (found.counts, found.sizes) == ({"unfinished files": 3}, {"unfinished files": 9})
        assert [list(small.storage.names(place)) for place in places] == [["young"]] * 3

    def test_files_of_the_dead_are_removed(self, one_day: tuple[Small, str]) -> None:
        small, folder = one_day
        me = Process.current()
        for place in (folder, folder.rpartition("/")[0]):
            for name, process in (("dead", Process(me.host, 2**22 - 1, 0.0)), ("far", Process("elsewhere", 1, 0.0))):
                small.storage.create(f"{place}/_active/{name}.json", json.dumps(process.as_mapping()).encode())
        assert pruned(small, dry_run=True).counts == pruned(small).counts == {"files of dead processes": 2}
        assert [name for name in small.storage.names(f"{folder}/_active") if name != "_tmp"] == ["far.json"]


def racing(root: str, races: list[Callable[[], None]]) -> Storage:
    """A storage in which somebody does something between the look at the pointer and the opening of the release."""

    class Racing(LocalStorage):
        def read(self, path: str) -> bytes:
            if path.endswith("_release.json") and races:
                races.pop(0)()
            return super().read(path)

    return Racing(root)


class TestAReaderThatLosesTheRace:
    def test_it_reads_the_pointer_again(self, four_days: Small) -> None:
        released = current_log(four_days.storage, "small").entry(4).body["release"]

        def publish_and_prune() -> None:
            four_days.replace_rows(rows(300, seed=2))
            for day in ("2024-04-01", "2024-04-02"):
                night(four_days, day)
            pruned(four_days)
            assert not four_days.storage.names(f"small/serving/releases/{released}")

        races = [publish_and_prune]
        reader = Reader.live(racing(four_days.storage.root, races), "small")
        assert reader.lookup(7).record["partition"] == "2024-04-02"
        reader.close()
        assert races == []

    def test_it_may_lose_more_than_once(self, four_days: Small) -> None:
        def publish_and_prune(days: list[str]) -> None:
            for day in days:
                night(four_days, day)
            pruned(four_days)

        races = [partial(publish_and_prune, [f"2024-0{month}-01", f"2024-0{month}-02"]) for month in (4, 5)]
        reader = Reader.live(racing(four_days.storage.root, races), "small")
        assert reader.lookup(7).record["partition"] == "2024-05-02"
        reader.close()

    def test_a_release_that_is_still_named_is_an_error(self, four_days: Small) -> None:
        release = current_log(four_days.storage, "small").entry(4).body["release"]
        shutil.rmtree(four_days.storage.local_path(f"small/serving/releases/{release}"))
        with pytest.raises(ReleaseBroken, match="publish the partition again"):
            Reader.live(four_days.storage, "small")

    def test_an_open_reader_goes_on(self, four_days: Small) -> None:
        reader = Reader.live(four_days.storage, "small")
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
    prune(small.config, storage, None, False, small.watch)
    assert folders(root) == {"releases": {DAYS[3]}, "runs": {DAYS[3], "2024-03-10"}, "snapshots": {DAYS[3], "2024-03-10"}}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("removals", range(1, 7))
def test_it_may_be_interrupted_at_every_removal(four_days: Small, tmp_path: Path, removals: int, moment: str) -> None:
    with pytest.raises(Interrupted):
        pruned(four_days, storage=Fragile(four_days.storage.root, removals, moment))
    still_works(four_days, Path(four_days.storage.root))


@pytest.mark.parametrize("removals", [1, 3, 5])
def test_it_may_be_killed_in_the_middle_of_a_removal(four_days: Small, removals: int) -> None:
    root = Path(four_days.storage.root)
    program = (
        "import sys; from batch_assets.config import PipelineConfig; from batch_assets.pipeline.prune import prune;"
        "from batch_assets_tests.pipeline.test_prune import Fragile; from batch_assets_tests.small import Quiet;"
        "config = PipelineConfig.model_validate_json(sys.argv[1]);"
        "prune(config, Fragile(sys.argv[2], int(sys.argv[3]), 'middle', True), None, False, Quiet())"
    )
    arguments = [four_days.config.model_dump_json(), str(root), str(removals)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(root.glob("_tmp/*/discarded")), "what was taken out of its place is half removed"
    still_works(four_days, root)
    assert list(root.glob("_tmp/*")) == []
