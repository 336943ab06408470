"""The services of the compose file as processes on this machine, with the commands and the health checks that it gives them."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from batch_assets_tests.conftest import PROJECT, Command
from batch_assets_tests.dg_project import DgProject
from batch_assets_tests.open_ui import Ui, until
from batch_assets_tests.small import Small

DEPLOY = PROJECT / "deploy"

pytestmark = pytest.mark.night


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Composed:
    """A Dagster home and a workspace as the image and the compose file have them, on ports that are free here."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
        self.folder, self.environment = folder, environment | {"DAGSTER_HOME": str(folder / "home")}
        self.ports = {"4000": str(free_port()), "3000": str(free_port())}
        (folder / "home").mkdir()
        shutil.copy(DEPLOY / "dagster.yaml", folder / "home")
        said = (DEPLOY / "workspace.yaml").read_text()
        (folder / "workspace.yaml").write_text(
            said.replace("host: code", "host: 127.0.0.1").replace("4000", self.ports["4000"])
        )

    def here(self, command: list[str]) -> list[str]:
        """A command of a container as one of this machine."""
        found = " ".join(command).replace("/opt/dagster", str(self.folder)).replace("0.0.0.0", "127.0.0.1")
        for port, own in self.ports.items():
            found = found.replace(port, own)
        program, *arguments = found.split(" ", len(command) - 1)
        return [str(Path(sys.executable).parent / program), *arguments]

    @contextmanager
    def up(self, service: str) -> Iterator[None]:
        """A service that is healthy, for the time of the block."""
        with (self.folder / f"{service}.log").open("w") as log:
            process = subprocess.Popen(
                self.here(self.services[service]["command"]), env=self.environment, cwd=self.folder, stdout=log, stderr=log
            )
            try:
                until(lambda: self.healthy(service) or process.poll() is not None, f"the health of {service}")
                assert process.poll() is None, (self.folder / f"{service}.log").read_text()
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)

    def healthy(self, service: str) -> bool:
        _, *command = self.services[service]["healthcheck"]["test"]
        done = subprocess.run(self.here(command), env=self.environment, cwd=self.folder, capture_output=True, check=False)
        return done.returncode == 0


@pytest.fixture
def composed(tmp_path: Path, small: Small, database: dict[str, str]) -> Composed:
    project = DgProject(tmp_path / "theirs")
    (project.defs / "small").mkdir()
    said = small.config.model_dump(mode="json", exclude_unset=True) | {"engine": {"kind": "local"}}
    document = {"type": "batch_assets.ScoringPipeline", "attributes": said}
    (project.defs / "small" / "defs.yaml").write_text(json.dumps(document))
    environment = project.environment | {"BATCH_ASSETS_PROJECT": str(project.root), "BATCH_ASSETS_ROOT": small.storage.root}
    return Composed(tmp_path, environment | database)


def test_a_run_goes_through_queue_code_location_and_database(composed: Composed) -> None:
    assert not composed.healthy("code")
    with ExitStack() as stack:
        for service in ("code", "webserver", "daemon"):
            stack.enter_context(composed.up(service))
        ui = Ui(Command(Path(composed.environment["BATCH_ASSETS_ROOT"]), composed.folder / "home"), int(composed.ports["3000"]))
        run_id = ui.launched("small", "2024-03-10")
        until(lambda: ui.client.get_run_status(run_id).value in ("SUCCESS", "FAILURE"), "the end of the run")
        assert ui.client.get_run_status(run_id).value == "SUCCESS"
    assert not list((composed.folder / "home").rglob("*.db"))
