"""What a freeze reads is one state of its files, in the days of the partitions' time zone, whatever the environment says."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.config import PipelineConfig
from batch_assets.errors import SnapshotChanged, SourceError
from batch_assets.features.provenance import read_provenance
from batch_assets.features.snapshot import Snapshot, days_of
from batch_assets.nightly import freeze as freezing
from batch_assets.nightly.freeze import freeze, frozen
from batch_assets.nightly.night import Night
from batch_assets.sources import session
from batch_assets_tests.small import DAY, Small, rows


class TestFilesThatChange:
    @pytest.fixture
    def meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
        """Has something happen after the last row was read and before the snapshot is in place."""

        def at_the_end(happens: Callable[[], object]) -> None:
            write = freezing.write_snapshot

            def written(*arguments: Any) -> Snapshot:
                snapshot = write(*arguments)
                happens()
                return snapshot

            monkeypatch.setattr(freezing, "write_snapshot", written)

        return at_the_end

    def test_a_file_that_was_written_anew_is_refused_by_name(
        self, small: Small, meanwhile: Callable[[Callable[[], object]], None]
    ) -> None:
        meanwhile(lambda: small.replace_rows(rows(2_000, seed=2)))
        with pytest.raises(SourceError, match=r"table rows: .*rows\.parquet was changed while it was read"):
            freeze(small.config, small.storage, DAY, small.progress)
        assert days_of(small.storage, "small") == []

    def test_a_file_that_appeared_is_refused_by_name(
        self, small: Small, meanwhile: Callable[[Callable[[], object]], None], tmp_path: Path
    ) -> None:
        folder = tmp_path / "parts"
        folder.mkdir()
        small.source.rename(folder / "a.parquet")
        config = _with(small.config, tables={"rows": str(folder)})
        meanwhile(lambda: pq.write_table(rows(1), folder / "b.parquet"))
        with pytest.raises(SourceError, match=r"b\.parquet appeared while it was read"):
            freeze(config, small.storage, DAY, small.progress)

    def test_an_error_that_comes_of_a_change_says_so(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        def cut(*arguments: Any) -> None:
            small.source.write_bytes(small.source.read_bytes()[:3_000])

        monkeypatch.setattr(session, "verify", cut)
        with pytest.raises(SourceError, match=r"rows\.parquet was changed while it was read"):
            freeze(small.config, small.storage, DAY, small.progress)


class TestProvenance:
    def test_what_was_read_is_kept_beside_the_snapshot(self, small: Small) -> None:
        found = freeze(small.config, small.storage, DAY, small.progress)
        provenance = read_provenance(small.storage, found.folder)
        (table,) = provenance.tables
        assert (provenance.day, provenance.timezone) == (date.fromisoformat(DAY), "UTC")
        assert (table.name, table.path, table.rows, table.event_date) == ("rows", str(small.source), 2_000, None)
        status = small.source.stat()
        assert table.files[0].model_dump() == {
            "path": str(small.source),
            "size": status.st_size,
            "rows": 2_000,
            "stamp": f"{status.st_mtime_ns}-{status.st_ino}",
        }

    def test_the_same_rows_frozen_again_from_another_file_say_so(self, small: Small) -> None:
        first = freeze(small.config, small.storage, DAY, small.progress)
        stamp = read_provenance(small.storage, first.folder).tables[0].files[0].stamp
        small.replace_rows(rows(2_000))
        second = freeze(small.config, small.storage, DAY, small.progress, refresh=True)
        assert second.folder == first.folder
        assert read_provenance(small.storage, second.folder).tables[0].files[0].stamp != stamp

    def test_a_snapshot_without_it_is_frozen_again(self, small: Small) -> None:
        found = freeze(small.config, small.storage, DAY, small.progress)
        for lost in ("_source", "_witness/_source"):
            shutil.rmtree(small.storage.local_path(f"{found.folder}/{lost}"))
        with pytest.raises(SnapshotChanged, match=r"_source is missing: .*--refresh"):
            frozen(small.config, small.storage, DAY)
        freeze(small.config, small.storage, DAY, small.progress, refresh=True)
        assert frozen(small.config, small.storage, DAY).folder == found.folder


class TestTimeZone:
    @pytest.fixture
    def moments(self, small: Small) -> Small:
        """Rows at 22:30, 23:30 of the day before and 05:00, 23:30 of the day, in UTC."""
        at = [
            datetime(2024, 3, 9, 22, 30),
            datetime(2024, 3, 9, 23, 30),
            datetime(2024, 3, 10, 5),
            datetime(2024, 3, 10, 23, 30),
        ]
        table = rows(4).append_column("at", pa.array([one.replace(tzinfo=UTC) for one in at], pa.timestamp("us", "UTC")))
        pq.write_table(table, small.source)
        Path(small.config.features.source.query).write_text(
            "SELECT user, x, y, (epoch(('2024-03-10 02:30'::TIMESTAMPTZ)) % 86400)::FLOAT AS z FROM rows "
            'WHERE "at"::DATE = $partition::DATE'
        )
        return small

    @pytest.mark.parametrize(
        ("zone", "users"), [("UTC", [3, 4]), ("Europe/Berlin", [2, 3]), ("America/New_York", [3, 4]), ("Asia/Tokyo", [1, 2, 3])]
    )
    def test_a_day_is_one_of_the_partitions(self, moments: Small, zone: str, users: list[int]) -> None:
        config = _with(moments.config, zone=zone, tables={"rows": {"path": str(moments.source), "event_date": "at"}})
        found = freeze(config, moments.storage, DAY, moments.progress)
        table = pq.read_table(moments.storage.local_path(f"{found.folder}/part-00000.parquet"))
        assert table["user"].to_pylist() == users
        provenance = read_provenance(moments.storage, found.folder)
        assert (provenance.timezone, provenance.tables[0].rows_of_day) == (zone, len(users))

    def test_the_environment_changes_nothing(self, moments: Small, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from batch_assets.sources.duckdb_source import DuckdbSource\n"
            "source, day, spill, zone = sys.argv[1:]\n"
            "with DuckdbSource.model_validate_json(source).read(day, ['user'], Path(spill), zone) as read:\n"
            "    print(read.rows.read_all().to_pylist())"
        )
        elsewhere = (
            {"TZ": "Pacific/Auckland", "LC_ALL": "th_TH.UTF-8", "HTTP_PROXY": "http://user:secret@nowhere:1"},
            {"TZ": "America/Los_Angeles", "LANG": "tr_TR.UTF-8", "HOME": str(tmp_path / "nobody")},
        )
        source = moments.config.features.source.model_dump_json()
        answers = [
            subprocess.run(
                [sys.executable, "-c", program, source, DAY, str(tmp_path), "Europe/Berlin"],
                env={**os.environ, **environment},
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
            ).stdout
            for environment in elsewhere
        ]
        assert answers[0] == answers[1]
        assert "'user': 2," in answers[0]
        assert "'user': 4," not in answers[0]

    def test_it_decides_a_run(self, small: Small) -> None:
        freeze(small.config, small.storage, DAY, small.progress)
        run = small.opened(DAY)
        elsewhere = _with(small.config, zone="Europe/Berlin")
        with pytest.raises(SnapshotChanged, match=r"a day in UTC, and partitions\.timezone is Europe/Berlin now.*--refresh"):
            Night.open(elsewhere, small.storage, DAY, small.model)
        with pytest.raises(SnapshotChanged, match="--refresh"):
            freeze(elsewhere, small.storage, DAY, small.progress)
        freeze(elsewhere, small.storage, DAY, small.progress, refresh=True)
        assert Night.open(elsewhere, small.storage, DAY, small.model).run_id != run.run_id


def _with(config: PipelineConfig, *, zone: str = "UTC", tables: dict[str, Any] | None = None) -> PipelineConfig:
    """A pipeline with another time zone or other tables."""
    said = json.loads(config.model_dump_json())
    said["partitions"]["timezone"] = zone
    if tables is not None:
        said["features"]["source"]["tables"] = tables
    return PipelineConfig.model_validate(said)
