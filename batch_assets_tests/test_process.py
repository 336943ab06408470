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
from batch_assets.process import forget_peak_memory, peak_memory
before = peak_memory()
held = bytearray(b"x") * (64 << 20)
most = peak_memory()
del held
after = peak_memory()
forget_peak_memory()
print(before, most, after, peak_memory())
"""


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system cannot forget it")
def test_the_most_memory_is_what_a_process_held_since_it_was_forgotten() -> None:
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    before, most, after, again = map(int, done.stdout.split())
    assert min(most, after) >= before + (60 << 20)
    assert again <= after - (60 << 20)


@pytest.mark.parametrize(("said", "there"), [("1048576\n", 1 << 20), ("max\n", None), (None, None), (f"{1 << 60}\n", None)])
def test_a_container_has_no_more_memory_than_its_limit(tmp_path: Path, said: str | None, there: int | None) -> None:
    if said is not None:
        (tmp_path / "memory.max").write_text(said)
    assert memory_there(tmp_path) == (there or psutil.virtual_memory().total)
