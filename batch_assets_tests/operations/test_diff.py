"""Who moved between two nights: what is told is what a look at every row of both would tell."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import CommitBroken, ConfigError, NotFound
from batch_assets.nightly import night as night_module
from batch_assets.nightly.accepted import accepted_day_before
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.score import score
from batch_assets.operations import paired as paired_module
from batch_assets.operations.dead_letters import replay as replay_dead
from batch_assets.operations.diff import Diff, diff, picture
from batch_assets.operations.moves import Mover
from batch_assets.operations.paired import Side, paired
from batch_assets.runs.manifest import Manifest
from batch_assets.scoring.heads.classifier import Classes
from batch_assets.scoring.heads.value import Value
from batch_assets_tests.faulty import Faulty
from batch_assets_tests.nightly.test_answers import NAMES, Spend, Three, registered
from batch_assets_tests.small import DAY, Quiet, Small, rows, small_model, with_values

Make = Callable[..., Small]
BEFORE = "2024-03-09"
LENIENT = {"quality": {"min_days": 7}}
"""Days may differ: nothing blocks because of the one other day."""


def shaken(table: pa.Table, seed: int, *, lost: float = 0.05) -> pa.Table:
    """The same rows on another day: a third of them have other features, some are not there."""
    random = np.random.default_rng(seed)
    moved = random.random(len(table)) < 1 / 3
    for name in "xyz":
        values = table[name].to_numpy() + np.where(moved, 0.4 * random.standard_normal(len(table)), 0)
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.float32()))
    return table.filter(pa.array(random.random(len(table)) >= lost))


def night(small: Small, day: str, table: pa.Table | None = None) -> Manifest:
    """A day frozen, scored and judged, of other rows if they are given."""
    if table is not None:
        small.replace_rows(table)
    freeze(small.config, small.storage, day, small.progress)
    manifest = score(small.opened(day), LocalEngine(1), small.progress).manifest
    assert judge(small.opened(day)).good
    return manifest


def compared(small: Small, before: str = BEFORE, after: str = DAY, **options: Any) -> Diff:
    return diff(small.config, small.storage, small.registry, before, after, Quiet(), **options)


def by_key(small: Small, manifest: Manifest, key: tuple[str, ...] = ("user",)) -> dict[Any, dict[str, Any]]:
    """Every prediction of a run, looked at one by one."""
    found = {}
    for file in manifest.files:
        for row in pq.read_table(small.storage.local_path(f"{manifest.folder}/{file.name}")).to_pylist():
            values = tuple(row[name] for name in key)
            found[values if len(key) > 1 else values[0]] = {name: row[name] for name in manifest.record.names}
    return found


def require_told(found: Diff, one: dict[Any, dict[str, Any]], other: dict[Any, dict[str, Any]]) -> None:
    """What was found is what a look at every row tells."""
    both = [key for key in one if key in other]
    assert (found.both, found.gone, found.new) == (len(both), len(one) - len(both), len(other) - len(both))
    moved = np.array([other[key][found.score] - one[key][found.score] for key in both])
    assert (found.up, found.down) == ((moved > 0).sum(), (moved < 0).sum())
    told = found.difference
    assert (told["least"], told["largest"]) == (moved.min(), moved.max())
    assert told["mean"] == pytest.approx(moved.mean(), abs=1e-12)
    assert told["mean_absolute"] == pytest.approx(np.abs(moved).mean())
    for name, share in (("p1", 0.01), ("p25", 0.25), ("p50", 0.5), ("p95", 0.95)):
        assert told[name] == pytest.approx(np.quantile(moved, share, method="inverted_cdf"), rel=0.008, abs=1e-30)
    deciles = Counter((one[key]["decile"], other[key]["decile"]) for key in both)
    assert found.deciles == tuple(tuple(deciles[row, column] for column in range(1, 11)) for row in range(1, 11))
    assert sum(found.by_deciles.values()) == len(both)
    assert found.by_deciles[2] == sum(rows for (before, after), rows in deciles.items() if after - before == 2)
    if "label" in one[both[0]]:
        labels = Counter((one[key]["label"], other[key]["label"]) for key in both)
        assert found.relabelled is not None
        assert {(each.before, each.after): each.rows for each in found.relabelled} == {
            pair: rows for pair, rows in labels.items() if pair[0] != pair[1]
        }
    ranked = sorted(zip(moved.tolist(), both, strict=True), key=lambda pair: -pair[0])
    for name, best in (("up", ranked[:10]), ("down", sorted(ranked, key=lambda pair: pair[0])[:10])):
        assert list(found.movers[name]) == [Mover(_plain(key), by, one[key], other[key]) for by, key in best]


def _plain(key: Any) -> Any:
    return list(key) if isinstance(key, tuple) else key


class TestEveryRow:
    @pytest.mark.parametrize("key_type", [pa.int64(), pa.string()])
    def test_who_moved_who_is_new_and_who_is_gone(self, make_small: Make, key_type: pa.DataType) -> None:
        table = rows(2_000, key_type=key_type)
        small = make_small(table, **LENIENT)
        one = night(small, BEFORE, shaken(table, 5))
        small.config = small.config.model_copy(
            update={"scoring": small.config.scoring.model_copy(update={"chunk_rows": 100})}
        )  # its chunks are others
        other = night(small, DAY, shaken(table, 6))
        found = compared(small)
        require_told(found, by_key(small, one), by_key(small, other))
        assert found.notes == ()
        assert (found.before.run_id, found.after.snapshot) == (one.run_id, other.snapshot)

    @pytest.mark.parametrize("second", [("key", "country"), ("item", "product")])
    def test_keys_of_two_columns_and_rows_of_items(self, make_small: Make, second: tuple[str, str]) -> None:
        kind, name = second
        columns = [{"name": "user", "dtype": "int64"}, {"name": name, "dtype": "string"}]
        contract = {"key": columns} if kind == "key" else {"key": columns[0], "item": columns[1]}
        small = make_small(rows(10), **LENIENT)
        table = rows(900)
        table = table.set_column(0, "user", pa.array(np.repeat(np.arange(300), 3)))
        table = table.add_column(1, name, pa.array(["de", "fr", "it"] * 300))
        about(small, name, contract)
        one, other = night(small, BEFORE, shaken(table, 5)), night(small, DAY, shaken(table, 6))
        require_told(compared(small), by_key(small, one, ("user", name)), by_key(small, other, ("user", name)))

    def test_a_number(self, make_small: Make) -> None:
        small = make_small(rows(2_000), answers={"kind": "value"}, **LENIENT)
        registered(small, Value(), Spend())
        one, other = night(small, BEFORE), night(small, DAY, shaken(rows(2_000), 6))
        found = compared(small)
        require_told(found, by_key(small, one), by_key(small, other))
        assert (found.score, found.relabelled) == ("value", None)
        with pytest.raises(ConfigError, match="small answers value, decile, and none of these is a label: say --by score"):
            compared(small, by="label")

    def test_of_three_classes_the_surest_changes_come_first(self, make_small: Make) -> None:
        small = make_small(rows(2_000), answers={"kind": "classes", "labels": NAMES, "scores": True}, **LENIENT)
        registered(small, Classes(returns="logits", labels=NAMES, scores=True), Three())
        one, other = night(small, BEFORE), night(small, DAY, shaken(rows(2_000), 6))
        before, after = by_key(small, one), by_key(small, other)
        for side in (before, after):
            for record in side.values():
                del record["scores"]  # what is compared is the score and what is made of it
        require_told(compared(small), before, after)
        changed = [key for key in before if key in after and before[key]["label"] != after[key]["label"]]
        sure = sorted(changed, key=lambda key: -(before[key]["probability"] + after[key]["probability"]))
        assert [mover.key for mover in compared(small, by="label", top=5).movers["changed"]] == sure[:5]

    def test_of_two_labels_who_went_farthest_comes_first(self, make_small: Make) -> None:
        small = make_small(**LENIENT)
        one, other = night(small, BEFORE), night(small, DAY, shaken(rows(2_000), 6))
        before, after = by_key(small, one), by_key(small, other)
        changed = [key for key in before if key in after and before[key]["label"] != after[key]["label"]]
        far = sorted(changed, key=lambda key: -abs(after[key]["probability"] - before[key]["probability"]))
        assert [mover.key for mover in compared(small, by="label", top=2_000).movers["changed"]] == far


class TestTheRuns:
    def test_nobody_moves_between_days_of_the_same_features(self, small: Small) -> None:
        night(small, BEFORE)
        night(small, DAY)
        found = compared(small)
        assert (found.both, found.up, found.down, found.by_deciles[0], found.relabelled) == (2_000, 0, 0, 2_000, ())
        assert found.movers == {"up": (), "down": ()}
        assert found.difference["largest"] == found.difference["p99"] == found.difference["least"] == 0
        assert found.notes == (f"Both days have the same features, row for row: snapshot {found.after.snapshot[:16]}.",)

    def test_another_model_version_is_said(self, make_small: Make) -> None:
        small = make_small(**LENIENT)
        night(small, BEFORE)
        small.register("v2", small_model([1.0, -0.5, 0.5]), labels=("no", "yes"))
        night(small, DAY)
        found = compared(small)
        assert found.notes[0].startswith("The days were scored by different model versions, small v1 and small v2")
        said = json.loads(json.dumps(found.as_mapping()))
        assert (said["same_model"], said["same_snapshot"], said["after"]["version"]) == (False, True, "v2")
        assert b"by v1 and v2" in picture(found)

    def test_dead_letters_that_were_replayed_are_compared(
        self, make_small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small, flag = make_small(with_values(rows(2_000), "x", {5: 77.0, 700: 77.0}), **LENIENT), tmp_path / "broken"
        night(small, BEFORE)
        flag.touch()
        real = night_module.PredictorLoader
        monkeypatch.setattr(
            night_module, "PredictorLoader", lambda *args: Faulty(real(*args), "the library is broken", 77.0, str(flag))
        )
        manifest = night(small, DAY)
        assert (compared(small).both, compared(small).gone) == (1_998, 2)
        flag.unlink()
        replay_dead(small.config, small.storage, small.registry, manifest.folder, LocalEngine(1), small.progress)
        found = compared(small)
        assert (found.both, found.gone, found.up, found.down) == (2_000, 0, 0, 0)

    def test_what_no_manifest_names_is_not_read(self, small: Small) -> None:
        night(small, BEFORE)
        manifest = night(small, DAY)
        folder = small.storage.local_path(manifest.folder)
        (folder / "chunk-00099.parquet").write_bytes(b"no Parquet")
        shutil.copy(folder / "chunk-00000.parquet", folder / "chunk-00000.replay-009.parquet")
        assert compared(small).both == 2_000

    def test_the_later_day_may_come_first(self, make_small: Make) -> None:
        small = make_small(**LENIENT)
        night(small, BEFORE)
        night(small, DAY, shaken(rows(2_000), 6))
        there, back = compared(small), compared(small, DAY, BEFORE)
        assert (there.up, there.gone, there.new) == (back.down, back.new, back.gone)
        assert there.deciles is not None
        assert back.deciles == tuple(zip(*there.deciles, strict=True))

    def test_labels_are_compared_by_their_names(self, make_small: Make) -> None:
        small = make_small(answers={"kind": "classes", "labels": NAMES}, **LENIENT)
        registered(small, Classes(returns="logits", labels=NAMES), Three())
        night(small, BEFORE)
        turned = NAMES[::-1]
        said = {**small.config.model_dump(mode="json"), "answers": {"kind": "classes", "labels": turned}}
        small.config = small.config.model_validate(said)
        registered(small, Classes(returns="logits", labels=turned), Three(), "v3")
        night(small, DAY)
        found = compared(small)
        assert found.relabelled is not None
        assert {(one.before, one.after) for one in found.relabelled} == {("low", "high"), ("high", "low")}

    def test_of_equal_movers_the_first_ones_are_named(self, make_small: Make) -> None:
        small = make_small(**LENIENT)
        same = pa.table({"user": np.arange(2_000), **{name: np.full(2_000, 0.5, np.float32) for name in "xyz"}})
        first = same.set_column(1, "x", pa.array(np.where(np.arange(2_000) < 1_990, 0.5, 2.0), pa.float32()))
        night(small, BEFORE, first)
        night(small, DAY, first.set_column(1, "x", pa.array(np.where(np.arange(2_000) < 1_990, 1.0, 2.0), pa.float32())))
        assert [mover.key for mover in compared(small, top=300).movers["up"]] == list(range(300))

    def test_nobody_is_in_both(self, make_small: Make) -> None:
        small = make_small(**LENIENT)
        table = rows(4_000)
        night(small, BEFORE, table.slice(0, 2_000))
        night(small, DAY, table.slice(2_000))
        found = compared(small)
        assert (found.both, found.gone, found.new, found.difference) == (0, 2_000, 2_000, {})
        assert b"2,000" in picture(found)


class TestSentences:
    def test_a_run_that_is_not_accepted(self, small: Small) -> None:
        night(small, BEFORE)
        freeze(small.config, small.storage, DAY, small.progress)
        score(small.opened(DAY), LocalEngine(1), small.progress)
        with pytest.raises(
            NotFound, match=f"small {DAY} was scored, but no run of it is accepted: `batch-assets verdict small"
        ):
            compared(small)

    def test_a_day_that_was_not_scored(self, small: Small) -> None:
        night(small, BEFORE)
        with pytest.raises(NotFound, match=f"No run of small {DAY} is finished.*`batch-assets run small --partition {DAY}`"):
            compared(small)

    def test_a_run_that_is_not_kept(self, small: Small) -> None:
        shutil.rmtree(small.storage.local_path(night(small, BEFORE).folder))
        night(small, DAY)
        with pytest.raises(NotFound, match=f"of small {BEFORE} is accepted, but it is not kept any more"):
            compared(small)

    def test_a_chunk_that_is_gone(self, small: Small) -> None:
        night(small, BEFORE)
        small.storage.local_path(f"{night(small, DAY).folder}/chunk-00003.parquet").unlink()
        with pytest.raises(CommitBroken, match=r"chunk-00003.parquet is missing"):
            compared(small)

    def test_keys_of_another_kind(self, make_small: Make) -> None:
        small = make_small(**LENIENT)
        night(small, BEFORE)
        table = rows(2_000).rename_columns(["customer", "x", "y", "z"])
        small.replace_rows(table)
        about(small, "customer", {"key": {"name": "customer", "dtype": "int64"}})
        night(small, DAY)
        with pytest.raises(
            ConfigError, match=rf"small {BEFORE} are about user \(int64\), those of {DAY} about customer \(int64\)"
        ):
            compared(small)

    def test_whole_numbers_may_have_become_wider(self, make_small: Make) -> None:
        small = make_small(rows(2_000, key_type=pa.int32()), **LENIENT)
        night(small, BEFORE)
        small.replace_rows(rows(2_000))
        about(small, "user", {"key": {"name": "user", "dtype": "int64"}})
        night(small, DAY)
        found = compared(small)
        assert (found.both, found.up + found.down) == (2_000, 0)
        assert "The contract of the features was changed in between." in found.notes

    def test_scores_of_another_kind(self, make_small: Make) -> None:
        small = make_small(**LENIENT)
        night(small, BEFORE)
        answers = {**small.config.model_dump(mode="json"), "answers": {"kind": "value"}}
        small.config = small.config.model_validate(answers)
        registered(small, Value(), Spend())
        night(small, DAY)
        with pytest.raises(ConfigError, match=f"a probability on {BEFORE} and a value on {DAY}, which have no difference"):
            compared(small)


def about(small: Small, name: str, contract: dict[str, Any]) -> None:
    """The pipeline's rows are about something else from now on; a version that takes them is approved."""
    said = small.config.model_dump(mode="json")
    query = small.source.parent / f"{name}.sql"
    query.write_text("SELECT * FROM rows WHERE $partition IS NOT NULL")
    source = {"kind": "duckdb", "query": str(query), "tables": {"rows": str(small.source)}}
    columns = [{"name": column} for column in "xyz"]
    small.config = small.config.model_validate(
        {**said, "features": {"source": source, "contract": {"columns": columns, **contract}}}
    )
    small.register(f"about-{name}", small.registry.storage.read("models/small/v1/model.pt2"))


