"""The verbs, one after another, on real files: what a run is, what it refuses, what it remembers."""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.engines.engine import Notice, Workers
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import (
    BadKeys,
    CommitBroken,
    ContractBroken,
    NotFound,
    NotPublishable,
    ProofFailed,
    SnapshotChanged,
    StorageFull,
)
from batch_assets.nightly.accepted import accepted_log
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import publish
from batch_assets.nightly.score import Scored, score
from batch_assets.nightly.verdict import Verdict, read_verdict, verdict_log
from batch_assets.scoring.scorer import ScoringTask
from batch_assets.serving.live import current_log
from batch_assets.storage import LocalStorage
from batch_assets_tests.small import DAY, Quiet, Small, rows, small_model

Make = Callable[..., Small]


def scored(small: Small, day: str = DAY) -> Scored:
    freeze(small.config, small.storage, day, small.progress)
    return score(small.opened(day), LocalEngine(), small.progress)


def judged(small: Small, day: str = DAY) -> Verdict:
    scored(small, day)
    return judge(small.opened(day))


def committed_files(small: Small) -> list[str]:
    return [path.name for path in small.storage.local_path("small").glob("predictions/*/run=*/chunk-*.parquet")]


def reconfigure(small: Small, **changes: object) -> None:
    """Other settings for the same pipeline."""
    small.config = small.config.model_validate({**small.config.model_dump(), **changes})


class TestFreeze:
    def test_a_day_is_frozen_once_and_used_again(self, small: Small) -> None:
        first = freeze(small.config, small.storage, DAY, small.progress)
        small.replace_rows(rows(2_000, seed=5))
        second = freeze(small.config, small.storage, DAY, small.progress)
        assert (first.reused, second.reused) == (False, True)
        assert first.snapshot == second.snapshot

    def test_refresh_freezes_another_and_keeps_the_first(self, small: Small) -> None:
        first = freeze(small.config, small.storage, DAY, small.progress)
        small.replace_rows(rows(2_000, seed=5))
        second = freeze(small.config, small.storage, DAY, small.progress, refresh=True)
        assert first.snapshot.digest != second.snapshot.digest
        assert small.storage.names(first.folder)
        assert freeze(small.config, small.storage, DAY, small.progress).snapshot == second.snapshot

    def test_refresh_with_the_same_rows_is_the_same_snapshot(self, small: Small) -> None:
        first = freeze(small.config, small.storage, DAY, small.progress)
        assert freeze(small.config, small.storage, DAY, small.progress, refresh=True).snapshot == first.snapshot

    @pytest.mark.parametrize("file", ["part-00000.parquet", "_snapshot.json"])
    @pytest.mark.parametrize("damaged", [True, False])
    def test_a_changed_snapshot_is_not_used_until_it_is_frozen_again(self, small: Small, file: str, damaged: bool) -> None:
        frozen = freeze(small.config, small.storage, DAY, small.progress)
        path = small.storage.local_path(f"{frozen.folder}/{file}")
        if damaged:
            path.write_bytes(path.read_bytes()[:100])
        else:
            path.unlink()
        with pytest.raises(SnapshotChanged, match=f"{file} .*--refresh"):
            freeze(small.config, small.storage, DAY, small.progress)
        healed = freeze(small.config, small.storage, DAY, small.progress, refresh=True)
        assert healed.snapshot.digest == frozen.snapshot.digest
        assert freeze(small.config, small.storage, DAY, small.progress).reused

    def test_doubled_keys_leave_no_snapshot(self, small: Small) -> None:
        small.replace_rows(pa.concat_tables([rows(100), rows(1)]))
        with pytest.raises(BadKeys, match="there twice: 1"):
            freeze(small.config, small.storage, DAY, small.progress)
        assert small.storage.names(f"small/user_features/date={DAY}") == {}


