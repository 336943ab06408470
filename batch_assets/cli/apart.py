"""Work in a process of its own, so that whoever prints survives what ends the work.

Ray ends a process whose cluster it has lost, without an exception, and the system one that takes too much memory. The process
that was started here forks before it loads anything heavy: the child works, the parent waits and prints. Neither outlives the
other: a parent that is killed takes the child along, and signals to the parent are handed on, each of them once.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from batch_assets.process import ending_with_parent

INTERRUPTED = 130
"""The exit status of a command that was interrupted."""

ENDED = "ProcessEnded"
"""The kind of an answer that the work could not give any more."""

_HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_WATCHED = (*_HANDED_ON, signal.SIGTSTP, signal.SIGCONT, signal.SIGCHLD)


@dataclass(frozen=True)
class Answer:
    """What came of the work: what was found, or the sentence that says why not, of which kind, and the exit status."""

    found: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    kind: str = ""
    status: int = 0


def apart(work: Callable[[], Answer], advice: str) -> Answer:
    """Do the work in a child of this process; where that is ended before it could answer, the answer says so, with advice.

    What the work finds must be JSON's. The child reads no standard input: it is in a process group of its own, so that Ctrl-C
    reaches it once, through the parent.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    note, ready = os.memfd_create("answer"), ending_with_parent(signal.SIGKILL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    child = os.fork()
    if child == 0:
        ready()
        _work(work, note, before)
    try:
        return _waited_for(child, note, advice)
    finally:
        os.close(note)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(work: Callable[[], Answer], note: int, mask: Iterable[int]) -> NoReturn:
    """The child's part. It ends without taking itself apart, which with the large libraries takes seconds."""
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it may write to the terminal all the same
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        answer = work()
    except Exception as error:
        _leave(note, Answer(error=f"This is a fault of batch-assets: {error!r}", kind=type(error).__name__, status=1))
        raise
    _leave(note, answer)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(answer.status)


def _leave(note: int, answer: Answer) -> None:
    with os.fdopen(note, "w") as file:
        json.dump(asdict(answer), file)


def _waited_for(child: int, note: int, advice: str) -> Answer:
    """The parent's part: hand signals on until the child has ended, then read what it left."""
    ended, handed_on = 0, set[int]()
    while not ended:
        number = signal.sigwaitinfo(_WATCHED).si_signo
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
        elif number == signal.SIGTSTP:
            os.killpg(child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number == signal.SIGCONT:
            os.killpg(child, signal.SIGCONT)
        else:
            handed_on.add(number)
            os.kill(child, number)
    written = os.pread(note, os.fstat(note).st_size, 0)
    if written:
        return Answer(**json.loads(written))
    code = os.waitstatus_to_exitcode(status)
    if -code in handed_on & {signal.SIGINT, signal.SIGTERM}:  # before it knew what to do then, or for the second time
        return Answer(error=f"Interrupted; {advice}", kind="Interrupted", status=INTERRUPTED)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    sentence = (
        f"The process at work (pid {child}) {how} before it could answer, as Ray ends one whose cluster it has lost, "
        f"and the system one that takes too much memory; {advice}"
    )
    return Answer(error=sentence, kind=ENDED, status=1)
