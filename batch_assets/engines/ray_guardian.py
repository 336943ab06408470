"""Ends what a local Ray leaves behind when the process that started it is killed outright.

Ray's own daemons watch each other, but its agents first try for a minute to report the death to a server that died too. This
program is started beside them, by `ray_local`, with their numbers as arguments. It waits for the end of its standard input,
whose other end only the driver holds, and ends those of them that are still there. It needs nothing but Python: it starts in
a moment and costs nothing while it waits.
"""

import os
import signal
import sys
from contextlib import suppress


def identity(pid: int) -> str | None:
    """A process as an argument: its number and its start time, because numbers are used again; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # the name, which comes before, may hold blanks
    except OSError:
        return None
    return f"{pid}:{fields[19]}"


def main() -> None:
    """Wait for the driver's end, then end the processes that the arguments name."""
    while sys.stdin.buffer.read():
        pass
    for one in sys.argv[1:]:
        pid = int(one.partition(":")[0])
        if identity(pid) == one:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
