"""Nights with a secret wherever one can be, good ones and failing ones: none of it is in what was written, shown or logged."""

import io
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import psycopg
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from batch_assets.config import PipelineConfig
from batch_assets.operations.explain import explain
from batch_assets_tests.conftest import require
from batch_assets_tests.operations.test_forget_purge import every_byte
from batch_assets_tests.orchestration.location import repository, run
from batch_assets_tests.servers import RedisServer, S3Gateway
from batch_assets_tests.small import DAY, Small, rows
from batch_assets_tests.sources.warehouse.server import Guarded

pytestmark = pytest.mark.process

Make = Callable[..., Small]
Start = Callable[[Any], Any]

MARK = "h0tp0tat0"
PASSWORD = f"{MARK} of/the@role!"
"""With signs that an address must quote."""

SECRET = re.compile("|".join([MARK, re.escape(quote(PASSWORD, safe=""))]).encode(), re.IGNORECASE)


@pytest.fixture
def warehouse() -> Iterator[Guarded]:
    """A server with rows, which asks a role for its password."""
    require(Guarded)
    with Guarded() as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE scores LOGIN PASSWORD '{PASSWORD}'")
            connection.execute('CREATE TABLE rows ("user" bigint, x real, y real, z real)')
            connection.execute("GRANT SELECT ON rows TO scores; CREATE SCHEMA marts AUTHORIZATION scores")
            with connection.cursor().copy("COPY rows FROM STDIN") as copy:
                for row in zip(*(column.to_pylist() for column in rows(100).columns), strict=True):
                    copy.write_row(row)
        yield server


def configured(small: Small, tmp_path: Path, warehouse: Guarded, redis: RedisServer) -> PipelineConfig:
    """A pipeline with secrets in its source, its stores, its table and its receivers."""
    query = tmp_path / "rows.sql"
    query.write_text('SELECT "user", x, y, z FROM rows WHERE $partition IS NOT NULL')
    uri = {"env": "WAREHOUSE_URI"}
    said = small.config.model_dump(mode="json")
    said["features"]["source"] = {"kind": "warehouse", "driver": "postgresql", "uri": uri, "query": str(query)}
    return PipelineConfig.model_validate(
        {
            **said,
            "engine": {"kind": "local"},
            "stores": [
                {"kind": "arrow"},
                {"kind": "redis", "host": "127.0.0.1", "port": redis.port, "password": {"env": "REDIS"}, "timeout_s": 2},
            ],
            "tables": [{"kind": "warehouse", "driver": "postgresql", "uri": uri, "table": "marts.churn", "required": True}],
            "alerts": [{"kind": "slack", "url": {"env": "SLACK"}}],
        }
    )


@pytest.mark.parametrize("root", ["local", pytest.param("s3", marks=pytest.mark.long)])
def test_no_secret_is_anywhere(
    root: str,
    make_small: Make,
    tmp_path: Path,
    warehouse: Guarded,
    start_server: Start,
    s3_gateway: S3Gateway,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for name, value in s3_gateway.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BATCH_ASSETS_CACHE", str(tmp_path / "copies"))
    redis = start_server(RedisServer(password=f"{MARK}-redis"))
    address = warehouse.url.replace("postgres@", f"scores:{quote(PASSWORD, safe='')}@")
    environment = {
        "WAREHOUSE_URI": address,
        "REDIS": f"{MARK}-redis",
        "SLACK": f"http://127.0.0.1:1/services/{MARK}",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "dagster").mkdir()
    bucket = s3_gateway.new_bucket()
    small = make_small(rows(10), root=bucket if root == "s3" else "")
    small.config = configured(small, tmp_path, warehouse, redis)
    location, states, shown = repository(small), list[bool](), list[str]()
    with dg.instance_for_test(temp_dir=str(tmp_path / "dagster")) as instance:

        def night(day: str) -> None:
            ended = instance.get_run_by_id(run(location, instance, day))
            assert ended is not None
            states.append(ended.is_success)

        night(DAY)
        shown.append(str(explain(small.config, small.storage, small.registry, 7)))
        for name, wrong in {
            "WAREHOUSE_URI": address.replace("scores:", "scores:wrong-"),
            "REDIS": f"wrong-{MARK}",
        }.items():
            with monkeypatch.context() as patched:
                patched.setenv(name, wrong)
                night("2024-03-11" if name == "REDIS" else "2024-03-12")
        Path(small.config.features.source.query).write_text("SELECT nothing FROM rows WHERE $partition IS NOT NULL")  # type: ignore[attr-defined]
        night("2024-03-13")
        warehouse.stop()
        night("2024-03-14")
    assert states == [True, False, False, False, False]
    said = caplog.text + "".join(capfd.readouterr()) + "".join(shown) + repr(small.config) + small.config.model_dump_json()
    assert "rows.sql cannot be computed for 2024-03-13" in said, "what failed was shown"
    assert SECRET.search(address.encode()) is not None, "what is looked for can be found"
    assert SECRET.search(said.encode()) is None
    written = dict(every_byte(str(tmp_path / "dagster"))) | dict(in_root(small, root, bucket))
    assert len(written) > 50
    assert {name for name, data in written.items() if SECRET.search(data)} == set()
    keys = re.compile(b"|".join(value.encode() for name, value in s3_gateway.environment.items() if "SECRET" in name))
    assert {name for name, data in written.items() if keys.search(data)} == set()


def in_root(small: Small, root: str, bucket: str) -> Iterator[tuple[str, bytes]]:
    """Every file of the storage root, of Parquet also what is in it."""
    if root == "local":
        yield from every_byte(small.storage.location)
        return
    store = S3Store(bucket.removeprefix("s3://"), client_options={"allow_http": True})
    for listed in store.list():
        for one in listed:
            data = bytes(store.get(one["path"]).bytes())
            yield one["path"], data
            if one["path"].endswith(".parquet"):
                yield f"{one['path']}, read", str(pq.read_table(io.BytesIO(data)).to_pydict()).encode()
