"""`update`: whoever would move a log decides on what is in force, and decides again if somebody else came first."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from batch_assets.errors import UnreadableEntry
from batch_assets.features.snapshot import CurrentSnapshot
from batch_assets.logs import Change, LogEntry, NumberedLog
from batch_assets.models.approvals import Approved
from batch_assets.models.registry import Retirement
from batch_assets.nightly.accepted import Acceptance, Accepted, TakenBack
from batch_assets.scoring.batch_size import BatchSize
from batch_assets.serving.live import InStore, Live
from batch_assets.storage import LocalStorage
from batch_assets_tests.forgery import Anything, numbered, witnesses


class Names(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]


Entry = LogEntry[Names]


@pytest.fixture
def log(tmp_path: Path) -> NumberedLog[Names]:
    return NumberedLog(LocalStorage(str(tmp_path)), "log", Names)


def added(latest: Entry | None, name: str) -> Entry | Change[Names]:
    """What adds a name, unless it is there."""
    names = latest.body.names if latest else ()
    return latest if latest is not None and name in names else Change(Names(names=(*names, name)), f"{name} was added")


class Writer:
    """Adds a name; each time it has decided, some of those that follow it come first."""

    def __init__(self, log: NumberedLog[Names], name: str, others: list[list["Writer"]]) -> None:
        self.log, self.name, self.others, self.asked_with = log, name, others, list[Entry | None]()

    def write(self) -> None:
        found = self.log.update(self._decide)
        newest = self.log.latest()
        assert newest is not None
        assert found == newest, "nobody wrote after the last time it was asked"
        assert self.name in found.body.names
        last = self.asked_with[-1]
        assert found == last or found.number == (last.number if last else 0) + 1, "it has decided on the newest entry"

    def _decide(self, latest: Entry | None) -> Entry | Change[Names]:
        assert latest == self.log.latest()
        self.asked_with.append(latest)
        decided = added(latest, self.name)
        if isinstance(decided, Change) and self.others:
            for other in self.others.pop(0):
                other.write()
        return decided


Schedule = st.recursive(
    st.tuples(st.sampled_from("abcde"), st.just([])),
    lambda inner: st.tuples(st.sampled_from("abcde"), st.lists(st.lists(inner, max_size=2), max_size=2)),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(schedule=Schedule)
def test_however_writers_interleave_each_change_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, schedule: tuple[str, list]
) -> None:
    log = NumberedLog(LocalStorage(str(tmp_path_factory.mktemp("log"))), "log", Names)
    wrote: set[str] = set()

    def writer(one: tuple[str, list]) -> Writer:
        wrote.add(one[0])
        return Writer(log, one[0], [[writer(other) for other in others] for others in one[1]])

    first = writer(schedule)
    first.write()
    latest = log.latest()
    assert latest is not None
    assert len(latest.body.names) == len(set(latest.body.names)), "a change was made twice"
    ran = {entry.why.partition(" ")[0] for entry in log.history()}
    assert set(latest.body.names) == ran <= wrote
    assert log.numbers() == list(range(1, len(latest.body.names) + 1)), "an entry says nothing new"


def test_whoever_decides_again_is_told_what_the_other_one_wrote(log: NumberedLog[Names]) -> None:
    other = Writer(log, "other", [])
    writer = Writer(log, "name", [[other]])
    writer.write()
    assert [entry.body.names if entry else None for entry in writer.asked_with] == [None, ("other",)]
    assert [entry.body.names for entry in log.history()] == [("other", "name"), ("other",)]


def test_what_stands_is_given_back_and_nothing_is_written(log: NumberedLog[Names]) -> None:
    assert log.update(lambda latest: latest) is None
    first = log.append(Names(names=("a",)), after=0, why="")
    assert log.update(lambda latest: latest) == first
    assert log.numbers() == [1]


@pytest.mark.parametrize("entries", [0, 1])
def test_a_decision_that_raises_leaves_nothing(log: NumberedLog[Names], entries: int) -> None:
    for number in range(entries):
        log.append(Names(names=()), after=number, why="")
    there = sorted(Path(log.storage.location).rglob("*"))

    def decide(latest: Entry | None) -> Change[Names]:
        raise RuntimeError("no decision")

    with pytest.raises(RuntimeError, match="no decision"):
        log.update(decide)
    assert sorted(Path(log.storage.location).rglob("*")) == there


def test_it_raises_in_the_second_attempt_too(log: NumberedLog[Names]) -> None:
    def decide(latest: Entry | None) -> Change[Names]:
        if latest is not None:
            raise RuntimeError("too late")
        log.append(Names(names=("other",)), after=0, why="")
        return Change(Names(names=("mine",)), "")

    with pytest.raises(RuntimeError, match="too late"):
        log.update(decide)
    assert [entry.body.names for entry in log.history()] == [("other",)]


def test_a_change_names_what_it_was_made_from(log: NumberedLog[Names]) -> None:
    of = NumberedLog(log.storage, "of", Anything)
    of.append(Anything({"n": 1}), after=0, why="")
    entry = log.update(lambda latest: Change(Names(names=()), "because", [of]))
    assert (entry.why, entry.seen) == ("because", {"of": 1})
    assert [one.folder for one in log.made_from(entry)] == ["of"]
    again = log.update(lambda latest: Change(Names(names=("a",)), "again", log.made_from(entry)))
    assert again.seen == {"of": 1}


def test_what_is_on_the_disk(log: NumberedLog[Names]) -> None:
    """Readable, in this order, and its sha256 is over everything else with sorted keys."""
    log.append(Names(names=("ä", "b")), after=0, why="because")
    written = log.storage.read(numbered(log, 1))
    document = json.loads(written)
    assert list(document) == ["number", "who", "when", "why", "body", "before", "seen", "sha256"]
    assert document["body"] == {"names": ["ä", "b"]}
    assert json.dumps(document, indent=1).encode() == written
    hashed = json.dumps({**document, "sha256": None}, sort_keys=True)
    assert document["sha256"] == hashlib.sha256(hashed.encode()).hexdigest()
    assert witnesses(log) == [f"_witness/log/000001-{document['sha256']}"]


class TestABodyOfAnotherShape:
    @pytest.fixture
    def log(self, log: NumberedLog[Names]) -> NumberedLog[Names]:
        NumberedLog(log.storage, "log", Anything).append(Anything({"name": "a"}), after=0, why="first")
        return log

    def test_it_is_named_with_what_to_do(self, log: NumberedLog[Names]) -> None:
        entry = log.latest()
        assert entry is not None
        assert (entry.number, entry.why) == (1, "first")
        with pytest.raises(UnreadableEntry) as unreadable:
            print(entry.body)
        assert str(unreadable.value) == (
            f"log/000001.json under {log.storage.location} cannot be read as Names (names: Field required): use the release of "
            "batch-assets that wrote it, or restore it from a copy."
        )

    def test_one_that_is_readable_may_follow_it(self, log: NumberedLog[Names]) -> None:
        body = Names(names=("b",))
        assert log.update(lambda latest: latest if latest and latest.says(body) else Change(body, "")).body == body
        assert log.update(lambda latest: latest if latest and latest.says(body) else Change(body, "")).number == 2


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (CurrentSnapshot(digest="d", tokens={"part": "t"}), '{"digest": "d", "tokens": {"part": "t"}}'),
        (BatchSize(batch_rows=64), '{"batch_rows": 64}'),
        (
            Acceptance(Accepted(run_id="r", folder="f", approval=2, is_yardstick=True)),
            '{"run_id": "r", "folder": "f", "approval": 2, "is_yardstick": true}',
        ),
        (
            Acceptance(TakenBack(withdrawn="r", approval=2)),
            '{"run_id": null, "withdrawn": "r", "approval": 2, "by_person": false}',
        ),
        (
            Live(release="r", partition="2024-03-10", approval=2, stores=(InStore(store="arrow", description="d"),)),
            '{"release": "r", "partition": "2024-03-10", "approval": 2, "stores": [{"store": "arrow", "description": "d"}], '
            '"withdrawn": null}',
        ),
        (
            Approved(version="v1", digest="d", by="Ann", withdraws=(2, 3), plan={"pipelines": []}),
            '{"version": "v1", "digest": "d", "by": "Ann", "withdraws": [2, 3], "plan": {"pipelines": []}}',
        ),
        (Retirement(by="Ann", deleted=False), '{"by": "Ann", "deleted": false}'),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_each_log_says_on_the_disk(log: NumberedLog[Names], body: BaseModel, written: str) -> None:
    of = NumberedLog(log.storage, "of", type(body))
    entry = of.append(body, after=0, why="")
    assert json.dumps(entry.written) == written
    assert entry.body == body
    assert entry.says(body)
