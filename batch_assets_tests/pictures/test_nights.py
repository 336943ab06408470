"""One night by worker, and the lengths of many; readable on a light and on a dark page."""

from xml.etree import ElementTree

import pytest

from batch_assets.pictures.nights import Row, plot_played
from batch_assets_tests.pictures.test_plots import elements

LEGEND = 4
BEFORE_AND_AFTER = 2
ROWS: list[Row] = [
    (0, 10.0, 20.0, "scored"),
    (0, 20.0, 30.0, "scored"),
    (1, 10.0, 15.0, "lost"),
    (1, 15.0, 25.0, "away"),
    (1, 25.0, 30.0, "scored"),
]


def bars(picture: bytes) -> list[dict[str, str]]:
    return [one.attrib for one in elements(picture, "rect")][LEGEND:]


def words(picture: bytes) -> list[str]:
    return [one.text or "" for one in elements(picture, "text")]


def test_what_a_worker_does_without_a_break_is_one_bar() -> None:
    night = bars(plot_played("a & <b>", ROWS, 40.0, [40.0], None))[BEFORE_AND_AFTER:]
    assert len(night) == 4 + 1, "and one night of all"
    assert float(night[0]["width"]) == pytest.approx(4 * float(night[1]["width"]), rel=0.01)
    assert len({one["fill"] for one in night[1:4]}) == 3


def test_before_and_after_have_their_place() -> None:
    before, after = bars(plot_played("", ROWS, 40.0, [40.0], None))[:BEFORE_AND_AFTER]
    assert float(before["width"]) == pytest.approx(float(after["width"]), rel=0.01)
    assert float(before["x"]) < float(after["x"])


def test_the_deadline_says_how_many_nights_held_it() -> None:
    assert "deadline, held by 75.0%" in words(plot_played("", ROWS, 40.0, [10.0, 20.0, 30.0, 99.0], 40.0))


def test_the_unit_is_one_that_people_read() -> None:
    assert any(text.endswith("length, min") for text in words(plot_played("", ROWS, 40.0, [40.0], None)))
    assert any(text.endswith("length, h") for text in words(plot_played("", ROWS, 40.0, [40.0], 7_200.0)))


def test_hundreds_of_workers_fit() -> None:
    rows: list[Row] = [(worker, 0.0, 10.0, "scored") for worker in range(500)]
    assert int(ElementTree.fromstring(plot_played("", rows, 10.0, [10.0], None)).attrib["height"]) < 500
