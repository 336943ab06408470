"""Scorer, commits and proof together, on real files: what is committed, who wins, what resumes, what breaks the proof."""

import math
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.digest import key_digest
from batch_assets.errors import CommitBroken, ProofFailed, SnapshotChanged
from batch_assets.nightly.freeze import freeze
from batch_assets.runs.commit import read_committed, write_commit
from batch_assets_tests.small import DAY, Small, Working, rows, with_values

Make = Callable[..., Small]


@pytest.fixture
def working(small: Small) -> Working:
    return Working(small)


def test_every_record_says_who_when_and_by_what(working: Working) -> None:
    working.score_all()
    table = pq.read_table(working.path(0))
    assert table.column_names == ["user", "probability", "decile", "label", "model_version", "partition"]
    assert set(table["model_version"].to_pylist()) == {"v1"}
    assert set(table["partition"].to_pylist()) == {DAY}


def test_predictions_are_the_models(working: Working) -> None:
    working.score_all()
    found = pq.read_table(working.path(1)).to_pydict()
    table = rows(2_000).slice(256, 256)
    logits = sum(table[name].to_numpy() * weight for name, weight in (("x", 1.0), ("y", -0.5), ("z", 0.25)))
    expected = 1 / (1 + np.exp(-logits))
    assert found["user"] == table["user"].to_pylist()
    np.testing.assert_allclose(found["probability"], expected, atol=1e-6)
    assert found["decile"] == [min(int(p * 10) + 1, 10) for p in found["probability"]]
    assert found["label"] == ["yes" if p >= 0.5 else "no" for p in found["probability"]]


def test_the_footer_says_everything_about_the_chunk(working: Working) -> None:
    commit = working.score_all()[2]
    footer = working.commits()[2]
    assert commit.model_copy(update={"seconds": footer.seconds}) == footer
    assert (commit.rows, commit.scored, commit.excluded, commit.dead_lettered) == (256, 256, 0, 0)
    assert commit.keys == key_digest(pa.array(range(513, 769)))
    assert commit.histogram.total == 256
    assert set(commit.seconds) == {"read", "convert", "forward", "postprocess", "write"}
    assert set(commit.environment) == {"device", "cpu_capability", "precision", "torch"}
    assert commit.model_sha256 == working.small.model.card.model_sha256


def test_the_proof_covers_every_row(working: Working) -> None:
    working.score_all()
    proof = working.prove()
    assert (proof.rows, proof.chunks) == (2_000, 8)
    assert proof.keys == key_digest(pa.array(range(1, 2_001)))


@pytest.mark.parametrize("chunk_rows", [64, 100, 256, 300, 5_000])
def test_the_proof_holds_however_chunks_lie_on_row_groups(make_small: Make, chunk_rows: int) -> None:
    """Row groups have 256 rows; chunks are smaller, equal, odd or larger."""
    small = make_small()
    freeze(small.config, small.storage, DAY, small.progress)
    scoring = small.config.scoring.model_copy(update={"chunk_rows": chunk_rows})
    small.config = small.config.model_copy(update={"scoring": scoring})
    working = Working(small)
    working.score_all()
    assert working.prove().rows == 2_000


@pytest.mark.parametrize("key_type", [pa.int32(), pa.string()])
def test_keys_of_every_type_are_proven(make_small: Make, key_type: pa.DataType) -> None:
    working = Working(make_small(rows(1_000, key_type=key_type)))
    working.score_all()
    assert working.prove().rows == 1_000


