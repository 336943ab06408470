"""The same rows from every source, on a disk and in a bucket, by threads and by Ray: one snapshot, one run, the same bits."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from obstore.store import S3Store

from batch_assets.config import PipelineConfig
from batch_assets.digest import Digest
from batch_assets.engines.engine import Engine
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.engines.ray_engine import RayEngine
from batch_assets.engines.ray_local import local_ray
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.publish import publish, published_matches
from batch_assets.nightly.score import score
from batch_assets.operations.explain import explain
from batch_assets.serving.reader import Reader
from batch_assets_tests.servers import KafkaServer, PostgresServer
from batch_assets_tests.small import DAY, Small, rows
from batch_assets_tests.sources import preprocessing
from batch_assets_tests.sources.kafka.topics import Topic
from batch_assets_tests.sources.test_iceberg_source import catalog, properties

Make = Callable[..., Small]
ROWS = rows(300)

Source = dict[str, Any]


class Night(NamedTuple):
    """What a night was: equal, whatever its rows came from."""

    snapshot: str
    run_id: str
    values: Digest
    release: Digest


class Place:
    """Where each kind of source finds the rows, which it has from the moment in which its settings are asked for."""

    def __init__(self, folder: Path, bucket: str, postgres: PostgresServer, kafka: KafkaServer) -> None:
        self.folder, self.bucket, self.postgres, self.kafka = folder, bucket, postgres, kafka
        self.rows, self.file = ROWS, folder / "rows.parquet"
        self.topic: Topic | None = None

    def written(self) -> str:
        pq.write_table(self.rows, self.file)
        return str(self.file)

    def duckdb(self) -> Source:
        query = self.folder / "rows.sql"
        query.write_text("SELECT user, x, y, z FROM rows WHERE $partition IS NOT NULL")
        return {"kind": "duckdb", "query": str(query), "tables": {"rows": self.written()}}

    def parquet(self) -> Source:
        return {"kind": "parquet", "path": self.written()}

    def parquet_in_a_bucket(self) -> Source:
        store = S3Store(self.bucket.removeprefix("s3://"), client_options={"allow_http": True})
        store.put("rows/part.parquet", Path(self.written()).read_bytes())
        return {"kind": "parquet", "path": f"{self.bucket}/rows"}

    def delta(self) -> Source:
        write_deltalake(self.folder / "delta", self.rows, mode="overwrite")
        return {"kind": "delta", "path": str(self.folder / "delta")}

    def delta_in_a_query(self) -> Source:
        return {**self.duckdb(), "tables": {"rows": self.delta()}}

    def iceberg(self) -> Source:
        place = self.folder / "iceberg"
        place.mkdir(exist_ok=True)
        with catalog(place) as opened:
            table = opened.create_table_if_not_exists("db.rows", self.rows.schema)
            (table.overwrite if table.current_snapshot() else table.append)(self.rows)
        return {"kind": "iceberg", "catalog": properties(place), "table": "db.rows"}

    def warehouse(self) -> Source:
        query = self.folder / "warehouse.sql"
        query.write_text('SELECT "user", x, y, z FROM every_source WHERE $partition IS NOT NULL')
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS every_source")
            connection.execute('CREATE TABLE every_source ("user" bigint, x real, y real, z real)')
            with connection.cursor().copy("COPY every_source FROM STDIN") as copy:
                for row in zip(*(column.to_pylist() for column in self.rows.columns), strict=True):
                    copy.write_row(row)
        return {"kind": "warehouse", "driver": "postgresql", "uri": self.postgres.url, "query": str(query)}

    def kafka_topic(self) -> Source:
        topic = self.topic = self.topic or Topic.made(self.kafka.url, 2)
        producer, there = topic.producer(), {row["user"]: json.dumps(row).encode() for row in self.rows.to_pylist()}
        for user in {*there, *ROWS["user"].to_pylist()}:
            producer.produce(topic.name, there.get(user), str(user), partition=user % 2, timestamp=_NOON)
        assert producer.flush(60) == 0
        columns = {"user": "int64", **dict.fromkeys("xyz", "float32")}
        return {"kind": "kafka", "servers": self.kafka.url, "topic": topic.name, "columns": columns}

    def python(self) -> Source:
        return {"kind": "python", "function": f"{preprocessing.__name__}:same", "source": self.parquet()}


KINDS = [Place.duckdb, Place.parquet, Place.parquet_in_a_bucket, Place.delta, Place.delta_in_a_query, Place.iceberg]
KINDS += [Place.warehouse, Place.kafka_topic, Place.python]
_NOON = round(datetime.fromisoformat(f"{DAY}T12:00Z").timestamp() * 1_000)


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, shared_bucket: str, postgres_server: PostgresServer, kafka_server: KafkaServer
) -> Place:
    return Place(tmp_path_factory.mktemp("sources"), shared_bucket, postgres_server, kafka_server)


@pytest.fixture(scope="module")
def ray(shared_bucket: str) -> Iterator[None]:
    with local_ray(num_cpus=2):
        yield


@pytest.fixture
def cell(place: Place, make_small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Night]:
    """Makes a night of one kind of source, in one kind of root, by one engine."""
    monkeypatch.setenv("BATCH_ASSETS_CACHE", str(tmp_path / "copies"))

    def made(kind: Callable[[Place], Source], root: str, engine: Engine) -> Night:
        small = make_small(rows(10), root=f"{place.bucket}/{tmp_path.name}" if root == "s3" else "")
        said = small.config.model_dump(mode="json")
        said["features"]["source"] = kind(place)
        small.config = PipelineConfig.model_validate(said)
        frozen = freeze(small.config, small.storage, DAY, small.progress)
        scored = score(small.opened(DAY), engine, small.progress)
        judge(scored.night, scored.manifest)
        published = publish(scored.night, small.progress)
        assert published_matches(small.opened(DAY)).passed
        fate = explain(small.config, small.storage, small.registry, 7)
        assert fate.fate == "scored"
        assert fate.read_from
        return Night(frozen.snapshot.digest, scored.manifest.run_id, scored.manifest.values, published.release.values)

    return made


@pytest.fixture(scope="module")
def expected() -> list[Night]:
    """The first night that was made, which all others must be."""
    return []


def require_same(night: Night, expected: list[Night]) -> None:
    expected.append(night)
    assert night == expected[0]


@pytest.mark.parametrize("root", ["local", "s3"])
@pytest.mark.parametrize("kind", KINDS)
def test_threads(kind: Callable[[Place], Source], root: str, cell: Callable[..., Night], expected: list[Night]) -> None:
    require_same(cell(kind, root, LocalEngine(1)), expected)


@pytest.mark.parametrize("root", ["local", "s3"])
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind is Place.parquet_in_a_bucket else pytest.mark.long) for kind in KINDS]
)
def test_ray(kind: Callable[[Place], Source], root: str, cell: Callable[..., Night], expected: list[Night], ray: None) -> None:
    """What an engine does with a snapshot does not depend on where that came from: one source tells most of it."""
    require_same(cell(kind, root, RayEngine()), expected)
    require_same(cell(Place.duckdb, root, LocalEngine(1)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_after_the_freeze_shows_only_when_somebody_asks_for_it(
    kind: Callable[[Place], Source], place: Place, make_small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row comes, one goes, and one is another."""
    small = make_small(rows(10))
    said = small.config.model_dump(mode="json")
    said["features"]["source"] = kind(place)
    small.config = PipelineConfig.model_validate(said)
    before = small.night().release
    changed = [row if row["user"] != 7 else {**row, "x": -1.0} for row in ROWS.to_pylist() if row["user"] != 8]
    monkeypatch.setattr(place, "rows", pa.Table.from_pylist([*changed, {**changed[0], "user": 1_000}], ROWS.schema))
    kind(place)
    again = small.night().release
    assert (again.name, again.values) == (before.name, before.values)
    assert [reader(small, key) for key in (8, 1_000)] == [True, False]
    fresh = freeze(small.config, small.storage, DAY, small.progress, refresh=True)
    assert fresh.snapshot.digest != before.snapshot
    after = small.night().release
    assert after.run_id != before.run_id
    assert [reader(small, key) for key in (8, 1_000)] == [False, True]


def reader(small: Small, key: int) -> bool:
    """Whether a key has a prediction."""
    opened = Reader.open("small", small.storage)
    try:
        return opened.get(key) is not None
    finally:
        opened.close()
