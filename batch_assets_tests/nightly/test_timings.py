"""What is measured of nights, and what is not."""

from collections.abc import Callable

import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.publish import check_published, publish
from batch_assets.nightly.score import score
from batch_assets.nightly.timings import STAGES, kept_timings, nights_took
from batch_assets.operations.prune import prune
from batch_assets_tests.nights import DAYS, SETTINGS, files
from batch_assets_tests.small import DAY, Small, rows

pytestmark = pytest.mark.night

Make = Callable[..., Small]


def whole_night(small: Small, day: str = DAY) -> None:
    small.night(day)
    assert check_published(small.opened(day)).passed


class TestWhatIsMeasured:
    def test_every_stage_of_a_whole_night(self, small: Small) -> None:
        whole_night(small)
        (night,) = nights_took(small.storage, "small", 14)
        manifest = small.opened(DAY).manifest()
        assert night.whole
        assert tuple(night.seconds) == STAGES
        assert all(seconds > 0 for seconds in night.seconds.values())
        scored = sum(night.seconds[stage] for stage in ("start-up", "scoring", "proof"))
        assert scored == pytest.approx(manifest.wall_seconds)
        assert (night.rows, night.chunks, night.day, night.model) == (2_000, 8, DAY, manifest.model.digest)
        assert night.finished == manifest.finished
        assert night.peaks.keys() == set(STAGES) - {"start-up", "proof"}
        assert all(peak > 1_000_000 for peak in night.peaks.values())

    def test_a_night_that_is_done_again_measures_nothing_again(self, small: Small) -> None:
        whole_night(small)
        before = files(small.storage.root)
        whole_night(small)
        assert files(small.storage.root) == before

    def test_a_run_that_was_resumed_is_no_measurement(self, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        night = small.opened(DAY)
        score(night, LocalEngine(1), small.progress)
        small.storage.delete(f"{night.folder}/chunk-00000.parquet")
        resumed = score(small.opened(DAY), LocalEngine(1), small.progress)
        assert 0 < resumed.manifest.scored_here < resumed.manifest.rows
        judge(small.opened(DAY))
        publish(small.opened(DAY), small.progress)
        assert nights_took(small.storage, "small", 14) == []

    def test_a_verdict_and_a_release_that_were_there_are_no_measurement(self, small: Small) -> None:
        whole_night(small)
        run, snapshot = small.opened(DAY).folder, small.opened(DAY).frozen.folder
        for folder in (run, snapshot):
            small.storage.discard(f"{folder}/_took")
        whole_night(small)
        assert set(kept_timings(small.storage, run)) == {"checking"}, "it reads everything back whenever it is asked"
        assert kept_timings(small.storage, snapshot) == {}

    def test_it_does_not_enter_the_run_id(self, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        before = small.opened(DAY)
        small.storage.discard(f"{before.frozen.folder}/_took")
        assert small.opened(DAY).run_id == before.run_id


class TestWhichNights:
    def test_the_newest_count_in_the_order_in_which_they_were_finished(self, make_small: Make) -> None:
        small = make_small(rows(300), **SETTINGS)
        for day in (DAYS[1], DAYS[0], DAYS[2]):
            small.night(day)
        assert [one.day for one in nights_took(small.storage, "small", 14)] == [DAYS[1], DAYS[0], DAYS[2]]
        assert [one.day for one in nights_took(small.storage, "small", 1)] == [DAYS[2]]

    def test_a_run_to_which_something_is_added_later_is_no_newer(self, make_small: Make) -> None:
        small = make_small(rows(300), **SETTINGS)
        for day in DAYS[:2]:
            small.night(day)
        small.opened(DAYS[0]).log().append(small.opened(DAYS[0]).manifest(), after=1, why="as a replay of dead letters does")
        assert [one.day for one in nights_took(small.storage, "small", 14)] == DAYS[:2]

    def test_what_is_pruned_is_pruned_with_its_measurements(self, make_small: Make) -> None:
        small = make_small(rows(300), **SETTINGS)
        for day in DAYS:
            small.night(day)
        prune(small.config, small.storage, None, False, small.progress)
        assert [one.day for one in nights_took(small.storage, "small", 14)] == DAYS[2:]
        left = [name for name in files(small.storage.root) if "_took" in name]
        assert left
        assert all(any(day in name for day in DAYS[2:]) for name in left)
