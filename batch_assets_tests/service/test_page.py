"""The page for a person: the record, where it came from, what it was before; whole as it comes, also in a browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from batch_assets_tests.service.asking import InProcess, options, running
from batch_assets_tests.small import DAY, Small, rows

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.night


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory, model_bytes: bytes) -> Small:
    small = Small(tmp_path_factory.mktemp("published"), rows(2_000), model_bytes)
    small.night("2024-03-09")
    small.night(DAY)
    return small


@pytest.fixture
def asked(two_days: Small) -> Iterator[InProcess]:
    with InProcess(options(two_days)) as found:
        yield found


def test_the_page_of_a_key_shows_its_record_and_what_it_was_before(asked: InProcess) -> None:
    page = asked.get("/?key=42")
    record = asked.get("/v1/small/42").json()
    assert page.status_code == 200
    for value in (f"{record['record']['probability']:.6g}", DAY, "2024-03-09", *record["lineage"].values()):
        assert f">{value}<" in page.text


def test_the_page_runs_nothing_and_asks_nobody_else(asked: InProcess) -> None:
    page = asked.get('/?key=<script>alert(1)</script>&pipeline="><b>')
    assert page.status_code == 404
    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "//" not in page.text


def test_the_page_of_a_pipeline_without_a_release_says_so(small: Small) -> None:
    with InProcess(options(small)) as asked:
        assert "Nothing was published yet." in asked.get("/").text
        page = asked.get("/?key=1")
        assert (page.status_code, "Nothing of small has been published yet." in page.text) == (503, True)


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; apt-get install chromium")
def test_a_person_looks_a_key_up_in_a_browser(two_days: Small, tmp_path: Path) -> None:
    folder = Path(os.environ.get("BATCH_ASSETS_SCREENSHOTS") or tmp_path)
    with running(options(two_days), tmp_path) as service, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        complaints = list[str]()
        for theme in ("light", "dark"):
            page = browser.new_context(viewport={"width": 1000, "height": 1000}, color_scheme=theme).new_page()
            page.on("console", lambda said: complaints.append(said.text))
            page.goto(f"http://127.0.0.1:{service.port}/")
            page.get_by_label("user").fill("42")
            page.get_by_role("button", name="Look up").click()
            expect(page.get_by_role("heading", name="Where it came from")).to_be_visible()
            expect(page.get_by_role("cell", name=DAY, exact=True)).to_be_visible()
            expect(page.get_by_role("cell", name="2024-03-09", exact=True)).to_be_visible()
            page.screenshot(path=folder / f"lookup-{theme}.png")
        page.get_by_label("user").fill("999999")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("no prediction for key 999999")
        browser.close()
    assert [one for one in complaints if "404" not in one] == []
