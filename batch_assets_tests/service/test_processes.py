"""The service as it runs: real processes, real sockets, clients that mean harm, and an end that loses no answer."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import httpx
import psutil
import pytest

from batch_assets.errors import ConfigError
from batch_assets.service.options import TOKEN
from batch_assets.service.server import serve
from batch_assets.serving.live import roll_back
from batch_assets_tests.service.asking import Running, options, running
from batch_assets_tests.small import DAY, Small, rows

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, model_bytes: bytes) -> Small:
    small = Small(tmp_path_factory.mktemp("published"), rows(2_000), model_bytes, serve={"realtime": {}})
    small.registry.approve("small", "realtime", "v1", why="test", by="the test")
    small.night()
    return small


@pytest.fixture(scope="module")
def service(published: Small, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(options(published, workers=2), tmp_path_factory.mktemp("service")) as found:
        yield found


def workers(service: Running) -> list[psutil.Process]:
    """The processes that answer: those that listen."""
    children = psutil.Process(service.process.pid).children(recursive=True)
    return [one for one in children if "resource_tracker" not in " ".join(one.cmdline())]


def test_several_workers_answer_and_count_together(service: Running) -> None:
    for number in range(1, 101):
        with httpx.Client(base_url=service.client.base_url) as client:
            assert client.get(f"/v1/small/{number}").json()["key"] == number
    said = service.client.get("/metrics").text
    (line,) = [one for one in said.splitlines() if one.startswith("batch_assets_requests_total") and 'route="get"' in one]
    assert float(line.split()[-1]) >= 100
    assert len(workers(service)) == 2


def test_a_client_that_never_ends_its_header_hinders_nobody(service: Running) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            slow.sendall(b"GET /v1/small/1 HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        assert service.client.get("/v1/small/1").status_code == 200
        slow.settimeout(60)
        assert slow.recv(1_000).startswith((b"HTTP/1.1 408", b""))  # it is let go, by an answer or by its end


@pytest.mark.parametrize("header", [b"X: " + b"a" * 200_000, b"\r\n".join(b"X%d: a" % number for number in range(5_000))])
def test_headers_that_never_end_are_refused(service: Running, header: bytes) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.settimeout(30)
        try:
            client.sendall(b"GET /v1/small/1 HTTP/1.1\r\nHost: 127.0.0.1\r\n" + header + b"\r\n\r\n")
            answer = client.recv(1_000)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
    assert answer.startswith(b"HTTP/1.1 431") or not answer
    assert service.client.get("/v1/small/1").status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET", b"\x16\x03\x01\x02\x00", b"GET /v1/small/1 HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_a_connection_that_is_left_half_open_hinders_nobody(service: Running, sent: bytes) -> None:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(sent)
    assert service.client.get("/v1/small/1").status_code == 200


def test_a_body_that_is_cut_off_hinders_nobody(service: Running) -> None:
    head = (
        b"POST /v1/small:batchGet HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(head)
    assert service.client.get("/v1/small/1").status_code == 200
    assert "Traceback" not in service.log()


def test_a_worker_that_is_killed_is_replaced(published: Small, tmp_path: Path) -> None:
    with running(options(published), tmp_path) as service:
        (worker,) = workers(service)
        worker.send_signal(signal.SIGKILL)
        worker.wait(30)
        service.wait()
        assert service.client.get("/v1/small/1").status_code == 200


def test_what_was_asked_before_the_end_is_answered(published: Small, tmp_path: Path) -> None:
    body = {"keys": list(range(1, 2_001)) * 5}
    with running(options(published), tmp_path) as service:
        service.client.post("/v1/small:batchGet", json=body)
        answers = list[int]()

        def ask() -> None:
            with httpx.Client(base_url=service.client.base_url, timeout=60) as client:
                found = client.post("/v1/small:batchGet", json=body)
                answers.append(len(found.json()["answers"]))

        before = _answered(service)
        some = [threading.Thread(target=ask) for _ in range(4)]
        for one in some:
            one.start()
        while _answered(service) == before:
            pass  # until one of them is there: the others are under way
        service.process.send_signal(signal.SIGTERM)
        for one in some:
            one.join()
        assert service.process.wait(60) == 0
    assert answers == [10_000] * 4


def _answered(service: Running) -> float:
    said = service.client.get("/metrics").text.splitlines()
    return sum(float(one.split()[-1]) for one in said if one.startswith("batch_assets_requests_total") and "batchGet" in one)


def test_keys_and_tokens_are_in_no_log(published: Small, tmp_path: Path) -> None:
    token = "correct horse battery staple"
    with running(options(published), tmp_path, **{TOKEN: token}) as service:
        bearer = {"authorization": f"Bearer {token}"}
        for path in ("/v1/small/1234567", "/v1/small/1234567%ff", "/?key=1234567"):
            assert service.client.get(path, headers=bearer).status_code in (404, 422)
        assert service.client.get("/v1/small/1234567").status_code == 401
    log = service.log()
    assert "Listening" in log
    assert "1234567" not in log
    assert token not in log


def test_a_port_that_is_taken_is_one_sentence(published: Small, service: Running) -> None:
    with pytest.raises(ConfigError, match=rf"127.0.0.1:{service.port} cannot be listened on .* choose another --port"):
        serve(options(published, port=service.port), print)


def test_releases_are_swapped_under_readers_and_nothing_grows(make_small: Callable[..., Small], tmp_path: Path) -> None:
    """The short way of `benchmarks/serve.py --soak`: each answer is of one release, and none is an error."""
    small = make_small()
    names = [small.night(day).release.name for day in (DAY, "2024-03-11")]
    with running(options(small), tmp_path) as service:
        (worker,) = workers(service)
        stop, wrong, seen = threading.Event(), list[str](), list[str]()

        def read() -> None:
            with httpx.Client(base_url=service.client.base_url, timeout=60) as client:
                for number in cycle(range(1, 2_001)):
                    found = client.get(f"/v1/small/{number}")
                    many = client.post("/v1/small:batchGet", json={"keys": [number, 1, 2]}).json()["answers"]
                    releases = {one["lineage"]["release"] for one in many}
                    seen.extend(releases)
                    if found.status_code != 200 or len(releases) != 1 or found.json()["key"] != number:
                        wrong.append(found.text)
                    if stop.is_set():
                        return

        readers = [threading.Thread(target=read) for _ in range(3)]
        for one in readers:
            one.start()
        held = list[tuple[int, int]]()
        for name in (names[0], names[1]) * 3:
            roll_back(small.storage, "small", "swap", name, ())
            before = len(seen)
            while name not in seen[before:]:
                assert not wrong
                assert all(one.is_alive() for one in readers)
                before = max(before, len(seen) - 100)
            held.append((worker.num_fds(), worker.memory_info().rss))
        stop.set()
        for one in readers:
            one.join()
    assert wrong == []
    assert held[-1][0] <= held[1][0] + 4
    assert held[-1][1] <= held[1][1] + (16 << 20)