class TestRowsThatAreNotScored:
    @pytest.fixture
    def table(self) -> pa.Table:
        table = with_values(rows(1_000), "x", {3: math.nan, 700: None})
        return with_values(table, "z", {3: math.inf, 10: -math.inf})

    def test_bad_rows_are_dead_lettered_with_reason_and_place(self, make_small: Make, table: pa.Table) -> None:
        working = Working(make_small(table))
        commits = working.score_all()
        assert [commit.dead_lettered for commit in commits.values()] == [2, 0, 1, 0]
        found = [(row["user"], row["kind"], row["reason"], row["file"], row["row"]) for row in working.rejects()]
        assert found == [
            (4, "dead_letter", "missing or non-finite feature: x, z", "part-00000.parquet", 3),
            (11, "dead_letter", "missing or non-finite feature: z", "part-00000.parquet", 10),
            (701, "dead_letter", "missing or non-finite feature: x", "part-00000.parquet", 700),
        ]
        assert working.prove().rows == 1_000

    def test_the_others_have_the_same_bits_as_without_them(self, make_small: Make, table: pa.Table) -> None:
        bad, good = Working(make_small(table)), Working(make_small(rows(1_000)))
        bad.score_all()
        good.score_all()
        survivors = pq.read_table(bad.path(0), columns=["user", "probability"])
        everybody = pq.read_table(good.path(0), columns=["user", "probability"])
        assert survivors.to_pylist() == [row for row in everybody.to_pylist() if row["user"] not in (4, 11)]

    def test_a_business_rule_excludes_with_its_reason(self, make_small: Make, table: pa.Table) -> None:
        scoring = {
            "chunk_rows": 256,
            "batch_size": 64,
            "exclude": [{"reason": "opted out", "column": "y", "op": ">", "value": 1.0}],
        }
        working = Working(make_small(table, scoring=scoring))
        commits = working.score_all()
        expected = int((table["y"].to_numpy() > 1.0).sum())
        assert sum(commit.excluded for commit in commits.values()) == expected > 0
        assert {row["reason"] for row in working.rejects() if row["kind"] == "excluded"} == {"opted out"}
        assert working.prove().rows == 1_000

    def test_a_non_finite_output_is_dead_lettered_and_counted(self, make_small: Make) -> None:
        """One row gives NaN, another an infinite logit, whose probability would look like a good 1.0."""
        small = make_small(with_values(with_values(rows(300), "x", {0: 3e38, 7: 2e38}), "y", {7: 1e9}))
        with pytest.warns(UserWarning, match="gives the same whatever is in y, z"):
            small.register("v2", _overflowing_model())
        working = Working(small)
        commits = working.score_all()
        reasons = [(row["user"], row["reason"]) for row in working.rejects()]
        assert reasons == [(1, "non-finite output of the model"), (8, "non-finite output of the model")]
        assert (commits[0].histogram.non_finite, commits[0].histogram.total) == (2, 254)
        assert working.prove().rows == 300

    def test_a_chunk_may_have_nothing_left(self, make_small: Make) -> None:
        nothing = dict.fromkeys(range(256, 512), math.nan)
        working = Working(make_small(with_values(rows(600), "x", nothing)))
        commits = working.score_all()
        assert (commits[1].scored, commits[1].dead_lettered) == (0, 256)
        assert working.prove().rows == 600


