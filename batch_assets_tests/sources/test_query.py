"""What a features query may do: read the tables that the YAML names, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import SourceError
from batch_assets.sources.duckdb_source import DuckdbSource

BY_DAY = "WHERE $partition IS NOT NULL"


@pytest.fixture
def ask(tmp_path: Path) -> Callable[[str], pa.Table]:
    """Answers a query over the table t; beside it lies a file that is not of it."""
    for name in ("t", "other"):
        pq.write_table(pa.table({"user": [1, 2], "x": [1.5, 2.5]}), tmp_path / f"{name}.parquet")

    def ask(query: str) -> pa.Table:
        (tmp_path / "features.sql").write_text(query.replace("FOLDER", str(tmp_path)))
        source = DuckdbSource(query=str(tmp_path / "features.sql"), tables={"t": str(tmp_path / "t.parquet")})
        (tmp_path / "spill").mkdir(exist_ok=True)
        with source.read("2024-03-10", ["user"], tmp_path / "spill") as found:
            return found.rows.read_all()

    return ask


@pytest.mark.parametrize(
    "query",
    [
        f"SELECT user, x FROM t {BY_DAY};",
        f"SELECT user, x FROM t {BY_DAY} -- the last line is a comment",
        f"FROM main.T SELECT user, x {BY_DAY}",
        f"WITH a AS (SELECT * FROM t), b AS MATERIALIZED (FROM a) SELECT user, x FROM b {BY_DAY}",
        f"WITH RECURSIVE n AS (SELECT 1 i UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT user, x FROM t, n {BY_DAY} AND i=1",
        f"SELECT DISTINCT ON (user) user, x FROM t, range(3), unnest([1, 2]) AS u(v), (VALUES (1)) AS w(z) {BY_DAY}",
        f"SELECT user, x FROM t JOIN (SELECT user FROM t) USING (user) {BY_DAY} UNION SELECT user, x FROM t {BY_DAY}",
        f"SELECT user, any_value(x) AS x FROM t {BY_DAY} AND 'a;b' <> ';' GROUP BY ALL HAVING count(*) > 0",
        f"SELECT user, x FROM t {BY_DAY} QUALIFY row_number() OVER (PARTITION BY user) = 1",
        f"SELECT user, x FROM t {BY_DAY} AND user IN (SELECT user FROM t) AND EXISTS (FROM t) LIMIT 10",
    ],
)
def test_a_select_over_the_tables_is_answered(ask: Callable[[str], pa.Table], query: str) -> None:
    assert ask(query).to_pydict() == {"user": [1, 2], "x": [1.5, 2.5]}


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", "has no statement"),
        ("-- nothing", "has no statement"),
        (f"SELECT user, x FROM t {BY_DAY}; COPY (SELECT 1) TO 'FOLDER/new'", "has SELECT and COPY"),
        (f"SELECT user, x FROM t {BY_DAY}); COPY (SELECT 1) TO 'FOLDER/new'; SELECT * FROM (SELECT 1", "Parser Error"),
        ("COPY (SELECT $partition) TO 'FOLDER/new'", "has COPY"),
        (f"ATTACH 'FOLDER/new' AS a; SELECT user, x FROM t {BY_DAY}", "has ATTACH and SELECT"),
        (f"SET threads = 1; SELECT user, x FROM t {BY_DAY}", "has SET and SELECT"),
        (f"INSTALL httpfs; SELECT user, x FROM t {BY_DAY}", "has LOAD and SELECT"),
        (f"EXPLAIN ANALYZE SELECT user, x FROM t {BY_DAY}", "has EXPLAIN"),
        ("PIVOT t ON x USING sum(user)", "PIVOT must name the values"),
        ("SELECT user, x FROM t", "never uses \\$partition"),
        ("SELECT user, x FROM t -- $partition", "never uses \\$partition"),
        (f"SELECT user, x FROM t {BY_DAY} AND x > $limit", "asks for \\$limit"),
        (f"SELECT user, x, X FROM t {BY_DAY}", "gives x more than once"),
    ],
)
def test_what_is_not_one_select_with_the_day_is_refused(
    ask: Callable[[str], pa.Table], tmp_path: Path, query: str, sentence: str
) -> None:
    with pytest.raises(SourceError, match=rf"features\.sql.*{sentence}"):
        ask(query)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "attempt",
    [
        "WITH w AS (COPY (SELECT 9 AS user) TO 'FOLDER/t.parquet' (FORMAT parquet, USE_TMP_FILE false))",
        "WITH w AS (COPY (SELECT 9 AS user) TO 'FOLDER/new')",
        "WITH w AS (INSERT INTO t VALUES (9, 9) RETURNING *)",
        "WITH w AS (UPDATE t SET x = 0 RETURNING *)",
        "WITH w AS (DELETE FROM t RETURNING *)",
        "WITH w AS (FROM 'FOLDER/other.parquet')",
        "WITH w AS (FROM read_parquet('FOLDER/other.parquet'))",
        "WITH w AS (FROM read_parquet('FOLDER/t.parquet'))",
        "WITH w AS (FROM read_text('/proc/self/environ'))",
        "WITH w AS (FROM read_csv('/etc/passwd'))",
        "WITH w AS (FROM glob('FOLDER/*'))",
        "WITH w AS (FROM query('FROM t'))",
        "WITH w AS (FROM json_execute_serialized_sql(json_serialize_sql('FROM t')))",
        "WITH w AS (FROM duckdb_settings())",
        "WITH w AS (FROM duckdb_settings)",
        "WITH w AS (FROM pg_catalog.pg_settings)",
        "WITH w AS (FROM information_schema.tables)",
        "WITH w AS (FROM enable_logging(storage = 'file', storage_path = 'FOLDER/new'))",
        "WITH w AS (FROM enable_profiling())",
        "WITH w AS (FROM arrow_scan(1::UBIGINT, 2::UBIGINT, 3::UBIGINT))",
        "WITH w AS (DESCRIBE t)",
        "WITH w AS (FROM (SELECT * FROM t, LATERAL (FROM which_secret('s3://x', 's3'))))",
    ],
)
def test_a_select_that_does_more_is_refused_and_has_done_nothing(
    ask: Callable[[str], pa.Table], tmp_path: Path, attempt: str
) -> None:
    before = (tmp_path / "t.parquet").read_bytes()
    with pytest.raises(SourceError, match=r"features\.sql (reads|calls|does more).*: it may read the tables .*\(t\), no more"):
        ask(f"{attempt} SELECT user, x FROM t {BY_DAY}")
    assert (tmp_path / "t.parquet").read_bytes() == before
    assert not (tmp_path / "new").exists()


def test_python_variables_are_no_tables(ask: Callable[[str], pa.Table]) -> None:
    rows = pa.table({"user": [7], "x": [7.5]})
    with pytest.raises(SourceError, match="reads rows"):
        ask(f"SELECT user, x FROM rows {BY_DAY}")
    assert rows.num_rows == 1


def test_nothing_of_the_environment_can_be_asked_for(ask: Callable[[str], pa.Table], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@proxy:3128")
    settings = ("http_proxy", "http_proxy_username", "http_proxy_password", "secret_directory", "home_directory")
    table = ask(f"SELECT user, concat({', '.join(f'current_setting({name!r})' for name in settings)}) AS x FROM t {BY_DAY}")
    assert not any("secret@" in value or "user" in value or str(Path.home() / ".") in value for value in table["x"].to_pylist())


@pytest.mark.parametrize("name", ['us"er', "u s e r", "u.s.e.r", "u'ser", "select", "ключ", "u;--"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    pq.write_table(pa.table({name: [2, 1], "x": [2.5, 1.5]}), tmp_path / "odd 'name' [1].parquet")
    (tmp_path / "features.sql").write_text(f"SELECT {quoted}, x FROM {quoted} {BY_DAY}")
    source = DuckdbSource(query=str(tmp_path / "features.sql"), tables={name: str(tmp_path / "odd 'name' [1].parquet")})
    with source.read("2024-03-10", [name], tmp_path) as found:
        assert found.rows.read_all().to_pydict() == {name: [1, 2], "x": [1.5, 2.5]}


def test_tables_whose_names_sql_does_not_tell_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="two tables"):
        DuckdbSource(query="q", tables={"t": "/a", "T": "/b"})
