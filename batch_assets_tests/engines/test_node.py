"""What is asked of a node before it scores."""

import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.engines.handout import Handout
from batch_assets.engines.node import Node
from batch_assets.engines.ray_worker import name_of
from batch_assets.errors import EngineError
from batch_assets.runs.chunks import Chunk
from batch_assets.storage import S3Storage
from batch_assets_tests.small import Small, Working

pytestmark = pytest.mark.night

Make = Callable[..., Small]


@pytest.fixture
def working(small: Small) -> Working:
    return Working(small)


def test_a_node_that_has_what_the_driver_has_may_score(working: Working) -> None:
    here = Node.here(working.task)
    here.require_same(Node.here(working.task), working.task.storage)
    assert dict(here.packages).keys() == {"Python", "batch-assets", "numpy", "pyarrow", "torch"}


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"root": ""}, "and the node does not see it; set BATCH_ASSETS_ROOT to a bucket"),
        ({"root": "", "unseen": "it is locked"}, r"and the node does not see it \(it is locked\); set BATCH_ASSETS_ROOT"),
        ({"root": "another"}, "and the node sees another one there; set BATCH_ASSETS_ROOT"),
        (
            {"code": (("batch_assets", "older"),)},
            "has another state of the code of batch_assets: install there what this machine has",
        ),
    ],
)
def test_what_differs_is_a_sentence_that_names_the_node(working: Working, other: dict[str, str], sentence: str) -> None:
    here = Node.here(working.task)
    with pytest.raises(EngineError, match=f"^Node far cannot score.*{sentence}"):
        here.require_same(replace(here, host="far", **other), working.task.storage)


def test_packages_that_differ_are_named_and_builds_of_one_version_do_not_differ(working: Working) -> None:
    here = Node.here(working.task)
    theirs = tuple((name, {"numpy": "1.0", "torch": ""}.get(name, version)) for name, version in here.packages)
    numpy, torch = (dict(here.packages)[name] for name in ("numpy", "torch"))
    sentence = f"^Node far cannot score, as it has numpy 1.0 instead of {numpy}, torch missing instead of {torch}: install"
    with pytest.raises(EngineError, match=sentence):
        here.require_same(replace(here, host="far", packages=theirs), working.task.storage)
    assert "+" not in torch


@pytest.mark.parametrize(("off", "how"), [(-500.0, "behind"), (500.0, "ahead of")])
def test_a_clock_that_is_minutes_off_is_a_sentence(working: Working, off: float, how: str) -> None:
    here = Node.here(working.task)
    here.require_time(time.time())
    with pytest.raises(EngineError, match=rf"^The clock of node {here.host} is at least \d+ s {how} this machine's: set both"):
        replace(here, clock=here.clock + off).require_time(time.time())


def test_why_a_root_cannot_be_seen_is_kept(working: Working, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://10.213.250.1:9")
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    blind = Node.here(replace(working.task, storage=S3Storage("s3://nobody")))
    assert (blind.root, blind.unseen.startswith("_format.json under s3://nobody cannot be reached")) == ("", True)


FILES = st.lists(st.integers(0, 4), max_size=30)


@given(FILES, st.lists(st.integers(0, 2), min_size=60, max_size=60))
def test_every_item_is_handed_out_once_and_a_worker_stays_with_its_file(files: list[int], workers: list[int]) -> None:
    chunks = [Chunk(number, file, 0, 1) for number, file in enumerate(files)]
    waiting, last, given_out = Handout(chunks), dict[int, int | None](), list[Chunk]()
    for worker in workers[: len(chunks)]:
        left = {chunk.file for chunk in chunks if chunk not in given_out}
        untouched = left - {chunk.file for chunk in given_out}
        chunk = waiting.take(last.get(worker))
        if last.get(worker) in left:
            assert chunk.file == last[worker]
        elif untouched:
            assert chunk.file in untouched
        last[worker] = chunk.file
        given_out.append(chunk)
    assert len(waiting) == 0
    assert sorted(chunk.number for chunk in given_out) == list(range(len(files)))
    with pytest.raises(IndexError):
        waiting.take(None)


@pytest.mark.parametrize("module", ["their_heads", "their_namespace.heads"])
def test_code_of_somebody_elses_adapter_counts_like_ours(
    working: Working, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """A worker that has loaded it would go on with what it has loaded, and a node with another state of it score otherwise."""
    source = tmp_path / f"{module.replace('.', '/')}.py"
    source.parent.mkdir(exist_ok=True)
    source.write_text("from batch_assets.scoring.heads.classifier import Binary\nclass Theirs(Binary):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    theirs = importlib.import_module(module).Theirs
    task = replace(working.task, head=theirs.model_validate(working.task.head.model_dump()))
    before, name = Node.here(task), name_of(task)
    assert [package for package, _ in before.code] == ["batch_assets", module]
    assert (before.code[0], name_of(task)) == (Node.here(working.task).code[0], name)
    source.write_text(source.read_text() + "# corrected\n")
    assert name_of(task) != name
    with pytest.raises(EngineError, match=f"as it has another state of the code of {module}: install"):
        before.require_same(replace(Node.here(task), host="far"), task.storage)
