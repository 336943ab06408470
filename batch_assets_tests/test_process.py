"""Since when a process runs."""

import subprocess
import sys
import time

import pytest

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
