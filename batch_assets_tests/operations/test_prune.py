"""Pruning takes away what nobody needs, touches nothing that is in use, and may be interrupted anywhere."""

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from batch_assets.config import PipelineConfig
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import ConfigError, NotFound, TornEntry
from batch_assets.features.snapshot import current_log as snapshot_log
from batch_assets.models.registry import Registry
from batch_assets.nightly.accepted import accepted_log
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.night import Night
from batch_assets.nightly.score import score
from batch_assets.nightly.verdict import Verdict
from batch_assets.operations.explain import explain
from batch_assets.operations.prune import prune
from batch_assets.operations.replay import replay
from batch_assets.process import Process
from batch_assets.serving.live import current_log
from batch_assets.serving.reader import Reader
from batch_assets.storage import LocalStorage
from batch_assets.storage.lease import LEASE_SECONDS, lease
from batch_assets_tests.nights import DAYS, SETTINGS, files, folders, judged, night, probability, pruned
from batch_assets_tests.small import Quiet, Small, rows, small_model, with_values

Make = Callable[..., Small]


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
            prune(four_days.config, four_days.storage, 1, False, four_days.progress)
        assert files(four_days.storage.root) == before
        assert prune(four_days.config, four_days.storage, 3, False, four_days.progress).first_kept == DAYS[1]

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
            score(four_days.opened(day), LocalEngine(1), four_days.progress)
        four_days.progress.said.clear()
        published = night(four_days, day)
        assert any("are computed again" in line for line in four_days.progress.said)
        entries = snapshot_log(four_days.storage, "small", day)
        assert [entries.entry(number).why for number in entries.numbers()] == [
            "first frozen",
            "frozen again, as the snapshot was not kept",
        ]
        assert before is not None
        assert (published.release.run_id, published.is_live) == (before.body.root.run_id, False), (
            "the same rows are the same run"
        )
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
        assert (accepted.numbers(), latest.body.root.run_id) == ([1, 2], published.release.run_id)

    def test_an_earlier_approval_takes_a_day_whose_run_is_gone(self, four_days: Small) -> None:
        first = four_days.model
        four_days.register("v2", small_model([1.0, -0.5, 0.3]))
        later = judged(four_days, DAYS[0])
        pruned(four_days)
        freeze(four_days.config, four_days.storage, DAYS[0], four_days.progress)
        score(Night.open(four_days.config, four_days.storage, DAYS[0], first), LocalEngine(1), four_days.progress)
        verdict = judge(Night.open(four_days.config, four_days.storage, DAYS[0], first))
        latest = accepted_log(four_days.storage, "small", DAYS[0]).latest()
        assert latest is not None
        assert later.subject != verdict.subject == latest.body.root.run_id

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
        assert _said(judged(four_days, "2024-03-10")) == _said(verdict)
        assert len(verdict.compared_with) == 2


def _said(verdict: Verdict) -> Verdict:
    """A verdict without the moment at which it was judged."""
    return verdict.model_copy(update={"outcomes": tuple(one.model_copy(update={"judged": ""}) for one in verdict.outcomes)})


