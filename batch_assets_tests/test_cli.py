"""The command as its users run it: processes of their own, real Ray, real kills."""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from batch_assets_tests.cents import WEEK, freeze_in_cents, good_days
from batch_assets_tests.conftest import PROJECT, Command

pytestmark = pytest.mark.process

PIPELINE, DAY = "customer_propensity", "1998-06-30"
RUN = ("run", PIPELINE, "--partition", DAY, "--json")
FIELDS = {
    "pipeline", "partition", "input_rows", "scored_rows", "excluded_rows", "dead_letter_rows", "run_id", "model", "checks",
    "digest", "release", "lookup", "seconds", "resumed_chunks", "engine",
}  # fmt: skip


def chunks(root: Path) -> list[Path]:
    return sorted(root.glob(f"{PIPELINE}/predictions/date={DAY}/run=*/chunk-*[0-9].parquet"))


def rows(root: Path) -> list[dict[str, Any]]:
    return [row for path in chunks(root) for row in pq.ParquetFile(path).read().to_pylist()]


def answer(command: Command, *arguments: str) -> dict[str, Any]:
    """The JSON that a command prints, which must be all that it prints."""
    done = command.run(*arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, trained_root: Path) -> tuple[Command, dict[str, Any]]:
    """A night on Ray that nobody disturbed; its tests only read."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(trained_root, folder / "root")
    (folder / "home").mkdir()
    command = Command(folder / "root", folder / "home")
    return command, answer(command, "demo", "--json")


class TestDemo:
    def test_every_customer_is_scored(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        _, found = undisturbed
        assert set(found) >= FIELDS
        assert (found["input_rows"], found["scored_rows"], found["dead_letter_rows"], found["excluded_rows"]) == (
            23_570,
            23_570,
            0,
            0,
        )
        assert set(found["model"]) == {"name", "version", "sha256"}
        *stages, total = found["seconds"]
        assert stages == ["start-up", "features", "scoring", "publishing", "checks", "dagster", "summary"]
        assert sum(found["seconds"][stage] for stage in stages) == pytest.approx(found["seconds"][total], rel=0.02)
        assert len(found["digest"]) == 48
        assert found["resumed_chunks"] == 0

    def test_no_blocking_check_failed(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        _, found = undisturbed
        assert {check["name"] for check in found["checks"]} >= {
            "contract",
            "expectations",
            "complete",
            "drift",
            "published_matches",
        }
        assert not [check for check in found["checks"] if not check["passed"] and check["severity"] == "error"]

    def test_the_look_ups_record_is_the_one_in_the_predictions(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        command, found = undisturbed
        by_key = {row["customer_id"]: row for row in rows(command.root)}
        assert len(by_key) == 23_570
        assert found["lookup"]["record"] == by_key[found["lookup"]["key"]]
        for key in (1, 42, 23_570):
            assert answer(command, "lookup", PIPELINE, str(key), "--json")["record"] == by_key[key]

    def test_there_are_24_chunks(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        assert len(chunks(undisturbed[0].root)) == 24

    def test_a_second_demo_says_what_it_skipped(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        command, found = undisturbed
        done = command.run("demo")
        assert done.returncode == 0
        assert "training is skipped" in done.stderr
        assert "all 24 chunks were committed before" in done.stderr
        assert found["digest"] in done.stdout
        assert "24 chunks resumed" in done.stdout

    def test_models_are_listed_and_shown(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        command, found = undisturbed
        (model,) = answer(command, "models", "list", "--json")["models"]
        assert (model["name"], model["version"], model["aliases"]) == (PIPELINE, "v1", ["batch"])
        card = answer(command, "models", "show", PIPELINE, "--json")["card"]
        assert card["model_sha256"] == found["model"]["sha256"]
        assert "0.85" in command.run("models", "list").stdout


@pytest.mark.long
def test_ray_gives_the_same_run_and_the_same_bits(undisturbed: tuple[Command, dict[str, Any]], command: Command) -> None:
    found = answer(command, *RUN, "--engine", "ray")
    assert set(found) >= FIELDS
    assert (undisturbed[1]["engine"], found["engine"]) == (
        "threads of one process, because the work is short",
        "workers of Ray",
    )
    assert (found["run_id"], found["digest"]) == (undisturbed[1]["run_id"], undisturbed[1]["digest"])
    assert rows(command.root) == rows(undisturbed[0].root)


def kill_after_three_commits(command: Command, engine: str) -> int:
    """Kill a run and all its processes between the third and the last commit; gives the commits that are there then."""
    for _ in range(5):
        process = command.start(*RUN, "--engine", engine)
        while process.poll() is None and len(chunks(command.root)) < 3:
            time.sleep(0.001)
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(family, timeout=20)
        process.communicate()
        committed = len(chunks(command.root))
        if 3 <= committed < 24:
            return committed
        shutil.rmtree(command.root / PIPELINE)
        (command.root / "_format.json").unlink()  # another root, of which Dagster remembers nothing
    raise AssertionError("five runs were faster than the kill")


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.long)])
def test_a_killed_run_resumes(undisturbed: tuple[Command, dict[str, Any]], command: Command, engine: str) -> None:
    committed = kill_after_three_commits(command, engine)
    before = {path: path.stat().st_mtime_ns for path in chunks(command.root)}
    done = command.run(*RUN, "--engine", engine)
    assert done.returncode == 0, done.stderr
    assert "was left by a dead process" in done.stderr
    found = json.loads(done.stdout)
    assert found["resumed_chunks"] == committed
    assert found["digest"] == undisturbed[1]["digest"]
    assert sorted(row["customer_id"] for row in rows(command.root)) == list(range(1, 23_571))
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())


def _worker(process: "subprocess.Popen[str]") -> int:
    """The process that does a command's work, as soon as it is there."""
    while not (children := psutil.Process(process.pid).children()):
        time.sleep(0.01)
    return children[0].pid


