"""Work on threads whose results come one after the other, and how many of them there are."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_assets.threads import cores, in_threads

CORES = cores()


def test_results_come_in_the_order_of_their_items() -> None:
    turns = [threading.Event() for _ in range(2)]

    def late(item: int) -> int:
        if item == 0 and CORES > 1:
            assert turns[1].wait(30), "the second one is under way meanwhile"
        turns[min(item, 1)].set()
        return -item

    assert list(in_threads(late, range(50))) == [-item for item in range(50)]
    assert list(in_threads(late, [])) == []


@pytest.mark.parametrize(("said", "ahead"), [((), CORES), ((1,), CORES), ((CORES + 5,), CORES + 5)])
def test_no_more_is_taken_ahead_than_is_said_or_one_for_each_core(said: tuple[int, ...], ahead: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1_000):
            taken.append(item)
            yield item

    results = in_threads(str, items(), *said)
    assert taken == []
    for asked in range(1, 20):
        assert next(results) == str(asked - 1)
        assert len(taken) == asked + ahead
    results.close()


def test_an_error_comes_where_its_result_would_be_and_ends_it() -> None:
    before = set(threading.enumerate())
    results = in_threads(lambda item: 1 // (3 - item), range(10))
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []
    assert set(threading.enumerate()) <= before


def test_an_error_of_who_gives_the_items_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(in_threads(str, items()))


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("6400000 100000", 8),
        ("", 8),
        (None, 8),
    ],
)
def test_a_container_has_the_cores_of_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, found: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    if said is not None:
        (tmp_path / "cpu.max").write_text(f"{said}\n")
    assert cores(tmp_path / "cpu.max") == found
