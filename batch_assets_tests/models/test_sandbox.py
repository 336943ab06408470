"""Whatever a file does to the process that opens it, the one who asked gets one sentence."""

import ctypes
import os
import time
from collections.abc import Callable

import pytest

from batch_assets.errors import ModelError, ModelMisfit, UnsafeModel
from batch_assets.models.sandbox import Limits, Sandbox
from batch_assets_tests.small import sandbox

pytestmark = pytest.mark.process


def crash() -> None:
    ctypes.string_at(1)


def leave() -> None:
    os._exit(3)


def wait() -> None:
    while True:
        time.sleep(1)


def compute() -> None:
    while True:
        pass


def fill() -> int:
    held = []
    while True:
        held.append(bytes(1 << 28))


def torch_fill() -> None:
    import torch

    torch.zeros(100 << 30, dtype=torch.uint8)


def stumble() -> None:
    raise KeyError("no such\nthing")


def refuse() -> None:
    raise ModelMisfit("it does not fit.")


def talk() -> str:
    os.write(1, b"noise")
    os.write(2, b"noise")
    return "x" * 100_000


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (crash, "m ended the process that opened it .SIGSEGV.: it is damaged, or made to do so; export it again."),
        (leave, "m ended the process that opened it .exit status 3."),
        (wait, "m takes more than 1 s to be opened and tried"),
        (compute, "m takes more than 1 s to be opened and tried"),
        (fill, "m takes more memory to be opened and tried than there is for it"),
        (torch_fill, "m takes more memory to be opened and tried than there is for it"),
        (stumble, "m cannot be opened and run .KeyError: "),
    ],
)
def test_what_happens_there_is_a_sentence_here(act: Callable[[], object], sentence: str) -> None:
    limits = Limits(seconds=1 if act in (wait, compute) else 60, memory=1 << 30)
    with pytest.raises(UnsafeModel, match=sentence) as caught:
        sandbox().call("m", act, limits=limits)
    assert "\n" not in str(caught.value)


def test_a_domain_error_is_itself_and_the_next_call_is_answered() -> None:
    with pytest.raises(ModelMisfit, match=r"^it does not fit\.$"):
        sandbox().call("m", refuse)
    assert sandbox().call("m", talk) == "x" * 100_000


def test_without_a_process_nothing_was_vetted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(ModelError, match="m was not vetted: the process that opens models did not start or has ended"):
        Sandbox().call("m", talk)


def test_it_ends_with_the_one_who_asks() -> None:
    with Sandbox() as one:
        assert one.call("m", os.getppid) != os.getpid()
        process = one._process
        assert process is not None
    assert process.poll() == 0