class TestRunId:
    def test_the_same_work_has_the_same_id(self, make_small: Make) -> None:
        runs = []
        for small in (make_small(), make_small()):
            freeze(small.config, small.storage, DAY, small.progress)
            runs.append(small.opened(DAY).run_id)
        assert runs[0] == runs[1]

    def test_whatever_decides_the_result_is_in_it(self, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        ids = [small.opened(DAY).run_id]
        scoring = {"chunk_rows": 256, "batch_size": 64}
        for change in (
            {"chunk_rows": 512},
            {"batch_size": 128},
            {"exclude": [{"reason": "r", "column": "x", "op": "<", "value": 0}]},
        ):
            reconfigure(small, scoring={**scoring, **change})
            ids.append(small.opened(DAY).run_id)
        reconfigure(small, scoring=scoring)
        small.register("v2", small_model([2.0, 2.0, 2.0]))
        ids.append(small.opened(DAY).run_id)
        small.replace_rows(rows(2_000, seed=2))
        freeze(small.config, small.storage, DAY, small.progress, refresh=True)
        ids.append(small.opened(DAY).run_id)
        assert len(set(ids)) == len(ids)

    def test_where_it_runs_and_how_it_is_judged_is_not(self, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        before = small.opened(DAY).run_id
        reconfigure(small, engine={"kind": "local"}, quality={"completeness": {"min_output_ratio": 0.5}})
        assert small.opened(DAY).run_id == before


class TestScore:
    def test_features_must_be_frozen_first(self, small: Small) -> None:
        with pytest.raises(NotFound, match="materialize user_features first"):
            score(small.opened(DAY), LocalEngine(), small.progress)

    def test_a_finished_run_is_not_scored_again(self, small: Small) -> None:
        first = scored(small)
        again = scored(small)
        assert again.resumed_chunks == 8
        assert again.manifest == first.manifest
        assert "finished" in small.progress.said[-1]

    def test_the_model_must_take_the_columns_that_are_there(self, small: Small) -> None:
        """The pipeline's contract follows the new columns, the model was trained on the old ones."""
        table = rows(100).rename_columns(["user", "x", "why", "z"])
        small.replace_rows(table)
        query = small.storage.local_path("x").parent.parent / "query.sql"
        query.write_text("SELECT user, x, why, z FROM rows WHERE $partition IS NOT NULL")
        freeze(small.config, small.storage, DAY, small.progress)
        with pytest.raises(ContractBroken, match="y seems to be renamed to why"):
            score(small.opened(DAY), LocalEngine(), small.progress)
        assert committed_files(small) == []

    def test_too_little_space_is_said_before_scoring(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        """The system's answer is a fake: a disk that is really full would hurt others; writing to one is tested in storage."""
        freeze(small.config, small.storage, DAY, small.progress)
        monkeypatch.setattr(LocalStorage, "free_bytes", lambda self: 1_000_000)
        with pytest.raises(StorageFull, match="only 1 MB are free"):
            score(small.opened(DAY), LocalEngine(), small.progress)
        assert committed_files(small) == []

    def test_a_manifest_whose_files_are_gone_is_not_believed(self, small: Small) -> None:
        manifest = scored(small).manifest
        small.storage.local_path(f"{manifest.folder}/chunk-00003.parquet").unlink()
        with pytest.raises(CommitBroken, match=r"chunk-00003\.parquet is missing"):
            judge(small.opened(DAY))
        again = scored(small)
        assert (again.resumed_chunks, again.manifest.values) == (7, manifest.values)
        assert again.manifest.scored_here == 256
        assert any("chunk-00003.parquet is missing" in line for line in small.progress.said)
        assert judge(small.opened(DAY)).good

    def test_an_engine_that_loses_a_chunk_is_found_out(self, small: Small) -> None:
        class Forgetful:
            @contextmanager
            def open(self, task: ScoringTask, notice: Notice, *, died: bool = False) -> Iterator[Workers]:
                with LocalEngine(1).open(task, notice, died=died) as workers:
                    everything = workers.map
                    workers.map = lambda work, items: everything(work, list(items)[:-1])  # type: ignore[method-assign]
                    yield workers

        freeze(small.config, small.storage, DAY, small.progress)
        with pytest.raises(ProofFailed, match="chunk-00007"):
            score(small.opened(DAY), Forgetful(), small.progress)

    def test_a_crash_between_chunks_resumes(self, small: Small) -> None:
        def crash(stage: str, done: int, total: int | None) -> None:
            crashes.append(done)
            if len(crashes) == 3:
                raise RuntimeError("the process is gone")

        undisturbed = scored(small).manifest
        folder = small.storage.local_path(undisturbed.folder)
        shutil.rmtree(folder)
        for _ in range(2):
            crashes: list[int] = []
            crashing = Quiet()
            crashing.at = crash  # type: ignore[method-assign]
            with pytest.raises(RuntimeError):
                score(small.opened(DAY), LocalEngine(1), crashing)
        committed = len(list(folder.glob("chunk-*.parquet")))
        resumed = scored(small)
        assert resumed.resumed_chunks == committed >= 4
        assert resumed.manifest.values == undisturbed.values

    def test_an_empty_partition_is_good_where_that_was_said(self, make_small: Make) -> None:
        small = make_small(rows(0), quality={"completeness": {"allow_empty": True}})
        scored(small)
        assert judge(small.opened(DAY)).good
        published = publish(small.opened(DAY), small.progress)
        assert (published.release.rows, published.is_live) == (0, True)

    def test_an_empty_partition_is_a_run_that_blocks(self, make_small: Make) -> None:
        small = make_small(rows(0))
        assert scored(small).manifest.rows == 0
        verdict = judge(small.opened(DAY))
        assert verdict.outcome("complete").blocks
        with pytest.raises(NotPublishable, match="complete: The partition has no rows"):
            publish(small.opened(DAY), small.progress)


class TestPresence:
    def test_who_scores_the_same_run_is_told(self, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        run = small.opened(DAY)
        small.storage.create(f"{run.folder}/_active/other.json", b'{"host": "elsewhere", "pid": 77, "started": 0.0}')
        scored(small)
        assert any("host elsewhere, pid 77" in line for line in small.progress.said)


class TestJudge:
    def test_a_good_run_is_accepted(self, small: Small) -> None:
        verdict = judged(small)
        assert verdict.good
        names = [outcome.name for outcome in verdict.outcomes]
        assert names == [
            *("contract", "sources", "expectations", "changes", "feature_drift"),
            *(
                "complete",
                "dead_letters",
                "one_model",
                "audit",
                "scores",
                "drift",
                "ranks",
                "previous_model",
                "baseline",
                "feature_baseline",
            ),
        ]
        accepted = accepted_log(small.storage, "small", DAY).latest()
        assert accepted is not None
        assert accepted.body.root.run_id == verdict.subject

    def test_judging_again_adds_nothing(self, small: Small) -> None:
        verdict = judged(small)
        run = small.opened(DAY)
        assert judge(small.opened(DAY)) == verdict
        assert verdict_log(small.storage, run.folder).numbers() == [1]
        assert accepted_log(small.storage, "small", DAY).numbers() == [1]

    def test_a_check_that_did_not_run_has_not_passed(self, small: Small) -> None:
        with pytest.raises(NotFound, match="says nothing about full_scan"):
            judged(small).outcome("full_scan")

    def test_trailing_days_of_the_same_model_are_compared_with(self, small: Small) -> None:
        runs = [judged(small, day).subject for day in ("2024-02-01", "2024-03-01", "2024-03-05", "2024-03-20")]
        verdict = judged(small, DAY)
        assert verdict.compared_with == tuple(runs[1:3]), "not the one 38 days back, not the later one"
        assert verdict.outcome("drift").severity == "error"

    def test_the_days_of_another_model_say_how_far_a_new_one_is_from_it_and_no_more(self, small: Small) -> None:
        before = judged(small, "2024-03-09").subject
        small.register("v2", small_model([1.1, -0.5, 0.25]))
        verdict = judged(small, DAY)
        assert verdict.compared_with == (before,)
        assert verdict.outcome("drift").message.startswith("not_compared")
        assert verdict.outcome("previous_model").passed
        assert "against v1 on 2024-03-09" in verdict.outcome("previous_model").message

    def test_shifted_scores_block_and_leave_everything_as_it_was(self, small: Small) -> None:
        judged(small, "2024-03-09")
        publish(small.opened("2024-03-09"), small.progress)
        table = rows(2_000)
        small.replace_rows(table.set_column(1, "x", pa.array(table["x"].to_numpy() + np.float32(2))))
        verdict = judged(small, DAY)
        assert verdict.outcome("drift").blocks
        assert accepted_log(small.storage, "small", DAY).latest() is None
        with pytest.raises(NotPublishable, match="drift: PSI"):
            publish(small.opened(DAY), small.progress)
        live = current_log(small.storage, "small").latest()
        assert live is not None
        assert live.body.partition == "2024-03-09"

    def test_a_run_that_is_not_good_any_more_is_withdrawn(self, small: Small) -> None:
        judged(small)
        judged(small, "2024-03-11")
        table = rows(2_000)
        small.replace_rows(table.set_column(1, "x", pa.array(table["x"].to_numpy() + np.float32(2))))
        judged(small, "2024-03-09")
        verdict = judge(small.opened(DAY))
        assert verdict.outcome("drift").blocks
        accepted = accepted_log(small.storage, "small", DAY).latest()
        assert accepted is not None
        assert (accepted.body.root.run_id, accepted.body.root.withdrawn) == (None, verdict.subject)
        again = judge(small.opened("2024-03-11"))
        assert verdict.subject not in again.compared_with

    def test_a_damaged_earlier_day_does_not_stop_the_night(self, small: Small) -> None:
        judged(small, "2024-03-09")
        earlier = small.opened("2024-03-09")
        small.storage.local_path(f"{earlier.folder}/chunk-00000.parquet").unlink()
        assert judged(small).compared_with == (earlier.run_id,)

    def test_constant_scores_block(self, small: Small) -> None:
        small.register("v2", small_model([0.0, 0.0, 0.0]), confirmed=True)
        assert judged(small).outcome("scores").blocks

    def test_too_many_dead_letters_block(self, make_small: Make) -> None:
        table = rows(2_000)
        values = table["x"].to_numpy().copy()
        values[:30] = math.nan
        verdict = judged(make_small(table.set_column(1, "x", pa.array(values))))
        assert verdict.outcome("complete").blocks
        assert verdict.outcome("expectations").blocks

    def test_features_are_judged_once_per_snapshot_and_settings(self, small: Small) -> None:
        frozen = freeze(small.config, small.storage, DAY, small.progress)
        first = judge_features(small.config, small.storage, frozen, DAY)
        assert judge_features(small.config, small.storage, frozen, DAY) == first
        reconfigure(small, quality={"expectations": {"max_missing": 0.5}})
        assert judge_features(small.config, small.storage, frozen, DAY).basis != first.basis
        assert verdict_log(small.storage, frozen.folder).numbers() == [1, 2]
        assert read_verdict(small.storage, frozen.folder) != first

    def test_an_earlier_approval_does_not_take_the_day_back(self, small: Small) -> None:
        first = small.model
        judged(small)
        second = small.register("v2", small_model([1.0, -0.5, 0.3]))
        newer = judged(small)
        judge(Night.open(small.config, small.storage, DAY, first))
        accepted = accepted_log(small.storage, "small", DAY).latest()
        assert accepted is not None
        assert (accepted.body.root.run_id, accepted.body.root.approval) == (newer.subject, second.approval)
