"""What the files for production name is there, and they say no secret; each is read as its own program would."""

import re
import tomllib
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from batch_assets_tests.conftest import PROJECT

DEPLOY = PROJECT / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.suffix == ".yaml")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def variables(said: Any) -> set[str]:
    """The environment variables that a document takes values from, as `{env: NAME}`."""
    if isinstance(said, dict):
        own = {said["env"]} if said.keys() == {"env"} and isinstance(said["env"], str) else set()
        return own.union(*map(variables, said.values()))
    return set[str]().union(*map(variables, said)) if isinstance(said, list) else set()


def leaves(said: Any, key: str = "") -> list[tuple[str, Any]]:
    """Every value with the key under which it stands."""
    if isinstance(said, dict):
        return [leaf for name, value in said.items() for leaf in leaves(value, str(name))]
    if isinstance(said, list):
        return [leaf for value in said for leaf in leaves(value, key)]
    return [(key, said)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.name))
def test_no_file_says_a_secret(file: Path) -> None:
    for key, value in leaves(yaml.safe_load(file.read_text())):
        if re.search("password|token|secret|key$", key, re.IGNORECASE) and key not in ("generatePostgresqlPasswordSecret",):
            named = re.fullmatch(r"\$\{[A-Z_]+:\?[^}]*\}|[a-z-]+-secret|[A-Z_]+", str(value))
            assert named or value is False, f"{key}: {value}"


def test_the_instance_of_production_does_what_the_projects_own_does() -> None:
    own = yaml.safe_load((PROJECT / "batch_assets" / "dagster.yaml").read_text())
    said = read("dagster.yaml")
    assert said.pop("storage")["postgres"]["postgres_db"]["scheme"] == "postgresql+psycopg2"
    assert said == own


class TestTheImage:
    def test_it_is_made_in_stages_and_runs_as_nobody_of_importance(self) -> None:
        stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, re.MULTILINE)
        assert [name for _, name in stages] == ["project", "build", ""]
        last = DOCKERFILE.rpartition("FROM python")[2]
        assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
        assert "pip install" not in last
        assert not re.search(r"gcc|build-essential|\bdev\b", last)
        assert last.index("USER ") < last.index("\nCMD "), "nothing is started before"

    def test_what_its_user_writes_to_is_that_users(self) -> None:
        """The user has no home, in which copies of a bucket's files would lie otherwise."""
        last = DOCKERFILE.rpartition("FROM python")[2].replace("\\\n", "")
        (folders,) = re.findall(r"install --directory --owner dagster --group dagster (.*)", last)
        named = dict(re.findall(r"(DAGSTER_HOME|BATCH_ASSETS_ROOT|BATCH_ASSETS_CACHE)=(\S+)", last))
        assert len(named) == 3
        assert set(named.values()) <= set(folders.split())

    def test_what_it_copies_is_there_and_is_not_ignored(self) -> None:
        kept = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
            for source in sources.split():
                assert (PROJECT / source).exists(), source
                assert source in kept, source

    def test_its_extras_and_its_python_are_ours(self) -> None:
        project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
        (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE)
        assert set(extras.split(",")) <= project["optional-dependencies"].keys()
        (version,) = re.findall(r"^ARG PYTHON=([\d.]+)-slim", DOCKERFILE, re.MULTILINE)
        assert f"Programming Language :: Python :: {version}" in project["classifiers"]

    def test_the_versions_of_production_are_fixed(self) -> None:
        fixed = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text().split())
        assert fixed["dagster-postgres"] == fixed["dagster-k8s"] == f"0.{16 + int(fixed['dagster'].split('.')[1])}.27"


