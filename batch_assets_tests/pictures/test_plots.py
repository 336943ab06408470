"""SVG that a browser shows as an image: what stands in it is what was found, and nothing in it covers the page."""

from xml.etree import ElementTree

import numpy as np
import pytest

from batch_assets.histogram import Histogram
from batch_assets.pictures.plots import plot_scores, plot_shares, plot_work
from batch_assets.pictures.svg import ticks
from batch_assets.quality.outcome import Shares

EDGES = tuple(np.linspace(0.01, 0.99, 99).tolist())


def scores(low: float, high: float) -> Histogram:
    return Histogram.of(np.random.default_rng(0).uniform(low, high, 20_000), EDGES)


def elements(svg: bytes, kind: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(svg).findall(f"{{http://www.w3.org/2000/svg}}{kind}")


def test_bars_are_as_high_as_the_shares() -> None:
    expected, observed = (0.5, 0.25, 0.25), (0.0, 0.25, 0.75)
    shares = Shares(title="<x> & y", groups=("< 1", "≥ 1", "≥ 20"), expected=expected, observed=observed)
    bars = elements(plot_shares(shares), "rect")[2:]  # two are the legend's
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert [height / heights[0] / 2 for height in heights] == pytest.approx([0.5, 0.0, 0.25, 0.25, 0.25, 0.75], abs=0.001)
    bottoms = {float(bar.attrib["y"]) + float(bar.attrib["height"]) for bar in bars}
    assert max(bottoms) - min(bottoms) < 0.02
    words = [element.text for element in elements(plot_shares(shares), "text")]
    assert {"<x> & y", "expected", "observed", "< 1", "≥ 1", "≥ 20", "0.2", "0.6"} <= set(words)


def test_scores_are_an_area_and_a_line_of_the_whole_width() -> None:
    svg = plot_scores(scores(0.0, 0.5), scores(0.1, 1.0), "today")
    (area,) = elements(svg, "polygon")
    (line,) = (one for one in elements(svg, "polyline") if one.attrib["stroke-width"] == "1.8")
    width = float(ElementTree.fromstring(svg).attrib["width"])
    for outline in (area, line):
        places = [float(point.partition(",")[0]) for point in outline.attrib["points"].split()]
        assert min(places) < 0.1 * width
        assert max(places) > 0.9 * width


def test_time_is_a_bar_a_stage() -> None:
    svg = plot_work({"read": 1.0, "write": 3.0, "wait": 0.0}, ["read", "wait", "write"])
    read, write = (float(bar.attrib["width"]) for bar in elements(svg, "rect"))
    assert write == pytest.approx(3 * read, abs=0.05)
    assert "75.0%, 3.0 s" in [element.text for element in elements(svg, "text")]


@pytest.mark.parametrize("highest", [0.0, 1e-9, 0.04, 0.33, 1.0, 7.7, 12_345.0])
def test_ticks_are_few_and_round(highest: float) -> None:
    found = ticks(highest)
    assert found[0] == 0
    assert found[-1] <= highest * (1 + 1e-9)
    assert len(found) <= 5
    assert len(found) >= 3 or not highest
