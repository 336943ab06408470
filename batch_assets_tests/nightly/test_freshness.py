"""How many rows changed since the day before, and what a night's sources say beside the good days."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.features.snapshot import write_snapshot
from batch_assets.nightly.changed_rows import changed_rows
from batch_assets.nightly.freeze import Frozen, freeze
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.verdict import Verdict, override, recorded_verdict, verdict_log
from batch_assets.quality.sources import ChangedRows
from batch_assets.storage import LocalStorage
from batch_assets_tests.small import Small, rows, with_values

YESTERDAY, DAY = "2024-03-09", "2024-03-10"


class Snapshots:
    """Snapshots of tables, in folders of their own."""

    def __init__(self, root: Path) -> None:
        self.storage = LocalStorage(str(root))
        self._made = 0

    def of(self, table: pa.Table, group_rows: int = 64) -> Frozen:
        self._made += 1
        folder = f"snapshot-{self._made}"
        path = self.storage.local_path(folder)
        path.mkdir(parents=True)
        return Frozen(
            write_snapshot(path, table.to_reader(), ["user"], group_rows), self.storage, folder, reused=False, seconds={}
        )

    def compared(self, today: pa.Table, before: pa.Table, group_rows: int = 64) -> ChangedRows | None:
        names = [name for name in today.column_names if name != "user"]
        return changed_rows(self.of(today), self.of(before, group_rows), YESTERDAY, names)


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path)


def found(rows: int, changed: int, *, unchanged: bool = False) -> ChangedRows:
    return ChangedRows(YESTERDAY, rows, changed, unchanged)


class TestChangedRows:
    @pytest.mark.parametrize("key_type", [pa.int32(), pa.int64(), pa.string()])
    def test_are_counted_by_key(self, snapshots: Snapshots, key_type: pa.DataType) -> None:
        """The first ten and ten in the middle are new, and five are otherwise: no row stands where it stood."""
        today = with_values(rows(1_000, key_type=key_type), "y", dict.fromkeys(range(100, 105), 7.0))
        before = pa.concat_tables([rows(1_000, key_type=key_type).slice(*part) for part in ((10, 490), (510, 490))])
        assert snapshots.compared(today, before) == found(1_000, 25)
        assert snapshots.compared(today, before, group_rows=100) == found(1_000, 25)

    def test_are_none_where_nothing_changed_however_it_was_written(self, snapshots: Snapshots) -> None:
        assert snapshots.compared(rows(1_000), rows(1_000)) == found(1_000, 0, unchanged=True)
        assert snapshots.compared(rows(1_000), rows(1_000), group_rows=100) == found(1_000, 0, unchanged=True)

    def test_that_are_gone_are_a_change(self, snapshots: Snapshots) -> None:
        assert snapshots.compared(rows(1_000).slice(0, 999), rows(1_000)) == found(999, 0)

    def test_that_are_all_new_are_all_changed(self, snapshots: Snapshots) -> None:
        later = rows(1_000).slice(500)
        assert snapshots.compared(later, rows(400)) == found(500, 500)
        assert snapshots.compared(rows(400), later) == found(400, 400)

    def test_a_missing_value_is_like_a_missing_one(self, snapshots: Snapshots) -> None:
        gaps = with_values(rows(1_000), "x", {3: None, 4: float("nan"), 5: None})
        same = with_values(rows(1_000), "x", {3: None, 4: float("nan"), 5: float("nan")})
        assert snapshots.compared(gaps, same) == found(1_000, 0, unchanged=True)
        assert snapshots.compared(gaps, rows(1_000)) == found(1_000, 3)

    @pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int64()), pa.list_(pa.int64(), 3)])
    def test_lists_are_compared_element_by_element(self, snapshots: Snapshots, kind: pa.DataType) -> None:
        lists: list[list[int] | None] = [[n, n + 1, n + 2] for n in range(500)]
        before = pa.table({"user": np.arange(500), "items": pa.array([None, *lists[1:]], kind)})
        lists[7], lists[400] = [7, 8, 10], None
        today = pa.table({"user": np.arange(500), "items": pa.array([None, *lists[1:]], kind)})
        assert snapshots.compared(before, before, group_rows=100) == found(500, 0, unchanged=True)
        assert snapshots.compared(today, before) == found(500, 2)

    def test_lists_of_other_lengths_differ(self, snapshots: Snapshots) -> None:
        before = pa.table({"user": [1, 2, 3, 4], "items": pa.array([[], [1], [1, 2], [5]], pa.list_(pa.int64()))})
        today = pa.table({"user": [1, 2, 3, 4], "items": pa.array([[], [1, 2], [1], [5]], pa.list_(pa.int64()))})
        assert snapshots.compared(today, before) == found(4, 2)

    def test_of_other_columns_are_not_compared(self, snapshots: Snapshots) -> None:
        assert snapshots.compared(rows(100), rows(100).drop_columns(["z"])) is None

    def test_no_rows_are_none_that_are_unchanged(self, snapshots: Snapshots) -> None:
        assert snapshots.compared(rows(0), rows(0)) == found(0, 0)

    def test_of_many_a_sample_is_compared(self, snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("batch_assets.nightly.changed_rows._ROWS", 256)
        every = with_values(rows(1_024), "x", dict.fromkeys(range(1_024), 9.0))
        assert snapshots.compared(every, rows(1_024)) == found(256, 256)

    def test_of_many_all_are_compared_before_it_is_said_that_none_changed(
        self, snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("batch_assets.nightly.changed_rows._ROWS", 256)
        one = with_values(rows(1_024), "x", {1_023: 9.0})
        assert snapshots.compared(one, rows(1_024)) == found(1_024, 1)
        assert snapshots.compared(rows(1_024), rows(1_024), group_rows=100) == found(1_024, 0, unchanged=True)


@pytest.fixture
def dated(make_small: Callable[..., Small]) -> Small:
    """A small pipeline whose rows have a date, and whose query looks at no date: each night has the rows that there are."""
    small = make_small(rows_of_days(9), quality={"changes": {"allow_unchanged": False}})
    source = small.config.features.source
    named = source.tables["rows"].model_copy(update={"event_date": "day"})
    features = small.config.features.model_copy(update={"source": source.model_copy(update={"tables": {"rows": named}})})
    small.config = small.config.model_copy(update={"features": features})
    return small


def rows_of_days(count: int) -> pa.Table:
    """A hundred rows of each of the first days of March."""
    table = rows(2_000).slice(0, 100 * count)
    days = pa.array([f"2024-03-{1 + n // 100:02d}" for n in range(len(table))]).cast(pa.date32())
    return table.append_column("day", days)


def judged(small: Small, day: str, *, refresh: bool = False) -> Verdict:
    return judge_features(
        small.config, small.storage, freeze(small.config, small.storage, day, small.progress, refresh=refresh), day
    )


class TestSources:
    def test_a_source_that_grows_every_day_is_fresh(self, dated: Small) -> None:
        assert judged(dated, YESTERDAY).good
        dated.replace_rows(rows_of_days(10))
        outcome = judged(dated, DAY).outcome("sources")
        assert outcome.passed
        assert outcome.figures["changed_share"] == 0.1, "a hundred of a thousand are new"
        assert outcome.figures["rows_rows"] == 100

    def test_features_that_nobody_updated_block_though_rows_of_the_day_are_there(self, dated: Small) -> None:
        table = rows_of_days(10)
        dated.replace_rows(table)
        assert judged(dated, YESTERDAY).good
        verdict = judged(dated, DAY)
        assert [one.name for one in verdict.blocking] == ["sources"]
        assert verdict.outcome("sources").message == f"these are the features of {YESTERDAY} again: the source was not updated"

    def test_a_table_without_a_date_is_told_of_and_is_not_in_the_way(self, small: Small) -> None:
        verdict = judged(small, DAY)
        assert verdict.good
        assert verdict.outcome("sources").severity == "warn"
        assert verdict.outcome("sources").message == "rows has no event_date: whether it is fresh is not watched"

    def test_the_same_rows_from_a_source_that_was_loaded_meanwhile_are_judged_again(self, dated: Small) -> None:
        """Features that do not depend on the day's rows: the snapshot is the one that was refused, its source is not."""
        query = Path(dated.config.features.source.query)
        query.write_text("SELECT user, x, y, z FROM rows WHERE day <= '2024-03-05' AND $partition IS NOT NULL")
        refused = judged(dated, DAY)
        assert refused.outcome("sources").blocks
        dated.replace_rows(rows_of_days(10))
        again = judged(dated, DAY, refresh=True)
        assert again.subject == refused.subject
        assert again.good

    def test_a_day_that_was_let_pass_does_not_say_what_is_usual(self, dated: Small) -> None:
        for day in range(1, 10):
            dated.replace_rows(rows_of_days(10).filter(pa.array(np.arange(1_000) % 100 < 100 - day)))
            assert judged(dated, f"2024-03-{day:02d}").good
        dated.replace_rows(rows_of_days(10).filter(pa.array(np.arange(1_000) < 905)))
        assert judged(dated, DAY).outcome("sources").blocks
        frozen = freeze(dated.config, dated.storage, DAY, dated.progress)
        seen = recorded_verdict(dated.storage, frozen.folder)
        assert seen is not None
        override(dated.storage, seen, "user_features", by="Ann", why="a holiday", until=DAY)
        assert judged(dated, DAY).good
        dated.replace_rows(rows_of_days(11))
        shares = judged(dated, "2024-03-11").outcome("sources").shares
        assert shares is not None
        assert DAY not in shares.groups

    def test_a_day_before_that_is_gone_says_nothing(self, dated: Small) -> None:
        dated.replace_rows(rows_of_days(10))
        judged(dated, YESTERDAY)
        frozen = freeze(dated.config, dated.storage, YESTERDAY, dated.progress)
        for path in dated.storage.local_path(frozen.folder).glob("*.parquet"):
            path.unlink()
        assert verdict_log(dated.storage, frozen.folder).latest()
        rows_now = rows_of_days(10)
        dated.replace_rows(with_values(rows_now, "x", {0: 1.0}))
        assert "changed_share" not in judged(dated, DAY).outcome("sources").figures
