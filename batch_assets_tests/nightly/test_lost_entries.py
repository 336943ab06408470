"""A finished night whose history was cut: the next run, look-up or decision that would rest on it is an error that names it."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import LostEntry
from batch_assets.features.provenance import provenance_log
from batch_assets.features.snapshot import current_log
from batch_assets.logs import NumberedLog
from batch_assets.models.registry import Registry, Retirement
from batch_assets.nightly.accepted import accepted_log
from batch_assets.nightly.freeze import freeze, frozen
from batch_assets.nightly.judge import judge
from batch_assets.nightly.night import Night, batch_size_log
from batch_assets.nightly.publish import publish, published_matches
from batch_assets.nightly.score import score
from batch_assets.nightly.verdict import verdict_log
from batch_assets.operations.explain import explain
from batch_assets.runs.manifest import manifest_log
from batch_assets.scoring.batch_size import Sweep, resolved, sweep_log
from batch_assets.serving.live import current_log as live_log
from batch_assets.serving.reader import Reader
from batch_assets.storage import LocalStorage
from batch_assets_tests.forgery import Anything, delete_newest, forge, numbered
from batch_assets_tests.nights import probability
from batch_assets_tests.small import DAY, Small, rows, small_model

Make = Callable[..., Small]
AUTO = {"scoring": {"chunk_rows": 256, "batch_size": "auto"}}


def swept(small: Small) -> NumberedLog[Sweep]:
    return sweep_log(small.storage, small.model.card.model_sha256, small.config.scoring, small.model.card.runtime.versioned())


def retired(small: Small) -> NumberedLog[Retirement]:
    return NumberedLog(small.storage, "models/small/v0/_retired", Retirement)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model_bytes: bytes) -> Small:
    """A published night, every log of which has three entries."""
    small = Small(tmp_path_factory.mktemp("finished"), rows(600), model_bytes, **AUTO)
    small.registry.register("small", "v0", small.card(model_bytes), model_bytes)
    small.registry.retire("small", "v0", why="wrong labels", by="the test")
    swept(small).append(small.swept(64), after=0, why="sweep")
    small.night()
    for path in sorted(Path(small.storage.root).rglob("000001.json")):
        log = NumberedLog(small.storage, str(path.parent.relative_to(small.storage.root)), Anything)
        for number in (1, 2):
            log.append(log.entry(number).body, after=number, why="said again")
    return small


@pytest.fixture
def night(finished: Small, tmp_path: Path) -> Small:
    """A copy of it, with which anything may be done."""
    shutil.copytree(finished.storage.root, tmp_path / "copy")
    night = copy.copy(finished)
    night.storage = LocalStorage(str(tmp_path / "copy"))
    night.registry = Registry(night.storage)
    return night


def scoring(small: Small) -> Any:
    return score(small.opened(DAY), LocalEngine(1), small.progress)


def judging(small: Small) -> Any:
    return judge(small.opened(DAY))


def folder(small: Small) -> str:
    return small.opened(DAY).folder


def snapshot(small: Small) -> str:
    return small.opened(DAY).frozen.folder


WHAT_RESTS_ON: dict[str, tuple[Callable[[Small], NumberedLog[Any]], Callable[[Small], Any]]] = {
    "which snapshot": (
        lambda one: current_log(one.storage, "small", DAY),
        lambda one: freeze(one.config, one.storage, DAY, one.progress),
    ),
    "what was read": (
        lambda one: provenance_log(one.storage, snapshot(one)),
        lambda one: frozen(one.config, one.storage, DAY),
    ),
    "verdict on features": (lambda one: verdict_log(one.storage, snapshot(one)), judging),
    "batch size": (lambda one: batch_size_log(one.config, one.storage, DAY, one.model), scoring),
    "manifest": (lambda one: manifest_log(one.storage, folder(one)), scoring),
    "verdict on a run": (
        lambda one: verdict_log(one.storage, folder(one)),
        lambda one: publish(Night.open(one.config, one.storage, DAY, one.model), one.progress),
    ),
    "accepted run": (lambda one: accepted_log(one.storage, "small", DAY), judging),
    "live release": (lambda one: live_log(one.storage, "small"), lambda one: Reader.open("small", one.storage)),
    "approval": (
        lambda one: one.registry.approvals("small", "batch").log,
        lambda one: one.registry.resolve(one.config.model),
    ),
    "retirement": (
        retired,
        lambda one: one.registry.approve("small", "batch", "v0", why="again", by="the test"),
    ),
    "sweep": (
        swept,
        lambda one: resolved(one.storage, one.config.scoring, one.model.card.model_sha256, one.model.card.runtime.versioned()),
    ),
}


def test_every_log_of_a_night_is_among_them(night: Small) -> None:
    root = Path(night.storage.root)
    there = {str(path.parent.relative_to(root)) for path in root.rglob("000001.json")}
    assert there == {log(night).folder for log, _ in WHAT_RESTS_ON.values()}


@pytest.mark.parametrize("what", WHAT_RESTS_ON)
class TestALogThatLost:
    def test_nothing_is_believed(self, night: Small, what: str) -> None:
        log, use = WHAT_RESTS_ON[what]
        assert log(night).numbers() == [1, 2, 3]
        if what != "retirement":
            found = use(night)
            found.close() if isinstance(found, Reader) else None

    @pytest.mark.parametrize("number", [2, 3])
    def test_an_entry(self, night: Small, what: str, number: int) -> None:
        of, use = WHAT_RESTS_ON[what]
        log = of(night)
        night.storage.delete(numbered(log, number))
        with pytest.raises(LostEntry, match=f"{log.folder}/00000{number}.json under .* was written and is missing"):
            use(night)

    def test_everything(self, night: Small, what: str) -> None:
        of, use = WHAT_RESTS_ON[what]
        log = of(night)
        shutil.rmtree(night.storage.local_path(log.folder))
        with pytest.raises(LostEntry, match=f"{log.folder}/000001.json under .* was written and is missing"):
            use(night)

    def test_the_order_of_its_entries(self, night: Small, what: str) -> None:
        of, use = WHAT_RESTS_ON[what]
        log = of(night)
        second, third = (json.loads(night.storage.read(numbered(log, number))) for number in (2, 3))
        for number, other in ((2, third), (3, second)):
            forge(log, number, **{name: other[name] for name in ("who", "when", "why", "body")})
        with pytest.raises(LostEntry, match=log.folder):
            use(night)


def test_a_look_up_does_not_answer_from_the_release_before(make_small: Make) -> None:
    small = make_small(rows(300))
    small.night("2024-03-09")
    small.night("2024-03-10")
    log = live_log(small.storage, "small")
    delete_newest(log)
    with pytest.raises(LostEntry, match=r"serving/_current/000002\.json"):
        probability(small.storage, 1)
    with pytest.raises(LostEntry, match=r"serving/_current/000002\.json"):
        explain(small.config, small.storage, small.registry, "1")
    with pytest.raises(LostEntry, match=r"serving/_current/000002\.json"):
        small.night("2024-03-11")


class TestWhoeverWasMadeFromIt:
    """The entry is gone together with what vouches for it: who was made from it still knows its number."""

    def test_a_run_knows_the_approval(self, make_small: Make) -> None:
        small = make_small(rows(300))
        small.night()
        small.register("v2", small_model((0.9, -0.5, 0.25)))
        small.night()
        delete_newest(small.registry.approvals("small", "batch").log, vouched=True)
        assert small.model.version == "v1"
        with pytest.raises(
            LostEntry, match=r"aliases/batch/000002\.json under .*, from which .*/_current/000002\.json was made"
        ):
            small.night()

    def test_an_acceptance_knows_the_snapshot(self, make_small: Make) -> None:
        small = make_small(rows(300))
        small.night()
        small.replace_rows(rows(300, seed=2))
        freeze(small.config, small.storage, DAY, small.progress, refresh=True)
        small.night()
        delete_newest(current_log(small.storage, "small", DAY), vouched=True)
        with pytest.raises(
            LostEntry, match=r"user_features/date=.*/000002\.json under .*, from which .*/_current/000002\.json"
        ):
            small.night()

    def test_a_verdict_knows_the_manifest(self, make_small: Make) -> None:
        small = make_small(rows(300))
        published = small.night()
        run = folder(small)
        log = manifest_log(small.storage, run)
        log.append(log.entry(1).body, after=1, why="lost chunks were scored again", seen=[])
        verdicts = verdict_log(small.storage, run)
        verdicts.append(verdicts.entry(1).body, after=1, why="good", seen=[log])
        assert published.is_live
        delete_newest(log, vouched=True)
        with pytest.raises(LostEntry, match=r"_manifest/000002\.json under .*, from which .*/_verdict/000002\.json was made"):
            publish(small.opened(DAY), small.progress)

    def test_what_is_live_knows_the_accepted_run(self, make_small: Make) -> None:
        small = make_small(rows(300))
        small.night()
        delete_newest(accepted_log(small.storage, "small", DAY), vouched=True)
        with pytest.raises(
            LostEntry, match=r"predictions/date=.*/_current/000001\.json under .*, from which .*serving/_current"
        ):
            published_matches(small.opened(DAY))
