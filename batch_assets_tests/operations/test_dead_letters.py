"""Dead letters are listed, shown and replayed; a replay adds to the run and changes nothing that is there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import NewRunNeeded, NoPrediction, NotFound, ProofFailed
from batch_assets.nightly import night as night_module
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.operations.dead_letters import (
    count_dead_letters,
    finished,
    list_dead_letters,
    replay,
    show_dead_letter,
)
from batch_assets.operations.recorded import recorded_run
from batch_assets.proof.keys import prove_replays
from batch_assets.runs.manifest import Manifest
from batch_assets.serving.reader import Reader
from batch_assets.serving.release import release_parts
from batch_assets_tests.faulty import Faulty
from batch_assets_tests.small import DAY, Small, rows, with_values

Make = Callable[..., Small]
POISON = 77.0


@pytest.fixture
def broken(make_small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Small, Manifest, Path]:
    """A finished run with four dead letters: two by a fault of the machine that can be mended, two by their features."""
    table = with_values(with_values(rows(2_000), "x", {5: POISON, 700: POISON, 10: None}), "y", {1_500: float("nan")})
    small, flag = make_small(table), tmp_path / "library is broken"
    flag.touch()
    real = night_module.PredictorLoader
    monkeypatch.setattr(
        night_module, "PredictorLoader", lambda *args: Faulty(real(*args), "the library is broken", POISON, str(flag))
    )
    freeze(small.config, small.storage, DAY, small.progress)
    manifest = score(small.opened(DAY), LocalEngine(), small.progress).manifest
    return small, manifest, flag


def everything(small: Small) -> dict[str, bytes]:
    root = Path(small.storage.root)
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def replayed(small: Small, manifest: Manifest):  # type: ignore[no-untyped-def]
    return replay(small.config, small.storage, small.registry, manifest.folder, LocalEngine(), small.progress)


def test_they_are_listed_in_order_and_counted_by_reason(broken: tuple[Small, Manifest, Path]) -> None:
    small, manifest, _ = broken
    assert manifest == finished(small.config, small.storage, small.registry, DAY)
    letters = list(list_dead_letters(small.config, small.storage, manifest))
    assert [(one.key, one.row, one.chunk) for one in letters] == [
        (6, 5, "chunk-00000"),
        (11, 10, "chunk-00000"),
        (701, 700, "chunk-00002"),
        (1_501, 1_500, "chunk-00005"),
    ]
    assert letters[0].error == "ValueError: the library is broken"
    assert count_dead_letters(small.config, small.storage, manifest) == {
        "the model raised": 2,
        "missing or non-finite feature: x": 1,
        "missing or non-finite feature: y": 1,
    }


def test_one_is_shown_with_its_features(broken: tuple[Small, Manifest, Path]) -> None:
    small, manifest, _ = broken
    shown = show_dead_letter(small.config, small.storage, manifest, "701")
    assert (shown["key"], shown["features"]["x"], shown["run_id"]) == (701, POISON, manifest.run_id)
    with pytest.raises(NoPrediction, match="702 is not a dead letter"):
        show_dead_letter(small.config, small.storage, manifest, "702")


def test_a_replay_adds_what_succeeds_and_changes_nothing(broken: tuple[Small, Manifest, Path]) -> None:
    small, manifest, flag = broken
    before = everything(small)
    flag.unlink()
    outcome = replayed(small, manifest)
    assert (outcome.replayed, outcome.scored) == (4, 2)
    assert outcome.still_dead == {"missing or non-finite feature: x": 1, "missing or non-finite feature: y": 1}
    after = everything(small)
    assert before.items() <= after.items()
    new = sorted(Path(path).name for path in after.keys() - before.keys() if "_witness" not in path)
    assert new == ["000002.json", "chunk-00000.replay-001.parquet", "chunk-00002.replay-001.parquet"]
    following = finished(small.config, small.storage, small.registry, DAY)
    assert (following.scored, following.dead_lettered, following.rows) == (1_998, 2, 2_000)
    assert following.finished == manifest.finished
    assert (sum(manifest.labels), sum(following.labels)) == (manifest.scored, 1_998)
    assert [one.key for one in list_dead_letters(small.config, small.storage, following)] == [11, 1_501]


def test_the_run_is_then_what_it_would_have_been_without_the_fault(
    broken: tuple[Small, Manifest, Path], make_small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, manifest, flag = broken
    flag.unlink()
    replayed(small, manifest)
    following = finished(small.config, small.storage, small.registry, DAY)
    healthy = make_small(
        with_values(with_values(rows(2_000), "x", {5: POISON, 700: POISON, 10: None}), "y", {1_500: float("nan")})
    )
    freeze(healthy.config, healthy.storage, DAY, healthy.progress)
    expected = score(Night.open(healthy.config, healthy.storage, DAY, healthy.model), LocalEngine(), healthy.progress).manifest
    assert following.values == expected.values
    assert following.histogram == expected.histogram
    assert judge(small.opened(DAY)).good
    publish(small.opened(DAY), small.progress)
    reader = Reader.open("small", small.storage)
    assert reader.lookup(701).record["probability"] == 1.0
    reader.close()


def test_a_published_run_is_published_again_with_the_replayed_rows(broken: tuple[Small, Manifest, Path]) -> None:
    small, manifest, flag = broken
    judge(small.opened(DAY))
    first = publish(small.opened(DAY), small.progress).release
    file = small.storage.local_path(f"{first.folder}/{first.built['folder']}/release.arrow")
    before = file.stat()
    flag.unlink()
    replayed(small, manifest)
    judge(small.opened(DAY))
    published = publish(small.opened(DAY), small.progress)
    assert (published.release.rows, published.is_live) == (1_998, True)
    assert published.release.name == f"{first.name}.2", "beside what was live, not in its place"
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert recorded_run(small.config, small.storage, small.registry, None).manifest.scored == 1_998
    assert release_parts(published.release.name) == (DAY, manifest.run_id)


def test_a_second_replay_finds_only_what_is_left(broken: tuple[Small, Manifest, Path]) -> None:
    small, manifest, flag = broken
    assert replayed(small, manifest).scored == 0
    assert len(list(small.storage.local_path(manifest.folder).glob("_manifest/*.json"))) == 1
    flag.unlink()
    assert replayed(small, manifest).scored == 2
    again = replayed(small, manifest)
    assert (again.replayed, again.scored) == (2, 0)


def test_a_file_that_no_manifest_names_is_left_alone(broken: tuple[Small, Manifest, Path]) -> None:
    """A replay that was killed before its manifest leaves a file; the next one writes beside it."""
    small, manifest, flag = broken
    small.storage.create(f"{manifest.folder}/chunk-00000.replay-001.parquet", b"left by a kill")
    flag.unlink()
    assert replayed(small, manifest).scored == 2
    following = finished(small.config, small.storage, small.registry, DAY)
    assert {file.name for file in following.files if file.is_replay} == {
        "chunk-00000.replay-002.parquet",
        "chunk-00002.replay-001.parquet",
    }


def test_a_dead_letter_is_shown_whatever_the_settings_are_now(broken: tuple[Small, Manifest, Path]) -> None:
    small, manifest, _ = broken
    small.config = small.config.model_copy(update={"scoring": small.config.scoring.model_copy(update={"chunk_rows": 512})})
    assert show_dead_letter(small.config, small.storage, manifest, "701")["features"]["x"] == POISON


@pytest.mark.parametrize("change", [{"batch_size": 128}, {"chunk_rows": 512}, {"precision": "bfloat16"}])
def test_other_settings_need_a_new_run(broken: tuple[Small, Manifest, Path], change: dict[str, object]) -> None:
    small, manifest, _ = broken
    small.config = small.config.model_copy(update={"scoring": small.config.scoring.model_copy(update=change)})
    with pytest.raises(NewRunNeeded, match="needs a new run: `batch-assets run small"):
        replayed(small, manifest)


def test_another_approved_model_does_not_matter(broken: tuple[Small, Manifest, Path]) -> None:
    """A replay uses the run's own model."""
    from batch_assets_tests.small import small_model

    small, manifest, flag = broken
    small.register("v2", small_model([3.0, 3.0, 3.0]))
    flag.unlink()
    assert finished(small.config, small.storage, small.registry, DAY).run_id == manifest.run_id
    assert replayed(small, manifest).scored == 2


