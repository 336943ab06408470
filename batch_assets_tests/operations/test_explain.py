"""One key is explained from what was recorded, whatever the pipeline looks like today."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import NoPrediction, NotFound, SnapshotChanged
from batch_assets.features.snapshot import SnapshotReader, write_snapshot
from batch_assets.nightly import night as night_module
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import score
from batch_assets.operations.dead_letters import replay as replay_dead_letters
from batch_assets.operations.explain import Explanation, explain
from batch_assets.operations.recorded import find_key
from batch_assets.serving.reader import Reader
from batch_assets.storage import LocalStorage
from batch_assets_tests.faulty import Faulty
from batch_assets_tests.small import DAY, Small, Working, rows, small_model, with_values

Make = Callable[..., Small]
POISON = 77.0
EXCLUDE = {
    "scoring": {
        "chunk_rows": 256,
        "batch_size": 64,
        "exclude": [{"reason": "too young", "column": "z", "op": "<", "value": -50}],
    }
}


def explained(small: Small, key: int | str, day: str | None = None) -> Explanation:
    return explain(small.config, small.storage, small.registry, str(key), day)


class TestFindingAKey:
    @pytest.mark.parametrize("groups", [1, 2, 7, 64])
    @pytest.mark.parametrize("key_type", [pa.int32(), pa.int64(), pa.string()])
    def test_every_key_is_found_and_no_other(self, tmp_path: Path, groups: int, key_type: pa.DataType) -> None:
        numbers = [n * 3 - 500 for n in range(300)]
        keys = sorted((f"ü{n}" for n in numbers), key=str.encode) if key_type == pa.string() else numbers
        table = pa.table({"user": pa.array(keys, key_type), "x": pa.array([0.5] * 300, pa.float32())})
        snapshot = write_snapshot(tmp_path, table.to_reader(), ["user"], -(-300 // groups))
        reader = SnapshotReader(LocalStorage(str(tmp_path.parent)), tmp_path.name, snapshot)
        assert [find_key(reader, snapshot, str(key)) for key in keys] == [(0, n) for n in range(300)]
        strangers = ["", "z", "-501", "-499", "398", "1000000", "1e3", str(2**63), "ü", "ü0", "ü-5000"]
        assert [find_key(reader, snapshot, key) for key in strangers] == [None] * len(strangers)

    def test_few_row_groups_are_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        snapshot = write_snapshot(tmp_path, rows(4_096).to_reader(), ["user"], 16)
        reader, read = SnapshotReader(LocalStorage(str(tmp_path.parent)), tmp_path.name, snapshot), list[int]()
        real = SnapshotReader.rows
        monkeypatch.setattr(SnapshotReader, "rows", lambda *args: read.append(args[2]) or real(*args))
        assert find_key(reader, snapshot, "3000") == (0, 2_999)
        assert len(read) <= 9, "of 256 row groups"

    def test_keys_are_found_in_every_part_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("batch_assets.features.snapshot.ROWS_PER_FILE", 64)
        snapshot = write_snapshot(tmp_path, rows(200).to_reader(), ["user"], 16)
        reader = SnapshotReader(LocalStorage(str(tmp_path.parent)), tmp_path.name, snapshot)
        assert len(snapshot.files) == 4
        assert [find_key(reader, snapshot, str(key)) for key in (1, 64, 65, 200, 201)] == [
            (0, 0), (0, 63), (1, 0), (3, 7), None,
        ]  # fmt: skip

    def test_nothing_is_in_an_empty_snapshot(self, tmp_path: Path) -> None:
        snapshot = write_snapshot(tmp_path, rows(0).to_reader(), ["user"], 16)
        reader = SnapshotReader(LocalStorage(str(tmp_path.parent)), tmp_path.name, snapshot)
        assert find_key(reader, snapshot, "1") is None


class TestALiveKey:
    def test_it_is_explained_from_row_to_release(self, small: Small) -> None:
        published = small.night()
        found = explained(small, 1_234)
        reader = Reader.open("small", small.storage)
        record = reader.lookup(1_234).record
        reader.close()
        assert found.prediction == {name: record[name] for name in ("probability", "decile", "label")}
        assert (found.fate, found.partition, found.run_id) == ("scored", DAY, published.release.run_id)
        assert found.features == {name: rows(2_000)[name][1_233].as_py() for name in ("x", "y", "z")}
        assert (found.origin.file, found.origin.row) == ("part-00000.parquet", 1_233)
        assert found.origin.snapshot == published.release.snapshot
        (read_from,) = found.read_from
        assert (read_from.table, read_from.rows, len(read_from.files)) == ("rows", 2_000, 1)
        assert read_from.path.endswith("rows.parquet")
        assert (found.scored_by.chunk, found.scored_by.attempt) == ("chunk-00004", 1)
        assert found.scored_by.written is not None
        assert found.scored_by.written.pid == os.getpid()
        assert found.model == published.release.model
        assert found.approval is not None
        assert (found.approval.number, found.approval.by, found.approval.why) == (1, "the test", "test")
        assert (found.chosen, found.release.name, found.release.is_live) == ("live", published.release.name, True)
        assert found.release.matches
        assert "drift" in {check.name for check in found.checks}

    def test_the_answer_is_plain_values(self, small: Small) -> None:
        small.night()
        found = json.loads(json.dumps(explained(small, 42).as_mapping()))
        assert found["model"]["digest"] == small.model.digest
        said = {"name", "asset", "passed", "severity", "observed", "threshold", "figures", "message", "override"}
        assert set(found["checks"][0]) == said | {"findings", "judged"}
        assert found["scored_by"]["written"]["host"]
        assert found["approval"]["by"] == "the test"

    def test_text_keys(self, make_small: Make) -> None:
        small = make_small(rows(500, key_type=pa.string()))
        small.night()
        assert explained(small, "user-0000042").origin.row == 41
        with pytest.raises(NoPrediction, match="it is not in the snapshot"):
            explained(small, "42")

    @pytest.mark.parametrize("key", ["0", "2001", "nobody", "", "-1", str(2**70)])
    def test_a_key_that_is_not_in_the_snapshot(self, small: Small, key: str) -> None:
        small.night()
        with pytest.raises(NoPrediction, match=f"no prediction for key {key}: it is not in the snapshot .* of small {DAY}"):
            explained(small, key)

    def test_nothing_was_published(self, small: Small) -> None:
        with pytest.raises(NoPrediction, match="Nothing of small"):
            explained(small, 1)

    def test_a_later_refresh_and_other_settings_change_nothing(self, small: Small) -> None:
        small.night()
        before = explained(small, 7)
        small.replace_rows(rows(2_000, seed=9))
        freeze(small.config, small.storage, DAY, small.progress, refresh=True)
        scoring = {"chunk_rows": 512, "batch_size": 128}
        small.config = small.config.model_validate({**small.config.model_dump(), "scoring": scoring})
        small.register("v2", small_model([2.0, 2.0, 2.0]))
        assert explained(small, 7) == before


class TestADay:
    def test_an_older_day_has_its_own_run(self, small: Small) -> None:
        old, new = small.night("2024-03-09"), small.night()
        found = explained(small, 1, "2024-03-09")
        assert (found.run_id, found.chosen) == (old.release.run_id, "accepted")
        assert (found.release.name, found.release.is_live, found.release.live) == (old.release.name, False, new.release.name)

    def test_a_day_without_an_accepted_run_has_its_newest_and_says_so(self, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        manifest = score(small.opened(DAY), LocalEngine(), small.progress).manifest
        found = explained(small, 1, DAY)
        assert (found.run_id, found.chosen, found.checks) == (manifest.run_id, "newest finished, not accepted", ())
        assert found.approval is not None
        assert (found.release.name, found.release.live) == (None, None)

    def test_a_day_that_was_never_scored(self, small: Small) -> None:
        with pytest.raises(NotFound, match=f"No run of small {DAY} is finished.*batch-assets run small"):
            explained(small, 1, DAY)

    def test_what_is_not_kept_any_more_is_said(self, small: Small) -> None:
        published = small.night()
        shutil.rmtree(small.storage.local_path(f"small/predictions/date={DAY}/run={published.release.run_id}"))
        with pytest.raises(NotFound, match="is accepted, but it is not kept any more: `batch-assets run small"):
            explained(small, 1, DAY)
        with pytest.raises(NotFound, match="is live, but it is not kept any more"):
            explained(small, 1)

    def test_a_lost_snapshot_is_said(self, small: Small) -> None:
        small.night()
        (folder,) = small.storage.local_path(f"small/user_features/date={DAY}").glob("snapshot=*")
        shutil.rmtree(folder)
        with pytest.raises(SnapshotChanged, match="cannot be read"):
            explained(small, 1)


class TestAKeyThatWasNotScored:
    @pytest.fixture
    def broken(self, make_small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Small, Path]:
        table = with_values(with_values(rows(2_000), "x", {5: POISON, 10: None}), "z", {20: -99.0})
        small, flag = make_small(table, **EXCLUDE), tmp_path / "library is broken"
        flag.touch()
        real = night_module.PredictorLoader
        monkeypatch.setattr(
            night_module, "PredictorLoader", lambda *args: Faulty(real(*args), "the library is broken", POISON, str(flag))
        )
        small.night()
        return small, flag

    def test_it_says_why(self, broken: tuple[Small, Path]) -> None:
        small, _ = broken
        excluded, missing, raised = (explained(small, key) for key in (21, 11, 6))
        assert (excluded.fate, excluded.reason, excluded.prediction) == ("excluded", "too young", None)
        assert (missing.fate, missing.reason) == ("dead letter", "missing or non-finite feature: x")
        assert missing.features["x"] is None
        assert (raised.reason, raised.error) == ("the model raised", "ValueError: the library is broken")

    def test_a_replayed_one_is_scored(self, broken: tuple[Small, Path]) -> None:
        small, flag = broken
        flag.unlink()
        folder = small.storage.local_path("small/predictions").glob("*/run=*")
        (run,) = (str(path.relative_to(small.storage.root)) for path in folder)
        replay_dead_letters(small.config, small.storage, small.registry, run, LocalEngine(), small.progress)
        found = explained(small, 6)
        assert (found.fate, found.scored_by.file) == ("scored", "chunk-00000.replay-001.parquet")
        assert found.prediction is not None
        assert found.prediction["probability"] == 1.0
        assert (found.release.is_live, found.release.matches) == (True, False), "it was published before the replay"
        judge(small.opened(DAY))
        publish(small.opened(DAY), small.progress)
        assert explained(small, 6).release.matches

    def test_a_damaged_release_is_no_hindrance(self, small: Small) -> None:
        published = small.night()
        small.storage.local_path(f"small/serving/releases/{published.release.name}/arrow.json").write_text("{")
        found = explained(small, 6)
        assert (found.fate, found.release.is_live, found.release.matches) == ("scored", True, False)


class TestTheCommitsFooter:
    def test_it_says_which_attempt_wrote_it(self, small: Small) -> None:
        working = Working(small)
        chunk = working.run.plan[0]
        again = replace(chunk, attempt=3)
        assert again == chunk, "an attempt is no part of what a chunk is"
        with LocalEngine(1).open(working.task, small.progress.say) as workers:
            list(workers.map(lambda scorer, one: scorer.score(one), [again, *working.run.plan[1:]]))
        commits = working.commits()
        assert [commits[number].attempt for number in (0, 1)] == [3, 1]
        working.prove()
