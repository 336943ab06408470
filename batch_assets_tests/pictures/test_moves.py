"""Squares as large as the shares that moved, bars as long as counts; nothing in the picture covers the page."""

from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from batch_assets.pictures.moves import Bar, plot_moves
from batch_assets_tests.pictures.test_plots import elements

DAYS = ("2024-03-09", "2024-03-10")
LEGEND = 3


def drawn(deciles: Sequence[Sequence[int]] | None, **groups: list[Bar]) -> bytes:
    return plot_moves("<a> & b", DAYS, deciles, groups, 400)


def areas(rects: list[ElementTree.Element]) -> list[float]:
    return [float(one.attrib["width"]) * float(one.attrib["height"]) for one in rects]


def test_a_square_is_as_large_as_the_share_that_went_there() -> None:
    large, small, whole = areas(elements(drawn([[300, 100, 0], [0, 0, 0], [1, 0, 0]]), "rect")[LEGEND:])
    assert large / small == pytest.approx(3, rel=0.01)
    assert whole == pytest.approx(large + small, rel=0.01)


def test_up_is_above_and_down_is_below() -> None:
    same, up, down = elements(drawn([[1, 1], [1, 0]]), "rect")[LEGEND:]
    assert len({one.attrib["fill"] for one in (same, up, down)}) == 3
    assert float(up.attrib["y"]) < float(same.attrib["y"])
    assert float(down.attrib["x"]) > float(same.attrib["x"])
    assert float(down.attrib["y"]) == pytest.approx(float(same.attrib["y"]), abs=10)


def test_what_is_rare_can_be_seen() -> None:
    rare = elements(drawn([[10_000_000, 1], [0, 0]]), "rect")[-1]
    assert float(rare.attrib["width"]) >= 2


def test_bars_are_as_long_as_their_counts_in_all_groups() -> None:
    svg = drawn(None, score=[Bar("up", 100, 1), Bar("the same", 200)], keys=[Bar("gone", 50), Bar("new", 0)])
    assert [float(one.attrib["width"]) for one in elements(svg, "rect")] == pytest.approx([65, 130, 32.5, 0])
    words = [element.text for element in elements(svg, "text")]
    assert {"<a> & b", "score", "keys", "100, 25.0%", "50, 12.5%", "0", "new"} <= set(words)


def test_everything_is_within_the_picture() -> None:
    svg = drawn([[1] * 10] * 10, **{f"group{n}": [Bar("up", 12_345_678, 1)] * 7 for n in range(4)})
    height = float(ElementTree.fromstring(svg).attrib["height"])
    assert max(float(one.attrib["y"]) for one in elements(svg, "text")) < height
    assert not [one for one in elements(svg, "rect") if float(one.attrib["width"]) > 200]