def test_a_replay_of_rows_that_were_no_dead_letters_is_refused(broken: tuple[Small, Manifest, Path]) -> None:
    small, manifest, _ = broken
    file = manifest.files[0]
    name = "chunk-00000.replay-001.parquet"
    small.storage.create(f"{manifest.folder}/{name}", small.storage.read(f"{manifest.folder}/{file.name}"))
    with pytest.raises(ProofFailed, match=r"chunk-00000 .* doubled or were no dead letters"):
        prove_replays(small.storage, manifest.folder, ["user"], file.chunk, file.rejects, [name])


def test_lost_chunks_are_scored_again_and_replays_stay(broken: tuple[Small, Manifest, Path]) -> None:
    small, manifest, flag = broken
    flag.unlink()
    replayed(small, manifest)
    following = finished(small.config, small.storage, small.registry, DAY)
    small.storage.local_path(f"{manifest.folder}/chunk-00003.parquet").unlink()
    again = score(small.opened(DAY), LocalEngine(), small.progress).manifest
    assert (again.values, again.scored, again.dead_lettered) == (following.values, 1_998, 2)
    assert again.labels == following.labels


def test_a_day_without_a_finished_run_says_so(small: Small) -> None:
    freeze(small.config, small.storage, DAY, small.progress)
    with pytest.raises(NotFound, match="No run of small 2024-03-10 is finished"):
        finished(small.config, small.storage, small.registry, DAY)