def _overflowing_model() -> bytes:
    """For huge x: inf where y is huge too, else inf - inf; x elsewhere."""
    import torch

    from batch_assets.models.runtimes.pytorch.export import export_model

    class Overflowing(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            huge = features[:, 0] * 10
            strange = torch.where(features[:, 1] > 1e6, huge, huge - huge)
            return torch.where(torch.isinf(huge), strange, features[:, 0])

    return export_model(Overflowing(), 3)


def test_a_worker_loads_neither_dagster_nor_pandas_nor_torch_export(make_small: Make, tmp_path: Path) -> None:
    """It starts a second earlier without them."""
    working = Working(make_small(rows(600)))
    (tmp_path / "task").write_bytes(pickle.dumps((working.task, working.run.plan[0])))
    program = (
        "import pickle, sys\n"
        "task, chunk = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert task.open().score(chunk).scored == 256\n"
        "print([name for name in ('dagster', 'pandas', 'torch._dynamo', 'sympy', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "task")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestCommits:
    def test_the_first_writer_wins_and_the_second_leaves_nothing(self, make_small: Make) -> None:
        working = Working(make_small(with_values(rows(600), "x", {0: math.nan})))
        first = working.score_all()
        before = {path.name: path.read_bytes() for path in working.path(0).parent.glob("*.parquet")}
        again = working.task.open().score(working.run.plan[0])
        assert again.values == first[0].values
        assert {path.name: path.read_bytes() for path in working.path(0).parent.glob("*.parquet")} == before

    def test_a_writer_that_loses_against_itself_keeps_its_rejects(self, make_small: Make) -> None:
        """The link was made and then an error that passes was told: the second attempt finds the first one's commit."""
        working = Working(make_small(with_values(rows(600), "x", {0: math.nan})))
        commit = working.score_all()[0]
        table = read_committed(working.small.storage, f"{working.run.folder}/chunk-00000.parquet")
        assert (
            write_commit(working.small.storage, working.run.folder, working.run.plan[0], table, commit).rejects
            == commit.rejects
        )
        assert working.prove().rows == 600

    def test_rejects_that_no_footer_names_do_not_exist(self, make_small: Make) -> None:
        working = Working(make_small(with_values(rows(600), "x", {0: math.nan})))
        working.score_all()
        named = next(commit.rejects for commit in working.commits().values() if commit.rejects)
        source = working.path(0).parent / named.name
        shutil.copy(source, working.path(0).parent / "chunk-00000.rejects.0123456789ab.parquet")
        assert len(working.rejects()) == 1
        assert working.prove().rows == 600

    @pytest.mark.parametrize("cut", [True, False])
    def test_a_commit_that_lost_its_rejects_is_scored_again(self, make_small: Make, cut: bool) -> None:
        working = Working(make_small(with_values(rows(600), "x", {0: math.nan})))
        rejects = working.score_all()[0].rejects
        assert rejects
        path = working.path(0).parent / rejects.name
        if cut:
            path.write_bytes(path.read_bytes()[:50])
        else:
            path.unlink()
        assert sorted(working.commits()) == [1, 2]
        working.task.open().score(working.run.plan[0])
        assert len(working.rejects()) == 1
        assert working.prove().rows == 600

    def test_resume_is_the_plan_minus_the_commits(self, working: Working) -> None:
        working.score_all()
        for number in (1, 6):
            working.path(number).unlink()
        assert sorted(working.commits()) == [0, 2, 3, 4, 5, 7]

    @pytest.mark.parametrize(
        "damage", [lambda data: data[: len(data) // 2], lambda data: data[:0], lambda data: data[:-4] + b"PAR2"]
    )
    def test_a_damaged_commit_is_named(self, working: Working, damage: Callable[[bytes], bytes]) -> None:
        working.score_all()
        working.path(3).write_bytes(damage(working.path(3).read_bytes()))
        with pytest.raises(CommitBroken, match="chunk-00003"):
            working.commits()

    def test_a_commit_of_another_plan_is_named(self, working: Working) -> None:
        working.score_all()
        shutil.copy(working.path(1), working.path(3))
        with pytest.raises(CommitBroken, match="chunk-00003"):
            working.commits()


class TestBrokenProof:
    """A fault planted in one committed file, its footer left as it was: resume would trust it, the proof does not."""

    @pytest.fixture
    def committed(self, working: Working) -> Working:
        working.score_all()
        return working

    def rewrite(self, working: Working, change: Callable[[pa.Table], pa.Table]) -> None:
        table = pq.read_table(working.path(5))
        changed = change(table).replace_schema_metadata(table.schema.metadata)
        pq.write_table(changed, working.path(5))

    def test_a_dropped_row(self, committed: Working) -> None:
        self.rewrite(committed, lambda table: table.slice(1))
        with pytest.raises(ProofFailed, match="chunk-00005"):
            committed.prove()

    def test_a_doubled_row_in_place_of_another(self, committed: Working) -> None:
        self.rewrite(committed, lambda table: pa.concat_tables([table.slice(0, 1), table.slice(0, 1), table.slice(2)]))
        with pytest.raises(ProofFailed, match=r"chunk-00005 .*missing, doubled or foreign"):
            committed.prove()

    def test_a_foreign_row(self, committed: Working) -> None:
        def foreign(table: pa.Table) -> pa.Table:
            keys = [99_999, *table["user"].to_pylist()[1:]]
            return table.set_column(0, "user", pa.array(keys, pa.int64()))

        self.rewrite(committed, foreign)
        with pytest.raises(ProofFailed, match=r"chunk-00005 .*missing, doubled or foreign"):
            committed.prove()

    def test_a_missing_chunk(self, committed: Working) -> None:
        committed.path(5).unlink()
        with pytest.raises(ProofFailed, match=r"chunk-00005 .* is missing"):
            committed.prove()

    def test_rows_moved_between_chunks_of_one_row_group(self, make_small: Make) -> None:
        """The row group's sum is right then; only its chunks tell."""
        small = make_small()
        freeze(small.config, small.storage, DAY, small.progress)
        scoring = small.config.scoring.model_copy(update={"chunk_rows": 64})
        small.config = small.config.model_copy(update={"scoring": scoring})
        working = Working(small)
        working.score_all()
        first, second = (pq.read_table(working.path(number)) for number in (4, 5))
        for number, table, other in ((4, first, second), (5, second, first)):
            swapped = pa.concat_tables([other.slice(0, 1), table.slice(1)]).replace_schema_metadata(table.schema.metadata)
            pq.write_table(swapped, working.path(number))
        with pytest.raises(ProofFailed, match="chunk-00004"):
            working.prove()

    def test_changed_rejects(self, make_small: Make) -> None:
        working = Working(make_small(with_values(rows(600), "x", {0: math.nan, 1: math.nan})))
        commit = working.score_all()[0]
        assert commit.rejects
        path = working.path(0).parent / commit.rejects.name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(CommitBroken, match="rejects"):
            working.prove()


def test_rows_that_change_in_mid_run_are_never_committed(working: Working) -> None:
    """A value is changed between two chunks: what was read before stands, nothing that was read after is committed."""
    scorer = working.task.open()
    scorer.score(working.run.plan[0])
    path = working.small.storage.local_path(f"{working.run.frozen.folder}/part-00000.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SnapshotChanged, match="while it was read"):
        scorer.score(working.run.plan[1])
    assert sorted(working.commits()) == [0]
