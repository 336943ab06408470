"""The package as somebody else has it: installed, with pipelines in a dg project of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save

from batch_assets.errors import ConfigError
from batch_assets.models.runtimes.pytorch.formats import safetensors_of
from batch_assets.project import Project, find_project, project_here
from batch_assets.storage import default_root
from batch_assets_tests.conftest import Command
from batch_assets_tests.open_ui import Ui, open_ui, until
from batch_assets_tests.others import Killing
from batch_assets_tests.small import Small, rows, small_model, with_values

DAY = "2024-03-10"
DG = '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "theirs"\n'


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project as `dg init` makes it, and a process in a folder below."""
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "theirs"\n{DG}')
    (tmp_path / "src" / "theirs" / "defs" / "deep").mkdir(parents=True)
    monkeypatch.delenv("BATCH_ASSETS_PROJECT", raising=False)
    monkeypatch.delenv("BATCH_ASSETS_ROOT", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path / "src" / "theirs" / "defs" / "deep")
    return tmp_path


def test_it_is_the_nearest_one_upwards(root: Path) -> None:
    package = root / "src" / "theirs"
    assert find_project() == Project(root, package, package / "defs")


def test_its_package_may_stand_beside_its_file_and_its_settings_in_one_of_their_own(root: Path) -> None:
    (root / "pyproject.toml").write_text("")
    (root / "dg.toml").write_text(
        DG.replace("tool.dg.project", "project").replace("[tool.dg]\n", "") + 'defs_module = "mine.ours"\n'
    )
    (root / "dg.toml").write_text((root / "dg.toml").read_text().replace('"theirs"', '"mine"'))
    (root / "mine").mkdir()
    assert find_project() == Project(root, root / "mine", root / "mine" / "ours")


