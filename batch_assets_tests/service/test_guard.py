"""What stands before every request: hosts, tokens, rates; and what is counted and logged of it."""

import base64
import logging
from collections.abc import Iterator
from itertools import count

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Receive, Scope, Send

from batch_assets.errors import ConfigError
from batch_assets.service.guard import Guard
from batch_assets.service.metrics import Requests
from batch_assets.service.options import TOKEN, Limits, ServiceOptions
from batch_assets_tests.service.asking import InProcess, options
from batch_assets_tests.small import Small

SECRET = "correct horse battery staple"

pytestmark = pytest.mark.night


@pytest.fixture
def asked(published: Small, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcess]:
    monkeypatch.setenv(TOKEN, SECRET)
    with InProcess(options(published)) as found:
        yield found


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize("path", ["/v1/small/1", "/", "/metrics", "/openapi.json", "/nothing"])
@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic ???", basic("wrong"), f"Digest {SECRET}"])
def test_who_has_no_token_sees_nothing(asked: InProcess, path: str, header: str | None) -> None:
    found = asked.get(path, headers={"authorization": header} if header else {})
    assert found.status_code == 401
    assert found.headers["www-authenticate"].startswith("Basic")
    assert "small" not in found.text


@pytest.mark.parametrize("header", [f"Bearer {SECRET}", f"bearer {SECRET}", basic(SECRET)])
def test_who_has_the_token_is_answered(asked: InProcess, header: str) -> None:
    assert asked.get("/v1/small/1", headers={"authorization": header}).status_code == 200


def test_whoever_starts_and_stops_services_needs_no_token(asked: InProcess) -> None:
    assert [asked.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8400", "", "127.0.0.1.evil.example", "[::2]:80"])
def test_a_host_that_the_service_is_not_called_is_refused(asked: InProcess, host: str) -> None:
    assert asked.get("/healthz", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8400", "LOCALHOST", "[::1]:8400"])
def test_a_service_of_this_machine_knows_its_names(asked: InProcess, host: str) -> None:
    assert asked.get("/healthz", headers={"host": host}).status_code == 200


def test_others_reach_it_with_a_token_and_by_a_name_only(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(ValueError, match="say with --name by which names"):
        options(small, host="0.0.0.0")
    public = options(small, host="0.0.0.0", names=("scores.example",))
    with pytest.raises(ConfigError, match=r"can be reached by others, so BATCH_ASSETS_TOKEN must hold a token"):
        InProcess(public)
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(ConfigError, match="a token has 16 at least"):
        InProcess(public)
    monkeypatch.setenv(TOKEN, SECRET)
    with InProcess(public) as asked:
        assert asked.get("/healthz", headers={"host": "scores.example"}).status_code == 200
        assert asked.get("/healthz", headers={"host": "127.0.0.1"}).status_code == 421


def guarded(said: ServiceOptions, app: object, clock: object) -> InProcess:
    return InProcess(said, Guard(app, said, Requests(["small"]), clock))  # type: ignore[arg-type]


async def fine(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_who_asks_too_often_is_told_to_come_later(small: Small) -> None:
    now = 0.0
    with guarded(options(small, limits=Limits(per_second=2)), fine, lambda: now) as asked:
        assert [asked.get("/").status_code for _ in range(4)] == [200, 200, 429, 429]
        now += 0.5
        assert [asked.get("/").status_code for _ in range(2)] == [200, 429]
        now += 3_600
        found = [asked.get("/") for _ in range(3)]
        assert [one.status_code for one in found] == [200, 200, 429]
        assert found[2].headers["retry-after"] == "1"


def test_what_fails_within_is_told_and_logged_without_the_key(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    async def failing(scope: Scope, _receive: Receive, _send: Send) -> None:
        raise LookupError(scope["path"])

    with guarded(options(small), failing, count().__next__) as asked, caplog.at_level(logging.DEBUG, "batch_assets"):
        found = asked.get("/v1/small/somebody")
    assert (found.status_code, "LookupError" in found.text) == (500, True)
    assert "LookupError" in caplog.text
    assert "in failing" in caplog.text
    assert "somebody" not in caplog.text + found.text


def test_monitoring_is_told_of_requests_and_of_the_night_and_of_no_key(
    published: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with InProcess(options(published)) as asked:
        for path in ("/v1/small/1234", "/v1/small/1235", "/v1/small/777777", "/v1/somebody/1", "/healthz", "/elsewhere"):
            asked.get(path)
        asked.post("/v1/small:batchGet", {"keys": [1236]})
        said = asked.get("/metrics")
    assert said.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(said.text)
        for sample in family.samples
    }

    def requests(route: str, pipeline: str, status: str) -> float:
        labels = {"route": route, "pipeline": pipeline, "status": status}
        return found["batch_assets_requests_total", *sorted(labels.items())]

    assert requests("get", "small", "200") == 2
    assert requests("get", "small", "404") == 1
    assert requests("get", "other", "404") == 1
    assert requests("batchGet", "small", "200") == 1
    assert requests("other", "", "404") == 1
    assert found["batch_assets_live_readable", ("pipeline", "small")] == 1
    assert found["batch_assets_night_rows", ("outcome", "scored"), ("pipeline", "small")] == 2_000
    assert found["batch_assets_live_age_seconds", ("pipeline", "small")] > 86_400
    assert ("batch_assets_night_stage_seconds", ("pipeline", "small"), ("stage", "forward")) in found
    assert not [word for word in ("1234", "1235", "1236", "777777", "somebody") if f'"{word}"' in said.text]


def test_monitoring_is_told_of_what_cannot_be_read(small: Small) -> None:
    with InProcess(options(small)) as asked:
        assert 'batch_assets_live_readable{pipeline="small"} 0.0' in asked.get("/metrics").text
