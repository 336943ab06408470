"""Since when a process runs, and how much memory it has and may have."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from batch_assets.process import memory_there

MIDDLE = """
import subprocess, sys
said = subprocess.run([sys.executable, "-c", "from batch_assets.process import parent_seconds as s; print(s(), s())"],
                      capture_output=True, text=True, check=True)
print(said.stdout)
"""


@pytest.mark.process
def test_a_parent_has_run_for_as_long_as_it_was_there() -> None:
    """Between nothing and what passes around it; it goes on. A hundredth is what the system counts in."""
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", MIDDLE], capture_output=True, text=True, check=True)
    around = time.monotonic() - before
    first, second = map(float, done.stdout.split())
    assert 0 < first <= second <= around + 0.01


HELD = """
import mmap
import sys
import time
from batch_assets.process import MemoryWatch
with MemoryWatch() as first:
    before = first.peak
    until = time.monotonic() + 60
    while first.peak < before + (60 << 20) and time.monotonic() < until:
        held = bytearray(b"x") * (64 << 20)
        time.sleep(0.02)  # it is looked at by a thread
        del held
with MemoryWatch() as second:
    with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        read = sum(mapped[at] for at in range(0, len(mapped), 4096))
        of_a_file = second.peak
print(before, first.peak, second.peak, of_a_file)
"""


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell whose pages are whose")
def test_the_most_memory_of_a_block_is_what_was_held_in_it_but_for_mapped_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (64 << 20))
    command = [sys.executable, "-c", HELD, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, first, second, of_a_file = map(int, done.stdout.split())
    assert first >= before + (60 << 20)
    assert max(second, of_a_file) <= before + (10 << 20)


@pytest.mark.parametrize(("said", "there"), [("1048576\n", 1 << 20), ("max\n", None), (None, None), (f"{1 << 60}\n", None)])
def test_a_container_has_no_more_memory_than_its_limit(tmp_path: Path, said: str | None, there: int | None) -> None:
    if said is not None:
        (tmp_path / "memory.max").write_text(said)
    assert memory_there(tmp_path) == (there or psutil.virtual_memory().total)
