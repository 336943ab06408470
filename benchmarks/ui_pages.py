"""How long Dagster's UI takes to draw its pages over years of nights: 20 pipelines, 3 years of days, their checks.

    python benchmarks/ui_pages.py [--pipelines 20] [--days 1096] [--rounds 3]

Dagster's records lie in a PostgreSQL of its own, which is filled as `ui_history.py` says. A webserver has the pipelines as its
code location, and a headless Chromium (Debian: `apt-get install chromium`) opens the pages: each from another page of the UI,
as a person does who clicks a link. A page is drawn when what it is about is visible and no question to the server is under way
any more. The first time counts by itself, as the server knows nothing of the partitions yet; the others are given as their
median. Beside it stand the processor time of webserver and PostgreSQL, which says more than the clock where others are at work,
and the question that took the longest. Nothing is compared with other systems.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import dagster as dg
import psutil
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from batch_assets.clock import utc_now
from batch_assets.config import PipelineConfig
from batch_assets_tests.dg_project import DgProject
from batch_assets_tests.servers import PostgresServer
from batch_assets_tests.servers.place import Place
from batch_assets_tests.small import Small, rows, small_model
from benchmarks.ui_history import fill, sizes

PROJECT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOCATION = "theirs"
QUIET_SECONDS = 1.0
"""No question may be under way for so long; it does not count."""


@dataclass(frozen=True)
class View:
    """A page: its path, and a text that is visible when it shows what it is about."""

    name: str
    path: str
    shows: str


@dataclass
class Seen:
    """A page that was drawn several times: seconds, those of the servers' processors, and the slowest question each time."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)


