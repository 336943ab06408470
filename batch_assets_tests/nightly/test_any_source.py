"""A night goes through with any source: nothing but a pipeline's YAML says which one it is."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from batch_assets.config import PipelineConfig
from batch_assets.errors import BatchAssetsError, NoPrediction, SourceError
from batch_assets.features.provenance import read_provenance
from batch_assets.nightly.freeze import freeze, frozen
from batch_assets.nightly.judge_features import judge_features
from batch_assets.serving.reader import Reader
from batch_assets_tests import made_up_source
from batch_assets_tests.small import DAY, Small

BEFORE = "2024-03-09"


def from_source(small: Small, **source: object) -> Small:
    """The same pipeline with rows from elsewhere."""
    said = small.config.model_dump()
    small.config = PipelineConfig.model_validate({**said, "features": {**said["features"], "source": source}})
    return small


def expected(table: pa.Table, user: int) -> float:
    """What the model makes of a row."""
    row = {name: table[name][user - 1].as_py() for name in ("x", "y", "z")}
    return float(1 / (1 + np.exp(-(row["x"] - 0.5 * row["y"] + 0.25 * row["z"]))))


def test_one_of_another_package(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_source.install(monkeypatch)
    from_source(small, kind="made_up", count=500)
    for day in (BEFORE, DAY):
        small.night(day)
    found = frozen(small.config, small.storage, DAY)
    (table,) = read_provenance(small.storage, found.folder).tables
    assert (table.name, table.files, table.rows, table.rows_of_day) == ("dice", (), 500, None)
    outcome = judge_features(small.config, small.storage, found, DAY).outcome("sources")
    assert outcome.message == "dice has no event_date: whether it is fresh is not watched"
    assert outcome.figures["changed_share"] == 0.1
    reader = Reader.open("small", small.storage)
    answer = reader.lookup(7)
    assert answer.record["partition"] == DAY
    assert answer.record["probability"] == pytest.approx(expected(made_up_source.rows_of(DAY, 500), 7), abs=1e-6)
    with pytest.raises(NoPrediction):
        reader.lookup(501)
    reader.close()


def test_rows_that_it_could_not_read_block(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_source.install(monkeypatch)
    from_source(small, kind="made_up", count=500, unreadable=500)
    with pytest.raises(
        BatchAssetsError, match=r"dice has 500 rows of 1,000 that could not be read \(50\.000%\), at most 0\.10% may be"
    ):
        small.night()


def test_one_that_is_not_installed_is_told_of(small: Small) -> None:
    with pytest.raises(ValidationError, match="There is no source of the kind 'made_up'; there is duckdb, parquet"):
        from_source(small, kind="made_up", count=500)


@pytest.mark.parametrize("names", [["dice"], ["rows"]])
def test_which_tables_need_not_be_daily_is_asked_of_the_source(
    small: Small, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    made_up_source.install(monkeypatch)
    said = from_source(small, kind="made_up", count=500).config.model_dump()
    said["quality"]["sources"]["not_daily"] = names
    if names == ["dice"]:
        assert PipelineConfig.model_validate(said).quality.sources.not_daily == ("dice",)
    else:
        with pytest.raises(ValidationError, match="names tables that the source does not: rows"):
            PipelineConfig.model_validate(said)


class TestParquet:
    @pytest.fixture
    def daily(self, small: Small, tmp_path: Path) -> Small:
        """A folder for each day."""
        for day in (BEFORE, DAY):
            folder = tmp_path / "features" / f"day={day}"
            folder.mkdir(parents=True)
            table = made_up_source.rows_of(day, 400)
            pq.write_table(table.slice(100), folder / "0.parquet")
            pq.write_table(table.slice(0, 100), folder / "1.parquet")
        return from_source(small, kind="parquet", path=str(tmp_path / "features"), day="day", hive=True)

    def test_a_folder_of_the_day_goes_through(self, daily: Small) -> None:
        for day in (BEFORE, DAY):
            daily.night(day)
        outcome = judge_features(daily.config, daily.storage, frozen(daily.config, daily.storage, DAY), DAY).outcome("sources")
        assert outcome.passed
        assert outcome.message.startswith(f"rows has 400 rows of {DAY}, 400 are usual; 10.0% of 400 rows")
        reader = Reader.open("small", daily.storage)
        assert reader.lookup(7).record["probability"] == pytest.approx(expected(made_up_source.rows_of(DAY, 400), 7), abs=1e-6)
        reader.close()

    def test_a_day_that_was_not_loaded_blocks(self, daily: Small) -> None:
        daily.night(BEFORE)
        missing = "2024-03-11"
        verdict = judge_features(
            daily.config, daily.storage, freeze(daily.config, daily.storage, missing, daily.progress), missing
        )
        assert "sources" in [one.name for one in verdict.blocking]
        assert f"rows has no row of {missing}, the newest day is {DAY}" in verdict.outcome("sources").message

    def test_a_damaged_file_stops_it(self, daily: Small, tmp_path: Path) -> None:
        (tmp_path / "features" / f"day={DAY}" / "1.parquet").write_bytes(b"PAR1")
        with pytest.raises(SourceError, match=r"1\.parquet cannot be read as a Parquet file"):
            daily.night()
