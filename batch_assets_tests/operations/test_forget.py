"""A key that is forgotten has no prediction any more, at once; nobody else notices, and nothing brings it back."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import ForgetInvalid, NotPublishable, SecretInvalid, StorageError
from batch_assets.features.forgotten import forgotten_log
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.publish import live_since, publish, published_matches
from batch_assets.nightly.score import score
from batch_assets.nightly.summary import summarize
from batch_assets.operations import forget as forgetting
from batch_assets.operations.dead_letters import finished, replay
from batch_assets.operations.explain import explain
from batch_assets.operations.releases import go_back, list_releases, publish_day
from batch_assets.serving.export import export_folder, exports_of
from batch_assets.serving.live import current_log
from batch_assets.serving.release import release_parts
from batch_assets.serving.retention import remove
from batch_assets_tests.nights import DAYS
from batch_assets_tests.operations.forgetting import answers, forgets, records, secret
from batch_assets_tests.small import Small, rows, with_values

__all__ = ["secret"]

Make = Callable[..., Small]
SOME = (7, 8, 150, 299)


@pytest.fixture(autouse=True)
def _secret(secret: Path) -> None:
    """Every pipeline here can forget."""


@pytest.fixture
def two_nights(make_small: Make) -> Small:
    small = make_small(rows(300))
    for day in DAYS[:2]:
        small.night(day)
    return small


class TestAtOnce:
    def test_the_key_has_no_prediction_and_the_others_have_theirs(self, two_nights: Small) -> None:
        before = records(two_nights, *SOME)
        done = forgets(two_nights, 7)
        assert records(two_nights, *SOME) == [None, *before[1:]]
        assert done.live == current_log(two_nights.storage, "small").latest().body.release  # type: ignore[union-attr]
        assert done.seconds is not None
        assert done.lagging == {}

    def test_the_checks_and_the_summary_are_right(self, two_nights: Small) -> None:
        forgets(two_nights, 1, 7)
        night = two_nights.opened(DAYS[1])
        matches = published_matches(night)
        assert matches.passed, matches.message
        assert "298 records of 298" in matches.message
        lookup = summarize(night, matches, "")["lookup"]
        assert lookup is not None
        assert lookup["key"] == 2

    def test_explain_says_which_release(self, two_nights: Small) -> None:
        done = forgets(two_nights, 7)
        found = explain(two_nights.config, two_nights.storage, two_nights.registry, 8)
        assert (found.release.name, found.release.matches, found.release.is_live) == (done.live, True, True)

    def test_the_sla_goes_on(self, two_nights: Small) -> None:
        since = live_since(two_nights.config, two_nights.storage, DAYS[1])
        forgets(two_nights, 7)
        assert live_since(two_nights.config, two_nights.storage, DAYS[1]) == since

    def test_no_release_has_the_key_any_more(self, two_nights: Small) -> None:
        forgets(two_nights, 7)
        forgets(two_nights, 8)
        found = list_releases(two_nights.config, two_nights.storage)
        assert [(one.partition, one.rows) for one in found] == [(day, 298) for day in DAYS[1::-1]]
        assert all(release_parts(one.release) for one in found)

    def test_no_export_has_the_key_any_more_also_of_a_release_that_no_store_keeps(self, make_small: Make) -> None:
        small = make_small(rows(300), export={"shards": 3})
        releases = [small.night(day).release for day in DAYS[:2]]
        remove(small.storage, releases[0])
        forgets(small, 7)
        found = exports_of(small.storage, "small")
        assert [name[:10] for name in found] == DAYS[:2]
        assert not {one.name for one in releases} & set(found)
        for name in found:
            users = pq.read_table(small.storage.local_path(export_folder("small", name)))["user"].to_pylist()
            assert sorted(users) == [user for user in range(1, 301) if user != 7]
        assert published_matches(small.opened(DAYS[1])).passed

    def test_whoever_is_nobody_changes_nothing(self, two_nights: Small) -> None:
        before = [one.release for one in list_releases(two_nights.config, two_nights.storage)]
        done = forgets(two_nights, 77_777)
        assert [one.release for one in list_releases(two_nights.config, two_nights.storage)] == before
        assert (done.live, done.rebuilt, done.removed) == (None, (), ())


class TestWhatComesLater:
    def test_the_next_nights_do_not_bring_it_back(self, two_nights: Small) -> None:
        before = records(two_nights, *SOME)
        forgets(two_nights, 7)
        for day in DAYS[2:]:
            assert two_nights.night(day).release.rows == 299
            assert (
                [one and one["probability"] for one in records(two_nights, *SOME)]
                == [  # type: ignore[index]
                    None,
                    *(one["probability"] for one in before[1:]),  # type: ignore[index]
                ]
            )

    def test_a_night_that_was_frozen_before_does_not_publish_it(self, two_nights: Small) -> None:
        day = DAYS[2]
        freeze(two_nights.config, two_nights.storage, day, two_nights.progress)
        score(two_nights.opened(day), LocalEngine(1), two_nights.progress)
        judge(two_nights.opened(day))
        forgets(two_nights, 7)
        assert publish(two_nights.opened(day), two_nights.progress).release.rows == 299
        assert answers(two_nights, 7) == [None]

    def test_publishing_the_day_again_changes_nothing(self, two_nights: Small) -> None:
        done = forgets(two_nights, 7)
        again = publish_day(two_nights.config, two_nights.storage, two_nights.registry, DAYS[1], two_nights.progress)
        assert (again.release.name, again.live) == (done.live, done.live)

    def test_going_back_does_not_bring_it_back(self, two_nights: Small) -> None:
        before = records(two_nights, *SOME)
        forgets(two_nights, 7)
        entry = go_back(two_nights.config, two_nights.storage, two_nights.registry, "a bad day").live
        assert entry.body.partition == DAYS[0]
        found = records(two_nights, *SOME)
        assert [one and one["partition"] for one in found] == [None, *[DAYS[0]] * 3]  # type: ignore[index]
        assert found[1]["probability"] == before[1]["probability"]  # type: ignore[index]

    def test_what_a_person_went_back_from_is_not_published_again_by_itself(self, two_nights: Small) -> None:
        go_back(two_nights.config, two_nights.storage, two_nights.registry, "a bad day")
        forgets(two_nights, 7)
        with pytest.raises(NotPublishable, match="went back"):
            publish(two_nights.opened(DAYS[1]), two_nights.progress)
        assert [one and one["partition"] for one in records(two_nights, 7, 8)] == [None, DAYS[0]]  # type: ignore[index]
        done = publish_day(
            two_nights.config, two_nights.storage, two_nights.registry, DAYS[1], two_nights.progress, "it was good"
        )
        assert done.is_live
        assert answers(two_nights, 7) == [None]

    def test_a_dead_letter_is_not_tried_again(self, make_small: Make) -> None:
        small = make_small(with_values(rows(300), "x", {6: None}), quality={"completeness": {"min_output_ratio": 0.9}})
        small.night()
        forgets(small, 7)
        manifest = finished(small.config, small.storage, small.registry, "2024-03-10")
        tried = replay(small.config, small.storage, small.registry, manifest.folder, LocalEngine(1), small.progress)
        assert (tried.replayed, tried.still_dead) == (0, {"forgotten (not tried again)": 1})


def test_who_is_interrupted_says_the_same_again(two_nights: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(forgetting, "build", full)
        with pytest.raises(StorageError):
            forgets(two_nights, 7)
    forgets(two_nights, 7)
    assert answers(two_nights, 7) == [None]
    assert [one.rows for one in list_releases(two_nights.config, two_nights.storage)] == [299, 299]
    assert len(list(forgotten_log(two_nights.storage, "small").history())) == 1


def test_a_release_without_its_run_is_taken_out_unless_it_is_live(two_nights: Small) -> None:
    for day in DAYS[:2]:
        two_nights.storage.discard(two_nights.opened(day).folder)
    assert forgets(two_nights, 77_777).removed == ()
    with pytest.raises(NotPublishable, match="is live and has the key, and its run is not kept any more"):
        forgets(two_nights, 7)
    two_nights.night(DAYS[2])
    assert [one[:10] for one in forgets(two_nights, 7).removed] == DAYS[1::-1]
    assert answers(two_nights, 7) == [None]


def test_keys_of_text_are_forgotten_too(make_small: Make) -> None:
    small = make_small(rows(20, key_type=pa.string()))
    small.night()
    forgets(small, "user-0000007")
    assert answers(small, "user-0000007") == [None]
    assert answers(small, "user-0000008") != [None]


class TestRefused:
    @pytest.mark.parametrize("why", ["", "  "])
    def test_without_a_reason(self, small: Small, why: str) -> None:
        with pytest.raises(ForgetInvalid, match="needs a reason"):
            forgets(small, 7, why=why)

    def test_a_reason_with_the_key_in_it(self, small: Small) -> None:
        with pytest.raises(ForgetInvalid, match="names the key"):
            forgets(small, 7, why="user 7 wrote")
        forgets(small, 7, why="a letter of 17 May")

    @pytest.mark.parametrize("key", ["seven", str(2**70), ""])
    def test_what_is_no_key(self, small: Small, key: str) -> None:
        with pytest.raises(ForgetInvalid, match=r"no key of small, whose keys are user \(int64\)"):
            forgets(small, key)

    def test_with_another_secret(self, two_nights: Small, secret: Path) -> None:
        forgets(two_nights, 7)
        secret.write_text("y" * 40)
        with pytest.raises(SecretInvalid, match="another secret"):
            forgets(two_nights, 8)
        assert [one.number for one in forgotten_log(two_nights.storage, "small").history()] == [1]
