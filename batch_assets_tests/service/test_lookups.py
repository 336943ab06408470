"""Keys over HTTP: what is live is answered, and whatever else is asked is refused in a sentence."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest

from batch_assets.serving.live import live_release
from batch_assets.serving.reader import Reader
from batch_assets_tests.service.asking import InProcess, options
from batch_assets_tests.small import DAY, Small, rows

pytestmark = pytest.mark.night


@pytest.fixture
def asked(published: Small) -> Iterator[InProcess]:
    with InProcess(options(published)) as found:
        yield found


def test_a_key_has_the_answer_of_the_reader(published: Small, asked: InProcess) -> None:
    answer = Reader.open("small", published.storage).lookup(42)
    found = asked.get("/v1/small/42")
    assert found.status_code == 200
    assert found.json() == {"key": 42, "record": answer.record, "lineage": answer.lineage}
    assert found.headers["content-type"] == "application/json"
    assert found.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/v1/small/999999", 404, "no prediction for key 999999 in release"),
        ("/v1/small/anna", 404, "keys of small are user (int64)"),
        ("/v1/small/1/2", 404, "keys of small are user (int64)"),
        ("/v1/small/", 404, "keys of small are user (int64)"),
        ("/v1/large/1", 404, "This service has no pipeline of that name; it has small."),
        ("/v1/small/%ff", 422, "A key in a path is percent-encoded UTF-8."),
        ("/v1/small", 404, "There is nothing at this path"),
        ("/v2/small/1", 404, "There is nothing at this path"),
        (f"/v1/small/{'1' * 5_000}", 414, "use batchGet"),
    ],
)
def test_what_cannot_be_answered_says_why(asked: InProcess, path: str, status: int, sentence: str) -> None:
    found = asked.get(path)
    assert (found.status_code, sentence in found.json()["error"]) == (status, True), found.text


def test_a_key_is_asked_for_with_get_alone(asked: InProcess) -> None:
    found = asked.ask("DELETE", "/v1/small/1")
    assert (found.status_code, found.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("key", ["a/b", "ünï", "a b", "%41", "..", "a?b#c", "\t"])
def test_a_text_is_a_key_whatever_is_in_it(make_small: Callable[..., Small], key: str) -> None:
    table = rows(20, key_type=pa.string())
    names = sorted([key, *(f"user-{number:02d}" for number in range(19))])
    small = make_small(table.set_column(0, "user", pa.array(names)))
    small.night()
    with InProcess(options(small)) as asked:
        assert asked.get(f"/v1/small/{quote(key, safe='').replace('.', '%2E')}").json()["key"] == key
        assert asked.post("/v1/small:batchGet", {"keys": [key]}).json()["answers"][0]["key"] == key


def test_many_keys_are_answered_in_their_order_by_one_release(published: Small, asked: InProcess) -> None:
    found = asked.post("/v1/small:batchGet", {"keys": [7, 999_999, "3", "x", 7]}).json()["answers"]
    assert [one and one["key"] for one in found] == [7, None, 3, None, 7]
    assert {one["lineage"]["release"] for one in found if one} == {live_release(published.storage, "small").name}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"keys": [NaN]}', "not JSON"),
        (b"\xff", "not JSON"),
        (b"[1]", "the body"),
        (b"{}", "keys"),
        (b'{"keys": []}', "keys"),
        (b'{"keys": [1.5]}', "keys.0"),
        (b'{"keys": [true]}', "keys.0"),
        (b'{"keys": [null]}', "keys.0"),
        (b'{"keys": [{"user": 1}]}', "keys.0"),
        (b'{"keys": ["\\ud800"]}', "not JSON"),
        (b'{"keys": [1], "more": 1}', "more"),
        (b'{"keys": 1}', "keys"),
    ],
)
def test_a_body_that_is_malformed_is_refused_where_it_is(asked: InProcess, body: bytes, where: str) -> None:
    found = asked.ask("POST", "/v1/small:batchGet", content=body, headers={"content-type": "application/json"})
    assert (found.status_code, where in found.json()["error"]) == (422, True), found.text


def test_a_body_is_json_and_bounded(asked: InProcess) -> None:
    assert asked.ask("POST", "/v1/small:batchGet", content=b"{}").status_code == 415
    many = asked.post("/v1/small:batchGet", {"keys": [1] * 10_001})
    assert (many.status_code, "At most 10,000 keys" in many.text) == (413, True)
    long = asked.post("/v1/small:batchGet", {"keys": ["x" * (1 << 20)]})
    assert (long.status_code, "1,048,576 bytes at most" in long.text) == (413, True)

    async def unsaid() -> Any:
        for _ in range(20):
            yield b" " * 65_536

    streamed = asked.ask("POST", "/v1/small:batchGet", content=unsaid(), headers={"content-type": "application/json"})
    assert streamed.status_code == 413


def test_a_number_that_is_longer_than_any_key_has_no_prediction(asked: InProcess) -> None:
    assert asked.get(f"/v1/small/{'9' * 30}").status_code == 404
    assert asked.post("/v1/small:batchGet", {"keys": [10**25]}).json()["answers"] == [None]


def test_a_key_of_several_columns_has_a_segment_for_each(make_small: Callable[..., Small]) -> None:
    table = pa.table({"day": pa.array([1, 1, 2], pa.int64()), **{name: rows(3).column(name) for name in "xyz"}})
    small = make_small(table.add_column(0, "user", pa.array(["a", "b", "a"])))
    small.source.parent.joinpath("query.sql").write_text("SELECT user, day, x, y, z FROM rows WHERE $partition IS NOT NULL")
    contract = {
        "key": [{"name": "user", "dtype": "string"}, {"name": "day", "dtype": "int64"}],
        "columns": [{"name": name} for name in ("x", "y", "z")],
    }
    config = small.config.model_dump(mode="json")
    config["features"]["contract"] = contract
    small.config = type(small.config).model_validate(config)
    small.register("v2", small.registry.storage.read(small.model.path))
    small.night()
    with InProcess(options(small)) as asked:
        assert asked.get("/v1/small/a/2").json()["key"] == ["a", 2]
        assert asked.get("/v1/small/a").status_code == 404
        found = asked.post("/v1/small:batchGet", {"keys": [["b", 1], ["b", 2]]}).json()["answers"]
        assert [one and one["key"] for one in found] == [["b", 1], None]


def test_nothing_was_published_yet(small: Small) -> None:
    with InProcess(options(small)) as asked:
        found = asked.get("/v1/small/1")
        assert (found.status_code, found.headers["retry-after"]) == (503, "60")
        assert found.json()["error"] == "Nothing of small has been published yet."
        assert asked.get("/readyz").json() == {
            "ready": False,
            "hindered": {"small": "Nothing of small has been published yet."},
        }
        small.night()
        assert asked.get("/v1/small/1").status_code == 200
        assert asked.get("/readyz").json() == {"ready": True, "hindered": {}}


def test_a_release_that_is_damaged_is_no_answer(small: Small) -> None:
    small.night()
    release = live_release(small.storage, "small")
    assert release is not None
    file = next(small.storage.local_path(release.folder).rglob("*.arrow"))
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-100])
    with InProcess(options(small)) as asked:
        for path in ("/v1/small/1", "/readyz"):
            found = asked.get(path)
            assert (found.status_code, "publish it again" in found.text) == (503, True), found.text


def test_a_service_is_not_ready_while_what_is_live_is_too_old(make_small: Callable[..., Small]) -> None:
    small = make_small(serve={"stale_after_hours": 36})
    small.night()
    with InProcess(options(small)) as asked:
        found = asked.get("/readyz")
        assert found.status_code == 503
        assert f"What is live of small is {DAY}, over for " in found.json()["hindered"]["small"]
        assert asked.get("/v1/small/1").status_code == 200  # old, and better than none


def test_another_release_is_seen_while_the_service_runs(small: Small) -> None:
    small.night()
    with InProcess(options(small)) as asked:
        first = asked.get("/v1/small/1").json()["record"]["partition"]
        small.night("2024-03-11")
        while (seen := asked.get("/v1/small/1").json()["record"]["partition"]) == first:
            pass  # it looks once a second
    assert (first, seen) == (DAY, "2024-03-11")


def test_what_can_be_asked_is_said(asked: InProcess) -> None:
    said = asked.get("/openapi.json").json()
    assert list(said["paths"]) == ["/v1/{pipeline}/{key}", "/v1/{pipeline}:batchGet", "/healthz", "/readyz"]
    assert json.dumps(said)
