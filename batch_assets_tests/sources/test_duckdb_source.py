from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_assets.demo import train as training
from batch_assets.errors import SourceError
from batch_assets.orchestration.catalog import pipeline
from batch_assets.sources.duckdb_source import DuckdbSource

DEMO = pipeline(training.PIPELINE)
DAY = "1998-03-31"


def features(tables: dict[str, Any], day: str, spill: Path) -> pa.Table:
    source = DuckdbSource(query=DEMO.features.source.query, tables=tables)
    with source.read(day, ["customer_id"], spill) as read:
        return read.rows.read_all()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(1, 23_580), st.integers(1, 500), st.integers(1, 99), st.floats(0, 1_000, width=32)),
        min_size=1,
        max_size=30,
    )
)
def test_later_purchases_change_nothing(tmp_path: Path, purchases: list[tuple[int, int, int, float]]) -> None:
    """Rows after the day, of known and of new customers, leave every feature of the day as it is, bit for bit."""
    past = pq.read_table(DEMO.features.source.tables["transactions"].path)
    customers, days, cds, amounts = zip(*purchases, strict=True)
    later = pa.table(
        {
            "customer_id": pa.array(customers, pa.int32()),
            "date": pa.array([date.fromisoformat(DAY) + timedelta(days=n) for n in days], pa.date32()),
            "cds": pa.array(cds, pa.int16()),
            "amount": pa.array(amounts, pa.float32()),
        }
    )
    pq.write_table(pa.concat_tables([past, later]), tmp_path / "more.parquet")
    known = features(DEMO.features.source.tables, DAY, tmp_path)
    assert features({"transactions": str(tmp_path / "more.parquet")}, DAY, tmp_path).equals(known)
    assert known.num_rows == 23_570


def test_features_are_those_of_the_purchases(tmp_path: Path) -> None:
    purchases = pa.table(
        {
            "customer_id": pa.array([7, 7, 7, 3], pa.int32()),
            "date": pa.array([date(1997, 1, 1), date(1998, 3, 31), date(1998, 4, 1), date(1998, 1, 1)], pa.date32()),
            "cds": pa.array([1, 2, 50, 4], pa.int16()),
            "amount": pa.array([10.5, 20.25, 999.0, 5.0], pa.float32()),
        }
    )
    pq.write_table(purchases, tmp_path / "rows.parquet")
    found = features({"transactions": str(tmp_path / "rows.parquet")}, DAY, tmp_path)
    assert found.schema.types == [pa.int32(), *[pa.float32()] * 7]
    assert found.to_pydict() == {
        "customer_id": [3, 7],
        "days_since_last": [89.0, 0.0],
        "days_since_first": [89.0, 454.0],
        "orders": [1.0, 2.0],
        "orders_90d": [1.0, 1.0],
        "cds": [4.0, 3.0],
        "amount": [5.0, 30.75],
        "amount_90d": [5.0, 20.25],
    }


class TestWhatIsWrong:
    @pytest.fixture
    def source(self, tmp_path: Path) -> DuckdbSource:
        (tmp_path / "query.sql").write_text("SELECT n AS user FROM t WHERE $partition IS NOT NULL -- a comment at the end")
        pq.write_table(pa.table({"n": list(range(10_000))}), tmp_path / "t.parquet")
        return DuckdbSource(query=str(tmp_path / "query.sql"), tables={"t": str(tmp_path / "t.parquet")})

    def read(self, source: DuckdbSource, tmp_path: Path) -> pa.Table:
        with source.read(DAY, ["user"], tmp_path) as read:
            return read.rows.read_all()

    def test_nothing_yet(self, source: DuckdbSource, tmp_path: Path) -> None:
        assert self.read(source, tmp_path).num_rows == 10_000

    def test_no_query(self, source: DuckdbSource, tmp_path: Path) -> None:
        (tmp_path / "query.sql").unlink()
        with pytest.raises(SourceError, match=r"query\.sql cannot be read"):
            self.read(source, tmp_path)

    def test_a_query_that_does_not_parse(self, source: DuckdbSource, tmp_path: Path) -> None:
        (tmp_path / "query.sql").write_text("SELEKT $partition")
        with pytest.raises(SourceError, match="cannot be computed"):
            self.read(source, tmp_path)

    def test_a_query_that_forgets_the_day(self, source: DuckdbSource, tmp_path: Path) -> None:
        (tmp_path / "query.sql").write_text("SELECT n AS user FROM t")
        with pytest.raises(SourceError, match="the same rows"):
            self.read(source, tmp_path)

    def test_no_key(self, source: DuckdbSource, tmp_path: Path) -> None:
        (tmp_path / "query.sql").write_text("SELECT n, $partition AS day FROM t")
        with pytest.raises(SourceError, match="user"):
            self.read(source, tmp_path)

    def test_a_truncated_table(self, source: DuckdbSource, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        path.write_bytes(path.read_bytes()[:2_000])
        with pytest.raises(SourceError, match=r"t\.parquet"):
            self.read(source, tmp_path)

    def test_no_table(self, source: DuckdbSource, tmp_path: Path) -> None:
        (tmp_path / "t.parquet").unlink()
        with pytest.raises(SourceError, match=r"t\.parquet"):
            self.read(source, tmp_path)


@pytest.mark.parametrize(
    ("table", "fits"),
    [
        ("rows.parquet", True),
        ({"path": "rows.parquet"}, True),
        ({"path": "rows.parquet", "event_date": "day"}, True),
        ({"kind": "delta", "path": "rows"}, True),
        ({"kind": "pigeons", "path": "rows"}, True),
        ({}, False),
        ({"path": "rows.parquet", "colour": "red"}, False),
    ],
)
def test_a_table_is_one_thing_for_the_schema_by_which_yaml_is_checked(table: Any, fits: bool) -> None:
    from jsonschema import Draft202012Validator

    source = {"kind": "duckdb", "query": "query.sql", "tables": {"rows": table}}
    assert Draft202012Validator(DuckdbSource.model_json_schema()).is_valid(source) == fits
