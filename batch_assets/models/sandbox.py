"""A process apart, with limits of time and memory, in which a model file is opened before anybody trusts it.

A damaged or hostile file may end the process that reads it, run for ever, or ask for more memory than there is: whatever
happens there becomes one sentence here. The process imports what a runtime needs once and then forks for each file, so that a
second one does not pay for the import again. It is no jail, it has the rights of its user: what a file may hold at all, its
runtime decides.
"""

import importlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from batch_assets import errors
from batch_assets.errors import BatchAssetsError, ModelError, UnsafeModel
from batch_assets.models.recognition import in_short

_PRELOADED = ("psutil", "batch_assets.models.trial")
"""What is imported before the first fork, whatever is opened."""

_LONGEST_REPLY = 1 << 20
_LONGEST_MESSAGE = 2_000
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "bad allocation")


@dataclass(frozen=True)
class Limits:
    """What one file may take: `seconds`, and bytes of `memory` beyond eight times its own size."""

    seconds: float = 300.0
    memory: int = 8 << 30


LIMITS = Limits()


class Sandbox:
    """Calls functions in the process apart; as a context it keeps that process for several calls."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt is for the caller to handle
            )
        self._connection = ours
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._connection is not None and self._process is not None:
            self._connection.close()  # which ends it
            self._process.wait()
        self._process = self._connection = None

    def call(
        self,
        name: str,
        function: Callable[..., Any],
        *arguments: Any,
        limits: Limits = LIMITS,
        preloaded: Sequence[str] = (),
    ) -> Any:
        """What a function gives there, in plain JSON values.

        Args:
            name: what is opened, for messages.
            function: importable by its name.
            arguments: what it is called with; picklable.
            limits: what it may take.
            preloaded: modules that are imported before the fork, as far as they are there, and are kept for later calls.

        Raises:
            BatchAssetsError: the one that the function raised, with its class and message.
            UnsafeModel: the function raised anything else, its process was ended, or it went beyond the limits.
            ModelError: there is no such process.
        """
        if self._connection is None:
            with Sandbox() as started:
                return started.call(name, function, *arguments, limits=limits, preloaded=preloaded)
        try:
            self._connection.send((limits.seconds, limits.memory, list(preloaded)))
            self._connection.send_bytes(pickle.dumps((sys.path, pickle.dumps((function, arguments)))))
            reply = json.loads(self._connection.recv_bytes(_LONGEST_REPLY))
        except (EOFError, OSError) as error:
            raise ModelError(f"{name} was not vetted: the process that opens models did not start or has ended.") from error
        return _value_of(reply, name, limits)


def _value_of(reply: Mapping[str, Any], name: str, limits: Limits) -> Any:
    """What a function gave, or the error that its reply tells of. A reply is as little to be trusted as the file."""
    if "value" in reply:
        return reply["value"]
    if "error" in reply:
        kind = getattr(errors, str(reply["error"]), None)
        message = "".join(one for one in str(reply["message"]) if one.isprintable())[:_LONGEST_MESSAGE]
        raise (kind if isinstance(kind, type) and issubclass(kind, BatchAssetsError) else UnsafeModel)(message)
    if "raised" in reply:
        raise UnsafeModel(f"{name} cannot be opened and run ({in_short(str(reply['raised']))}): export it again.")
    ended = -int(reply.get("ended", 0))
    if "late" in reply or ended == signal.SIGXCPU:
        raise UnsafeModel(f"{name} takes more than {limits.seconds:g} s to be opened and tried: it may not be loaded.")
    if "memory" in reply or ended == signal.SIGKILL:
        raise UnsafeModel(f"{name} takes more memory to be opened and tried than there is for it: it may not be loaded.")
    how = signal.Signals(ended).name if ended in set(signal.Signals) else f"exit status {-ended}"
    raise UnsafeModel(f"{name} ended the process that opened it ({how}): it is damaged, or made to do so; export it again.")


def serve(connection: Connection) -> None:
    """Answer calls, each in a fork, until the caller has gone."""
    _preload(_PRELOADED)
    with suppress(EOFError):
        while True:
            seconds, memory, modules = connection.recv()
            request = connection.recv_bytes()
            _preload(modules)
            connection.send_bytes(_forked(request, float(seconds), int(memory) + 8 * len(request), connection))


def _preload(modules: Sequence[str]) -> None:
    """Import modules; what is not there, or has another name in the version that is, is imported after the fork."""
    for module in modules:
        with suppress(ImportError):
            importlib.import_module(module)


def _forked(request: bytes, seconds: float, memory: int, caller: Connection) -> bytes:
    """The reply of a fork to a request, or what became of it. Raises EOFError if nobody waits for it any more."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _work(request, writer, seconds, memory)
        finally:
            os._exit(1)
    os.close(writer)
    reply, deadline, late = b"", time.monotonic() + seconds, False
    try:
        while len(reply) < _LONGEST_REPLY:
            ready = wait([reader, caller], max(0.0, deadline - time.monotonic()))
            if caller in ready:
                raise EOFError
            late = not ready
            part = os.read(reader, 1 << 16) if ready else b""
            if not part:
                break
            reply += part
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # with whatever it may have started; if it has ended, nothing is left to kill
        _, status = os.waitpid(child, 0)
        os.close(reader)
    if late:
        return b'{"late": true}'
    return reply or json.dumps({"ended": os.waitstatus_to_exitcode(status)}).encode()


def _work(request: bytes, writer: int, seconds: float, memory: int) -> None:
    """Answer one request in this process and end it."""
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries print what they catch
    _limit(seconds, memory)
    with open(writer, "wb") as pipe:
        pipe.write(json.dumps(_reply(request)).encode())
    os._exit(0)


def _limit(seconds: float, memory: int) -> None:
    """Bound this process by processor time, and by the memory that it may take beyond what it has."""
    import psutil

    memory = min(memory, psutil.virtual_memory().available)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, most in ((resource.RLIMIT_AS, held + memory), (resource.RLIMIT_CPU, int(seconds) + 1), (resource.RLIMIT_CORE, 0)):
        allowed = resource.getrlimit(what)[1]
        most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(what, (most, most))


def _reply(request: bytes) -> dict[str, Any]:
    """What becomes of a request, as plain values."""
    try:
        sys.path[:], call = pickle.loads(request)  # noqa: S301 - our caller's own
        function, arguments = pickle.loads(call)  # noqa: S301
        return {"value": function(*arguments)}
    except MemoryError:
        return {"memory": True}
    except Exception as error:  # noqa: BLE001 - whatever a library raises is what is to be said of the file
        said = str(error)
        if any(phrase in said for phrase in _OUT_OF_MEMORY):
            return {"memory": True}
        if isinstance(error, BatchAssetsError):
            return {"error": type(error).__name__, "message": said}
        lines = said.strip().splitlines() or [""]
        return {"raised": f"{type(error).__name__}: {lines[-1] if 'Traceback' in said else lines[0]}"}


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
