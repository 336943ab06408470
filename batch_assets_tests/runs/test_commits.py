"""What the commits of a run add up to, in whatever order they come, and what is kept of each."""

import functools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.digest import Digest
from batch_assets.errors import CommitBroken
from batch_assets.histogram import Histogram
from batch_assets.records import RecordType
from batch_assets.runs.commit import ChunkCommit, read_commits, read_committed
from batch_assets.runs.commits import Commits
from batch_assets_tests.many_chunks import many_chunks, score_some
from batch_assets_tests.small import Small, small_model

CHUNKS = 9


@functools.cache
def scored() -> tuple[tuple[ChunkCommit, ...], RecordType]:
    """The commits of a day of nine chunks, three of them with a row that was not scored."""
    with tempfile.TemporaryDirectory() as folder:
        small = many_chunks(Path(folder), small_model(), CHUNKS)
        night = small.opened()
        score_some(night, CHUNKS)
        commits = read_commits(small.storage, night.folder, night.plan, night.run_id)
        return tuple(commits), night.model.card.head.record


@given(st.permutations(range(CHUNKS)), st.lists(st.integers(0, CHUNKS - 1)))
def test_they_are_added_once_each_in_any_order(order: list[int], again: list[int]) -> None:
    footers, record = scored()
    edges = footers[0].histogram.edges
    commits = Commits(edges, record)
    for number in [*order, *again]:
        commits.add(footers[number])
    assert set(commits) == set(range(CHUNKS))
    assert (commits.rows, commits.scored, commits.excluded, commits.dead_lettered) == (CHUNKS * 64, CHUNKS * 64 - 3, 3, 0)
    assert commits.digest == sum((one.values for one in footers), Digest())
    assert commits.histogram == sum((one.histogram for one in footers), Histogram.empty(edges))
    assert commits.labels == tuple(map(sum, zip(*(one.labels for one in footers), strict=True)))
    assert commits.seconds["read"] == pytest.approx(sum(one.seconds["read"] for one in footers))
    assert all(commits[one.number].rejects == one.rejects and commits[one.number].keys == one.keys for one in footers)
    assert len({id(one.environment) for one in commits.values()}) == 1


def test_columns_come_as_they_are_asked_for_and_one_that_is_missing_breaks_the_commit(small: Small) -> None:
    small.night()
    night = small.opened()
    path = f"{night.folder}/chunk-00000.parquet"
    asked = ["probability", "user"]
    assert read_committed(small.storage, path, asked).column_names == asked
    with pytest.raises(CommitBroken, match=r"chunk-00000.parquet cannot be read .*nothing.*: remove it and run again"):
        read_committed(small.storage, path, ["user", "nothing"])
