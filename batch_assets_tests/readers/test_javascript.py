"""Readers in another language, thirty lines each, find what our own finds: in the Arrow file, and in Redis."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.serving.reader import Reader
from batch_assets.serving.redis_store import RedisStore
from batch_assets_tests.conftest import PROJECT, require
from batch_assets_tests.readers.programs import Node
from batch_assets_tests.servers import RedisServer
from batch_assets_tests.small import Small, rows

pytestmark = pytest.mark.process

ROWS = 1_500
NUMBERS = pa.array(
    sorted(
        {-(2**63), -(2**53) - 1, -1, 0, 1, 2**53 + 1, 2**63 - 1, *np.random.default_rng(2).integers(-(2**62), 2**62, ROWS - 7)}
    )
)
TEXTS = pa.array(
    sorted({"ä", "日本", "a", "a" * 8, "a" * 9, "🙂", *(f"user-{n:07d}" for n in range(ROWS - 6))}, key=str.encode)
)
STRANGERS = {"int64": [2, -2, 2**53, 2**62 + 1], "string": ["b", "user-", "aa", "日", "user-9999999"]}
ROLES = {"int64": NUMBERS, "string": TEXTS}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[Any]]:
    """Runs an example beside the packages that it imports; a line of JSON for each key."""
    require(Node)
    folder = tmp_path / "readers"
    shutil.copytree(PROJECT / "docs" / "examples" / "readers", folder)
    (folder / "node_modules").symlink_to(Node.packages / "node_modules")

    def run(program: str, *arguments: object) -> list[Any]:
        command = ["node", str(folder / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def asked_for(kind: str) -> list[Any]:
    """Two hundred keys, the first and the last among them, and strangers."""
    keys = ROLES[kind].to_pylist()
    some = np.random.default_rng(3).choice(len(keys), 190, replace=False)
    return [*STRANGERS[kind], keys[0], keys[-1], *(keys[place] for place in some)]


def expected(reader: Reader, keys: list[Any]) -> list[Any]:
    names = reader.release.record.names
    return [answer and {name: answer.record[name] for name in names} for answer in reader.get_many(keys)]


@pytest.mark.parametrize("kind", ROLES)
def test_the_same_answers(
    make_small: Callable[..., Small], redis_server: RedisServer, run: Callable[..., list[Any]], tmp_path: Path, kind: str
) -> None:
    redis = {"kind": "redis", "host": "127.0.0.1", "port": redis_server.port, "prefix": f"javascript_{kind}"}
    keys = ROLES[kind]
    small = make_small(rows(len(keys)).set_column(0, "user", keys), stores=[{"kind": "arrow"}, redis])
    small.night()
    asked = asked_for(kind)
    found = expected(Reader.open("small", small.storage), asked)
    assert found.count(None) == len(STRANGERS[kind])
    assert run("read_release.mjs", small.storage.root, "small", *asked) == found
    assert run("read_redis.mjs", f"redis://127.0.0.1:{redis_server.port}", redis["prefix"], "small", *asked) == found


def test_a_bucket_that_is_lost_is_no_answer(
    make_small: Callable[..., Small], redis_server: RedisServer, run: Callable[..., list[Any]]
) -> None:
    store = RedisStore(host="127.0.0.1", port=redis_server.port, prefix="javascript_lost")
    small = make_small(rows(10), stores=[store.model_dump()])
    release = small.night().release
    with store.client() as client:
        client.delete(store.key_of(release, 0))
    with pytest.raises(AssertionError, match="is lost: publish the day again"):
        run("read_redis.mjs", f"redis://127.0.0.1:{redis_server.port}", "javascript_lost", "small", 1)
