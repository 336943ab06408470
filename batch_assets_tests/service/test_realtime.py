"""Rows that are scored on a miss: the same record as at night, bit for bit, or why there is none."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from batch_assets.serving.reader import Reader
from batch_assets_tests.service.asking import InProcess, options
from batch_assets_tests.small import Small, rows, small_model

SERVE = {"realtime": {"batcher": {"max_batch_size": 64, "max_wait_ms": 1}}}

pytestmark = pytest.mark.night


@pytest.fixture
def realtime(make_small: Callable[..., Small]) -> Small:
    small = make_small(serve=SERVE)
    approve(small, "v1")
    return small


@pytest.fixture
def asked(realtime: Small) -> Iterator[InProcess]:
    with InProcess(options(realtime)) as found:
        yield found


def approve(small: Small, version: str) -> None:
    small.registry.approve("small", "realtime", version, why="test", by="the test")


def test_rows_have_the_records_that_the_night_gave_them(realtime: Small, asked: InProcess) -> None:
    realtime.night()
    table = rows(2_000).slice(0, 300)
    sent = [{name: one[name] for name in "xyz"} for one in table.to_pylist()]
    found = asked.ask_all([("POST", "/v1/small:score", {"json": {"features": one}}) for one in sent])
    answers = Reader.open("small", realtime.storage).get_many(table.column("user").to_pylist())
    for one, answer in zip(found, answers, strict=True):
        assert answer is not None
        record = one.json()["record"]
        assert {name: answer.record[name] for name in record} == record
    said = found[0].json()
    assert said["fresh"] is True
    assert said["lineage"]["model_sha256"] == realtime.model.card.model_sha256
    assert (said["lineage"]["alias"], said["lineage"]["approval"]) == ("realtime", 1)


@pytest.mark.parametrize(
    ("features", "phrases"),
    [
        ({"x": 1, "y": 2}, ["z is missing"]),
        ({"x": 1, "y": 2, "z": 3, "w": 4}, ["w is no feature"]),
        ({"x": "1", "y": True, "z": [3]}, ["x must be a number", "y must be a number", "z must be a number"]),
        ({"x": None, "y": 1e39, "z": 1}, ["x must not be missing", "y must be a finite float32"]),
    ],
)
def test_what_the_contract_does_not_permit_is_named(asked: InProcess, features: dict[str, Any], phrases: list[str]) -> None:
    found = asked.post("/v1/small:score", {"features": features})
    assert found.status_code == 422
    assert [phrase for phrase in phrases if phrase not in found.json()["error"]] == []


def test_a_row_that_a_business_rule_excludes_is_not_scored(make_small: Callable[..., Small]) -> None:
    rule = {"reason": "no consent", "column": "x", "op": "<", "value": 0}
    small = make_small(serve=SERVE, scoring={"exclude": [rule]})
    approve(small, "v1")
    with InProcess(options(small)) as asked:
        found = asked.ask_all(
            [("POST", "/v1/small:score", {"json": {"features": {"x": x, "y": 0, "z": 0}}}) for x in (-1.0, 1.0)]
        )
    assert [one.status_code for one in found] == [422, 200]
    assert found[0].json()["error"] == "This row is not scored: it is excluded, no consent."


def test_a_row_that_the_model_has_no_number_for_fails_alone(asked: InProcess) -> None:
    sent = [{"x": x, "y": -x, "z": 0} for x in (3.0e38, 1.0)]
    found = asked.ask_all([("POST", "/v1/small:score", {"json": {"features": one}}) for one in sent])
    assert [one.status_code for one in found] == [422, 200]
    assert found[0].json()["error"].startswith("This row is not scored: ")


def test_another_version_scores_once_it_is_approved(realtime: Small, asked: InProcess) -> None:
    row = {"features": {"x": 1.0, "y": 1.0, "z": 1.0}}
    first = asked.post("/v1/small:score", row).json()["record"]
    realtime.registry.register("small", "v2", realtime.card(other := small_model((-1.0, 0.5, 0.25))), other)
    approve(realtime, "v2")
    while (seen := asked.post("/v1/small:score", row).json()["record"])["model_version"] == "v1":
        assert seen == first
    assert seen["model_version"] == "v2"
    assert seen["probability"] != first["probability"]


def test_nobody_approved_a_version_for_it(make_small: Callable[..., Small]) -> None:
    small = make_small(serve=SERVE)
    with InProcess(options(small)) as asked:
        found = asked.post("/v1/small:score", {"features": {"x": 1, "y": 1, "z": 1}})
    assert (found.status_code, "models approve small VERSION --alias realtime" in found.text) == (503, True)


def test_a_pipeline_scores_by_day_only_if_it_says_so(small: Small) -> None:
    with InProcess(options(small)) as asked:
        found = asked.post("/v1/small:score", {"features": {}})
    assert (found.status_code, "no serve.realtime" in found.text) == (404, True)


def test_what_the_contract_permits_stands_in_the_document(asked: InProcess) -> None:
    body = asked.get("/openapi.json").json()["paths"]["/v1/small:score"]["post"]["requestBody"]
    row = body["content"]["application/json"]["schema"]["properties"]["features"]
    assert row["required"] == ["x", "y", "z"]
    assert row["properties"]["x"] == {"type": "number", "minimum": -3.4028234663852886e38, "maximum": 3.4028234663852886e38}
    assert np.float32(row["properties"]["x"]["maximum"]) == np.finfo(np.float32).max
