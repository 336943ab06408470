import os
from pathlib import Path

import pytest

from batch_assets.errors import SourceError
from batch_assets.sources.listing import list_files, require_unchanged


@pytest.fixture
def spark(tmp_path: Path) -> Path:
    """A folder as Spark, Delta and Hive leave it."""
    for name in (
        "visits.parquet/part-00000-1f.c000.snappy.parquet",
        "visits.parquet/part-00001-1f.c000.snappy.parquet",
        "visits.parquet/.part-00000-1f.c000.snappy.parquet.crc",
        "visits.parquet/part-00000.crc",
        "visits.parquet/_SUCCESS",
        "visits.parquet/_temporary/0/part-00002.parquet",
        "visits.parquet/_delta_log/0001.checkpoint.parquet",
        "visits.parquet/.hive-staging/part-00003.parquet",
        "visits.parquet/_half.parquet",
        "visits.parquet/.half.parquet",
        "visits.parquet/part-00004.parquet._COPYING_",
        "visits.parquet/day=2024-01-01/000000_0",
        "visits.parquet/_day=1/part-00005.parquet",
        "visits.parquet/README.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"PAR1" + name.encode() if name.endswith(("parquet", "_0")) else b"")
    return tmp_path


def listed(folder: Path, path: str) -> list[str]:
    found = list_files("visits", str(folder / path) if path else str(folder))
    return [Path(file.path).relative_to(folder / "visits.parquet").as_posix() for file in found]


DATA = [
    "_day=1/part-00005.parquet",
    "day=2024-01-01/000000_0",
    "part-00000-1f.c000.snappy.parquet",
    "part-00001-1f.c000.snappy.parquet",
]


@pytest.mark.parametrize(
    "path", ["visits.parquet", "visits.parquet/", "", "*.parquet", "visits.parquet/**", "**", "**/vis*.parquet"]
)
def test_a_folder_is_its_parquet_files_and_nothing_that_is_no_data(spark: Path, path: str) -> None:
    assert listed(spark, path) == DATA


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("visits.parquet/*.parquet", DATA[2:]),
        ("visits.parquet/**/*.parquet", [DATA[0], *DATA[2:]]),
        ("visits.parquet/part-0000[1-9]*", DATA[3:]),
        ("visits.parquet/part-0000?-*", DATA[2:]),
        ("visits.parquet/day=*/*", DATA[1:2]),
        ("visits.parquet/_temporary/**", ["_temporary/0/part-00002.parquet"]),
        ("visits.parquet/_temporary", ["_temporary/0/part-00002.parquet"]),
        ("visits.parquet/_temp*/*/*.parquet", ["_temporary/0/part-00002.parquet"]),
        ("visits.parquet/**/_delta_log/*.parquet", ["_delta_log/0001.checkpoint.parquet"]),
        ("visits.parquet/_h*.parquet", ["_half.parquet"]),
        ("visits.parquet/.half.parquet", [".half.parquet"]),
        ("visits.parquet/*.crc", [".part-00000-1f.c000.snappy.parquet.crc", "part-00000.crc"]),
    ],
)
def test_a_glob_gets_what_its_own_text_names(spark: Path, path: str, found: list[str]) -> None:
    assert listed(spark, path) == found


def test_a_name_with_signs_of_a_pattern_is_a_name_if_it_is_there(tmp_path: Path) -> None:
    for name in ("a[1].parquet", "a1.parquet", "?*.parquet"):
        (tmp_path / name).touch()
    assert [file.path for file in list_files("t", str(tmp_path / "a[1].parquet"))] == [str(tmp_path / "a[1].parquet")]
    assert [file.path for file in list_files("t", str(tmp_path / "?*.parquet"))] == [str(tmp_path / "?*.parquet")]
    assert len(list_files("t", str(tmp_path / "?[1[]*.parquet"))) == 2


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.parquet").touch()
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "part").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "table")
    assert [file.path for file in list_files("t", str(tmp_path / "table"))] == [str(tmp_path / "table" / "part" / "a.parquet")]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_one_file_is_not_read_twice(tmp_path: Path, link: "type[os.link]") -> None:
    (tmp_path / "a.parquet").touch()
    link(tmp_path / "a.parquet", tmp_path / "latest.parquet")
    with pytest.raises(SourceError, match=r"table t would have .* twice: .*a\.parquet and .*latest\.parquet"):
        list_files("t", str(tmp_path))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nothing.parquet", r"table t: .*nothing\.parquet does not exist"),
        ("*.csv", r"table t: .*\*\.csv matches no file"),
        ("empty", r"table t: .*empty is a folder without a Parquet file"),
        ("lost.parquet", r"table t: .*lost\.parquet is a link to a file that does not exist"),
        ("pipe.parquet", r"table t: .*pipe\.parquet is no regular file"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, path: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "lost.parquet").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(SourceError, match=sentence):
        list_files("t", str(tmp_path / path))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.parquet")).touch()
    with pytest.raises(SourceError, match=r"table t: .*caf\\udce9\.parquet' is no UTF-8; rename"):
        list_files("t", str(tmp_path))


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(SourceError, match="table t needs an absolute path"):
        list_files("t", "visits.parquet")


class TestChanges:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("a.parquet", "b.parquet"):
            (tmp_path / name).write_bytes(b"PAR1 1234")
        return tmp_path

    def test_nothing_happened(self, folder: Path) -> None:
        require_unchanged("t", str(folder), list_files("t", str(folder)))

    def test_a_file_that_was_replaced_is_named(self, folder: Path) -> None:
        files = list_files("t", str(folder))
        (folder / "new").write_bytes(b"PAR1 4321")
        os.utime(folder / "new", ns=(int(files[0].stamp.split("-")[0]),) * 2)
        os.replace(folder / "new", folder / "a.parquet")
        with pytest.raises(SourceError, match=r"table t: .*a\.parquet was changed while it was read"):
            require_unchanged("t", str(folder), files)

    def test_a_file_that_was_written_into_is_named(self, folder: Path) -> None:
        files = list_files("t", str(folder))
        (folder / "b.parquet").write_bytes(b"PAR1 12345")
        with pytest.raises(SourceError, match=r"b\.parquet was changed while it was read"):
            require_unchanged("t", str(folder), files)

    @pytest.mark.parametrize("path", ["", "*.parquet", "**/*.parquet"])
    def test_a_file_that_appeared_is_named(self, folder: Path, path: str) -> None:
        files = list_files("t", str(folder / path))
        (folder / "c.parquet").touch()
        with pytest.raises(SourceError, match=r"c\.parquet appeared while it was read"):
            require_unchanged("t", str(folder / path), files)

    def test_a_file_that_vanished_is_named(self, folder: Path) -> None:
        files = list_files("t", str(folder))
        (folder / "b.parquet").unlink()
        with pytest.raises(SourceError, match=r"b\.parquet vanished while it was read"):
            require_unchanged("t", str(folder), files)

    def test_a_folder_that_is_gone_is_named(self, folder: Path) -> None:
        files = list_files("t", str(folder / "a.parquet"))
        (folder / "a.parquet").unlink()
        with pytest.raises(SourceError, match=r"table t was changed while it was read.*a\.parquet does not exist"):
            require_unchanged("t", str(folder / "a.parquet"), files)

    def test_what_is_no_data_may_come_and_go(self, folder: Path) -> None:
        files = list_files("t", str(folder))
        (folder / "_SUCCESS").touch()
        require_unchanged("t", str(folder), files)