@pytest.mark.parametrize("same_instance", [True, pytest.param(False, marks=pytest.mark.long)])
def test_two_runs_at_once_give_one_result(
    undisturbed: tuple[Command, dict[str, Any]], command: Command, tmp_path: Path, same_instance: bool
) -> None:
    other = command
    if not same_instance:
        shutil.copytree(command.home, tmp_path / "other-home")
        other = Command(command.root, tmp_path / "other-home")
    processes = [command.start(*RUN), other.start(*RUN)]
    pids = [_worker(process) for process in processes]
    outputs = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert {json.loads(stdout)["digest"] for stdout, _ in outputs} == {undisturbed[1]["digest"]}
    assert any(f"pid {pid})" in stderr for pid, (_, stderr) in zip(reversed(pids), outputs, strict=True)), outputs
    assert len(list(command.root.glob(f"{PIPELINE}/predictions/date={DAY}/run=*"))) == 1
    assert sorted(row["customer_id"] for row in rows(command.root)) == list(range(1, 23_571))
    releases = list((command.root / PIPELINE / "serving" / "releases").glob(f"{DAY}-*"))
    assert len(releases) == 1


@pytest.mark.parametrize(
    ("number", "engine"),
    [
        pytest.param(signal.SIGINT, "local", marks=pytest.mark.long),
        (signal.SIGTERM, "local"),
        pytest.param(signal.SIGTERM, "ray", marks=pytest.mark.long),
    ],
)
def test_an_interrupted_run_says_that_it_resumes(command: Command, number: signal.Signals, engine: str) -> None:
    """Ctrl-C, or what a scheduler sends before it takes the machine away."""
    process = command.start(*RUN, "--engine", engine)
    while process.poll() is None and not chunks(command.root):
        time.sleep(0.001)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run was faster than the interrupt")
    assert process.returncode == 130
    assert "the same command resumes" in stderr
    assert json.loads(stdout)["kind"] == "Interrupted"
    assert answer(command, *RUN, "--engine", "local")["resumed_chunks"] >= 1