def test_a_variable_names_another(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    monkeypatch.setenv("BATCH_ASSETS_PROJECT", str(other))
    with pytest.raises(ConfigError, match=f"BATCH_ASSETS_PROJECT names {other}, which is no project"):
        find_project()
    (other / "pyproject.toml").write_text(DG)
    (other / "theirs").mkdir()
    assert find_project().root == other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.dg", r"pyproject\.toml cannot be read: "),
        (DG.replace("root_module", "module"), "names no root_module"),
        (DG.replace("theirs", "gone"), "has no folder gone, neither in src nor beside"),
    ],
)
def test_one_that_says_it_wrong_is_a_sentence(root: Path, text: str, message: str) -> None:
    (root / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        project_here()


def test_what_it_keeps_lies_in_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_root() == str(root / "data")
    assert find_project().dagster_home() == root / ".dagster_home"
    assert (root / ".dagster_home").is_dir()
    assert "run_retries" in (root / ".dagster_home" / "dagster.yaml").read_text()
    (root / ".dagster_home" / "dagster.yaml").write_text("")
    assert find_project().dagster_home().joinpath("dagster.yaml").read_text() == "", "what somebody changed stays"
    monkeypatch.setenv("DAGSTER_HOME", str(root / "nowhere"))
    with pytest.raises(ConfigError, match=r"DAGSTER_HOME names .*/nowhere, which is not a folder"):
        find_project().dagster_home()


class Theirs:
    """A project with pipelines like a small one, and the programs of its environment."""

    def __init__(self, root: Path, small: Small, names: tuple[str, ...], **settings: object) -> None:
        self.root = root
        package = root / "src" / "theirs"
        (package / "__init__.py").touch()
        (package / "defs" / "__init__.py").touch()
        (package / "definitions.py").write_text(
            "from pathlib import Path\nimport dagster as dg\n@dg.definitions\ndef defs():\n"
            "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
        )
        said = small.config.model_dump(mode="json", exclude_unset=True) | settings
        for name in names:
            (package / "defs" / name).mkdir()
            document = {"type": "batch_assets.ScoringPipeline", "attributes": said | {"name": name}}
            (package / "defs" / name / "defs.yaml").write_text(json.dumps(document))

    def tried(self, program: str, *arguments: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
        command = [Path(sys.executable).with_name(program), *arguments]
        return subprocess.run(
            command, cwd=folder or self.root, env=self.environment(), capture_output=True, text=True, check=False
        )

    def environment(self) -> dict[str, str]:
        """That of a process which has their package."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join((str(self.root / "src"), *sys.path))}

    def do(self, program: str, *arguments: str, folder: Path | None = None) -> str:
        done = self.tried(program, *arguments, folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def approved(self, small: Small, version: str) -> None:
        """A version of the small pipeline is this project's approved one."""
        model = small.registry.version("small", version)
        (self.root / "card.json").write_bytes(small.registry.storage.read(f"models/small/{version}/card.json"))
        (self.root / "model").write_bytes(small.registry.storage.read(model.path))
        self.do("batch-assets", "models", "register", "small", version, "--model", "model", "--card", "card.json")
        self.do("batch-assets", "models", "approve", "small", version, "--why", "first")


@pytest.mark.process
@pytest.mark.long
def test_a_night_of_two_pipelines_in_it(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """From the YAML to a look-up from another folder; Dagster sees both of them, with one set of resources."""
    small = Small(tmp_path_factory.mktemp("small"), rows(2_000), small_model())
    theirs = Theirs(root, small, ("small", "other"))
    do = theirs.do
    do("dg", "check", "defs")
    assert {"small", "other"} <= {job["name"] for job in json.loads(do("dg", "list", "defs", "--json"))["jobs"]}
    theirs.approved(small, "v1")
    assert json.loads(do("batch-assets", "run", "small", "--partition", DAY, "--json"))["scored_rows"] == 2_000
    deep, elsewhere = root / "src", Path("/")
    found = json.loads(do("batch-assets", "lookup", "small", "7", "--json", folder=deep))
    assert found["record"]["model_version"] == "v1"
    assert found == json.loads(do("batch-assets", "--project", str(root), "lookup", "small", "7", "--json", folder=elsewhere))


@pytest.mark.long
class TestARowThatKills:
    """The process of the night dies; who goes on has workers that may die, and finds the row."""

    @pytest.fixture
    def theirs(self, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
        small = Small(tmp_path_factory.mktemp("small"), with_values(rows(24), "x", {10: 77.0}), small_model())
        small.register("v2", save(Killing().state_dict()), safetensors_of(f"{Killing.__module__}:Killing"))
        few = {"completeness": {"min_output_ratio": 0.9}}
        settings = {"scoring": {"chunk_rows": 4, "batch_size": 64, "max_failed": 0.3}, "quality": few}
        theirs = Theirs(root, small, ("small",), **settings)
        theirs.approved(small, "v2")
        return theirs

    @pytest.mark.process
    def test_the_same_command_goes_on_once(self, theirs: Theirs) -> None:
        done = theirs.tried("batch-assets", "run", "small", "--partition", DAY, "--json")
        assert "was ended by SIGKILL" in done.stderr
        assert "It resumes now, once." in done.stderr
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert (found["scored_rows"], found["dead_letter_rows"]) == (23, 1)
        assert found["engine"] == "workers of Ray, because a process died while it scored this run"
        self._is_a_dead_letter(theirs)

    @pytest.mark.process
    def test_in_the_ui_the_run_is_retried(self, theirs: Theirs, tmp_path_factory: pytest.TempPathFactory) -> None:
        command = Command(theirs.root / "data", theirs.root / ".dagster_home")
        command.environment = theirs.environment()
        with open_ui(command, tmp_path_factory.mktemp("log") / "ui.log") as port:
            ui = Ui(command, port)
            first = ui.launched("small", DAY)
            runs = until(
                lambda: {one["runId"]: one for one in ui.runs(dagster__root_run_id=first) if one["status"] == "SUCCESS"},
                "the retry's end",
                seconds=180,
            )
            (retry,) = runs.values()
            assert ui.client.get_run_status(first).value == "FAILURE"
            assert retry["tags"]["dagster/parent_run_id"] == first
            engines = ui.materialized("small/predictions")["engine"]
        assert engines == "workers of Ray, because a process died while it scored this run"
        self._is_a_dead_letter(theirs)

    def _is_a_dead_letter(self, theirs: Theirs) -> None:
        said = json.loads(theirs.do("batch-assets", "dead-letters", "list", "small", "--partition", DAY, "--json"))
        assert [letter["key"] for letter in said["dead_letters"]] == [11]
