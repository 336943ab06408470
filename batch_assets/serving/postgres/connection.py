"""Connections to PostgreSQL: how they are opened, how threads share them, and what their errors mean to people."""

import os
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, LifoQueue
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import make_conninfo
from typing_extensions import override

from batch_assets.errors import ReleaseBroken, StoreUnavailable

Answer = TypeVar("Answer")
Idle = LifoQueue[psycopg.Connection[Any] | None]

_OURS = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "default_transaction_isolation": "read committed",
    "synchronous_commit": "on",
}
"""What roles may have otherwise, for people: a release takes as long as it takes, and is durable then."""


class _Deadline(psycopg.Connection[Any]):
    """A connection that does not wait for ever, even if the server stands still."""

    seconds = float("inf")

    @override
    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        return super().wait(_until(time.monotonic() + self.seconds, gen), *args, **kwargs)


def connect(said: Mapping[str, Any], seconds: float, *, patient: bool) -> psycopg.Connection[Any]:
    """A connection on which each statement is a transaction of its own, unless one is begun.

    Args:
        said: what libpq is told; the rest it takes from its environment.
        seconds: until the server must have let it in.
        patient: whether a statement may take as long as it needs; else it ends after as many seconds, too.

    Raises:
        psycopg.Error: the server does not answer, or does not let it in.
    """
    often = max(1, int(seconds / 3))
    alive = {"keepalives_idle": often, "keepalives_interval": often, "keepalives_count": 3, "connect_timeout": int(seconds + 1)}
    whole: dict[str, Any] = {"application_name": "batch-assets", "client_encoding": "utf8", **alive, **said}
    connection = _Deadline.connect(make_conninfo(**whole), autocommit=True, cursor_factory=psycopg.RawCursor)
    if patient:
        settings = "unnest($1::text[], $2::text[]) AS wanted (name, value) JOIN pg_settings USING (name)"
        weaker = "(name <> 'synchronous_commit' OR setting = 'off')"
        query = f"SELECT set_config(name, value, false) FROM {settings} WHERE {weaker}"
        connection.execute(query, [list(_OURS), list(_OURS.values())])
    else:
        connection.execute("SELECT set_config('statement_timeout', $1, false)", [f"{int(seconds * 1000)}ms"])
        connection.seconds = seconds + 1  # the server's own answer, that it took too long, comes first
    return connection


class Connections:
    """A few connections that threads share, each opened when it is first needed; others wait their turn.

    They are closed when nobody refers to them any more. A process that was forked opens its own.
    """

    def __init__(self, opened: Callable[[], psycopg.Connection[Any]], where: str, count: int) -> None:
        self._opened, self._where, self._count = opened, where, count
        self._begin()

    def ask(self, question: Callable[[psycopg.Connection[Any]], Answer], about: str) -> Answer:
        """What a question finds out; it is asked again where the server has ended a connection that was idle.

        Raises:
            ReleaseBroken: what it is about is not there.
            StoreUnavailable: the server does not answer.
        """
        if self._pid != os.getpid():
            self._begin()
        idle = self._idle
        with explained(self._where, about):
            while True:
                connection = idle.get()
                is_new = connection is None
                try:
                    connection = connection or self._opened()
                    return question(connection)
                except psycopg.OperationalError:
                    if is_new or connection is None or not connection.closed:
                        raise
                finally:
                    idle.put(_reusable(connection))

    def _begin(self) -> None:
        self._idle, self._pid = Idle(), os.getpid()
        for _ in range(self._count):
            self._idle.put(None)
        weakref.finalize(self, _close, self._idle, self._pid)


def _reusable(connection: psycopg.Connection[Any] | None) -> psycopg.Connection[Any] | None:
    """The connection, unless it is closed or in the middle of something; then it is closed."""
    if connection is None or connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
        return connection
    connection.close()
    return None


def _close(idle: Idle, pid: int) -> None:
    """Close what is idle, but not what is another process's."""
    with suppress(Empty):
        while pid == os.getpid():
            connection = idle.get_nowait()
            if connection is not None:
                connection.close()


def _until(deadline: float, answer: Generator[Any, Any, Answer]) -> Generator[Any, Any, Answer]:
    """What psycopg waits for; it looks at the clock whenever nothing has come for a while. Raises OperationalError."""
    try:
        wanted = next(answer)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise psycopg.OperationalError("it stands still")
            wanted = answer.send(ready)
    except StopIteration as end:
        found: Answer = end.value
        return found


@contextmanager
def explained(where: str, about: str) -> Iterator[None]:
    """Errors of PostgreSQL as ours.

    Args:
        where: the server and its database, for messages.
        about: what is read or written, as it is called in the middle of a sentence.

    Raises:
        ReleaseBroken: what it is about is not there, or cannot be as it is said.
        StoreUnavailable: the server does not answer, cannot take more or does not allow it.
    """
    try:
        yield
    except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
        raise ReleaseBroken(f"{where} has lost {about} ({_said(error)}): publish the partition again.") from error
    except errors.InsufficientPrivilege as error:
        raise StoreUnavailable(f"{where} does not allow it ({_said(error)}): grant it to the role.") from error
    except (errors.DiskFull, errors.OutOfMemory) as error:
        raise StoreUnavailable(
            f"{where} has no room for {about} ({_said(error)}): make some, or keep fewer releases."
        ) from error
    except errors.LockNotAvailable as error:
        raise StoreUnavailable(f"{where} cannot change {about} while a long transaction reads it: end that.") from error
    except errors.DependentObjectsStillExist as error:
        raise StoreUnavailable(f"{where} cannot change {about} ({_said(error)}): remove them.") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise StoreUnavailable(f"{where} does not answer ({_said(error)}): see whether it runs and lets us in.") from error
    except psycopg.Error as error:
        raise ReleaseBroken(f"{where} refuses {about} ({_said(error)}).") from error


def _said(error: psycopg.Error) -> str:
    """What the server said, or libpq, in one line."""
    lines = str(error.diag.message_primary or error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