def at_a_terminal(command: Command, typed: str, *arguments: str) -> tuple[int, str]:
    """The exit status of a command that somebody answers at a terminal, and what it wrote to stderr."""
    ours, theirs = pty.openpty()
    os.write(ours, f"{typed}\n".encode())
    try:
        done = subprocess.run(
            [command.program, *arguments],
            env=command.environment,
            cwd=PROJECT,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stderr


def _head_of_ray(process: "subprocess.Popen[str]") -> psutil.Process:
    """Of a run's Ray, as soon as a worker has been hired."""
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = {one.name(): one for one in psutil.Process(process.pid).children(recursive=True)}
            if "gcs_server" in family and any(name.startswith("ray::Worker") for name in family):
                return family["gcs_server"]
        time.sleep(0.01)
    raise AssertionError(process.communicate())


@pytest.mark.long
def test_a_run_whose_ray_loses_its_head_says_so_and_resumes(command: Command) -> None:
    """Ray ends the process at work, without a word on stdout; the command goes on with another."""
    process = command.start(*RUN, "--engine", "ray")
    _head_of_ray(process).kill()
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.count("\n") == 1
    assert "ended with status 1 before it could answer" in stderr
    assert "It resumes now, once." in stderr
    assert json.loads(stdout)["live_release"].startswith(DAY)


def test_a_ray_address_that_nobody_answers_is_a_sentence(command: Command) -> None:
    command.environment["RAY_ADDRESS"] = "127.0.0.1:9"
    done = command.run(*RUN, "--engine", "ray")
    assert done.returncode == 1, done.stderr
    assert "Nobody answers at the Ray address 127.0.0.1:9" in json.loads(done.stdout)["error"]


class TestVerdict:
    def test_a_good_night(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        command, run = undisturbed
        found = answer(command, "verdict", PIPELINE, "--partition", DAY, "--json")
        assert (found["good"], found["subject"]) == (True, f"run {run['run_id']} by {PIPELINE} v1")
        assert [check["name"] for check in found["checks"]] == [check["name"] for check in run["checks"][:-1]]
        shown = command.run("verdict", PIPELINE, "--partition", DAY).stdout
        assert "complete" in shown
        assert "0.99" in shown

    @pytest.mark.long
    def test_a_bad_night_is_overridden_by_somebody_with_a_reason(self, command: Command, tmp_path: Path) -> None:
        good_days(command.root, WEEK)
        freeze_in_cents(command.root, DAY, tmp_path)
        blocked = command.run(*RUN, "--engine", "local")
        assert blocked.returncode == 1
        for finding in (
            "check expectations: ",
            "check changes: amount is about 100 times",
            "check feature_drift: amount is PSI",
        ):
            assert finding in blocked.stderr, "every finding, not only the first"
        judged = command.run("verdict", PIPELINE, "--partition", DAY)
        assert judged.returncode == 1
        assert "is blocked by expectations: " in judged.stderr
        assert "FAIL" in judged.stdout
        override = ("verdict", PIPELINE, "--partition", DAY, "--by", "Ann", "--override")
        assert command.run(*override, " ", "--yes").returncode == 1
        for answered in (command.run(*override, "cents from now on"), command.run(*override, "cents from now on", "--json")):
            assert answered.returncode == 1
            assert "changes: amount is about 100 times" in answered.stderr, "what would pass is printed"
            assert answered.stderr.rstrip().endswith("There is nobody to ask whether these findings may pass: add --yes.")
        refused, said = at_a_terminal(command, "n", *override, "cents from now on")
        assert refused == 1
        assert "changes: amount is about 100 times" in said
        assert "Let them pass? [y/N]" in said
        assert command.run("verdict", PIPELINE, "--partition", DAY).returncode == 1, "nothing was decided"
        decided = command.run(*override, "cents from now on", "--yes")
        assert decided.returncode == 0, decided.stderr
        assert "changes: amount is about 100 times" in decided.stderr
        assert "Overridden by Ann" in " ".join(decided.stdout.split())
        scored = command.run(*RUN, "--engine", "local")
        assert "the check drift: PSI" in scored.stderr, "scores moved with the features; that is another decision"
        assert at_a_terminal(command, "y", *override, "as expected")[0] == 0
        assert answer(command, *RUN, "--engine", "local")["live_release"].startswith(DAY)
        explained = answer(command, "explain", PIPELINE, "42", "--json")
        reasons = {check["name"]: check["override"]["why"] for check in explained["checks"] if check["override"]}
        assert reasons["changes"] == "cents from now on"
        assert reasons["drift"] == "as expected"


class TestPreflight:
    @pytest.mark.long
    def test_of_the_approved_version(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        command, _ = undisturbed
        found = answer(command, "preflight", PIPELINE, "--partition", "1998-06-28", "--json")
        assert (found["go"], found["version"], found["against"]) == (True, "v1", None)
        assert found["dead_letters"]["low"] == 0.0
        assert found["minutes"]["low"] <= found["minutes"]["high"]
        shown = command.run("preflight", PIPELINE, "--partition", "1998-06-28").stdout
        assert "dead letters" in shown
        assert shown.rstrip().endswith("go")

    def test_of_a_version_that_is_not_there(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        done = undisturbed[0].run("preflight", PIPELINE, "--partition", "1998-06-28", "--version", "v9")
        assert done.returncode == 1
        assert "v9 is not registered" in done.stderr


class TestDeadLetters:
    def test_a_night_without_any(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        command, run = undisturbed
        found = answer(command, "dead-letters", "list", PIPELINE, "--partition", DAY, "--json")
        assert (found["run_id"], found["total"], found["dead_letters"]) == (run["run_id"], 0, [])
        assert "0 dead letters" in command.run("dead-letters", "list", PIPELINE, "--partition", DAY).stdout
        replayed = answer(command, "dead-letters", "replay", PIPELINE, "--partition", DAY, "--engine", "local", "--json")
        assert (replayed["replayed"], replayed["scored"], replayed["still_dead"]) == (0, 0, {})

    def test_a_key_that_is_none(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        done = undisturbed[0].run("dead-letters", "show", PIPELINE, "42", "--partition", DAY)
        assert done.returncode == 1
        assert "42 is not a dead letter of run" in done.stderr

    @pytest.mark.parametrize("run", [[], ["--run", "0123456789abcdef"], ["--run", "../../escape"]])
    def test_a_run_that_is_not_there(self, undisturbed: tuple[Command, dict[str, Any]], run: list[str]) -> None:
        day = DAY if run else "1998-06-01"
        done = undisturbed[0].run("dead-letters", "list", PIPELINE, "--partition", day, *run)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr


class TestExplain:
    def test_a_key_is_explained_and_replayed(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        command, run = undisturbed
        found = answer(command, "explain", PIPELINE, "42", "--json")
        looked_up = answer(command, "lookup", PIPELINE, "42", "--json")
        assert found["prediction"].items() <= looked_up["record"].items()
        assert (found["run_id"], found["partition"], found["release"]["is_live"]) == (run["run_id"], DAY, True)
        assert found["model"]["sha256"] == run["model"]["sha256"]
        assert (found["approval"]["number"], found["approval"]["by"]) == (1, "the test")
        assert (found["key"], found["origin"]["row"], found["scored_by"]["chunk"]) == (42, 41, "chunk-00000")
        again = answer(command, "replay", PIPELINE, "42", "--partition", DAY, "--json")
        assert (again["bit_equal"], again["recorded"], again["replayed"]) == (True, found["prediction"], found["prediction"])

    def test_people_get_a_table(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        command, run = undisturbed
        table = command.run("explain", PIPELINE, "42", "--partition", DAY).stdout
        for said in ("decile", "attempt 1", "row 41", f"{run['run_id']} (accepted)", "check drift", "(live)", "by the test"):
            assert said in table
        assert "Equal bit for bit" in command.run("replay", PIPELINE, "42").stdout

    @pytest.mark.parametrize("verb", ["explain", "replay"])
    def test_what_cannot_be_explained(self, undisturbed: tuple[Command, dict[str, Any]], verb: str) -> None:
        for key, day, sentence in (("0", DAY, "not in the snapshot"), ("42", "1998-06-01", "No run of")):
            done = undisturbed[0].run(verb, PIPELINE, key, "--partition", day)
            assert done.returncode == 1
            assert sentence in done.stderr
            assert "Traceback" not in done.stderr


class TestDiff:
    @pytest.mark.long
    def test_two_nights_are_compared_and_drawn(self, command: Command, tmp_path: Path) -> None:
        days, drawn = WEEK[:2], tmp_path / "moves.svg"
        good_days(command.root, days)
        found = answer(command, "diff", PIPELINE, *days, "--top", "3", "--svg", str(drawn), "--json")
        assert (found["both"], found["gone"], found["new"]) == (23_570, 0, 0)
        assert (found["same_model"], found["same_snapshot"], found["picture"]) == (True, False, str(drawn))
        assert sum(map(sum, found["deciles"])) == sum(found["by_deciles"].values()) == 23_570
        (mover, *_) = found["movers"]["up"]
        for record, day in ((mover["before"], days[0]), (mover["after"], days[1])):
            explained = answer(command, "explain", PIPELINE, str(mover["key"]), "--partition", day, "--json")
            assert explained["prediction"] == record
        assert drawn.read_text().startswith("<svg")
        table = command.run("diff", PIPELINE, *days, "--by", "label").stdout
        for said in ("23,570 on both days", "% higher", "difference", "p50", "whose label changed", "likely -> "):
            assert said in table

    def test_what_cannot_be_compared(self, undisturbed: tuple[Command, dict[str, Any]], tmp_path: Path) -> None:
        command, _ = undisturbed
        for days, options, status, sentence in (
            (("1998-06-29", DAY), (), 1, "No run of customer_propensity 1998-06-29 is finished"),
            (("yesterday", DAY), (), 1, "'yesterday' is not a day"),
            ((DAY, DAY), ("--svg", str(tmp_path / "nowhere" / "x.svg")), 2, "--svg: there is no folder"),
        ):
            done = command.run("diff", PIPELINE, *days, *options)
            assert (done.returncode, sentence in done.stderr) == (status, True), done.stderr
            assert "Traceback" not in done.stderr


class TestReleases:
    @pytest.mark.long
    def test_a_night_is_gone_back_from_and_published_again(self, command: Command) -> None:
        good_days(command.root, WEEK[:1])
        for day in WEEK[:2]:
            assert command.run("run", PIPELINE, "--partition", day, "--engine", "local").returncode == 0
        found = answer(command, "releases", "list", PIPELINE, "--json")
        newer, older = found["releases"]
        assert [(one["partition"], one["state"], one["rows"]) for one in found["releases"]] == [
            (WEEK[1], "live", 23_570),
            (WEEK[0], "superseded", 23_570),
        ]
        assert [(one["store"], one["trouble"]) for one in found["stores"]] == [("arrow", "")]
        shown = answer(command, "releases", "show", PIPELINE, newer["release"], "--json")
        assert (shown["in_stores"], shown["state"]) == ({"arrow": "there"}, "live")
        assert command.run("releases", "rollback", PIPELINE).returncode == 2, "a reason is needed"
        back = answer(command, "releases", "rollback", PIPELINE, "--why", "prices were wrong", "--json")
        assert (back["live_release"], back["withdrawn"]) == (older["release"], newer["release"])
        assert answer(command, "lookup", PIPELINE, "42", "--json")["record"]["partition"] == WEEK[0]
        refused = command.run("run", PIPELINE, "--partition", WEEK[1], "--engine", "local")
        assert refused.returncode == 1
        assert "prices were wrong" in refused.stderr
        assert command.run("releases", "publish", PIPELINE, WEEK[1]).returncode == 1
        again = answer(command, "releases", "publish", PIPELINE, WEEK[1], "--why", "they were right", "--json")
        assert (again["live_release"], again["lagging"]) == (newer["release"], {})
        table = command.run("releases", "list", PIPELINE).stdout
        for said in (newer["release"], "23,570", "arrow", "live", "superseded"):
            assert said in table
        assert "Every store has only what it keeps" in command.run("releases", "prune", PIPELINE).stdout

    def test_what_is_not_there(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        command, run = undisturbed
        for arguments, sentence in (
            (("show", PIPELINE, "2024-01-01-0123456789abcdef"), "has no release 2024-01-01-0123456789abcdef"),
            (("rollback", PIPELINE, "--why", "why not"), f"no earlier release than {run['release']} any more"),
            (("publish", PIPELINE, "1998-06-29"), "No run of customer_propensity 1998-06-29 is accepted"),
        ):
            done = command.run("releases", *arguments)
            assert done.returncode == 1
            assert sentence in done.stderr
            assert "Traceback" not in done.stderr


class TestPrune:
    def test_a_single_day_is_kept(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        command, _ = undisturbed
        (found,) = answer(command, "prune", PIPELINE, "--dry-run", "--json")["pipelines"]
        assert (found["counts"], found["keep_days"], found["first_kept"]) == ({}, 35, None)
        assert "0.000 MB would be freed" in command.run("prune", "--dry-run").stdout

    def test_too_few_days(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        done = undisturbed[0].run("prune", "--keep-days", "5", "--dry-run")
        assert done.returncode == 1
        assert "5 are too few" in done.stderr


@pytest.mark.long
def test_a_sweep_finds_a_batch_size_and_the_next_run_would_use_it(command: Command) -> None:
    answer(command, *RUN, "--engine", "local")
    found = answer(command, "sweep", PIPELINE, "--max-memory", "1", "--json")
    assert [one["batch_rows"] for one in found["measured"]][:4] == [1, 2, 4, 8]
    assert found["batch_rows"] % 64 == 0
    assert "do not fit into 1.0 GB" in found["ended"]
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
    table = command.run("sweep", PIPELINE, "--partition", DAY, "--max-memory", "1").stdout
    assert "picked" in table
    assert "rows/s" in table


class TestBadInput:
    """One clear sentence, exit status 1, no traceback, nothing published."""

    def refused(self, command: Command, *arguments: str) -> str:
        live = command.root / PIPELINE / "serving" / "_current"
        before = sorted(live.glob("*"))
        done = command.run(*arguments)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr + done.stdout
        assert sorted(live.glob("*")) == before, "nothing is published"
        sentences = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert len(sentences) == 1, done.stderr
        if "--json" in arguments:
            assert json.loads(done.stdout)["error"] == sentences[0].removeprefix("Error: ")
        return sentences[0]

    def test_no_such_pipeline(self, command: Command) -> None:
        assert "no pipeline nobody" in self.refused(command, "run", "nobody", "--partition", DAY)
        assert "no pipeline nobody" in self.refused(command, "lookup", "nobody", "1", "--json")

    @pytest.mark.parametrize("day", ["1996-12-31", "1998-07-01", "2999-01-01", "yesterday", "1998-02-30"])
    def test_no_such_day(self, command: Command, day: str) -> None:
        self.refused(command, "run", PIPELINE, "--partition", day, "--json")

    def test_no_model_under_the_alias(self, command: Command) -> None:
        shutil.rmtree(command.root / "models" / PIPELINE / "aliases")
        assert "alias batch" in self.refused(command, *RUN)

    def test_a_flipped_byte_in_the_model(self, command: Command) -> None:
        path = command.root / "models" / PIPELINE / "v1" / "model.pt2"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert "the file was changed" in self.refused(command, *RUN)

    @pytest.mark.long
    def test_a_truncated_feature_file(self, command: Command) -> None:
        answer(command, *RUN, "--engine", "local")
        (path,) = command.root.glob(f"{PIPELINE}/user_features/date={DAY}/snapshot=*/part-00000.parquet")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert "part-00000.parquet has" in self.refused(command, *RUN)

    def test_a_key_that_does_not_exist(self, undisturbed: tuple[Command, dict[str, Any]]) -> None:
        for key in ("23571", "0", "-1", "nobody"):
            done = undisturbed[0].run("lookup", PIPELINE, "--", key)
            assert done.returncode == 1
            assert "no prediction for key" in done.stderr
            assert done.stdout == ""

    @pytest.mark.long
    def test_a_damaged_release(self, command: Command) -> None:
        answer(command, *RUN, "--engine", "local")
        (path,) = command.root.glob(f"{PIPELINE}/serving/releases/*/*/release.arrow")
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:5_000])
        done = command.run("lookup", PIPELINE, "42")
        assert done.returncode == 1
        assert "instead of" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_newer_layout(self, command: Command) -> None:
        (command.root / "_format.json").write_text('{"layout": 99}')
        assert "upgrade" in self.refused(command, *RUN)

    def test_the_command_line_itself(self, command: Command) -> None:
        for arguments in (("run", PIPELINE), ("run", PIPELINE, "--partition", DAY, "--engine", "spork"), ("nothing",)):
            assert command.run(*arguments).returncode == 2