class TestInPieces:
    def test_few_chunks_are_held(self, make_small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        small = make_small(rows(6_400), scoring={"chunk_rows": 128, "batch_size": 64})
        sides = [Side(manifest, ("user",), manifest.record) for manifest in (night(small, BEFORE), night(small, DAY))]
        monkeypatch.setattr("batch_assets.threads.os.sched_getaffinity", lambda _: {0})
        read: list[str] = []
        real = paired_module.read_scored
        monkeypatch.setattr(paired_module, "read_scored", lambda *args: read.append(args[1].partition) or real(*args))
        found = paired(small.storage, *sides)
        assert len(next(found)) == 128
        assert len(read) < 16, "of 100 chunks"
        assert sum(map(len, found)) == 6_400 - 128
        assert len(read) == 100


def test_the_day_before_is_the_newest_that_is_accepted_and_kept(small: Small) -> None:
    assert accepted_day_before(small.storage, "small", DAY, ()) is None
    night(small, "2024-03-04")
    pruned = night(small, "2024-03-06")
    freeze(small.config, small.storage, BEFORE, small.progress)
    assert accepted_day_before(small.storage, "small", DAY, ()) == "2024-03-06"
    shutil.rmtree(small.storage.local_path(pruned.folder))
    assert accepted_day_before(small.storage, "small", DAY, ()) == "2024-03-04"
    assert accepted_day_before(small.storage, "small", "2024-03-04", ()) is None
    assert accepted_day_before(small.storage, "small", DAY, {1}) is None, "its approval was withdrawn"
