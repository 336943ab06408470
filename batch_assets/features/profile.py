"""The column profile of a snapshot: one row per column, computed in one pass, judged instead of the data itself."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import NotFound, SnapshotChanged
from batch_assets.storage import Storage

PROFILE = "_profile.parquet"
"""File name beside the part files of a snapshot."""

_STATISTICS = {
    "nulls": "count(*) - count({c})",
    "nans": "count(*) FILTER (isnan({c}::DOUBLE))",
    "infinities": "count(*) FILTER (isinf({c}::DOUBLE))",
    "minimum": "min({c}::DOUBLE) FILTER (isfinite({c}::DOUBLE))",
    "maximum": "max({c}::DOUBLE) FILTER (isfinite({c}::DOUBLE))",
    "mean": "avg({c}::DOUBLE) FILTER (isfinite({c}::DOUBLE))",
}


def write_profile(folder: Path, columns: list[str]) -> pa.Table:
    """Profile numeric columns of the part files in a local folder and keep the table beside them.

    Returns:
        One row per column: `column`, `rows`, `nulls`, `nans`, `infinities`, and `minimum`, `maximum`, `mean` of the
        finite values (null if there are none). NaN is counted apart from null.
    """
    import duckdb

    picked = [
        f"{expression.format(c=_identifier(name))} AS {_identifier(f'{statistic}:{name}')}"
        for name in columns
        for statistic, expression in _STATISTICS.items()
    ]
    files = str(folder / "part-*.parquet").replace("'", "''")
    with duckdb.connect() as connection:
        query = f"SELECT count(*) AS rows, {', '.join(picked)} FROM read_parquet('{files}')"
        row = connection.sql(query).to_arrow_table().to_pylist()[0]
    profile = pa.Table.from_pylist(
        [
            {"column": name, "rows": row["rows"], **{statistic: row[f"{statistic}:{name}"] for statistic in _STATISTICS}}
            for name in columns
        ],
        schema=pa.schema(
            [("column", pa.string()), ("rows", pa.int64())]
            + [(name, pa.int64()) for name in ("nulls", "nans", "infinities")]
            + [(name, pa.float64()) for name in ("minimum", "maximum", "mean")]
        ),
    )
    pq.write_table(profile, folder / PROFILE)
    return profile


def read_profile(storage: Storage, folder: str) -> pa.Table:
    """The profile that lies beside a snapshot. Raises SnapshotChanged."""
    path = f"{folder}/{PROFILE}"
    try:
        with storage.open(path) as file:
            return pq.read_table(file)
    except (NotFound, OSError, pa.ArrowException) as error:
        raise SnapshotChanged(f"{path} cannot be read; freeze the partition again with --refresh.") from error


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
