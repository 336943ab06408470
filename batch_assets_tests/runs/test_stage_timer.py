import threading
import time

import pytest

from batch_assets.runs.bottleneck import WorkTime
from batch_assets.runs.stage_timer import StageTimer


def test_every_moment_is_given_to_somebody() -> None:
    """Three threads in stages that overlap: the seconds add up to the timer's age, not to the stages' durations."""
    started = time.perf_counter()
    timer, clocks = StageTimer(), [dict[str, float]() for _ in range(3)]

    def work(clock: dict[str, float]) -> None:
        for name in ("read", "forward", "write"):
            with timer.stage(name, clock):
                deadline = time.perf_counter() + 0.02
                while time.perf_counter() < deadline:
                    pass

    threads = [threading.Thread(target=work, args=(clock,)) for clock in clocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = timer.seconds()
    age = time.perf_counter() - started
    assert sum(seconds.values()) <= age
    assert sum(seconds.values()) == pytest.approx(age, rel=0.05)
    assert sum(sum(clock.values()) for clock in clocks) >= 3 * 3 * 0.02


def test_a_stage_that_raises_ends() -> None:
    timer = StageTimer()
    with pytest.raises(ValueError, match="x"), timer.stage("read", {}):
        raise ValueError("x")
    assert timer._active == []


def test_a_part_that_was_measured_by_itself_is_taken_out_of_its_stage() -> None:
    timer, clock = StageTimer(), dict[str, float]()
    with timer.stage("forward", clock):
        time.sleep(0.01)
    before = timer.seconds()["forward"]
    timer.reassign("forward", "host-to-device", before / 2, clock)
    found = timer.seconds()
    assert found["forward"] == pytest.approx(before / 2)
    assert found["host-to-device"] == pytest.approx(before / 2)


def test_the_sentence_names_the_largest_stage() -> None:
    work = WorkTime(workers=2, wall_seconds=10.0, lifetimes=20.0, seconds={"read": 12.0, "forward": 6.0, "waiting": 1.8})
    assert work.sentence().startswith("61% of the workers' time is read. To be faster: put the snapshot on a faster disk")
    assert WorkTime(workers=0, wall_seconds=0.0, lifetimes=0.0, seconds={}).sentence() == "Nothing was scored now."
