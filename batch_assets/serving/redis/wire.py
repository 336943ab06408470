"""Many commands to Redis at once, written ahead of their answers: each to the node of a cluster that has its key."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from batch_assets.errors import StoreUnavailable

if TYPE_CHECKING:
    import redis

AHEAD = 1 << 20
"""Bytes of commands that are written before the answers to those before them are read."""

MOST_AHEAD = 1_000
"""And as many commands: answers may be longer than what asks for them."""


class Command(NamedTuple):
    """A command as it goes over the wire, in pieces, and its key."""

    key: str
    pieces: list[bytes | memoryview]


def command(name: str, key: str, *arguments: str) -> Command:
    """A command of few words."""
    return Command(key, [packed(name, key, *arguments)])


def packed(*words: str, more: int = 0) -> bytes:
    """The words of a command; `more` of them follow, which somebody else packs."""
    said = [word.encode() for word in words]
    return b"*%d\r\n" % (len(said) + more) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in said)


def answers(client: "redis.Redis", commands: Iterable[Command], where: str) -> Iterator[Any]:
    """The answers to commands, in their order.

    Raises:
        StoreUnavailable: the server does not answer, or refuses one; `where` it is, for the message.
    """
    with explained(where), ExitStack() as stack:
        lines = dict[str, Any]()
        asked = deque[Any]()
        for window in _windows(commands):
            ahead: dict[str, list[bytes | memoryview]] = {}
            now = deque[Any]()
            for one in window:
                node, pool = _node(client, one.key)
                if node not in lines:
                    lines[node] = stack.enter_context(_line(pool))
                ahead.setdefault(node, []).extend(one.pieces)
                now.append(lines[node])
            for node, pieces in ahead.items():
                lines[node].send_packed_command([b"".join(pieces)], check_health=False)
            while asked:
                yield asked.popleft().read_response()
            asked = now
        while asked:
            yield asked.popleft().read_response()


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Errors of the client and the server, as sentences."""
    import redis.exceptions as errors

    try:
        yield
    except errors.AuthenticationError as error:
        raise StoreUnavailable(f"{where} does not let this user in ({error}): look at `user` and `password`.") from error
    except errors.NoPermissionError as error:
        raise StoreUnavailable(f"{where} does not permit this to its user ({error}): give it the commands.") from error
    except errors.OutOfMemoryError as error:
        raise StoreUnavailable(f"{where} has no memory for another release: raise its maxmemory, or keep fewer.") from error
    except errors.ResponseError as error:
        raise StoreUnavailable(f"{where} refuses what it is told ({error}).") from error
    except (errors.RedisError, OSError) as error:
        raise StoreUnavailable(f"{where} does not answer ({error or type(error).__name__}): is it up?") from error


def _windows(commands: Iterable[Command]) -> Iterator[list[Command]]:
    window, size = list[Command](), 0
    for one in commands:
        window.append(one)
        size += sum(map(len, one.pieces))
        if size >= AHEAD or len(window) >= MOST_AHEAD:
            yield window
            window, size = [], 0
    if window:
        yield window


def _node(client: "redis.Redis", key: str) -> tuple[str, Any]:
    """Where a key lies: a name for it, and its connections."""
    find = getattr(client, "get_node_from_key", None)
    if find is None:
        return "", client.connection_pool
    node = find(key)
    return node.name, node.redis_connection.connection_pool


@contextmanager
def _line(pool: Any) -> Iterator[Any]:
    """A connection of one's own. One on which answers are left is closed: nobody else may read them."""
    line = pool.get_connection()
    done = False
    try:
        yield line
        done = True
    finally:
        if not done:
            line.disconnect()
        pool.release(line)
