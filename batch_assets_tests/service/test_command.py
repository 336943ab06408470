"""`batch-assets serve` from a terminal."""

import signal

import httpx
import pytest

from batch_assets.demo.train import PIPELINE
from batch_assets.service.options import TOKEN
from batch_assets_tests.conftest import Command
from batch_assets_tests.service.asking import free_port


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["nobody"], 1, "There is no pipeline nobody"),
        (["--host", "0.0.0.0"], 2, "say with --name by which names clients call it"),
        (["--host", "0.0.0.0", "--name", "scores.example"], 1, f"so {TOKEN} must hold a token"),
        (["--port", "0"], 2, "greater than or equal to 1"),
        (["--host", "192.0.2.1", "--name", "scores.example"], 1, TOKEN),
    ],
)
def test_what_cannot_be_served_is_one_sentence(command: Command, arguments: list[str], status: int, sentence: str) -> None:
    done = command.run("serve", *arguments)
    assert (done.returncode, sentence in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_serves_until_it_is_told_to_end(command: Command) -> None:
    assert command.run("run", PIPELINE, "--partition", "1998-06-30", "--engine", "local").returncode == 0
    port = free_port()
    process = command.start("serve", PIPELINE, "--port", str(port))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        while True:
            try:
                found = client.get(f"/v1/{PIPELINE}/42")
                break
            except httpx.TransportError:
                assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert found.json()["key"] == 42
    assert process.returncode == 0
