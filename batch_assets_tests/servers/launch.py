"""Become a server that ends when its owner ends: `python launch.py OWNER USER PROGRAM ARGUMENT…`.

OWNER is the process that starts it, by number, and USER whom the program runs as, "" for the same. The order matters: Linux
forgets what a process wants to hear of its parent when the process becomes another user, and remembers it over an exec.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(owner: int, user: str, command: list[str]) -> None:
    if user:
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == owner:  # otherwise it has ended already
        os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
