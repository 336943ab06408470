"""A green and a red night in Dagster's UI, in a real browser: what a person sees who opens a check.

Needs a Chromium (Debian: `apt-get install chromium`); without one these tests are skipped. Pictures of the pages are kept in
the folder that BATCH_ASSETS_SCREENSHOTS names, if it does.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from batch_assets.demo import train as training
from batch_assets_tests.cents import WEEK, freeze_in_cents, good_days
from batch_assets_tests.conftest import Command
from batch_assets_tests.open_ui import open_ui

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAME = training.PIPELINE
GREEN, RED = "1998-06-29", "1998-06-30"

SHOWN = ("This is a blocking asset check", "severity", "threshold", "observed")
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; apt-get install chromium"),
]


class Ui:
    """A browser on a UI, and the command line beside it."""

    def __init__(self, command: Command, browser: Browser, port: int, folder: Path) -> None:
        self.command, self._browser, self._port, self._folder = command, browser, port, folder

    def check(self, asset: str, check: str, theme: Theme) -> Page:
        """The page of a check."""
        page = self._browser.new_context(viewport={"width": 1500, "height": 1000}, color_scheme=theme).new_page()
        page.add_init_script(f"localStorage.setItem('theme', JSON.stringify('{theme}'))")
        page.goto(f"http://127.0.0.1:{self._port}/assets/{NAME}/{asset}?view=checks&checkDetail={check}")
        expect(page.get_by_text("Latest execution")).to_be_visible(timeout=60_000)
        return page

    def keep(self, page: Page, name: str) -> None:
        """Keep a picture of a page."""
        page.screenshot(path=self._folder / f"{name}.png", animations="disabled")


@pytest.fixture
def ui(command: Command, tmp_path: Path) -> Iterator[Ui]:
    """A week of good nights."""
    good_days(command.root, WEEK[:-1])
    done = command.run("run", NAME, "--partition", GREEN, "--engine", "local")
    assert done.returncode == 0, done.stderr
    folder = Path(os.environ.get("BATCH_ASSETS_SCREENSHOTS") or tmp_path)
    with ExitStack() as stack:
        port = stack.enter_context(open_ui(command, tmp_path / "ui.log"))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        stack.callback(browser.close)
        yield Ui(command, browser, port, folder)


@pytest.mark.long
def test_a_green_and_a_red_night(ui: Ui, tmp_path: Path) -> None:
    for theme in THEMES:
        _a_green_night_shows_what_it_was_compared_with(ui, theme)
    freeze_in_cents(ui.command.root, RED, tmp_path)
    done = ui.command.run("run", NAME, "--partition", RED, "--engine", "local")
    assert done.returncode == 1
    assert "the check changes: amount is about 100 times" in done.stderr
    for theme in THEMES:
        _a_red_night_names_its_cause(ui, theme)


def _a_green_night_shows_what_it_was_compared_with(ui: Ui, theme: Theme) -> None:
    page = ui.check("predictions", "drift", theme)
    for name in ("complete", "dead_letters", "one_model", "audit", "scores", "drift", "ranks", "previous_model", "baseline"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    for text in (
        "This is a blocking asset check",
        "Passed",
        GREEN,
        "severity",
        "threshold",
        "warns at PSI 0.1",
        "against 1998-06-",
    ):
        expect(page.get_by_text(text).first).to_be_visible()
    ui.keep(page, f"green-{theme}")
    _the_picture_is_shown(ui, page, f"green-picture-{theme}")


def _a_red_night_names_its_cause(ui: Ui, theme: Theme) -> None:
    page = ui.check("user_features", "changes", theme)
    for text in (
        "This is a blocking asset check",
        "Failed",
        RED,
        "severity",
        "threshold",
        "amount is about 100 times what it was on",
    ):
        expect(page.get_by_text(text).first).to_be_visible()
    for name in ("contract", "sources", "expectations", "changes", "feature_drift"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    expect(page.get_by_text("Succeeded").first).to_be_visible()  # the contract holds
    ui.keep(page, f"red-{theme}")
    page = ui.check("user_features", "feature_drift", theme)
    expect(page.get_by_text("amount is PSI").first).to_be_visible()
    _the_picture_is_shown(ui, page, f"red-picture-{theme}")


def _the_picture_is_shown(ui: Ui, page: Page, name: str) -> None:
    """Expected and observed, drawn: the browser has decoded it."""
    page.locator("tr", has_text="expected_and_observed").get_by_text("[Show Markdown]").click()
    picture = page.get_by_role("dialog").locator("img").first
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 500
    ui.keep(page, name)
