"""`make wheel-test`: the whole walk in a real environment, from the package index; it takes a quarter of an hour."""

import tempfile
import time
from pathlib import Path

from batch_assets_tests.wheel.environments import RealEnvironment, built_wheel
from batch_assets_tests.wheel.walk import whole


def main() -> None:
    """Build, install, walk."""
    began = time.monotonic()

    def say(sentence: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {sentence}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = built_wheel(folder)
        say(f"built {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")
        environment = RealEnvironment(folder / "environment", wheel)
        say(f"installed it, without any extra: {environment.size()}")
        whole(environment, folder, say, environment.size)
        say("done")


if __name__ == "__main__":
    main()
