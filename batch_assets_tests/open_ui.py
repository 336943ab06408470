"""`batch-assets ui` as a process of its own, for as long as a test looks at it."""

import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster_graphql import DagsterGraphQLClient

from batch_assets_tests.conftest import Command


def until(condition: Callable[[], Any], what: str, seconds: float = 240.0) -> Any:
    """What the condition gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what} did not happen within {seconds} s")


class Ui:
    """A running UI, and the command line beside it."""

    def __init__(self, command: Command, port: int) -> None:
        self.command, self.port = command, port
        self.client = DagsterGraphQLClient("127.0.0.1", port_number=port)

    def ask(self, query: str, **variables: Any) -> Any:
        """What GraphQL answers."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def runs(self, **tags: str) -> list[dict[str, Any]]:
        """Runs with these tags, newest first; a tag's `__` is `/`."""
        query = """query($tags: [ExecutionTag!]!) { runsOrError(filter: {tags: $tags}) { ... on Runs { results {
          runId status tags { key value } } } } }"""
        wanted = [{"key": key.replace("__", "/"), "value": value} for key, value in tags.items()]
        found = self.ask(query, tags=wanted)["runsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def launched(self, job: str, day: str) -> str:
        """Launch a day of a pipeline; the run's id."""
        query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
        (repository,) = self.ask(query)["repositoriesOrError"]["nodes"]
        launch = """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
            __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
        where = {"repositoryName": repository["name"], "repositoryLocationName": repository["location"]["name"]}
        tags = [{"key": "dagster/partition", "value": day}]
        asked = {"selector": {**where, "jobName": job}, "executionMetadata": {"tags": tags}}
        return str(self.ask(launch, params=asked)["launchPipelineExecution"]["run"]["runId"])

    def materialized(self, asset: str) -> dict[str, Any]:
        """The texts in an asset's newest metadata, by their labels."""
        query = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
          assetMaterializations(limit: 1) { metadataEntries { label ... on TextMetadataEntry { text } } } } } }"""
        (newest,) = self.ask(query, key={"path": asset.split("/")})["assetNodeOrError"]["assetMaterializations"]
        return {entry["label"]: entry.get("text") for entry in newest["metadataEntries"]}


@contextmanager
def open_ui(command: Command, log: Path) -> Iterator[int]:
    """The port of a UI that answers; it must end as it should. If the test fails, what the UI wrote is printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with log.open("w") as output:
        process = subprocess.Popen(
            [command.program, "ui", "--port", str(port)],
            env=command.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            until(lambda: _answers(port) or process.poll() is not None, "the UI's first answer")
            assert process.poll() is None, log.read_text()
            yield port
        except AssertionError:
            print(log.read_text()[-20_000:])
            raise
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert not _answers(port)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
