"""The mutation tests' own tests: what is changed, and whether a killed mutant is told from one that survives."""

import subprocess
import sys
from pathlib import Path

import pytest

import batch_assets

pytestmark = pytest.mark.process

BENCHMARKS = Path(batch_assets.__file__).parent.parent / "benchmarks"

TOY = """
def judge_age(age, limit=18):
    '''`age`: 1 < 2.'''
    found = []
    if age < limit:
        found.append(f"{age} is below {limit + 0}")
    return Outcome(passed=not found, message="None" if age > 5 else "")
"""

SOURCE = """
from dataclasses import dataclass, replace

@dataclass
class Outcome:
    passed: bool

    def model_copy(self, update):
        return replace(self, **update)

def judge_age(age):
    return Outcome(age >= 18)

def judge_name(name):
    return Outcome(name != "")
"""

TESTS = """
from toy.gates.names import judge_age, judge_name

def test_a_child_does_not_pass():
    assert not judge_age(17).passed
    assert judge_age(18).passed

def test_a_name_passes():
    assert judge_name("Ada").passed
"""


class TestChanges:
    @pytest.fixture(autouse=True)
    def _import(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(BENCHMARKS)

    def told(self, source: str) -> list[tuple[str, str, str]]:
        from mutations import changes

        return [(one.kind, one.before, one.after) for one in changes(source.encode())]

    def test_a_gate_is_removed_and_all_that_it_is_made_of_is_changed(self) -> None:
        assert self.told(TOY) == [
            ("gate", "judge_age", "always passes"),
            ("number", "18", "36"),
            ("condition", "age < limit", "not age < limit"),
            ("comparison", "age < limit", "age <= limit"),
            ("finding", "found.append(f'{age} is below {limit + 0}')", "pass"),
            ("logic", "not found", "found"),
        ]

    def test_a_removed_gate_still_names_what_it_judges(self) -> None:
        from mutations import changes

        gate = changes(TOY.encode())[0].apply(TOY.encode()).decode()
        assert gate.rstrip().endswith('if age > 5 else "")).model_copy(update={"passed": True})')

    @pytest.mark.parametrize(
        ("source", "after"),
        [
            ("x = a and not b", ["a or not b", "not b", "a", "b"]),
            ("x = min(a)", ["max"]),
            ("x: int = 0", ["1"]),
            ("x: bool = Field(False, ge=0, description='1')", ["True"]),
            ("x = 'größer', 0.5 <= a < b", ["1.0", "0.5 < a < b", "0.5 <= a <= b"]),
            ("def f(): return [one(1), two]", ["left out", "left out", "2"]),
            ("if a == b: raise E(f'{1}')", ["a != b", "pass"]),
            ("f(severity='error' if a else 'warn', or_equal=True)", ["'warn'", "not a", "'error'", "False"]),
            ("passed, message = False, 'no'", ["True"]),
        ],
    )
    def test_what_something_is_changed_into(self, source: str, after: list[str]) -> None:
        assert sorted(one[2] for one in self.told(source)) == sorted(after)


def run(folder: Path, tests: str) -> "subprocess.CompletedProcess[str]":
    for name, text in {"toy/gates/names.py": SOURCE, "toy_tests/gates/test_names.py": tests}.items():
        file = folder / name
        for package in (file.parent.parent, file.parent):
            package.mkdir(exist_ok=True)
            (package / "__init__.py").touch()
        file.write_text(text)
    program = "import mutants; mutants.HEAVY = ''; mutants.main()"
    return subprocess.run(
        [sys.executable, "-c", program, "--sample", "0", "--room", str(folder / "toy" / "gates")],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_gate_that_no_test_misses_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS)
    assert done.returncode == 1, done.stderr
    assert "2 tests pass without a change" in done.stderr
    assert "toy/gates/names.py:14: gate: judge_name  ->  always passes" in done.stdout
    assert "names.py:11: gate" not in done.stdout
    assert "1 removed gates or findings survive" in done.stdout


def test_where_every_gate_is_missed_all_is_well(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS + "    assert not judge_name('').passed\n")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "2 of 2 mutants are killed (100.0%" in done.stdout


def test_tests_that_fail_anyway_judge_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS + "    assert False\n")
    assert done.returncode == 1
    assert "The tests do not pass where nothing was changed" in done.stderr