def views(day: str) -> list[View]:
    """The pages that somebody looks at in the morning."""
    job = f"/locations/__repository__@{LOCATION}/jobs/pipeline_00"
    asset = "/assets/pipeline_00/predictions"
    return [
        View("timeline of runs", "/overview/activity/timeline", "Timeline"),
        View("catalog of assets", "/assets", "pipeline_00"),
        View("lineage of all assets", "/asset-groups", "pipeline_00"),
        View(
            "lineage of a pipeline", f"/locations/__repository__@{LOCATION}/asset-groups/pipeline_00/lineage", "serving_table"
        ),
        View("asset: overview", f"{asset}?view=overview", "Latest materialization"),
        View("asset: partitions", f"{asset}?view=partitions", day),
        View("asset: one partition", f"{asset}?view=partitions&partition={day}", "rows_per_s"),
        View("asset: events", f"{asset}?view=events", day),
        View("asset: checks", f"{asset}?view=checks", "drift"),
        View("asset: history of a check", f"{asset}?view=checks&checkDetail=drift", "Latest execution"),
        View("runs", "/runs", "pipeline_"),
        View("runs of a pipeline", f"{job}/runs", "Success"),
        View("automation", "/automation", "pipeline_00_nightly"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", type=int, default=20)
    parser.add_argument("--days", type=int, default=1_096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="pages whose name has this in it")
    options = parser.parse_args()
    if CHROMIUM is None:
        raise SystemExit("There is no Chromium; apt-get install chromium.")
    yesterday = utc_now().date() - timedelta(days=1)
    days = [(yesterday - timedelta(days=n)).isoformat() for n in reversed(range(options.days))]
    with tempfile.TemporaryDirectory() as folder, PostgresServer({"shared_buffers": "512MB"}) as server:
        environment = _project(Path(folder), server, options.pipelines, days)
        found = sizes(server.url)
        print(
            f"{options.pipelines} pipelines, {options.days} days, {found['checks']} checks in all: {found['runs']:,} runs, "
            f"{found['event_logs']:,} events, {found['asset_check_executions']:,} evaluations, {found['bytes'] / 1e9:.1f} GB",
            flush=True,
        )
        wanted = [view for view in views(days[-1]) if options.only in view.name]
        print(f"{os.cpu_count()} processors; load when the pages begin: {os.getloadavg()[0]:.1f}")
        with _webserver(Path(folder), environment) as (url, webserver):
            _measure(url, [psutil.Process(webserver), server.processes()[0]], wanted, options.rounds)


def _measure(url: str, servers: list[psutil.Process], wanted: list[View], rounds: int) -> None:
    """Open the pages and print what they take."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        _drawn(browser, url, View("nothing", "/deployment/locations", LOCATION), Seen(), servers)  # reads the UI's own code
        print("\n| page | first (s) | then (s) | processors, then (s) | slowest question |\n|---|---|---|---|---|")
        for view in wanted:
            seen = Seen()
            for _ in range(1 + rounds):
                _drawn(browser, url, view, seen, servers)
            seconds, name = seen.slowest[-1]
            then, processor = statistics.median(seen.seconds[1:]), statistics.median(seen.processor[1:])
            line = f"| {view.name} | {seen.seconds[0]:.2f} | {then:.2f} | {processor:.2f} | {name} {seconds:.2f} s |"
            print(line, flush=True)


def _project(folder: Path, server: PostgresServer, count: int, days: list[str]) -> dict[str, str]:
    """A project of small pipelines, whose history is in the database; gives the environment of its webserver."""
    small = Small(folder, rows(2_000), small_model())
    home = folder / "home"
    home.mkdir()
    shutil.copy(PROJECT / "deploy" / "dagster.yaml", home)
    project, said = DgProject(folder / LOCATION), small.config.model_dump(mode="json", exclude_unset=True)
    configs = []
    for number in range(count):
        name = f"pipeline_{number:02}"
        own = said | {"name": name, "engine": {"kind": "local"}, "partitions": {"start": days[0]}}
        own["sla"] = {"published_by": "06:00"}
        configs.append(PipelineConfig.model_validate(own))
        (project.defs / name).mkdir()
        document = {"type": "batch_assets.ScoringPipeline", "attributes": own}
        (project.defs / name / "defs.yaml").write_text(json.dumps(document))
    environment = project.environment | {
        "DAGSTER_HOME": str(home),
        "DAGSTER_PG_HOST": "127.0.0.1",
        "DAGSTER_PG_PORT": str(server.port),
        "DAGSTER_PG_USERNAME": "postgres",
        "DAGSTER_PG_PASSWORD": "",
        "DAGSTER_PG_DB": "postgres",
        "BATCH_ASSETS_ROOT": small.storage.root,
        "BATCH_ASSETS_PROJECT": str(project.root),
    }
    os.environ.update({name: environment[name] for name in environment if name.startswith(("DAGSTER_", "BATCH_"))})
    with dg.DagsterInstance.get() as instance:
        fill(server.url, instance, configs, days, LOCATION)
    return environment


@contextmanager
def _webserver(folder: Path, environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Where the webserver answers, which has loaded the pipelines, and its process."""
    module = {"module_name": "batch_assets.definitions", "location_name": LOCATION}
    (folder / "workspace.yaml").write_text(json.dumps({"load_from": [{"python_module": module}]}))
    place = Place()
    program = [str(Path(sys.executable).parent / "dagster-webserver"), "--host", "127.0.0.1", "--port", str(place.port)]
    url = f"http://127.0.0.1:{place.port}"
    with (folder / "webserver.log").open("w") as log:
        process = subprocess.Popen(
            [*program, "--workspace", str(folder / "workspace.yaml")], env=environment, cwd=folder, stdout=log, stderr=log
        )
        try:
            while not _answers(url):
                if process.poll() is not None:
                    raise SystemExit((folder / "webserver.log").read_text())
                time.sleep(0.2)
            yield url, process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            place.leave()


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/server_info", timeout=5):
            return True
    except (URLError, OSError):
        return False


class _Questions:
    """The questions of a page to the server: those under way, and when the last one was answered."""

    def __init__(self, page: Page) -> None:
        self.waiting: dict[Request, float] = {}
        self.answered: list[tuple[float, str]] = []
        self.last = time.perf_counter()
        page.on("request", self._asked)
        page.on("requestfinished", self._done)
        page.on("requestfailed", self._done)

    def _asked(self, request: Request) -> None:
        if "/graphql" in request.url and request.method == "POST":
            self.waiting[request] = self.last = time.perf_counter()

    def _done(self, request: Request) -> None:
        asked = self.waiting.pop(request, None)
        if asked is not None:
            self.last = time.perf_counter()
            self.answered.append((self.last - asked, str((request.post_data_json or {}).get("operationName"))))


def _drawn(browser: Browser, url: str, view: View, seen: Seen, servers: list[psutil.Process]) -> None:
    """Open a page from another one of the UI, and measure until it is drawn."""
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    page = context.new_page()
    questions = _Questions(page)
    page.goto(f"{url}/deployment/locations")
    expect(page.get_by_text(LOCATION).first).to_be_visible(timeout=60_000)
    _quiet(page, questions)
    questions.answered.clear()
    used = _processor_seconds(servers)
    started = questions.last = time.perf_counter()
    page.evaluate("path => { history.pushState({}, '', path); dispatchEvent(new PopStateEvent('popstate')) }", view.path)
    expect(page.get_by_text(view.shows).first).to_be_visible(timeout=60_000)
    expect(page.get_by_text("fetching statuses")).to_have_count(0, timeout=60_000)
    visible = time.perf_counter()
    _quiet(page, questions)
    seen.seconds.append(max(visible, questions.last) - started)
    seen.processor.append(_processor_seconds(servers) - used)
    seen.slowest.append(max(questions.answered, default=(0.0, "none")))
    if shots := os.environ.get("BATCH_ASSETS_SCREENSHOTS"):
        page.screenshot(path=Path(shots) / f"{view.name.replace(' ', '-').replace(':', '')}.png")
    context.close()


def _processor_seconds(servers: list[psutil.Process]) -> float:
    """What servers and their children have used, also those children that have ended."""
    total = 0.0
    for server in servers:
        times = server.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
        for child in server.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                total += sum(child.cpu_times()[:2])
    return total


def _quiet(page: Page, questions: _Questions) -> None:
    while questions.waiting or time.perf_counter() - questions.last < QUIET_SECONDS:
        page.wait_for_timeout(50)


if __name__ == "__main__":
    main()
