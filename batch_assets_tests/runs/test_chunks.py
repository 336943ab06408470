from hypothesis import given
from hypothesis import strategies as st

from batch_assets.digest import Digest
from batch_assets.features.snapshot import ROWS_PER_FILE, ROWS_PER_GROUP, RowGroup, Snapshot, SnapshotFile
from batch_assets.runs.chunks import count_chunks, plan_chunks


def snapshot(files: list[list[int]]) -> Snapshot:
    return Snapshot(
        digest="d",
        key=("k",),
        schema_text="",
        files=tuple(
            SnapshotFile(
                name=f"part-{index}",
                size=0,
                sha256="",
                token="",
                row_groups=tuple(RowGroup(rows=rows, keys=Digest()) for rows in groups),
            )
            for index, groups in enumerate(files)
        ),
    )


@given(st.lists(st.lists(st.integers(1, 500), max_size=8), max_size=4), st.integers(1, 600))
def test_chunks_tile_every_file(files: list[list[int]], chunk_rows: int) -> None:
    chunks = plan_chunks(snapshot(files), chunk_rows)
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    for index, groups in enumerate(files):
        position = 0
        for chunk in (chunk for chunk in chunks if chunk.file == index):
            assert chunk.start == position
            assert 1 <= chunk.rows <= chunk_rows
            position += chunk.rows
        assert position == sum(groups)


def test_a_chunk_is_a_row_group_where_they_have_the_same_size() -> None:
    assert [chunk.rows for chunk in plan_chunks(snapshot([[100, 100, 30]]), 100)] == [100, 100, 30]


def test_small_row_groups_are_joined_and_huge_ones_cut() -> None:
    assert [chunk.rows for chunk in plan_chunks(snapshot([[30, 30, 30, 30]]), 100)] == [90, 30]
    assert [chunk.rows for chunk in plan_chunks(snapshot([[250]]), 100)] == [100, 100, 50]


def test_the_customers_are_24_chunks() -> None:
    groups = [1_024] * 23 + [23_570 - 23 * 1_024]
    assert len(plan_chunks(snapshot([groups]), 1_024)) == 24


@given(st.integers(0, 3 * ROWS_PER_FILE), st.integers(5_000, 2 * ROWS_PER_FILE))
def test_they_are_counted_before_anything_is_frozen(rows: int, chunk_rows: int) -> None:
    """A snapshot that is frozen for these chunks: row groups up to a file's rows, and then the next file."""
    files, group, left = list[list[int]](), min(chunk_rows, ROWS_PER_GROUP), rows
    while left:
        if not files or sum(files[-1]) >= ROWS_PER_FILE:
            files.append([])
        files[-1].append(min(group, left))
        left -= files[-1][-1]
    assert count_chunks(rows, chunk_rows) == len(plan_chunks(snapshot(files), chunk_rows))
