"""Mutation tests of a room: every gate is removed once, and some test must fail.

    python benchmarks/mutants.py [--module drift] [--sample 100] [--processes 2] [--tests FILE] [--json]

A mutant is the room with one small change. Of the kinds `gate` (a `judge_*` lets everything pass) and `finding` (one finding,
or one expectation of a list, is left out) none may survive, or the command exits 1. The other kinds are scored: comparisons,
conditions, `and`/`or`/`not`, numbers, thresholds (defaults of settings), severities, `min`/`max`/`any`/`all`, what is raised.
Texts, annotations, pictures and the limits of settings stay as they are. Some survivors behave as the original does: read them.

The tests of the room run once without a change, to see which functions each of them calls. A mutant then meets those that call
the changed function (all of them, if it is in none), the quickest first, in a fork of a process that has the large libraries.
"""

import argparse
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType

import pytest
from mutations import MUST_DIE, Change, changes

PROJECT = Path(__file__).parent.parent
HEAVY = "dagster great_expectations.expectations hypothesis pandas pyarrow.parquet ray scipy.stats torch"
LIMIT_SECONDS = 15
UNTRIED = ("__init__", "gates")
"""Modules in which a changed line is a changed word."""


class Unfit(Exception):
    """The tests cannot judge mutants; the text says why."""


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module as if its file had another content."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - the name is the base class's
        """The code of that content."""
        code: CodeType = compile(self._source, self.path, "exec", dont_inherit=True)
        return code


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that have another content, by name."""

    def __init__(self, sources: dict[str, tuple[Path, bytes]]) -> None:
        self._sources = sources

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """A module whose content is known, and no other one."""
        if name not in self._sources:
            return None
        path, source = self._sources[name]
        return importlib.util.spec_from_file_location(name, path, loader=Loader(name, str(path), source))


class Recorder:
    """Notes which lines functions begin at that a test calls; under no name what is called outside of the tests themselves."""

    def __init__(self, files: set[str]) -> None:
        self._files = files
        self._test = ""
        self.called: dict[str, set[tuple[str, int]]] = {"": set()}
        self.seconds: dict[str, float] = {}
        sys.setprofile(self._profile)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """One test."""
        self._test, began = item.nodeid, time.monotonic()
        self.called[self._test] = set()
        yield
        self.seconds[self._test] = time.monotonic() - began
        self._test = ""

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename in self._files:
            self.called[self._test].add((frame.f_code.co_filename, frame.f_code.co_firstlineno))


class Selected:
    """Lets only some tests run, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self._place = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """All that was collected."""
        items[:] = sorted((one for one in items if one.nodeid in self._place), key=lambda one: self._place[one.nodeid])


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: killed, timed out, or survived. A test that never ends has seen it, too."""

    change: Change
    path: str
    outcome: str

    @property
    def survived(self) -> bool:
        """Whether every test passed."""
        return self.outcome == "survived"


class Harness:
    """Runs the tests of a room in forks of this process, which imports neither the room nor its tests itself."""

    def __init__(self, room: Path, tests: list[str], scratch: Path) -> None:
        self._top = next(folder for folder in room.parents if not (folder / "__init__.py").exists())
        self._scratch = scratch
        self.package, *inner = room.relative_to(self._top).parts
        self._tests = [str(Path(self._top, f"{self.package}_tests", *inner)), *tests]
        self.modules = {path: path.read_bytes() for path in sorted(room.glob("*.py")) if path.stem not in UNTRIED}
        self._called: dict[str, set[tuple[str, int]]] = {}
        self._seconds: dict[str, float] = {}
        self._limit = 600
        os.chdir(self._top)
        sys.path.insert(0, str(self._top))

    def rehearse(self) -> str:
        """Run everything unchanged; raises Unfit if that fails. Says what was seen."""
        began = time.monotonic()
        status = os.waitstatus_to_exitcode(os.waitpid(self._fork(self.modules, None), 0)[1])
        if status != 0:
            said = (self._scratch / "said").read_text(errors="replace")[-3_000:]
            raise Unfit(f"{said}\nThe tests do not pass where nothing was changed (exit code {status}): nothing can be judged.")
        seen = json.loads((self._scratch / "seen").read_text())
        self._seconds = seen["seconds"]
        self._called = {test: {(path, line) for path, line in called} for test, called in seen["called"].items()}
        took = time.monotonic() - began
        self._limit = LIMIT_SECONDS + int(3 * took)
        return f"{len(self._seconds)} tests pass without a change, in {took:.0f} s."

    def judge(self, mutants: list[tuple[Path, Change]], processes: int) -> Iterator[Verdict]:
        """Run the tests against every mutant, some at a time; in the order in which they end."""
        waiting, running = iter(mutants), dict[int, tuple[Path, Change]]()
        while True:
            while len(running) < processes and (one := next(waiting, None)):
                path, change = one
                running[self._fork({path: change.apply(self.modules[path])}, self._select(path, change))] = one
            if not running:
                return
            pid, status = os.wait()
            path, change = running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            outcome = {0: "survived", int(pytest.ExitCode.NO_TESTS_COLLECTED): "survived", -signal.SIGALRM: "timed out"}
            yield Verdict(change, str(path.relative_to(self._top)), outcome.get(code, "killed"))

    def _select(self, path: Path, change: Change) -> list[str]:
        """The tests that call the changed function; all, if it is called while they are collected or set up, or in none."""

        def calls(test: str) -> bool:
            return any(name == str(path) and first <= line <= last for name, line in self._called[test])

        first, last = change.function or (0, sys.maxsize)
        chosen = [test for test in self._seconds if not change.function or calls("") or calls(test)]
        return sorted(chosen, key=lambda test: (not calls(test), self._seconds[test]))

    def _fork(self, sources: dict[Path, bytes], selected: list[str] | None) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            signal.alarm(self._limit)
            said = os.open(self._scratch / "said" if selected is None else os.devnull, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(said, 1)
            os.dup2(said, 2)
            names = {".".join(path.relative_to(self._top).with_suffix("").parts): path for path in sources}
            sys.meta_path.insert(0, Finder({name: (path, sources[path]) for name, path in names.items()}))
            code = self._test(selected)
        except BaseException:  # noqa: BLE001 - the process ends here
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _test(self, selected: list[str] | None) -> int:
        """Run tests in a forked process; its exit code. Examples that are made up are the same ones each time."""
        from hypothesis import Phase, settings

        settings.register_profile(
            "mutants", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
        )
        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "--hypothesis-profile=mutants"]
        arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # Hypothesis is imported already
        plugin = Recorder({str(path) for path in self.modules}) if selected is None else Selected(selected)
        code = pytest.main([*arguments, f"--basetemp={self._scratch / str(os.getpid())}", *self._tests], plugins=[plugin])
        if isinstance(plugin, Recorder):
            sys.setprofile(None)
            seen = {"seconds": plugin.seconds, "called": {test: sorted(called) for test, called in plugin.called.items()}}
            (self._scratch / "seen").write_text(json.dumps(seen))
        return int(code)


def preload(package: str) -> None:
    """Import the large libraries once, each without threads of its own, and nothing that is to be changed."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    sys.modules["pyspark"] = None  # type: ignore[assignment] # great-expectations imports it where it finds it
    for name in HEAVY.split():
        importlib.import_module(name)
    del sys.modules["pyspark"]
    if package in sys.modules:
        raise Unfit(f"{package} is imported already: mutants would not be seen.")
    gc.collect()
    gc.freeze()


