import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pytest
from hypothesis import settings

import batch_assets
from batch_assets.demo import train as training
from batch_assets.models.registry import Registry
from batch_assets.orchestration.catalog import pipeline
from batch_assets.storage import LocalStorage
from batch_assets_tests.listener import Listener, listening
from batch_assets_tests.not_run import not_run
from batch_assets_tests.s3_server import S3Server
from batch_assets_tests.servers import (
    CassandraServer,
    KafkaServer,
    PostgresServer,
    RedisServer,
    S3Gateway,
    Server,
    ServerMissing,
    SharedServer,
    shared_cassandra,
)
from batch_assets_tests.small import Quiet, Small, rows, small_model

PROJECT = Path(batch_assets.__file__).parent.parent

AServer = TypeVar("AServer", bound=Server)

LONGEST = (
    "test_cli.py",
    "test_engines.py",
    "test_failures.py",
    "test_cassandra_faults.py",
    "test_zoo.py",
    "test_decisions.py",
    "test_local_ray.py",
    "test_launch.py",
    "test_readme.py",
    "test_examples.py",
    "test_forget_purge.py",
    "test_several_stores.py",
    "test_cassandra_store.py",
    "test_prune.py",
    "test_prune_interrupted.py",
    "test_preflight.py",
)
MARKED = {
    "process": {
        *("command", "s3_server", "bucket", "start_server"),
        *("redis_server", "postgres_server", "cassandra_server", "kafka_server", "s3_gateway"),
    },
    "night": {"model_bytes", "trained_root"},
}
"""Fixtures by which tests are marked: they start processes, or are for whole nights. Files that do so themselves say it."""


def pytest_configure() -> None:
    """A shell lets what it runs in the background ignore Ctrl-C, and every process that tests start would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("untimed", deadline=None)  # what an example takes says how busy the machine is
    settings.load_profile("untimed")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last lines say what has not run. Of several processes that run tests, only the first has a reporter."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        for line in not_run(reporter.stats.get("skipped", [])):
            reporter.write_line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long` also runs what is left to `make test-long`."""
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files begin first, so that none of them goes on alone while the other processes have nothing left."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip("it takes minutes: `make test-long` runs it"))
        for marker, fixtures in MARKED.items():
            if fixtures & set(getattr(item, "fixturenames", ())):
                item.add_marker(marker)


@pytest.fixture(scope="session")
def model_bytes() -> bytes:
    return small_model()


@pytest.fixture
def make_small(tmp_path: Path, model_bytes: bytes) -> Callable[..., Small]:
    """Makes small pipelines, each in a folder of its own."""
    made = iter(range(1_000))

    def make(table: pa.Table | None = None, **settings: Any) -> Small:
        folder = tmp_path / f"small-{next(made)}"
        folder.mkdir()
        return Small(folder, rows(2_000) if table is None else table, model_bytes, **settings)

    return make


@pytest.fixture
def small(make_small: Callable[..., Small]) -> Small:
    return make_small()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Somebody who is told things over HTTP."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with listening() as heard:
        yield heard


@pytest.fixture(scope="session")
def trained_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root that holds the demo's model and nothing else."""
    root = tmp_path_factory.mktemp("trained")
    config, registry = pipeline(training.PIPELINE), Registry(LocalStorage(str(root)))
    training.train(config, registry, Quiet())
    registry.approve(config.model.name, config.model.alias, training.VERSION, why="test", by="the test")
    return root


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server on this machine that speaks S3."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_gateway() -> Iterator[S3Gateway]:
    """A server that decides races as S3 does; many tests use it, each with a bucket of its own."""
    require(S3Gateway)
    with S3Gateway() as server:
        yield server


@pytest.fixture
def real_bucket(s3_gateway: S3Gateway, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://…`: a new bucket of that server, which the environment leads to."""
    for name, value in s3_gateway.environment.items():
        monkeypatch.setenv(name, value)
    return s3_gateway.new_bucket()


@pytest.fixture(scope="module")
def shared_bucket(s3_gateway: S3Gateway) -> Iterator[str]:
    """The same for all tests of a module, and for workers that are started in it."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in s3_gateway.environment.items():
            patched.setenv(name, value)
        yield s3_gateway.new_bucket()


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://…`: a new bucket, which the environment leads to."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket()


class Brought(Protocol):
    """What `make servers` brings."""

    @classmethod
    def require(cls) -> None:
        """Raises ServerMissing if this machine lacks something of it."""


def require(server: type[Brought]) -> None:
    """Skip the test if this machine lacks what it needs; fail it where the environment says that all servers are required.

    Programs of others that read what a night has made are no servers: without them a test is skipped.
    """
    try:
        server.require()
    except ServerMissing as missing:
        if issubclass(server, Server) and os.environ.get("BATCH_ASSETS_SERVERS") == "required":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture
def start_server() -> Iterator[Callable[[AServer], AServer]]:
    """Starts a server of the test's own, which it may kill: `start_server(RedisServer(password="word"))`."""
    with ExitStack() as servers:

        def start(server: AServer) -> AServer:
            require(type(server))
            servers.enter_context(server)
            return server

        yield start


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis that many tests use, each with names of its own."""
    require(RedisServer)
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that many tests use, each with a schema or database of its own."""
    require(PostgresServer)
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A new database for Dagster's records: the environment that leads to it."""
    import psycopg

    name = f"dagster_{os.getpid()}_{abs(hash(tmp_path))}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield {
        "DAGSTER_PG_HOST": "127.0.0.1",
        "DAGSTER_PG_PORT": str(postgres_server.port),
        "DAGSTER_PG_USERNAME": "postgres",
        "DAGSTER_PG_PASSWORD": "whatever: it is trusted",
        "DAGSTER_PG_DB": name,
    }
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def cassandra_server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> SharedServer:
    """The one Cassandra of the whole run, also of several processes; each test has a keyspace of its own."""
    require(CassandraServer)
    folder, run = tmp_path_factory.getbasetemp(), os.getpid()
    if hasattr(request.config, "workerinput"):  # one of several: the run is the process that has started them
        folder, run = folder.parent, os.getppid()
    return shared_cassandra(folder, run)


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer]:
    """A Kafka that many tests use, each with topics of its own."""
    require(KafkaServer)
    with KafkaServer() as server:
        yield server


class Command:
    """The `batch-assets` command as a process of its own, with its own storage root and Dagster home."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root, self.home = root, home
        self.environment = {**os.environ, "BATCH_ASSETS_ROOT": str(root), "DAGSTER_HOME": str(home)}
        self.program = str(Path(sys.executable).parent / "batch-assets")

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        program = [self.program, *arguments]
        return subprocess.Popen(
            program, env=self.environment, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=180)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


@pytest.fixture
def command(tmp_path: Path, trained_root: Path) -> Command:
    root, home = tmp_path / "root", tmp_path / "home"
    shutil.copytree(trained_root, root)
    home.mkdir()
    shutil.copy(PROJECT / ".dagster_home" / "dagster.yaml", home)
    return Command(root, home)
