"""The process that prints, and the one that works: each of them may be ended at any time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from batch_assets_tests.conftest import PROJECT

pytestmark = pytest.mark.process

COMMAND = """
import os, signal, sys, time
import click
from batch_assets.cli.terminal import verb
from batch_assets.errors import ConfigError

def wait():
    print("at work", file=sys.stderr, flush=True)
    signal.pause()

def fail(error):
    raise error

def twice():
    try:
        wait()
    except KeyboardInterrupt:
        print("cleaning up", file=sys.stderr, flush=True)
        time.sleep(0.5)
        print("cleaned up", file=sys.stderr, flush=True)
        raise

@click.command()
@verb(lambda console, found: console.print(found), uses_ray=True)
def main():
    '''Does what the test says.'''
    return {"done": WORK}

main()
"""


@contextmanager
def working(work: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A command that does the work; it is at work, and says so."""
    program, pipe = [sys.executable, "-c", COMMAND.replace("WORK", work), *arguments], subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=PROJECT) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == "at work\n"
            yield process
        finally:
            process.kill()  # else a test that fails would wait for it


def child(process: "subprocess.Popen[str]") -> psutil.Process:
    (found,) = psutil.Process(process.pid).children()
    return found


def done(work: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-c", COMMAND.replace("WORK", work), *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, cwd=PROJECT)


def test_what_was_found_is_printed_whole() -> None:
    assert json.loads(done("['x' * 100] * 10_000", "--json").stdout) == {"done": ["x" * 100] * 10_000}
    assert done("1").stdout.strip() == "{'done': 1}"


def test_values_that_json_does_not_have_come_through() -> None:
    assert done("float('nan')").stdout.strip() == "{'done': nan}"


def test_what_the_work_prints_is_not_part_of_the_answer() -> None:
    found = done("print('progress')", "--json")
    assert (found.stdout, found.stderr) == ('{"done": null}\n', "progress\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_work_that_is_ended_from_outside_is_one_sentence(number: signal.Signals) -> None:
    with working("wait()", "--json") as process:
        child(process).send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    answer = json.loads(stdout)
    assert (process.returncode, answer["kind"], stdout.count("\n")) == (1, "ProcessEnded", 1)
    assert f"was ended by {number.name}" in answer["error"]
    assert "the same command resumes" in answer["error"]
    assert stderr == f"Error: {answer['error']}\n"


def test_work_that_ends_itself_without_an_answer_is_one_sentence() -> None:
    """As Ray does when it has lost its cluster."""
    found = done("os._exit(1)")
    assert (found.returncode, found.stdout) == (1, "")
    assert "ended with status 1 before it could answer" in found.stderr
    assert "the same command resumes" in found.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_work_once(number: signal.Signals) -> None:
    with working("twice()", "--json") as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(stdout)["kind"] == "Interrupted"
    assert "cleaned up" in stderr
    assert "the same command resumes" in stderr


def test_whoever_is_killed_outright_takes_the_work_along() -> None:
    with working("wait()") as process:
        worker = child(process)
        process.kill()
        assert psutil.wait_procs([worker], timeout=15)[1] == []


def test_work_that_is_stopped_goes_on() -> None:
    with working("wait()") as process:
        worker = child(process)
        process.send_signal(signal.SIGTSTP)
        os.waitpid(process.pid, os.WUNTRACED)
        while worker.status() != psutil.STATUS_STOPPED:  # or the test hangs
            time.sleep(0.01)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("work", "status", "kind", "sentence"),
    [
        ("fail(ConfigError('There is none.'))", 1, "ConfigError", "There is none."),
        ("fail(click.UsageError('Say one.'))", 2, "UsageError", "Say one."),
        ("fail(KeyError('x'))", 1, "KeyError", "This is a fault of batch-assets: KeyError('x')"),
    ],
)
def test_what_the_work_raises_is_the_sentence(work: str, status: int, kind: str, sentence: str) -> None:
    found = done(work, "--json")
    assert (found.returncode, json.loads(found.stdout)) == (status, {"error": sentence, "kind": kind})
    assert f"Error: {sentence}" in found.stderr
    assert ("Traceback" in found.stderr) == (kind == "KeyError")


def test_it_reads_nothing_from_the_terminal() -> None:
    with working("wait() if False else print('at work', file=sys.stderr, flush=True) or sys.stdin.read()", "--json") as process:
        assert json.loads(process.communicate("typed", timeout=60)[0]) == {"done": ""}
