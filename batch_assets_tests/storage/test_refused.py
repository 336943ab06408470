"""What a server that speaks S3 refuses is the same sentence wherever a bucket is asked: what is wrong, and what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from batch_assets.errors import BatchAssetsError
from batch_assets.sources.delta_source import DeltaSource
from batch_assets.sources.parquet_source import ParquetSource
from batch_assets.storage import open_storage
from batch_assets.storage.endpoint import said_by_server
from batch_assets.tables.delta_table import DeltaTable
from batch_assets_tests.tables.table_behaviour import rows

Ask = Callable[[str, Path], object]


def read_parquet(root: str, spill: Path) -> None:
    with ParquetSource(path=f"{root}/rows").read("2024-03-10", ["user"], spill):
        pass


def read_delta(root: str, spill: Path) -> None:
    with DeltaSource(path=f"{root}/rows").read("2024-03-10", ["user"], spill):
        pass


def write_delta(root: str, spill: Path) -> None:
    DeltaTable(path=f"{root}/table").replace(rows())


def write_root(root: str, spill: Path) -> None:
    open_storage(f"{root}/root").create("some/file", b"")


ASKED = [read_parquet, read_delta, write_delta, write_root]


@pytest.mark.parametrize("ask", ASKED)
def test_no_such_bucket(ask: Ask, real_bucket: str, tmp_path: Path) -> None:
    with pytest.raises(BatchAssetsError, match=r"no such bucket: make it, or look at AWS_ENDPOINT_URL\)?\.$"):
        ask("s3://nobody-has-made-it", tmp_path)


@pytest.mark.parametrize("ask", ASKED)
def test_wrong_credentials(ask: Ask, real_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an0ther-secret")
    with pytest.raises(BatchAssetsError, match=r"look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY\)?\.$") as raised:
        ask(real_bucket, tmp_path)
    assert "an0ther-secret" not in str(raised.value)


def test_nothing_is_there(real_bucket: str, tmp_path: Path) -> None:
    with pytest.raises(BatchAssetsError, match=r"cannot be opened: there is no Delta table\.$"):
        read_delta(real_bucket, tmp_path)
    with pytest.raises(BatchAssetsError, match=r"names no Parquet file\.$"):
        read_parquet(real_bucket, tmp_path)


@pytest.mark.parametrize(
    ("code", "meaning"),
    [("RequestTimeTooSkewed", "the clock of this machine is wrong: set it"), ("SlowDown", "the server says SlowDown")],
)
def test_what_no_server_here_says(code: str, meaning: str) -> None:
    """Its clock would have to be another than ours."""
    said = f"Generic S3 error\n  403 Forbidden\n<?xml version='1.0'?>\n<Error><Code>{code}</Code></Error>"
    assert said_by_server(OSError(said)) == meaning
    assert said_by_server(OSError("Connection refused")) == ""