class TestTheCompose:
    compose = read("compose.yaml")
    services = compose["services"]

    def test_what_is_published_is_published_on_loopback(self) -> None:
        assert {port for one in self.services.values() for port in one.get("ports", [])} == {"127.0.0.1:3000:3000"}

    def test_every_command_is_a_program_that_is_installed(self) -> None:
        programs = {script.name for script in entry_points(group="console_scripts")}
        for one in self.services.values():
            assert one.get("command", ["dagster"])[0] in programs
            assert one["healthcheck"]["test"][1] in programs | {"pg_isready", "python"}

    def test_the_instance_is_told_all_that_it_asks_for(self) -> None:
        wanted = variables(read("dagster.yaml"))
        assert len(wanted) == 5
        for name in ("code", "webserver", "daemon"):
            assert wanted <= self.services[name]["environment"].keys()
        postgres, ours = self.services["postgres"]["environment"], self.services["code"]["environment"]
        assert (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]) == (ours["DAGSTER_PG_USERNAME"], ours["DAGSTER_PG_DB"])

    def test_the_workspace_names_the_code_location(self) -> None:
        (location,) = (entry["grpc_server"] for entry in read("workspace.yaml")["load_from"])
        command = self.services[location["host"]]["command"]
        assert command[command.index("--port") + 1] == str(location["port"])
        assert find_spec(command[command.index("--module-name") + 1])

    def test_the_host_of_runs_has_one_name_for_ever(self) -> None:
        assert self.services["code"]["hostname"] == "code"

    def test_what_is_mounted_is_declared(self) -> None:
        mounted = {volume.partition(":")[0] for one in self.services.values() for volume in one.get("volumes", [])}
        assert mounted == self.compose["volumes"].keys()
        for config in self.compose["configs"].values():
            assert (DEPLOY / config["file"]).exists()


class TestTheChartsValues:
    values = read("helm-values.yaml")
    instance = read("dagster.yaml")

    def test_they_ask_for_what_the_instance_does(self) -> None:
        daemon, own = self.values["dagsterDaemon"], self.instance
        retries = daemon["runRetries"]
        assert (retries["maxRetries"], retries["retryOnAssetOrOpFailure"]) == (
            own["run_retries"]["max_retries"],
            own["run_retries"]["retry_on_asset_or_op_failure"],
        )
        assert (
            daemon["runMonitoring"]["freeSlotsAfterRunEndSeconds"] == own["run_monitoring"]["free_slots_after_run_end_seconds"]
        )
        assert self.values["concurrency"]["pools"]["granularity"] == own["concurrency"]["pools"]["granularity"]
        for kind in ("schedule", "sensor"):
            assert self.values["retention"][kind]["purgeAfterDays"] == own["retention"][kind]["purge_after_days"]

    def test_the_code_location_is_what_the_image_has(self) -> None:
        (deployment,) = self.values["dagster-user-deployments"]["deployments"]
        arguments = deployment["dagsterApiGrpcArgs"]
        assert find_spec(arguments[arguments.index("--module-name") + 1])
        assert f"WORKDIR {arguments[arguments.index('--working-directory') + 1]}" in DOCKERFILE
        for image in (self.values["pipelineRun"], self.values["dagsterDaemon"], self.values["dagsterWebserver"]):
            assert image["image"] == deployment["image"], "all of them need the same versions"

    def test_runs_have_the_environment_of_the_code_location_and_resources_of_their_own(self) -> None:
        launcher = self.values["runLauncher"]["config"]["k8sRunLauncher"]
        (deployment,) = self.values["dagster-user-deployments"]["deployments"]
        assert deployment["includeConfigInLaunchedRuns"] == {"enabled": False}
        assert launcher["envVars"] == [f"{one['name']}={one['value']}" for one in deployment["env"]]
        assert launcher["envSecrets"] == deployment["envSecrets"]
        assert launcher["resources"] != deployment["resources"]

    def test_whoever_scores_has_a_place_for_copies(self) -> None:
        launcher = self.values["runLauncher"]["config"]["k8sRunLauncher"]
        (deployment,) = self.values["dagster-user-deployments"]["deployments"]
        for one in (launcher, deployment):
            (volume,), (mount,) = one["volumes"], one["volumeMounts"]
            assert volume["name"] == mount["name"]
            assert f"BATCH_ASSETS_CACHE={mount['mountPath']}\n" in DOCKERFILE

    def test_a_run_has_no_more_cores_than_it_asks_for(self) -> None:
        resources = self.values["runLauncher"]["config"]["k8sRunLauncher"]["resources"]
        assert resources["limits"]["cpu"] == resources["requests"]["cpu"]

    def test_nobody_is_root(self) -> None:
        launcher = self.values["runLauncher"]["config"]["k8sRunLauncher"]
        (deployment,) = self.values["dagster-user-deployments"]["deployments"]
        for one in (deployment, self.values["dagsterDaemon"], self.values["dagsterWebserver"]):
            assert one["podSecurityContext"]["runAsUser"] == 10001
            assert one["securityContext"] == launcher["securityContext"]
        assert launcher["runK8sConfig"]["podSpecConfig"]["securityContext"]["runAsNonRoot"] is True
