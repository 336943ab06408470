"""One SELECT in a file: what it may be, and how a driver's own words get into it."""

from pathlib import Path

import pytest

from batch_assets.errors import SourceError
from batch_assets.sources.warehouse.statement import Statement, read_statement


def read(folder: Path, text: str) -> Statement:
    (folder / "q.sql").write_text(text)
    return read_statement(str(folder / "q.sql"))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("SELECT $partition", "SELECT ?\n"),
        ("select $partition, $partition ;\n-- the end", "select ?, ? \n-- the end\n"),
        ("(SELECT $partition) UNION (SELECT 1)", "(SELECT ?) UNION (SELECT 1)\n"),
        ("WITH a AS (SELECT 1) SELECT $partition::date FROM a", "WITH a AS (SELECT 1) SELECT ?::date FROM a\n"),
        ("/* what; $partition */ SELECT '$partition; ''', $partition", "/* what; $partition */ SELECT '$partition; ''', ?\n"),
        ('SELECT "$partition;", `$other`, $partition', 'SELECT "$partition;", `$other`, ?\n'),
        ("SELECT $$a; $other$$, $t$ $$ $x $t$, $partition", "SELECT $$a; $other$$, $t$ $$ $x $t$, ?\n"),
        (r"SELECT E'it\'s; $1', 'C:\', $partition", r"SELECT E'it\'s; $1', 'C:\', ?" + "\n"),
        ("SELECT sys$name, $partition", "SELECT sys$name, ?\n"),
        ("SELECT $partition -- $other; DELETE", "SELECT ? -- $other; DELETE\n"),
    ],
)
def test_a_driver_says_the_day_in_its_own_words(tmp_path: Path, text: str, written: str) -> None:
    assert read(tmp_path, text).written("?") == written


def test_every_place_of_the_day_is_counted(tmp_path: Path) -> None:
    assert read(tmp_path, "SELECT $partition, '$partition' -- $partition\n, $partition").days == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"q\.sql begins with nothing: it must be one SELECT statement\.$"),
        ("-- SELECT $partition", r"q\.sql begins with nothing"),
        ("COMMIT", r"q\.sql begins with COMMIT: it must be one SELECT statement\.$"),
        ("COPY (SELECT $partition) TO '/tmp/x'", r"begins with COPY"),
        ("insert into t values ($partition)", r"begins with INSERT"),
        ("SELECT $partition; DROP TABLE t", r"q\.sql goes on after a semicolon: it must be one SELECT statement\.$"),
        ("SELECT $partition;;", r"goes on after a semicolon"),
        ("SELECT 1", r"q\.sql never uses \$partition: every day would have the same rows\.$"),
        ("SELECT '$partition', \"$partition\" -- $partition", r"never uses \$partition"),
        ("SELECT $partition, $limit, $1", r"q\.sql asks for \$1, \$limit: \$partition is all that it is told\.$"),
    ],
)
def test_what_is_not_one_select_of_a_day_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        read(tmp_path, text)


def test_a_file_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"The query .*nothing\.sql cannot be read: "):
        read_statement(str(tmp_path / "nothing.sql"))
    (tmp_path / "q.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(SourceError, match=r"The query .*q\.sql cannot be read: "):
        read_statement(str(tmp_path / "q.sql"))