class TestWhatIsInUse:
    @pytest.mark.parametrize("where", ["day", "run"])
    def test_a_day_on_which_somebody_is_at_work_is_left_alone(self, four_days: Small, where: str) -> None:
        root = Path(four_days.storage.root)
        (run,) = root.glob(f"small/predictions/date={DAYS[0]}/run=*")
        folder = run if where == "run" else run.parent
        with lease(four_days.storage, str(folder.relative_to(root))):
            found = pruned(four_days)
        assert found.counts == {"releases": 1, "runs": 1, "snapshots": 1}
        assert "is at work on it" in found.busy[DAYS[0]]
        kept = {DAYS[0], *DAYS[2:]}
        assert folders(root) == {"releases": kept, "runs": kept, "snapshots": kept}
        assert pruned(four_days).busy == {}
        assert folders(root)["runs"] == set(DAYS[2:])

    def test_a_worker_of_another_host_that_is_silent_keeps_nothing(self, four_days: Small) -> None:
        folder = f"small/predictions/date={DAYS[0]}"
        four_days.storage.create(f"{folder}/_active/far.json", json.dumps(Process("elsewhere", 1, 0.0).as_mapping()).encode())
        assert "host elsewhere, pid 1 is at work on it" in pruned(four_days).busy[DAYS[0]]
        path = four_days.storage.local_path(f"{folder}/_active/far.json")
        os.utime(path, (path.stat().st_mtime - LEASE_SECONDS - 10,) * 2)
        found = pruned(four_days)
        assert (found.busy, found.counts["runs"], found.counts["files of dead processes"]) == ({}, 1, 1)
        assert not path.exists()

    def test_a_day_that_goes_live_meanwhile_is_left_alone(self, four_days: Small) -> None:
        log = current_log(four_days.storage, "small")
        old = log.entry(2)

        class Mover(Quiet):
            def at(self, stage: str, done: int, total: int | None) -> None:
                if done == 1:  # the first release is gone; now somebody goes back to the second day
                    log.append(old.body, after=4, why="rolled back")

        found = pruned(four_days, progress=Mover())
        assert found.busy == {DAYS[1]: "it went live just now"}
        assert folders(four_days.storage.root)["runs"] == set(DAYS[1:])
        reader = Reader.open("small", four_days.storage)
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
        freeze(small.config, small.storage, DAYS[0], small.progress)
        manifest = score(small.opened(DAYS[0]), LocalEngine(1), small.progress).manifest
        return small, manifest.folder

    def test_rejects_that_no_footer_names_are_removed(self, one_day: tuple[Small, str]) -> None:
        small, folder = one_day
        named = self.rejects(small, folder)
        for name in ("chunk-00000.rejects.abcdef012345.parquet", "chunk-00007.rejects.abcdef012345.parquet"):
            small.storage.create(f"{folder}/{name}", b"12345")
        with lease(small.storage, folder):
            assert pruned(small).counts == {}
        found = pruned(small)
        assert (found.counts, found.sizes) == ({"rejects files": 2}, {"rejects files": 10})
        assert self.rejects(small, folder) == named
        assert len(named) == 2
        assert explain(small.config, small.storage, small.registry, "6", DAYS[0]).fate == "dead letter"

    def test_the_live_day_is_a_kept_day(self, four_days: Small) -> None:
        """It is older than the last days, as those were not published."""
        log = current_log(four_days.storage, "small")
        log.append(log.entry(1).body, after=4, why="rolled back")
        (run,) = four_days.storage.local_path(f"small/predictions/date={DAYS[0]}").glob("run=*")
        (run / "chunk-00000.rejects.abcdef012345.parquet").write_bytes(b"12345")
        found = pruned(four_days)
        assert (found.counts, found.busy) == ({"releases": 1, "runs": 1, "snapshots": 1, "rejects files": 1}, {})

    def test_rejects_of_a_chunk_that_cannot_be_read_are_kept(self, one_day: tuple[Small, str]) -> None:
        small, folder = one_day
        small.storage.local_path(f"{folder}/chunk-00000.parquet").write_bytes(b"damaged")
        before = self.rejects(small, folder)
        pruned(small)
        assert self.rejects(small, folder) == before

    def test_an_unfinished_run_is_kept_and_resumes(self, one_day: tuple[Small, str]) -> None:
        small, folder = one_day
        for logs in ("_manifest", "_witness"):
            shutil.rmtree(small.storage.local_path(f"{folder}/{logs}"))
        small.storage.local_path(f"{folder}/chunk-00001.parquet").unlink()
        assert pruned(small).counts == {"rejects files": 1}
        scored = score(small.opened(DAYS[0]), LocalEngine(1), small.progress)
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
