"""A relay before a server on this machine, in a process of its own: each answer comes as much later as a network would make it.

Only the time until an answer begins is made longer; bytes pass as fast as they come.
"""

import asyncio
import subprocess
import sys
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

_PIECE = 1 << 16


class Relay:
    """A context manager: forwards connections to a server, and lets what the server says wait.

    Args:
        url: of the server.
        round_trip_ms: how long it waits, in milliseconds.
    """

    def __init__(self, url: str, round_trip_ms: float) -> None:
        upstream = urlsplit(url)
        self._command = [sys.executable, __file__, str(upstream.hostname), str(upstream.port), str(round_trip_ms)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this script
        port = self._process.stdout.readline().strip() if self._process.stdout else ""
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


async def _forward(source: asyncio.StreamReader, target: asyncio.StreamWriter, seconds: float) -> None:
    """Hand on what comes, each piece so many seconds after it came."""
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    clock = asyncio.get_running_loop().time

    async def take() -> None:
        piece = b"?"
        while piece:
            piece = await source.read(_PIECE)
            pieces.put_nowait((clock() + seconds, piece))

    taking = asyncio.create_task(take())
    with suppress(ConnectionError):
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - clock())
            if not piece:
                break
            target.write(piece)
            await target.drain()
    taking.cancel()
    target.close()


async def _serve(host: str, port: int, seconds: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection(host, port)
        await asyncio.gather(_forward(reader, questions, 0), _forward(answers, writer, seconds))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000))
