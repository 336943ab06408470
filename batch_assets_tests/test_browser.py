"""A green and a red night in Dagster's UI, in a real browser: what a person sees who opens a check.

Needs a Chromium (Debian: `apt-get install chromium`); without one these tests are skipped. Pictures of the pages are kept in
the folder that BATCH_ASSETS_SCREENSHOTS names, if it does.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from batch_assets.config import FeatureSettings
from batch_assets.demo import train as training
from batch_assets.features.sql_source import SqlSource
from batch_assets.orchestration.catalog import pipeline
from batch_assets.pipeline.freeze import freeze
from batch_assets.storage import LocalStorage
from batch_assets_tests.conftest import Command
from batch_assets_tests.open_ui import open_ui
from batch_assets_tests.small import Quiet

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAME = training.PIPELINE
GREEN, RED = "1998-06-29", "1998-06-30"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; apt-get install chromium")


@pytest.fixture
def nights(command: Command, tmp_path: Path) -> Command:
    """Two good nights, and one on which dollars have become cents: it is blocked."""
    done = command.run("run", NAME, "--from", "1998-06-28", "--to", GREEN, "--engine", "local")
    assert done.returncode == 0, done.stderr
    freeze_in_cents(command.root, tmp_path)
    done = command.run("run", NAME, "--partition", RED, "--engine", "local")
    assert done.returncode == 1
    assert "changes: amount is about 100 times" in done.stderr.replace("the check ", "")
    return command


def freeze_in_cents(root: Path, folder: Path) -> None:
    """Freeze the red night's features from a source whose amounts are in cents."""
    config = pipeline(NAME)
    transactions = pq.read_table(config.features.source.tables["transactions"])
    cents = pa.array(transactions["amount"].to_numpy() * np.float32(100))
    place = transactions.schema.get_field_index("amount")
    pq.write_table(transactions.set_column(place, "amount", cents), folder / "transactions.parquet")
    source = SqlSource(
        kind="sql", query=config.features.source.query, tables={"transactions": str(folder / "transactions.parquet")}
    )
    features = FeatureSettings(source=source, contract=config.features.contract)
    freeze(config.model_copy(update={"features": features}), LocalStorage(str(root)), RED, Quiet())


class Ui:
    """A browser on a UI."""

    def __init__(self, browser: Browser, port: int, folder: Path) -> None:
        self._browser, self._port, self._folder = browser, port, folder

    def check(self, asset: str, check: str, theme: str) -> Page:
        """The page of a check."""
        page = self._browser.new_context(viewport={"width": 1500, "height": 1000}).new_page()
        page.add_init_script(f"localStorage.setItem('theme', JSON.stringify('{theme}'))")
        page.goto(f"http://127.0.0.1:{self._port}/assets/{NAME}/{asset}?view=checks&checkDetail={check}")
        return page

    def keep(self, page: Page, name: str) -> None:
        """Keep a picture of a page."""
        page.screenshot(path=self._folder / f"{name}.png")


@pytest.fixture
def ui(nights: Command, tmp_path: Path) -> Iterator[Ui]:
    folder = Path(os.environ.get("BATCH_ASSETS_SCREENSHOTS") or tmp_path)
    with ExitStack() as stack:
        port = stack.enter_context(open_ui(nights, tmp_path / "ui.log"))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        stack.callback(browser.close)
        yield Ui(browser, port, folder)


def test_a_green_and_a_red_night(ui: Ui) -> None:
    for theme in ("light", "dark"):
        _the_red_night_names_its_cause(ui, theme)
        _the_green_night_shows_what_it_was_compared_with(ui, theme)


def _the_red_night_names_its_cause(ui: Ui, theme: str) -> None:
    page = ui.check("user_features", "changes", theme)
    for name in ("contract", "expectations", "changes", "feature_drift"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=60_000)
    page.get_by_text("Failed").first.wait_for(timeout=60_000)
    ui.keep(page, f"red-{theme}")


def _the_green_night_shows_what_it_was_compared_with(ui: Ui, theme: str) -> None:
    page = ui.check("predictions", "drift", theme)
    for name in ("complete", "one_model", "audit", "scores", "drift", "ranks", "previous_model", "baseline"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=60_000)
    ui.keep(page, f"green-{theme}")