def chosen(modules: dict[Path, bytes], only: list[str], sample: int | None) -> list[tuple[Path, Change]]:
    """The mutants of these modules; of those that may survive only a sample, the same one each time."""
    unknown = set(only) - {path.stem for path in modules}
    if unknown:
        raise Unfit(f"There is no module {', '.join(sorted(unknown))}.")
    found = [(path, one) for path, source in modules.items() if not only or path.stem in only for one in changes(source)]
    others = [place for place, (_, one) in enumerate(found) if one.kind not in MUST_DIE]
    if sample is None or sample >= len(others):
        return found
    kept = set(random.Random(1).sample(others, sample))  # noqa: S311 - not for secrets
    return [one for place, one in enumerate(found) if place in kept or one[1].kind in MUST_DIE]


def table(verdicts: list[Verdict], path_or_kind: str) -> str:
    """Mutants, killed, survived and score, by path or by kind."""

    def name_of(one: Verdict) -> str:
        return one.path if path_or_kind == "path" else one.change.kind

    total, survived = Counter(map(name_of, verdicts)), Counter(name_of(one) for one in verdicts if one.survived)
    lines = [f"{path_or_kind:<40} mutants  killed  survived  score"]
    for name, count in sorted(total.items()):
        killed = count - survived[name]
        lines.append(f"{name:<40} {count:>7} {killed:>7} {survived[name]:>9} {killed / count:>6.0%}")
    return "\n".join(lines)


def report(verdicts: list[Verdict], seconds: float) -> str:
    """Tables, survivors, and the score in one line."""
    lines = [table(verdicts, "path"), "", table(verdicts, "kind"), ""]
    survivors = sorted((one for one in verdicts if one.survived), key=lambda one: (one.path, one.change.line))
    lines += [f"{one.path}:{one.change.line}: {one.change}" for one in survivors]
    removed, late = sum(one.change.kind in MUST_DIE for one in survivors), sum(one.outcome == "timed out" for one in verdicts)
    killed = len(verdicts) - len(survivors)
    lines.append(
        f"{killed} of {len(verdicts)} mutants are killed ({killed / max(len(verdicts), 1):.1%}; {late} by the time limit); "
        f"{removed} removed gates or findings survive; {seconds:.0f} s"
    )
    return "\n".join(lines)


def main() -> None:
    """Change, test, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", type=Path, default=PROJECT / "batch_assets" / "quality", help="the folder that is changed")
    parser.add_argument("--module", action="append", default=[], help="only this one of its modules; may be repeated")
    parser.add_argument("--tests", action="append", default=[], help="more tests than those of the room; may be repeated")
    parser.add_argument("--sample", type=int, help="of mutants that may survive, only so many")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    began, verdicts = time.monotonic(), list[Verdict]()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            harness = Harness(options.room.resolve(), [str(Path(one).resolve()) for one in options.tests], Path(scratch))
            mutants = chosen(harness.modules, options.module, options.sample)
            preload(harness.package)
            print(harness.rehearse(), f"{len(mutants)} mutants.", file=sys.stderr, flush=True)
        except Unfit as why:
            sys.exit(str(why))
        for verdict in harness.judge(mutants, options.processes):
            verdicts.append(verdict)
            if verdict.survived:
                place = f"{len(verdicts)} of {len(mutants)}: {Path(verdict.path).name}:{verdict.change.line}"
                print(f"{place} {verdict.change} survives", file=sys.stderr, flush=True)
    print(json.dumps([asdict(one) for one in verdicts]) if options.json else report(verdicts, time.monotonic() - began))
    sys.exit(any(one.survived and one.change.kind in MUST_DIE for one in verdicts))


if __name__ == "__main__":
    main()
